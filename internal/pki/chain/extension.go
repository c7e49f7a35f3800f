package chain

import (
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidKeyUsage       = asn1.ObjectIdentifier{2, 5, 29, 15}
)

// The last arcs below id-ce (2.5.29) of the extensions that the rules read.
const (
	extSubjectKeyID      = 14
	extKeyUsage          = 15
	extSubjectAltName    = 17
	extBasicConstraints  = 19
	extNameConstraints   = 30
	extCRLDistribution   = 31
	extPolicies          = 32
	extPolicyMappings    = 33
	extAuthorityKeyID    = 35
	extPolicyConstraints = 36
	extExtKeyUsage       = 37
	extInhibitAnyPolicy  = 54
)

// readExtension notes what the rules need of an extension, beyond what
// crypto/x509 has parsed, and says why it cannot be relied on, or nothing.
// crypto/x509 tolerates leftovers, and takes an empty extKeyUsage or a keyUsage
// without bits for an absent one, which would turn a restriction into none.
func (n *node) readExtension(id asn1.ObjectIdentifier, value []byte, critical bool) string {
	in := cryptobyte.String(value)
	if len(id) != 4 || id[0] != 2 || id[1] != 5 || id[2] != 29 {
		return n.unknownExtension(id, critical)
	}
	switch id[3] {
	case extBasicConstraints:
		return readBasicConstraints(in)
	case extKeyUsage:
		n.keyUsagePresent = true
		return oneElement(in, cbasn1.BIT_STRING, "keyUsage")
	case extExtKeyUsage:
		n.extKeyUsagePresent = true
		return fullSequence(in, "extKeyUsage")
	case extSubjectAltName:
		var ok bool
		if n.sans, ok = readGeneralNames(in, cbasn1.SEQUENCE); !ok {
			return "subjectAltName cannot be read"
		}
		return ""
	case extNameConstraints:
		var why string
		n.constraints, why = readNameConstraints(in, critical)
		return why
	case extPolicyConstraints:
		return readPolicyConstraints(in)
	case extInhibitAnyPolicy:
		var skip int
		if !in.ReadASN1Integer(&skip) || !in.Empty() || skip < 0 {
			return "inhibitAnyPolicy cannot be read"
		}
		return ""
	case extPolicies:
		return fullSequence(in, "certificatePolicies")
	case extPolicyMappings:
		return fullSequence(in, "policyMappings")
	case extCRLDistribution:
		return fullSequence(in, "cRLDistributionPoints")
	case extAuthorityKeyID:
		return oneElement(in, cbasn1.SEQUENCE, "authorityKeyIdentifier")
	case extSubjectKeyID:
		return oneElement(in, cbasn1.OCTET_STRING, "subjectKeyIdentifier")
	}
	return n.unknownExtension(id, critical)
}

func (n *node) unknownExtension(id asn1.ObjectIdentifier, critical bool) string {
	if critical {
		n.critical = append(n.critical, id)
	}
	return ""
}

func oneElement(in cryptobyte.String, tag cbasn1.Tag, name string) string {
	if !in.SkipASN1(tag) || !in.Empty() {
		return name + " cannot be read"
	}
	return ""
}

// fullSequence accepts one SEQUENCE with something in it, as SIZE (1..MAX) says.
func fullSequence(in cryptobyte.String, name string) string {
	var list cryptobyte.String
	if !in.ReadASN1(&list, cbasn1.SEQUENCE) || !in.Empty() {
		return name + " cannot be read"
	}
	if list.Empty() {
		return name + " is empty"
	}
	return ""
}

func readBasicConstraints(in cryptobyte.String) string {
	var list cryptobyte.String
	ca, limit := false, 0
	if !in.ReadASN1(&list, cbasn1.SEQUENCE) || !in.Empty() ||
		list.PeekASN1Tag(cbasn1.BOOLEAN) && !list.ReadASN1Boolean(&ca) ||
		list.PeekASN1Tag(cbasn1.INTEGER) && (!list.ReadASN1Integer(&limit) || limit < 0) ||
		!list.Empty() {
		return "basicConstraints cannot be read"
	}
	return ""
}

func readPolicyConstraints(in cryptobyte.String) string {
	var list cryptobyte.String
	if !in.ReadASN1(&list, cbasn1.SEQUENCE) || !in.Empty() || list.Empty() {
		return "policyConstraints cannot be read"
	}
	for _, tag := range []cbasn1.Tag{cbasn1.Tag(0).ContextSpecific(), cbasn1.Tag(1).ContextSpecific()} {
		var skip int64
		if list.PeekASN1Tag(tag) && (!list.ReadASN1Int64WithTag(&skip, tag) || skip < 0) {
			return "policyConstraints cannot be read"
		}
	}
	if !list.Empty() {
		return "policyConstraints cannot be read"
	}
	return ""
}

// generalName is one GeneralName: its context tag and the bytes inside.
type generalName struct {
	kind  int
	value []byte
}

// The GeneralName choices of RFC 5280, section 4.2.1.6.
const (
	kindOther = iota
	kindEmail
	kindDNS
	kindX400
	kindDirectory
	kindEDI
	kindURI
	kindIP
	kindRegistered
	kinds
)

// readGeneralNames reads a non-empty GeneralNames under the given outer tag.
func readGeneralNames(in cryptobyte.String, outer cbasn1.Tag) ([]generalName, bool) {
	var list cryptobyte.String
	if !in.ReadASN1(&list, outer) || !in.Empty() || list.Empty() {
		return nil, false
	}
	names := make([]generalName, 0, 2)
	for !list.Empty() {
		n, ok := readGeneralName(&list)
		if !ok {
			return nil, false
		}
		names = append(names, n)
	}
	return names, true
}

func readGeneralName(in *cryptobyte.String) (generalName, bool) {
	var value cryptobyte.String
	var tag cbasn1.Tag
	if !in.ReadAnyASN1(&value, &tag) || tag&0xc0 != 0x80 {
		return generalName{}, false
	}
	kind := int(tag & 0x1f)
	constructed := tag&0x20 != 0
	wantConstructed := kind == kindOther || kind == kindX400 || kind == kindDirectory || kind == kindEDI
	if kind >= kinds || constructed != wantConstructed {
		return generalName{}, false
	}
	return generalName{kind: kind, value: value}, true
}

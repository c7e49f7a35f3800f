package lint

import (
	"crypto/x509"
	"math/bits"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// OIDs of extensions.
const (
	oidDirectoryAttributes = "2.5.29.9"
	oidSubjectKeyID        = "2.5.29.14"
	oidKeyUsage            = "2.5.29.15"
	oidPrivateKeyPeriod    = "2.5.29.16"
	oidSubjectAltName      = "2.5.29.17"
	oidIssuerAltName       = "2.5.29.18"
	oidBasicConstraints    = "2.5.29.19"
	oidNameConstraints     = "2.5.29.30"
	oidCRLPoints           = "2.5.29.31"
	oidPolicies            = "2.5.29.32"
	oidPolicyMappings      = "2.5.29.33"
	oidAuthorityKeyID      = "2.5.29.35"
	oidPolicyConstraints   = "2.5.29.36"
	oidExtendedUsage       = "2.5.29.37"
	oidFreshestCRL         = "2.5.29.46"
	oidInhibitAnyPolicy    = "2.5.29.54"
	oidAuthorityInfo       = "1.3.6.1.5.5.7.1.1"
	oidSubjectInfo         = "1.3.6.1.5.5.7.1.11"
	oidNoCheck             = "1.3.6.1.5.5.7.48.1.5"

	oidAnyPurpose    = "2.5.29.37.0"
	oidServerAuth    = "1.3.6.1.5.5.7.3.1"
	oidClientAuth    = "1.3.6.1.5.5.7.3.2"
	oidOCSPSigning   = "1.3.6.1.5.5.7.3.9"
	oidAnyPolicy     = "2.5.29.32.0"
	oidAccessOCSP    = "1.3.6.1.5.5.7.48.1"
	oidAccessIssuers = "1.3.6.1.5.5.7.48.2"
	oidHardwareName  = "1.3.6.1.5.5.7.8.4"
	oidPermanentID   = "1.3.6.1.5.5.7.8.3"
)

type bitNames struct {
	bits   x509.KeyUsage
	unused byte
	octets []byte
}

type basicConstraints struct {
	ca, explicitFalse bool
	hasPathLen        bool
	pathLen           int
}

type authorityKeyID struct {
	keyID              []byte
	hasKeyID           bool
	hasName, hasSerial bool
}

type generalName struct {
	tag   uint8 // number of the choice
	value []byte
}

type nameConstraints struct {
	permitted, excluded []subtree
}

type subtree struct {
	base    generalName
	bounded bool // has minimum or maximum
}

type accessDescription struct {
	method   string
	location generalName
}

type distributionPoint struct {
	names     []generalName
	hasName   bool
	hasReason bool
	hasIssuer bool
}

// decodeExtensions decodes the extensions that rules look into, and notes those
// that are not what they say they are.
func (c *certificate) decodeExtensions() {
	decoders := map[string]func(*cryptobyte.String) bool{
		oidKeyUsage:         c.readUsage,
		oidExtendedUsage:    func(in *cryptobyte.String) bool { return readOIDs(in, &c.purposes) },
		oidBasicConstraints: c.readBasic,
		oidSubjectAltName:   func(in *cryptobyte.String) bool { return readSequenceOfNames(in, &c.altNames) },
		oidAuthorityKeyID:   c.readAuthorityID,
		oidSubjectKeyID: func(in *cryptobyte.String) bool {
			return in.ReadASN1((*cryptobyte.String)(&c.subjectID), asn1.OCTET_STRING)
		},
		oidNameConstraints: c.readConstraints,
		oidPolicies:        c.readPolicies,
		oidAuthorityInfo:   c.readAccess,
		oidCRLPoints:       c.readPoints,
		oidNoCheck:         func(in *cryptobyte.String) bool { return in.SkipASN1(asn1.NULL) },
	}
	seen := make(map[string]bool)
	for _, e := range c.extensions {
		decode := decoders[e.oid]
		if decode == nil || seen[e.oid] {
			continue
		}
		seen[e.oid] = true
		in := cryptobyte.String(e.value)
		if !decode(&in) || !in.Empty() {
			c.malformed = append(c.malformed, e.oid)
		}
	}
}

func readOID(in *cryptobyte.String, text *string) bool {
	var content cryptobyte.String
	if !in.ReadASN1(&content, asn1.OBJECT_IDENTIFIER) {
		return false
	}
	var o x509.OID
	if o.UnmarshalBinary(content) != nil {
		return false
	}
	*text = o.String()
	return true
}

func (c *certificate) readUsage(in *cryptobyte.String) bool {
	var content cryptobyte.String
	if !in.ReadASN1(&content, asn1.BIT_STRING) || len(content) == 0 || content[0] > 7 {
		return false
	}
	u := &bitNames{unused: content[0], octets: content[1:]}
	for i, b := range u.octets {
		if i < 2 {
			u.bits |= x509.KeyUsage(bits.Reverse8(b)) << (8 * i)
		}
	}
	c.usage = u
	return true
}

func readOIDs(in *cryptobyte.String, list *[]string) bool {
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, asn1.SEQUENCE) {
		return false
	}
	for !seq.Empty() {
		var oid string
		if !readOID(&seq, &oid) {
			return false
		}
		*list = append(*list, oid)
	}
	return true
}

func (c *certificate) readBasic(in *cryptobyte.String) bool {
	var seq, flag cryptobyte.String
	var present bool
	b := &basicConstraints{}
	if !in.ReadASN1(&seq, asn1.SEQUENCE) || !seq.ReadOptionalASN1(&flag, &present, asn1.BOOLEAN) || present && len(flag) != 1 {
		return false
	}
	b.ca, b.explicitFalse = present && flag[0] != 0, present && flag[0] == 0
	if !seq.Empty() {
		if !seq.ReadASN1Integer(&b.pathLen) || !seq.Empty() {
			return false
		}
		b.hasPathLen = true
	}
	c.basic = b
	return true
}

// readNames reads GeneralName after GeneralName.
func readNames(in cryptobyte.String, list *[]generalName) bool {
	for !in.Empty() {
		var value cryptobyte.String
		var tag asn1.Tag
		if !in.ReadAnyASN1(&value, &tag) || tag&0xc0 != 0x80 || tag&0x1f > 8 {
			return false
		}
		*list = append(*list, generalName{uint8(tag) & 0x1f, value})
	}
	return true
}

func readSequenceOfNames(in *cryptobyte.String, list *[]generalName) bool {
	var seq cryptobyte.String
	return in.ReadASN1(&seq, asn1.SEQUENCE) && readNames(seq, list)
}

func (c *certificate) readAuthorityID(in *cryptobyte.String) bool {
	var seq, part cryptobyte.String
	a := &authorityKeyID{}
	if !in.ReadASN1(&seq, asn1.SEQUENCE) ||
		!seq.ReadOptionalASN1(&part, &a.hasKeyID, asn1.Tag(0).ContextSpecific()) {
		return false
	}
	a.keyID = part
	if !seq.ReadOptionalASN1(&part, &a.hasName, asn1.Tag(1).Constructed().ContextSpecific()) ||
		!seq.ReadOptionalASN1(&part, &a.hasSerial, asn1.Tag(2).ContextSpecific()) || !seq.Empty() {
		return false
	}
	c.authorityID = a
	return true
}

func (c *certificate) readConstraints(in *cryptobyte.String) bool {
	var seq cryptobyte.String
	n := &nameConstraints{}
	if !in.ReadASN1(&seq, asn1.SEQUENCE) {
		return false
	}
	for tag, list := range []*[]subtree{&n.permitted, &n.excluded} {
		var trees cryptobyte.String
		var present bool
		if !seq.ReadOptionalASN1(&trees, &present, asn1.Tag(tag).Constructed().ContextSpecific()) {
			return false
		}
		for !trees.Empty() {
			var one, base cryptobyte.String
			var baseTag asn1.Tag
			if !trees.ReadASN1(&one, asn1.SEQUENCE) || !one.ReadAnyASN1(&base, &baseTag) || baseTag&0xc0 != 0x80 {
				return false
			}
			*list = append(*list, subtree{generalName{uint8(baseTag) & 0x1f, base}, !one.Empty()})
		}
	}
	c.constraints = n
	return seq.Empty()
}

func (c *certificate) readPolicies(in *cryptobyte.String) bool {
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, asn1.SEQUENCE) {
		return false
	}
	for !seq.Empty() {
		var one cryptobyte.String
		var oid string
		if !seq.ReadASN1(&one, asn1.SEQUENCE) || !readOID(&one, &oid) {
			return false
		}
		c.policies = append(c.policies, oid)
	}
	return true
}

func (c *certificate) readAccess(in *cryptobyte.String) bool {
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, asn1.SEQUENCE) {
		return false
	}
	for !seq.Empty() {
		var one cryptobyte.String
		var names []generalName
		var a accessDescription
		if !seq.ReadASN1(&one, asn1.SEQUENCE) || !readOID(&one, &a.method) || !readNames(one, &names) || len(names) != 1 {
			return false
		}
		a.location = names[0]
		c.access = append(c.access, a)
	}
	return true
}

func (c *certificate) readPoints(in *cryptobyte.String) bool {
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, asn1.SEQUENCE) {
		return false
	}
	for !seq.Empty() {
		var one, name, skip cryptobyte.String
		var p distributionPoint
		if !seq.ReadASN1(&one, asn1.SEQUENCE) ||
			!one.ReadOptionalASN1(&name, &p.hasName, asn1.Tag(0).Constructed().ContextSpecific()) ||
			!one.ReadOptionalASN1(&skip, &p.hasReason, asn1.Tag(1).ContextSpecific()) ||
			!one.ReadOptionalASN1(&skip, &p.hasIssuer, asn1.Tag(2).Constructed().ContextSpecific()) || !one.Empty() {
			return false
		}
		if p.hasName {
			var full cryptobyte.String
			var present bool
			if !name.ReadOptionalASN1(&full, &present, asn1.Tag(0).Constructed().ContextSpecific()) || present && !readNames(full, &p.names) {
				return false
			}
		}
		c.points = append(c.points, p)
	}
	return true
}

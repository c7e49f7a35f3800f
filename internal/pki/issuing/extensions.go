package issuing

import (
	"crypto/x509"
	"math/bits"

	"github.com/birthmark/birthmark/internal/pki/profile"
)

// OIDs of extensions, as elements.
var (
	extSubjectKeyID    = []byte{tagOID, 3, 0x55, 0x1d, 14}
	extKeyUsage        = []byte{tagOID, 3, 0x55, 0x1d, 15}
	extAltName         = []byte{tagOID, 3, 0x55, 0x1d, 17}
	extBasic           = []byte{tagOID, 3, 0x55, 0x1d, 19}
	extCRLNumber       = []byte{tagOID, 3, 0x55, 0x1d, 20}
	extReason          = []byte{tagOID, 3, 0x55, 0x1d, 21}
	extIDP             = []byte{tagOID, 3, 0x55, 0x1d, 28}
	extNameConstraints = []byte{tagOID, 3, 0x55, 0x1d, 30}
	extCRLPoints       = []byte{tagOID, 3, 0x55, 0x1d, 31}
	extPolicies        = []byte{tagOID, 3, 0x55, 0x1d, 32}
	extAuthorityKeyID  = []byte{tagOID, 3, 0x55, 0x1d, 35}
	extExtendedUsage   = []byte{tagOID, 3, 0x55, 0x1d, 37}
	extAuthorityInfo   = []byte{tagOID, 8, 0x2b, 6, 1, 5, 5, 7, 1, 1}
	extNoCheck         = []byte{tagOID, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 5}

	accessOCSP      = []byte{tagOID, 8, 0x2b, 6, 1, 5, 5, 7, 0x30, 1}
	accessCAIssuers = []byte{tagOID, 8, 0x2b, 6, 1, 5, 5, 7, 0x30, 2}
)

// hole says how the value of an extension is found when a certificate is made.
type hole uint8

const (
	holeNone       hole = iota // value is fixed
	holeSubjectKey             // key identifier of the subject's key
	holeAltName                // alternative names, if there are any
	holeShard                  // address of the CRL shard
)

// extension is what a certificate must carry at one place. The list of them is
// the intent that signed bytes are compared with; layout, made from the same
// list, is what they are copied from.
type extension struct {
	oid      []byte
	critical bool
	value    []byte
	hole     hole
}

func (e *extension) appendTo(dst []byte) []byte {
	return appendExtension(dst, e.oid, e.critical, e.value)
}

// appendExtension appends an Extension around a value.
func appendExtension(dst, oid []byte, critical bool, value []byte) []byte {
	n := len(oid) + headerLen(len(value)) + len(value)
	if critical {
		n += 3
	}
	dst = appendHeader(dst, tagSequence, n)
	dst = append(dst, oid...)
	if critical {
		dst = append(dst, 0x01, 0x01, 0xff)
	}
	return appendTLV(dst, tagOctetString, value)
}

// extensions lists what a certificate for a key of type t carries, in the order
// in which crypto/x509 writes it.
func (c *Compiled) extensions(t profile.KeyType) ([]extension, error) {
	p := c.profile
	list := []extension{{oid: extKeyUsage, critical: true, value: keyUsageValue(p.UsageFor(t))}}
	if len(p.ExtendedKeyUsage) > 0 {
		value, err := oidsValue(p.ExtendedKeyUsage, false)
		if err != nil {
			return nil, err
		}
		list = append(list, extension{oid: extExtendedUsage, critical: p.ExtendedKeyUsageCrit, value: value})
	}
	if p.Kind.CA() {
		list = append(list, extension{oid: extBasic, critical: true, value: basicValue(p.PathLen)})
	}
	if p.Kind == profile.KindAttestation {
		// WebAuthn Level 3, section 8.3.1, wants it there and without cA.
		list = append(list, extension{oid: extBasic, critical: true, value: []byte{tagSequence, 0}})
	}
	if p.SubjectKeyID {
		list = append(list, extension{oid: extSubjectKeyID, hole: holeSubjectKey})
	}
	if c.authority.certificate != nil {
		id := appendTLV(nil, implicit(0), c.authority.keyID)
		list = append(list, extension{oid: extAuthorityKeyID, value: wrap(id, 0, tagSequence)})
	}
	if value := c.accessValue(); value != nil {
		list = append(list, extension{oid: extAuthorityInfo, value: value})
	}
	if len(p.AltNames) > 0 {
		list = append(list, extension{oid: extAltName, hole: holeAltName})
	}
	if len(p.Policies) > 0 {
		value, err := oidsValue(p.Policies, true)
		if err != nil {
			return nil, err
		}
		list = append(list, extension{oid: extPolicies, value: value})
	}
	if p.NameConstraints != nil {
		list = append(list, extension{oid: extNameConstraints, critical: true, value: constraintsValue(p.NameConstraints)})
	}
	if p.CRL && c.base != "" {
		list = append(list, extension{oid: extCRLPoints, hole: holeShard})
	}
	if p.NoCheck {
		list = append(list, extension{oid: extNoCheck, value: []byte{0x05, 0x00}})
	}
	for _, e := range p.Extensions {
		oid, err := oidElement(e.OID)
		if err != nil {
			return nil, err
		}
		list = append(list, extension{oid: oid, value: e.Value})
	}
	return list, nil
}

func keyUsageValue(usage x509.KeyUsage) []byte {
	// Bit 0 of the BIT STRING is the most significant bit of its first octet.
	octets := []byte{bits.Reverse8(byte(usage)), bits.Reverse8(byte(usage >> 8))}
	if octets[1] == 0 {
		octets = octets[:1]
	}
	unused := byte(bits.TrailingZeros8(octets[len(octets)-1]))
	return appendTLV(nil, tagBitString, append([]byte{unused}, octets...))
}

// oidsValue returns SEQUENCE OF OID, or of PolicyInformation with nothing but an
// OID.
func oidsValue(oids []x509.OID, wrapped bool) ([]byte, error) {
	var dst []byte
	for _, o := range oids {
		element, err := oidElement(o)
		if err != nil {
			return nil, err
		}
		if wrapped {
			element = wrap(element, 0, tagSequence)
		}
		dst = append(dst, element...)
	}
	return wrap(dst, 0, tagSequence), nil
}

func basicValue(pathLen int) []byte {
	dst := []byte{0x01, 0x01, 0xff}
	if pathLen >= 0 {
		dst = appendUint(dst, uint64(pathLen))
	}
	return wrap(dst, 0, tagSequence)
}

// accessValue returns authorityInfoAccess, or nil when there is no address.
func (c *Compiled) accessValue() []byte {
	if c.base == "" || !c.profile.OCSP && !c.profile.CAIssuers {
		return nil
	}
	var dst []byte
	add := func(method []byte, url string) {
		start := len(dst)
		dst = append(dst, method...)
		dst = appendTLV(dst, implicit(6), url)
		dst = wrap(dst, start, tagSequence)
	}
	if c.profile.OCSP {
		add(accessOCSP, OCSPURL(c.base, c.issuerName))
	}
	if c.profile.CAIssuers {
		add(accessCAIssuers, CertificateURL(c.base, c.issuerName))
	}
	return wrap(dst, 0, tagSequence)
}

// pointsValue returns cRLDistributionPoints with one address.
func pointsValue(url string) []byte {
	dst := distributionPointName(nil, url)
	dst = wrap(dst, 0, tagSequence)
	return wrap(dst, 0, tagSequence)
}

// distributionPointName appends [0] { fullName [0] { URI } }.
func distributionPointName(dst []byte, url string) []byte {
	start := len(dst)
	dst = appendTLV(dst, implicit(6), url)
	dst = wrap(dst, start, explicit(0))
	return wrap(dst, start, explicit(0))
}

func constraintsValue(c *profile.NameConstraints) []byte {
	var dst []byte
	for i, set := range []profile.NameSet{c.Permitted, c.Excluded} {
		if set.Empty() {
			continue
		}
		start := len(dst)
		dst = appendNameSet(dst, set)
		dst = wrap(dst, start, explicit(byte(i)))
	}
	return wrap(dst, 0, tagSequence)
}

func appendNameSet(dst []byte, s profile.NameSet) []byte {
	add := func(tag byte, content []byte) {
		start := len(dst)
		dst = appendTLV(dst, tag, content)
		dst = wrap(dst, start, tagSequence)
	}
	for _, name := range s.DNS {
		add(implicit(2), []byte(name))
	}
	for _, prefix := range s.IP {
		add(implicit(7), append(prefix.Addr().AsSlice(), maskOf(prefix.Addr().BitLen(), prefix.Bits())...))
	}
	for _, name := range s.Email {
		add(implicit(1), []byte(name))
	}
	for _, name := range s.URI {
		add(implicit(6), []byte(name))
	}
	return dst
}

func maskOf(size, ones int) []byte {
	mask := make([]byte, size/8)
	for i := range ones {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return mask
}

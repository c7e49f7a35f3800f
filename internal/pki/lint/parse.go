package lint

import (
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// certificate is a certificate taken apart just far enough for the rules. Fields
// stay raw wherever a rule wants to see how something was encoded.
type certificate struct {
	trailing        bool
	version         int // as encoded: 2 is v3
	certSerial      []byte
	innerAlg, alg   []byte // AlgorithmIdentifier elements
	issuerRaw       []byte
	subjectRaw      []byte
	issuer, subject []attribute
	times           [2]timeField // notBefore, notAfter
	spki            publicKey
	uniqueIDs       bool
	hasExtensions   bool
	extensions      []extension
	signature       []byte // content of the BIT STRING, with the octet of unused bits
	malformed       []string

	// Known extensions, decoded; nil or zero when absent or malformed.
	usage       *bitNames
	purposes    []string
	basic       *basicConstraints
	altNames    []generalName
	authorityID *authorityKeyID
	subjectID   []byte
	constraints *nameConstraints
	policies    []string
	access      []accessDescription
	points      []distributionPoint
}

type attribute struct {
	rdn   int // index of its RelativeDistinguishedName
	oid   string
	tag   asn1.Tag
	value []byte
	raw   []byte
}

type timeField struct {
	tag  asn1.Tag
	text string
	at   time.Time
	ok   bool // text is in the form of RFC 5280
}

type publicKey struct {
	raw       []byte
	algorithm string
	params    []byte // element; nil: absent
	bits      []byte
}

type extension struct {
	oid           string
	critical      bool
	explicitFalse bool
	value         []byte
}

// parse returns nil when the bytes do not even have the outline of a
// certificate.
func parse(der []byte) *certificate {
	in := cryptobyte.String(der)
	var outer, tbs, alg cryptobyte.String
	if !in.ReadASN1(&outer, asn1.SEQUENCE) {
		return nil
	}
	c := &certificate{trailing: !in.Empty()}
	if !outer.ReadASN1(&tbs, asn1.SEQUENCE) || !outer.ReadASN1Element(&alg, asn1.SEQUENCE) ||
		!outer.ReadASN1((*cryptobyte.String)(&c.signature), asn1.BIT_STRING) {
		return nil
	}
	c.alg = alg
	c.trailing = c.trailing || !outer.Empty()
	if !c.readTBS(tbs) {
		return nil
	}
	c.decodeExtensions()
	return c
}

func (c *certificate) readTBS(tbs cryptobyte.String) bool {
	var inner, issuer, validity, subject, spki cryptobyte.String
	if !readVersion(&tbs, &c.version) ||
		!tbs.ReadASN1((*cryptobyte.String)(&c.certSerial), asn1.INTEGER) ||
		!tbs.ReadASN1Element(&inner, asn1.SEQUENCE) ||
		!tbs.ReadASN1Element(&issuer, asn1.SEQUENCE) ||
		!tbs.ReadASN1(&validity, asn1.SEQUENCE) ||
		!tbs.ReadASN1Element(&subject, asn1.SEQUENCE) ||
		!tbs.ReadASN1Element(&spki, asn1.SEQUENCE) {
		return false
	}
	c.innerAlg, c.issuerRaw, c.subjectRaw = inner, issuer, subject
	var ok bool
	if c.issuer, ok = readName(issuer); !ok {
		return false
	}
	if c.subject, ok = readName(subject); !ok {
		return false
	}
	for i := range c.times {
		if c.times[i], ok = readTime(&validity); !ok {
			return false
		}
	}
	if !validity.Empty() || !c.spki.read(spki) {
		return false
	}
	for _, n := range []uint8{1, 2} {
		var present bool
		var id cryptobyte.String
		if !tbs.ReadOptionalASN1(&id, &present, asn1.Tag(n).ContextSpecific()) {
			return false
		}
		c.uniqueIDs = c.uniqueIDs || present
	}
	return c.readExtensions(tbs)
}

func readVersion(tbs *cryptobyte.String, version *int) bool {
	var v cryptobyte.String
	var present bool
	if !tbs.ReadOptionalASN1(&v, &present, asn1.Tag(0).Constructed().ContextSpecific()) {
		return false
	}
	return !present || v.ReadASN1Integer(version) && v.Empty()
}

func readName(element cryptobyte.String) ([]attribute, bool) {
	var rdns cryptobyte.String
	if !element.ReadASN1(&rdns, asn1.SEQUENCE) {
		return nil, false
	}
	var name []attribute
	for rdn := 0; !rdns.Empty(); rdn++ {
		var set cryptobyte.String
		if !rdns.ReadASN1(&set, asn1.SET) || set.Empty() {
			return nil, false
		}
		for !set.Empty() {
			var raw, pair, value cryptobyte.String
			a := attribute{rdn: rdn}
			if !set.ReadASN1Element(&raw, asn1.SEQUENCE) {
				return nil, false
			}
			a.raw = raw
			if !raw.ReadASN1(&pair, asn1.SEQUENCE) || !readOID(&pair, &a.oid) || !pair.ReadAnyASN1(&value, &a.tag) || !pair.Empty() {
				return nil, false
			}
			a.value = value
			name = append(name, a)
		}
	}
	return name, true
}

func readTime(in *cryptobyte.String) (timeField, bool) {
	var text cryptobyte.String
	var f timeField
	if !in.ReadAnyASN1(&text, &f.tag) || f.tag != asn1.UTCTime && f.tag != asn1.GeneralizedTime {
		return f, false
	}
	f.text = string(text)
	long, form := f.text, "060102150405Z"
	if f.tag == asn1.GeneralizedTime {
		form = "20060102150405Z"
	} else if len(long) == 13 {
		form, long = "20060102150405Z", century(long)+long
	}
	t, err := time.Parse(form, long)
	// time.Parse also takes fractions of seconds.
	f.at, f.ok = t, err == nil && len(form) == len(long)
	return f, true
}

// century returns the first digits of a UTCTime's year (RFC 5280, section
// 4.1.2.5.1).
func century(text string) string {
	if text[0] >= '5' {
		return "19"
	}
	return "20"
}

func (k *publicKey) read(element cryptobyte.String) bool {
	k.raw = element
	var outer, alg, bits cryptobyte.String
	if !element.ReadASN1(&outer, asn1.SEQUENCE) || !outer.ReadASN1(&alg, asn1.SEQUENCE) ||
		!readOID(&alg, &k.algorithm) || !outer.ReadASN1(&bits, asn1.BIT_STRING) || !outer.Empty() || len(bits) == 0 || bits[0] != 0 {
		return false
	}
	k.bits = bits[1:]
	if !alg.Empty() {
		k.params = alg
	}
	return true
}

func (c *certificate) readExtensions(tbs cryptobyte.String) bool {
	var outer, list cryptobyte.String
	if !tbs.ReadOptionalASN1(&outer, &c.hasExtensions, asn1.Tag(3).Constructed().ContextSpecific()) || !tbs.Empty() {
		return false
	}
	if !c.hasExtensions {
		return true
	}
	if !outer.ReadASN1(&list, asn1.SEQUENCE) || !outer.Empty() {
		return false
	}
	for !list.Empty() {
		var one, flag, value cryptobyte.String
		var present bool
		var e extension
		if !list.ReadASN1(&one, asn1.SEQUENCE) || !readOID(&one, &e.oid) ||
			!one.ReadOptionalASN1(&flag, &present, asn1.BOOLEAN) || !one.ReadASN1(&value, asn1.OCTET_STRING) || !one.Empty() {
			return false
		}
		if present && len(flag) != 1 {
			return false
		}
		e.critical = present && flag[0] != 0
		e.explicitFalse = present && flag[0] == 0
		e.value = value
		c.extensions = append(c.extensions, e)
	}
	return true
}

// extension returns the first extension with this OID, or nil.
func (c *certificate) extension(oid string) *extension {
	for i := range c.extensions {
		if c.extensions[i].oid == oid {
			return &c.extensions[i]
		}
	}
	return nil
}

// isCA reports whether the certificate says that it is an authority's.
func (c *certificate) isCA() bool { return c.basic != nil && c.basic.ca }

// selfIssued reports whether issuer and subject are the same.
func (c *certificate) selfIssued() bool { return string(c.issuerRaw) == string(c.subjectRaw) }

// has reports whether the extended key usage names a purpose.
func (c *certificate) has(purpose string) bool {
	return slices.Contains(c.purposes, purpose)
}

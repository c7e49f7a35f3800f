package enroll

import (
	"bytes"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// sameName reports whether two DER Names say the same: the same attributes in
// the same order with the same characters. The string type does not matter,
// since clients encode the same subject as PrintableString or UTF8String
// (RFC 5280, section 7.1).
func sameName(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, okX := nameAttributes(a)
	y, okY := nameAttributes(b)
	if !okX || !okY || len(x) != len(y) {
		return false
	}
	for i := range x {
		if !x[i].equal(y[i]) {
			return false
		}
	}
	return true
}

// nameAttribute is one AttributeTypeAndValue; rdn counts the RDN it stands in.
type nameAttribute struct {
	rdn   int
	oid   []byte
	tag   asn1.Tag
	value []byte
}

func (a nameAttribute) equal(b nameAttribute) bool {
	sameKind := a.tag == b.tag || textTag(a.tag) && textTag(b.tag)
	return a.rdn == b.rdn && sameKind && bytes.Equal(a.oid, b.oid) && bytes.Equal(a.value, b.value)
}

// textTag reports string types whose octets are the characters' UTF-8 as long
// as they are ASCII; the request gate has refused other characters in
// PrintableString and IA5String.
func textTag(t asn1.Tag) bool {
	return t == asn1.UTF8String || t == asn1.PrintableString || t == asn1.IA5String
}

func nameAttributes(der []byte) ([]nameAttribute, bool) {
	input := cryptobyte.String(der)
	var name cryptobyte.String
	if !input.ReadASN1(&name, asn1.SEQUENCE) || !input.Empty() {
		return nil, false
	}
	var out []nameAttribute
	for rdn := 0; !name.Empty(); rdn++ {
		var set cryptobyte.String
		if !name.ReadASN1(&set, asn1.SET) {
			return nil, false
		}
		for !set.Empty() {
			var pair, oid, value cryptobyte.String
			a := nameAttribute{rdn: rdn}
			if !set.ReadASN1(&pair, asn1.SEQUENCE) || !pair.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) ||
				!pair.ReadAnyASN1(&value, &a.tag) || !pair.Empty() {
				return nil, false
			}
			a.oid, a.value = oid, value
			out = append(out, a)
		}
	}
	return out, true
}

package signer

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf16"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// sameName reports whether readers may take two names (DER) for one: they
// compare without regard to case, spaces and the type of string (RFC 5280,
// section 7.1).
func sameName(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	one, ok1 := canonicalName(a)
	other, ok2 := canonicalName(b)
	return ok1 && ok2 && one == other
}

// canonicalName writes a name in a form that is the same for names that are
// taken for one another.
func canonicalName(der []byte) (string, bool) {
	in := cryptobyte.String(der)
	var sets cryptobyte.String
	if !in.ReadASN1(&sets, asn1.SEQUENCE) {
		return "", false
	}
	var b strings.Builder
	for !sets.Empty() {
		var set cryptobyte.String
		if !sets.ReadASN1(&set, asn1.SET) {
			return "", false
		}
		b.WriteByte(0)
		for !set.Empty() {
			var one, oid, value cryptobyte.String
			var tag asn1.Tag
			if !set.ReadASN1(&one, asn1.SEQUENCE) || !one.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) || !one.ReadAnyASN1(&value, &tag) {
				return "", false
			}
			b.WriteByte(1)
			b.Write(oid)
			b.WriteByte(2)
			b.WriteString(canonicalText(tag, value))
		}
	}
	return b.String(), true
}

// bmpString is the tag of a string of two octets a character.
const bmpString = asn1.Tag(30)

func canonicalText(tag asn1.Tag, value []byte) string {
	text := string(value)
	if tag == bmpString {
		var units []uint16
		for i := 0; i+1 < len(value); i += 2 {
			units = append(units, uint16(value[i])<<8|uint16(value[i+1]))
		}
		text = string(utf16.Decode(units))
	}
	folded := strings.Map(func(r rune) rune { return unicode.ToLower(unicode.ToUpper(r)) }, text)
	return strings.Join(strings.Fields(folded), " ")
}

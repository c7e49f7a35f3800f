package chain

import (
	"encoding/binary"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// DER of the attribute type emailAddress (1.2.840.113549.1.9.1), content only.
const emailAttribute = "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x01"

// canonicalName brings a distinguished name into a form in which names that RFC
// 5280, section 7.1, calls equal have equal strings: text as UTF-8, without
// regard to case and repeated spaces, attributes of one RDN in order. It
// returns the whole name, its RDNs and its emailAddress attributes. Unicode
// composition is not normalized; such names are different names here. A name
// that cannot be read is its own bytes.
func canonicalName(der []byte) (name string, rdns, emails []string) {
	in := cryptobyte.String(der)
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !in.Empty() {
		return string(der), nil, nil
	}
	var whole []byte
	for !seq.Empty() {
		var set cryptobyte.String
		if !seq.ReadASN1(&set, cbasn1.SET) {
			return string(der), nil, nil
		}
		rdn, ok := canonicalRDN(set, &emails)
		if !ok {
			return string(der), nil, nil
		}
		rdns = append(rdns, rdn)
		whole = appendField(whole, rdn)
	}
	return string(whole), rdns, emails
}

func canonicalRDN(set cryptobyte.String, emails *[]string) (string, bool) {
	var attributes []string
	for !set.Empty() {
		var pair, kind, value cryptobyte.String
		var tag cbasn1.Tag
		if !set.ReadASN1(&pair, cbasn1.SEQUENCE) || !pair.ReadASN1(&kind, cbasn1.OBJECT_IDENTIFIER) ||
			!pair.ReadAnyASN1(&value, &tag) || !pair.Empty() {
			return "", false
		}
		b := appendField(make([]byte, 0, len(kind)+len(value)+8), string(kind))
		text, ok := attributeText(tag, value)
		if ok {
			b = appendFolded(append(b, 't'), text)
		} else {
			b = append(append(b, 'r', byte(tag)), value...)
		}
		if ok && string(kind) == emailAttribute {
			*emails = append(*emails, text)
		}
		attributes = append(attributes, string(b))
	}
	if len(attributes) == 1 {
		return attributes[0], true
	}
	slices.Sort(attributes)
	var rdn []byte
	for _, a := range attributes {
		rdn = appendField(rdn, a)
	}
	return string(rdn), true
}

// appendField keeps the parts of a canonical name apart by their lengths.
func appendField(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// attributeText returns the text of a string type. T61String is read as Latin-1,
// as everyone does.
func attributeText(tag cbasn1.Tag, value []byte) (string, bool) {
	const numeric, bmp, universal = 18, 30, 28
	switch tag {
	case cbasn1.UTF8String, cbasn1.PrintableString, cbasn1.IA5String, numeric:
		return string(value), utf8.Valid(value)
	case cbasn1.T61String:
		b := make([]byte, 0, len(value))
		for _, c := range value {
			b = utf8.AppendRune(b, rune(c))
		}
		return string(b), true
	case bmp:
		if len(value)%2 != 0 {
			return "", false
		}
		units := make([]uint16, 0, len(value)/2)
		for ; len(value) > 0; value = value[2:] {
			units = append(units, binary.BigEndian.Uint16(value))
		}
		return string(utf16.Decode(units)), true
	case universal:
		var b []byte
		for ; len(value) >= 4; value = value[4:] {
			b = utf8.AppendRune(b, rune(binary.BigEndian.Uint32(value)))
		}
		return string(b), len(value) == 0
	}
	return "", false
}

// appendFolded appends text without case and with single spaces.
func appendFolded(b []byte, text string) []byte {
	text = strings.TrimFunc(text, unicode.IsSpace)
	space := false
	for _, r := range text {
		if unicode.IsSpace(r) {
			space = true
			continue
		}
		if space {
			b, space = append(b, ' '), false
		}
		b = utf8.AppendRune(b, foldRune(r))
	}
	return b
}

// foldRune returns the least of the runes that differ from r in case only.
func foldRune(r rune) rune {
	if r < utf8.RuneSelf && (r < 'A' || r > 'z') {
		return r
	}
	least := r
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		least = min(least, f)
	}
	return least
}

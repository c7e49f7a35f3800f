package request

import (
	"bytes"
	"slices"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
)

const (
	oidCommonName   = "\x55\x04\x03"
	oidSerialNumber = "\x55\x04\x05"
	oidUserID       = "\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x01"
	oidMatterVID    = "\x2b\x06\x01\x04\x01\x82\xa2\x7c\x02\x01"
	oidMatterPID    = "\x2b\x06\x01\x04\x01\x82\xa2\x7c\x02\x02"
)

const maxNameAttributes = 32

// A rule says what a value of one attribute type may be (X.520, upper bounds of
// RFC 5280, appendix A).
type rule struct {
	name     string // for the detail of a refusal
	longest  int    // in characters
	types    uint8
	identity bool // ends up in topic ACLs, file names and comparisons
	single   bool // at most once in a Name
}

const (
	utf8Type uint8 = 1 << iota
	printableType
	ia5Type
	directoryString = utf8Type | printableType
)

// ruleOf returns the rule for an attribute type. X.520 allows more string types
// than these; what it allows and nobody needs is where parsers differ.
func ruleOf(oid []byte) rule {
	switch string(oid) {
	case oidCommonName:
		return rule{"common name", 64, directoryString, true, true}
	case oidSerialNumber:
		// X.520 says PrintableString, which lacks the underscore of many serials.
		return rule{"serial number", 64, directoryString, true, true}
	case "\x55\x04\x06":
		return rule{"country", 2, printableType, false, false}
	case "\x55\x04\x0a":
		return rule{"organization", 64, directoryString, false, false}
	case "\x55\x04\x0b":
		return rule{"organizational unit", 64, directoryString, false, false}
	case "\x55\x04\x2e":
		return rule{"distinguished name qualifier", 64, printableType, true, true}
	case oidUserID:
		return rule{"user id", 255, directoryString, true, true}
	case "\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x19":
		return rule{"domain component", 63, ia5Type, false, false}
	case "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x01":
		return rule{"e-mail address", 255, ia5Type, false, false}
	case oidMatterVID:
		return rule{"Matter vendor id", 4, directoryString, false, true}
	case oidMatterPID:
		return rule{"Matter product id", 4, directoryString, false, true}
	}
	if hasPrefix(oid, "\x55\x04") {
		return rule{"directory attribute", 128, directoryString, false, false}
	}
	return rule{"attribute", 255, directoryString | ia5Type, false, false}
}

// nameCheck is what is remembered while a Name is walked.
type nameCheck struct {
	attributes int
	seen       [maxNameAttributes]string // names of single attributes
	commonName []byte
	vid, pid   []byte
}

// checkSubject judges the requested subject, which may be empty.
func checkSubject(der cryptobyte.String) error {
	if len(der) > MaxSubject {
		return fault.New(fault.SubjectRefused, "longer than", MaxSubject, "octets")
	}
	detail, ok := checkName(der)
	if !ok {
		return fault.New(fault.SubjectRefused, detail)
	}
	return nil
}

// checkName judges a DER Name and says what it does not like.
func checkName(der cryptobyte.String) (detail string, ok bool) {
	var rdns cryptobyte.String
	if !der.ReadASN1(&rdns, asn1.SEQUENCE) || !der.Empty() {
		return "not a Name", false
	}
	var c nameCheck
	for !rdns.Empty() {
		var rdn, previous, element cryptobyte.String
		if !rdns.ReadASN1(&rdn, asn1.SET) || rdn.Empty() {
			return "not a Name", false
		}
		for !rdn.Empty() {
			if !rdn.ReadASN1Element(&element, asn1.SEQUENCE) {
				return "not a Name", false
			}
			// X.690, section 11.6: a SET OF is in ascending order.
			if bytes.Compare(previous, element) >= 0 {
				return "a multi-valued part is not in order", false
			}
			previous = element
			if detail, ok := c.attribute(element); !ok {
				return detail, false
			}
		}
	}
	return c.matter()
}

// attribute judges one AttributeTypeAndValue.
func (c *nameCheck) attribute(element cryptobyte.String) (detail string, ok bool) {
	var pair, oid, value cryptobyte.String
	var tag asn1.Tag
	if !element.ReadASN1(&pair, asn1.SEQUENCE) ||
		!pair.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) || !validOID(oid) ||
		!pair.ReadAnyASN1(&value, &tag) || !pair.Empty() {
		return "not a Name", false
	}
	if c.attributes == maxNameAttributes {
		return "too many attributes", false
	}
	r := ruleOf(oid)
	if r.single {
		if slices.Contains(c.seen[:c.attributes], r.name) {
			return r.name + " is there twice", false
		}
		c.seen[c.attributes] = r.name
	}
	c.attributes++
	switch string(oid) {
	case oidCommonName:
		c.commonName = value
	case oidMatterVID:
		c.vid = value
	case oidMatterPID:
		c.pid = value
	}
	return r.name, r.allows(tag, value)
}

// allows reports whether a value of this type may stand for the attribute.
func (r rule) allows(tag asn1.Tag, value []byte) bool {
	var kind uint8
	switch tag {
	case asn1.UTF8String:
		kind = utf8Type
	case asn1.PrintableString:
		kind = printableType
	case asn1.IA5String:
		kind = ia5Type
	}
	if r.types&kind == 0 || !readable(tag, value) || utf8.RuneCount(value) > r.longest {
		return false
	}
	if r.name == "country" && len(value) != 2 {
		return false
	}
	return !r.identity || identifies(value)
}

// identifies reports whether text can name one device everywhere: brokers use
// the common name in topics, where + # / have a meaning, tools trim spaces at
// the ends, and / separates paths.
func identifies(text []byte) bool {
	return !bytes.ContainsAny(text, "+#/") && text[0] != ' ' && text[len(text)-1] != ' '
}

// matter judges the vendor and product ids of Matter, which stand in attributes
// of their own or inside the common name, in upper-case hexadecimal (Matter
// core specification, section 6.2.2.2).
func (c *nameCheck) matter() (detail string, ok bool) {
	if !agree(c.vid, c.commonName, "Mvid:") {
		return "Matter vendor id", false
	}
	if !agree(c.pid, c.commonName, "Mpid:") {
		return "Matter product id", false
	}
	return "", true
}

// agree reports whether an id is well formed wherever it stands, and the same
// if it stands in both places.
func agree(id, commonName []byte, mark string) bool {
	if id != nil && !upperHex4(id) {
		return false
	}
	at := bytes.Index(commonName, []byte(mark))
	if at < 0 {
		return true
	}
	rest := commonName[at+len(mark):]
	if len(rest) < 4 || !upperHex4(rest[:4]) || bytes.Contains(rest, []byte(mark)) {
		return false
	}
	return id == nil || bytes.Equal(id, rest[:4])
}

func upperHex4(b []byte) bool {
	for _, c := range b {
		if (c < '0' || c > '9') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return len(b) == 4
}

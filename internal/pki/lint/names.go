package lint

import (
	"bytes"
	"fmt"
	"slices"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/pki/profile"
)

// OIDs of attributes.
const (
	oidCommonName   = "2.5.4.3"
	oidSerialNumber = "2.5.4.5"
	oidCountry      = "2.5.4.6"
	oidDNQualifier  = "2.5.4.46"
	oidEmail        = "1.2.840.113549.1.9.1"
	oidDC           = "0.9.2342.19200300.100.1.25"
)

// Tags of strings that cryptobyte does not name.
const (
	tagUniversal = asn1.Tag(28)
	tagBMP       = asn1.Tag(30)
)

// attributeRule makes a rule of a check of single attributes.
func attributeRule(id string, severity Severity, source string, check func(a *attribute) string) rule {
	return rule{id, severity, source, func(c *certificate) string {
		for _, name := range [][]attribute{c.subject, c.issuer} {
			for i := range name {
				if message := check(&name[i]); message != "" {
					return attributeName(name[i].oid) + " " + message
				}
			}
		}
		return ""
	}}
}

func attributeName(oid string) string {
	if a, ok := profile.AttributeByName(oid); ok {
		return a.Name
	}
	return oid
}

// text returns an attribute's value in UTF-8.
func (a *attribute) text() (string, bool) {
	if a.tag != tagBMP {
		return string(a.value), true
	}
	if len(a.value)%2 != 0 {
		return "", false
	}
	var units []uint16
	for i := 0; i < len(a.value); i += 2 {
		units = append(units, uint16(a.value[i])<<8|uint16(a.value[i+1]))
	}
	return string(utf16.Decode(units)), true
}

// nameRules look at issuer and subject.
var nameRules = []rule{
	{"issuer_empty", Error, "RFC 5280, section 4.1.2.4", func(c *certificate) string {
		if len(c.issuer) == 0 {
			return "the issuer has no name"
		}
		return ""
	}},
	{"subject_empty_ca", Error, "RFC 5280, section 4.1.2.6", func(c *certificate) string {
		if c.isCA() && len(c.subject) == 0 {
			return "an authority has no name"
		}
		return ""
	}},
	{"subject_empty_alt_name", Error, "RFC 5280, section 4.2.1.6", func(c *certificate) string {
		if len(c.subject) > 0 {
			return ""
		}
		if e := c.extension(oidSubjectAltName); e == nil || !e.critical {
			return "without a subject the alternative name must be there and critical"
		}
		return ""
	}},
	attributeRule("name_string_type", Warning, "RFC 5280, section 4.1.2.4", func(a *attribute) string {
		switch a.tag {
		case asn1.PrintableString, asn1.UTF8String, asn1.IA5String:
			return ""
		}
		return "is neither a PrintableString nor a UTF8String"
	}),
	attributeRule("name_string_valid", Error, "ITU-T X.680, section 41", func(a *attribute) string {
		switch {
		case a.tag == asn1.UTF8String && !utf8.Valid(a.value):
			return "is not valid UTF-8"
		case a.tag == asn1.PrintableString && !profile.Printable(string(a.value)):
			return "has characters that a PrintableString cannot hold"
		case a.tag == asn1.IA5String && slices.ContainsFunc(a.value, func(b byte) bool { return b >= 0x80 }):
			return "has characters outside ASCII"
		case a.tag == tagBMP && len(a.value)%2 != 0 || a.tag == tagUniversal && len(a.value)%4 != 0:
			return "ends in the middle of a character"
		}
		return ""
	}),
	attributeRule("name_control_characters", Error, "RFC 4518, section 2.4", func(a *attribute) string {
		if text, ok := a.text(); ok && utf8.ValidString(text) && !profile.Text(text) {
			return "has control characters"
		}
		return ""
	}),
	attributeRule("name_value_empty", Error, "RFC 5280, appendix A.1", func(a *attribute) string {
		if len(a.value) == 0 {
			return "is empty"
		}
		return ""
	}),
	attributeRule("name_value_spaces", Warning, "RFC 4518, section 2.6", func(a *attribute) string {
		if text, ok := a.text(); ok && len(text) > 0 && (text[0] == ' ' || text[len(text)-1] == ' ') {
			return "begins or ends with a space"
		}
		return ""
	}),
	attributeRule("name_value_length", Error, "RFC 5280, appendix A.1", func(a *attribute) string {
		known, ok := profile.AttributeByName(a.oid)
		text, decoded := a.text()
		if n := utf8.RuneCountInString(text); ok && decoded && known.Name != a.oid && known.Max > 0 && n > known.Max {
			return fmt.Sprintf("has %d characters, more than %d", n, known.Max)
		}
		return ""
	}),
	attributeRule("name_country", Error, "RFC 5280, appendix A.1; ISO 3166", func(a *attribute) string {
		if a.oid != oidCountry {
			return ""
		}
		v := a.value
		if a.tag != asn1.PrintableString || len(v) != 2 || v[0] < 'A' || v[0] > 'Z' || v[1] < 'A' || v[1] > 'Z' {
			return "must be a PrintableString of two capital letters"
		}
		return ""
	}),
	attributeRule("name_printable_only", Error, "RFC 5280, appendix A.1", func(a *attribute) string {
		if (a.oid == oidSerialNumber || a.oid == oidDNQualifier) && a.tag != asn1.PrintableString {
			return "must be a PrintableString"
		}
		return ""
	}),
	attributeRule("name_ia5_only", Error, "RFC 5280, appendix A.1; RFC 4519, section 2.4", func(a *attribute) string {
		if (a.oid == oidDC || a.oid == oidEmail) && a.tag != asn1.IA5String {
			return "must be an IA5String"
		}
		return ""
	}),
	attributeRule("name_email", Warning, "RFC 5280, section 4.1.2.6", func(a *attribute) string {
		if a.oid == oidEmail {
			return "is deprecated: mail addresses go into the alternative name"
		}
		return ""
	}),
	{"name_multivalued", Notice, "RFC 5280, section 4.1.2.4", func(c *certificate) string {
		for _, name := range [][]attribute{c.subject, c.issuer} {
			for i := 1; i < len(name); i++ {
				if name[i].rdn == name[i-1].rdn {
					return "a name has parts with several attributes, which many programs cannot show"
				}
			}
		}
		return ""
	}},
	{"name_set_order", Error, "ITU-T X.690, section 11.6", func(c *certificate) string {
		for _, name := range [][]attribute{c.subject, c.issuer} {
			for i := 1; i < len(name); i++ {
				if name[i].rdn == name[i-1].rdn && bytes.Compare(name[i-1].raw, name[i].raw) >= 0 {
					return "a name has a part whose attributes are not in DER order"
				}
			}
		}
		return ""
	}},
	{"name_common_names", Notice, "RFC 6125, section 2.3.1", func(c *certificate) string {
		n := 0
		for _, a := range c.subject {
			if a.oid == oidCommonName {
				n++
			}
		}
		if n > 1 {
			return "the subject has several common names, of which programs choose different ones"
		}
		return ""
	}},
}

// validityRules look at the two times.
var validityRules = []rule{
	{"validity_form", Error, "RFC 5280, sections 4.1.2.5.1 and 4.1.2.5.2", func(c *certificate) string {
		for _, t := range c.times {
			if !t.ok {
				return fmt.Sprintf("the time %q is not in UTC with seconds and without fractions", t.text)
			}
		}
		return ""
	}},
	{"validity_type", Error, "RFC 5280, section 4.1.2.5", func(c *certificate) string {
		for _, t := range c.times {
			if t.ok && (t.tag == asn1.GeneralizedTime) != (t.at.Year() >= 2050) {
				return "times are UTCTime until 2049 and GeneralizedTime from 2050"
			}
		}
		return ""
	}},
	{"validity_order", Error, "RFC 5280, section 4.1.2.5", func(c *certificate) string {
		if c.times[0].ok && c.times[1].ok && !c.times[0].at.Before(c.times[1].at) {
			return "the certificate ends before it begins"
		}
		return ""
	}},
	{"validity_epoch", Notice, "RFC 5280, section 4.1.2.5", func(c *certificate) string {
		if c.times[0].ok && c.times[0].at.Year() < 2000 {
			return "notBefore lies before the year 2000"
		}
		return ""
	}},
}

// otherName takes an other-name apart: its type and what is inside the explicit
// tag.
func otherName(value []byte) (oid string, content cryptobyte.String, ok bool) {
	in := cryptobyte.String(value)
	ok = readOID(&in, &oid) && in.ReadASN1(&content, asn1.Tag(0).Constructed().ContextSpecific()) && in.Empty()
	return oid, content, ok
}

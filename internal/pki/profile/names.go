package profile

import (
	"crypto/x509"
	"slices"
)

// Attribute is a type of attribute in a distinguished name, with the bounds of
// RFC 5280, appendix A.1.
type Attribute struct {
	Name string
	OID  x509.OID
	Max  int // most characters; 0: no bound
	Form StringForm
}

// StringForm says as which ASN.1 string an attribute is written.
type StringForm uint8

// The forms of attribute values.
const (
	FormDirectory StringForm = iota // PrintableString where the text allows it, else UTF8String
	FormPrintable                   // PrintableString only
	FormIA5                         // IA5String only
	FormUTF8                        // UTF8String only
)

var attributes = []Attribute{
	{"commonName", oid("2.5.4.3"), 64, FormDirectory},
	{"surname", oid("2.5.4.4"), 40, FormDirectory},
	{"serialNumber", oid("2.5.4.5"), 64, FormPrintable},
	{"countryName", oid("2.5.4.6"), 2, FormPrintable},
	{"localityName", oid("2.5.4.7"), 128, FormDirectory},
	{"stateOrProvinceName", oid("2.5.4.8"), 128, FormDirectory},
	{"streetAddress", oid("2.5.4.9"), 128, FormDirectory},
	{"organizationName", oid("2.5.4.10"), 64, FormDirectory},
	{"organizationalUnitName", oid("2.5.4.11"), 64, FormDirectory},
	{"title", oid("2.5.4.12"), 64, FormDirectory},
	{"givenName", oid("2.5.4.42"), 16, FormDirectory},
	{"dnQualifier", oid("2.5.4.46"), 64, FormPrintable},
	{"pseudonym", oid("2.5.4.65"), 128, FormDirectory},
	{"userId", oid("0.9.2342.19200300.100.1.1"), 256, FormDirectory},
	{"domainComponent", oid("0.9.2342.19200300.100.1.25"), 63, FormIA5},
	// TCG EK Credential Profile for TPM Family 2.0, section 3.2.9.
	{"tpmManufacturer", oid("2.23.133.2.1"), 256, FormUTF8},
	{"tpmModel", oid("2.23.133.2.2"), 256, FormUTF8},
	{"tpmVersion", oid("2.23.133.2.3"), 256, FormUTF8},
}

// Attributes returns the attribute types that profiles may name.
func Attributes() []Attribute { return slices.Clone(attributes) }

// AttributeByName returns the attribute type with this name. A dotted OID names
// a private attribute, written as a directory string of at most 128 characters.
func AttributeByName(name string) (Attribute, bool) {
	if i := slices.IndexFunc(attributes, func(a Attribute) bool { return a.Name == name }); i >= 0 {
		return attributes[i], true
	}
	o, err := x509.ParseOID(name)
	if err != nil {
		return Attribute{}, false
	}
	if a, ok := AttributeByOID(o); ok {
		return a, true
	}
	return Attribute{Name: name, OID: o, Max: 128, Form: FormDirectory}, true
}

// AttributeByOID returns the named attribute type with this OID.
func AttributeByOID(o x509.OID) (Attribute, bool) {
	if i := slices.IndexFunc(attributes, func(a Attribute) bool { return a.OID.Equal(o) }); i >= 0 {
		return attributes[i], true
	}
	return Attribute{}, false
}

// AltNameType is a type of entry in the subject alternative name.
type AltNameType string

// The types of alternative names that profiles may ask for.
const (
	AltDNS                 AltNameType = "dNSName"
	AltIP                  AltNameType = "iPAddress"
	AltURI                 AltNameType = "uniformResourceIdentifier"
	AltEmail               AltNameType = "rfc822Name"
	AltHardwareModuleName  AltNameType = "hardwareModuleName"  // RFC 4108, section 5
	AltPermanentIdentifier AltNameType = "permanentIdentifier" // RFC 4043
	AltDirectoryName       AltNameType = "directoryName"
)

// AltNameTypes returns all types of alternative names.
func AltNameTypes() []AltNameType {
	return []AltNameType{AltDNS, AltIP, AltURI, AltEmail, AltHardwareModuleName, AltPermanentIdentifier, AltDirectoryName}
}

// Printable reports whether s can be a PrintableString.
func Printable(s string) bool {
	for i := range len(s) {
		if !printableByte(s[i]) {
			return false
		}
	}
	return true
}

func printableByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	switch c {
	case ' ', '\'', '(', ')', '+', ',', '-', '.', '/', ':', '=', '?':
		return true
	}
	return false
}

// oid parses an OID that this package's source spells.
func oid(s string) x509.OID {
	o, err := x509.ParseOID(s)
	if err != nil {
		panic("profile: " + s + ": " + err.Error())
	}
	return o
}

package request

import (
	"bytes"
	"net/url"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
)

const maxURI = 1024

// checkSAN judges the value of a requested subjectAltName (RFC 5280, section
// 4.2.1.6).
func checkSAN(der cryptobyte.String) error {
	var names cryptobyte.String
	if !der.ReadASN1(&names, asn1.SEQUENCE) || !der.Empty() {
		return fault.New(fault.ExtensionRefused, "subjectAltName is not GeneralNames")
	}
	if names.Empty() {
		return fault.New(fault.ExtensionRefused, "subjectAltName is empty")
	}
	for n := 0; !names.Empty(); n++ {
		if n == MaxNames {
			return fault.New(fault.ExtensionRefused, "subjectAltName has more than", MaxNames, "names")
		}
		var name cryptobyte.String
		var tag asn1.Tag
		if !names.ReadAnyASN1(&name, &tag) {
			return fault.New(fault.ExtensionRefused, "subjectAltName is not GeneralNames")
		}
		if detail, ok := checkGeneralName(tag, name); !ok {
			return fault.New(fault.ExtensionRefused, "subjectAltName:", detail)
		}
	}
	return nil
}

// Tags of GeneralName.
const (
	tagOtherName    = asn1.Tag(0x80 | 0x20)
	tagEmail        = asn1.Tag(0x80 | 1)
	tagDNS          = asn1.Tag(0x80 | 2)
	tagDirectory    = asn1.Tag(0x80 | 0x20 | 4)
	tagURI          = asn1.Tag(0x80 | 6)
	tagIP           = asn1.Tag(0x80 | 7)
	tagRegisteredID = asn1.Tag(0x80 | 8)
)

// checkGeneralName judges one name and says what kind it is. X.400 addresses
// and EDI party names have no use here.
func checkGeneralName(tag asn1.Tag, name cryptobyte.String) (kind string, ok bool) {
	switch tag {
	case tagOtherName:
		return "otherName", validOtherName(name)
	case tagEmail:
		at := bytes.IndexByte(name, '@')
		return "rfc822Name", ascii(name) && at > 0 && at < len(name)-1 && len(name) <= maxText
	case tagDNS:
		return "dNSName", validDNSName(name)
	case tagDirectory:
		_, ok := checkName(name)
		return "directoryName", ok && len(name) <= MaxSubject
	case tagURI:
		return "uniformResourceIdentifier", validURI(name)
	case tagIP:
		return "iPAddress", len(name) == 4 || len(name) == 16
	case tagRegisteredID:
		return "registeredID", validOID(name)
	}
	return "unknown kind of name", false
}

// validOtherName reports whether the content of an otherName is a type and one
// explicitly tagged value.
func validOtherName(name cryptobyte.String) bool {
	var oid, explicit, value cryptobyte.String
	var tag asn1.Tag
	return name.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) && validOID(oid) &&
		name.ReadASN1(&explicit, asn1.Tag(0).ContextSpecific().Constructed()) && name.Empty() &&
		explicit.ReadAnyASN1(&value, &tag) && explicit.Empty() && !value.Empty()
}

// validDNSName reports whether name is a host name in the preferred syntax
// (RFC 1034, section 3.5), with underscores, or with a wildcard as its first
// label.
func validDNSName(name []byte) bool {
	if rest, ok := bytes.CutPrefix(name, []byte("*.")); ok {
		name = rest
	}
	if len(name) == 0 || len(name) > 253 {
		return false
	}
	for label := range bytes.SplitSeq(name, []byte(".")) {
		if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, b := range label {
			if (b < 'a' || b > 'z') && (b < 'A' || b > 'Z') && (b < '0' || b > '9') && b != '-' && b != '_' {
				return false
			}
		}
	}
	return true
}

// validURI reports whether name is an absolute URI without a password.
func validURI(name []byte) bool {
	if len(name) == 0 || len(name) > maxURI || !ascii(name) || bytes.IndexByte(name, ' ') >= 0 {
		return false
	}
	u, err := url.Parse(string(name))
	if err != nil || u.Scheme == "" || u.User != nil {
		return false
	}
	return u.Host == "" || validHost(u.Hostname())
}

// validHost accepts host names and, in URIs only, IPv6 addresses.
func validHost(host string) bool {
	return validDNSName([]byte(host)) || bytes.IndexByte([]byte(host), ':') >= 0
}

package tpm

import (
	"encoding/asn1"
	"encoding/hex"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
)

// The attributes with which makers name a TPM in a certificate (TCG EK Credential
// Profile, section 3.1.2).
var (
	OIDManufacturer = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	OIDModel        = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	OIDVersion      = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
)

// EKNames is what the maker of a TPM says of it in the certificate of its
// endorsement key.
type EKNames struct {
	Manufacturer string // "id:494E5443"
	Model        string
	Version      string // "id:00010002"
}

// idPrefix is before the numbers in Manufacturer and Version.
const idPrefix = "id:"

// Vendor returns the letters of the manufacturer's number ("INTC", "IFX"), its
// eight digits where they are no letters, or nothing where Manufacturer is not
// "id:" and eight hexadecimal digits.
func (n EKNames) Vendor() string {
	digits, ok := strings.CutPrefix(n.Manufacturer, idPrefix)
	octets, err := hex.DecodeString(digits)
	if !ok || err != nil || len(octets) != 4 {
		return ""
	}
	letters := strings.TrimRight(string(octets), "\x00 ")
	for _, c := range []byte(letters) {
		if c < ' ' || c > '~' {
			return strings.ToUpper(digits)
		}
	}
	return letters
}

// Firmware returns the number in Version, and whether Version is "id:" and one to
// eight hexadecimal digits; makers differ in how many they write.
func (n EKNames) Firmware() (uint32, bool) {
	digits, ok := strings.CutPrefix(n.Version, idPrefix)
	if !ok || strings.ContainsAny(digits, "+-_") {
		return 0, false
	}
	v, err := strconv.ParseUint(digits, 16, 32)
	return uint32(v), err == nil && len(digits) <= 8
}

// ParseEKNames reads the value of a subjectAltName extension: exactly one
// directoryName, in it each of 2.23.133.2.1, .2 and .3 once, in one set or in
// several, in any order. Other names and attributes are passed over. Refusals are
// EKCertificate.
func ParseEKNames(san []byte) (EKNames, error) {
	var n EKNames
	outer := cryptobyte.String(san)
	var names, directory cryptobyte.String
	if !outer.ReadASN1(&names, cbasn1.SEQUENCE) || !outer.Empty() {
		return n, badNames("not a list of names")
	}
	found := 0
	for !names.Empty() {
		var name cryptobyte.String
		var tag cbasn1.Tag
		if !names.ReadAnyASN1(&name, &tag) {
			return n, badNames("not a list of names")
		}
		if tag == cbasn1.Tag(4).ContextSpecific().Constructed() {
			directory = name
			found++
		}
	}
	var rdns cryptobyte.String
	if found != 1 || !directory.ReadASN1(&rdns, cbasn1.SEQUENCE) || !directory.Empty() {
		return n, badNames("not exactly one directoryName")
	}
	if err := n.readAll(rdns); err != nil {
		return EKNames{}, err
	}
	if n.Manufacturer == "" || n.Model == "" || n.Version == "" {
		return EKNames{}, badNames("without manufacturer, model or version")
	}
	return n, nil
}

func (n *EKNames) readAll(rdns cryptobyte.String) error {
	for !rdns.Empty() {
		var set cryptobyte.String
		if !rdns.ReadASN1(&set, cbasn1.SET) || set.Empty() {
			return badNames("directoryName")
		}
		for !set.Empty() {
			var pair, value cryptobyte.String
			var oid asn1.ObjectIdentifier
			var tag cbasn1.Tag
			if !set.ReadASN1(&pair, cbasn1.SEQUENCE) || !pair.ReadASN1ObjectIdentifier(&oid) ||
				!pair.ReadAnyASN1(&value, &tag) || !pair.Empty() {
				return badNames("directoryName")
			}
			if err := n.take(oid, value, tag); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxText is the longest text of a maker that we keep.
const maxText = 128

func (n *EKNames) take(oid asn1.ObjectIdentifier, value []byte, tag cbasn1.Tag) error {
	var field *string
	switch {
	case oid.Equal(OIDManufacturer):
		field = &n.Manufacturer
	case oid.Equal(OIDModel):
		field = &n.Model
	case oid.Equal(OIDVersion):
		field = &n.Version
	default:
		return nil
	}
	text := string(value)
	switch {
	case *field != "":
		return badNames("an attribute twice")
	case tag != cbasn1.UTF8String && tag != cbasn1.PrintableString && tag != cbasn1.IA5String,
		text == "", len(text) > maxText, !utf8.ValidString(text), strings.ContainsFunc(text, unprintable):
		return badNames("an attribute that is no text")
	}
	*field = text
	return nil
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

func badNames(what string) error {
	return fault.New(fault.EKCertificate, "subjectAltName:", what)
}

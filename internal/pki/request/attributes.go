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
	oidChallengePassword    = "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x07"
	oidExtensionRequest     = "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x0e"
	oidAsymmetricDecryptKey = "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x02\x36"
	oidDecryptKey           = "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x02\x25"
	oidAttestation          = "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x02\x3b"
	// Microsoft's older place for extensions. Some CAs read both, so a request
	// that uses it may show two faces; ours has one.
	oidMicrosoftExtensions = "\x2b\x06\x01\x04\x01\x82\x37\x02\x01\x0e"

	oidSubjectAltName   = "\x55\x1d\x11"
	oidBasicConstraints = "\x55\x1d\x13"

	prefixCE = "\x55\x1d"                     // id-ce, RFC 5280
	prefixPE = "\x2b\x06\x01\x05\x05\x07\x01" // id-pe, RFC 5280
	maxText  = 255                            // pkcs-9-ub-challengePassword, RFC 2985
)

// readAttributes reads the content of the attributes field. Attributes that the
// product has no use for are well formed, appear once, and are not looked at.
func (r *Request) readAttributes(attributes cryptobyte.String) error {
	var seen [MaxAttributes]cryptobyte.String
	for n := 0; !attributes.Empty(); n++ {
		if n == MaxAttributes {
			return fault.New(fault.RequestAttributes, "more than", MaxAttributes)
		}
		var attribute, oid, values cryptobyte.String
		if !attributes.ReadASN1(&attribute, asn1.SEQUENCE) ||
			!attribute.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) || !validOID(oid) ||
			!attribute.ReadASN1(&values, asn1.SET) || !attribute.Empty() {
			return fault.New(fault.RequestMalformed, "attributes")
		}
		if contains(seen[:n], oid) {
			return fault.New(fault.RequestAttributes, "an attribute is there twice")
		}
		seen[n] = oid
		if err := r.readAttribute(oid, values); err != nil {
			return err
		}
	}
	return nil
}

// readAttribute reads the values of one attribute.
func (r *Request) readAttribute(oid, values cryptobyte.String) error {
	if values.Empty() {
		return fault.New(fault.RequestAttributes, "an attribute has no value")
	}
	var err error
	switch string(oid) {
	case oidChallengePassword:
		r.Challenge, err = readChallenge(values)
	case oidExtensionRequest:
		r.SAN, err = readExtensions(values)
	case oidAsymmetricDecryptKey:
		r.DecryptKey, err = readKeyIdentifier(values)
	case oidDecryptKey:
		r.SharedKey = true
	case oidAttestation:
		r.Attestation, err = readAttestation(values)
	case oidMicrosoftExtensions:
		err = fault.New(fault.ExtensionRefused, "send extensions in extensionRequest (RFC 2985, section 5.4.2)")
	}
	return err
}

// Attestation returns the attestation bundle of a DER PKCS #10 request whose
// signature nobody has verified yet, as Parse finds it, or nil where it has none.
func Attestation(der []byte) ([]byte, error) {
	if len(der) > MaxSize || !bytes.Contains(der, []byte(oidAttestation)) {
		return nil, nil
	}
	_, info, err := split(der)
	if err != nil {
		return nil, err
	}
	r := new(Request)
	if err := r.readInfo(info); err != nil {
		return nil, err
	}
	return r.Attestation, nil
}

// readAttestation reads the single value of the attestation attribute; what is in
// it is for package format/tpm.
func readAttestation(values cryptobyte.String) ([]byte, error) {
	var bundle cryptobyte.String
	if !values.ReadASN1Element(&bundle, asn1.SEQUENCE) || !values.Empty() {
		return nil, fault.New(fault.RequestAttributes, "the attestation is not one bundle")
	}
	return bundle, nil
}

// readKeyIdentifier reads the single value of AsymmetricDecryptKeyIdentifier.
func readKeyIdentifier(values cryptobyte.String) ([]byte, error) {
	var id cryptobyte.String
	if !values.ReadASN1(&id, asn1.OCTET_STRING) || !values.Empty() || len(id) == 0 || len(id) > 64 {
		return nil, fault.New(fault.RequestAttributes, "AsymmetricDecryptKeyIdentifier is one octet string of 1 to 64 octets")
	}
	return id, nil
}

// readChallenge reads the single value of a challengePassword.
func readChallenge(values cryptobyte.String) (string, error) {
	var text cryptobyte.String
	var tag asn1.Tag
	if !values.ReadAnyASN1(&text, &tag) || !values.Empty() {
		return "", fault.New(fault.RequestAttributes, "challengePassword has more than one value")
	}
	if len(text) > maxText || !readable(tag, text) {
		return "", fault.New(fault.RequestAttributes, "challengePassword")
	}
	return string(text), nil
}

// readable reports whether text is a non-empty string of the type its tag says,
// without invisible characters.
func readable(tag asn1.Tag, text []byte) bool {
	switch tag {
	case asn1.UTF8String:
		return len(text) > 0 && utf8.Valid(text) && visible(text)
	case asn1.PrintableString:
		return len(text) > 0 && printable(text)
	case asn1.IA5String:
		return len(text) > 0 && ascii(text)
	}
	return false
}

// readExtensions reads the single value of an extensionRequest and returns the
// value of its subjectAltName, if any. All other extensions come from the
// profile, whatever the request says, so they need only be harmless to read.
func readExtensions(values cryptobyte.String) (san []byte, err error) {
	var list cryptobyte.String
	if !values.ReadASN1(&list, asn1.SEQUENCE) || !values.Empty() {
		return nil, fault.New(fault.RequestMalformed, "extensionRequest")
	}
	if list.Empty() {
		return nil, fault.New(fault.ExtensionRefused, "the list is empty")
	}
	var seen [MaxExtensions]cryptobyte.String
	for n := 0; !list.Empty(); n++ {
		if n == MaxExtensions {
			return nil, fault.New(fault.ExtensionRefused, "more than", MaxExtensions)
		}
		oid, value, ok := readExtension(&list)
		if !ok {
			return nil, fault.New(fault.RequestMalformed, "extensionRequest")
		}
		if contains(seen[:n], oid) {
			return nil, fault.New(fault.ExtensionRefused, "an extension is there twice")
		}
		seen[n] = oid
		if err := checkExtension(oid, value); err != nil {
			return nil, err
		}
		if string(oid) == oidSubjectAltName {
			san = value
		}
	}
	return san, nil
}

// readExtension reads one Extension (RFC 5280, section 4.1).
func readExtension(list *cryptobyte.String) (oid, value cryptobyte.String, ok bool) {
	var ext, critical cryptobyte.String
	if !list.ReadASN1(&ext, asn1.SEQUENCE) || !ext.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) || !validOID(oid) {
		return nil, nil, false
	}
	// DEFAULT FALSE: in DER only TRUE is ever written, as 0xff.
	if ext.PeekASN1Tag(asn1.BOOLEAN) &&
		(!ext.ReadASN1(&critical, asn1.BOOLEAN) || string(critical) != "\xff") {
		return nil, nil, false
	}
	if !ext.ReadASN1(&value, asn1.OCTET_STRING) || !ext.Empty() {
		return nil, nil, false
	}
	return oid, value, true
}

// checkExtension looks at the value of an extension of RFC 5280: one DER
// element, and no empty list, on which more than one reader has tripped.
func checkExtension(oid, value cryptobyte.String) error {
	if string(oid) == oidSubjectAltName {
		return checkSAN(value)
	}
	if !hasPrefix(oid, prefixCE) && !hasPrefix(oid, prefixPE) {
		return nil
	}
	var content cryptobyte.String
	var tag asn1.Tag
	if !value.ReadAnyASN1(&content, &tag) || !value.Empty() {
		return fault.New(fault.ExtensionRefused, "a value is not DER")
	}
	// An empty basicConstraints is the usual way to say "not a CA".
	if tag == asn1.SEQUENCE && content.Empty() && string(oid) != oidBasicConstraints {
		return fault.New(fault.ExtensionRefused, "a value is an empty list")
	}
	return nil
}

// hasPrefix reports whether oid lies directly or deeper under prefix.
func hasPrefix(oid []byte, prefix string) bool {
	return len(oid) > len(prefix) && string(oid[:len(prefix)]) == prefix
}

func contains(seen []cryptobyte.String, oid []byte) bool {
	return slices.ContainsFunc(seen, func(s cryptobyte.String) bool { return bytes.Equal(s, oid) })
}

package signer

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/x509"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
)

// facts are what the bytes to be signed say.
type facts struct {
	kind      Kind   // by which it is journaled
	also      []Kind // that it is besides
	algorithm []byte // AlgorithmIdentifier inside; nil where there is none
	issuer    []byte // DER of the name
	keyID     []byte // authorityKeyIdentifier
	subject   []byte
	spki      []byte
	number    []byte // content octets of the certificate's serial or of the CRL's number
	scope     [32]byte
	scoped    bool // CRL: numbers rise within the scope
	self      bool // a root's certificate for itself; set by judge
	from, to  time.Time
	entries   int // of a CRL

	responderName, responderKey []byte // OCSP: one of them
	ids                         []certID
}

// certID names a certificate's issuer in an OCSP answer.
type certID struct {
	hash              crypto.Hash
	nameHash, keyHash []byte
}

func malformed(what string) error { return fault.New(fault.SignerContent, what) }

// explicit returns the tag of a constructed context-specific element.
func explicit(n uint8) asn1.Tag { return asn1.Tag(n).ContextSpecific().Constructed() }

// parse finds out what bytes are by what stands first, and reads them to their
// last octet. The forms exclude one another: version [0] 2 begins a certificate,
// INTEGER 1 a CRL, INTEGER 0 a request, responderID [1] or [2] an OCSP answer.
func parse(tbs []byte) (facts, error) {
	in := cryptobyte.String(tbs)
	var inner cryptobyte.String
	if !in.ReadASN1(&inner, asn1.SEQUENCE) || !in.Empty() || len(inner) < 3 {
		return facts{}, malformed("it is not one DER SEQUENCE")
	}
	switch {
	case inner[0] == 0xa0:
		return parseCertificate(inner)
	case inner[0] == 0xa1 || inner[0] == 0xa2:
		return parseOCSP(inner)
	case inner[0] == 0x02 && inner[1] == 1 && inner[2] == 0:
		return parseRequest(inner)
	case inner[0] == 0x02 && inner[1] == 1 && inner[2] == 1:
		return (&walker{bufio.NewReaderSize(bytes.NewReader(tbs), walkBuffer)}).list()
	}
	return facts{}, malformed("it is of no kind that is signed here")
}

// parseCertificate reads a TBSCertificate (RFC 5280, section 4.1).
func parseCertificate(in cryptobyte.String) (f facts, err error) {
	var version, serialNumber, validity, extensions cryptobyte.String
	if !in.ReadASN1(&version, explicit(0)) || !bytes.Equal(version, []byte{2, 1, 2}) ||
		!in.ReadASN1(&serialNumber, asn1.INTEGER) || !positive(serialNumber) ||
		!element(&in, &f.algorithm) || !element(&in, &f.issuer) ||
		!in.ReadASN1(&validity, asn1.SEQUENCE) {
		return f, malformed("the certificate's head is malformed")
	}
	f.number = serialNumber
	if !readTime(&validity, &f.from) || !readTime(&validity, &f.to) || !validity.Empty() || f.to.Before(f.from) {
		return f, malformed("the certificate's validity is malformed")
	}
	if !element(&in, &f.subject) || !element(&in, &f.spki) {
		return f, malformed("the certificate's subject is malformed")
	}
	if !in.ReadASN1(&extensions, explicit(3)) || !in.Empty() {
		return f, malformed("the certificate has no extensions, or unique identifiers")
	}
	return f, f.readExtensions(extensions)
}

// element reads a whole SEQUENCE.
func element(in *cryptobyte.String, out *[]byte) bool {
	var e cryptobyte.String
	ok := in.ReadASN1Element(&e, asn1.SEQUENCE)
	*out = e
	return ok
}

// positive reports whether s is the content of a positive INTEGER in its shortest
// form, of at most 20 octets (RFC 5280, section 4.1.2.2).
func positive(s []byte) bool {
	switch {
	case len(s) == 0 || len(s) > 20 || s[0] >= 0x80:
		return false
	case s[0] != 0:
		return true
	}
	return len(s) > 1 && s[1] >= 0x80
}

// readTime reads a time in the one form that RFC 5280 has for it (section
// 4.1.2.5): readers differ in what they make of others.
func readTime(in *cryptobyte.String, out *time.Time) bool {
	if in.PeekASN1Tag(asn1.UTCTime) {
		whole := *in
		return in.ReadASN1UTCTime(out) && inZulu(whole, len("YYMMDDHHMMSSZ"))
	}
	return readGeneralized(in, out) && out.Year() >= 2050
}

// readGeneralized reads a GeneralizedTime in seconds, in UTC.
func readGeneralized(in *cryptobyte.String, out *time.Time) bool {
	whole := *in
	return in.ReadASN1GeneralizedTime(out) && inZulu(whole, len("YYYYMMDDHHMMSSZ"))
}

func inZulu(element cryptobyte.String, length int) bool {
	var text cryptobyte.String
	var tag asn1.Tag
	return element.ReadAnyASN1(&text, &tag) && len(text) == length && text[length-1] == 'Z'
}

// readOID reads the content of an OBJECT IDENTIFIER. Padded forms of the same
// number are refused: a lenient reader would take them for it.
func readOID(in *cryptobyte.String, out *cryptobyte.String) bool {
	if !in.ReadASN1(out, asn1.OBJECT_IDENTIFIER) || len(*out) == 0 || (*out)[len(*out)-1] >= 0x80 {
		return false
	}
	begins := true
	for _, b := range *out {
		if begins && b == 0x80 {
			return false
		}
		begins = b < 0x80
	}
	return true
}

// The contents of the object identifiers that matter.
const (
	oidBasicConstraints = "\x55\x1d\x13"
	oidKeyUsage         = "\x55\x1d\x0f"
	oidExtendedKeyUsage = "\x55\x1d\x25"
	oidAuthorityKeyID   = "\x55\x1d\x23"
	oidAltName          = "\x55\x1d\x11"
	oidCRLNumber        = "\x55\x1d\x14"
	oidDeltaCRL         = "\x55\x1d\x1b"
	oidIDP              = "\x55\x1d\x1c"

	oidCertificateIssuer = "\x55\x1d\x1d"

	usageServerAuth  = "\x2b\x06\x01\x05\x05\x07\x03\x01"
	usageOCSPSigning = "\x2b\x06\x01\x05\x05\x07\x03\x09"
	usageAny         = "\x55\x1d\x25\x00"
	usageAttestation = "\x67\x81\x05\x08\x03"

	// Server gated cryptography of the nineties: OpenSSL takes both for
	// serverAuth.
	usageMicrosoftSGC = "\x2b\x06\x01\x04\x01\x82\x37\x0a\x03\x03"
	usageNetscapeSGC  = "\x60\x86\x48\x01\x86\xf8\x42\x04\x01"

	// nsCertType makes a CA of a certificate that has neither basic constraints
	// nor key usage, for OpenSSL at least.
	oidNetscapeType = "\x60\x86\x48\x01\x86\xf8\x42\x01\x01"
)

// extensionsOf reads the content of [3] or [0]: SEQUENCE OF Extension. visit gets
// the contents of the identifier and of the value.
func extensionsOf(outer cryptobyte.String, visit func(oid, value string) bool) error {
	var all cryptobyte.String
	if !outer.ReadASN1(&all, asn1.SEQUENCE) || !outer.Empty() || all.Empty() {
		return malformed("the extensions are malformed")
	}
	seen := map[string]bool{}
	for !all.Empty() {
		var one, oid, value cryptobyte.String
		critical := true // DER leaves FALSE, the default, out
		if !all.ReadASN1(&one, asn1.SEQUENCE) || !readOID(&one, &oid) ||
			one.PeekASN1Tag(asn1.BOOLEAN) && !one.ReadASN1Boolean(&critical) || !critical ||
			!one.ReadASN1(&value, asn1.OCTET_STRING) || !one.Empty() || seen[string(oid)] {
			return malformed("an extension is malformed or there twice")
		}
		seen[string(oid)] = true
		if !visit(string(oid), string(value)) {
			return malformed("an extension's value is malformed")
		}
	}
	return nil
}

// traits are what a certificate's extensions say of it.
type traits struct {
	ca, signs, named                              bool
	limited                                       bool // has extended usages
	responder, server, anything, attestation, any bool // of these usages; any: others
}

// readExtensions judges what a certificate may do.
func (f *facts) readExtensions(outer cryptobyte.String) error {
	var is traits
	err := extensionsOf(outer, func(oid, value string) bool {
		v := cryptobyte.String(value)
		switch oid {
		case oidBasicConstraints:
			return readBasicConstraints(v, &is.ca)
		case oidKeyUsage:
			usage, ok := readUsage(v)
			is.signs = usage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0
			return ok
		case oidExtendedKeyUsage:
			is.limited = true
			return eachUsage(v, is.use)
		case oidAuthorityKeyID:
			return readKeyID(v, &f.keyID)
		case oidAltName:
			return eachName(v, func(tag asn1.Tag) { is.named = is.named || tag&0x1f == 2 || tag&0x1f == 7 })
		case oidNetscapeType:
			return false
		}
		return true
	})
	if err != nil {
		return err
	}
	all := is.kinds()
	f.kind, f.also = all[0], all[1:]
	return nil
}

func (t *traits) use(usage string) {
	switch usage {
	case usageOCSPSigning:
		t.responder = true
	case usageServerAuth, usageMicrosoftSGC, usageNetscapeSGC:
		t.server = true
	case usageAttestation:
		t.attestation = true
	case usageAny:
		t.anything = true
	default:
		t.any = true
	}
}

// kinds returns all that a certificate can be used as: a key must be allowed each
// of them, or a responder's certificate would pass for a server's besides.
func (t *traits) kinds() (all []Kind) {
	add := func(is bool, k Kind) {
		if is {
			all = append(all, k)
		}
	}
	ca := t.ca || t.signs
	// Without extended usages a name of a host makes a server's certificate, too.
	host := !t.limited && t.named
	add(ca, CA)
	add(t.responder || t.anything, Responder)
	add(!ca && (t.server || t.anything || host), TLSServer)
	add(!ca && t.attestation, Attestation)
	add(!ca && (t.any || t.anything || !t.limited), Leaf)
	return all
}

// readBasicConstraints reads the extension to its end: cA, then a path length.
func readBasicConstraints(v cryptobyte.String, ca *bool) bool {
	var inner cryptobyte.String
	if !v.ReadASN1(&inner, asn1.SEQUENCE) || !v.Empty() {
		return false
	}
	if inner.PeekASN1Tag(asn1.BOOLEAN) && (!inner.ReadASN1Boolean(ca) || !*ca) {
		return false
	}
	var length uint8
	return inner.Empty() || *ca && inner.ReadASN1Integer(&length) && inner.Empty()
}

// readUsage reads a KeyUsage's first eight bits.
func readUsage(v cryptobyte.String) (usage x509.KeyUsage, ok bool) {
	var bits cryptobyte.String
	if !v.ReadASN1(&bits, asn1.BIT_STRING) || !v.Empty() || len(bits) < 1 || len(bits) > 3 {
		return 0, false
	}
	for i := range 8 {
		if len(bits) > 1 && bits[1]&(0x80>>i) != 0 {
			usage |= 1 << i
		}
	}
	return usage, true
}

func eachUsage(v cryptobyte.String, visit func(string)) bool {
	var all cryptobyte.String
	if !v.ReadASN1(&all, asn1.SEQUENCE) || !v.Empty() || all.Empty() {
		return false
	}
	for !all.Empty() {
		var oid cryptobyte.String
		if !readOID(&all, &oid) {
			return false
		}
		visit(string(oid))
	}
	return true
}

func eachName(v cryptobyte.String, visit func(asn1.Tag)) bool {
	var all cryptobyte.String
	if !v.ReadASN1(&all, asn1.SEQUENCE) || !v.Empty() {
		return false
	}
	for !all.Empty() {
		var tag asn1.Tag
		var name cryptobyte.String
		if !all.ReadAnyASN1(&name, &tag) {
			return false
		}
		visit(tag)
	}
	return true
}

// readKeyID reads the keyIdentifier of an AuthorityKeyIdentifier. Issuer and
// serial behind it are not for our certificates.
func readKeyID(v cryptobyte.String, out *[]byte) bool {
	var inner, id cryptobyte.String
	if !v.ReadASN1(&inner, asn1.SEQUENCE) || !v.Empty() || !inner.ReadASN1(&id, asn1.Tag(0).ContextSpecific()) || !inner.Empty() || len(id) == 0 {
		return false
	}
	*out = id
	return true
}

// parseRequest reads a CertificationRequestInfo (RFC 2986, section 4.1).
func parseRequest(in cryptobyte.String) (f facts, err error) {
	var attributes cryptobyte.String
	if !in.SkipASN1(asn1.INTEGER) || !element(&in, &f.subject) || !element(&in, &f.spki) ||
		!in.ReadASN1(&attributes, explicit(0)) || !in.Empty() {
		return f, malformed("the certification request is malformed")
	}
	f.kind = Certification
	return f, nil
}

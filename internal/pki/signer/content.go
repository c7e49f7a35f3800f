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
	kind      Kind
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

func readTime(in *cryptobyte.String, out *time.Time) bool {
	if in.PeekASN1Tag(asn1.UTCTime) {
		return in.ReadASN1UTCTime(out)
	}
	return in.ReadASN1GeneralizedTime(out)
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

	usageServerAuth  = "\x2b\x06\x01\x05\x05\x07\x03\x01"
	usageOCSPSigning = "\x2b\x06\x01\x05\x05\x07\x03\x09"
	usageAny         = "\x55\x1d\x25\x00"
	usageAttestation = "\x67\x81\x05\x08\x03"
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
		critical := false
		if !all.ReadASN1(&one, asn1.SEQUENCE) || !one.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) ||
			one.PeekASN1Tag(asn1.BOOLEAN) && !one.ReadASN1Boolean(&critical) ||
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

// readExtensions judges what a certificate may do.
func (f *facts) readExtensions(outer cryptobyte.String) error {
	var is struct{ ca, signs, responder, server, named, attestation, limited bool }
	err := extensionsOf(outer, func(oid, value string) bool {
		v := cryptobyte.String(value)
		switch oid {
		case oidBasicConstraints:
			var inner cryptobyte.String
			return v.ReadASN1(&inner, asn1.SEQUENCE) && v.Empty() &&
				(inner.Empty() || !inner.PeekASN1Tag(asn1.BOOLEAN) || inner.ReadASN1Boolean(&is.ca))
		case oidKeyUsage:
			usage, ok := readUsage(v)
			is.signs = usage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0
			return ok
		case oidExtendedKeyUsage:
			is.limited = true
			return eachUsage(v, func(usage string) {
				is.responder = is.responder || usage == usageOCSPSigning || usage == usageAny
				is.server = is.server || usage == usageServerAuth
				is.attestation = is.attestation || usage == usageAttestation
			})
		case oidAuthorityKeyID:
			return readKeyID(v, &f.keyID)
		case oidAltName:
			return eachName(v, func(tag asn1.Tag) { is.named = is.named || tag&0x1f == 2 || tag&0x1f == 7 })
		}
		return true
	})
	switch {
	case is.ca || is.signs:
		f.kind = CA
	case is.responder:
		f.kind = Responder
	case is.server || !is.limited && is.named:
		// Without extended usages a name of a host makes a server's certificate.
		f.kind = TLSServer
	case is.attestation:
		f.kind = Attestation
	default:
		f.kind = Leaf
	}
	return err
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
		if !all.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) {
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

package status

import (
	"bytes"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
)

// Limits of an OCSP request.
const (
	MaxOCSPRequest = 4096 // octets
	maxCertIDs     = 16
	maxNonce       = 128 // RFC 9654, section 2.1
)

// ocspRequest is a request of RFC 6960, section 4.1.1. Its slices alias the
// bytes that were parsed.
type ocspRequest struct {
	ids   []certID
	nonce []byte // nil: none
}

// certID names a certificate by hashes of its issuer's name and key.
type certID struct {
	raw        []byte // DER, to be echoed
	issuer     issuerKey
	certSerial []byte // content octets; nil: no serial of ours can be like that
}

// hashName is the algorithm of a CertID.
type hashName uint8

const (
	sha1Hash hashName = iota + 1
	sha256Hash
)

// issuerKey is how a CertID names an issuer, for look-ups.
type issuerKey struct {
	hash      hashName // 0: an algorithm that nothing is known under
	name, key [32]byte // SHA-1 leaves twelve zeros at the end
}

var (
	oidSHA1      = []byte{0x2b, 0x0e, 0x03, 0x02, 0x1a}
	oidSHA256    = []byte{0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01}
	oidOCSPNonce = []byte{0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x02}
)

// contextTag is an explicit tag.
func contextTag(n uint8) asn1.Tag { return asn1.Tag(n).Constructed().ContextSpecific() }

// malformed is the one answer to whatever does not parse.
func malformed() error { return fault.New(fault.OCSPMalformed) }

// parseOCSPRequest reads a DER OCSPRequest and nothing else. A signature on the
// request is skipped: answers are for everyone.
func parseOCSPRequest(der []byte) (*ocspRequest, error) {
	if len(der) > MaxOCSPRequest {
		return nil, malformed()
	}
	in := cryptobyte.String(der)
	var outer, tbs, list, signature cryptobyte.String
	if !in.ReadASN1(&outer, asn1.SEQUENCE) || !in.Empty() || !outer.ReadASN1(&tbs, asn1.SEQUENCE) ||
		!outer.ReadOptionalASN1(&signature, nil, contextTag(0)) || !outer.Empty() || !skipHead(&tbs) ||
		!tbs.ReadASN1(&list, asn1.SEQUENCE) || list.Empty() {
		return nil, malformed()
	}
	r := new(ocspRequest)
	for !list.Empty() {
		var single cryptobyte.String
		if len(r.ids) == maxCertIDs || !list.ReadASN1(&single, asn1.SEQUENCE) {
			return nil, malformed()
		}
		id, ok := readCertID(&single)
		if !ok || !readExtensions(&single, contextTag(0), nil) || !single.Empty() {
			return nil, malformed()
		}
		r.ids = append(r.ids, id)
	}
	if !readExtensions(&tbs, contextTag(2), &r.nonce) || !tbs.Empty() {
		return nil, malformed()
	}
	return r, nil
}

// skipHead reads version, which must be v1 if it is there at all, and
// requestorName.
func skipHead(tbs *cryptobyte.String) bool {
	var version, name cryptobyte.String
	var present bool
	if !tbs.ReadOptionalASN1(&version, &present, contextTag(0)) {
		return false
	}
	if present {
		var v int
		if !version.ReadASN1Integer(&v) || v != 0 || !version.Empty() {
			return false
		}
	}
	return tbs.ReadOptionalASN1(&name, nil, contextTag(1))
}

// readCertID reads SEQUENCE { AlgorithmIdentifier, OCTET STRING, OCTET STRING,
// INTEGER }.
func readCertID(single *cryptobyte.String) (certID, bool) {
	var raw, body, algorithm, oid, name, key, number cryptobyte.String
	if !single.ReadASN1Element(&raw, asn1.SEQUENCE) {
		return certID{}, false
	}
	element := raw
	if !element.ReadASN1(&body, asn1.SEQUENCE) || !body.ReadASN1(&algorithm, asn1.SEQUENCE) ||
		!algorithm.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) ||
		!algorithm.Empty() && (!algorithm.SkipASN1(asn1.NULL) || !algorithm.Empty()) ||
		!body.ReadASN1(&name, asn1.OCTET_STRING) || !body.ReadASN1(&key, asn1.OCTET_STRING) ||
		!body.ReadASN1(&number, asn1.INTEGER) || !body.Empty() || !minimal(number) {
		return certID{}, false
	}
	id := certID{raw: raw}
	if number[0] < 0x80 && len(number) <= 20 {
		id.certSerial = number
	}
	size := 0
	switch {
	case bytes.Equal(oid, oidSHA1):
		id.issuer.hash, size = sha1Hash, 20
	case bytes.Equal(oid, oidSHA256):
		id.issuer.hash, size = sha256Hash, 32
	default:
		return id, true // the issuer is not one of ours under that name
	}
	if len(name) != size || len(key) != size {
		return certID{}, false
	}
	copy(id.issuer.name[:], name)
	copy(id.issuer.key[:], key)
	return id, true
}

// minimal reports whether octets are the content of a DER INTEGER.
func minimal(n []byte) bool {
	return len(n) == 1 || len(n) > 1 && (n[0] != 0 || n[1] >= 0x80) && (n[0] != 0xff || n[1] < 0x80)
}

// readExtensions reads optional extensions. The nonce is taken, if the caller
// wants it; others are skipped, unless they are critical.
func readExtensions(s *cryptobyte.String, tag asn1.Tag, nonce *[]byte) bool {
	var outer, list cryptobyte.String
	var present bool
	if !s.ReadOptionalASN1(&outer, &present, tag) {
		return false
	}
	if !present {
		return true
	}
	if !outer.ReadASN1(&list, asn1.SEQUENCE) || !outer.Empty() || list.Empty() {
		return false
	}
	for !list.Empty() {
		var extension, oid, value cryptobyte.String
		critical := false
		if !list.ReadASN1(&extension, asn1.SEQUENCE) || !extension.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) ||
			extension.PeekASN1Tag(asn1.BOOLEAN) && !extension.ReadASN1Boolean(&critical) ||
			!extension.ReadASN1(&value, asn1.OCTET_STRING) || !extension.Empty() {
			return false
		}
		if nonce != nil && bytes.Equal(oid, oidOCSPNonce) {
			var content cryptobyte.String
			if *nonce != nil || !value.ReadASN1(&content, asn1.OCTET_STRING) || !value.Empty() ||
				len(content) == 0 || len(content) > maxNonce {
				return false
			}
			*nonce = content
			continue
		}
		if critical {
			return false
		}
	}
	return true
}

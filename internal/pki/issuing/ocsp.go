package issuing

import (
	"bytes"
	"crypto"
	"crypto/fips140"
	"crypto/sha1"
	"crypto/x509"
	"errors"
	"io"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
)

// OCSPStatus is what an answer says about a certificate.
type OCSPStatus uint8

// The statuses of RFC 6960, section 2.2, with their tag numbers.
const (
	OCSPGood OCSPStatus = iota
	OCSPRevoked
	OCSPUnknown
)

// OCSPAnswer is the answer about one certificate.
type OCSPAnswer struct {
	CertID                 []byte // DER of CertID, as in the request
	Status                 OCSPStatus
	RevokedAt              time.Time // of a revoked certificate
	Reason                 int       // ReasonUnspecified is left out
	ThisUpdate, NextUpdate time.Time // NextUpdate may be zero
}

// OCSPResponderConfig names what a responder signs with.
type OCSPResponderConfig struct {
	Certificate []byte // DER, sent along with each answer
	Key         Signer
	Check       SelfChecker // nil: signatures are verified with the public key
	Rand        io.Reader   // nil: crypto/rand
}

// OCSPResponder signs OCSP answers with a delegated key. It never changes and
// may be used by many goroutines.
type OCSPResponder struct {
	*signer
	id    []byte // responderID, [2] KeyHash
	certs []byte // [0] certs
}

// NewOCSPResponder returns a responder for a certificate with OCSPSigning and
// its key.
func NewOCSPResponder(c OCSPResponderConfig) (*OCSPResponder, error) {
	s, err := newSigner(c.Key, c.Check, c.Rand)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(c.Certificate)
	if err != nil {
		return nil, fault.Wrap(fault.CertificateInvalid, err, "OCSP responder")
	}
	if !bytes.Equal(cert.RawSubjectPublicKeyInfo, s.spki) {
		return nil, fault.New(fault.AuthorityMismatch, "OCSP responder")
	}
	if !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning) {
		return nil, fault.New(fault.ChainUsage, "an OCSP responder needs OCSPSigning")
	}
	// RFC 6960, section 4.2.1: KeyHash is SHA-1, whatever CertID uses. It names the
	// responder and is no part of a signature, so no matter for FIPS 140.
	var hash [sha1.Size]byte
	fips140.WithoutEnforcement(func() { hash = sha1.Sum(s.bits) })
	id := appendTLV(nil, tagOctetString, hash[:])
	certs := wrap(bytes.Clone(c.Certificate), 0, tagSequence)
	return &OCSPResponder{signer: s, id: wrap(id, 0, explicit(2)), certs: wrap(certs, 0, explicit(0))}, nil
}

// Octets that OCSP fixes.
var (
	// responseStatus successful, ENUMERATED 0.
	ocspSuccessful = []byte{tagEnumerated, 1, 0}
	// id-pkix-ocsp-basic.
	oidOCSPBasic = []byte{tagOID, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1}
	// id-pkix-ocsp-nonce.
	oidOCSPNonce = []byte{tagOID, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 2}
)

var errAnswer = errors.New("issuing: not an OCSP answer that can be signed")

// Sign returns an OCSPResponse with these answers. The nonce is the octets that
// the request carried inside its OCTET STRING; nil: none.
func (r *OCSPResponder) Sign(producedAt time.Time, answers []OCSPAnswer, nonce []byte) ([]byte, error) {
	if len(answers) == 0 || !whole(producedAt) {
		return nil, errAnswer
	}
	tbs := make([]byte, 0, 256+160*len(answers)+len(nonce)+len(r.certs)+r.size)
	tbs = append(tbs, r.id...)
	tbs = appendGeneralized(tbs, producedAt.UTC())
	start := len(tbs)
	for i := range answers {
		if !answers[i].valid() {
			return nil, errAnswer
		}
		tbs = answers[i].appendTo(tbs)
	}
	tbs = wrap(tbs, start, tagSequence)
	if nonce != nil {
		// RFC 9654: the extension's value is an OCTET STRING around the nonce.
		start := len(tbs)
		tbs = appendExtension(tbs, oidOCSPNonce, false, appendTLV(nil, tagOctetString, nonce))
		tbs = wrap(tbs, start, tagSequence)
		tbs = wrap(tbs, start, explicit(1))
	}
	tbs = wrap(tbs, 0, tagSequence)
	basic, err := r.seal(tbs, 0, r.certs)
	if err != nil {
		return nil, err
	}
	if err := r.compare(basic, producedAt, answers, nonce); err != nil {
		return nil, fault.Wrap(fault.SignatureFault, err)
	}
	return appendResponse(basic), nil
}

// appendResponse puts the unsigned envelope around a BasicOCSPResponse.
func appendResponse(basic []byte) []byte {
	dst := make([]byte, 0, len(basic)+32)
	dst = append(dst, ocspSuccessful...)
	start := len(dst)
	dst = append(dst, oidOCSPBasic...)
	dst = appendTLV(dst, tagOctetString, basic)
	dst = wrap(dst, start, tagSequence)
	dst = wrap(dst, start, explicit(0))
	return wrap(dst, 0, tagSequence)
}

func (a *OCSPAnswer) valid() bool {
	in := cryptobyte.String(a.CertID)
	if !in.SkipASN1(asn1.SEQUENCE) || !in.Empty() || !whole(a.ThisUpdate) {
		return false
	}
	if !a.NextUpdate.IsZero() && (!whole(a.NextUpdate) || a.NextUpdate.Before(a.ThisUpdate)) {
		return false
	}
	return a.Status <= OCSPUnknown && (a.Status != OCSPRevoked || whole(a.RevokedAt) && reasonOK(a.Reason))
}

// appendTo appends a SingleResponse.
func (a *OCSPAnswer) appendTo(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, a.CertID...)
	switch a.Status {
	case OCSPRevoked:
		status := len(dst)
		dst = appendGeneralized(dst, a.RevokedAt.UTC())
		if a.Reason != ReasonUnspecified {
			dst = append(dst, explicit(0), 3, tagEnumerated, 1, byte(a.Reason))
		}
		dst = wrap(dst, status, explicit(1))
	default:
		dst = append(dst, implicit(byte(a.Status)), 0)
	}
	dst = appendGeneralized(dst, a.ThisUpdate.UTC())
	if !a.NextUpdate.IsZero() {
		next := len(dst)
		dst = appendGeneralized(dst, a.NextUpdate.UTC())
		dst = wrap(dst, next, explicit(0))
	}
	return wrap(dst, start, tagSequence)
}

// compare holds a signed BasicOCSPResponse against what was meant.
func (r *OCSPResponder) compare(basic []byte, producedAt time.Time, answers []OCSPAnswer, nonce []byte) error {
	element, _, _, _, err := open(basic)
	if err != nil {
		return err
	}
	in := cryptobyte.String(element)
	var tbs, id, list cryptobyte.String
	if !in.ReadASN1(&tbs, asn1.SEQUENCE) ||
		!tbs.ReadASN1Element(&id, asn1.Tag(2).Constructed().ContextSpecific()) || !bytes.Equal(id, r.id) {
		return mismatch("responder")
	}
	if t, err := readTime(&tbs); err != nil || !t.Equal(producedAt) {
		return mismatch("producedAt")
	}
	if !tbs.ReadASN1(&list, asn1.SEQUENCE) {
		return mismatch("answers")
	}
	for i := range answers {
		if err := answers[i].compare(&list); err != nil {
			return err
		}
	}
	if !list.Empty() {
		return mismatch("answers")
	}
	return compareNonce(tbs, nonce)
}

func (a *OCSPAnswer) compare(list *cryptobyte.String) error {
	var single, id, status cryptobyte.String
	var tag asn1.Tag
	if !list.ReadASN1(&single, asn1.SEQUENCE) || !single.ReadASN1Element(&id, asn1.SEQUENCE) || !bytes.Equal(id, a.CertID) ||
		!single.ReadAnyASN1(&status, &tag) {
		return mismatch("answer")
	}
	want := asn1.Tag(a.Status).ContextSpecific()
	if a.Status == OCSPRevoked {
		want = want.Constructed()
		t, err := readTime(&status)
		if err != nil || !t.Equal(a.RevokedAt) {
			return mismatch("time of revocation")
		}
		reason := ReasonUnspecified
		var inner cryptobyte.String
		var present bool
		if !status.ReadOptionalASN1(&inner, &present, asn1.Tag(0).Constructed().ContextSpecific()) ||
			present && !inner.ReadASN1Enum(&reason) || reason != a.Reason {
			return mismatch("reason of revocation")
		}
	}
	if tag != want || !status.Empty() {
		return mismatch("status")
	}
	if t, err := readTime(&single); err != nil || !t.Equal(a.ThisUpdate) {
		return mismatch("thisUpdate")
	}
	var next cryptobyte.String
	var present bool
	if !single.ReadOptionalASN1(&next, &present, asn1.Tag(0).Constructed().ContextSpecific()) || present == a.NextUpdate.IsZero() || !single.Empty() {
		return mismatch("nextUpdate")
	}
	if present {
		if t, err := readTime(&next); err != nil || !t.Equal(a.NextUpdate) {
			return mismatch("nextUpdate")
		}
	}
	return nil
}

func compareNonce(tbs cryptobyte.String, nonce []byte) error {
	if nonce == nil {
		if !tbs.Empty() {
			return mismatch("nonce")
		}
		return nil
	}
	var outer, list cryptobyte.String
	if !tbs.ReadASN1(&outer, asn1.Tag(1).Constructed().ContextSpecific()) || !tbs.Empty() || !outer.ReadASN1(&list, asn1.SEQUENCE) {
		return mismatch("nonce")
	}
	oid, critical, value, ok := readExtension(&list)
	content := cryptobyte.String(value)
	var got cryptobyte.String
	if !ok || !list.Empty() || critical || !bytes.Equal(oid, oidOCSPNonce) ||
		!content.ReadASN1(&got, asn1.OCTET_STRING) || !content.Empty() || !bytes.Equal(got, nonce) {
		return mismatch("nonce")
	}
	return nil
}

// CertID returns the DER by which OCSP names a certificate: hashes of its
// issuer's name and key, and its serial.
func CertID(hash crypto.Hash, issuerName, issuerSPKI, certSerial []byte) ([]byte, error) {
	alg, ok := hashAlgorithms[hash]
	if !ok || !serialOK(certSerial) {
		return nil, errAnswer
	}
	bits, err := publicKeyBits(issuerSPKI)
	if err != nil {
		return nil, err
	}
	h := hash.New()
	h.Write(issuerName)
	dst := append([]byte(nil), alg...)
	dst = appendTLV(dst, tagOctetString, h.Sum(nil))
	h.Reset()
	h.Write(bits)
	dst = appendTLV(dst, tagOctetString, h.Sum(nil))
	dst = appendTLV(dst, tagInteger, certSerial)
	return wrap(dst, 0, tagSequence), nil
}

// hashAlgorithms are the AlgorithmIdentifiers of CertID, with NULL parameters as
// clients send them.
var hashAlgorithms = map[crypto.Hash][]byte{
	crypto.SHA1:   {0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00},
	crypto.SHA256: {0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00},
	crypto.SHA384: {0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00},
	crypto.SHA512: {0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03, 0x05, 0x00},
}

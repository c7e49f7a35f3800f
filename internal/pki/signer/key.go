package signer

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/fips140"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// key is a key with what it is bound to.
type key struct {
	name      string
	backend   Backend
	check     DigestChecker // nil: signatures are verified with the public key
	public    crypto.PublicKey
	spki      []byte
	bits      []byte // content of the subjectPublicKey BIT STRING
	hash      crypto.Hash
	algorithm []byte // AlgorithmIdentifier
	bounds    Bounds
	limits    *limits
	bind      func([]byte) error

	find   func() ([]byte, error)
	answer *party // issuer that OCSP answers are about; nil: the key itself

	bound   atomic.Pointer[binding]
	binding sync.Mutex // held while the certificate is looked for
}

// binding is the authority or responder that a key belongs to.
type binding struct {
	certificate []byte
	party
	pathLen int // most authorities below it; -1: no limit
}

// party is an issuer as certificates name it.
type party struct {
	name  []byte // DER
	keyID []byte
	bits  []byte // of its public key
}

// AlgorithmIdentifiers, as certificates name the ways in which our keys sign
// (RFC 5758, section 3.2, RFC 8410, section 3, RFC 4055, section 5).
var algorithms = map[profile.KeyType]struct {
	id   string
	hash crypto.Hash
}{
	profile.P256:    {"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02", crypto.SHA256},
	profile.P384:    {"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03", crypto.SHA384},
	profile.Ed25519: {"\x30\x05\x06\x03\x2b\x65\x70", 0},
	profile.RSA2048: {rsaSHA256, crypto.SHA256},
	profile.RSA3072: {rsaSHA256, crypto.SHA256},
	profile.RSA4096: {rsaSHA256, crypto.SHA256},
}

const rsaSHA256 = "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00"

func newKey(c *KeyConfig, remember int) (*key, error) {
	if err := c.Bounds.Check(c.Name); err != nil {
		return nil, err
	}
	if c.Backend == nil || c.Certificate == nil {
		return nil, fmt.Errorf("signer: key %s: Backend and Certificate are needed", c.Name)
	}
	public := c.Backend.Public()
	t, err := profile.KeyTypeOf(public)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fault.Wrap(fault.KeyAlgorithm, err)
	}
	k := &key{
		name: c.Name, backend: c.Backend, public: public, spki: spki, bits: bitsOf(spki), hash: algorithms[t].hash,
		algorithm: []byte(algorithms[t].id), bounds: c.Bounds, bind: c.Bind, find: c.Certificate,
		limits: newLimits(c.Bounds.Rate, c.Bounds.Daily, remember),
	}
	k.check, _ = c.Backend.(DigestChecker)
	if c.Issuer != nil {
		cert, err := x509.ParseCertificate(c.Issuer)
		if err != nil {
			return nil, fault.Wrap(fault.SignerConfig, err, "key", c.Name+":", "its issuer's certificate is none")
		}
		k.answer = &party{name: cert.RawSubject, bits: bitsOf(cert.RawSubjectPublicKeyInfo)}
	}
	return k, nil
}

// bitsOf returns the content of the BIT STRING in a SubjectPublicKeyInfo that
// was parsed before.
func bitsOf(spki []byte) []byte {
	in := cryptobyte.String(spki)
	var outer, bits cryptobyte.String
	if !in.ReadASN1(&outer, asn1.SEQUENCE) || !outer.SkipASN1(asn1.SEQUENCE) || !outer.ReadASN1(&bits, asn1.BIT_STRING) || len(bits) < 1 {
		return nil
	}
	return bits[1:]
}

// Fits reports whether a certificate (DER) is one that a key with these bounds
// can be bound to: the key's own, of an authority or of a responder.
func Fits(certificate, spki []byte, b *Bounds) error {
	cert, err := x509.ParseCertificate(certificate)
	if err != nil {
		return fault.Wrap(fault.CertificateInvalid, err)
	}
	switch {
	case !bytes.Equal(cert.RawSubjectPublicKeyInfo, spki):
		return fault.New(fault.AuthorityMismatch)
	case cert.BasicConstraintsValid && cert.IsCA:
		return nil
	case slices.Equal(b.Kinds, []Kind{OCSP}) && slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning):
		return nil
	}
	return fault.New(fault.AuthorityInvalid, "it is not the certificate of a certification authority")
}

// certificateOf returns the key's binding, nil while there is none.
func (k *key) certificateOf() (*binding, error) {
	if b := k.bound.Load(); b != nil {
		return b, nil
	}
	k.binding.Lock()
	defer k.binding.Unlock()
	if b := k.bound.Load(); b != nil {
		return b, nil
	}
	der, err := k.find()
	if err != nil {
		return nil, fault.Wrap(fault.SignerConfig, err, "key", k.name+":", "its certificate cannot be read")
	}
	if der == nil {
		return nil, nil
	}
	b, err := k.bindingOf(der)
	if err != nil {
		return nil, err
	}
	k.bound.Store(b)
	return b, nil
}

func (k *key) bindingOf(der []byte) (*binding, error) {
	if err := Fits(der, k.spki, &k.bounds); err != nil {
		return nil, fault.Wrap(fault.SignerConfig, err, "key", k.name+":", "the certificate is not one for it")
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fault.Wrap(fault.SignerConfig, err)
	}
	b := &binding{certificate: der, party: party{name: cert.RawSubject, keyID: cert.SubjectKeyId, bits: k.bits}, pathLen: -1}
	if len(b.keyID) == 0 {
		sum := sha256.Sum256(k.bits)
		b.keyID = sum[:20] // RFC 7093, section 2, method 1, as package issuing has it
	}
	if cert.MaxPathLen > 0 || cert.MaxPathLenZero {
		b.pathLen = cert.MaxPathLen
	}
	return b, nil
}

// bindTo makes the certificate that a root has just signed for itself the one
// that it is bound to, unless it has one already.
func (k *key) bindTo(tbs, signature []byte) error {
	if k.bound.Load() != nil {
		return nil
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddBytes(k.algorithm)
		b.AddASN1BitString(signature)
	})
	der, err := b.Bytes()
	if err != nil {
		return err
	}
	bound, err := k.bindingOf(der)
	if err != nil {
		return err
	}
	k.binding.Lock()
	defer k.binding.Unlock()
	if k.bound.Load() != nil {
		return nil
	}
	if err := k.bind(der); err != nil {
		return fault.Wrap(fault.SignerConfig, err, "key", k.name+":", "its certificate cannot be kept")
	}
	k.bound.Store(bound)
	return nil
}

// verify checks a signature over a digest.
func (k *key) verify(digest, signature []byte) bool {
	if k.check != nil && k.hash == crypto.SHA256 {
		return k.check.CheckDigest(digest, signature) == nil
	}
	switch public := k.public.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(public, digest, signature)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(public, k.hash, digest, signature) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(public, digest, signature)
	}
	return false
}

func refuse(what ...any) error { return fault.New(fault.SignerRefused, what...) }

// judge holds what the bytes say against what the key is bound to.
func (k *key) judge(b *binding, f *facts, now time.Time) error {
	if f.kind == Certification {
		if !bytes.Equal(f.spki, k.spki) {
			return refuse("a certification request is for another key")
		}
		return nil
	}
	for _, kind := range append([]Kind{f.kind}, f.also...) {
		if !slices.Contains(k.bounds.Kinds, kind) {
			return refuse("the key", k.name, "does not sign what is of kind", kind)
		}
	}
	switch {
	case k.bounds.Root && f.kind == CA && bytes.Equal(f.issuer, f.subject):
		return k.judgeRoot(b, f, now)
	case b == nil:
		return refuse("the key", k.name, "is not bound to a certificate yet; until then it signs only the request for one")
	case f.kind == OCSP:
		return k.judgeOCSP(b, f, now)
	}
	if err := k.judgeIssuer(b, f); err != nil {
		return err
	}
	if f.kind == CRL {
		return within(f, now, k.bounds.ListValidity, false)
	}
	if sameName(f.subject, b.name) {
		// Whoever has it could sign CRLs in the authority's name, and would not count
		// in the length of a path (RFC 5280, sections 6.3.3 and 6.1.4).
		return refuse("its subject has the authority's own name")
	}
	if f.kind == CA && b.pathLen == 0 {
		return refuse("the authority of key", k.name, "may not have authorities below it")
	}
	return within(f, now, k.bounds.Validity, k.bounds.NoExpiry)
}

// judgeIssuer wants what is signed to name the bound authority and algorithm.
func (k *key) judgeIssuer(b *binding, f *facts) error {
	switch {
	case !bytes.Equal(f.algorithm, k.algorithm):
		return refuse("it names another signature algorithm than the key's")
	case !bytes.Equal(f.issuer, b.name):
		return refuse("it names another issuer")
	case !bytes.Equal(f.keyID, b.keyID):
		return refuse("it names another issuer's key")
	}
	return nil
}

// judgeRoot lets a root sign a certificate for its own key under its own name.
func (k *key) judgeRoot(b *binding, f *facts, now time.Time) error {
	switch {
	case !bytes.Equal(f.spki, k.spki):
		return refuse("a root's certificate is for another key")
	case !bytes.Equal(f.algorithm, k.algorithm):
		return refuse("it names another signature algorithm than the key's")
	case b != nil && !bytes.Equal(f.subject, b.name):
		return refuse("the root has another name")
	}
	f.self = true
	return within(f, now, k.bounds.Validity, k.bounds.NoExpiry)
}

func (k *key) judgeOCSP(b *binding, f *facts, now time.Time) error {
	// RFC 6960, section 4.2.1: KeyHash is SHA-1. A name, so no matter for FIPS 140.
	var hash [sha1.Size]byte
	fips140.WithoutEnforcement(func() { hash = sha1.Sum(k.bits) })
	if f.responderKey != nil && !bytes.Equal(f.responderKey, hash[:]) || f.responderName != nil && !bytes.Equal(f.responderName, b.name) {
		return refuse("the OCSP answer names another responder")
	}
	about := &b.party
	if k.answer != nil {
		about = k.answer
	}
	for _, id := range f.ids {
		same := false
		fips140.WithoutEnforcement(func() { same = id.names(about) })
		if !same {
			return refuse("the OCSP answer is about another issuer's certificate")
		}
	}
	return within(f, now, k.bounds.AnswerValidity, false)
}

// names reports whether the ID is of certificates that this party issued.
func (id *certID) names(p *party) bool {
	h := id.hash.New()
	h.Write(p.bits)
	if !bytes.Equal(h.Sum(nil), id.keyHash) {
		return false
	}
	h.Reset()
	h.Write(p.name)
	return bytes.Equal(h.Sum(nil), id.nameHash)
}

// forever is 99991231235959Z, which stands for no expiry (RFC 5280, section
// 4.1.2.5).
var forever = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// within refuses what begins at another time than about now, or lasts too long.
func within(f *facts, now time.Time, longest time.Duration, noExpiry bool) error {
	switch {
	case f.from.Before(now.Add(-maxBehind)):
		return refuse("it begins too long ago:", f.from.UTC().Format(time.RFC3339))
	case f.from.After(now.Add(maxAhead)):
		return refuse("it begins in the future:", f.from.UTC().Format(time.RFC3339))
	case noExpiry && f.to.Equal(forever):
		return nil
	case f.to.After(f.from.Add(longest)):
		return refuse("it is valid longer than the key may sign for:", f.to.UTC().Format(time.RFC3339))
	case f.to.Before(f.from):
		return refuse("it ends before it begins")
	}
	return nil
}

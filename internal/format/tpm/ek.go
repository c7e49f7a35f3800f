package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
)

// Template is one of the TCG's templates for endorsement keys (TCG EK Credential
// Profile for TPM 2.0, annex B), with the places where a TPM keeps what belongs to
// it.
type Template struct {
	Name       string // "L-1", "H-3"
	Type       Alg    // AlgRSA or AlgECC
	Bits       int    // of the RSA modulus, or of the curve
	Curve      Curve  // zero for RSA
	NameAlg    Alg
	Attributes Attributes
	AuthPolicy []byte
	Symmetric  Symmetric

	Certificate uint32 // NV index of the certificate
	Nonce       uint32 // NV index of the nonce that goes into the template; zero in the high range, which has none
	Own         uint32 // NV index of a template of the TPM's maker, which replaces this one
	Handle      uint32 // where the key is kept by custom
}

// The two sets of attributes: keys of the high range may be used with the empty
// password as well as under their policy.
const (
	lowRange  = FixedTPM | FixedParent | SensitiveDataOrigin | AdminWithPolicy | Restricted | Decrypt
	highRange = lowRange | UserWithAuth
)

// EKTemplates returns the TCG's templates that we know, low range first: L-1
// RSA-2048, L-2 P-256, H-1 RSA-2048, H-2 P-256, H-3 P-384, H-4 P-521, H-6 RSA-3072
// and H-7 RSA-4096. H-5 (SM2) is not among them.
func EKTemplates() []Template {
	aes128, aes256 := Symmetric{AlgAES, 128, AlgCFB}, Symmetric{AlgAES, 256, AlgCFB}
	low := func(t Template) Template {
		t.NameAlg, t.Attributes, t.AuthPolicy, t.Symmetric = AlgSHA256, lowRange, octets(policyA), aes128
		return t
	}
	high := func(t Template, nameAlg Alg, policy string, cipher Symmetric, index uint32) Template {
		t.NameAlg, t.Attributes, t.AuthPolicy, t.Symmetric = nameAlg, highRange, octets(policy), cipher
		t.Certificate, t.Own, t.Handle = index, index+1, 0x81010000|index&0xFF
		return t
	}
	return []Template{
		low(Template{Name: "L-1", Type: AlgRSA, Bits: 2048, Certificate: 0x01C00002, Nonce: 0x01C00003, Own: 0x01C00004, Handle: 0x81010001}),
		low(Template{Name: "L-2", Type: AlgECC, Bits: 256, Curve: P256, Certificate: 0x01C0000A, Nonce: 0x01C0000B, Own: 0x01C0000C, Handle: 0x81010002}),
		high(Template{Name: "H-1", Type: AlgRSA, Bits: 2048}, AlgSHA256, policyB256, aes128, 0x01C00012),
		high(Template{Name: "H-2", Type: AlgECC, Bits: 256, Curve: P256}, AlgSHA256, policyB256, aes128, 0x01C00014),
		high(Template{Name: "H-3", Type: AlgECC, Bits: 384, Curve: P384}, AlgSHA384, policyB384, aes256, 0x01C00016),
		high(Template{Name: "H-4", Type: AlgECC, Bits: 521, Curve: P521}, AlgSHA512, policyB512, aes256, 0x01C00018),
		high(Template{Name: "H-6", Type: AlgRSA, Bits: 3072}, AlgSHA384, policyB384, aes256, 0x01C0001C),
		high(Template{Name: "H-7", Type: AlgRSA, Bits: 4096}, AlgSHA384, policyB384, aes256, 0x01C0001E),
	}
}

// Low says whether the template is of the low range.
func (t Template) Low() bool { return t.Nonce != 0 }

// Fits says whether the key is of the template's type and size.
func (t Template) Fits(key crypto.PublicKey) bool {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return t.Type == AlgRSA && key.N.BitLen() == t.Bits
	case *ecdsa.PublicKey:
		return t.Type == AlgECC && key.Curve == t.Curve.elliptic()
	}
	return false
}

// Public returns the TPMT_PUBLIC from which TPM2_CreatePrimary makes the key. The
// nonce is the one of the NV index Nonce, nil where the TPM has none; templates of
// the high range take none.
func (t Template) Public(nonce []byte) []byte {
	var first, second []byte
	if t.Low() {
		first = make([]byte, (t.Bits+7)/8)
		copy(first, nonce)
		second = make([]byte, len(first))
	}
	return t.area().withUnique(first, second)
}

// EKPublic returns the public area that an endorsement key has when it was made
// from the template: octet for octet what an honest TPM sends. The nonce of the low
// range has no part in it, for the key takes its place.
func EKPublic(t Template, key crypto.PublicKey) ([]byte, error) {
	if !t.Fits(key) {
		return nil, fault.New(fault.EKTemplate, t.Name)
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		b := t.area()
		if key.E != defaultExponent {
			return nil, fault.New(fault.EKTemplate, t.Name, "exponent")
		}
		return b.withUnique(key.N.Bytes(), nil), nil
	case *ecdsa.PublicKey:
		point, err := key.Bytes()
		if err != nil {
			return nil, fault.Wrap(fault.EKTemplate, err, t.Name)
		}
		size := len(point) / 2
		return t.area().withUnique(point[1:1+size], point[1+size:]), nil
	}
	return nil, fault.New(fault.EKTemplate, t.Name)
}

// oidOAEP is id-RSAES-OAEP: some makers certify RSA keys for this use alone (RFC
// 4055, section 4.1).
var oidOAEP = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7}

// EKKey returns the key of an endorsement key's certificate, nil where it is of a
// kind that no endorsement key is. An RSA key that is certified for RSAES-OAEP
// alone, which crypto/x509 does not read, is a key like any other here: what a TPM
// decrypts with it is OAEP.
func EKKey(c *x509.Certificate) crypto.PublicKey {
	if c.PublicKey != nil {
		return c.PublicKey
	}
	in := cryptobyte.String(c.RawSubjectPublicKeyInfo)
	var spki, algorithm cryptobyte.String
	var oid asn1.ObjectIdentifier
	var key asn1.BitString
	if !in.ReadASN1(&spki, cbasn1.SEQUENCE) || !spki.ReadASN1(&algorithm, cbasn1.SEQUENCE) ||
		!algorithm.ReadASN1ObjectIdentifier(&oid) || !oid.Equal(oidOAEP) || !spki.ReadASN1BitString(&key) {
		return nil
	}
	public, err := x509.ParsePKCS1PublicKey(key.RightAlign())
	if err != nil {
		return nil
	}
	return public
}

// EKOf returns the public area that the endorsement key of a certificate (DER) has,
// for requests that carry the certificate alone. Where two templates fit, it is the
// one of the low range: a credential for the one is a credential for the other.
// Refusals are EKCertificate and EKTemplate.
func EKOf(certificate []byte) ([]byte, error) {
	c, err := x509.ParseCertificate(certificate)
	if err != nil {
		return nil, fault.Wrap(fault.EKCertificate, err)
	}
	key := EKKey(c)
	for _, t := range EKTemplates() {
		if t.Fits(key) {
			return EKPublic(t, key)
		}
	}
	return nil, fault.New(fault.EKTemplate, "a key of this kind")
}

func (t Template) area() area {
	return area{
		kind: t.Type, bits: t.Bits, curve: t.Curve, nameAlg: t.NameAlg, attributes: t.Attributes,
		policy: t.AuthPolicy, symmetric: t.Symmetric, scheme: Scheme{Alg: AlgNull},
	}
}

// The policies of endorsement keys (TCG EK Credential Profile, annex B.6).
//
// PolicyA is TPM2_PolicySecret(endorsement hierarchy) alone:
//
//	H(H(zeros || TPM_CC_PolicySecret || name of the hierarchy) || no policyRef)
//
// PolicyB is TPM2_PolicyOR of PolicyA and of PolicyC, TPM2_PolicyAuthorizeNV of the
// index in which the owner may put a policy of his own (0x01C07F01 with SHA-256,
// 0x01C07F02 with SHA-384, 0x01C07F03 with SHA-512). A test derives them.
const (
	policyA    = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
	policyB256 = "ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0"
	policyB384 = "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"
	policyB512 = "b8221ca69e8550a4914de3faa6a18c072cc01208073a928d5d66d59ef79e49a429c41a6b269571d57edb25fbdb1838425608b413cd616a5f6db5b6071af99bea"
)

// octets returns a constant of this package as octets.
func octets(constant string) []byte {
	b, err := hex.DecodeString(constant)
	if err != nil {
		panic(err) // a test decodes all of them
	}
	return b
}

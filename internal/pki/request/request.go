// Package request is the gate that every certificate request passes, whatever
// protocol brought it. A stranger's bytes go in; out comes the one thing a
// requester may decide, the public key, together with what it said about
// itself, which the register compares and never copies.
//
// The gate refuses in an order that costs a stranger more than it costs us:
// first size, then structure (strict DER, few attributes, each once), names and
// extensions, then the quality of the key, and only then the signature that
// proves possession. Nothing here allocates in proportion to a number that the
// request claims, recurses, or loops more than linearly. Every refusal is an
// entry of the 1xxx block of the table in package fault, and its detail names
// the part that was refused but never repeats the requester's bytes.
//
// [Decode] turns the body of a protocol message into DER, [Parse] judges it (or the
// form in which the TCG's devices ask), and [PublicKey] is the key part alone, for callers that get a key by another
// road.
package request

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// Limits of the gate.
const (
	MaxSize       = 16 << 10 // octets of DER
	MaxAttributes = 16
	MaxExtensions = 32
	MaxNames      = 32 // entries of a requested subjectAltName
	MaxSubject    = 1024
)

// Request is a certificate request that passed the gate: well formed, with an
// acceptable key and a signature made with it. Its byte slices alias the input.
type Request struct {
	SPKI       []byte          // DER SubjectPublicKeyInfo
	SPKIDigest [32]byte        // SHA-256 of SPKI
	KeyType    profile.KeyType // type and size of the key
	PublicKey  crypto.PublicKey
	Subject    []byte // DER Name as requested; only ever compared, never copied into a certificate
	SAN        []byte // DER GeneralNames as requested, or nil; only ever compared
	Challenge  string // challengePassword, or empty
	// Attestation is the DER AttestationBundle with evidence of the key's hardware
	// (draft-ietf-lamps-csr-attestation), or nil; it is not looked into.
	Attestation []byte
	// DecryptKey names the key to which a private key of ours is to be encrypted
	// (AsymmetricDecryptKeyIdentifier, RFC 7030, section 4.4.1.2), or is nil.
	DecryptKey []byte
	// SharedKey says that a secret shared beforehand was named for that instead
	// (DecryptKeyIdentifier, RFC 7030, section 4.4.1.1).
	SharedKey bool
}

// Parse judges a DER PKCS #10 request (RFC 2986), or a TCG-CSR, which says nothing of
// subject and names. It returns a fault of the 1xxx block for whatever does not
// pass. The result aliases der, which the caller must not change afterwards.
func Parse(der []byte) (*Request, error) {
	if isTCG(der) {
		return parseTCG(der)
	}
	if len(der) > MaxSize {
		return nil, fault.New(fault.RequestTooLarge, "more than", MaxSize, "octets of DER")
	}
	sig, info, err := split(der)
	if err != nil {
		return nil, err
	}
	r := new(Request)
	if err := r.readInfo(info); err != nil {
		return nil, err
	}
	if r.PublicKey, r.KeyType, err = parseKey(r.SPKI); err != nil {
		return nil, err
	}
	if err := sig.verify(r.PublicKey); err != nil {
		return nil, err
	}
	// The one costly question about a key waits until its holder has paid for a
	// signature.
	if k, ok := r.PublicKey.(*rsa.PublicKey); ok && k.N.ProbablyPrime(0) {
		return nil, fault.New(fault.KeyWeak, "the RSA modulus is prime")
	}
	r.SPKIDigest = sha256.Sum256(r.SPKI)
	return r, nil
}

// ParseWithoutKey judges a request for a key that we are to make: its own key and
// signature only fill their places (RFC 7030, section 4.4.1) and are not looked
// at. SPKI, SPKIDigest, KeyType and PublicKey are left empty.
func ParseWithoutKey(der []byte) (*Request, error) {
	if len(der) > MaxSize {
		return nil, fault.New(fault.RequestTooLarge, "more than", MaxSize, "octets of DER")
	}
	_, info, err := split(der)
	if err != nil {
		return nil, err
	}
	r := new(Request)
	err = r.readInfo(info)
	r.SPKI = nil
	return r, err
}

// split takes the outer structure apart: what was signed and how, and the
// content of CertificationRequestInfo.
func split(der []byte) (signature, cryptobyte.String, error) {
	var outer, signed, info cryptobyte.String
	var sig signature
	input := cryptobyte.String(der)
	if !input.ReadASN1(&outer, asn1.SEQUENCE) || !input.Empty() ||
		!outer.ReadASN1Element(&signed, asn1.SEQUENCE) {
		return sig, nil, fault.New(fault.RequestMalformed)
	}
	sig.message = signed
	if !signed.ReadASN1(&info, asn1.SEQUENCE) ||
		!outer.ReadASN1(&sig.algorithm, asn1.SEQUENCE) {
		return sig, nil, fault.New(fault.RequestMalformed)
	}
	if !outer.ReadASN1BitStringAsBytes(&sig.value) || !outer.Empty() {
		return sig, nil, fault.New(fault.RequestMalformed, "signature")
	}
	return sig, info, nil
}

// readInfo reads the content of CertificationRequestInfo: version, subject,
// key and attributes, in this order.
func (r *Request) readInfo(info cryptobyte.String) error {
	var version, subject, spki, attributes cryptobyte.String
	if !info.ReadASN1(&version, asn1.INTEGER) {
		return fault.New(fault.RequestMalformed, "version")
	}
	if len(version) != 1 || version[0] != 0 {
		return fault.New(fault.RequestVersion)
	}
	if !info.ReadASN1Element(&subject, asn1.SEQUENCE) {
		return fault.New(fault.RequestMalformed, "subject")
	}
	if !info.ReadASN1Element(&spki, asn1.SEQUENCE) {
		return fault.New(fault.RequestMalformed, "public key")
	}
	// The field is mandatory, though it may be empty (RFC 2986, section 4.1).
	if !info.ReadASN1(&attributes, asn1.Tag(0).ContextSpecific().Constructed()) || !info.Empty() {
		return fault.New(fault.RequestMalformed, "attributes")
	}
	if err := checkSubject(subject); err != nil {
		return err
	}
	r.Subject, r.SPKI = subject, spki
	return r.readAttributes(attributes)
}

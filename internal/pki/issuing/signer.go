package issuing

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"io"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// Signer is a private key that hashes what it signs. It is always given the
// whole to-be-signed bytes, so that a key outside the process can see what they
// say.
type Signer interface {
	crypto.MessageSigner
}

// SelfChecker is implemented by keys that can check their own signatures with
// the private key, much cheaper than a full verification. A nil error vouches
// for the signature as much as verifying it with the public key does.
type SelfChecker interface {
	CheckSignature(message, signature []byte) error
}

// algorithm is one way to sign: what certificates call it, and its hash.
type algorithm struct {
	id   []byte // AlgorithmIdentifier
	hash crypto.Hash
}

// AlgorithmIdentifiers of RFC 5758, section 3.2, RFC 8410, section 3, and RFC
// 4055, section 5.
var (
	ecdsaSHA256 = algorithm{[]byte{0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02}, crypto.SHA256}
	ecdsaSHA384 = algorithm{[]byte{0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03}, crypto.SHA384}
	pureEd25519 = algorithm{[]byte{0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70}, 0}
	rsaSHA256   = algorithm{[]byte{0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b, 0x05, 0x00}, crypto.SHA256}
)

var algorithms = map[profile.KeyType]algorithm{
	profile.P256: ecdsaSHA256, profile.P384: ecdsaSHA384, profile.Ed25519: pureEd25519,
	profile.RSA2048: rsaSHA256, profile.RSA3072: rsaSHA256, profile.RSA4096: rsaSHA256,
}

// signer signs to-be-signed bytes and checks what comes back.
type signer struct {
	algorithm
	key    Signer
	check  SelfChecker // nil: verify with the public key
	rand   io.Reader
	public crypto.PublicKey
	spki   []byte
	bits   []byte // content of the subjectPublicKey BIT STRING
	size   int    // most octets of a signature
}

func newSigner(key Signer, check SelfChecker, random io.Reader) (*signer, error) {
	if key == nil {
		return nil, errors.New("issuing: no key")
	}
	public := key.Public()
	t, err := profile.KeyTypeOf(public)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fault.Wrap(fault.KeyAlgorithm, err)
	}
	bits, err := publicKeyBits(spki)
	if err != nil {
		return nil, err
	}
	if random == nil {
		random = rand.Reader
	}
	return &signer{
		algorithm: algorithms[t], key: key, check: check, rand: random,
		public: public, spki: spki, bits: bits, size: signatureSize(public),
	}, nil
}

func signatureSize(public crypto.PublicKey) int {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		// SEQUENCE of two INTEGERs, each with a leading zero at worst.
		return 2*(k.Params().BitSize/8+3) + 3
	case *rsa.PublicKey:
		return k.Size()
	}
	return ed25519.SignatureSize
}

// sign returns the signature over tbs, unchecked.
func (s *signer) sign(tbs []byte) ([]byte, error) {
	signature, err := s.key.SignMessage(s.rand, tbs, s.hash)
	if err != nil {
		if _, ok := errors.AsType[*fault.Error](err); ok {
			return nil, err
		}
		return nil, fault.Wrap(fault.KeyUnavailable, err)
	}
	return signature, nil
}

// verify checks a signature over tbs.
func (s *signer) verify(tbs, signature []byte) error {
	if s.check != nil {
		if err := s.check.CheckSignature(tbs, signature); err != nil {
			return fault.Wrap(fault.SignatureFault, err)
		}
		return nil
	}
	if !verify(s.public, s.hash, tbs, signature) {
		return fault.New(fault.SignatureFault)
	}
	return nil
}

func verify(public crypto.PublicKey, hash crypto.Hash, message, signature []byte) bool {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P384() {
			digest := sha512.Sum384(message)
			return ecdsa.VerifyASN1(k, digest[:], signature)
		}
		digest := sha256.Sum256(message)
		return ecdsa.VerifyASN1(k, digest[:], signature)
	case ed25519.PublicKey:
		return ed25519.Verify(k, message, signature)
	case *rsa.PublicKey:
		digest := sha256.Sum256(message)
		return rsa.VerifyPKCS1v15(k, hash, digest[:], signature) == nil
	}
	return false
}

// seal turns to-be-signed bytes, which dst holds from start on, into SEQUENCE {
// tbs, algorithm, signature } and checks the signature over the bytes as they
// will leave. Certificates, CRLs and OCSP answers all have this shape; tail is
// what an OCSP answer has behind it.
func (s *signer) seal(dst []byte, start int, tail []byte) ([]byte, error) {
	tbsLen := len(dst) - start
	signature, err := s.sign(dst[start:])
	if err != nil {
		return nil, err
	}
	dst = append(dst, s.id...)
	dst = appendHeader(dst, tagBitString, len(signature)+1)
	dst = append(dst, 0)
	dst = append(dst, signature...)
	dst = append(dst, tail...)
	dst = wrap(dst, start, tagSequence)

	signed := dst[start:]
	tbs, algorithmID, signature, rest, err := open(signed)
	if err != nil || len(tbs) != tbsLen || !bytes.Equal(algorithmID, s.id) || !bytes.Equal(rest, tail) {
		return nil, fault.Wrap(fault.SignatureFault, err)
	}
	return dst, s.verify(tbs, signature)
}

var errShape = errors.New("issuing: signed bytes do not have their shape")

// open takes SEQUENCE { tbs, algorithm, signature, rest } apart.
func open(der []byte) (tbs, algorithmID, signature, rest []byte, err error) {
	in := cryptobyte.String(der)
	var outer, t, a, content cryptobyte.String
	if !in.ReadASN1(&outer, asn1.SEQUENCE) || !in.Empty() ||
		!outer.ReadASN1Element(&t, asn1.SEQUENCE) ||
		!outer.ReadASN1Element(&a, asn1.SEQUENCE) ||
		!outer.ReadASN1(&content, asn1.BIT_STRING) || len(content) < 2 || content[0] != 0 {
		return nil, nil, nil, nil, errShape
	}
	return t, a, content[1:], outer, nil
}

// publicKeyBits returns the content of the BIT STRING of a
// SubjectPublicKeyInfo.
func publicKeyBits(spki []byte) ([]byte, error) {
	in := cryptobyte.String(spki)
	var outer, bits cryptobyte.String
	if !in.ReadASN1(&outer, asn1.SEQUENCE) || !in.Empty() || !outer.SkipASN1(asn1.SEQUENCE) ||
		!outer.ReadASN1(&bits, asn1.BIT_STRING) || !outer.Empty() || len(bits) < 2 || bits[0] != 0 {
		return nil, fault.New(fault.KeyAlgorithm, "the public key is not well formed")
	}
	return bits[1:], nil
}

// keyID returns the key identifier of RFC 7093, section 2, method 1, which is
// also what crypto/x509 writes.
func keyID(bits []byte) [20]byte {
	sum := sha256.Sum256(bits)
	return [20]byte(sum[:20])
}

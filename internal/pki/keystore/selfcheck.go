package keystore

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"fmt"
	"math/big"
	"sync/atomic"

	"filippo.io/bigmod"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
)

// fullCheckEvery says how often a self-check is followed by a verification with
// the public key, which would notice if the copy of the scalar in memory had
// changed in step with the signing key.
const fullCheckEvery = 1024

// p256Key is a P-256 key that can check its own signatures.
type p256Key struct {
	localKey
	public *ecdsa.PublicKey
	scalar *bigmod.Nat     // a copy of d that signing does not use; secret
	order  *bigmod.Modulus // n
	checks atomic.Uint64
}

// newP256Key prepares the self-check and makes sure that the scalar belongs to
// the public key.
func newP256Key(k localKey, priv *ecdsa.PrivateKey) (*p256Key, error) {
	k.hash = crypto.SHA256
	d, err := priv.Bytes()
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", k.uri, err)
	}
	defer clear(d)
	public, err := priv.PublicKey.Bytes()
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", k.uri, err)
	}
	multiple, err := ecdh.P256().NewPrivateKey(d)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", k.uri, err)
	}
	if !bytes.Equal(multiple.PublicKey().Bytes(), public) {
		return nil, fault.New(fault.PassphraseWrong, "private and public key do not belong together")
	}
	order, err := bigmod.NewModulus(elliptic.P256().Params().N.Bytes())
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", k.uri, err)
	}
	scalar, err := bigmod.NewNat().SetBytes(d, order)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", k.uri, err)
	}
	return &p256Key{localKey: k, public: &priv.PublicKey, scalar: scalar, order: order}, nil
}

// CheckSignature returns fault.SignatureFault unless signature is a signature of
// this key over the SHA-256 digest of message.
func (k *p256Key) CheckSignature(message, signature []byte) error {
	digest := sha256.Sum256(message)
	return k.CheckDigest(digest[:], signature)
}

// CheckDigest is CheckSignature for whoever has hashed the message.
func (k *p256Key) CheckDigest(digest, signature []byte) error {
	if len(digest) != sha256.Size || !k.matches(digest, signature) {
		return fault.New(fault.SignatureFault)
	}
	if k.checks.Add(1)%fullCheckEvery == 1 && !ecdsa.VerifyASN1(k.public, digest, signature) {
		return fault.New(fault.SignatureFault)
	}
	return nil
}

// matches reports whether x(((e + r*d)/s)*G) mod n = r.
func (k *p256Key) matches(digest, signature []byte) bool {
	r, inverse, ok := k.parse(signature)
	if !ok {
		return false
	}
	e, err := bigmod.NewNat().SetOverflowingBytes(digest, k.order)
	if err != nil {
		return false
	}
	// Constant time from here to the point. u is the nonce of the signature:
	// whoever learns it knows the key.
	u := bigmod.NewNat().ExpandFor(k.order)
	u.Add(r, k.order).Mul(k.scalar, k.order).Add(e, k.order).Mul(inverse, k.order)
	scalar := u.Bytes(k.order)
	defer clear(scalar)
	point, err := ecdh.P256().NewPrivateKey(scalar) // refuses 0
	if err != nil {
		return false
	}
	// R' itself is public: the verification equation gives it to anyone.
	x, err := bigmod.NewNat().SetOverflowingBytes(point.PublicKey().Bytes()[1:33], k.order)
	return err == nil && x.Equal(r) == 1
}

// parse returns r and 1/s of a DER signature, both in [1, n-1]. They are public,
// so the inverse may take its time.
func (k *p256Key) parse(signature []byte) (r, inverse *bigmod.Nat, ok bool) {
	var inner cryptobyte.String
	var rBytes []byte
	s := new(big.Int)
	input := cryptobyte.String(signature)
	if !input.ReadASN1(&inner, asn1.SEQUENCE) || !input.Empty() ||
		!inner.ReadASN1Integer(&rBytes) || !inner.ReadASN1Integer(s) || !inner.Empty() {
		return nil, nil, false
	}
	n := elliptic.P256().Params().N
	if s.Sign() <= 0 || s.Cmp(n) >= 0 {
		return nil, nil, false
	}
	r, err := bigmod.NewNat().SetBytes(rBytes, k.order)
	if err != nil || r.IsZero() == 1 {
		return nil, nil, false
	}
	var room [32]byte
	inverse, err = bigmod.NewNat().SetBytes(s.ModInverse(s, n).FillBytes(room[:]), k.order)
	return r, inverse, err == nil
}

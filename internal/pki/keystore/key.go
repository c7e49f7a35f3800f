package keystore

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/fips140"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"io"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// Key is a private key that signs and never leaves its place. SignMessage hashes
// as the options say and, where they say nothing (nil), with the key's own
// hash: SHA-256 for P-256 and RSA (PKCS #1 v1.5), SHA-384 for P-384, none for
// Ed25519. A nil source of randomness means the system's.
type Key interface {
	crypto.MessageSigner
	URI() string
	Type() profile.KeyType
}

// SelfChecker is a Key in this process that checks a fresh signature of its own
// in constant time with the private scalar, cheaper than a verification. It
// knows signatures made with the key's own hash only, and refuses all others.
type SelfChecker interface {
	CheckSignature(message, signature []byte) error
}

// AsSelfChecker returns the self-check of a key, if it has one and may use it:
// under FIPS 140 only validated code checks signatures, so there is none.
func AsSelfChecker(k Key) (SelfChecker, bool) {
	if fips140.Enabled() {
		return nil, false
	}
	c, ok := k.(SelfChecker)
	return c, ok
}

// localKey is a key in this process's memory.
type localKey struct {
	uri    string
	kind   profile.KeyType
	signer crypto.Signer
	hash   crypto.Hash
}

// newKey returns the Key of a private key.
func newKey(uri string, signer crypto.Signer) (Key, error) {
	switch signer.(type) {
	case *ecdsa.PrivateKey, *rsa.PrivateKey, ed25519.PrivateKey:
	default:
		return nil, fault.New(fault.KeyAlgorithm, "no private key of a known type")
	}
	kind, err := profile.KeyTypeOf(signer.Public())
	if err != nil {
		return nil, err
	}
	k := localKey{uri: uri, kind: kind, signer: signer}
	switch kind {
	case profile.P256:
		return newP256Key(k, signer.(*ecdsa.PrivateKey))
	case profile.P384:
		k.hash = crypto.SHA384
	case profile.Ed25519:
	default:
		k.hash = crypto.SHA256
	}
	return &k, nil
}

func (k *localKey) URI() string              { return k.uri }
func (k *localKey) Type() profile.KeyType    { return k.kind }
func (k *localKey) Public() crypto.PublicKey { return k.signer.Public() }

// errHash is a caller's mistake, not a refusal.
var errHash = errors.New("keystore: this key does not sign with that hash")

// Sign signs a digest, or with Ed25519 a message.
func (k *localKey) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil {
		opts = k.hash
	}
	if !k.allows(opts.HashFunc()) {
		return nil, errHash
	}
	// With no randomness at all ECDSA would be deterministic, and two runs over
	// one message, one of them faulty, would give the key away.
	if random == nil {
		random = rand.Reader
	}
	return k.signer.Sign(random, digest, opts)
}

// SignMessage signs a message.
func (k *localKey) SignMessage(random io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil {
		opts = k.hash
	}
	hash := opts.HashFunc()
	switch {
	case !k.allows(hash):
		return nil, errHash
	case hash == crypto.SHA256:
		digest := sha256.Sum256(message)
		message = digest[:]
	case hash != 0:
		h := hash.New()
		h.Write(message)
		message = h.Sum(nil)
	}
	return k.Sign(random, message, opts)
}

// allows reports whether the key signs with a hash: Ed25519 with none, all
// others with one of the SHA-2 family.
func (k *localKey) allows(hash crypto.Hash) bool {
	if k.kind == profile.Ed25519 {
		return hash == 0
	}
	return hash == crypto.SHA256 || hash == crypto.SHA384 || hash == crypto.SHA512
}

package profile

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"

	"github.com/birthmark/birthmark/internal/fault"
)

// KeyType names an algorithm and size of public key, as profiles, the API and
// the command line spell it.
type KeyType string

// The key types the product certifies and signs with.
const (
	P256    KeyType = "p256"
	P384    KeyType = "p384"
	Ed25519 KeyType = "ed25519"
	RSA2048 KeyType = "rsa2048"
	RSA3072 KeyType = "rsa3072"
	RSA4096 KeyType = "rsa4096"
)

// KeyTypes returns all key types.
func KeyTypes() []KeyType { return []KeyType{P256, P384, Ed25519, RSA2048, RSA3072, RSA4096} }

// KeyTypeOf returns the type of a public key, or fault.KeyAlgorithm. RSA keys
// count as the largest type whose size they reach.
func KeyTypeOf(pub crypto.PublicKey) (KeyType, error) {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return P256, nil
		case elliptic.P384():
			return P384, nil
		}
	case ed25519.PublicKey:
		return Ed25519, nil
	case *rsa.PublicKey:
		switch bits := k.N.BitLen(); {
		case bits < 2048 || bits > 4096:
			return "", fault.New(fault.KeyAlgorithm, "RSA", bits, "bits")
		case bits < 3072:
			return RSA2048, nil
		case bits < 4096:
			return RSA3072, nil
		default:
			return RSA4096, nil
		}
	}
	return "", fault.New(fault.KeyAlgorithm)
}

package sim

import (
	"crypto"
	"crypto/ecdsa"
	"io"
)

// repeatable signs the same octets with the same signature (RFC 6979), so that a
// chip's certificate is the same wherever it is derived.
type repeatable struct{ key *ecdsa.PrivateKey }

func (r repeatable) Public() crypto.PublicKey { return &r.key.PublicKey }

func (r repeatable) Sign(_ io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	return r.key.Sign(nil, digest, o)
}

package signer

import (
	"context"
	"crypto"
	"crypto/fips140"
	"runtime"

	"github.com/birthmark/birthmark/internal/pki/keystore"
)

// Local returns the Backend of a key in this process's memory.
func Local(k keystore.Key) Backend {
	l := local{k}
	// Under FIPS 140 only validated code checks signatures.
	if c, ok := k.(DigestChecker); ok && !fips140.Enabled() {
		return checkedLocal{l, c}
	}
	return l
}

type local struct{ key keystore.Key }

type checkedLocal struct {
	local
	DigestChecker
}

// Public returns the public key.
func (l local) Public() crypto.PublicKey { return l.key.Public() }

// Parallel returns the number of processors.
func (l local) Parallel() int { return runtime.GOMAXPROCS(0) }

// Sign signs a digest, or with hash 0 a message.
func (l local) Sign(_ context.Context, digest []byte, hash crypto.Hash) ([]byte, error) {
	return l.key.Sign(nil, digest, hash)
}

//go:build !pkcs11 || !cgo

package pkcs11

import (
	"context"
	"crypto"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// Available reports whether this program can use PKCS #11.
const Available = false

// Token stands for a token.
type Token struct{}

// Key stands for a key.
type Key struct{}

func without() error { return fault.New(fault.BuiltWithout) }

// Open explains that this program was built without PKCS #11.
func Open(Config) (*Token, error) { return nil, without() }

// Tokens explains that this program was built without PKCS #11.
func Tokens(string) ([]TokenInfo, error) { return nil, without() }

// Info explains that this program was built without PKCS #11.
func (*Token) Info() (TokenInfo, error) { return TokenInfo{}, without() }

// Keys explains that this program was built without PKCS #11.
func (*Token) Keys(context.Context) ([]KeyInfo, error) { return nil, without() }

// Key explains that this program was built without PKCS #11.
func (*Token) Key(context.Context, string, []byte) (*Key, error) { return nil, without() }

// Create explains that this program was built without PKCS #11.
func (*Token) Create(context.Context, string, []byte, profile.KeyType) (*Key, error) {
	return nil, without()
}

// Retry does nothing.
func (*Token) Retry() {}

// Close does nothing.
func (*Token) Close() {}

// Public returns nothing.
func (*Key) Public() crypto.PublicKey { return nil }

// Parallel returns 1.
func (*Key) Parallel() int { return 1 }

// Sign explains that this program was built without PKCS #11.
func (*Key) Sign(context.Context, []byte, crypto.Hash) ([]byte, error) { return nil, without() }

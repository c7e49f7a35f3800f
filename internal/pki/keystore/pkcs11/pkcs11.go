// Package pkcs11 signs with keys in PKCS #11 tokens: hardware security modules,
// smart cards, SoftHSM. A module is a C library of the maker's, so this package
// does something only in programs that were built with the tag pkcs11 and cgo;
// in others every function explains that (fault.BuiltWithout). Only
// birthmark-signer and birthmark-station link it: a module that crashes takes
// that process with it and nothing else.
//
// Tokens are chosen by label, since slot numbers change; keys by label and id.
// The number of sessions is bounded (package session), a call that hangs is left
// behind, and sessions that died with a token that was reset or drawn are opened
// again, with a new login: the login is the process's, not the session's. A PIN
// that was refused is never tried again by itself, because three wrong ones
// lock most tokens.
//
// Signatures come out as the rest of the world writes them (DER for ECDSA) and
// unchecked; whoever calls verifies them.
package pkcs11

import (
	"time"

	"github.com/birthmark/birthmark/internal/pki/profile"
)

// Config says which token to use.
type Config struct {
	Module   string // path of the library
	Token    string // label
	PIN      func() ([]byte, error)
	Sessions int           // most at once; default 4
	Wait     time.Duration // the longest that a call may take; default 10 seconds
	Now      func() time.Time
}

// TokenInfo is a token as the module shows it.
type TokenInfo struct {
	Label, Maker, Model, Firmware string
	Initialized                   bool
	PINLow, PINLast, PINLocked    bool // wrong PINs were tried
	SessionsMost, SessionsOpen    uint // 0: the token does not say
}

// KeyInfo is a private key as the token shows it.
type KeyInfo struct {
	Label       string
	ID          []byte
	Type        profile.KeyType // empty: of a type that is not for us
	Signs       bool            // CKA_SIGN
	Extractable bool            // it may leave the token
	Local       bool            // it was made in the token
	HasPublic   bool            // a public key is beside it
}

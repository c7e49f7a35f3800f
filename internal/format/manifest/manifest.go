// Package manifest is our own signed list of chips, birthmark-manifest: one line
// of JSON that says who made the list, one line for each chip, and a last line
// that signs all octets before it. Any provisioning house can write it with a
// few lines of script, an order is exported in it, and a reader streams it: a
// million chips need no more memory than one.
//
// The reader checks form, count, digest and signature; whether the signer is one
// that somebody trusts is for its caller to say, who has the signer's certificate
// as soon as the first line is read. docs/protocols/manifest.md is the format's
// description.
package manifest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
)

// Format is the name in the first line of every such file, Version the only
// version there is.
const (
	Format  = "birthmark-manifest"
	Version = 1
)

// The signature algorithms: ECDSA with P-256 and SHA-256, ECDSA with P-384 and
// SHA-384 (both as ASN.1 DER), and Ed25519.
const (
	ES256 = "ES256"
	ES384 = "ES384"
	EdDSA = "EdDSA"
)

// Header is the first line.
type Header struct {
	Format   string    `json:"format"`
	Version  int       `json:"version"`
	Maker    string    `json:"maker"`              // who provisioned the chips, for people
	Created  time.Time `json:"created"`            // the signer's certificate must have been valid then
	Vendor   string    `json:"vendor,omitempty"`   // of the chips whose line names none
	ChipType string    `json:"chipType,omitempty"` // of the chips whose line names none
	Product  string    `json:"product,omitempty"`  // what the chips are for or in, for people
	Order    string    `json:"order,omitempty"`    // the order they were made under, for people
	Count    int64     `json:"count,omitempty"`    // announced number of chips, 0: not announced

	Algorithm string `json:"algorithm"`
	Signer    []byte `json:"signer"` // certificate, DER
}

// Entry is the line of one chip, or of one device when an order is exported.
type Entry struct {
	UID          string `json:"uid"`
	DeviceSerial string `json:"serial,omitempty"` // of the device the chip is in
	Vendor       string `json:"vendor,omitempty"`
	ChipType     string `json:"chipType,omitempty"`
	Keys         []Key  `json:"keys,omitempty"` // none: listed, but cannot prove itself
}

// Key is a public key of a chip.
type Key struct {
	Slot  string   `json:"slot"`
	SPKI  []byte   `json:"spki"`            // DER SubjectPublicKeyInfo
	Chain [][]byte `json:"chain,omitempty"` // certificates, DER, that of the key first
}

// trailer is the last line. It is compared octet for octet with what the writer
// would have written, since nothing else covers it.
type trailer struct {
	Count     int64  `json:"count"`
	Digest    string `json:"digest"` // SHA-256 of all octets before this line, hex
	Signature []byte `json:"signature"`
}

// trailerPrefix begins the last line and no other.
var trailerPrefix = []byte(`{"trailer":`)

func (t *trailer) line() []byte {
	line, err := json.Marshal(struct {
		Trailer *trailer `json:"trailer"`
	}{t})
	if err != nil {
		panic(err) // numbers and text always marshal
	}
	return append(line, '\n')
}

func parseTrailer(line []byte) (*trailer, error) {
	var t struct {
		Trailer trailer `json:"trailer"`
	}
	if err := json.Unmarshal(line, &t); err != nil {
		return nil, fault.Wrap(fault.ManifestFormat, err, "the last line is malformed")
	}
	if !bytes.Equal(t.Trailer.line(), line) {
		return nil, fault.New(fault.ManifestFormat, "the last line is not written as the format asks")
	}
	return &t.Trailer, nil
}

// Message returns what is signed: three lines of text that name the format, the
// digest of all octets before the last line in hex, and the number of chips.
func Message(digest [sha256.Size]byte, count int64) []byte {
	m := append([]byte("birthmark manifest v1\n"), hex.EncodeToString(digest[:])...)
	m = append(m, '\n')
	m = strconv.AppendInt(m, count, 10)
	return append(m, '\n')
}

// algorithmOf names the one algorithm that a key signs with.
func algorithmOf(pub crypto.PublicKey) (string, error) {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		switch pub.Curve {
		case elliptic.P256():
			return ES256, nil
		case elliptic.P384():
			return ES384, nil
		}
	case ed25519.PublicKey:
		return EdDSA, nil
	}
	return "", fmt.Errorf("no algorithm for a key of type %T", pub)
}

// hashes maps an algorithm to what crypto.SignMessage wants to know.
var hashes = map[string]crypto.Hash{ES256: crypto.SHA256, ES384: crypto.SHA384, EdDSA: 0}

func verify(cert *x509.Certificate, algorithm string, message, signature []byte) error {
	ok := false
	switch pub := cert.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if algorithm == ES256 {
			d := sha256.Sum256(message)
			ok = ecdsa.VerifyASN1(pub, d[:], signature)
		} else {
			d := sha512.Sum384(message)
			ok = ecdsa.VerifyASN1(pub, d[:], signature)
		}
	case ed25519.PublicKey:
		ok = ed25519.Verify(pub, message, signature)
	}
	if !ok {
		return fault.New(fault.ManifestSignature, "the last line's signature is not the signer's over this file")
	}
	return nil
}

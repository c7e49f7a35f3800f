package attest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	_ "crypto/sha512" // for SHA-384
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"

	"github.com/birthmark/birthmark/internal/fault"
)

// maxBundle is the largest bundle that is taken, in octets.
const maxBundle = 4 << 20

// Bundle is the one form in which roots are handed over: a JSON object of three
// members, each in base64.
//
//	content    the octets of a RootsFile
//	signature  over exactly these octets: ECDSA as DER (P-256 with SHA-256,
//	           P-384 with SHA-384), or Ed25519
//	signer     the signer's public key, a DER SubjectPublicKeyInfo
//
// A shell makes it so (the digest is -sha384 for a key on P-384; Ed25519 is
// signed with "openssl pkeyutl -sign -rawin -inkey key.pem -in roots.json -out sig"):
//
//	openssl dgst -sha256 -sign key.pem -out sig roots.json
//	openssl pkey -in key.pem -pubout -outform DER -out key.der
//	printf '{"content":"%s","signature":"%s","signer":"%s"}\n' \
//	  "$(base64 -w0 roots.json)" "$(base64 -w0 sig)" "$(base64 -w0 key.der)" > roots.bundle
type Bundle struct {
	Content   []byte `json:"content"`
	Signature []byte `json:"signature"`
	Signer    []byte `json:"signer"`
}

// ParseBundle reads a bundle and verifies its signature: fault.RootsInvalid where
// it has not the form, fault.RootsSigner where the signature does not hold. Whether
// the signer is to be trusted is another question.
func ParseBundle(text []byte) (*Bundle, error) {
	if len(text) > maxBundle {
		return nil, fault.New(fault.RootsInvalid, "the file is larger than", maxBundle, "octets")
	}
	var b Bundle
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil {
		return nil, fault.Wrap(fault.RootsInvalid, err, "not a JSON object with content, signature and signer, each in base64")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fault.New(fault.RootsInvalid, "something follows the JSON object")
	}
	if len(b.Content) == 0 || len(b.Signature) == 0 || len(b.Signer) == 0 {
		return nil, fault.New(fault.RootsInvalid, "content, signature or signer is missing")
	}
	return &b, b.verify()
}

func (b *Bundle) verify() error {
	key, hash, err := signerKey(b.Signer)
	if err != nil {
		return err
	}
	holds := false
	switch key := key.(type) {
	case ed25519.PublicKey:
		holds = ed25519.Verify(key, b.Content, b.Signature)
	case *ecdsa.PublicKey:
		h := hash.New()
		h.Write(b.Content)
		holds = ecdsa.VerifyASN1(key, h.Sum(nil), b.Signature)
	}
	if !holds {
		return fault.New(fault.RootsSigner, "the signature is not that of the key in the bundle")
	}
	return nil
}

// signerKey reads a signer's key in its one encoding, so that equal keys are equal
// octets, and says what it signs with; 0: Ed25519 hashes by itself.
func signerKey(spki []byte) (key crypto.PublicKey, hash crypto.Hash, err error) {
	if key, err = x509.ParsePKIXPublicKey(spki); err != nil {
		return nil, 0, fault.Wrap(fault.RootsInvalid, err, "the signer is not a public key in DER")
	}
	curve := elliptic.Curve(nil)
	if k, ok := key.(*ecdsa.PublicKey); ok {
		curve = k.Curve
	}
	_, edwards := key.(ed25519.PublicKey)
	switch {
	case edwards:
	case curve == elliptic.P256():
		hash = crypto.SHA256
	case curve == elliptic.P384():
		hash = crypto.SHA384
	default:
		return nil, 0, fault.New(fault.RootsInvalid, "the signer's key must be Ed25519, P-256 or P-384")
	}
	if again, err := x509.MarshalPKIXPublicKey(key); err != nil || !bytes.Equal(again, spki) {
		return nil, 0, fault.Wrap(fault.RootsInvalid, err, "the signer's key is not in the usual form")
	}
	return key, hash, nil
}

// Fingerprint returns the SHA-256 of a signer's key as people compare it: 64 hex
// digits.
func Fingerprint(signer []byte) string {
	sum := sha256.Sum256(signer)
	return hex.EncodeToString(sum[:])
}

package attest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"io"

	"github.com/birthmark/birthmark/internal/fault"
)

// SignBundle makes the file in which roots are handed over. The key is an Ed25519
// key or on P-256 or P-384.
func SignBundle(content []byte, key crypto.Signer, random io.Reader) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fault.Wrap(fault.RootsInvalid, err, "the signer's key must be Ed25519, P-256 or P-384")
	}
	hash, err := signerHash(spki)
	if err != nil {
		return nil, err
	}
	signature, err := crypto.SignMessage(key, random, content, hash)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(Bundle{Content: content, Signature: signature, Signer: spki})
	if err != nil {
		return nil, err
	}
	text = append(text, '\n')
	_, err = ParseBundle(text)
	return text, err
}

// signerHash returns what a signer's key signs with, as ParseBundle verifies it.
func signerHash(spki []byte) (crypto.Hash, error) {
	public, err := signerKey(spki)
	if err != nil {
		return 0, err
	}
	k, ok := public.(*ecdsa.PublicKey)
	switch {
	case !ok:
		return 0, nil // Ed25519 hashes by itself
	case k.Curve == elliptic.P384():
		return crypto.SHA384, nil
	}
	return crypto.SHA256, nil
}

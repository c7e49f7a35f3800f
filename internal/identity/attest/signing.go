package attest

import (
	"crypto"
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
	_, hash, err := signerKey(spki)
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

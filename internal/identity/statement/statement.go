// Package statement signs what is no certificate: nonce blocks for a line
// without a link, replies to its batches and exported manifests. These have a
// key of their own, so that what a station or a customer is made to present can
// never be mistaken for something that an authority signed.
package statement

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"io"

	"github.com/birthmark/birthmark/internal/fault"
)

// URI is the statement key in the keystore.
const URI = "file:statement"

// Signer signs statements.
type Signer struct {
	key         crypto.MessageSigner
	random      io.Reader
	spki        []byte
	certificate []byte
}

// New returns a Signer over a P-256 key and the certificate (DER) that names it
// to others.
func New(key crypto.MessageSigner, certificate []byte, random io.Reader) (*Signer, error) {
	if key == nil || random == nil {
		return nil, errors.New("statement: key and randomness are needed")
	}
	pub, ok := key.Public().(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, errors.New("statement: the key is not ECDSA P-256")
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, err
	}
	return &Signer{key: key, random: random, spki: spki, certificate: certificate}, nil
}

// PublicKey returns the DER SubjectPublicKeyInfo.
func (s *Signer) PublicKey() []byte { return s.spki }

// Certificate returns the DER certificate of the key.
func (s *Signer) Certificate() []byte { return s.certificate }

// Sign returns the ECDSA signature (DER) over the SHA-256 of a statement.
func (s *Signer) Sign(_ context.Context, statement []byte) ([]byte, error) {
	return s.key.SignMessage(s.random, statement, crypto.SHA256)
}

// Verify checks a signature by a statement key (DER SubjectPublicKeyInfo).
func Verify(spki, statement, signature []byte) error {
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return fault.Wrap(fault.BundleSignature, err)
	}
	pub, ok := key.(*ecdsa.PublicKey)
	digest := sha256.Sum256(statement)
	if !ok || !ecdsa.VerifyASN1(pub, digest[:], signature) {
		return fault.New(fault.BundleSignature)
	}
	return nil
}

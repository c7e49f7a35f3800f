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
	"encoding/json"
	"errors"
	"io"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
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

// Key returns the key, for formats that sign on their own.
func (s *Signer) Key() crypto.Signer { return s.key }

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

// SignNonces signs a block of nonces for a line without a link.
func (s *Signer) SignNonces(ctx context.Context, n *station.Nonces) (err error) {
	n.Signature, err = s.signJSON(ctx, unsignedNonces(*n))
	return err
}

// VerifyNonces checks the signature of a block of nonces.
func VerifyNonces(spki []byte, n *station.Nonces) error {
	return verifyJSON(spki, unsignedNonces(*n), n.Signature)
}

func unsignedNonces(n station.Nonces) station.Nonces {
	n.Signature = nil
	return n
}

// SignReply signs the reply to a batch.
func (s *Signer) SignReply(ctx context.Context, r *station.Reply) (err error) {
	r.Signature, err = s.signJSON(ctx, unsignedReply(*r))
	return err
}

// VerifyReply checks the signature of the reply to a batch.
func VerifyReply(spki []byte, r *station.Reply) error {
	return verifyJSON(spki, unsignedReply(*r), r.Signature)
}

func unsignedReply(r station.Reply) station.Reply {
	r.Signature = nil
	return r
}

func (s *Signer) signJSON(ctx context.Context, v any) ([]byte, error) {
	statement, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return s.Sign(ctx, statement)
}

func verifyJSON(spki []byte, v any, signature []byte) error {
	statement, err := json.Marshal(v)
	if err != nil {
		return fault.Wrap(fault.BundleInvalid, err)
	}
	return Verify(spki, statement, signature)
}

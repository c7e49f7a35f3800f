package statement

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// Keys is what Open needs of the keystore.
type Keys interface {
	Create(ctx context.Context, uri string, t profile.KeyType, secret keystore.Secret) (keystore.Key, error)
	Load(ctx context.Context, uri string, secret keystore.Secret) (keystore.Key, error)
}

// Config names what Open needs; all fields are required.
type Config struct {
	Keys   Keys
	Secret keystore.Secret
	// Certificate is the file that keeps the key's certificate (PEM). Others pin
	// its fingerprint, so it is made once.
	Certificate  string
	Organization string
	Now          func() time.Time
	Rand         io.Reader
}

// certificateLife is how long a statement certificate is valid: those who pin it
// decide how long they trust it.
const certificateLife = 30 * 365 * 24 * time.Hour

// Open opens the statement key with its certificate, and makes both at first use.
func Open(ctx context.Context, c Config) (*Signer, error) {
	if c.Keys == nil || c.Certificate == "" || c.Now == nil || c.Rand == nil {
		return nil, errors.New("statement: keys, certificate file, clock and randomness are needed")
	}
	key, err := c.Keys.Load(ctx, URI, c.Secret)
	if fault.Has(err, fault.KeyUnknown) {
		key, err = c.Keys.Create(ctx, URI, profile.P256, c.Secret)
	}
	if err != nil {
		return nil, err
	}
	der, err := c.certificate(key)
	if err != nil {
		return nil, err
	}
	return New(key, der, c.Rand)
}

// certificate reads or makes the key's certificate.
func (c *Config) certificate(key crypto.MessageSigner) ([]byte, error) {
	text, err := os.ReadFile(c.Certificate)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c.makeCertificate(key)
	case err != nil:
		return nil, fmt.Errorf("statement certificate: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fault.New(fault.KeyUnavailable, "the statement certificate's file holds no certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fault.Wrap(fault.KeyUnavailable, err, "the statement certificate is malformed")
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil || string(spki) != string(cert.RawSubjectPublicKeyInfo) {
		return nil, fault.Wrap(fault.KeyUnavailable, err, "the statement certificate is for another key")
	}
	return block.Bytes, nil
}

func (c *Config) makeCertificate(key crypto.MessageSigner) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(spki)
	id[0] &= 0x7f
	now := c.Now().UTC().Truncate(time.Second)
	name := pkix.Name{CommonName: c.Organization + " statements", Organization: []string{c.Organization}}
	if c.Organization == "" {
		name = pkix.Name{CommonName: "statements"}
	}
	der, err := x509.CreateCertificate(c.Rand, &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(id[:16]), Subject: name,
		NotBefore: now.Add(-5 * time.Minute), NotAfter: now.Add(certificateLife),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, SubjectKeyId: id[:20],
	}, &x509.Certificate{Subject: name, SubjectKeyId: id[:20]}, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("statement certificate: %w", err)
	}
	return der, keep(c.Certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// keep writes a file completely or not at all.
func keep(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".statement-*")
	if err != nil {
		return fmt.Errorf("statement certificate: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("statement certificate: %w", err)
	}
	return nil
}

package manifest

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
)

// Writer writes a manifest line by line. Close signs it; what was written before
// is worth nothing without.
type Writer struct {
	out       *bufio.Writer
	digest    hash.Hash
	key       crypto.Signer
	algorithm string
	announced int64
	count     int64
	closed    bool
}

// NewWriter writes the first line. Of the header, Format, Version, Algorithm and
// Signer are filled in from certificate and key, which must belong together.
func NewWriter(w io.Writer, h Header, certificate []byte, key crypto.Signer) (*Writer, error) {
	cert, err := x509.ParseCertificate(certificate)
	if err != nil {
		return nil, fmt.Errorf("parse the signer's certificate: %w", err)
	}
	if err := ownKey(cert, key); err != nil {
		return nil, err
	}
	h.Format, h.Version, h.Signer = Format, Version, certificate
	if h.Algorithm, err = algorithmOf(key.Public()); err != nil {
		return nil, err
	}
	if err := h.check(); err != nil {
		return nil, err
	}
	out := &Writer{
		out: bufio.NewWriterSize(w, 64<<10), digest: sha256.New(),
		key: key, algorithm: h.Algorithm, announced: h.Count,
	}
	return out, out.line(&h)
}

func ownKey(cert *x509.Certificate, key crypto.Signer) error {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("marshal the signer's key: %w", err)
	}
	if !bytes.Equal(spki, cert.RawSubjectPublicKeyInfo) {
		return errors.New("the signer's certificate is not for the signer's key")
	}
	return nil
}

// Write adds a chip.
func (w *Writer) Write(e *Entry) error {
	if w.closed {
		return errors.New("write to a closed manifest")
	}
	if err := e.check(); err != nil {
		return err
	}
	w.count++
	return w.line(e)
}

// Close writes the last line, which holds the signature.
func (w *Writer) Close() error {
	if w.closed {
		return errors.New("close a closed manifest")
	}
	w.closed = true
	if w.announced != 0 && w.announced != w.count {
		return fmt.Errorf("the header announced %d chips, %d were written", w.announced, w.count)
	}
	digest := [sha256.Size]byte(w.digest.Sum(nil))
	signature, err := crypto.SignMessage(w.key, nil, Message(digest, w.count), hashes[w.algorithm])
	if err != nil {
		return fmt.Errorf("sign the manifest: %w", err)
	}
	t := trailer{Count: w.count, Digest: hex.EncodeToString(digest[:]), Signature: signature}
	if _, err := w.out.Write(t.line()); err != nil {
		return err
	}
	return w.out.Flush()
}

func (w *Writer) line(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	w.digest.Write(line)
	_, err = w.out.Write(line)
	return err
}

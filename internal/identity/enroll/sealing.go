package enroll

import (
	"crypto/sha256"
	"crypto/x509"
	"io"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/pki/cms"
	"github.com/birthmark/birthmark/internal/pki/pkcs12"
)

// The forms in which an injected key travels.
const (
	formCMS    = "cms"     // EnvelopedData, AES-256-CBC
	formGCM    = "cms-gcm" // AuthEnvelopedData, AES-256-GCM
	formPKCS12 = "pkcs12"  // under a one-time password
)

// sealing says for whom an injected key is wrapped, and how.
type sealing struct {
	form      string
	recipient *x509.Certificate
	password  string
}

// sealingOf judges what the station asked for, before a key is spent on it.
func sealingOf(u *station.Unit) (*sealing, error) {
	s := &sealing{form: u.Form, password: u.Password}
	if s.form == "" {
		s.form = formCMS
		if len(u.Recipient) == 0 && u.Password != "" {
			s.form = formPKCS12
		}
	}
	switch s.form {
	case formPKCS12:
		return s, pkcs12.CheckPassword(s.password)
	case formCMS, formGCM:
	default:
		return nil, fault.New(fault.ParameterInvalid, "a wrapped key is of the form", formCMS+",", formGCM, "or", formPKCS12)
	}
	var err error
	if s.recipient, err = x509.ParseCertificate(u.Recipient); err != nil {
		return nil, fault.Wrap(fault.RecipientInvalid, err)
	}
	return s, cms.CheckRecipient(s.recipient)
}

// digest stands for the recipient in the idempotency key. A password is in
// nothing that is kept.
func (s *sealing) digest() (d [32]byte) {
	if s.recipient != nil {
		d = sha256.Sum256(s.recipient.Raw)
	}
	return d
}

// seal wraps a private key (DER PKCS #8).
func (s *sealing) seal(key, certificate []byte, chain [][]byte, random io.Reader) ([]byte, error) {
	switch s.form {
	case formPKCS12:
		return pkcs12.Seal(key, certificate, chain, s.password, random)
	case formGCM:
		return cms.Seal(cms.Data, key, s.recipient, cms.GCM, random)
	}
	return cms.Seal(cms.Data, key, s.recipient, cms.CBC, random)
}

// opens reports whether what was wrapped before is of use to who asks again: the
// recipient is part of the idempotency key, a password is tried.
func (s *sealing) opens(wrapped []byte) bool {
	return s.form != formPKCS12 || pkcs12.Opens(wrapped, s.password)
}

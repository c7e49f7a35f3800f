// Package pkcs12 writes the file (RFC 7292) in which a private key that we made
// travels to a device under a one-time password: key, certificate and chain,
// with the algorithms that current readers have by default (PBES2 with AES-256,
// HMAC-SHA-256). It is only written here.
package pkcs12

import (
	"crypto/x509"
	"io"
	"strings"
	"unicode/utf8"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/birthmark/birthmark/internal/fault"
)

// Limits of a one-time password, in characters.
const (
	MinPassword = 12
	MaxPassword = 128
)

// CheckPassword refuses a password (fault.ParameterInvalid) that is too short to
// protect a key or that readers would take for another one.
func CheckPassword(password string) error {
	n := utf8.RuneCountInString(password)
	switch {
	case n < MinPassword || n > MaxPassword:
		return fault.New(fault.ParameterInvalid, "a one-time password has", MinPassword, "to", MaxPassword, "characters")
	case strings.ContainsFunc(password, func(r rune) bool { return r < ' ' || r > '~' }):
		// Readers disagree on how other characters become octets.
		return fault.New(fault.ParameterInvalid, "a one-time password has printable ASCII characters")
	}
	return nil
}

// Seal returns the file of a private key (DER PKCS #8) with its certificate and
// the chain above it, in DER.
func Seal(key, certificate []byte, chain [][]byte, password string, random io.Reader) ([]byte, error) {
	if err := CheckPassword(password); err != nil {
		return nil, err
	}
	private, err := x509.ParsePKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(certificate)
	if err != nil {
		return nil, err
	}
	above := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		if above[i], err = x509.ParseCertificate(der); err != nil {
			return nil, err
		}
	}
	return pkcs12.Modern2023.WithRand(random).Encode(private, leaf, above, password)
}

// Opens reports whether this password opens the file.
func Opens(file []byte, password string) bool {
	_, _, _, err := pkcs12.DecodeChain(file, password)
	return err == nil
}

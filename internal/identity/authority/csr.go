package authority

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"

	"github.com/birthmark/birthmark/internal/pki/profile"
)

// certificationRequest returns a PKCS #10 request (DER) for a key of ours. The
// signature is a proof of possession; nothing of ours takes more than the key
// from it.
func certificationRequest(random io.Reader, key crypto.Signer, v profile.Values) ([]byte, error) {
	subject := pkix.Name{CommonName: v.CommonName}
	if v.Organization != "" {
		subject.Organization = []string{v.Organization}
	}
	return x509.CreateCertificateRequest(random, &x509.CertificateRequest{Subject: subject}, key)
}

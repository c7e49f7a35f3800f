package manifest

import "crypto/x509"

// certificateKey returns the key that a certificate certifies.
func certificateKey(der []byte) ([]byte, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, bad("the certificate is malformed")
	}
	return cert.RawSubjectPublicKeyInfo, nil
}

package tpm

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
)

// Limits of what a claim may carry. Makers' certificates have about 1 KiB, their
// chains two or three of them.
const (
	maxCertificate = 8 << 10
	maxChain       = 6
)

var (
	oidEKCertificate  = asn1.ObjectIdentifier{2, 23, 133, 8, 1} // tcg-kp-EKCertificate
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidExtKeyUsage    = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// ekCertificate is an EK certificate with the names in it.
type ekCertificate struct {
	*x509.Certificate
	names wire.EKNames
}

// parseEKCertificate reads a certificate and wants it to be one of an endorsement
// key (TCG EK Credential Profile for TPM 2.0, section 3.2), whoever signed it:
// fault.EKCertificate.
func parseEKCertificate(der []byte) (*ekCertificate, error) {
	if len(der) > maxCertificate {
		return nil, fault.New(fault.EKCertificate, "more than", maxCertificate, "octets")
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fault.Wrap(fault.EKCertificate, err, "not an X.509 certificate")
	}
	cert.PublicKey = wire.EKKey(cert)
	if why := notOfEK(cert); why != "" {
		return nil, fault.New(fault.EKCertificate, why)
	}
	i := slices.IndexFunc(cert.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidSubjectAltName) })
	if i < 0 {
		return nil, fault.New(fault.EKCertificate, "no subjectAltName tells maker, model and version")
	}
	names, err := wire.ParseEKNames(cert.Extensions[i].Value)
	if err != nil {
		return nil, err
	}
	return &ekCertificate{cert, names}, nil
}

// notOfEK says why a certificate is none of an endorsement key, or nothing. The
// subjectAltName is left to its own parser, and only it may be critical and unknown
// to crypto/x509, which does not read directory names. Some makers leave keyUsage or
// extKeyUsage out: one of them must be there, and what is there must be right.
func notOfEK(c *x509.Certificate) string {
	for _, id := range c.UnhandledCriticalExtensions {
		if !id.Equal(oidSubjectAltName) {
			return "a critical extension that we do not know: " + id.String()
		}
	}
	var use x509.KeyUsage
	switch c.PublicKey.(type) {
	case *rsa.PublicKey:
		use = x509.KeyUsageKeyEncipherment
	case *ecdsa.PublicKey:
		use = x509.KeyUsageKeyAgreement
	default:
		return "its key is of a kind that no endorsement key is"
	}
	const signs = x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment | x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	switch {
	case c.IsCA:
		return "it is a CA's"
	case c.KeyUsage == 0 && unspecific(c):
		return "neither keyUsage nor extKeyUsage tells what its key is for"
	case c.KeyUsage != 0 && c.KeyUsage&use == 0:
		return "keyUsage does not have what endorsement keys are for"
	case c.KeyUsage&signs != 0:
		return "keyUsage has signatures, which endorsement keys do not make"
	case !unspecific(c) && !slices.ContainsFunc(c.UnknownExtKeyUsage, oidEKCertificate.Equal):
		return "extKeyUsage is not that of endorsement keys (2.23.133.8.1)"
	}
	return ""
}

// unspecific reports whether a certificate has no extKeyUsage.
func unspecific(c *x509.Certificate) bool {
	return !slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidExtKeyUsage) })
}

// hardwareSerial is the number that identifies the chip in hardwareModuleName.
func (c *ekCertificate) hardwareSerial() string {
	vendor, ok := vendorNumber(c.names.Manufacturer)
	if !ok {
		return ""
	}
	return vendor + ":" + hex.EncodeToString(c.AuthorityKeyId) + ":" + hex.EncodeToString(c.SerialNumber.Bytes())
}

// vendorNumber returns the eight digits of "id:494E5443" in upper case.
func vendorNumber(manufacturer string) (string, bool) {
	digits, ok := strings.CutPrefix(strings.ToUpper(manufacturer), "ID:")
	if !ok || len(digits) != 8 {
		return "", false
	}
	if _, err := hex.DecodeString(digits); err != nil {
		return "", false
	}
	return digits, true
}

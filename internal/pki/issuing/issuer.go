// Package issuing is the only place where an authority's key signs. A profile
// and an issuer are compiled once to DER with holes; to issue is to fill the
// holes (serial, validity, subject, key, alternative names, CRL shard), to sign,
// and then to take the signed bytes apart again: the signature and every field
// must be what was meant before a single octet leaves. CRLs and OCSP answers
// take the same road. Nothing here asks whether a certificate should be issued;
// package enroll has decided that, and this package has no way to read a
// request.
package issuing

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/lint"
)

// Issuer is an authority as its certificate and key present it.
type Issuer struct {
	Name        string // in addresses of status
	Certificate []byte // DER; nil for a root that signs itself
	Key         Signer
	Check       SelfChecker // nil: signatures are verified with the public key
	Rand        io.Reader   // nil: crypto/rand
	StatusURL   string      // base of the addresses in certificates; empty: they carry none
	Quickstart  bool        // StatusURL may be one that only this machine can reach
}

// CertificateURL returns where an authority's certificate can be fetched.
func CertificateURL(base, name string) string {
	return strings.TrimSuffix(base, "/") + "/ca/" + name + ".cer"
}

// OCSPURL returns where an authority's OCSP responder answers.
func OCSPURL(base, name string) string {
	return strings.TrimSuffix(base, "/") + "/ocsp/" + name
}

// CRLURL returns where one shard of an authority's CRL can be fetched.
func CRLURL(base, name string, shard int) string {
	return fmt.Sprintf("%s/crl/%s/%d.crl", strings.TrimSuffix(base, "/"), name, shard)
}

// authority is an Issuer after its certificate was read and matched to its key.
type authority struct {
	*signer
	certificate         *x509.Certificate // nil for a root that signs itself
	subject             []byte            // DER of its name
	keyID               []byte
	notBefore, notAfter time.Time
	limited             bool // constrained, found out once
}

func newAuthority(iss *Issuer) (*authority, error) {
	s, err := newSigner(iss.Key, iss.Check, iss.Rand)
	if err != nil {
		return nil, err
	}
	if iss.StatusURL != "" {
		if err := lint.StatusURL(iss.StatusURL, iss.Quickstart); err != nil {
			return nil, err
		}
	}
	if iss.Certificate == nil {
		return &authority{signer: s}, nil
	}
	cert, err := x509.ParseCertificate(iss.Certificate)
	if err != nil {
		return nil, fault.Wrap(fault.CertificateInvalid, err, "issuer", iss.Name)
	}
	if string(cert.RawSubjectPublicKeyInfo) != string(s.spki) {
		return nil, fault.New(fault.AuthorityMismatch, iss.Name)
	}
	if !cert.BasicConstraintsValid || !cert.IsCA {
		return nil, fault.New(fault.AuthorityInvalid, iss.Name, "is not a certification authority")
	}
	a := &authority{
		signer: s, certificate: cert, subject: cert.RawSubject, keyID: cert.SubjectKeyId,
		notBefore: cert.NotBefore.UTC(), notAfter: cert.NotAfter.UTC(),
	}
	a.limited = a.constrained()
	if len(a.keyID) == 0 {
		id := keyID(s.bits)
		a.keyID = id[:]
	}
	return a, nil
}

// constrained reports whether the authority's certificate limits the names under
// it.
func (a *authority) constrained() bool {
	return a.certificate != nil && slices.ContainsFunc(a.certificate.Extensions, func(e pkix.Extension) bool {
		return e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 30})
	})
}

// permits refuses a certificate whose names nobody would accept under this
// authority. Only certificates under constraints pay for it.
func (a *authority) permits(der []byte) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fault.Wrap(fault.CertificateInvalid, err)
	}
	anchors := x509.NewCertPool()
	anchors.AddCert(a.certificate)
	// An extension that other programs understand is no reason to refuse here.
	cert.UnhandledCriticalExtensions = nil
	_, err = cert.Verify(x509.VerifyOptions{Roots: anchors, CurrentTime: cert.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return fault.Wrap(fault.ProfileValue, err, "a name is outside the authority's name constraints")
	}
	return nil
}

// needs refuses an authority whose certificate does not allow a use of its key.
func (a *authority) needs(usage x509.KeyUsage, what string) error {
	if a.certificate != nil && a.certificate.KeyUsage != 0 && a.certificate.KeyUsage&usage == 0 {
		return fault.New(fault.AuthorityInvalid, "its certificate does not allow", what)
	}
	return nil
}

package factory

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
)

// Checked is what is known of a certificate.
type Checked struct {
	Ours        bool // an authority of ours signed it
	Unaccounted bool // and no record names it
	Authority   string
	Credential  device.Credential // of the caller's scope, zero if there is none
}

// CheckCertificate looks a certificate (DER) up that was seen somewhere. One that
// an authority of ours signed but no record names raises an alarm: the key was
// used behind our back, or the record was lost.
func (s *Service) CheckCertificate(ctx context.Context, by access.Caller, der []byte) (Checked, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Checked{}, fault.Wrap(fault.ParameterInvalid, err, "this is no certificate")
	}
	snap, err := s.authorities.Snapshot(ctx)
	if err != nil {
		return Checked{}, err
	}
	signer := signerOf(snap, cert)
	if signer == nil {
		return Checked{}, nil
	}
	out := Checked{Ours: true, Authority: signer.Name}
	c, err := s.register.CredentialBySerial(ctx, access.Everything(), cert.SerialNumber.Bytes())
	switch {
	case err == nil && bytes.Equal(c.DER, der):
		if c.Device == 0 || by.Scope.Sees(c.Product, c.Site, c.Owner) {
			out.Credential = c
		}
		return out, s.seen(ctx, &c)
	case err != nil && !fault.Has(err, fault.CredentialUnknown):
		return Checked{}, err
	}
	out.Unaccounted = true
	sum := sha256.Sum256(der)
	s.Raise(Alarm{
		Kind: AlarmUnaccounted, Key: fmt.Sprintf("%x", sum[:16]),
		Message: fmt.Sprintf("authority %s signed a certificate with serial %x that no record names", signer.Name, cert.SerialNumber.Bytes()),
	})
	return out, nil
}

// seen raises an alarm when the certificate that was seen is of a device that was
// scrapped.
func (s *Service) seen(ctx context.Context, c *device.Credential) error {
	if c.Device == 0 || c.State != device.Revoked {
		return nil
	}
	d, err := s.register.Device(ctx, access.Everything(), c.Device)
	if err == nil && d.State == device.Scrapped {
		s.Raise(Alarm{
			Kind: AlarmScrapShipped, Key: d.DeviceSerial, Order: d.Order, Product: d.Product, Site: d.Site,
			Message: fmt.Sprintf("%s is scrapped and its certificate was seen", d.DeviceSerial),
		})
	}
	return err
}

// signerOf returns the authority of ours whose key signed a certificate.
func signerOf(snap *authority.Snapshot, cert *x509.Certificate) *authority.Member {
	for _, m := range snap.Authorities() {
		if m.X509 != nil && bytes.Equal(m.X509.RawSubject, cert.RawIssuer) &&
			m.X509.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil {
			return m
		}
	}
	return nil
}

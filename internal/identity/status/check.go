package status

import (
	"bytes"
	"context"
	"crypto/x509"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/pki/chain"
	"github.com/birthmark/birthmark/internal/pki/issuing"
)

// Status implements chain.StatusChecker for our own listeners, straight from the
// register and never from a cache: a certificate is good if it is the very one
// on record, and neither it nor its authority is revoked. What we have not
// issued is unknown, and so refused.
func (s *Service) Status(ctx context.Context, cert, _ *x509.Certificate) (chain.Status, error) {
	snap, err := s.authorities.Snapshot(ctx)
	if err != nil {
		return chain.Status{}, err
	}
	if m := memberOf(snap, cert); m != nil && m.State == authority.Revoked {
		return chain.Status{State: chain.Revoked, Reason: issuing.ReasonCACompromise, Since: m.ChangedAt}, nil
	} else if m != nil && m.Credential == 0 && m.X509 != nil {
		return chain.Status{State: chain.Good}, nil // imported: its status is the authority's
	}
	c, err := s.find(ctx, access.Everything(), cert.SerialNumber.Bytes())
	if fault.Has(err, fault.CredentialUnknown) || err == nil && !bytes.Equal(c.DER, cert.Raw) {
		return chain.Status{State: chain.Unknown, Detail: "it was not issued here"}, nil
	}
	if err != nil {
		return chain.Status{}, err
	}
	switch c.State {
	case device.Revoked:
		return chain.Status{State: chain.Revoked, Reason: c.Reason, Since: c.RevokedAt}, nil
	case device.Held:
		return chain.Status{State: chain.OnHold, Reason: c.Reason, Since: c.RevokedAt}, nil
	}
	return chain.Status{State: chain.Good}, nil
}

// memberOf returns the authority whose certificate this is.
func memberOf(snap *authority.Snapshot, cert *x509.Certificate) *authority.Member {
	for _, m := range snap.Authorities() {
		if m.Certificate != nil && bytes.Equal(m.Certificate, cert.Raw) {
			return m
		}
	}
	return nil
}

var _ chain.StatusChecker = (*Service)(nil)

package status

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// scoped are the extensions by which a list covers less than all that its
// authority has issued: a delta CRL, an issuing distribution point.
var scoped = []asn1.ObjectIdentifier{{2, 5, 29, 27}, {2, 5, 29, 28}}

// clockSkew is how far the clock of a ceremony's machine, which asks nobody for
// the time, may be ahead.
const clockSkew = 10 * time.Minute

// ImportCRL publishes a list that the key of a root elsewhere has signed, as a
// key ceremony makes it. An issuing authority of ours that the list names is
// revoked. Lists go forward only: numbers and times.
func (s *Service) ImportCRL(ctx context.Context, actor, name string, der []byte) error {
	snap, err := s.authorities.Refresh(ctx)
	if err != nil {
		return err
	}
	m, err := snap.Authority(name)
	if err != nil {
		return err
	}
	if m.X509 == nil || m.Kind != authority.Root || m.KeyURI != "" || m.CRLShards != 1 {
		return fault.New(fault.AuthorityState, name, "is not a root whose key is elsewhere")
	}
	list, err := s.foreignCRL(m, der)
	if err != nil {
		return err
	}
	if err := s.publishForeign(ctx, actor, m, list); err != nil {
		return err
	}
	for _, sub := range snap.Authorities() {
		if sub.Parent != m.ID || sub.X509 == nil || sub.State == authority.Revoked {
			continue
		}
		for i := range list.RevokedCertificateEntries {
			if list.RevokedCertificateEntries[i].SerialNumber.Cmp(sub.X509.SerialNumber) == 0 {
				if err := s.authorities.MarkRevoked(ctx, actor, sub.Name); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// foreignCRL reads a list and checks that it is a whole one of this authority's,
// and of this time.
func (s *Service) foreignCRL(m *authority.Member, der []byte) (*x509.RevocationList, error) {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fault.Wrap(fault.CRLInvalid, err, "it is not one")
	}
	now := s.now()
	switch {
	case string(list.RawIssuer) != string(m.X509.RawSubject) || list.CheckSignatureFrom(m.X509) != nil:
		return nil, fault.New(fault.CRLInvalid, m.Name, "has not signed it")
	case list.Number == nil || !list.Number.IsInt64() || list.Number.Sign() <= 0:
		return nil, fault.New(fault.CRLInvalid, "it has no number, or none that could ever be followed")
	case !now.Before(list.NextUpdate):
		return nil, fault.New(fault.CRLInvalid, "it has expired")
	case now.Add(clockSkew).Before(list.ThisUpdate):
		return nil, fault.New(fault.CRLInvalid, "it is from the future")
	}
	for _, e := range list.Extensions {
		if slices.ContainsFunc(scoped, e.Id.Equal) {
			return nil, fault.New(fault.CRLInvalid, "it does not cover all certificates of", m.Name)
		}
	}
	return list, nil
}

func (s *Service) publishForeign(ctx context.Context, actor string, m *authority.Member, list *x509.RevocationList) error {
	lease, ok, err := s.leases.AcquireLease(ctx, fmt.Sprintf("crl root %d", m.ID), s.node, leaseSeconds)
	if err != nil {
		return err
	}
	if !ok {
		return fault.New(fault.NodeFenced, "another node publishes this list now")
	}
	last, err := s.store.CurrentCRL(ctx, m.ID, 0)
	if err != nil && !fault.Has(err, fault.CRLUnknown) {
		return err
	}
	number := list.Number.Int64()
	if bytes.Equal(last.DER, list.Raw) {
		return nil // an interrupted import has published it
	}
	if err == nil && (number <= last.Number || list.ThisUpdate.Before(last.ThisUpdate)) {
		return fault.New(fault.CRLInvalid, "number", number, "does not follow", last.Number, "which is published")
	}
	c := CRL{
		Authority: m.ID, Number: number, ThisUpdate: list.ThisUpdate.UTC(), NextUpdate: list.NextUpdate.UTC(),
		Entries: len(list.RevokedCertificateEntries), DER: list.Raw,
	}
	err = s.store.SaveCRL(ctx, c, lease, ledger.Entry{Kind: ledger.CRLSigned, At: s.now(), Actor: actor, Body: &ledger.SignedCRL{
		Authority: c.Authority, Number: c.Number, ThisUpdate: c.ThisUpdate, NextUpdate: c.NextUpdate,
		Entries: c.Entries, DER: sha256.Sum256(c.DER),
	}})
	if err != nil {
		return err
	}
	s.published.keep(&c)
	return nil
}

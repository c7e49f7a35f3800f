package factory

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/proof"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// maxCycle is the longest unit cycle that counts; beyond it a unit lay somewhere.
const maxCycle = 24 * time.Hour

// Confirm takes what a unit returned after provisioning: the certificate must be
// octet for octet the one that was issued, and the new key must have signed for
// it. Many callers at once share a transaction. A unit that is confirmed already
// is checked and left alone.
func (s *Service) Confirm(ctx context.Context, st StationRef, c *station.Confirm) error {
	o, err := s.lineOrder(ctx, st, c.Order)
	if err != nil {
		return err
	}
	u, credential, spki, err := s.returned(ctx, o, c)
	if err != nil {
		return err
	}
	switch {
	case u.State != UnitIssued && u.State != UnitConfirmed:
		return fault.New(fault.UnitState, c.DeviceSerial, "is", u.State.String())
	case credential.State == device.Revoked || credential.State == device.Held:
		return fault.New(fault.UnitState, "the certificate of", c.DeviceSerial, "is", credential.State.String())
	}
	want := proof.Confirm(u.ConfirmNonce[:], u.DeviceSerial, credential.DER)
	if err := proof.Verify(spki, want, c.Signature, fault.ReadBackWrong); err != nil {
		return err
	}
	if u.State == UnitConfirmed {
		_, err := s.store.Unit(ctx, access.Everything(), u.ID) // what another says now has to last
		return err
	}
	return s.confirm(ctx, st, u, c)
}

// returned finds the unit whose certificate the device returned. What it returned
// names nothing else than that certificate, or the answer is fault.ReadBackWrong.
func (s *Service) returned(ctx context.Context, o *Order, c *station.Confirm) (*Unit, *device.Credential, []byte, error) {
	cert, err := x509.ParseCertificate(c.Certificate)
	if err != nil {
		return nil, nil, nil, s.wrong(ctx, o, c)
	}
	u, credential, err := s.store.Returned(ctx, sha256.Sum256(cert.RawSubjectPublicKeyInfo))
	switch {
	case fault.Has(err, fault.CredentialUnknown) || fault.Has(err, fault.UnitUnknown):
		return nil, nil, nil, s.wrong(ctx, o, c)
	case err != nil:
		return nil, nil, nil, err
	case u.Order != o.ID || u.DeviceSerial != c.DeviceSerial || !sameOctets(credential.DER, c.Certificate):
		return nil, nil, nil, s.wrong(ctx, o, c)
	}
	return &u, &credential, cert.RawSubjectPublicKeyInfo, nil
}

// wrong says why nothing can be confirmed: there is no such unit, or the device
// returned something else than what the unit was given.
func (s *Service) wrong(ctx context.Context, o *Order, c *station.Confirm) error {
	if _, err := s.newestUnit(ctx, access.Everything(), o.ID, c.DeviceSerial); err != nil {
		return err
	}
	return fault.New(fault.ReadBackWrong)
}

func (s *Service) confirm(ctx context.Context, st StationRef, u *Unit, c *station.Confirm) error {
	done := Confirmation{ID: u.ID, Device: u.Device, Order: u.Order, At: moment(s.now()), FirstPass: c.FirstPass && !u.Spare}
	if cycle := time.Duration(c.CycleMillis) * time.Millisecond; c.CycleMillis > 0 && c.CycleMillis <= maxCycle.Milliseconds() {
		done.CycleTime = cycle
	}
	return s.store.ConfirmUnit(ctx, done, ledger.Entry{
		Kind: ledger.UnitConfirmed, At: done.At, Actor: st.Actor(),
		Body: &ledger.ConfirmedUnit{
			Credential: int64(u.ID), Order: u.Order, Device: int64(u.Device), Station: st.ID,
			FirstPass: done.FirstPass, CycleTime: done.CycleTime.Milliseconds(),
		},
	})
}

package store

import (
	"context"
	"errors"
	"maps"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// unitWork is what STORE makes ready and keeps for a unit.
type unitWork struct {
	reference int64 // row of its reference, 0: none
	newDevice []any // values of deviceColumns for a device that is new
	admission
	evidenceWork
}

// readyUnit checks what the caller must have right and prepares a unit's rows.
func (s *Store) readyUnit(p *pending) error {
	u, c := p.Unit, &p.Credential
	switch {
	case u.Order == 0 || c.Device == 0 || c.Slot() != device.IDevIDSlot:
		return errors.New("a unit is the initial identity of a device in an order")
	case (u.New == nil) == (p.Change == nil):
		return errors.New("a unit's device is new or changes")
	case u.New != nil && c.Previous != 0, u.Replaces != 0 && c.Previous == 0:
		return errors.New("a new device has no identity before, and one that is replaced has")
	}
	if u.Reference != "" {
		p.reference = s.referenceRow(u.Order, u.Reference)
	}
	if u.New == nil {
		return nil
	}
	d := *u.New
	if d.ID != c.Device || d.ID != s.DeviceID(d.DeviceSerial) || d.Product != c.Product || d.Site != c.Site || d.Owner != c.Owner || d.Version < 1 {
		return errors.New("the new device is not that of the certificate")
	}
	d.Order, d.Chip = u.Order, u.Chip
	d.Current = map[device.Slot]device.CredentialID{device.IDevIDSlot: c.ID}
	p.newDevice = deviceValues(&d)
	return nil
}

// insertUnit sets what is known of a unit when it is issued.
const insertUnit = `INSERT INTO unit (id, order_id, device, chip, station, state, spare, reference, evidence, confirm_nonce, issued_at,
confirmed_at, ended_at, reason, shipped_at, activated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 0, 0, '', 0, 0)`

func unitValues(p *pending) []any {
	u, spare := p.Unit, int64(0)
	if p.follows {
		spare = 1
	}
	return []any{
		int64(p.Credential.ID), u.Order, int64(p.Credential.Device), u.Chip, u.Station, int64(factory.UnitIssued), spare,
		u.Reference, u.Evidence, u.ConfirmNonce[:], micros(p.Credential.IssuedAt),
	}
}

// replace revokes what the device of an accepted unit had before, and gives its
// version back: the leaves follow those of the issuance. The new certificate need
// not be stored yet.
func (g *group) replace(ctx context.Context, q querier, p *pending) error {
	t := &tx{querier: q, tallies: g.tallies, entries: []ledger.Entry{{Actor: p.Entries[0].Actor}}}
	d, err := readDevice(ctx, t, access.Everything(), p.Credential.Device)
	if err != nil {
		return err
	}
	d.Current = maps.Clone(d.Current)
	d.Current[device.IDevIDSlot] = p.Credential.Previous
	n, err := revokeAll(ctx, t, &d, newFrontier(&d), p.Unit.ReplacesReason, p.Credential.IssuedAt)
	if err != nil || n == 0 {
		return err
	}
	if _, err := t.exec(ctx, "UPDATE device SET version = version + $2 WHERE id = $1", int64(d.ID), n); err != nil {
		return err
	}
	p.more, err = g.s.encodeBatch(t.entries[1:])
	return err
}

// ConfirmUnit marks a unit as read back, by the group commit. Once it is queued
// the outcome is awaited whatever becomes of ctx.
func (s *Store) ConfirmUnit(ctx context.Context, c factory.Confirmation, entries ...ledger.Entry) error {
	if err := s.mayWrite(); err != nil {
		return err
	}
	if c.ID == 0 || c.At.IsZero() || len(entries) == 0 {
		return errors.New("a confirmation needs its unit, time and ledger entry")
	}
	leaves, err := s.encodeBatch(entries)
	if err != nil {
		return err
	}
	for range 5 {
		err = s.await(ctx, &pending{confirm: &c, leaves: leaves})
		if !errors.Is(err, device.ErrStale) {
			return err
		}
	}
	return fault.Wrap(fault.StoreUnavailable, err)
}

// refuseConfirmation says why a unit that was found, or not, is not confirmed.
func (p *pending) refuseConfirmation(u *unitRow, found bool) {
	switch {
	case !found || u.order != p.confirm.Order || u.device != p.confirm.Device:
		p.err = fault.New(fault.UnitUnknown)
	case u.state == factory.UnitConfirmed:
		p.again = true
	default:
		p.err = fault.New(fault.UnitState)
	}
}

// provisioned counts a registered device that became provisioned.
func (g *group) provisioned(product, site, owner int64) {
	t := tx{tallies: g.tallies}
	t.tally(devicesByState, int64(device.Registered), product, site, owner, -1)
	t.tally(devicesByState, int64(device.Provisioned), product, site, owner, 1)
}

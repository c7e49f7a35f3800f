package store

import (
	"context"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// The steps of STORE on SQLite that concern units and stations. A unit is
// admitted before anything is written for it, and takes what it was admitted to
// when nothing can refuse it any more.

var insertNewDevice = "INSERT INTO device (" + deviceColumns + ") VALUES (" + placeholders(18) + ") ON CONFLICT DO NOTHING"

const (
	useChip       = "UPDATE chip SET state = $2, order_id = 0, device = $3 WHERE id = $1"
	nameUnit      = "INSERT INTO unit_reference (id, order_id, reference, unit) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO UPDATE SET unit = excluded.unit"
	insertWrapped = "INSERT INTO wrapped_key (id, wrapped, until_at) VALUES ($1, $2, $3)"
	replaceUnit   = "UPDATE unit SET state = $2, ended_at = $3, reason = $4 WHERE id = $1"
	activateUnit  = "UPDATE unit SET activated_at = $2 WHERE id = $1 AND device = $3 AND activated_at = 0 AND state IN (1, 2) RETURNING order_id"
	countOrder    = `UPDATE production_order SET issued = issued + $2, live = live + $3, confirmed = confirmed + $4, scrapped = scrapped + $5,
activated = activated + $6 WHERE id = $1`
	useNonces    = "UPDATE nonce_block SET used = $2 WHERE id = $1"
	setStation   = "UPDATE station SET credential = $3, version = version + 1, changed_at = $4 WHERE id = $1 AND version = $2"
	spendStation = "UPDATE station SET credential = $3, version = version + 1, changed_at = $4, code_spent_at = $4, code_spki = $5 WHERE id = $1 AND version = $2"

	confirmUnit       = "UPDATE unit SET state = 2, confirmed_at = $2 WHERE id = $1 AND state = 1 AND order_id = $3 AND device = $4 RETURNING station"
	confirmCredential = `UPDATE credential SET state = 2, confirmed_at = $2 WHERE id = $1 AND state = 1 AND confirmed_at = 0
RETURNING device, product, site, owner, not_after`
	confirmUsed      = "UPDATE credential SET confirmed_at = $2 WHERE id = $1 AND confirmed_at = 0"
	provisionDevice  = "UPDATE device SET state = 2, version = version + 1, changed_at = $2 WHERE id = $1 AND state = 1 RETURNING product, site, owner"
	noteOverlapEnd   = "INSERT INTO overlap (credential, ends_at) VALUES ($1, $2) ON CONFLICT DO NOTHING"
	raiseControlOnce = "UPDATE control SET epoch = epoch + 1 WHERE id = 1"
)

// admit is the first step of a unit, and of evidence. A retry that raced with the request that it
// repeats hears that the device has changed, not that its own nonce, ticket or chip
// is used.
func (g *liteGroup) admit(ctx context.Context, p *pending) (bool, error) {
	if !p.concerned() {
		return true, nil
	}
	refused, err := g.floor.admit(ctx, p)
	if refused == nil || err != nil {
		return err == nil, err
	}
	p.err = refused
	overtaken, err := g.overtaken(ctx, p)
	if overtaken != nil {
		p.err = overtaken
	}
	return false, err
}

// overtaken returns what a unit is refused with whose device was changed by
// another.
func (g *liteGroup) overtaken(ctx context.Context, p *pending) (refused, err error) {
	var one int64
	if p.newDevice != nil {
		err = g.c.row(ctx, "SELECT 1 FROM device WHERE id = $1", int64(p.Credential.Device)).Scan(&one)
		if err == nil {
			return fault.New(fault.UnitSerialTaken), nil
		}
	} else {
		err = g.c.row(ctx, "SELECT 1 FROM device WHERE id = $1 AND version = $2", int64(p.Change.ID), p.Change.Version).Scan(&one)
		if noRows(err) {
			return device.ErrStale, nil
		}
	}
	if noRows(err) {
		err = nil
	}
	return nil, err
}

// registers inserts the device of a unit.
func (g *liteGroup) registers(ctx context.Context, p *pending) (bool, error) {
	n, err := g.c.exec(ctx, insertNewDevice, p.newDevice...)
	if err == nil && n == 0 {
		p.err = fault.New(fault.UnitSerialTaken)
	}
	return n == 1, err
}

// station makes a certificate the current one of a station.
func (g *liteGroup) station(ctx context.Context, p *pending) (bool, error) {
	x := p.Station
	if x == nil {
		return true, nil
	}
	at := micros(p.Credential.IssuedAt)
	var n int64
	var err error
	if x.SpendSPKI == nil {
		n, err = g.c.exec(ctx, setStation, x.ID, x.Version, int64(p.Credential.ID), at)
	} else {
		n, err = g.c.exec(ctx, spendStation, x.ID, x.Version, int64(p.Credential.ID), at, x.SpendSPKI[:])
	}
	g.control = g.control || n == 1
	return n == 1, err
}

// unit writes what belongs to an accepted unit.
func (g *liteGroup) unit(ctx context.Context, p *pending) error {
	g.floor.takeUnit(p)
	g.floor.issued(p)
	u, id, at := p.Unit, int64(p.Credential.ID), micros(p.Credential.IssuedAt)
	if _, err := g.c.exec(ctx, insertUnit, unitValues(p)...); err != nil {
		return err
	}
	if p.chip != nil {
		if _, err := g.c.exec(ctx, useChip, u.Chip, int64(factory.ChipUsed), int64(p.Credential.Device)); err != nil {
			return err
		}
	}
	if p.reference != 0 {
		if _, err := g.c.exec(ctx, nameUnit, p.reference, u.Order, u.Reference, id); err != nil {
			return err
		}
	}
	if u.Wrapped != nil {
		if _, err := g.c.exec(ctx, insertWrapped, id, u.Wrapped, micros(u.WrappedUntil)); err != nil {
			return err
		}
	}
	if p.ending != nil {
		if _, err := g.c.exec(ctx, replaceUnit, int64(p.ending.id), int64(factory.UnitReplaced), at, u.ReplacesNote); err != nil {
			return err
		}
		if _, err := g.c.exec(ctx, eraseWrapped, int64(p.ending.id)); err != nil {
			return err
		}
	}
	if u.Replaces != 0 {
		return g.replace(ctx, g.c, p)
	}
	return nil
}

// activates reports whether a certificate is the first operational one of its
// purpose, with which a unit of an order becomes active.
func (p *pending) activates() bool {
	return p.Change != nil && p.Unit == nil && p.Credential.Slot() != device.IDevIDSlot && p.Credential.Previous == 0
}

// activate notes the first operational credential of a unit.
func (g *liteGroup) activate(ctx context.Context, p *pending) error {
	var order int64
	var slots string
	err := g.c.row(ctx, "SELECT order_id, slots FROM device WHERE id = $1", int64(p.Change.ID)).Scan(&order, &slots)
	if err != nil || order == 0 {
		return err
	}
	current, err := parseSlots(slots)
	if err != nil {
		return err
	}
	err = g.c.row(ctx, activateUnit, int64(current[device.IDevIDSlot]), micros(p.Credential.IssuedAt), int64(p.Change.ID)).Scan(&order)
	if noRows(err) {
		return nil
	}
	if err != nil {
		return err
	}
	o, err := g.floor.order(ctx, order)
	if o != nil {
		o.delta.Activated++
	}
	return err
}

// confirmation takes one confirmation through its conditions.
func (g *liteGroup) confirmation(ctx context.Context, p *pending) error {
	c, when := p.confirm, micros(p.confirm.At)
	if o, err := g.floor.order(ctx, c.Order); err != nil || o == nil {
		p.err = fault.New(fault.UnitUnknown)
		return err
	}
	var station int64
	err := g.c.row(ctx, confirmUnit, int64(c.ID), when, c.Order, int64(c.Device)).Scan(&station)
	if noRows(err) {
		return g.notConfirmed(ctx, p)
	}
	if err != nil {
		return err
	}
	var old device.Credential
	err = g.c.row(ctx, confirmCredential, int64(c.ID), when).Scan((*int64)(&old.Device), &old.Product, &old.Site, &old.Owner, at(&old.NotAfter))
	switch {
	case err == nil:
		old.State = device.Issued
		g.moved(&old, device.Confirmed)
	case noRows(err):
		if _, err := g.c.exec(ctx, confirmUsed, int64(c.ID), when); err != nil {
			return err
		}
	default:
		return err
	}
	if err := g.provision(ctx, c, when); err != nil {
		return err
	}
	if _, err := g.c.exec(ctx, eraseWrapped, int64(c.ID)); err != nil {
		return err
	}
	for _, o := range c.Ends {
		if _, err := g.c.exec(ctx, noteOverlapEnd, int64(o.Credential), micros(o.EndsAt)); err != nil {
			return err
		}
	}
	p.stored = true
	g.floor.confirmed(c, station)
	return nil
}

// provision makes a registered device provisioned.
func (g *liteGroup) provision(ctx context.Context, c *factory.Confirmation, at int64) error {
	var product, site, owner int64
	err := g.c.row(ctx, provisionDevice, int64(c.Device), at).Scan(&product, &site, &owner)
	if noRows(err) {
		return nil
	}
	if err == nil {
		g.provisioned(product, site, owner)
	}
	return err
}

// notConfirmed says why a unit was not confirmed.
func (g *liteGroup) notConfirmed(ctx context.Context, p *pending) error {
	var u unitRow
	err := scanUnitRow(g.c.row(ctx, selectUnitRow, int64(p.confirm.ID)), &u)
	if err != nil && !noRows(err) {
		return err
	}
	p.refuseConfirmation(&u, err == nil)
	return nil
}

// writeFloor writes what the members changed together.
func (g *liteGroup) writeFloor(ctx context.Context) error {
	for _, id := range g.floor.changedOrders() {
		d := &g.floor.orders[id].delta
		if _, err := g.c.exec(ctx, countOrder, id, d.Issued, d.Live, d.Confirmed, d.Scrapped, d.Activated); err != nil {
			return err
		}
	}
	for _, id := range g.floor.changedBlocks() {
		if _, err := g.c.exec(ctx, useNonces, id, g.floor.blocks[id].used); err != nil {
			return err
		}
	}
	if g.control {
		if _, err := g.c.exec(ctx, raiseControlOnce); err != nil {
			return err
		}
	}
	return g.floor.kpis.write(ctx, g.c)
}

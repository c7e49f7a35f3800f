package store

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/status"
)

// Who changes a unit holds the row of its order: its counts change too. That row
// is taken before those of devices and certificates.

// unitRow is the part of a unit on which decisions rest.
type unitRow struct {
	id      device.CredentialID
	order   int64
	device  device.ID
	station int64
	state   factory.UnitState
	shipped bool
}

func (u *unitRow) live() bool {
	return u.state == factory.UnitIssued || u.state == factory.UnitConfirmed
}

const (
	unitRowColumns = "id, order_id, device, station, state, CASE WHEN shipped_at = 0 THEN CAST(0 AS BIGINT) ELSE 1 END"
	selectUnitRow  = "SELECT " + unitRowColumns + " FROM unit WHERE id = $1"
)

func (u *unitRow) places() []any {
	return []any{(*int64)(&u.id), &u.order, (*int64)(&u.device), &u.station, &u.state, &u.shipped}
}

func scanUnitRow(r row, u *unitRow) error { return r.Scan(u.places()...) }

// endOf is how a unit ends.
type endOf struct {
	state  factory.UnitState
	reason string
	at     time.Time
}

// endLiveUnit ends the unit of a credential and counts it out of its order; nil
// when there is none, or it has ended.
func endLiveUnit(ctx context.Context, t *tx, id device.CredentialID, e endOf) (*unitRow, error) {
	var u unitRow
	err := scanUnitRow(t.row(ctx, selectUnitRow, int64(id)), &u)
	if noRows(err) || err == nil && !u.live() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	confirmed := 0
	if u.state == factory.UnitConfirmed {
		confirmed = 1
	}
	k := factory.Tally{Order: u.order, Station: u.station, Day: unixDay(e.at.Unix()), Measure: factory.MeasureScrapped, N: 1}
	err = t.row(ctx, `UPDATE production_order SET live = live - 1, scrapped = scrapped + 1, confirmed = confirmed - $2
WHERE id = $1 RETURNING product, site`, u.order, confirmed).Scan(&k.Product, &k.Site)
	if err != nil {
		return nil, err
	}
	n, err := t.exec(ctx, "UPDATE unit SET state = $3, ended_at = $4, reason = $5 WHERE id = $1 AND state = $2", int64(u.id), u.state, e.state, e.at, e.reason)
	if err != nil {
		return nil, err
	}
	if n == 0 { // confirmed or ended since it was read
		return nil, errTryAgain
	}
	if _, err := t.exec(ctx, eraseWrapped, int64(u.id)); err != nil {
		return nil, err
	}
	ended := make(kpis, 1)
	ended.add(k)
	return &u, ended.write(ctx, t)
}

// EndUnit scraps a unit or lets it lapse, with all certificates of its device.
func (s *Store) EndUnit(ctx context.Context, e factory.Ending, entries ...ledger.Entry) error {
	if e.State != factory.UnitScrapped && e.State != factory.UnitLapsed {
		return fmt.Errorf("a unit does not end as %d", e.State)
	}
	return s.writeIfNeeded(ctx, func(t *tx) error {
		u, err := endLiveUnit(ctx, t, e.ID, endOf{e.State, e.Reason, e.At})
		if err == nil && u == nil {
			err = unitEnded(ctx, t, e.ID)
		}
		if err != nil {
			return err
		}
		if _, err := t.exec(ctx, "UPDATE device SET version = version + 1, changed_at = $2 WHERE id = $1", int64(u.device), e.At); err != nil {
			return err
		}
		d, err := readDevice(ctx, t, access.Everything(), u.device)
		if err != nil {
			return err
		}
		n, err := revokeAll(ctx, t, &d, newFrontier(&d), e.CRL, e.At)
		if err != nil {
			return err
		}
		after := d
		if e.Device != 0 {
			after.State = e.Device
		}
		if _, err := t.exec(ctx, "UPDATE device SET version = version + $2, state = $3 WHERE id = $1", int64(d.ID), n, after.State); err != nil {
			return err
		}
		t.tallyDevice(&d, -1)
		t.tallyDevice(&after, 1)
		return nil
	}, entries...)
}

// unitEnded is errNothing for a unit that has ended before.
func unitEnded(ctx context.Context, q querier, id device.CredentialID) error {
	var u unitRow
	err := scanUnitRow(q.row(ctx, selectUnitRow, int64(id)), &u)
	if noRows(err) {
		return fault.New(fault.UnitUnknown)
	}
	if err == nil {
		err = errNothing
	}
	return err
}

// revokeAll revokes the credentials of a device that a relying party would still
// take, those before the current ones too, and records each act in the name of
// who does the one that they belong to. The caller holds the device's row and
// raises its version by n.
func revokeAll(ctx context.Context, t *tx, d *device.Device, f frontier, reason int, at time.Time) (n int, err error) {
	shards := make(map[int64]int)
	for range walkWindow {
		c, err := f.step(ctx, t, d.ID)
		if err != nil || c == nil {
			return n, err
		}
		if c.State == device.Revoked || !c.NotAfter.After(at) {
			continue
		}
		if _, known := shards[c.Authority]; !known {
			var count int
			err := t.row(ctx, "SELECT crl_shards FROM authority WHERE id = $1", c.Authority).Scan(&count)
			if err != nil && !noRows(err) {
				return n, err
			}
			shards[c.Authority] = count
		}
		r := status.Revocation{
			Credential: c.ID, CertSerial: c.CertSerial, Authority: c.Authority, Shard: status.Shard(c.CertSerial, shards[c.Authority]),
			At: at, Reason: reason, NotAfter: c.NotAfter,
		}
		if err := revokeCredential(ctx, t, c, &r); err != nil {
			return n, err
		}
		t.record(ledger.Entry{Kind: ledger.CertificateRevoked, At: at, Actor: t.actor(), Body: &ledger.Revoked{
			Credential: int64(c.ID), CertSerial: c.CertSerial, Authority: c.Authority, Device: int64(d.ID),
			Shard: r.Shard, Reason: reason, RevokedAt: at, NotAfter: c.NotAfter,
		}})
		n++
	}
	return n, fmt.Errorf("device %s has too many credentials to revoke", d.ID)
}

// actor is who does the act that a transaction records.
func (t *tx) actor() string {
	if len(t.entries) == 0 {
		return "system"
	}
	return t.entries[0].Actor
}

// endUnitOf ends the unit whose initial identity is being revoked for good. The
// order's row is locked before the device's, so it comes first; done, called when
// the credential is revoked, raises the device's version and records the act.
func endUnitOf(ctx context.Context, t *tx, c *device.Credential, r *status.Revocation) (done func() error, err error) {
	done = func() error { return nil }
	if c.Device == 0 || c.Slot() != device.IDevIDSlot || r.Reason == certificateHold || c.State == device.Revoked {
		return done, nil
	}
	reason := "its certificate was revoked: " + string(status.ReasonName(r.Reason))
	u, err := endLiveUnit(ctx, t, c.ID, endOf{factory.UnitScrapped, reason, r.At})
	if err != nil || u == nil {
		return done, err
	}
	t.record(ledger.Entry{Kind: ledger.UnitScrapped, At: r.At, Actor: t.actor(), Body: &ledger.EndedUnit{
		Credential: int64(u.id), Order: u.order, Device: int64(u.device), State: uint8(factory.UnitScrapped), Reason: sha256.Sum256([]byte(reason)),
	}})
	return func() error {
		_, err := t.exec(ctx, "UPDATE device SET version = version + 1 WHERE id = $1", int64(c.Device))
		return err
	}, nil
}

// maxShipped is how many units one transaction notes as shipped.
const maxShipped = 500

// MarkShipped notes units as shipped; those that are noted already stay as they
// are. A provisioned device, or one that was repaired, becomes shipped; one that
// is in use stays so. Refused are devices without a confirmed unit, and those
// that are in no state to leave the factory.
func (s *Store) MarkShipped(ctx context.Context, ids []device.ID, at time.Time, entries ...ledger.Entry) (refused []device.ID, err error) {
	if len(ids) > maxShipped {
		return nil, fault.New(fault.ParameterInvalid, "more than", maxShipped, "units at once")
	}
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	err = s.writeIfNeeded(ctx, func(t *tx) error {
		h, err := readShipment(ctx, t, ids)
		if err != nil {
			return err
		}
		if refused = h.refused; len(refused) > 0 || len(h.units) == 0 {
			return errNothing
		}
		return h.write(ctx, t, at)
	}, entries...)
	return refused, err
}

// shipment is what a list of shipped devices changes.
type shipment struct {
	units   []int64
	devices []int64 // that become shipped
	orders  map[int64]int64
	refused []device.ID
}

func readShipment(ctx context.Context, t *tx, ids []device.ID) (*shipment, error) {
	h := &shipment{orders: make(map[int64]int64)}
	for _, id := range ids {
		d, err := readDevice(ctx, t, access.Everything(), id)
		var u unitRow
		if err == nil {
			err = scanUnitRow(t.row(ctx, selectUnitRow, int64(d.Current[device.IDevIDSlot])), &u)
		}
		switch {
		case noRows(err) || fault.Has(err, fault.DeviceUnknown):
			h.refused = append(h.refused, id)
			continue
		case err != nil:
			return nil, err
		case u.device != id || u.state != factory.UnitConfirmed || !mayLeave(d.State):
			h.refused = append(h.refused, id)
			continue
		case u.shipped:
			continue
		}
		h.units = append(h.units, int64(u.id))
		h.orders[u.order]++
		if d.State != device.Active && d.State != device.Shipped {
			h.devices = append(h.devices, int64(id))
		}
	}
	return h, nil
}

// mayLeave reports whether a device in this state may be noted as shipped.
func mayLeave(s device.State) bool {
	switch s {
	case device.Provisioned, device.InRepair, device.Shipped, device.Active:
		return true
	}
	return false
}

func (h *shipment) write(ctx context.Context, t *tx, at time.Time) error {
	for _, order := range slices.Sorted(maps.Keys(h.orders)) {
		if _, err := t.exec(ctx, "UPDATE production_order SET shipped = shipped + $2 WHERE id = $1", order, h.orders[order]); err != nil {
			return err
		}
	}
	moved := 0
	for _, from := range []device.State{device.Provisioned, device.InRepair} {
		if len(h.devices) == 0 {
			break
		}
		err := each(t.query(ctx, `UPDATE device SET state = $1, version = version + 1, changed_at = $2 WHERE state = $3 AND id IN (`+idList(h.devices)+`)
RETURNING `+deviceColumns, device.Shipped, at, from))(func(r row) error {
			var d device.Device
			if err := scanDevice(r, &d); err != nil {
				return err
			}
			moved++
			t.tallyDevice(&d, 1)
			t.tally(devicesByState, int64(from), d.Product, d.Site, d.Owner, -1)
			t.record(ledger.Entry{Kind: ledger.DeviceChanged, At: at, Actor: t.actor(), Body: changedBody(&d)})
			return nil
		})
		if err != nil {
			return err
		}
	}
	n, err := t.exec(ctx, "UPDATE unit SET shipped_at = $1 WHERE shipped_at = 0 AND state = $2 AND id IN ("+idList(h.units)+")", at, factory.UnitConfirmed)
	if err == nil && (n != int64(len(h.units)) || moved != len(h.devices)) { // changed since they were read
		err = errTryAgain
	}
	return err
}

// changedBody says what a device is after a change.
func changedBody(d *device.Device) ledger.Body {
	return &ledger.Changed{
		Device: int64(d.ID), Version: d.Version, State: uint8(d.State), Site: d.Site, Owner: d.Owner,
		Region: d.Region, Labels: ledger.LabelsDigest(d.Labels), Secret: d.Secret.Hash,
		SecretSpent: d.Secret.SpentAt, SecretSPKI: d.Secret.SpentSPKI,
	}
}

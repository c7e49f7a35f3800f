package store

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// Units have no product, site and owner of their own: those of the certificate
// decide who sees them.
const (
	unitColumns = `u.id, u.order_id, u.device, d.device_serial, u.chip, u.station, u.state, u.spare, u.reference, u.evidence, u.confirm_nonce,
u.issued_at, u.confirmed_at, u.ended_at, u.reason, u.shipped_at, u.activated_at`
	fromUnits       = " FROM unit u JOIN device d ON d.id = u.device"
	fromScopedUnits = fromUnits + " JOIN credential c ON c.id = u.id"
)

func scanUnit(r row) (factory.Unit, error) {
	var u factory.Unit
	err := r.Scan((*int64)(&u.ID), &u.Order, (*int64)(&u.Device), &u.DeviceSerial, &u.Chip, &u.Station, &u.State, &u.Spare, &u.Reference, &u.Evidence,
		fixed(u.ConfirmNonce[:]), at(&u.IssuedAt), at(&u.ConfirmedAt), at(&u.EndedAt), &u.Reason, at(&u.ShippedAt), at(&u.ActivatedAt))
	return u, err
}

// selectUnits is the beginning of a statement that reads units in scope.
func selectUnits(scope access.Scope) string {
	if scope.SeesEverything() {
		return "SELECT " + unitColumns + fromUnits + " WHERE u.id > 0"
	}
	return "SELECT " + unitColumns + fromScopedUnits + " WHERE u.id > 0" + scopeSQL(scope, "c.")
}

// Unit returns a unit, or fault.UnitUnknown.
func (s *Store) Unit(ctx context.Context, scope access.Scope, id device.CredentialID) (factory.Unit, error) {
	return readUnit(ctx, s.read, scope, " AND u.id = $1", int64(id))
}

// Returned returns the unit and the credential of a key.
func (s *Store) Returned(ctx context.Context, spkiDigest [32]byte) (u factory.Unit, c device.Credential, err error) {
	err = s.engine.look(ctx, func(q querier) error {
		if c, err = s.credentialBySPKI(ctx, q, access.Everything(), spkiDigest); err != nil {
			return err
		}
		u, err = readUnit(ctx, q, access.Everything(), " AND u.id = $1", int64(c.ID))
		return err
	})
	return u, c, err
}

func readUnit(ctx context.Context, q querier, scope access.Scope, which string, args ...any) (factory.Unit, error) {
	u, err := scanUnit(q.row(ctx, selectUnits(scope)+which, args...))
	if noRows(err) {
		return factory.Unit{}, fault.New(fault.UnitUnknown)
	}
	return u, err
}

// referenceRow is the row of a station's own name of a unit.
func (s *Store) referenceRow(order int64, reference string) int64 {
	h := hmac.New(sha256.New, s.keys.hash[:])
	h.Write(binary.BigEndian.AppendUint64([]byte("unit reference"), uint64(order)))
	io.WriteString(h, reference) //nolint:errcheck // a hash does not fail
	return rowNumber(h.Sum(nil))
}

// UnitByReference returns the newest unit with the station's own reference, or
// fault.UnitUnknown.
func (s *Store) UnitByReference(ctx context.Context, order int64, reference string) (factory.Unit, error) {
	return readUnit(ctx, s.read, access.Everything(),
		" AND u.id = (SELECT unit FROM unit_reference WHERE id = $1 AND order_id = $2 AND reference = $3)", s.referenceRow(order, reference), order, reference)
}

// Units returns a page of units in order of issuing. Indexes: unit_order and the
// primary key; those of one device are reached from its slots.
func (s *Store) Units(ctx context.Context, scope access.Scope, q factory.UnitQuery) ([]factory.Unit, string, error) {
	after, err := parseCursor(q.After)
	if err != nil {
		return nil, "", err
	}
	if q.Device != 0 {
		list, err := s.unitsOf(ctx, scope, q, after)
		return list, "", err
	}
	last, err := s.lastUnit(ctx, scope, q, after)
	if err != nil {
		return nil, "", err
	}
	limit := pageSize(q.Limit)
	text, args := selectUnits(scope)+" AND u.id > $1 AND u.id <= $2", []any{after, last, limit}
	if q.Order != 0 {
		args = append(args, q.Order)
		text += " AND u.order_id = $" + strconv.Itoa(len(args))
	}
	if q.State != 0 {
		args = append(args, q.State)
		text += " AND u.state = $" + strconv.Itoa(len(args))
	}
	list := make([]factory.Unit, 0, limit)
	err = each(s.read.query(ctx, text+" ORDER BY u.id LIMIT $3", args...))(func(r row) error {
		u, err := scanUnit(r)
		list = append(list, u)
		return err
	})
	switch {
	case err != nil:
		return nil, "", err
	case len(list) == limit:
		return list, cursor(int64(list[limit-1].ID)), nil
	case last < lastOfAll:
		return list, cursor(last), nil
	}
	return list, "", nil
}

// lastOfAll is above every credential's number.
const lastOfAll = 1 << 62

// lastUnit bounds how many units a page examines.
func (s *Store) lastUnit(ctx context.Context, scope access.Scope, q factory.UnitQuery, after int64) (int64, error) {
	if q.State == 0 && scope.SeesEverything() {
		return lastOfAll, nil
	}
	text, args := "SELECT id FROM unit WHERE id > $1", []any{after, walkWindow - 1}
	if q.Order != 0 {
		text, args = text+" AND order_id = $3", append(args, q.Order)
	}
	last := int64(lastOfAll)
	err := s.read.row(ctx, text+" ORDER BY id LIMIT 1 OFFSET $2", args...).Scan(&last)
	if noRows(err) {
		return lastOfAll, nil
	}
	return last, err
}

// unitsOf returns the units of one device, which are few: identities that
// followed each other.
func (s *Store) unitsOf(ctx context.Context, scope access.Scope, q factory.UnitQuery, after int64) ([]factory.Unit, error) {
	d, err := s.Device(ctx, scope, q.Device)
	if fault.Has(err, fault.DeviceUnknown) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []factory.Unit
	f := frontier{d.Current[device.IDevIDSlot]}
	for range walkWindow {
		c, err := f.step(ctx, s.read, d.ID)
		if err != nil || c == nil || int64(c.ID) <= after {
			slices.Reverse(list)
			return list, err
		}
		u, err := s.Unit(ctx, scope, c.ID)
		switch {
		case fault.Has(err, fault.UnitUnknown):
		case err != nil:
			return nil, err
		case (q.Order == 0 || u.Order == q.Order) && (q.State == 0 || u.State == q.State):
			list = append(list, u)
		}
	}
	slices.Reverse(list)
	return list, nil
}

// Unconfirmed returns units that were issued and not confirmed in orders that
// were closed or canceled so long ago that their grace is over. Only orders
// whose counts say that there are such units are looked through. Indexes
// order_state and unit_order.
func (s *Store) Unconfirmed(ctx context.Context, at time.Time, limit int) ([]factory.Unit, error) {
	limit = pageSize(limit)
	var orders []int64
	err := each(s.read.query(ctx, `SELECT id FROM production_order WHERE state IN ($1, $2) AND live > confirmed
AND closed_at <> 0 AND closed_at + grace <= $3 ORDER BY id LIMIT $4`, factory.OrderClosed, factory.OrderCanceled, at, limit))(func(r row) error {
		var id int64
		err := r.Scan(&id)
		orders = append(orders, id)
		return err
	})
	var list []factory.Unit
	for _, order := range orders {
		if err != nil || len(list) >= limit {
			break
		}
		err = each(s.read.query(ctx, selectUnits(access.Everything())+" AND u.order_id = $1 AND u.state = $2 ORDER BY u.id LIMIT $3",
			order, factory.UnitIssued, limit-len(list)))(func(r row) error {
			u, err := scanUnit(r)
			list = append(list, u)
			return err
		})
	}
	return list, err
}

package store

import (
	"context"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// orderColumns are what scanOrder reads.
const orderColumns = `id, number, product, site, state, terms, quantity, spares, stations, chip_types, serial_from, serial_to, external_ref,
takt, grace, frozen, created_at, opened_at, closed_at, issued, live, confirmed, scrapped, shipped, activated`

func scanOrder(r row) (factory.Order, error) {
	var o factory.Order
	var takt, grace int64
	c := &o.Counts
	err := r.Scan(&o.ID, &o.Number, &o.Product, &o.Site, &o.State, &o.Version, &o.Quantity, &o.Spares, fromJSON(&o.Stations), fromJSON(&o.ChipTypes),
		&o.SerialFrom, &o.SerialTo, &o.ExternalRef, &takt, &grace, &o.Frozen, at(&o.CreatedAt), at(&o.OpenedAt), at(&o.ClosedAt),
		&c.Issued, &c.Live, &c.Confirmed, &c.Scrapped, &c.Shipped, &c.Activated)
	o.Takt, o.Grace = time.Duration(takt)*time.Microsecond, time.Duration(grace)*time.Microsecond
	return o, err
}

// orderValues are the values of orderColumns.
func orderValues(o *factory.Order) []any {
	c := &o.Counts
	return []any{
		o.ID, o.Number, o.Product, o.Site, o.State, o.Version, o.Quantity, o.Spares, listJSON(o.Stations), listJSON(o.ChipTypes),
		o.SerialFrom, o.SerialTo, o.ExternalRef, o.Takt.Microseconds(), o.Grace.Microseconds(), o.Frozen, o.CreatedAt, o.OpenedAt, o.ClosedAt,
		c.Issued, c.Live, c.Confirmed, c.Scrapped, c.Shipped, c.Activated,
	}
}

// AddOrder stores a new order, of which nothing was made yet: fault.OrderExists
// when its number or external reference is taken.
func (s *Store) AddOrder(ctx context.Context, o factory.Order, entries ...ledger.Entry) (id int64, err error) {
	o.Version, o.Counts = 1, factory.Counts{}
	err = s.write(ctx, func(t *tx) error {
		o.ID = 0
		if err := t.bumpControl(ctx); err != nil {
			return err
		}
		if err := orderFits(ctx, t, &o); err != nil {
			return err
		}
		if o.ID, err = nextID(ctx, t, "production_order"); err != nil {
			return err
		}
		_, err = t.exec(ctx, "INSERT INTO production_order ("+orderColumns+") VALUES ("+placeholders(25)+")", orderValues(&o)...)
		return err
	}, entries...)
	if err != nil {
		return 0, err
	}
	return o.ID, nil
}

// orderFits refuses an order whose number or reference another has, or whose
// product or site is not there. The row of control is held, so this stays true.
func orderFits(ctx context.Context, t *tx, o *factory.Order) error {
	for _, r := range []struct {
		table   string
		id      int64
		unknown fault.Code
	}{{"product", o.Product, fault.ProductUnknown}, {"site", o.Site, fault.SiteUnknown}} {
		if there, err := exists(ctx, t, r.table, r.id); err != nil || !there {
			return orFault(err, r.unknown)
		}
	}
	var other int64
	// Indexes: the unique one of number, and order_reference.
	err := t.row(ctx, "SELECT id FROM production_order WHERE number = $1 AND id <> $2", o.Number, o.ID).Scan(&other)
	if noRows(err) && o.ExternalRef != "" {
		err = t.row(ctx, "SELECT id FROM production_order WHERE external_ref = $1 AND external_ref <> '' AND id <> $2", o.ExternalRef, o.ID).Scan(&other)
	}
	if noRows(err) {
		return nil
	}
	return orFault(err, fault.OrderExists, o.Number)
}

// Order returns an order, or fault.OrderUnknown.
func (s *Store) Order(ctx context.Context, scope access.Scope, id int64) (factory.Order, error) {
	return readOrder(ctx, s.read, scope, "id = $1", id)
}

// OrderByNumber returns the order with this number. Index: the unique one of
// number.
func (s *Store) OrderByNumber(ctx context.Context, scope access.Scope, number string) (factory.Order, error) {
	return readOrder(ctx, s.read, scope, "number = $1", number)
}

// OrderByReference returns the order with this external reference. Index
// order_reference.
func (s *Store) OrderByReference(ctx context.Context, scope access.Scope, ref string) (factory.Order, error) {
	return readOrder(ctx, s.read, scope, "external_ref = $1 AND external_ref <> ''", ref)
}

func readOrder(ctx context.Context, q querier, scope access.Scope, which string, arg any) (factory.Order, error) {
	o, err := scanOrder(q.row(ctx, "SELECT "+orderColumns+" FROM production_order WHERE "+which+lineScope(scope, ""), arg))
	if noRows(err) {
		return factory.Order{}, fault.New(fault.OrderUnknown)
	}
	return o, err
}

// Orders returns a page of orders, newest first. Indexes: the primary key,
// order_product and order_state.
func (s *Store) Orders(ctx context.Context, scope access.Scope, q factory.OrderQuery) ([]factory.Order, string, error) {
	after, err := parseCursor(q.After)
	if err != nil {
		return nil, "", err
	}
	w := walk{table: "production_order", columns: orderColumns, scope: lineWalk(scope), product: q.Product, descending: true, dense: true}
	if q.State != 0 {
		w.where("state = ?", int64(q.State))
		// Index order_state leads from one row of the state to the next.
		w.skips = q.Product != 0 || !scope.SeesEverything()
	}
	if q.Site != 0 {
		w.where("site = ?", q.Site)
	}
	list, next, err := page(ctx, s.read, &w, after, pageSize(q.Limit), func(r row) (factory.Order, int64, error) {
		o, err := scanOrder(r)
		return o, o.ID, err
	})
	return list, cursor(next), err
}

// lineWalk is the scope for a walk over rows without owner.
func lineWalk(s access.Scope) access.Scope {
	if !s.SeesEverything() && len(s.Owners()) > 0 {
		return access.Scope{}
	}
	return s
}

// UpdateOrder writes terms, state and times if the row still has o.Version, and
// raises it; device.ErrStale otherwise. fault.OrderTerms when the new terms are
// below what is issued. Product and counts stay.
func (s *Store) UpdateOrder(ctx context.Context, o factory.Order, entries ...ledger.Entry) error {
	return s.write(ctx, func(t *tx) error {
		if err := t.bumpControl(ctx); err != nil {
			return err
		}
		if err := orderFits(ctx, t, &o); err != nil {
			return err
		}
		n, err := t.exec(ctx, `UPDATE production_order SET number = $3, site = $4, state = $5, quantity = $6, spares = $7, stations = $8,
chip_types = $9, serial_from = $10, serial_to = $11, external_ref = $12, takt = $13, grace = $14, frozen = $15, opened_at = $16,
closed_at = $17, terms = terms + 1 WHERE id = $1 AND terms = $2 AND live <= $6 AND issued <= $6 + $7`,
			o.ID, o.Version, o.Number, o.Site, o.State, o.Quantity, o.Spares, listJSON(o.Stations),
			listJSON(o.ChipTypes), o.SerialFrom, o.SerialTo, o.ExternalRef, o.Takt.Microseconds(), o.Grace.Microseconds(), o.Frozen, o.OpenedAt, o.ClosedAt)
		if err != nil || n == 1 {
			return err
		}
		return whyNotUpdated(ctx, t, &o)
	}, entries...)
}

func whyNotUpdated(ctx context.Context, t *tx, o *factory.Order) error {
	now, err := readOrder(ctx, t, access.Everything(), "id = $1", o.ID)
	switch {
	case err != nil:
		return err
	case now.Version != o.Version:
		return device.ErrStale
	case now.Counts.Live > o.Quantity:
		return fault.New(fault.OrderTerms, "units that live:", now.Counts.Live)
	}
	return fault.New(fault.OrderTerms, "units issued:", now.Counts.Issued)
}

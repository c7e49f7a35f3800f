package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// States of units as package factory numbers them, see those of credentials.
const (
	unitIssued    = 1
	unitConfirmed = 2
	unitReplaced  = 4
)

// UnitRow is factory.Unit in plain values.
type UnitRow struct {
	ID           int64
	Order        int64
	Device       int64
	Chip         int64
	Station      int64
	State        uint8
	Spare        bool
	Reference    string
	Evidence     string
	ConfirmNonce [32]byte
	IssuedAt     time.Time
	ConfirmedAt  time.Time
}

// OrderRow is the account of a production order, and what bounds it.
type OrderRow struct {
	ID        int64
	Number    string
	Quantity  int64
	Spares    int64
	Issued    int64
	Live      int64
	Confirmed int64
	Scrapped  int64
}

type unitState struct {
	leaf, touched int64
	order         int64
	digest        uint64
	confirmedAt   int64
	state         uint8
	seen          bool
}

func (u *unitState) live() bool { return u.state == unitIssued || u.state == unitConfirmed }

// orderState is the account of an order as its units' entries make it.
type orderState struct {
	touched                           int64
	issued, live, confirmed, scrapped int64
}

func (r *register) unitDigest(u *UnitRow) uint64 {
	return r.sum(func(t *tuple) {
		for _, n := range [...]int64{u.ID, u.Order, u.Device, u.Chip, u.Station} {
			t.num(n)
		}
		if u.Spare {
			t.num(1)
		}
		t.text(u.Reference)
		t.text(u.Evidence)
		t.raw(u.ConfirmNonce[:])
		t.when(u.IssuedAt)
	})
}

// order returns the account of an order that an entry changes.
func (r *register) order(at, id int64) *orderState {
	o := r.orders[id]
	if o == nil {
		o = new(orderState)
		r.orders[id] = o
	}
	o.touched = at
	return o
}

func (r *register) issueUnit(at int64, when time.Time, b *IssuedUnit) error {
	if !r.mine(b.Device, b.Credential) {
		return nil
	}
	if c := r.credentials.get(b.Credential); c == nil || c.leaf >= at {
		return broken("unit %d has no certificate", b.Credential)
	}
	if u := r.units.get(b.Credential); u != nil {
		return broken("unit %d was issued before, by entry %d", b.Credential, u.leaf)
	}
	if b.Replaces != 0 {
		old := r.units.get(b.Replaces)
		if old == nil || !old.live() {
			return broken("it replaces unit %d, which is not live", b.Replaces)
		}
		r.end(at, old, unitReplaced)
	}
	row := UnitRow{
		ID: b.Credential, Order: b.Order, Device: b.Device, Chip: b.Chip, Station: b.Station, Spare: b.Spare,
		Reference: b.Reference, Evidence: b.Evidence, ConfirmNonce: b.ConfirmNonce, IssuedAt: when,
	}
	*r.units.add(b.Credential) = unitState{leaf: at, touched: at, order: b.Order, digest: r.unitDigest(&row), state: unitIssued}
	if d := r.devices.get(b.Device); d != nil {
		d.order, d.chip = b.Order, b.Chip
	}
	o := r.order(at, b.Order)
	o.issued++
	o.live++
	return nil
}

// buildIn links components to their system.
func (r *register) buildIn(at int64, body Raw) error {
	var b struct {
		System     string   `json:"system"`
		Components []string `json:"components"`
	}
	if err := json.Unmarshal(body, &b); err != nil {
		return broken("its body is no object")
	}
	system, err := strconv.ParseInt(b.System, 16, 64)
	if err != nil {
		return broken("%q is no device", b.System)
	}
	for _, name := range b.Components {
		id, err := strconv.ParseInt(name, 16, 64)
		if err != nil {
			return broken("%q is no device", name)
		}
		if !r.mine(id, 0) {
			continue
		}
		d := r.devices.get(id)
		if d == nil {
			return broken("device %016x was never registered", id)
		}
		d.touched, d.builtInto = at, system
	}
	return nil
}

func (r *register) confirmUnit(at int64, when time.Time, b *ConfirmedUnit) error {
	if !r.mine(b.Device, b.Credential) {
		return nil
	}
	u := r.units.get(b.Credential)
	if u == nil || u.state != unitIssued || u.order != b.Order {
		return broken("it confirms unit %d, which does not wait for it", b.Credential)
	}
	u.touched, u.state, u.confirmedAt = at, unitConfirmed, seconds(when)
	r.order(at, u.order).confirmed++
	return r.readBack(at, when, b)
}

func (r *register) scrapUnit(at int64, b *EndedUnit) error {
	if !r.mine(b.Device, b.Credential) {
		return nil
	}
	u := r.units.get(b.Credential)
	if u == nil || !u.live() || u.order != b.Order {
		return broken("it ends unit %d, which is not live", b.Credential)
	}
	r.end(at, u, b.State)
	return r.endUnit(at, b)
}

func (r *register) end(at int64, u *unitState, state uint8) {
	o := r.order(at, u.order)
	o.live--
	o.scrapped++
	if u.state == unitConfirmed {
		o.confirmed--
	}
	u.touched, u.state = at, state
}

func (v *verification) units(ctx context.Context, begin int64) error {
	fetch := func(after *UnitRow, limit int) ([]UnitRow, error) {
		return v.src.UnitRows(ctx, idOf(after, func(r *UnitRow) int64 { return r.ID }), limit)
	}
	if err := each(ctx, v, fetch, v.unit); err != nil {
		return err
	}
	id, leaf, found := missingOf(&v.register.units, begin, func(u *unitState) (int64, bool) { return u.leaf, u.seen })
	if found {
		return missingRow(fmt.Sprintf("unit %d", id), leaf)
	}
	return nil
}

func (v *verification) unit(row *UnitRow, before int64) (bool, error) {
	r := v.register
	if !r.mine(row.Device, row.ID) {
		return true, nil
	}
	what := fmt.Sprintf("unit %d", row.ID)
	u := r.units.get(row.ID)
	if u == nil {
		return false, surplusRow(what)
	}
	if !u.seen {
		u.seen = true
		v.report.Units++
	}
	if u.touched >= before {
		return false, nil
	}
	if r.unitDigest(row) != u.digest {
		return false, badRow(what, u.leaf, "order, device, chip, station, reference, evidence, nonce or time is not what the entry says")
	}
	return true, differ(what, u.touched, []field{
		{"state", int64(row.State), int64(u.state)},
		{"time of confirmation", seconds(row.ConfirmedAt), u.confirmedAt},
	})
}

// quotas compares the accounts of orders with their units, and with what was
// ordered. Units are looked at in parts when there are more than fit into
// memory; then the parts' accounts are added up, and what stations did between
// the parts could be in none, so that only the last pass of a ledger that stood
// still compares.
func (v *verification) quotas(ctx context.Context, _ int64) error {
	v.account(v.register.orders)
	if v.progress.Pass < v.progress.Passes || v.progress.Passes > 1 && v.register.size != v.size {
		return nil
	}
	fetch := func(after *OrderRow, limit int) ([]OrderRow, error) {
		return v.src.OrderRows(ctx, idOf(after, func(r *OrderRow) int64 { return r.ID }), limit)
	}
	return each(ctx, v, fetch, v.quota)
}

// account adds the accounts of earlier passes to those of this one.
func (v *verification) account(orders map[int64]*orderState) {
	for id, o := range v.orders {
		sum := orders[id]
		if sum == nil {
			sum = new(orderState)
			orders[id] = sum
		}
		sum.touched = max(sum.touched, o.touched)
		sum.issued += o.issued
		sum.live += o.live
		sum.confirmed += o.confirmed
		sum.scrapped += o.scrapped
	}
	v.orders = orders
}

func (v *verification) quota(row *OrderRow, before int64) (bool, error) {
	what := "order " + row.Number
	o := v.register.orders[row.ID]
	if o == nil {
		o = new(orderState)
	}
	if o.touched >= before && before > 0 {
		return false, nil
	}
	if err := differ(what, o.touched, []field{
		{"issued", row.Issued, o.issued},
		{"live", row.Live, o.live},
		{"confirmed", row.Confirmed, o.confirmed},
		{"scrapped", row.Scrapped, o.scrapped},
	}); err != nil {
		return false, err
	}
	if row.Live > row.Quantity || row.Issued > row.Quantity+row.Spares {
		return false, badRow(what, o.touched, "%d live and %d issued units are more than %d and %d spares", row.Live, row.Issued, row.Quantity, row.Spares)
	}
	return true, nil
}

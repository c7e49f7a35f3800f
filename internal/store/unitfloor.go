package store

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// floor is the part of the factory that a group's units concern: orders, nonce
// blocks, chips, references and units before. Each row is read once for the
// whole group, the members are decided one by one on what is in memory, and each
// row that changed is written once. So a limit costs a line that runs at full
// speed two statements a group.
type floor struct {
	read   querier
	orders map[int64]*floorOrder
	blocks map[int64]*floorBlock
	chips  map[int64]*floorChip
	names  map[int64]*floorName
	units  map[device.CredentialID]*unitRow
	kpis   kpis
	// What evidence concerns, see attestissue.go. Nil where there is none.
	tickets map[[16]byte]bool // spent
	tpms    map[int64]*floorTPM
}

// floorOrder is an order's row with what the group adds to its counts.
type floorOrder struct {
	state            factory.OrderState
	frozen           bool
	product, site    int64
	quantity, spares int64
	issued, live     int64 // as the group leaves them
	delta            factory.Counts
}

type floorBlock struct {
	order, station, size int64
	used                 []byte
	expires              time.Time
	changed              bool
}

type floorChip struct {
	state   factory.ChipState
	order   int64
	device  device.ID
	visible bool
}

// floorName is a row of unit_reference.
type floorName struct {
	order     int64
	reference string
	unit      device.CredentialID
	device    device.ID
}

func newFloor(read querier) *floor {
	return &floor{
		read: read, orders: make(map[int64]*floorOrder), blocks: make(map[int64]*floorBlock), chips: make(map[int64]*floorChip),
		names: make(map[int64]*floorName), units: make(map[device.CredentialID]*unitRow), kpis: make(kpis),
	}
}

// known returns the row with this key, nil if there is none, reading it unless
// that was done before.
func known[K comparable, V any](rows map[K]*V, key K, read func(*V) error) (*V, error) {
	if v, ok := rows[key]; ok {
		return v, nil
	}
	v := new(V)
	if err := read(v); err != nil {
		if !noRows(err) {
			return nil, err
		}
		v = nil
	}
	rows[key] = v
	return v, nil
}

const (
	floorOrderColumns = "state, frozen, product, site, quantity, spares, issued, live"
	floorBlockColumns = "order_id, station, size, used, expires_at"
	floorChipColumns  = "c.state, c.order_id, c.device, CASE WHEN m.visible = 1 THEN CAST(1 AS BIGINT) ELSE 0 END"
	floorChipTables   = "chip c JOIN manifest m ON m.id = c.manifest"
	floorNameColumns  = "n.order_id, n.reference, n.unit, u.device"
	floorNameTables   = "unit_reference n JOIN unit u ON u.id = n.unit"
)

// The places that a row's columns are scanned into.

func (o *floorOrder) places() []any {
	return []any{&o.state, &o.frozen, &o.product, &o.site, &o.quantity, &o.spares, &o.issued, &o.live}
}

func (b *floorBlock) places() []any {
	return []any{&b.order, &b.station, &b.size, &b.used, at(&b.expires)}
}

func (c *floorChip) places() []any { return []any{&c.state, &c.order, (*int64)(&c.device), &c.visible} }

func (n *floorName) places() []any {
	return []any{&n.order, &n.reference, (*int64)(&n.unit), (*int64)(&n.device)}
}

func (f *floor) order(ctx context.Context, id int64) (*floorOrder, error) {
	return known(f.orders, id, func(o *floorOrder) error {
		return f.read.row(ctx, "SELECT "+floorOrderColumns+" FROM production_order WHERE id = $1", id).Scan(o.places()...)
	})
}

func (f *floor) block(ctx context.Context, id int64) (*floorBlock, error) {
	return known(f.blocks, id, func(b *floorBlock) error {
		return f.read.row(ctx, "SELECT "+floorBlockColumns+" FROM nonce_block WHERE id = $1", id).Scan(b.places()...)
	})
}

func (f *floor) chip(ctx context.Context, id int64) (*floorChip, error) {
	return known(f.chips, id, func(c *floorChip) error {
		return f.read.row(ctx, "SELECT "+floorChipColumns+" FROM "+floorChipTables+" WHERE c.id = $1", id).Scan(c.places()...)
	})
}

func (f *floor) name(ctx context.Context, id int64) (*floorName, error) {
	return known(f.names, id, func(n *floorName) error {
		return f.read.row(ctx, "SELECT "+floorNameColumns+" FROM "+floorNameTables+" WHERE n.id = $1", id).Scan(n.places()...)
	})
}

func (f *floor) unit(ctx context.Context, id device.CredentialID) (*unitRow, error) {
	return known(f.units, id, func(u *unitRow) error {
		return scanUnitRow(f.read.row(ctx, selectUnitRow, int64(id)), u)
	})
}

// admission is what a unit takes of the floor.
type admission struct {
	order   *floorOrder
	follows bool              // the device had a unit before
	ending  *unitRow          // unit that ends with this one, nil: none
	state   factory.UnitState // of that unit
	chip    *floorChip        // that changes, nil: none
	chipWas floorChip
	nameWas *floorName
}

// concerned reports whether a member is decided on the floor.
func (p *pending) concerned() bool { return p.Unit != nil || p.Attestation != nil }

// admit decides whether the floor takes a unit, or what hardware showed; refused is
// why not. Nothing changes before take.
func (f *floor) admit(ctx context.Context, p *pending) (refused, err error) {
	p.admission, p.tpm = admission{}, nil
	if p.Unit != nil {
		for _, condition := range []func(context.Context, *pending) (error, error){f.mayUseNonce, f.mayUseChip, f.mayUseReference, f.mayFollow, f.mayIssue} {
			if refused, err := condition(ctx, p); refused != nil || err != nil {
				return refused, err
			}
		}
	}
	if p.Attestation != nil {
		f.setEvidence()
		for _, condition := range []func(context.Context, *pending) (error, error){f.mayUseTicket, f.mayTieTPM, f.mayOwnChip} {
			if refused, err := condition(ctx, p); refused != nil || err != nil {
				return refused, err
			}
		}
	}
	return nil, nil
}

func (f *floor) mayUseNonce(ctx context.Context, p *pending) (refused, err error) {
	n := p.Unit.Nonce
	if n.Block == 0 {
		return nil, nil
	}
	b, err := f.block(ctx, n.Block)
	switch {
	case err != nil:
		return nil, err
	case b == nil || b.order != p.Unit.Order || b.station != p.Unit.Station || n.Index < 0 || int64(n.Index) >= b.size:
		return fault.New(fault.NonceInvalid), nil
	case !b.expires.After(p.Credential.IssuedAt):
		return fault.New(fault.NonceExpired), nil
	case b.used[n.Index/8]&(1<<(n.Index%8)) != 0:
		return fault.New(fault.NonceUsed), nil
	}
	return nil, nil
}

func (f *floor) mayUseChip(ctx context.Context, p *pending) (refused, err error) {
	if p.Unit.Chip == 0 {
		return nil, nil
	}
	c, err := f.chip(ctx, p.Unit.Chip)
	switch {
	case err != nil:
		return nil, err
	case c == nil || !c.visible:
		return fault.New(fault.ChipUnknown), nil
	}
	switch c.state {
	case factory.ChipListed, factory.ChipNotProvable:
		return nil, nil
	case factory.ChipAllotted:
		if c.order == p.Unit.Order {
			return nil, nil
		}
		return fault.New(fault.ChipOtherOrder), nil
	case factory.ChipWithdrawn:
		return fault.New(fault.ChipWithdrawn), nil
	}
	// A board keeps its chip when it is provisioned anew.
	if c.device == p.Credential.Device && p.Unit.New == nil {
		return nil, nil
	}
	return fault.New(fault.ChipUsed), nil
}

func (f *floor) mayUseReference(ctx context.Context, p *pending) (refused, err error) {
	if p.reference == 0 {
		return nil, nil
	}
	n, err := f.name(ctx, p.reference)
	if err != nil || n == nil {
		return nil, err
	}
	if n.device != p.Credential.Device || n.order != p.Unit.Order || n.reference != p.Unit.Reference {
		return fault.New(fault.UnitReference, p.Unit.Reference), nil
	}
	return nil, nil
}

// mayFollow finds the unit of the same device that ends with the new one. A
// device has one living unit: another follows only where the request says so.
func (f *floor) mayFollow(ctx context.Context, p *pending) (refused, err error) {
	id := cmp.Or(p.Unit.Replaces, p.Credential.Previous)
	if id == 0 {
		return nil, nil
	}
	if id != p.Credential.Previous { // the identity was renewed elsewhere since
		last, err := f.unit(ctx, p.Credential.Previous)
		if err != nil || last != nil && last.live() {
			return device.ErrStale, err
		}
	}
	u, err := f.unit(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case p.Unit.Replaces != 0 && (u == nil || u.device != p.Credential.Device || !u.live()):
		return device.ErrStale, nil
	case u == nil:
		return nil, nil
	case !u.live():
		p.follows = u.device == p.Credential.Device
		return nil, nil
	case p.Unit.Replaces == 0:
		return fault.New(fault.UnitSerialTaken), nil
	}
	p.ending, p.state, p.follows = u, u.state, true
	_, err = f.order(ctx, u.order)
	return nil, err
}

// mayIssue compares the order's counts with its terms.
func (f *floor) mayIssue(ctx context.Context, p *pending) (refused, err error) {
	o, err := f.order(ctx, p.Unit.Order)
	if err != nil {
		return nil, err
	}
	leaves := int64(0)
	if p.ending != nil && p.ending.order == p.Unit.Order {
		leaves = 1
	}
	p.order = o
	switch {
	case o == nil:
		return fault.New(fault.OrderUnknown), nil
	case o.state != factory.OrderOpen:
		return fault.New(fault.OrderState), nil
	case o.frozen:
		return fault.New(fault.OrderFrozen), nil
	case o.live-leaves >= o.quantity:
		return fault.New(fault.OrderFull), nil
	case o.issued >= o.quantity+o.spares:
		return fault.New(fault.SparesUsed), nil
	}
	return nil, nil
}

// take gives a member what it was admitted to.
func (f *floor) take(p *pending) {
	if p.Unit != nil {
		f.takeUnit(p)
	}
	if p.Attestation != nil {
		f.takeEvidence(p)
	}
}

// giveBack undoes take.
func (f *floor) giveBack(p *pending) {
	if p.Unit != nil {
		f.giveBackUnit(p)
	}
	if p.Attestation != nil {
		f.giveBackEvidence(p)
	}
}

// takeUnit gives a unit its place in the order, its nonce, chip and reference.
func (f *floor) takeUnit(p *pending) {
	p.order.add(factory.Counts{Issued: 1, Live: 1})
	if p.ending != nil {
		f.leave(p, 1)
		p.ending.state = factory.UnitReplaced
	}
	if n := p.Unit.Nonce; n.Block != 0 {
		b := f.blocks[n.Block]
		b.used[n.Index/8] |= 1 << (n.Index % 8)
		b.changed = true
	}
	if c := f.chips[p.Unit.Chip]; p.Unit.Chip != 0 && c.state != factory.ChipUsed {
		p.chip, p.chipWas = c, *c
		*c = floorChip{factory.ChipUsed, 0, p.Credential.Device, true}
	}
	if p.reference != 0 {
		p.nameWas = f.names[p.reference]
		f.names[p.reference] = &floorName{p.Unit.Order, p.Unit.Reference, p.Credential.ID, p.Credential.Device}
	}
}

// giveBackUnit undoes takeUnit.
func (f *floor) giveBackUnit(p *pending) {
	p.order.add(factory.Counts{Issued: -1, Live: -1})
	if p.ending != nil {
		f.leave(p, -1)
		p.ending.state = p.state
	}
	if n := p.Unit.Nonce; n.Block != 0 {
		f.blocks[n.Block].used[n.Index/8] &^= 1 << (n.Index % 8)
	}
	if p.chip != nil {
		*p.chip = p.chipWas
	}
	if p.reference != 0 {
		f.names[p.reference] = p.nameWas
	}
}

// leave counts the unit before out of its order, or in again.
func (f *floor) leave(p *pending, n int64) {
	c := factory.Counts{Live: -n, Scrapped: n}
	if p.state == factory.UnitConfirmed {
		c.Confirmed = -n
	}
	o := f.orders[p.ending.order]
	o.add(c)
	f.count(p.ending.order, o, p.ending.station, p.Credential.IssuedAt, factory.MeasureScrapped, 0, n)
}

func (o *floorOrder) add(c factory.Counts) {
	o.issued, o.live = o.issued+c.Issued, o.live+c.Live
	d := &o.delta
	d.Issued, d.Live, d.Confirmed, d.Scrapped = d.Issued+c.Issued, d.Live+c.Live, d.Confirmed+c.Confirmed, d.Scrapped+c.Scrapped
}

// issued counts a unit that is stored.
func (f *floor) issued(p *pending) {
	o, at := f.orders[p.Unit.Order], p.Credential.IssuedAt
	f.count(p.Unit.Order, o, p.Unit.Station, at, factory.MeasureIssued, 0, 1)
	if p.Unit.IssueTime > 0 {
		f.count(p.Unit.Order, o, p.Unit.Station, at, factory.MeasureIssueTime, factory.Bucket(p.Unit.IssueTime), 1)
	}
}

// confirmed counts a unit that was read back.
func (f *floor) confirmed(c *factory.Confirmation, station int64) {
	o := f.orders[c.Order]
	o.delta.Confirmed++
	f.count(c.Order, o, station, c.At, factory.MeasureConfirmed, int64(c.At.UTC().Hour()), 1)
	if c.FirstPass {
		f.count(c.Order, o, station, c.At, factory.MeasureFirstPass, 0, 1)
	}
	if c.CycleTime > 0 {
		f.count(c.Order, o, station, c.At, factory.MeasureCycleTime, factory.Bucket(c.CycleTime), 1)
	}
}

func (f *floor) count(order int64, o *floorOrder, station int64, at time.Time, m factory.Measure, bucket, n int64) {
	f.kpis.add(factory.Tally{Order: order, Station: station, Site: o.site, Product: o.product, Day: unixDay(at.Unix()), Measure: m, Bucket: bucket, N: n})
}

// changedOrders and changedBlocks are what has to be written, in the order in
// which rows are locked.

func (f *floor) changedOrders() []int64 {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(f.orders)), func(id int64) bool {
		return f.orders[id] == nil || f.orders[id].delta == factory.Counts{}
	})
}

func (f *floor) changedBlocks() []int64 {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(f.blocks)), func(id int64) bool {
		return f.blocks[id] == nil || !f.blocks[id].changed
	})
}

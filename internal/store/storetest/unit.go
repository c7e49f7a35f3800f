package storetest

import (
	"crypto/sha256"
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// Units tests what the group commit does for production orders, and what ends,
// ships and lists units.
func Units(t *testing.T, open Open) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, Open)
	}{
		{"a unit is stored with all that belongs to it", testUnit},
		{"a refused unit leaves nothing", testRefusedUnit},
		{"the quantity and the spares are limits", testUnitLimits},
		{"a unit replaces the one before", testReplacedUnit},
		{"a unit may follow one that has ended", testUnitAfterEnd},
		{"a unit is confirmed once", testConfirmUnit},
		{"a unit ends with the certificates of its device", testEndUnit},
		{"revoking a unit's identity ends the unit", testRevokedUnit},
		{"a unit is active with its first operational certificate", testActivatedUnit},
		{"a station's certificate", testStationCertificate},
		{"units are shipped", testShipped},
		{"units are listed", testUnitLists},
		{"units that were never confirmed are found", testUnconfirmed},
		{"nonce blocks", testNonceBlocks},
		{"wrapped keys are erased", testWrappedKeys},
		{"lines agree with a model", testConcurrentLines},
		{"the ledger derives what units did", testLedgerDerivesUnits},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open) })
	}
}

func testUnit(t *testing.T, open Open) {
	x := newShop(t, open(t), 10, 1, 4)
	i := x.unit()
	i.Unit.Reference, i.Unit.Wrapped, i.Unit.WrappedUntil = "MES-1", []byte("wrapped"), time.Now().Add(time.Hour)
	size := x.size()
	c := x.store(i)
	x.same(c, x.credential(c.ID))
	if got := x.size() - size; got != 3 {
		t.Errorf("%d leaves, want 3", got)
	}
	want := *i.Unit.New
	want.Current = map[device.Slot]device.CredentialID{device.IDevIDSlot: c.ID}
	want.Order, want.Chip = x.order, i.Unit.Chip
	x.same(want, x.load(c.Device))
	unit := factory.Unit{
		ID: c.ID, Order: x.order, Device: c.Device, DeviceSerial: want.DeviceSerial, Chip: i.Unit.Chip, Station: x.station, State: factory.UnitIssued,
		Reference: "MES-1", Evidence: "chip", ConfirmNonce: i.Unit.ConfirmNonce, IssuedAt: x.now,
	}
	x.same(unit, x.unitOf(c.ID))
	byName, err := x.s.UnitByReference(t.Context(), x.order, "MES-1")
	x.ok(err)
	x.same(unit, byName)
	for order, name := range map[int64]string{x.order: "MES-2", x.order + 1: "MES-1"} {
		_, err = x.s.UnitByReference(t.Context(), order, name)
		x.refused(err, fault.UnitUnknown)
	}
	_, err = x.s.Unit(t.Context(), access.Everything(), c.ID+1)
	x.refused(err, fault.UnitUnknown)
	for _, scope := range []access.Scope{{}, access.Limited([]int64{x.product + 1}, nil, nil), access.Limited(nil, []int64{x.site + 1}, nil)} {
		_, err = x.s.Unit(t.Context(), scope, c.ID)
		x.refused(err, fault.UnitUnknown)
	}
	chip, err := x.s.Chip(t.Context(), i.Unit.Chip)
	x.ok(err)
	if chip.State != factory.ChipUsed || chip.Device != c.Device {
		t.Errorf("chip %+v", chip)
	}
	wrapped, err := x.s.WrappedKey(t.Context(), c.ID)
	if err != nil || string(wrapped) != "wrapped" {
		t.Errorf("wrapped key %q, %v", wrapped, err)
	}
	block, err := x.s.NonceBlock(t.Context(), x.block.ID)
	if err != nil || block.Used[0] != 1 {
		t.Errorf("block %+v, %v", block, err)
	}
	x.same(factory.Counts{Issued: 1, Live: 1}, x.tallied(x.order))
	x.same(map[factory.Measure]int64{factory.MeasureIssued: 1, factory.MeasureIssueTime: 1}, x.measures(x.order))
	x.counts(map[device.State]int64{device.Registered: 1}, map[device.CredentialState]int64{device.Issued: 1})

	// One that was registered before gets order and chip too.
	d := device.Device{ID: x.s.DeviceID("PRE-1"), DeviceSerial: "PRE-1", Product: x.product, Site: x.site, State: device.Registered, Version: 1, RegisteredAt: x.now, ChangedAt: x.now}
	x.add(d)
	second := x.another(d.ID, 0)
	second.Unit.Chip = x.chips[2]
	x.store(second)
	got := x.load(d.ID)
	if got.Order != x.order || got.Chip != x.chips[2] || got.Current[device.IDevIDSlot] != second.Credential.ID || got.Version != 2 || x.unitOf(second.Credential.ID).Spare {
		t.Errorf("device %+v", got)
	}
	x.same(factory.Counts{Issued: 2, Live: 2}, x.tallied(x.order))
}

// shopState is all that a unit could have changed.
type shopState struct {
	Register state
	Orders   []factory.Order
	Chips    []factory.Chip
	Blocks   []factory.NonceBlock
	Units    []factory.Unit
	KPIs     []factory.Tally
	Named    bool
}

func (x *shop) all(i *device.Issuance, orders ...int64) shopState {
	x.Helper()
	s := shopState{Register: x.state(i)}
	for _, id := range append(orders, x.order) {
		o, err := x.s.Order(x.Context(), access.Everything(), id)
		x.ok(err)
		s.Orders = append(s.Orders, o)
	}
	for _, id := range x.chips {
		c, err := x.s.Chip(x.Context(), id)
		x.ok(err)
		s.Chips = append(s.Chips, c)
	}
	b, err := x.s.NonceBlock(x.Context(), x.block.ID)
	x.ok(err)
	s.Blocks = append(s.Blocks, b)
	s.Units, _, err = x.s.Units(x.Context(), access.Everything(), factory.UnitQuery{})
	x.ok(err)
	s.KPIs, err = x.s.Tallies(x.Context(), access.Everything(), factory.TallyQuery{})
	x.ok(err)
	_, err = x.s.UnitByReference(x.Context(), x.order, "FREE")
	s.Named = err == nil
	return s
}

func testRefusedUnit(t *testing.T, open Open) {
	x := newShop(t, open(t), 100, 10, 10)
	taken := x.unit()
	taken.Unit.Reference = "TAKEN"
	holder := x.store(taken)
	closed, frozen, other := x.addOrder("closed", 10, 1), x.addOrder("frozen", 10, 1), x.addOrder("other", 10, 1)
	x.amend(closed, func(o *factory.Order) { o.State = factory.OrderClosed })
	x.amend(frozen, func(o *factory.Order) { o.Frozen = true })
	for n, state := range map[int]factory.ChipState{5: factory.ChipWithdrawn, 6: factory.ChipAllotted, 7: factory.ChipAllotted, 8: factory.ChipNotProvable} {
		c, err := x.s.Chip(t.Context(), x.chips[n])
		x.ok(err)
		from := c.State
		c.State, c.Order = state, map[int]int64{6: other, 7: x.order}[n]
		x.ok(x.s.UpdateChip(t.Context(), c, from, x.entry("")))
	}
	hidden := x.stage("hidden", 1)[0]
	otherBlock, lineTwo := x.drawBlock(other, x.station, 8), x.drawBlock(x.order, x.station+1, 8)
	old := x.block
	old.ExpiresAt, old.Count = x.now, 8
	var err error
	old.ID, err = x.s.AddNonceBlock(t.Context(), old, x.entry(""))
	x.ok(err)
	known := device.Device{ID: x.s.DeviceID("PRE-1"), DeviceSerial: "PRE-1", Product: x.product, Site: x.site, State: device.Registered, Version: 1, RegisteredAt: x.now, ChangedAt: x.now}
	x.add(known)

	is := func(c fault.Code) func(error) bool { return func(err error) bool { return fault.Has(err, c) } }
	isStale := func(err error) bool { return errors.Is(err, device.ErrStale) }
	for name, c := range map[string]struct {
		spoil   func(i *device.Issuance)
		refused func(error) bool
	}{
		"order unknown":           {func(i *device.Issuance) { i.Unit.Order, i.Unit.Nonce = 99, device.NonceRef{} }, is(fault.OrderUnknown)},
		"order closed":            {func(i *device.Issuance) { i.Unit.Order, i.Unit.Nonce = closed, device.NonceRef{} }, is(fault.OrderState)},
		"order frozen":            {func(i *device.Issuance) { i.Unit.Order, i.Unit.Nonce = frozen, device.NonceRef{} }, is(fault.OrderFrozen)},
		"nonce of another order":  {func(i *device.Issuance) { i.Unit.Nonce.Block = otherBlock.ID }, is(fault.NonceInvalid)},
		"nonce of another line":   {func(i *device.Issuance) { i.Unit.Nonce.Block = lineTwo.ID }, is(fault.NonceInvalid)},
		"nonce of no block":       {func(i *device.Issuance) { i.Unit.Nonce.Block = 12345 }, is(fault.NonceInvalid)},
		"nonce beyond the block":  {func(i *device.Issuance) { i.Unit.Nonce.Index = 4096 }, is(fault.NonceInvalid)},
		"nonce before the block":  {func(i *device.Issuance) { i.Unit.Nonce.Index = -1 }, is(fault.NonceInvalid)},
		"nonce expired":           {func(i *device.Issuance) { i.Unit.Nonce.Block, i.Unit.Nonce.Index = old.ID, 1 }, is(fault.NonceExpired)},
		"nonce used":              {func(i *device.Issuance) { i.Unit.Nonce.Index = 0 }, is(fault.NonceUsed)},
		"chip unknown":            {func(i *device.Issuance) { i.Unit.Chip = 12345 }, is(fault.ChipUnknown)},
		"chip not imported yet":   {func(i *device.Issuance) { i.Unit.Chip = hidden }, is(fault.ChipUnknown)},
		"chip used":               {func(i *device.Issuance) { i.Unit.Chip = taken.Unit.Chip }, is(fault.ChipUsed)},
		"chip withdrawn":          {func(i *device.Issuance) { i.Unit.Chip = x.chips[5] }, is(fault.ChipWithdrawn)},
		"chip of another order":   {func(i *device.Issuance) { i.Unit.Chip = x.chips[6] }, is(fault.ChipOtherOrder)},
		"reference of another":    {func(i *device.Issuance) { i.Unit.Reference = "TAKEN" }, is(fault.UnitReference)},
		"serial taken":            {func(i *device.Issuance) { x.become(i, taken.Unit.New.DeviceSerial) }, is(fault.UnitSerialTaken)},
		"serial taken, and chip":  {func(i *device.Issuance) { x.become(i, taken.Unit.New.DeviceSerial); i.Unit.Chip = taken.Unit.Chip }, is(fault.UnitSerialTaken)},
		"serial taken, and nonce": {func(i *device.Issuance) { x.become(i, taken.Unit.New.DeviceSerial); i.Unit.Nonce.Index = 0 }, is(fault.UnitSerialTaken)},
		"serial registered":       {func(i *device.Issuance) { x.become(i, "PRE-1") }, is(fault.UnitSerialTaken)},
		"control plane changed":   {func(i *device.Issuance) { i.ControlEpoch++ }, isStale},
		"key of another device": {func(i *device.Issuance) { i.Credential.SPKIDigest = holder.SPKIDigest }, func(err error) bool {
			conflict, ok := errors.AsType[*device.KeyConflict](err)
			return ok && cmp.Equal(conflict.Existing, holder)
		}},
		"living unit not named":   {func(i *device.Issuance) { *i = x.another(holder.Device, 0) }, is(fault.UnitSerialTaken)},
		"replaces another's unit": {func(i *device.Issuance) { *i = x.another(holder.Device, holder.ID+40) }, isStale},
		"replaces, but stale":     {func(i *device.Issuance) { *i = x.another(holder.Device, holder.ID); i.Change.Version-- }, isStale},
		"replaces, stale and used": {func(i *device.Issuance) {
			*i = x.another(holder.Device, holder.ID)
			i.Change.Version--
			i.Unit.Nonce.Index = 0
		}, isStale},
		"replaces, its chip is another's": {func(i *device.Issuance) { *i = x.another(holder.Device, holder.ID); i.Unit.Chip = x.chips[6] }, is(fault.ChipOtherOrder)},
		"a serial that is not its own":    {func(i *device.Issuance) { i.Unit.New.DeviceSerial = "SN-X" }, isPlain},
		"a new device that changes": {func(i *device.Issuance) {
			i.Change = &device.Change{ID: i.Credential.Device, Slot: device.IDevIDSlot, Version: 1, State: device.Registered}
		}, isPlain},
		"an operational certificate": {func(i *device.Issuance) { i.Credential.Kind = "ldevid" }, isPlain},
	} {
		t.Run(name, func(t *testing.T) {
			x.T = t
			good := x.unit()
			good.Unit.Chip = x.chips[9]
			i := x.copied(good)
			i.Unit.Reference = "FREE"
			c.spoil(&i)
			before := x.all(&i, closed, frozen)
			_, err := x.s.StoreIssuance(t.Context(), i)
			if !c.refused(err) {
				t.Fatalf("refused with %v", err)
			}
			x.same(before, x.all(&i, closed, frozen))
			good.Unit.Chip = 0
			x.store(good)
		})
	}
	x.T = t
	for _, chip := range []int64{x.chips[7], x.chips[8]} {
		i := x.unit()
		i.Unit.Chip = chip
		x.store(i)
		if c, err := x.s.Chip(t.Context(), chip); err != nil || c.State != factory.ChipUsed || c.Device != i.Credential.Device || c.Order != 0 {
			t.Errorf("chip %+v, %v", c, err)
		}
	}
}

// copied is an issuance whose unit and device may be changed.
func (x *shop) copied(i device.Issuance) device.Issuance {
	u, d := *i.Unit, *i.Unit.New
	i.Unit, u.New = &u, &d
	return i
}

// become makes an issuance one of another device serial.
func (x *shop) become(i *device.Issuance, deviceSerial string) {
	i.Unit.New.DeviceSerial, i.Unit.New.ID = deviceSerial, x.s.DeviceID(deviceSerial)
	i.Credential.Device = i.Unit.New.ID
}

// amend changes an order's terms.
func (x *shop) amend(id int64, change func(o *factory.Order)) {
	x.Helper()
	o, err := x.s.Order(x.Context(), access.Everything(), id)
	x.ok(err)
	change(&o)
	x.ok(x.s.UpdateOrder(x.Context(), o, x.entry("amended")))
}

func testUnitLimits(t *testing.T, open Open) {
	x := newShop(t, open(t), 2, 1, 0)
	first := x.store(x.unit())
	x.store(x.unit())
	_, err := x.s.StoreIssuance(t.Context(), x.unit())
	x.refused(err, fault.OrderFull)
	x.ok(x.end(first, factory.UnitScrapped, device.Scrapped))
	third := x.store(x.unit())
	_, err = x.s.StoreIssuance(t.Context(), x.unit())
	x.refused(err, fault.OrderFull)
	x.ok(x.end(third, factory.UnitScrapped, device.Scrapped))
	_, err = x.s.StoreIssuance(t.Context(), x.unit())
	x.refused(err, fault.SparesUsed)
	x.same(factory.Counts{Issued: 3, Live: 1, Scrapped: 2}, x.tallied(x.order))
	x.amend(x.order, func(o *factory.Order) { o.Spares = 3 })
	fourth := x.store(x.unit())
	// A unit that replaces another needs a spare and no place.
	fifth := x.store(x.another(fourth.Device, fourth.ID))
	_, err = x.s.StoreIssuance(t.Context(), x.another(fourth.Device, fifth.ID))
	x.refused(err, fault.SparesUsed)
	x.same(factory.Counts{Issued: 5, Live: 2, Scrapped: 3}, x.tallied(x.order))
}

func testReplacedUnit(t *testing.T, open Open) {
	x := newShop(t, open(t), 10, 5, 10)
	i := x.unit()
	i.Unit.Reference, i.Unit.Wrapped, i.Unit.WrappedUntil = "MES-1", []byte("w"), time.Now().Add(time.Hour)
	old := x.store(i)
	x.confirm(old)
	d := x.load(old.Device)
	cloud := x.enroll(d.ID, "ldevid", "cloud", false)
	cloud2 := x.enroll(d.ID, "ldevid", "cloud", false)
	held := x.enroll(d.ID, "ldevid", "service", false)
	x.fixture.revoke(held, 6)
	d = x.load(d.ID)
	n := x.another(d.ID, old.ID)
	n.Unit.Chip, n.Unit.Reference = x.chips[7], "MES-1"
	size := x.size()
	fresh := x.store(n)
	if got := x.size() - size; got != 2+4 {
		t.Errorf("%d leaves", got)
	}
	for _, id := range []device.CredentialID{old.ID, cloud.ID, cloud2.ID, held.ID} {
		if c := x.credential(id); c.State != device.Revoked || c.Reason != 4 || !c.RevokedAt.Equal(x.now) {
			t.Errorf("credential %d is %v for %d", id, c.State, c.Reason)
		}
	}
	if list := x.revoked(1, 0); len(list) != 4 {
		t.Errorf("%d on the list", len(list))
	}
	after := x.load(d.ID)
	if after.Version != d.Version+1+4 || after.Chip != x.chips[7] || after.Current[device.IDevIDSlot] != fresh.ID {
		t.Errorf("device %+v after version %d", after, d.Version)
	}
	u := x.unitOf(old.ID)
	if u.State != factory.UnitReplaced || !u.EndedAt.Equal(x.now) || u.Reason != "a new board" {
		t.Errorf("the old unit %+v", u)
	}
	if u := x.unitOf(fresh.ID); !u.Spare || u.State != factory.UnitIssued {
		t.Errorf("the new unit %+v", u)
	}
	if u, err := x.s.UnitByReference(t.Context(), x.order, "MES-1"); err != nil || u.ID != fresh.ID {
		t.Errorf("by reference %+v, %v", u, err)
	}
	x.same(factory.Counts{Issued: 2, Live: 1, Scrapped: 1, Activated: 1}, x.tallied(x.order))
	if m := x.measures(x.order); m[factory.MeasureScrapped] != 1 || m[factory.MeasureIssued] != 2 {
		t.Errorf("counters %v", m)
	}
	// The old chip stays with the device, which may have it again; nobody else.
	other := x.unit()
	other.Unit.Chip = i.Unit.Chip
	_, err := x.s.StoreIssuance(t.Context(), other)
	x.refused(err, fault.ChipUsed)
	back := x.another(d.ID, fresh.ID)
	back.Unit.Chip = i.Unit.Chip
	x.store(back)
	x.counts(map[device.State]int64{device.Active: 1}, map[device.CredentialState]int64{device.Revoked: 5, device.Issued: 1})
	x.verifies()
}

func testUnitAfterEnd(t *testing.T, open Open) {
	x := newShop(t, open(t), 1, 1, 2)
	first := x.store(x.unit())
	x.ok(x.end(first, factory.UnitLapsed, device.Registered))
	second := x.store(x.another(first.Device, 0))
	if u := x.unitOf(second.ID); !u.Spare || x.unitOf(first.ID).State != factory.UnitLapsed {
		t.Errorf("unit %+v", u)
	}
	x.same(factory.Counts{Issued: 2, Live: 1, Scrapped: 1}, x.tallied(x.order))
	x.verifies()
}

func testConfirmUnit(t *testing.T, open Open) {
	x := newShop(t, open(t), 10, 5, 5)
	i := x.unit()
	i.Unit.Wrapped, i.Unit.WrappedUntil = []byte("w"), time.Now().Add(time.Hour)
	c := x.store(i)
	k := x.confirmation(&c)
	for name, spoil := range map[string]func(k *factory.Confirmation){
		"unit":   func(k *factory.Confirmation) { k.ID++ },
		"order":  func(k *factory.Confirmation) { k.Order++ },
		"device": func(k *factory.Confirmation) { k.Device++ },
	} {
		bad := k
		spoil(&bad)
		if err := x.s.ConfirmUnit(t.Context(), bad, x.confirmed(bad)); !fault.Has(err, fault.UnitUnknown) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	if err := x.s.ConfirmUnit(t.Context(), k); err == nil {
		t.Error("confirmed without an entry")
	}
	u, known, err := x.s.Returned(t.Context(), c.SPKIDigest)
	x.ok(err)
	x.same(x.unitOf(c.ID), u)
	x.same(x.credential(c.ID), known)
	_, _, err = x.s.Returned(t.Context(), [32]byte{1})
	x.refused(err, fault.CredentialUnknown)
	version := x.load(c.Device).Version
	x.ok(x.adds(1, func(...ledger.Entry) error { return x.s.ConfirmUnit(t.Context(), k, x.confirmed(k)) }))
	x.ok(x.adds(0, func(...ledger.Entry) error { return x.s.ConfirmUnit(t.Context(), k, x.confirmed(k)) }))
	if u := x.unitOf(c.ID); u.State != factory.UnitConfirmed || !u.ConfirmedAt.Equal(k.At) {
		t.Errorf("unit %+v", u)
	}
	if got := x.credential(c.ID); got.State != device.Confirmed || !got.ConfirmedAt.Equal(k.At) {
		t.Errorf("credential %+v", got)
	}
	if d := x.load(c.Device); d.State != device.Provisioned || d.Version != version+1 {
		t.Errorf("device %+v", d)
	}
	_, err = x.s.WrappedKey(t.Context(), c.ID)
	x.refused(err, fault.WrappedKeyGone)
	x.same(factory.Counts{Issued: 1, Live: 1, Confirmed: 1}, x.tallied(x.order))
	x.same(map[factory.Measure]int64{
		factory.MeasureIssued: 1, factory.MeasureIssueTime: 1, factory.MeasureConfirmed: 1, factory.MeasureFirstPass: 1, factory.MeasureCycleTime: 1,
	}, x.measures(x.order))
	x.counts(map[device.State]int64{device.Provisioned: 1}, map[device.CredentialState]int64{device.Confirmed: 1})

	// One whose certificate was in use before, in a device that went on.
	used := x.store(x.unit())
	x.ok(x.s.Confirm(t.Context(), device.Confirmation{ID: used.ID, At: x.now}, ledger.Entry{Kind: ledger.CertificateUsed, At: x.now, Actor: "system", Body: &ledger.Confirmed{
		Credential: int64(used.ID), Device: int64(used.Device),
	}}))
	x.enroll(used.Device, "ldevid", "cloud", false)
	before := x.load(used.Device)
	x.confirm(used)
	x.same(before, x.load(used.Device))
	if got := x.credential(used.ID); !got.ConfirmedAt.Equal(x.now) || got.State != device.Confirmed {
		t.Errorf("credential %+v", got)
	}
	// One that is on hold stays so.
	held := x.store(x.unit())
	x.fixture.revoke(held, 6)
	x.confirm(held)
	if got := x.credential(held.ID); got.State != device.Held || got.ConfirmedAt.IsZero() {
		t.Errorf("credential %+v", got)
	}
	x.ok(x.end(c, factory.UnitScrapped, device.Scrapped))
	x.refused(x.s.ConfirmUnit(t.Context(), k, x.confirmed(k)), fault.UnitState)
	x.same(factory.Counts{Issued: 3, Live: 2, Confirmed: 2, Scrapped: 1, Activated: 1}, x.tallied(x.order))
	x.verifies()
}

// verifies derives units, certificates and devices from the ledger.
func (x *shop) verifies() {
	x.Helper()
	x.recordPlane()
	x.fixture.verifies()
}

// recordPlane records of the control plane what the shop did not, act by act.
func (x *shop) recordPlane() {
	x.Helper()
	rows, err := x.s.RecordRows(x.Context())
	x.ok(err)
	about := map[string]struct {
		kind ledger.Kind
		key  string
	}{
		"product": {ledger.ProductAdded, "name"}, "site": {ledger.SiteAdded, "name"}, "station": {ledger.StationAdded, "name"},
		"order": {ledger.OrderCreated, "number"}, "manifest": {ledger.ManifestImported, "sha256"},
	}
	var entries []ledger.Entry
	for _, r := range rows {
		if _, ok := about[r.Noun]; !ok {
			continue
		}
		body := map[string]any{about[r.Noun].key: r.Key}
		maps.Copy(body, r.Fields)
		entries = append(entries, ledger.Entry{Kind: about[r.Noun].kind, At: x.now, Actor: "system", Body: ledger.JSON(body)})
	}
	x.write(entries...)
}

func digestOf(b []byte) [32]byte { return sha256.Sum256(b) }

package storetest

import (
	"crypto/sha256"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

func testEndUnit(t *testing.T, open Open) {
	x := newShop(t, open(t), 10, 5, 5)
	i := x.unit()
	i.Unit.Wrapped, i.Unit.WrappedUntil = []byte("w"), time.Now().Add(time.Hour)
	c := x.store(i)
	x.confirm(c)
	d := x.load(c.Device)
	cloud := x.enroll(d.ID, "ldevid", "cloud", false)
	expired := x.expired(d.ID)
	gone := x.enroll(d.ID, "ldevid", "gone", false)
	x.fixture.revoke(gone, 1)
	d = x.load(d.ID)
	x.ok(x.adds(3, func(...ledger.Entry) error { return x.end(c, factory.UnitScrapped, device.Scrapped) }))
	x.ok(x.adds(0, func(...ledger.Entry) error { return x.end(c, factory.UnitLapsed, device.Scrapped) }))
	for _, id := range []device.CredentialID{c.ID, cloud.ID} {
		if got := x.credential(id); got.State != device.Revoked || got.Reason != 5 || !got.RevokedAt.Equal(x.now.Add(time.Hour)) {
			t.Errorf("credential %d: %v, %d", id, got.State, got.Reason)
		}
	}
	if got := x.credential(expired.ID); got.State == device.Revoked {
		t.Error("an expired certificate is revoked")
	}
	if got := x.credential(gone.ID); got.Reason != 1 {
		t.Errorf("what was revoked has reason %d", got.Reason)
	}
	if after := x.load(d.ID); after.State != device.Scrapped || after.Version != d.Version+3 {
		t.Errorf("device %+v after version %d", after, d.Version)
	}
	if u := x.unitOf(c.ID); u.State != factory.UnitScrapped || u.Reason != "solder" || !u.EndedAt.Equal(x.now.Add(time.Hour)) {
		t.Errorf("unit %+v", u)
	}
	chip, err := x.s.Chip(t.Context(), i.Unit.Chip)
	if err != nil || chip.State != factory.ChipUsed || chip.Device != d.ID {
		t.Errorf("chip %+v, %v", chip, err)
	}
	x.same(factory.Counts{Issued: 1, Scrapped: 1, Activated: 1}, x.tallied(x.order))
	if m := x.measures(x.order); m[factory.MeasureScrapped] != 1 {
		t.Errorf("counters %v", m)
	}
	_, err = x.s.WrappedKey(t.Context(), c.ID)
	x.refused(err, fault.WrappedKeyGone)
	ghost := c
	ghost.ID += 100
	x.refused(x.end(ghost, factory.UnitScrapped, 0), fault.UnitUnknown)
	if err := x.end(c, factory.UnitReplaced, 0); !isPlain(err) {
		t.Error(err)
	}
	// What was decided before is stale.
	second := x.store(x.unit())
	decided := x.load(second.Device)
	late := x.issuance(&decided, "ldevid", "cloud")
	x.ok(x.end(second, factory.UnitLapsed, 0))
	if _, err := x.s.StoreIssuance(t.Context(), late); !errors.Is(err, device.ErrStale) {
		t.Errorf("stored after the end: %v", err)
	}
	if d := x.load(second.Device); d.State != device.Registered {
		t.Errorf("device %+v", d)
	}
	x.verifies()
}

// expired stores a certificate that has ended.
func (x *shop) expired(id device.ID) device.Credential {
	x.Helper()
	now := x.now
	x.now = now.AddDate(0, 0, -60)
	c := x.enroll(id, "ldevid", "old", false)
	x.now = now
	return c
}

func testRevokedUnit(t *testing.T, open Open) {
	x := newShop(t, open(t), 10, 5, 5)
	c, other, held := x.store(x.unit()), x.store(x.unit()), x.store(x.unit())
	x.confirm(c)
	cloud := x.enroll(c.Device, "ldevid", "cloud", false)
	version := x.load(c.Device).Version
	x.ok(x.adds(2, func(...ledger.Entry) error { x.fixture.revoke(c, 1); return nil }))
	if u := x.unitOf(c.ID); u.State != factory.UnitScrapped || u.Reason != "its certificate was revoked: keyCompromise" || !u.EndedAt.Equal(x.now) {
		t.Errorf("unit %+v", u)
	}
	if d := x.load(c.Device); d.Version != version+2 || d.State != device.Active {
		t.Errorf("device %+v after version %d", d, version)
	}
	if got := x.credential(cloud.ID); got.State == device.Revoked {
		t.Error("another certificate is revoked too")
	}
	x.ok(x.adds(1, func(...ledger.Entry) error { x.fixture.revoke(held, 6); return nil }))
	x.ok(x.adds(1, func(...ledger.Entry) error { x.fixture.revoke(cloud, 1); return nil }))
	if u := x.unitOf(held.ID); u.State != factory.UnitIssued {
		t.Errorf("held unit %+v", u)
	}
	x.same(factory.Counts{Issued: 3, Live: 2, Scrapped: 1, Activated: 1}, x.tallied(x.order))
	x.ok(x.adds(2, func(...ledger.Entry) error { x.fixture.revoke(held, 1); return nil }))
	x.same(factory.Counts{Issued: 3, Live: 1, Scrapped: 2, Activated: 1}, x.tallied(x.order))
	x.refused(x.s.Revoke(t.Context(), access.Everything(), revocation(x.fixture, c, 1), x.entry("")), fault.AlreadyRevoked)
	x.refused(x.s.Revoke(t.Context(), access.Limited(nil, []int64{x.site + 1}, nil), revocation(x.fixture, other, 1), x.entry("")), fault.CredentialUnknown)
	x.same(factory.Counts{Issued: 3, Live: 1, Scrapped: 2, Activated: 1}, x.tallied(x.order))
	x.verifies()
}

func testActivatedUnit(t *testing.T, open Open) {
	x := newShop(t, open(t), 10, 5, 5)
	c := x.store(x.unit())
	x.enroll(c.Device, "ldevid", "cloud", false)
	first := x.unitOf(c.ID)
	if !first.ActivatedAt.Equal(x.now) {
		t.Errorf("unit %+v", first)
	}
	x.now = x.now.Add(time.Minute)
	x.enroll(c.Device, "ldevid", "cloud", false)
	x.enroll(c.Device, "ldevid", "service", false)
	x.same(first, x.unitOf(c.ID))
	x.same(factory.Counts{Issued: 1, Live: 1, Activated: 1}, x.tallied(x.order))
	x.add(x.device("SN-OUTSIDE"))
	x.issue(x.s.DeviceID("SN-OUTSIDE"), "ldevid", "cloud")
	x.same(factory.Counts{Issued: 1, Live: 1, Activated: 1}, x.tallied(x.order))
}

func testStationCertificate(t *testing.T, open Open) {
	x := newShop(t, open(t), 10, 5, 5)
	station := func() factory.Station {
		s, err := x.s.Station(t.Context(), access.Everything(), x.station)
		x.ok(err)
		return s
	}
	certificate := func(change device.StationIssue) device.Issuance {
		i := x.issuance(nil, "station", "line-1")
		i.Station = &change
		return i
	}
	before := station()
	i := certificate(device.StationIssue{ID: x.station, Version: before.Version})
	i.Station.SpendSPKI = &i.Credential.SPKIDigest
	unit, epoch := x.unit(), x.epoch()
	c := x.store(i)
	got := station()
	want := before
	want.Version, want.Credential, want.ChangedAt = before.Version+1, c.ID, x.now
	want.Code.SpentAt, want.Code.SpentSPKI = x.now, i.Credential.SPKIDigest
	x.same(want, got)
	if x.epoch() != epoch+1 {
		t.Errorf("the epoch went from %d to %d", epoch, x.epoch())
	}
	if _, err := x.s.StoreIssuance(t.Context(), unit); !errors.Is(err, device.ErrStale) {
		t.Errorf("what was decided before is stored: %v", err)
	}
	stale := certificate(device.StationIssue{ID: x.station, Version: before.Version})
	if _, err := x.s.StoreIssuance(t.Context(), stale); !errors.Is(err, device.ErrStale) {
		t.Error(err)
	}
	if _, err := x.s.CredentialBySPKI(t.Context(), access.Everything(), stale.Credential.SPKIDigest); !fault.Has(err, fault.CredentialUnknown) {
		t.Errorf("a refused station left its key: %v", err)
	}
	x.same(want, station())
	next := x.store(certificate(device.StationIssue{ID: x.station, Version: got.Version}))
	want.Version, want.Credential = want.Version+1, next.ID
	x.same(want, station())
}

func testShipped(t *testing.T, open Open) {
	x := newShop(t, open(t), 20, 5, 20)
	var cs []device.Credential
	for range 8 {
		c := x.store(x.unit())
		x.confirm(c)
		cs = append(cs, c)
	}
	at := x.now.Add(time.Hour)
	ship := func(ids ...device.ID) ([]device.ID, error) {
		return x.s.MarkShipped(t.Context(), ids, at, ledger.Entry{Kind: ledger.UnitsShipped, At: at, Actor: "local:ann", Body: ledger.JSON(struct{}{})})
	}
	fresh := x.store(x.unit())
	x.ok(x.end(cs[1], factory.UnitScrapped, device.Scrapped))
	outside := x.device("SN-OUTSIDE")
	x.ok(x.s.AddDevices(t.Context(), access.Everything(), []device.Device{outside}, x.registered(&outside)))
	suspended := x.load(cs[5].Device)
	suspended.State = device.Suspended
	x.ok(x.s.UpdateDevice(t.Context(), access.Everything(), suspended, x.deviceChanged(suspended)))
	bad := []device.ID{cs[1].Device, fresh.Device, x.s.DeviceID("SN-OUTSIDE"), x.s.DeviceID("SN-NEVER"), cs[5].Device}
	slices.Sort(bad)
	size := x.size()
	refused, err := ship(append(slices.Clone(bad), cs[0].Device)...)
	x.ok(err)
	x.same(bad, refused)
	if x.size() != size || !x.unitOf(cs[0].ID).ShippedAt.IsZero() {
		t.Error("a refused list left something")
	}
	repaired := x.load(cs[2].Device)
	repaired.State = device.InRepair
	x.ok(x.s.UpdateDevice(t.Context(), access.Everything(), repaired, x.deviceChanged(repaired)))
	x.enroll(cs[3].Device, "ldevid", "cloud", false) // active
	version := x.load(cs[0].Device).Version
	x.ok(x.adds(3, func(...ledger.Entry) error {
		refused, err := ship(cs[0].Device, cs[2].Device, cs[3].Device, cs[0].Device)
		if len(refused) > 0 {
			t.Errorf("refused %v", refused)
		}
		return err
	}))
	for n, state := range map[int]device.State{0: device.Shipped, 2: device.Shipped, 3: device.Active} {
		if d := x.load(cs[n].Device); d.State != state || !x.unitOf(cs[n].ID).ShippedAt.Equal(at) {
			t.Errorf("device %d: %v", n, d.State)
		}
	}
	if got := x.load(cs[0].Device).Version; got != version+1 {
		t.Errorf("version %d after %d", got, version)
	}
	x.ok(x.adds(0, func(...ledger.Entry) error { _, err := ship(cs[0].Device); return err }))
	x.ok(x.adds(2, func(...ledger.Entry) error { _, err := ship(cs[0].Device, cs[4].Device); return err }))
	if got := x.tallied(x.order); got.Shipped != 4 {
		t.Errorf("counts %+v", got)
	}
	_, err = ship(make([]device.ID, 501)...)
	x.refused(err, fault.ParameterInvalid)
	x.verifies()
}

// deviceChanged is the entry of a change.
func (x *shop) deviceChanged(d device.Device) ledger.Entry {
	return ledger.Entry{Kind: ledger.DeviceChanged, At: x.now, Actor: "local:ann", Body: &ledger.Changed{
		Device: int64(d.ID), Version: d.Version + 1, State: uint8(d.State), Site: d.Site, Owner: d.Owner, Region: d.Region, Labels: ledger.LabelsDigest(d.Labels),
	}}
}

func testUnitLists(t *testing.T, open Open) {
	x := newShop(t, open(t), 60, 10, 0)
	other := x.addOrder("PO-2", 10, 5)
	var first, second []device.CredentialID
	confirmed := map[device.CredentialID]bool{}
	for n := range 40 {
		i := x.unit()
		i.Unit.Nonce = device.NonceRef{}
		if n%4 == 3 {
			i.Unit.Order = other
			second = append(second, x.store(i).ID)
			continue
		}
		c := x.store(i)
		first = append(first, c.ID)
		if n%3 == 0 {
			x.confirm(c)
			confirmed[c.ID] = true
		}
	}
	reworked := x.credential(first[4])
	fresh := x.store(x.another(reworked.Device, reworked.ID))
	first = append(first, fresh.ID)
	list := func(scope access.Scope, q factory.UnitQuery) (ids []device.CredentialID) {
		t.Helper()
		all, _, err := walked(t.Context(), func(after string) ([]factory.Unit, string, error) {
			q.After = after
			return x.s.Units(t.Context(), scope, q)
		})
		x.ok(err)
		for _, u := range all {
			x.same(x.unitOf(u.ID), u)
			ids = append(ids, u.ID)
		}
		return ids
	}
	unconfirmed := slices.DeleteFunc(slices.Clone(first), func(id device.CredentialID) bool { return confirmed[id] || id == reworked.ID })
	all := slices.Concat(first, second)
	slices.Sort(all)
	everything, here := access.Everything(), access.Limited([]int64{x.product}, []int64{x.site}, nil)
	for _, c := range []struct {
		name  string
		scope access.Scope
		q     factory.UnitQuery
		want  []device.CredentialID
	}{
		{"order", everything, factory.UnitQuery{Order: x.order}, first},
		{"other order", here, factory.UnitQuery{Order: other}, second},
		{"no order", everything, factory.UnitQuery{}, all},
		{"state", everything, factory.UnitQuery{Order: x.order, State: factory.UnitIssued}, unconfirmed},
		{"replaced", here, factory.UnitQuery{State: factory.UnitReplaced}, []device.CredentialID{reworked.ID}},
		{"device", everything, factory.UnitQuery{Device: reworked.Device}, []device.CredentialID{reworked.ID, fresh.ID}},
		{"device and state", everything, factory.UnitQuery{Device: reworked.Device, State: factory.UnitIssued}, []device.CredentialID{fresh.ID}},
		{"device in another order", everything, factory.UnitQuery{Device: reworked.Device, Order: other}, nil},
		{"elsewhere", access.Limited(nil, []int64{x.site + 1}, nil), factory.UnitQuery{Order: x.order}, nil},
		{"device elsewhere", access.Limited(nil, []int64{x.site + 1}, nil), factory.UnitQuery{Device: reworked.Device}, nil},
		{"nothing", access.Scope{}, factory.UnitQuery{}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			x.T = t
			for _, limit := range []int{0, 1, 7} {
				c.q.Limit = limit
				x.same(c.want, list(c.scope, c.q))
			}
		})
	}
	x.T = t
	_, _, err := x.s.Units(t.Context(), everything, factory.UnitQuery{Page: factory.Page{After: "x"}})
	x.refused(err, fault.ParameterInvalid)
}

func testUnconfirmed(t *testing.T, open Open) {
	x := newShop(t, open(t), 60, 10, 0)
	done, waiting := x.addOrder("PO-2", 5, 1), x.addOrder("PO-3", 5, 1)
	var want []device.CredentialID
	for n := range 12 {
		i := x.unit()
		i.Unit.Nonce = device.NonceRef{}
		switch n {
		case 3, 4:
			i.Unit.Order = done
		case 5:
			i.Unit.Order = waiting
		}
		c := x.store(i)
		switch {
		case n == 3 || n == 4:
			k := x.confirmation(&c)
			k.Order = done
			x.ok(x.s.ConfirmUnit(t.Context(), k, x.confirmed(k)))
		case n == 5:
		case n%3 == 0:
			x.confirm(c)
		case n == 7:
			x.ok(x.end(c, factory.UnitScrapped, device.Scrapped))
		default:
			want = append(want, c.ID)
		}
	}
	ids := func(at time.Time, limit int) (ids []device.CredentialID) {
		t.Helper()
		list, err := x.s.Unconfirmed(t.Context(), at, limit)
		x.ok(err)
		for _, u := range list {
			x.same(x.unitOf(u.ID), u)
			ids = append(ids, u.ID)
		}
		return ids
	}
	x.same([]device.CredentialID(nil), ids(x.now.AddDate(1, 0, 0), 100))
	for _, id := range []int64{x.order, done} {
		x.amend(id, func(o *factory.Order) { o.State, o.ClosedAt = factory.OrderClosed, x.now })
	}
	x.same([]device.CredentialID(nil), ids(x.now.Add(time.Hour-time.Second), 100))
	x.same(want, ids(x.now.Add(time.Hour), 100))
	x.same(want[:2], ids(x.now.Add(time.Hour), 2))
	for _, id := range want {
		x.ok(x.end(x.credential(id), factory.UnitLapsed, 0))
	}
	x.same([]device.CredentialID(nil), ids(x.now.Add(time.Hour), 100))
}

func testNonceBlocks(t *testing.T, open Open) {
	x := newShop(t, open(t), 10, 5, 0)
	b := factory.NonceBlock{Order: x.order, Station: x.station, Count: 13, Key: sha256.Sum256([]byte("k")), ExpiresAt: x.now.Add(time.Hour), Offline: true}
	x.ok(x.adds(1, func(e ...ledger.Entry) (err error) { b.ID, err = x.s.AddNonceBlock(t.Context(), b, e...); return err }))
	b.Used = make([]byte, 2)
	got, err := x.s.NonceBlock(t.Context(), b.ID)
	x.ok(err)
	x.same(b, got)
	x.block = b
	for n := range 13 {
		i := x.unit()
		i.Unit.Nonce.Index = 12 - n
		if n > 9 {
			x.amend(x.order, func(o *factory.Order) { o.Quantity = 20 })
			i.ControlEpoch = x.epoch()
		}
		x.store(i)
		b.Used[(12-n)/8] |= 1 << ((12 - n) % 8)
		got, err := x.s.NonceBlock(t.Context(), b.ID)
		x.ok(err)
		x.same(b, got)
	}
	for _, count := range []int{0, -1, 1 << 21} {
		b.Count = count
		if _, err := x.s.AddNonceBlock(t.Context(), b, x.entry("")); !isPlain(err) {
			t.Errorf("a block of %d: %v", count, err)
		}
	}
	x.ok(x.s.PruneNonceBlocks(t.Context(), b.ExpiresAt))
	_, err = x.s.NonceBlock(t.Context(), b.ID)
	x.ok(err)
	x.ok(x.s.PruneNonceBlocks(t.Context(), b.ExpiresAt.Add(time.Second)))
	_, err = x.s.NonceBlock(t.Context(), b.ID)
	x.refused(err, fault.NonceInvalid)
}

func testWrappedKeys(t *testing.T, open Open) {
	x := newShop(t, open(t), 1000, 5, 0)
	now := time.Now()
	var ids []device.CredentialID
	for n := range 12 {
		i := x.unit()
		i.Unit.Wrapped, i.Unit.WrappedUntil = []byte{byte(n)}, now.Add(time.Duration(n-3)*time.Hour)
		ids = append(ids, x.store(i).ID)
	}
	for n, id := range ids {
		w, err := x.s.WrappedKey(t.Context(), id)
		if over := n <= 3; over != fault.Has(err, fault.WrappedKeyGone) || !over && (len(w) != 1 || int(w[0]) != n) {
			t.Errorf("key %d: %v, %v", n, w, err)
		}
	}
	for _, c := range []struct {
		at     time.Time
		erased int
		leaves int64
	}{{now.Add(-4 * time.Hour), 0, 0}, {now, 4, 1}, {now, 0, 0}, {now.Add(4 * time.Hour), 4, 1}} {
		x.ok(x.adds(c.leaves, func(...ledger.Entry) error {
			n, err := x.s.EraseWrappedKeys(t.Context(), c.at)
			if n != c.erased {
				t.Errorf("%d erased, want %d", n, c.erased)
			}
			return err
		}))
	}
	for n, id := range ids {
		if _, err := x.s.WrappedKey(t.Context(), id); (err == nil) != (n > 7) {
			t.Errorf("key %d: %v", n, err)
		}
	}
}

func testLedgerDerivesUnits(t *testing.T, open Open) {
	x := newShop(t, open(t), 100, 20, 30)
	var cs []device.Credential
	for range 12 {
		cs = append(cs, x.store(x.unit()))
	}
	for n, c := range cs {
		switch n % 4 {
		case 0:
			x.confirm(c)
		case 1:
			x.confirm(c)
			x.enroll(c.Device, "ldevid", "cloud", false)
			x.ok(x.end(c, factory.UnitScrapped, device.Scrapped))
		case 2:
			x.store(x.another(c.Device, c.ID))
		case 3:
			x.fixture.revoke(c, 1)
		}
	}
	x.verifies()
}

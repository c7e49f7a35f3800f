package storetest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// Factory tests the production line's control plane, manifests and chips, alarms,
// counters and webhooks.
func Factory(t *testing.T, open Open) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, Open)
	}{
		{"sites", testSites},
		{"stations", testStations},
		{"orders", testOrders},
		{"an order's terms are changed by one at a time", testOrderTerms},
		{"orders are listed as a model says", testOrderLists},
		{"the factory's plane is read at once", testFactoryPlane},
		{"products and devices have the columns of the factory", testFactoryColumns},
		{"components are built into systems", testBuildInto},
		{"signers", testSigners},
		{"a manifest's chips appear at once", testManifest},
		{"staging refuses what is listed, and stores nothing of the call", testDuplicates},
		{"entries are staged in order and only once", testStageAgain},
		{"two imports of the same chips cannot both succeed", testTwoImports},
		{"a discarded manifest leaves nothing", testDiscard},
		{"manifests are listed", testManifestLists},
		{"chips are listed", testChipLists},
		{"a chip changes from the state that was read", testUpdateChip},
		{"allotted chips lapse in pieces", testLapse},
		{"alarms are raised once", testAlarms},
		{"alarms are listed as a model says", testAlarmLists},
		{"counters", testTallies},
		{"webhooks", testWebhooks},
		{"a restore stops the lines", testRestoredFactory},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open) })
	}
}

// line is a fixture with a product, a site and a station.
type line struct {
	*fixture
	product, site, station int64
}

func newLine(t *testing.T, open Open) *line {
	l := &line{fixture: newFixture(t, open(t))}
	var err error
	l.product, err = l.s.AddProduct(t.Context(), device.Product{Name: "sensor", CreatedAt: l.now}, l.entry(""))
	l.ok(err)
	l.site, err = l.s.AddSite(t.Context(), factory.Site{Name: "Graz", CreatedAt: l.now}, l.entry(""))
	l.ok(err)
	l.station, err = l.s.AddStation(t.Context(), l.newStation("line-1"), l.entry(""))
	l.ok(err)
	return l
}

func (l *line) newStation(name string) factory.Station {
	return factory.Station{
		Name: name, Site: l.site, State: factory.StationActive, Version: 1, CreatedAt: l.now, ChangedAt: l.now,
		Code: factory.Code{Hash: sha256.Sum256([]byte(name)), ExpiresAt: l.now.Add(time.Hour)},
	}
}

func (l *line) newOrder(number string) factory.Order {
	return factory.Order{
		Number: number, Product: l.product, Site: l.site, State: factory.OrderOpen, Quantity: 100, Spares: 5, Stations: []int64{l.station},
		ChipTypes: []string{"ATECC608B"}, SerialFrom: "SN-000", SerialTo: "SN-999", ExternalRef: "ERP-" + number,
		Takt: 20 * time.Second, Grace: 36 * time.Hour, CreatedAt: l.now, OpenedAt: l.now,
	}
}

func (l *line) addOrder(o factory.Order) factory.Order {
	l.Helper()
	id, err := l.s.AddOrder(l.Context(), o, l.entry(""))
	l.ok(err)
	return l.order(id)
}

func (l *line) order(id int64) factory.Order {
	l.Helper()
	o, err := l.s.Order(l.Context(), access.Everything(), id)
	l.ok(err)
	return o
}

func testSites(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	var want []factory.Site
	for _, name := range []string{"Graz", "Penang", "Austin"} {
		x := factory.Site{Name: name, CreatedAt: f.now}
		f.raises(func(e ...ledger.Entry) (err error) { x.ID, err = f.s.AddSite(t.Context(), x, e...); return err })
		want = append(want, x)
	}
	err := f.adds(1, func(e ...ledger.Entry) error {
		_, err := f.s.AddSite(t.Context(), factory.Site{Name: "Penang"}, e...)
		return err
	})
	f.refused(err, fault.SiteExists)
	for _, c := range []struct {
		scope access.Scope
		want  []factory.Site
	}{
		{access.Everything(), want},
		{access.Scope{}, nil},
		{access.Limited(nil, []int64{want[1].ID}, nil), want[1:2]},
		{access.Limited([]int64{1}, nil, nil), want},
	} {
		got, err := f.s.Sites(t.Context(), c.scope)
		f.ok(err)
		f.same(c.want, got)
	}
}

func testStations(t *testing.T, open Open) {
	l := newLine(t, open)
	ctx, all := t.Context(), access.Everything()
	x := l.newStation("line-2")
	l.raises(func(e ...ledger.Entry) (err error) { x.ID, err = l.s.AddStation(ctx, x, e...); return err })
	got, err := l.s.Station(ctx, all, x.ID)
	l.ok(err)
	l.same(x, got)
	got, err = l.s.StationByName(ctx, all, "line-2")
	l.ok(err)
	l.same(x, got)
	got, err = l.s.StationByCode(ctx, x.Code.Hash)
	l.ok(err)
	l.same(x, got)
	_, err = l.s.StationByCode(ctx, [32]byte{})
	l.refused(err, fault.StationUnknown)
	_, err = l.s.AddStation(ctx, l.newStation("line-2"), l.entry(""))
	l.refused(err, fault.StationExists)
	elsewhere := l.newStation("line-3")
	elsewhere.Site = 99
	_, err = l.s.AddStation(ctx, elsewhere, l.entry(""))
	l.refused(err, fault.SiteUnknown)

	old := x
	x.State, x.ChangedAt = factory.StationSuspended, l.now.Add(time.Minute)
	x.Code = factory.Code{Hash: [32]byte{7}, ExpiresAt: l.now, SpentAt: l.now, SpentSPKI: [32]byte{8}}
	l.raises(func(e ...ledger.Entry) error { return l.s.UpdateStation(ctx, x, e...) })
	x.Version++
	got, err = l.s.Station(ctx, all, x.ID)
	l.ok(err)
	l.same(x, got)
	if err := l.s.UpdateStation(ctx, old, l.entry("")); !errors.Is(err, device.ErrStale) {
		t.Errorf("a change from an old version: %v", err)
	}
	l.refused(l.s.UpdateStation(ctx, factory.Station{ID: 99}, l.entry("")), fault.StationUnknown)
	// A code that is taken away is found no more.
	x.Code = factory.Code{}
	l.ok(l.s.UpdateStation(ctx, x, l.entry("")))
	_, err = l.s.StationByCode(ctx, [32]byte{7})
	l.refused(err, fault.StationUnknown)

	its, other := access.Limited(nil, []int64{l.site}, nil), access.Limited(nil, []int64{l.site + 1}, nil)
	for scope, want := range map[*access.Scope]int{&all: 2, &its: 2, &other: 0, {}: 0} {
		list, err := l.s.Stations(ctx, *scope)
		l.ok(err)
		if len(list) != want {
			t.Errorf("%v sees %d stations", *scope, len(list))
		}
		_, err = l.s.StationByName(ctx, *scope, "line-1")
		if (err == nil) != (want > 0) {
			t.Errorf("%v sees the station: %v", *scope, err)
		}
	}
}

func testOrders(t *testing.T, open Open) {
	l := newLine(t, open)
	ctx, all := t.Context(), access.Everything()
	o := l.newOrder("4711")
	l.raises(func(e ...ledger.Entry) (err error) { o.ID, err = l.s.AddOrder(ctx, o, e...); return err })
	o.Version = 1
	for name, read := range map[string]func() (factory.Order, error){
		"id":        func() (factory.Order, error) { return l.s.Order(ctx, all, o.ID) },
		"number":    func() (factory.Order, error) { return l.s.OrderByNumber(ctx, all, "4711") },
		"reference": func() (factory.Order, error) { return l.s.OrderByReference(ctx, all, "ERP-4711") },
		"product": func() (factory.Order, error) {
			return l.s.Order(ctx, access.Limited([]int64{l.product}, nil, nil), o.ID)
		},
		"site": func() (factory.Order, error) { return l.s.Order(ctx, access.Limited(nil, []int64{l.site}, nil), o.ID) },
	} {
		got, err := read()
		if err != nil {
			t.Errorf("by %s: %v", name, err)
		}
		l.same(o, got)
	}
	for name, read := range map[string]func() (factory.Order, error){
		"id":            func() (factory.Order, error) { return l.s.Order(ctx, all, 99) },
		"number":        func() (factory.Order, error) { return l.s.OrderByNumber(ctx, all, "4712") },
		"no reference":  func() (factory.Order, error) { return l.s.OrderByReference(ctx, all, "") },
		"nothing":       func() (factory.Order, error) { return l.s.OrderByNumber(ctx, access.Scope{}, "4711") },
		"other product": func() (factory.Order, error) { return l.s.Order(ctx, access.Limited([]int64{99}, nil, nil), o.ID) },
		"other site":    func() (factory.Order, error) { return l.s.Order(ctx, access.Limited(nil, []int64{99}, nil), o.ID) },
		"an owner": func() (factory.Order, error) {
			return l.s.Order(ctx, access.Limited([]int64{l.product}, nil, []int64{1}), o.ID)
		},
	} {
		if _, err := read(); !fault.Has(err, fault.OrderUnknown) {
			t.Errorf("by %s: %v", name, err)
		}
	}
	// No references at all are not the same reference.
	for _, number := range []string{"a", "b"} {
		bare := l.newOrder(number)
		bare.ExternalRef, bare.Stations, bare.ChipTypes = "", nil, nil
		l.addOrder(bare)
	}
	for name, c := range map[string]struct {
		change func(*factory.Order)
		want   fault.Code
	}{
		"number":    {func(o *factory.Order) { o.Number = "4711" }, fault.OrderExists},
		"reference": {func(o *factory.Order) { o.ExternalRef = "ERP-4711" }, fault.OrderExists},
		"product":   {func(o *factory.Order) { o.Product = 99 }, fault.ProductUnknown},
		"site":      {func(o *factory.Order) { o.Site = 99 }, fault.SiteUnknown},
	} {
		other := l.newOrder("new")
		c.change(&other)
		err := l.adds(1, func(e ...ledger.Entry) error { _, err := l.s.AddOrder(ctx, other, e...); return err })
		if !fault.Has(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func testOrderTerms(t *testing.T, open Open) {
	l := newLine(t, open)
	ctx := t.Context()
	o := l.addOrder(l.newOrder("4711"))
	changed := o
	changed.Quantity, changed.Spares, changed.State, changed.Stations = 50, 0, factory.OrderClosed, []int64{l.station, 7}
	changed.ClosedAt, changed.ChipTypes, changed.SerialTo, changed.ExternalRef = l.now.Add(time.Hour), nil, "SN-500", "ERP-2"
	changed.Takt, changed.Grace, changed.Frozen = time.Second, time.Minute, true
	changed.Counts = factory.Counts{Issued: 1000}
	l.raises(func(e ...ledger.Entry) error { return l.s.UpdateOrder(ctx, changed, e...) })
	want := changed
	want.Version, want.Counts = 2, factory.Counts{}
	l.same(want, l.order(o.ID))

	err := l.adds(1, func(e ...ledger.Entry) error { return l.s.UpdateOrder(ctx, changed, e...) })
	if !errors.Is(err, device.ErrStale) {
		t.Errorf("a change of old terms: %v", err)
	}
	l.refused(l.s.UpdateOrder(ctx, factory.Order{ID: 99, Product: l.product, Site: l.site}, l.entry("")), fault.OrderUnknown)
	second := l.addOrder(l.newOrder("4712"))
	second.ExternalRef = "ERP-2"
	l.refused(l.s.UpdateOrder(ctx, second, l.entry("")), fault.OrderExists)

	// Of many who change the same terms one comes through.
	var wg sync.WaitGroup
	var mu sync.Mutex
	done := 0
	for n := range 8 {
		wg.Go(func() {
			mine := want
			mine.Spares = int64(n)
			err := l.s.UpdateOrder(ctx, mine, l.entry(""))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				done++
			case !errors.Is(err, device.ErrStale):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if done != 1 || l.order(o.ID).Version != 3 {
		t.Errorf("%d changes of one version came through, to %d", done, l.order(o.ID).Version)
	}
}

func testOrderLists(t *testing.T, open Open) {
	l := newLine(t, open)
	ctx := t.Context()
	r := rand.New(rand.NewPCG(5, 6))
	for n := range 3 {
		_, err := l.s.AddProduct(ctx, device.Product{Name: fmt.Sprint("p", n)}, l.entry(""))
		l.ok(err)
		_, err = l.s.AddSite(ctx, factory.Site{Name: fmt.Sprint("s", n)}, l.entry(""))
		l.ok(err)
	}
	var all []factory.Order
	for n := range 120 {
		o := l.newOrder(fmt.Sprint("N", n))
		o.Product, o.Site, o.State = 1+r.Int64N(4), 1+r.Int64N(4), factory.OrderState(1+r.IntN(4))
		all = append(all, l.addOrder(o))
	}
	slices.Reverse(all)
	for range 150 {
		scope := randomScope(r)
		q := factory.OrderQuery{Product: max(0, r.Int64N(7)-2), Site: max(0, r.Int64N(7)-2), State: factory.OrderState(max(0, r.IntN(7)-2))}
		q.Limit = 1 + r.IntN(40)
		var want []factory.Order
		for _, o := range all {
			if scope.Sees(o.Product, o.Site, 0) && len(scope.Owners()) == 0 && (q.Product == 0 || q.Product == o.Product) &&
				(q.Site == 0 || q.Site == o.Site) && (q.State == 0 || q.State == o.State) {
				want = append(want, o)
			}
		}
		got, _, err := walked(ctx, func(after string) ([]factory.Order, string, error) {
			q.After = after
			return l.s.Orders(ctx, scope, q)
		})
		l.ok(err)
		l.same(want, got)
	}
	_, _, err := l.s.Orders(ctx, access.Everything(), factory.OrderQuery{Page: factory.Page{After: "x"}})
	l.refused(err, fault.ParameterInvalid)
}

func testFactoryPlane(t *testing.T, open Open) {
	l := newLine(t, open)
	ctx := t.Context()
	var want []factory.Order
	for n, state := range []factory.OrderState{factory.OrderPlanned, factory.OrderOpen, factory.OrderClosed, factory.OrderCanceled} {
		o := l.newOrder(fmt.Sprint(n))
		o.State = state
		if o = l.addOrder(o); state <= factory.OrderOpen {
			want = append(want, o)
		}
	}
	p, err := l.s.Plane(ctx)
	l.ok(err)
	if p.Epoch != l.epoch() || len(p.Sites) != 1 || len(p.Stations) != 1 || p.Stations[0].Name != "line-1" {
		t.Errorf("epoch %d, %d sites, stations %+v", p.Epoch, len(p.Sites), p.Stations)
	}
	l.same(want, p.Orders)
	want[0].State = factory.OrderCanceled
	l.ok(l.s.UpdateOrder(ctx, want[0], l.entry("")))
	after, err := l.s.Plane(ctx)
	l.ok(err)
	if after.Epoch <= p.Epoch || len(after.Orders) != 1 {
		t.Errorf("epoch %d after %d with %d orders", after.Epoch, p.Epoch, len(after.Orders))
	}
}

func testFactoryColumns(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	p := device.Product{
		Name: "sensor", ChipTypes: []string{"A", "B"}, KeyModel: device.KeyModelAdopted, IDevIDProfile: "idevid",
		SerialPattern: "SN-[0-9]{6}", ExternalRef: "MAT-1", CreatedAt: f.now,
	}
	var err error
	p.ID, err = f.s.AddProduct(t.Context(), p, f.entry(""))
	f.ok(err)
	check := func() {
		t.Helper()
		list, err := f.s.Products(t.Context(), access.Everything())
		f.ok(err)
		f.same([]device.Product{p}, list)
	}
	check()
	p.ChipTypes, p.KeyModel, p.IDevIDProfile, p.SerialPattern, p.ExternalRef = []string{"C"}, device.KeyModelInjected, "other", ".*", "MAT-2"
	f.ok(f.s.UpdateProduct(t.Context(), p, f.entry("")))
	check()

	d := f.device("SN-1")
	d.Order, d.Chip, d.BuiltInto = 4, 1<<62+5, 6
	f.add(d)
	f.same(d, f.load(d.ID))
	changed := d
	changed.Region, changed.Order, changed.Chip, changed.BuiltInto = "us", 9, 9, 9
	f.ok(f.s.UpdateDevice(t.Context(), access.Everything(), changed, f.entry("")))
	d.Region, d.Version = "us", 2
	f.same(d, f.load(d.ID)) // the rest is written by others
}

func testBuildInto(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	ctx, all := t.Context(), access.Everything()
	var ids []device.ID
	for n := range 6 {
		d := f.device(fmt.Sprint("SN-", n))
		d.Product = 1 + int64(n)%2
		f.add(d)
		ids = append(ids, d.ID)
	}
	build := func(scope access.Scope, system device.ID, components ...device.ID) error {
		return f.adds(1, func(e ...ledger.Entry) error { return f.s.BuildInto(ctx, scope, system, components, e...) })
	}
	f.ok(build(all, ids[0], ids[2], ids[1], ids[2]))
	for n, want := range []device.ID{0, ids[0], ids[0], 0} {
		if d := f.load(ids[n]); d.BuiltInto != want || d.Version != 1 {
			t.Errorf("device %d is built into %v, version %d", n, d.BuiltInto, d.Version)
		}
	}
	f.ok(build(all, ids[3], ids[0]))
	for name, c := range map[string]struct {
		err  error
		want fault.Code
	}{
		"itself":            {build(all, ids[0], ids[4], ids[0]), fault.ParameterInvalid},
		"its component":     {build(all, ids[1], ids[0]), fault.ParameterInvalid},
		"a circle of three": {build(all, ids[1], ids[3]), fault.ParameterInvalid},
		"unknown system":    {build(all, f.s.DeviceID("none"), ids[4]), fault.DeviceUnknown},
		"unknown component": {build(all, ids[0], ids[4], f.s.DeviceID("none")), fault.DeviceUnknown},
		"out of scope":      {build(access.Limited([]int64{1}, nil, nil), ids[0], ids[5]), fault.DeviceUnknown},
		"system not seen":   {build(access.Limited([]int64{2}, nil, nil), ids[0], ids[5]), fault.DeviceUnknown},
		"too many":          {build(all, ids[0], make([]device.ID, 501)...), fault.ParameterInvalid},
	} {
		if !fault.Has(c.err, c.want) {
			t.Errorf("%s: %v", name, c.err)
		}
	}
	for _, n := range []int{4, 5} {
		if d := f.load(ids[n]); d.BuiltInto != 0 {
			t.Errorf("a refused call linked device %d", n)
		}
	}
	f.ok(build(all, 0, ids[1]))
	if d := f.load(ids[1]); d.BuiltInto != 0 {
		t.Error("a component was not taken out")
	}
}

func testSigners(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	ctx := t.Context()
	x := factory.Signer{Name: "Microchip", Format: "microchip", Fingerprint: [32]byte{1}, Certificate: []byte("der"), PinnedBy: "ann", PinnedAt: f.now}
	pin := func(x factory.Signer) (id int64, err error) {
		err = f.adds(1, func(e ...ledger.Entry) (err error) { id, err = f.s.PinSigner(ctx, x, e...); return err })
		return id, err
	}
	var err error
	x.ID, err = pin(x)
	f.ok(err)
	_, err = pin(x)
	f.refused(err, fault.SignerExists)
	renamed := x
	renamed.Name = "Other"
	_, err = pin(renamed)
	f.refused(err, fault.SignerExists)
	withdraw := func(at time.Time, leaves int64) {
		t.Helper()
		f.ok(f.adds(leaves, func(e ...ledger.Entry) error { return f.s.WithdrawSigner(ctx, x.ID, at, e...) }))
	}
	withdraw(f.now.Add(time.Hour), 1)
	withdraw(f.now.Add(2*time.Hour), 0)
	f.refused(f.s.WithdrawSigner(ctx, 99, f.now, f.entry("")), fault.SignerUnknown)
	renamed.ID, err = pin(renamed) // the same certificate, pinned anew
	f.ok(err)
	x.WithdrawnAt = f.now.Add(time.Hour)
	list, err := f.s.Signers(ctx)
	f.ok(err)
	f.same([]factory.Signer{x, renamed}, list)
}

func testRestoredFactory(t *testing.T, open Open) {
	l := newLine(t, open)
	ctx := t.Context()
	l.install()
	o := l.addOrder(l.newOrder("4711"))
	closed := l.newOrder("4712")
	closed.State = factory.OrderClosed
	closed = l.addOrder(closed)
	chips := l.chipRange(0, 1, 700)
	m := l.imported("a", chips)
	staged := l.begin("b")
	l.stage(&staged, l.chipRange(5000, 1, 10))
	spent := l.newStation("spent")
	spent.Code.SpentAt, spent.Code.SpentSPKI = l.now, [32]byte{3}
	_, err := l.s.AddStation(ctx, spent, l.entry(""))
	l.ok(err)
	block, err := l.s.AddNonceBlock(ctx, factory.NonceBlock{Order: o.ID, Station: l.station, Count: 8, Key: [32]byte{1}, Used: []byte{1}, ExpiresAt: time.Now().Add(time.Hour)}, l.entry(""))
	l.ok(err)
	_, _, err = l.s.RaiseAlarm(ctx, l.alarm(factory.AlarmSpares, "4711"), l.entry(""))
	l.ok(err)
	l.ok(l.s.Count(ctx, []factory.Tally{{Order: o.ID, Day: 20000, Measure: factory.MeasureFailed, N: 2}}, l.entry("")))
	_, err = l.s.SetWebhook(ctx, factory.Webhook{Name: "mes", Secret: []byte{1}, CreatedAt: l.now, ChangedAt: l.now}, l.entry(""))
	l.ok(err)
	raw, _ := l.backup()

	g := &line{fixture: newFixture(t, open(t)), site: l.site}
	_, err = g.s.Restore(ctx, bytes.NewReader(raw), g.restoration())
	g.ok(err)
	frozen := o
	frozen.Frozen, frozen.Version = true, o.Version+1
	g.same(frozen, g.order(o.ID))
	g.same(closed, g.order(closed.ID))
	_, err = g.s.StationByCode(ctx, l.newStation("line-1").Code.Hash)
	g.refused(err, fault.StationUnknown)
	_, err = g.s.StationByCode(ctx, spent.Code.Hash)
	g.ok(err)
	b, err := g.s.NonceBlock(ctx, block)
	g.ok(err)
	if b.ExpiresAt.After(time.Now()) {
		t.Errorf("nonces of the former life are good until %v", b.ExpiresAt)
	}
	g.sees(chips, m.ID, true)
	g.sees(l.chipRange(5000, 1, 10), staged.ID, false)
	// What was staged is taken, and goes on.
	duplicates, err := g.s.StageChips(ctx, g.begin("c").ID, l.chipRange(5000, 1, 1))
	g.ok(err)
	if len(duplicates) != 3 {
		t.Errorf("%+v", duplicates)
	}
	g.stage(&staged, l.chipRange(5010, 11, 10))
	g.publish(&staged)
	g.sees(l.chipRange(5000, 1, 20), staged.ID, true)
	for name, same := range map[string]func(*line) (any, error){
		"manifests": func(x *line) (any, error) { return x.s.Manifest(ctx, m.ID) },
		"alarms": func(x *line) (any, error) {
			list, _, err := x.s.Alarms(ctx, access.Everything(), factory.AlarmQuery{})
			return list, err
		},
		"counters": func(x *line) (any, error) { return x.s.Tallies(ctx, access.Everything(), factory.TallyQuery{}) },
		"webhooks": func(x *line) (any, error) { return x.s.Webhooks(ctx) },
		"sites":    func(x *line) (any, error) { return x.s.Sites(ctx, access.Everything()) },
	} {
		want, err := same(l)
		l.ok(err)
		got, err := same(g)
		g.ok(err)
		if d := gocmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

// factoryWrites calls the writing methods of the factory, each in a state in
// which it has to write.
func (f *fixture) factoryWrites() []namedWrite {
	ctx, s := f.Context(), f.s
	l := &line{fixture: f}
	var o factory.Order
	var m, given factory.Manifest
	var alarm, signer, webhook int64
	part, system := f.device("PART"), f.device("SYSTEM")
	return []namedWrite{
		{"AddSite", func(e ledger.Entry) (err error) {
			l.site, err = s.AddSite(ctx, factory.Site{Name: "S", CreatedAt: f.now}, e)
			return err
		}},
		{"AddStation", func(e ledger.Entry) (err error) {
			l.station, err = s.AddStation(ctx, l.newStation("line"), e)
			return err
		}},
		{"UpdateStation", func(e ledger.Entry) error {
			x := l.newStation("line")
			x.ID = l.station
			return s.UpdateStation(ctx, x, e)
		}},
		{"AddOrder", func(e ledger.Entry) (err error) {
			l.product = 1
			o = l.newOrder("1")
			o.ID, err = s.AddOrder(ctx, o, e)
			return err
		}},
		{"UpdateOrder", func(e ledger.Entry) error { o.Version = 1; return s.UpdateOrder(ctx, o, e) }},
		{"PinSigner", func(e ledger.Entry) (err error) {
			signer, err = s.PinSigner(ctx, factory.Signer{Name: "M", PinnedAt: f.now}, e)
			return err
		}},
		{"WithdrawSigner", func(e ledger.Entry) error { return s.WithdrawSigner(ctx, signer, f.now, e) }},
		{"BeginManifest", func(e ledger.Entry) (err error) { m, err = s.BeginManifest(ctx, l.newManifest("m"), e); return err }},
		{"PublishManifest", func(e ledger.Entry) error {
			allotted := l.chip(1, 2)
			allotted.State, allotted.Order = factory.ChipAllotted, o.ID
			l.stage(&m, []factory.Chip{l.chip(0, 1), allotted})
			return s.PublishManifest(ctx, m, e)
		}},
		{"DiscardManifest", func(e ledger.Entry) (err error) {
			given = l.begin("given up")
			return s.DiscardManifest(ctx, given.ID, e)
		}},
		{"UpdateChip", func(e ledger.Entry) error {
			c := l.chip(0, 1)
			c.State = factory.ChipWithdrawn
			return s.UpdateChip(ctx, c, factory.ChipListed, e)
		}},
		{"LapseAllotted", func(e ledger.Entry) error {
			_, err := s.LapseAllotted(ctx, o.ID, 10, f.now, func([]int64) []ledger.Entry { return []ledger.Entry{e} })
			return err
		}},
		{"BuildInto", func(e ledger.Entry) error {
			f.add(part, system)
			return s.BuildInto(ctx, access.Everything(), system.ID, []device.ID{part.ID}, e)
		}},
		{"RaiseAlarm", func(e ledger.Entry) (err error) {
			alarm, _, err = s.RaiseAlarm(ctx, f.alarm(factory.AlarmSpares, "1"), e)
			return err
		}},
		{"UpdateAlarm", func(e ledger.Entry) error {
			return s.UpdateAlarm(ctx, factory.Alarm{ID: alarm, State: factory.AlarmClosed, ClosedAt: f.now}, e)
		}},
		{"Count", func(e ledger.Entry) error {
			return s.Count(ctx, []factory.Tally{{Order: o.ID, Measure: factory.MeasureFailed, N: 1}}, e)
		}},
		{"SetWebhook", func(e ledger.Entry) (err error) {
			webhook, err = s.SetWebhook(ctx, factory.Webhook{Name: "w", CreatedAt: f.now}, e)
			return err
		}},
		{"RemoveWebhook", func(e ledger.Entry) error { return s.RemoveWebhook(ctx, webhook, e) }},
	}
}

package storetest

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

func (f *fixture) same(want, got any) {
	f.Helper()
	if d := gocmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		f.Errorf("not as stored (-want +got):\n%s", d)
	}
}

func testDevices(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	a, b := f.device("SN-1"), f.device("SN-2")
	b.Labels, b.Secret, b.Site, b.Owner = nil, device.Secret{}, 4, 5
	spent := f.device("SN-3")
	spent.Secret.SpentAt, spent.Secret.SpentSPKI = f.now, [32]byte{1, 2}
	spent.Current = map[device.Slot]device.CredentialID{device.IDevIDSlot: 7, device.LDevIDSlot("cloud"): 9}
	f.ok(f.adds(1, func(e ...ledger.Entry) error {
		return f.s.AddDevices(t.Context(), access.Everything(), []device.Device{a, b, spent}, e...)
	}))
	for _, want := range []device.Device{a, b, spent} {
		f.same(want, f.load(want.ID))
	}
	_, err := f.s.Device(t.Context(), access.Everything(), f.s.DeviceID("SN-4"))
	f.refused(err, fault.DeviceUnknown)
}

func testAddAllOrNone(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	f.add(f.device("SN-50"), f.device("SN-70"))
	var many []device.Device
	for i := range 100 {
		many = append(many, f.device(fmt.Sprintf("SN-%d", i)))
	}
	err := f.adds(0, func(e ...ledger.Entry) error {
		return f.s.AddDevices(t.Context(), access.Everything(), many, e...)
	})
	f.refused(err, fault.DeviceExists)
	if detail := fault.Of(err).Detail; detail != "SN-50" {
		t.Errorf("the first serial that is taken is said to be %q", detail)
	}
	_, err = f.s.Device(t.Context(), access.Everything(), many[0].ID)
	f.refused(err, fault.DeviceUnknown)
	twice := []device.Device{f.device("NEW"), f.device("NEW")}
	f.refused(f.s.AddDevices(t.Context(), access.Everything(), twice, f.entry("")), fault.DeviceExists)
	f.refused(f.s.AddDevices(t.Context(), access.Everything(), make([]device.Device, 2001), f.entry("")), fault.ParameterInvalid)
	c, err := f.s.Counts(t.Context(), access.Everything())
	f.ok(err)
	f.same(map[device.State]int64{device.Registered: 2}, c.Devices)
}

func testUpdateDevice(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	f.add(f.device("SN-1"))
	d := f.load(f.s.DeviceID("SN-1"))
	d.State, d.Region, d.Labels = device.Shipped, "us", map[string]string{"a": "1", "b": "2"}
	d.Secret = device.Secret{Set: true, Hash: [32]byte{9}}
	d.ChangedAt = f.now.Add(time.Hour)
	update := func(d device.Device) error {
		return f.adds(1, func(e ...ledger.Entry) error { return f.s.UpdateDevice(t.Context(), access.Everything(), d, e...) })
	}
	f.ok(update(d))
	want := d
	want.Version++
	f.same(want, f.load(d.ID))
	if err := update(d); !errors.Is(err, device.ErrStale) {
		t.Errorf("a change from an old version: %v", err)
	}
	ahead := want
	ahead.Version++
	if err := update(ahead); !errors.Is(err, device.ErrStale) {
		t.Errorf("a change from a version that is not there yet: %v", err)
	}
	f.same(want, f.load(d.ID))
	unknown := f.device("SN-2")
	f.refused(update(unknown), fault.DeviceUnknown)
	c, err := f.s.Counts(t.Context(), access.Everything())
	f.ok(err)
	f.same(map[device.State]int64{device.Shipped: 1}, c.Devices)
}

func testMoveOwner(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	f.add(f.device("SN-1"))
	id := f.s.DeviceID("SN-1")
	first := f.issue(id, "ldevid", "cloud")
	second := f.issue(id, "ldevid", "cloud")
	d := f.load(id)
	d.Owner = 77
	f.ok(f.s.UpdateDevice(t.Context(), access.Everything(), d, f.entry("")))
	for _, c := range []device.CredentialID{first.ID, second.ID} {
		if got := f.credential(c); got.Owner != 77 {
			t.Errorf("credential %d belongs to %d", c, got.Owner)
		}
	}
	its := access.Limited(nil, nil, []int64{77})
	c, err := f.s.Counts(t.Context(), its)
	f.ok(err)
	f.same(map[device.CredentialState]int64{device.Issued: 1, device.Superseded: 1}, c.Credentials)
	// From a scope of owners nobody gives a device away.
	d = f.load(id)
	d.Owner = 78
	f.refused(f.s.UpdateDevice(t.Context(), its, d, f.entry("")), fault.DeviceUnknown)
}

// fleet is a random register and what a model knows of it.
func fleet(f *fixture, r *rand.Rand, n int) []device.Device {
	f.Helper()
	var all []device.Device
	states := []device.State{device.Registered, device.Shipped, device.Active}
	for i := range n {
		d := f.device(fmt.Sprintf("F-%d", i))
		d.Product, d.Site, d.Owner = 1+r.Int64N(4), r.Int64N(3), r.Int64N(3)
		d.State = states[r.IntN(len(states))]
		d.Labels = map[string]string{"line": fmt.Sprint(r.IntN(3)), "c": []string{"Blue", "blue", "b_ue"}[r.IntN(3)]}
		all = append(all, d)
	}
	for some := range slices.Chunk(all, 500) {
		f.add(some...)
	}
	slices.SortFunc(all, func(a, b device.Device) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

func randomScope(r *rand.Rand) access.Scope {
	pick := func(n int64) []int64 {
		var ids []int64
		for id := range n {
			if r.IntN(2) == 0 {
				ids = append(ids, id)
			}
		}
		return ids
	}
	switch r.IntN(4) {
	case 0:
		return access.Everything()
	case 1:
		return access.Limited(pick(6), nil, nil)
	case 2:
		many := []int64{1, 3}
		for id := range int64(30) {
			many = append(many, 100+id)
		}
		return access.Limited(many, nil, pick(3))
	}
	return access.Limited(pick(6), pick(3), pick(3))
}

func testListsAgainstModel(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	r := rand.New(rand.NewPCG(1, 2))
	devices := fleet(f, r, 300)
	var credentials []device.Credential
	for _, d := range devices[:60] {
		for range 1 + r.IntN(3) {
			kind, purpose := "idevid", ""
			if r.IntN(2) == 0 {
				kind, purpose = "ldevid", "cloud"
			}
			credentials = append(credentials, f.issue(d.ID, kind, purpose))
		}
	}
	for i, c := range credentials { // as they are in the end
		credentials[i] = f.credential(c.ID)
	}
	for i, d := range devices {
		devices[i] = f.load(d.ID)
	}
	slices.SortFunc(credentials, func(a, b device.Credential) int { return cmp.Compare(b.ID, a.ID) })
	for range 150 {
		f.compareDevices(r, devices)
		f.compareCredentials(r, credentials, devices)
	}
}

func (f *fixture) compareDevices(r *rand.Rand, all []device.Device) {
	f.Helper()
	scope := randomScope(r)
	q := device.DeviceQuery{Limit: 1 + r.IntN(40), Product: max(0, r.Int64N(8)-3)}
	if r.IntN(3) == 0 {
		q.State = device.Active
	}
	switch r.IntN(4) {
	case 0:
		q.Label = [2]string{"c", []string{"blue", "b_ue", "bl%"}[r.IntN(3)]}
	case 1:
		q.DeviceSerial = all[r.IntN(len(all))].DeviceSerial
	}
	var want []device.ID
	for _, d := range all {
		v, has := d.Labels[q.Label[0]]
		if scope.Sees(d.Product, d.Site, d.Owner) && (q.Product == 0 || q.Product == d.Product) && (q.State == 0 || q.State == d.State) &&
			(q.Label[0] == "" || has && v == q.Label[1]) && (q.DeviceSerial == "" || q.DeviceSerial == d.DeviceSerial) {
			want = append(want, d.ID)
		}
	}
	limit := q.Limit
	got, _, err := walked(f.Context(), func(after string) ([]device.Device, string, error) {
		q.After = after
		page, next, err := f.s.Devices(f.Context(), scope, q)
		if len(page) > limit {
			f.Errorf("a page of %d holds %d", limit, len(page))
		}
		return page, next, err
	})
	f.ok(err)
	ids := make([]device.ID, len(got))
	for i := range got {
		ids[i] = got[i].ID
	}
	if !slices.Equal(want, ids) {
		f.Errorf("devices of %+v in %+v: got %d, want %d or another order", q, scope, len(ids), len(want))
	}
}

func (f *fixture) compareCredentials(r *rand.Rand, all []device.Credential, devices []device.Device) {
	f.Helper()
	scope := randomScope(r)
	q := device.CredentialQuery{Limit: 1 + r.IntN(10), Product: max(0, r.Int64N(8)-3)}
	switch r.IntN(4) {
	case 0:
		q.State = device.Superseded
	case 1:
		q.Kind = "ldevid"
	case 2:
		q.Device = devices[r.IntN(60)].ID
	}
	var want []device.CredentialID
	for _, c := range all {
		if scope.Sees(c.Product, c.Site, c.Owner) && (q.Product == 0 || q.Product == c.Product) && (q.State == 0 || q.State == c.State) &&
			(q.Kind == "" || q.Kind == c.Kind) && (q.Device == 0 || q.Device == c.Device) {
			want = append(want, c.ID)
		}
	}
	got, _, err := walked(f.Context(), func(after string) ([]device.Credential, string, error) {
		q.After = after
		return f.s.Credentials(f.Context(), scope, q)
	})
	f.ok(err)
	ids := make([]device.CredentialID, len(got))
	for i := range got {
		ids[i] = got[i].ID
	}
	if !slices.Equal(want, ids) {
		f.Errorf("credentials of %+v in %+v: got %v, want %v", q, scope, ids, want)
	}
}

func testBoundedLists(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	seed := seedConfig(f, 12_000, 11_000)
	seed.Products = []int64{1, 1, 1, 2}
	f.ok(f.s.Seed(t.Context(), seed))
	f.registeredOfTwoProducts()
	last := f.device("THE-ONE")
	last.Site = 9
	f.add(last)
	scope := access.Limited(nil, []int64{9}, nil)
	devices, pages, err := walked(t.Context(), func(after string) ([]device.Device, string, error) {
		return f.s.Devices(t.Context(), scope, device.DeviceQuery{After: after})
	})
	f.ok(err)
	if len(devices) != 1 || pages != 2 {
		t.Errorf("%d devices on %d pages, want one device, and one page for each 10,000 rows", len(devices), pages)
	}
	c := f.issue(last.ID, "idevid", "")
	credentials, pages, err := walked(t.Context(), func(after string) ([]device.Credential, string, error) {
		return f.s.Credentials(t.Context(), scope, device.CredentialQuery{After: after})
	})
	f.ok(err)
	if len(credentials) != 1 || credentials[0].ID != c.ID || pages != 2 {
		t.Errorf("%d credentials on %d pages", len(credentials), pages)
	}
	for _, cursor := range []string{"x", "-1", "0", "1.x", "99999999999999999999"} {
		_, _, err := f.s.Credentials(t.Context(), access.Everything(), device.CredentialQuery{After: cursor})
		f.refused(err, fault.ParameterInvalid)
		_, _, err = f.s.Credentials(t.Context(), access.Everything(), device.CredentialQuery{After: cursor, Device: last.ID})
		f.refused(err, fault.ParameterInvalid)
		_, _, err = f.s.Devices(t.Context(), access.Everything(), device.DeviceQuery{After: cursor})
		f.refused(err, fault.ParameterInvalid)
	}
}

// registeredOfTwoProducts walks two products of unequal size, in which what is
// looked for is rare.
func (f *fixture) registeredOfTwoProducts() {
	f.Helper()
	got, _, err := walked(f.Context(), func(after string) ([]device.Device, string, error) {
		return f.s.Devices(f.Context(), access.Limited([]int64{1, 2}, nil, nil), device.DeviceQuery{State: device.Registered, After: after, Limit: 300})
	})
	f.ok(err)
	if len(got) != 1000 || !slices.IsSortedFunc(got, func(a, b device.Device) int { return cmp.Or(cmp.Compare(a.ID, b.ID), -1) }) {
		f.Errorf("%d devices, or not in order", len(got))
	}
}

func testZeroScope(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	_, err := f.s.AddProduct(t.Context(), device.Product{Name: "sensor"}, f.entry(""))
	f.ok(err)
	f.add(f.device("SN-1"))
	id := f.s.DeviceID("SN-1")
	c := f.issue(id, "idevid", "")
	f.seesNothing(access.Scope{}, id, c)
}

func testOutOfScope(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	f.add(f.device("SN-1"))
	id := f.s.DeviceID("SN-1")
	c := f.issue(id, "idevid", "")
	for _, scope := range []access.Scope{
		access.Limited([]int64{2}, nil, nil), access.Limited([]int64{1}, []int64{5}, nil), access.Limited(nil, nil, []int64{6}),
	} {
		f.seesNothing(scope, id, c)
	}
	f.refused(f.s.AddDevices(t.Context(), access.Limited([]int64{2}, nil, nil), []device.Device{f.device("SN-2")}, f.entry("")), fault.ProductUnknown)
}

// seesNothing calls every method that takes a scope for what is outside of it.
func (f *fixture) seesNothing(scope access.Scope, id device.ID, c device.Credential) {
	f.Helper()
	ctx := f.Context()
	_, err := f.s.Device(ctx, scope, id)
	f.refused(err, fault.DeviceUnknown)
	f.same(fault.New(fault.DeviceUnknown).Error(), err.Error()) // not a word more than of an unknown one
	d := f.load(id)
	f.refused(f.s.UpdateDevice(ctx, scope, d, f.entry("")), fault.DeviceUnknown)
	for _, q := range []device.DeviceQuery{{}, {Product: d.Product}, {DeviceSerial: d.DeviceSerial}, {State: d.State}, {Label: [2]string{"line", "3"}}} {
		list, next, err := f.s.Devices(ctx, scope, q)
		f.ok(err)
		if len(list) != 0 || next != "" {
			f.Errorf("%+v shows %v", q, list)
		}
	}
	_, err = f.s.Credential(ctx, scope, c.ID)
	f.refused(err, fault.CredentialUnknown)
	_, err = f.s.CredentialBySerial(ctx, scope, c.CertSerial)
	f.refused(err, fault.CredentialUnknown)
	_, err = f.s.CredentialBySPKI(ctx, scope, c.SPKIDigest)
	f.refused(err, fault.CredentialUnknown)
	for _, q := range []device.CredentialQuery{{}, {Device: id}, {Product: c.Product}, {Authority: c.Authority}, {Kind: c.Kind}, {State: c.State}} {
		list, next, err := f.s.Credentials(ctx, scope, q)
		f.ok(err)
		if len(list) != 0 || next != "" {
			f.Errorf("%+v shows %v", q, list)
		}
	}
	products, err := f.s.Products(ctx, scope)
	f.ok(err)
	if scope.SeesNothing() && len(products) != 0 {
		f.Errorf("products %v", products)
	}
	expiring, err := f.s.Expiring(ctx, scope, 0, 1<<30)
	f.ok(err)
	counts, err := f.s.Counts(ctx, scope)
	f.ok(err)
	if len(expiring) != 0 || len(counts.Devices) != 0 || len(counts.Credentials) != 0 {
		f.Errorf("counts %v, expiring %v", counts, expiring)
	}
	f.refused(f.s.Revoke(ctx, scope, revocation(f, c, 1), f.entry("")), fault.CredentialUnknown)
	f.refused(f.s.Release(ctx, scope, c.ID, f.entry("")), fault.CredentialUnknown)
}

func testProducts(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	p := device.Product{Name: "sensor", Description: "s", PartNumbers: []string{"P1"}, Profiles: []string{"a", "b"}, LeastEvidence: "none", CreatedAt: f.now}
	f.raises(func(e ...ledger.Entry) (err error) {
		p.ID, err = f.s.AddProduct(t.Context(), p, e...)
		return err
	})
	err := f.adds(0, func(e ...ledger.Entry) error {
		_, err := f.s.AddProduct(t.Context(), device.Product{Name: "sensor"}, e...)
		return err
	})
	f.refused(err, fault.ProductExists)
	other := device.Product{Name: "actor", CreatedAt: f.now}
	other.ID, err = f.s.AddProduct(t.Context(), other, f.entry(""))
	f.ok(err)
	p.Name, p.Profiles = "sensor 2", []string{"c"}
	f.raises(func(e ...ledger.Entry) error { return f.s.UpdateProduct(t.Context(), p, e...) })
	taken := p
	taken.Name = "actor"
	f.refused(f.s.UpdateProduct(t.Context(), taken, f.entry("")), fault.ProductExists)
	f.refused(f.s.UpdateProduct(t.Context(), device.Product{ID: 99, Name: "x"}, f.entry("")), fault.ProductUnknown)
	all, err := f.s.Products(t.Context(), access.Everything())
	f.ok(err)
	f.same([]device.Product{p, other}, all)
	some, err := f.s.Products(t.Context(), access.Limited([]int64{other.ID}, nil, nil))
	f.ok(err)
	f.same([]device.Product{other}, some)
}

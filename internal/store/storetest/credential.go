package storetest

import (
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/store"
)

func testFindCredential(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	f.add(f.device("SN-1"))
	c := f.issue(f.s.DeviceID("SN-1"), "idevid", "")
	for name, find := range map[string]func() (device.Credential, error){
		"id": func() (device.Credential, error) { return f.s.Credential(t.Context(), access.Everything(), c.ID) },
		"serial": func() (device.Credential, error) {
			return f.s.CredentialBySerial(t.Context(), access.Everything(), c.CertSerial)
		},
		"key": func() (device.Credential, error) {
			return f.s.CredentialBySPKI(t.Context(), access.Everything(), c.SPKIDigest)
		},
	} {
		got, err := find()
		if err != nil {
			t.Fatalf("by %s: %v", name, err)
		}
		f.same(c, got)
	}
	// A serial that opens to the same row, but is another.
	for i := range c.CertSerial {
		other := slices.Clone(c.CertSerial)
		other[i] ^= 1
		_, err := f.s.CredentialBySerial(t.Context(), access.Everything(), other)
		f.refused(err, fault.CredentialUnknown)
	}
	_, err := f.s.CredentialBySPKI(t.Context(), access.Everything(), [32]byte{1})
	f.refused(err, fault.CredentialUnknown)
	_, err = f.s.Credential(t.Context(), access.Everything(), c.ID+1)
	f.refused(err, fault.CredentialUnknown)
}

func testCredentialChain(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	f.add(f.device("SN-1"), f.device("SN-2"))
	id, other := f.s.DeviceID("SN-1"), f.s.DeviceID("SN-2")
	var want []device.CredentialID
	for _, purpose := range []string{"", "cloud", "cloud", "", "service-port", "cloud"} {
		kind := "ldevid"
		if purpose == "" {
			kind = "idevid"
		}
		want = append(want, f.issue(id, kind, purpose).ID)
		f.issue(other, kind, purpose)
	}
	slices.Reverse(want)
	got, pages, err := walked(t.Context(), func(after string) ([]device.Credential, string, error) {
		return f.s.Credentials(t.Context(), access.Everything(), device.CredentialQuery{Device: id, After: after, Limit: 2})
	})
	f.ok(err)
	var ids []device.CredentialID
	for _, c := range got {
		ids = append(ids, c.ID)
		if c.Device != id {
			t.Errorf("credential %d is of another device", c.ID)
		}
	}
	if !slices.Equal(want, ids) || pages != 3 {
		t.Errorf("got %v on %d pages, want %v", ids, pages, want)
	}
	// A cursor that names another device's credential shows nothing of it.
	foreign := f.load(other).Current[device.IDevIDSlot]
	list, next, err := f.s.Credentials(t.Context(), access.Everything(), device.CredentialQuery{Device: id, After: cursorOf(foreign)})
	f.ok(err)
	if len(list) != 0 || next != "" {
		t.Errorf("a forged cursor shows %v", list)
	}
}

func testConfirm(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	f.add(f.device("SN-1"))
	c := f.issue(f.s.DeviceID("SN-1"), "idevid", "")
	confirm := func(at time.Time, n int64) error {
		return f.adds(n, func(e ...ledger.Entry) error {
			return f.s.Confirm(t.Context(), device.Confirmation{ID: c.ID, At: at}, e...)
		})
	}
	f.ok(confirm(f.now, 1))
	f.ok(confirm(f.now.Add(time.Hour), 0))
	want := c
	want.State, want.ConfirmedAt = device.Confirmed, f.now
	f.same(want, f.credential(c.ID))
	f.refused(f.s.Confirm(t.Context(), device.Confirmation{ID: c.ID + 1, At: f.now}, f.entry("")), fault.CredentialUnknown)
	counts, err := f.s.Counts(t.Context(), access.Everything())
	f.ok(err)
	f.same(map[device.CredentialState]int64{device.Confirmed: 1}, counts.Credentials)
}

func testCounts(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	day := f.now.AddDate(0, 0, 30).Unix() / 86400
	one, two := f.device("SN-1"), f.device("SN-2")
	two.Product, two.Site = 2, 8
	f.add(one, two)
	first := f.issue(one.ID, "idevid", "")
	f.issue(one.ID, "idevid", "") // supersedes the first
	held := f.issue(two.ID, "ldevid", "cloud")
	f.issue(two.ID, "idevid", "")
	f.issue(0, "tls-server", "") // ours: counted nowhere
	f.ok(f.s.Revoke(t.Context(), access.Everything(), revocation(f, held, 6), f.entry("")))
	f.ok(f.s.Revoke(t.Context(), access.Everything(), revocation(f, first, 1), f.entry("")))
	check := func(s access.Scope, want device.Counts, expiring []device.ExpiryCount) {
		t.Helper()
		got, err := f.s.Counts(t.Context(), s)
		f.ok(err)
		f.same(want, got)
		days, err := f.s.Expiring(t.Context(), s, day, day)
		f.ok(err)
		f.same(expiring, days)
	}
	check(access.Everything(), device.Counts{
		Devices:     map[device.State]int64{device.Active: 2},
		Credentials: map[device.CredentialState]int64{device.Issued: 2, device.Held: 1, device.Revoked: 1},
	}, []device.ExpiryCount{{Product: 1, Day: day, Count: 1}, {Product: 2, Day: day, Count: 1}})
	f.ok(f.s.Release(t.Context(), access.Everything(), held.ID, f.entry("")))
	check(access.Limited([]int64{2}, []int64{8}, nil), device.Counts{
		Devices:     map[device.State]int64{device.Active: 1},
		Credentials: map[device.CredentialState]int64{device.Issued: 2},
	}, []device.ExpiryCount{{Product: 2, Day: day, Count: 2}})
	none, err := f.s.Expiring(t.Context(), access.Everything(), day+1, day+100)
	f.ok(err)
	f.same([]device.ExpiryCount(nil), none)
}

// chunks yields devices in chunks of n, and stops after most of them.
func chunks(f *fixture, devices []device.Device, n, most int) iter.Seq2[store.DeviceChunk, error] {
	return func(yield func(store.DeviceChunk, error) bool) {
		for some := range slices.Chunk(devices, n) {
			if most == 0 {
				yield(store.DeviceChunk{}, errInterrupted)
				return
			}
			most--
			if !yield(store.DeviceChunk{Devices: some, Entries: []ledger.Entry{f.entry("chunk")}}, nil) {
				return
			}
		}
	}
}

func manyDevices(f *fixture, n int) []device.Device {
	var all []device.Device
	for i := range n {
		d := f.device(store.SeedSerial(i + 1))
		d.Product = int64(1 + i%2)
		all = append(all, d)
	}
	return all
}

func (f *fixture) listed() int {
	f.Helper()
	all, _, err := walked(f.Context(), func(after string) ([]device.Device, string, error) {
		return f.s.Devices(f.Context(), access.Everything(), device.DeviceQuery{After: after, Limit: 1000})
	})
	f.ok(err)
	c, err := f.s.Counts(f.Context(), access.Everything())
	f.ok(err)
	if int(c.Devices[device.Registered]) != len(all) {
		f.Errorf("%d devices are listed, %d counted", len(all), c.Devices[device.Registered])
	}
	return len(all)
}

func testStaged(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	devices := manyDevices(f, 1500)
	seen := func(n int) {
		t.Helper()
		if got := f.listed(); got != n {
			t.Fatalf("%d devices are seen, want %d", got, n)
		}
		_, err := f.s.Device(t.Context(), access.Everything(), devices[0].ID)
		if (err == nil) != (n > 0) {
			t.Fatalf("a device is seen: %v", err)
		}
	}
	_, err := f.s.AddDevicesStaged(t.Context(), access.Everything(), "job", chunks(f, devices, 100, 7))
	if err == nil {
		t.Fatal("an interruption went unnoticed")
	}
	seen(0)
	f.refused(f.s.AddDevices(t.Context(), access.Everything(), devices[:1], f.entry("")), fault.DeviceExists)
	n, err := f.s.AddDevicesStaged(t.Context(), access.Everything(), "job", chunks(f, devices, 100, -1), f.entry("done"))
	f.ok(err)
	if n != 1500 {
		t.Errorf("%d devices", n)
	}
	seen(1500)
	// Once more does nothing.
	before := f.size()
	_, err = f.s.AddDevicesStaged(t.Context(), access.Everything(), "job", chunks(f, devices, 100, -1), f.entry("done"))
	f.ok(err)
	if f.size() != before || before != 16 {
		t.Errorf("%d entries, then %d", before, f.size())
	}
	seen(1500)
	f.ok(f.s.DiscardBatch(t.Context(), "job", "system"))
	seen(1500)
}

func testStagedResumes(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	devices := manyDevices(f, 1000)
	stage := func(ds []device.Device, most int) error {
		_, err := f.s.AddDevicesStaged(t.Context(), access.Everything(), "job", chunks(f, ds, 100, most), f.entry("done"))
		return err
	}
	if err := stage(devices, 4); err == nil {
		t.Fatal("an interruption went unnoticed")
	}
	others := slices.Clone(devices)
	others[0].Region = "elsewhere"
	f.refused(stage(others, -1), fault.IdempotencyChanged)
	f.refused(stage(devices[:300], -1), fault.IdempotencyChanged)
	f.refused(stage(devices[50:], -1), fault.IdempotencyChanged)
	if f.listed() != 0 {
		t.Error("staged devices are seen")
	}
	f.ok(f.s.DiscardBatch(t.Context(), "job", "system"))
	f.ok(stage(others, -1))
	if f.listed() != 1000 {
		t.Error("not all are there")
	}
	// One serial that is taken.
	more := manyDevices(f, 1100)[900:]
	_, err := f.s.AddDevicesStaged(t.Context(), access.Everything(), "second", chunks(f, more, 50, -1), f.entry("done"))
	f.refused(err, fault.DeviceExists)
	if f.listed() != 1000 {
		t.Error("a refused registration is seen")
	}
}

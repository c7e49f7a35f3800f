package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/store"
)

func testIssuance(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	d := f.device("SN-1")
	f.add(d)
	i := f.issuance(&d, "idevid", "")
	i.Change.From, i.Change.SpendSPKI = device.Registered, &i.Credential.SPKIDigest
	size := f.size()
	got, err := f.s.StoreIssuance(t.Context(), i)
	f.ok(err)
	f.same(i.Credential, got)
	f.same(got, f.credential(got.ID))
	if f.size() != size+1 {
		t.Errorf("%d leaves, want %d", f.size(), size+1)
	}
	want := d
	want.State, want.Version, want.Current = device.Active, d.Version+1, map[device.Slot]device.CredentialID{device.IDevIDSlot: got.ID}
	want.Secret.SpentAt, want.Secret.SpentSPKI, want.ChangedAt = f.now, i.Credential.SPKIDigest, f.now
	f.same(want, f.load(d.ID))
	second := f.issue(d.ID, "ldevid", "cloud")
	other := f.issuance(nil, "tls-server", "")
	other.Credential.Authority = 2
	foreign, err := f.s.StoreIssuance(t.Context(), other)
	f.ok(err)
	if got.AuthorityIndex != 0 || second.AuthorityIndex != 1 || foreign.AuthorityIndex != 0 {
		t.Errorf("authority indexes %d, %d and %d of another, want 0, 1, 0", got.AuthorityIndex, second.AuthorityIndex, foreign.AuthorityIndex)
	}
	f.same(map[device.Slot]device.CredentialID{device.IDevIDSlot: got.ID, device.LDevIDSlot("cloud"): second.ID}, f.load(d.ID).Current)
	f.counts(map[device.State]int64{device.Active: 1}, map[device.CredentialState]int64{device.Issued: 2})
}

// counts compares the maintained totals.
func (f *fixture) counts(devices map[device.State]int64, credentials map[device.CredentialState]int64) {
	f.Helper()
	c, err := f.s.Counts(f.Context(), access.Everything())
	f.ok(err)
	f.same(device.Counts{Devices: devices, Credentials: credentials}, c)
}

// state is all that an issuance could have changed.
type state struct {
	Size    int64
	Devices []device.Device
	Counts  device.Counts
	Live    []device.ExpiryCount
	Keys    []device.CredentialID
	Latest  []device.Credential
}

func (f *fixture) state(i *device.Issuance) state {
	f.Helper()
	var s state
	var err error
	everything := access.Everything()
	s.Size = f.size()
	s.Devices, _, err = f.s.Devices(f.Context(), everything, device.DeviceQuery{Limit: 100})
	f.ok(err)
	s.Counts, err = f.s.Counts(f.Context(), everything)
	f.ok(err)
	s.Live, err = f.s.Expiring(f.Context(), everything, 0, 1<<30)
	f.ok(err)
	s.Latest, _, err = f.s.Credentials(f.Context(), everything, device.CredentialQuery{Limit: 100})
	f.ok(err)
	c, err := f.s.CredentialBySPKI(f.Context(), everything, i.Credential.SPKIDigest)
	if err != nil && !fault.Has(err, fault.CredentialUnknown) {
		f.Fatal(err)
	}
	s.Keys = append(s.Keys, c.ID)
	return s
}

func testRefusedIssuance(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	d, neighbor := f.device("SN-1"), f.device("SN-2")
	f.add(d, neighbor)
	taken := f.issue(neighbor.ID, "idevid", "")
	closed, err := f.s.LeaseSerials(t.Context(), "two", 8, f.now)
	f.ok(err)
	f.ok(f.s.CloseLease(t.Context(), closed.LeaseRef, f.now))
	otherLease, err := f.s.LeaseSerials(t.Context(), "two", 8, f.now)
	f.ok(err)
	isStale := func(err error) bool { return errors.Is(err, device.ErrStale) }
	isFenced := func(err error) bool { return fault.Has(err, fault.NodeFenced) }
	isConflict := func(err error) bool {
		conflict, ok := errors.AsType[*device.KeyConflict](err)
		return ok && cmp.Equal(conflict.Existing, taken)
	}
	for name, c := range map[string]struct {
		spoil   func(i *device.Issuance)
		refused func(error) bool
	}{
		"device changed":          {func(i *device.Issuance) { i.Change.Version++ }, isStale},
		"device unknown":          {func(i *device.Issuance) { i.Change.ID++; i.Credential.Device++ }, isStale},
		"device and old state":    {func(i *device.Issuance) { i.Change.Version++; i.Change.From = device.Registered }, isStale},
		"control plane changed":   {func(i *device.Issuance) { i.ControlEpoch++ }, isStale},
		"approval unknown":        {func(i *device.Issuance) { i.Approval = 77 }, isStale},
		"lease unknown":           {func(i *device.Issuance) { i.Lease.ID += 1 << 40 }, isFenced},
		"lease of a former run":   {func(i *device.Issuance) { i.Lease.Fence-- }, isFenced},
		"id of another lease":     {func(i *device.Issuance) { i.Lease = otherLease.LeaseRef }, isFenced},
		"lease closed":            {func(i *device.Issuance) { f.useLease(i, closed) }, isFenced},
		"key of another device":   {func(i *device.Issuance) { i.Credential.SPKIDigest = taken.SPKIDigest }, isConflict},
		"kept key is another's":   {func(i *device.Issuance) { i.SameKeyAs = taken.ID; i.Credential.SPKIDigest = taken.SPKIDigest }, isConflict},
		"kept key is not its own": {func(i *device.Issuance) { i.SameKeyAs = taken.ID }, isStale},
		"kept key is unknown":     {func(i *device.Issuance) { i.SameKeyAs = 1 << 40 }, isStale},
		"certificate is missing":  {func(i *device.Issuance) { i.Credential.DER = nil }, isPlain},
		"serial of another id":    {func(i *device.Issuance) { i.Credential.CertSerial = taken.CertSerial }, isPlain},
		"id that is stored":       {func(i *device.Issuance) { i.Credential.ID, i.Credential.CertSerial = taken.ID, taken.CertSerial }, isPlain},
		"no ledger entry":         {func(i *device.Issuance) { i.Entries = nil }, isPlain},
	} {
		t.Run(name, func(t *testing.T) {
			f := *f
			f.T = t
			i := f.issuance(&d, "idevid", "")
			good := i
			change := *i.Change
			good.Change = &change
			c.spoil(&i)
			before := f.state(&i)
			if _, err := f.s.StoreIssuance(t.Context(), i); !c.refused(err) {
				t.Fatalf("refused with %v", err)
			}
			f.same(before, f.state(&i))
			// What was refused left no key behind: the same key is taken for
			// another device that is new.
			fresh := f.device("SN-" + name)
			f.add(fresh)
			good.Credential.Device, good.Change.ID, good.Change.Version = fresh.ID, fresh.ID, fresh.Version
			stored, err := f.s.StoreIssuance(t.Context(), good)
			f.ok(err)
			if len(before.Latest) != int(stored.AuthorityIndex) {
				t.Errorf("authority index %d after %d certificates", stored.AuthorityIndex, len(before.Latest))
			}
		})
		f.used++ // the copies used one
		f.keys++
	}
}

// useLease makes an issuance one of another lease.
func (f *fixture) useLease(i *device.Issuance, l device.SerialLease) {
	i.Lease = l.LeaseRef
	i.Credential.ID, i.Credential.CertSerial = l.First, f.s.CertSerial(l, l.First)
}

// isPlain says that an error is of the caller's making, no refusal.
func isPlain(err error) bool {
	_, known := errors.AsType[*fault.Error](err)
	return err != nil && !known && !errors.Is(err, device.ErrStale)
}

func testRenewal(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	d := f.device("SN-1")
	f.add(d)
	first := f.issue(d.ID, "ldevid", "cloud")
	f.issue(d.ID, "ldevid", "service")
	now := f.load(d.ID)
	i := f.issuance(&now, "ldevid", "cloud")
	i.Credential.SPKIDigest, i.SameKeyAs = first.SPKIDigest, first.ID
	i.Credential.NotAfter = f.now.AddDate(0, 2, 0)
	second, err := f.s.StoreIssuance(t.Context(), i)
	f.ok(err)
	if s := f.credential(first.ID).State; s != device.Superseded {
		t.Errorf("the renewed credential has state %d", s)
	}
	if got := f.load(d.ID).Current[device.LDevIDSlot("cloud")]; got != second.ID || len(f.load(d.ID).Current) != 2 {
		t.Errorf("slots %v after renewal with %d", f.load(d.ID).Current, second.ID)
	}
	newest, err := f.s.CredentialBySPKI(t.Context(), access.Everything(), first.SPKIDigest)
	f.ok(err)
	f.same(second, newest)
	f.counts(map[device.State]int64{device.Active: 1}, map[device.CredentialState]int64{device.Issued: 2, device.Superseded: 1})
	live, err := f.s.Expiring(t.Context(), access.Everything(), 0, 1<<30)
	f.ok(err)
	f.same([]device.ExpiryCount{{Product: 1, Day: f.now.AddDate(0, 0, 30).Unix() / 86400, Count: 1}, {Product: 1, Day: f.now.AddDate(0, 2, 0).Unix() / 86400, Count: 1}}, live)
	// The key is the second's now: the first cannot pass it on again.
	now = f.load(d.ID)
	i = f.issuance(&now, "ldevid", "cloud")
	i.Credential.SPKIDigest, i.SameKeyAs = first.SPKIDigest, first.ID
	_, err = f.s.StoreIssuance(t.Context(), i)
	if conflict, ok := errors.AsType[*device.KeyConflict](err); !ok || conflict.Existing.ID != second.ID {
		t.Errorf("the key of %d was passed on again: %v", first.ID, err)
	}
	// A stale renewal with the same key leaves the key where it was.
	i.SameKeyAs, i.Change.Version = second.ID, now.Version-1
	if _, err = f.s.StoreIssuance(t.Context(), i); !errors.Is(err, device.ErrStale) {
		t.Error(err)
	}
	newest, err = f.s.CredentialBySPKI(t.Context(), access.Everything(), first.SPKIDigest)
	f.ok(err)
	f.same(second, newest)
}

func testApprovedIssuance(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	d, e := f.device("SN-1"), f.device("SN-2")
	f.add(d, e)
	id, err := f.s.AddApproval(t.Context(), access.Approval{
		Kind: "certificate.issue", Params: []byte("{}"), Requester: "device:1", State: access.Waiting, RequestedAt: f.now, ExpiresAt: f.now.Add(time.Hour),
	}, f.entry("asked"))
	f.ok(err)
	i := f.issuance(&d, "idevid", "")
	i.Approval = id
	if _, err := f.s.StoreIssuance(t.Context(), i); !errors.Is(err, device.ErrStale) {
		t.Fatalf("issued while the approval waits: %v", err)
	}
	a, err := f.s.Approval(t.Context(), id)
	f.ok(err)
	a.State, a.DecidedBy, a.DecidedAt = access.Approved, "operator:ann", f.now
	f.ok(f.s.MoveApproval(t.Context(), a, access.Waiting, f.entry("approved")))
	stale := i
	change := *i.Change
	stale.Change = &change
	stale.Change.Version++
	if _, err := f.s.StoreIssuance(t.Context(), stale); !errors.Is(err, device.ErrStale) {
		t.Fatal(err)
	}
	_, err = f.s.StoreIssuance(t.Context(), i)
	f.ok(err)
	again := f.issuance(&e, "idevid", "")
	again.Approval = id
	if _, err := f.s.StoreIssuance(t.Context(), again); !errors.Is(err, device.ErrStale) {
		t.Errorf("an approval was executed twice: %v", err)
	}
	if a, err := f.s.Approval(t.Context(), id); err != nil || a.State != access.Executed {
		t.Errorf("approval %+v, %v", a, err)
	}
}

// model is what the register must be after issuances that were acknowledged.
type model struct {
	mu       sync.Mutex
	stored   []device.Credential
	keys     map[[32]byte]device.CredentialID
	versions map[device.ID]int64 // successful changes
	refused  map[string]int
}

func testConcurrentIssuances(t *testing.T, open Open) { Concurrent(t, open(t)) }

// Concurrent lets many callers issue for the same devices and keys, through all
// nodes of one database, and compares the register with a model.
func Concurrent(t *testing.T, nodes ...*store.Store) {
	f := newFixture(t, nodes[0])
	const callers, rounds = 160, 8 // more than wait for one group
	var ids []device.ID
	for n := range 100 {
		d := f.device(fmt.Sprintf("SN-%d", n))
		f.add(d)
		ids = append(ids, d.ID)
	}
	m := &model{keys: make(map[[32]byte]device.CredentialID), versions: make(map[device.ID]int64), refused: make(map[string]int)}
	var making sync.Mutex
	var wg sync.WaitGroup
	for caller := range callers {
		r := rand.New(rand.NewPCG(uint64(caller), 7))
		s := nodes[caller%len(nodes)]
		wg.Go(func() {
			for range rounds {
				d, err := s.Device(t.Context(), access.Everything(), ids[r.IntN(len(ids))])
				if err != nil {
					t.Error(err)
					return
				}
				if r.IntN(40) == 0 {
					m.update(f, d)
					continue
				}
				if caller == 0 {
					f.bump(r)
				}
				making.Lock()
				i := f.issuance(&d, "ldevid", [...]string{"a", "b"}[r.IntN(2)])
				making.Unlock()
				// A small pool of keys, so that many meet.
				i.Credential.SPKIDigest = [32]byte{byte(r.IntN(250)), byte(r.IntN(4)), 1}
				got, err := s.StoreIssuance(t.Context(), i)
				m.outcome(t, i, got, err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d stored, refused %v", len(m.stored), m.refused)
	if len(m.stored) == 0 || m.refused["stale"] == 0 || m.refused["conflict"] == 0 {
		t.Error("the callers did not meet; the test shows nothing")
	}
	f.ok(f.s.FenceNode(t.Context(), f.s.Node(), f.now)) // closes all blocks
	m.check(f, ids)
	m.checkLedger(f)
}

// update changes a device beside the issuances.
func (m *model) update(f *fixture, d device.Device) {
	d.ChangedAt = f.now
	err := f.s.UpdateDevice(f.Context(), access.Everything(), d, f.entry("update"))
	switch {
	case err == nil:
		m.mu.Lock()
		m.versions[d.ID]++
		m.mu.Unlock()
	case !errors.Is(err, device.ErrStale):
		f.Error(err)
	}
}

// bump changes the control plane.
func (f *fixture) bump(r *rand.Rand) {
	_, err := f.s.AddProduct(f.Context(), device.Product{Name: fmt.Sprint("P", r.Uint64()), CreatedAt: f.now}, f.entry("product"))
	if err != nil {
		f.Error(err)
	}
}

func (m *model) outcome(t *testing.T, i device.Issuance, got device.Credential, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	conflict, isConflict := errors.AsType[*device.KeyConflict](err)
	switch {
	case err == nil:
		if holder, taken := m.keys[i.Credential.SPKIDigest]; taken {
			t.Errorf("the key of credential %d was stored again for %d", holder, got.ID)
		}
		m.keys[i.Credential.SPKIDigest] = got.ID
		m.versions[i.Change.ID]++
		m.stored = append(m.stored, got)
	case isConflict:
		m.refused["conflict"]++
		if conflict.Existing.SPKIDigest != i.Credential.SPKIDigest || conflict.Existing.ID == i.Credential.ID {
			t.Errorf("conflict with credential %d, which has another key", conflict.Existing.ID)
		}
	case errors.Is(err, device.ErrStale):
		m.refused["stale"]++
	default:
		t.Error(err)
	}
}

func (m *model) check(f *fixture, ids []device.ID) {
	var indexes []int64
	issuedFor := make(map[string]int)
	newest := make(map[device.ID]map[device.Slot]device.CredentialID)
	slices.SortFunc(m.stored, func(a, b device.Credential) int { return int(a.AuthorityIndex - b.AuthorityIndex) })
	live := int64(0)
	for _, c := range m.stored {
		indexes = append(indexes, c.AuthorityIndex)
		stored := f.credential(c.ID)
		if stored.State == device.Issued {
			live++
		}
		stored.State = c.State
		f.same(c, stored)
		issuedFor[fmt.Sprint(c.Device, c.Slot(), c.Previous)]++
		if newest[c.Device] == nil {
			newest[c.Device] = make(map[device.Slot]device.CredentialID)
		}
		newest[c.Device][c.Slot()] = c.ID
	}
	for n, index := range indexes {
		if int64(n) != index {
			f.Fatalf("authority indexes %v", indexes)
		}
	}
	for what, n := range issuedFor {
		if n > 1 {
			f.Errorf("%d certificates follow the same one: %s", n, what)
		}
	}
	slots := 0
	for _, id := range ids {
		d := f.load(id)
		if d.Version != 1+m.versions[id] {
			f.Errorf("device %v has version %d after %d changes", id, d.Version, m.versions[id])
		}
		if !maps.Equal(d.Current, newest[id]) {
			f.Errorf("device %v has slots %v, want %v", id, d.Current, newest[id])
		}
		slots += len(d.Current)
	}
	if live != int64(slots) {
		f.Errorf("%d credentials are live in %d slots", live, slots)
	}
	all, _, err := walked(f.Context(), func(after string) ([]device.Credential, string, error) {
		return f.s.Credentials(f.Context(), access.Everything(), device.CredentialQuery{After: after, Limit: 1000})
	})
	f.ok(err)
	if len(all) != len(m.stored) {
		f.Errorf("%d credentials in the register, %d were acknowledged", len(all), len(m.stored))
	}
}

// checkLedger compares the leaves: numbered without gaps, one for each
// certificate, and what was leased is stored or abandoned.
func (m *model) checkLedger(f *fixture) {
	stored := make(map[int64]bool)
	for _, c := range m.stored {
		stored[int64(c.ID)] = true
	}
	issued := 0
	leased, gone := int64(0), int64(0)
	for _, leaf := range f.leaves() {
		var l struct {
			Kind ledger.Kind
			Body struct {
				Count     int64
				Abandoned [][2]int64
			}
		}
		f.ok(json.Unmarshal(leaf, &l))
		switch l.Kind {
		case ledger.CertificateIssued:
			issued++
		case ledger.SerialsLeased:
			leased += l.Body.Count
		case ledger.SerialsClosed:
			for _, r := range l.Body.Abandoned {
				gone += r[1] - r[0] + 1
				for id := r[0]; id <= r[1]; id++ {
					if stored[id] {
						f.Errorf("credential %d is stored and abandoned", id)
					}
				}
			}
		}
	}
	if issued != len(m.stored) {
		f.Errorf("%d leaves of certificates, %d were acknowledged", issued, len(m.stored))
	}
	if leased != gone+int64(len(m.stored)) {
		f.Errorf("%d leased, %d stored, %d abandoned", leased, len(m.stored), gone)
	}
}

// leaves reads the whole ledger and checks its numbers.
func (f *fixture) leaves() [][]byte {
	f.Helper()
	var all [][]byte
	for size := f.size(); int64(len(all)) < size; {
		batches, err := f.s.LedgerBatches(f.Context(), int64(len(all)), ^ledger.Class(0), 100)
		f.ok(err)
		if len(batches) == 0 {
			f.Fatalf("the ledger has %d leaves and ends after %d", size, len(all))
		}
		for _, b := range batches {
			if b.First != int64(len(all)) {
				f.Fatalf("a batch starts at %d after %d leaves", b.First, len(all))
			}
			all = append(all, b.Leaves...)
		}
	}
	return all
}

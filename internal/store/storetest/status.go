package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/status"
)

func revocation(f *fixture, c device.Credential, reason int) status.Revocation {
	return status.Revocation{
		Credential: c.ID, CertSerial: c.CertSerial, Authority: c.Authority, Shard: int(c.ID) % 2,
		At: f.now, Reason: reason, NotAfter: c.NotAfter,
	}
}

func (f *fixture) revoked(authority int64, shard int) []status.Revocation {
	f.Helper()
	list, err := f.s.Revocations(f.Context(), authority, shard, 0, 1000)
	f.ok(err)
	return list
}

func testRevoke(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	f.add(f.device("SN-1"))
	id := f.s.DeviceID("SN-1")
	c := f.issue(id, "idevid", "")
	version := f.load(id).Version
	revoke := func(reason int) error {
		return f.adds(1, func(e ...ledger.Entry) error {
			return f.s.Revoke(t.Context(), access.Everything(), revocation(f, c, reason), e...)
		})
	}
	f.ok(revoke(1))
	want := c
	want.State, want.Reason, want.RevokedAt = device.Revoked, 1, f.now
	f.same(want, f.credential(c.ID))
	if got := f.load(id).Version; got != version+1 {
		t.Errorf("the device's version went from %d to %d", version, got)
	}
	f.same([]status.Revocation{revocation(f, c, 1)}, f.revoked(1, int(c.ID)%2))
	f.refused(revoke(1), fault.AlreadyRevoked)
	f.refused(revoke(6), fault.AlreadyRevoked)
	f.refused(f.s.Release(t.Context(), access.Everything(), c.ID, f.entry("")), fault.NotOnHold)
	ghost := c
	ghost.ID += 100
	f.refused(f.s.Revoke(t.Context(), access.Everything(), revocation(f, ghost, 1), f.entry("")), fault.CredentialUnknown)
}

func testPruneRevocations(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	f.add(f.device("SN-1"))
	var rows []status.Revocation
	for i := range 4 {
		c := f.issue(f.s.DeviceID("SN-1"), "ldevid", fmt.Sprint("purpose-", i))
		rows = append(rows, revocation(f, c, 1))
		rows[i].Shard = 0
		f.ok(f.s.Revoke(t.Context(), access.Everything(), rows[i], f.entry("")))
	}
	prune := func(shard int, before time.Time, rows ...status.Revocation) {
		var ids []device.CredentialID
		for _, r := range rows {
			ids = append(ids, r.Credential)
		}
		f.ok(f.s.PruneRevocations(t.Context(), 1, shard, before, ids))
	}
	ended := rows[0].NotAfter.Add(time.Second)
	prune(0, rows[0].NotAfter, rows...) // not before its end
	prune(1, ended, rows...)            // another list's
	prune(0, ended)
	f.same(rows, f.revoked(1, 0))
	prune(0, ended, rows[0], rows[2], rows[0])
	f.same([]status.Revocation{rows[1], rows[3]}, f.revoked(1, 0))
	if c := f.credential(rows[0].Credential); c.State != device.Revoked {
		t.Errorf("the certificate is %v", c.State)
	}
	f.refused(f.s.Revoke(t.Context(), access.Everything(), rows[0], f.entry("")), fault.AlreadyRevoked)
}

// The ledger misses no row that went a day after its certificate's end, and
// every row that went before.
func testPrunedIsVerified(t *testing.T, open Open) {
	f := lived(t, open)
	gone := f.revoked(1, 0)[0]
	end := gone.NotAfter.Add(time.Second)
	f.ok(f.s.PruneRevocations(t.Context(), 1, 0, end, []device.CredentialID{gone.Credential}))
	if _, err := f.verify(); err == nil {
		t.Error("nothing is said of a row that went too early")
	}
	f.now = end.Add(24 * time.Hour)
	f.verifies()
}

func testHold(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	f.add(f.device("SN-1"))
	id := f.s.DeviceID("SN-1")
	hold := func(c device.Credential) {
		t.Helper()
		f.ok(f.s.Revoke(t.Context(), access.Everything(), revocation(f, c, 6), f.entry("")))
		if got := f.credential(c.ID); got.State != device.Held || got.Reason != 6 {
			t.Errorf("held is %+v", got)
		}
	}
	release := func(c device.Credential, want device.CredentialState) {
		t.Helper()
		version := f.load(id).Version
		f.ok(f.adds(1, func(e ...ledger.Entry) error { return f.s.Release(t.Context(), access.Everything(), c.ID, e...) }))
		got := f.credential(c.ID)
		if got.State != want || got.Reason != 0 || !got.RevokedAt.IsZero() || f.load(id).Version != version+1 {
			t.Errorf("released is %+v", got)
		}
		if list := f.revoked(1, int(c.ID)%2); len(list) != 0 {
			t.Errorf("still on the list: %v", list)
		}
	}
	first := f.issue(id, "idevid", "")
	hold(first)
	f.refused(f.s.Revoke(t.Context(), access.Everything(), revocation(f, first, 6), f.entry("")), fault.AlreadyRevoked)
	release(first, device.Issued)
	f.ok(f.s.Confirm(t.Context(), device.Confirmation{ID: first.ID, At: f.now}, f.entry("")))
	hold(first)
	release(first, device.Confirmed)
	hold(first)
	second := f.issue(id, "idevid", "") // replaces it while it is held
	release(first, device.Superseded)
	hold(first)
	release(first, device.Superseded)
	hold(second)
	f.ok(f.s.Revoke(t.Context(), access.Everything(), revocation(f, second, 1), f.entry("")))
	f.same([]status.Revocation{revocation(f, second, 1)}, f.revoked(1, int(second.ID)%2))
	counts, err := f.s.Counts(t.Context(), access.Everything())
	f.ok(err)
	f.same(map[device.CredentialState]int64{device.Superseded: 1, device.Revoked: 1}, counts.Credentials)
}

func testRevokeMakesStale(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	f.add(f.device("SN-1"))
	id := f.s.DeviceID("SN-1")
	c := f.issue(id, "idevid", "")
	refused := func(decided device.Issuance) {
		t.Helper()
		if _, err := f.s.StoreIssuance(t.Context(), decided); !errors.Is(err, device.ErrStale) {
			t.Errorf("what was decided before is stored: %v", err)
		}
	}
	decide := func() device.Issuance {
		d := f.load(id)
		return f.issuance(&d, "ldevid", "cloud")
	}
	before := decide()
	f.ok(f.s.Revoke(t.Context(), access.Everything(), revocation(f, c, 6), f.entry("")))
	refused(before)
	before = decide()
	f.ok(f.s.Release(t.Context(), access.Everything(), c.ID, f.entry("")))
	refused(before)
	before = decide()
	d := f.load(id)
	f.ok(f.s.UpdateDevice(t.Context(), access.Everything(), d, f.entry("")))
	refused(before)
	// An authority's own certificate has no device: its end raises the epoch.
	ours := f.issue(0, "issuing", "")
	before = decide()
	f.ok(f.s.Revoke(t.Context(), access.Everything(), revocation(f, ours, 5), f.entry("")))
	refused(before)
	before = decide()
	f.ok(f.s.SetLabel(t.Context(), authority.Label{Name: "l"}, f.entry("")))
	refused(before)
	if _, err := f.s.StoreIssuance(t.Context(), decide()); err != nil {
		t.Error(err)
	}
}

func testRevocations(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	f.ok(f.s.Seed(t.Context(), seedConfig(f, 60, 60)))
	want := map[int][]device.CredentialID{}
	for id := range device.CredentialID(60) {
		c := f.credential(id + 1)
		f.ok(f.s.Revoke(t.Context(), access.Everything(), revocation(f, c, 1), f.entry("")))
		want[int(c.ID)%2] = append(want[int(c.ID)%2], c.ID)
	}
	for shard := range 2 {
		var got []device.CredentialID
		for after := device.CredentialID(0); ; {
			list, err := f.s.Revocations(t.Context(), 1, shard, after, 7)
			f.ok(err)
			if len(list) == 0 {
				break
			}
			for _, r := range list {
				f.same(revocation(f, f.credential(r.Credential), 1), r)
				got = append(got, r.Credential)
			}
			after = list[len(list)-1].Credential
		}
		f.same(want[shard], got)
	}
	if list := f.revoked(2, 0); len(list) != 0 {
		t.Errorf("of another authority: %v", list)
	}
}

func (f *fixture) hold(job string) ledger.Lease {
	f.Helper()
	l, ok, err := f.s.AcquireLease(f.Context(), job, f.s.Node(), 60)
	if err != nil || !ok {
		f.Fatalf("lease %s: %v", job, err)
	}
	return l
}

func testCRLNumbers(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	f.ok(f.s.Install(t.Context(), authority.Installation{Organization: "Acme", RestoreEpoch: 3, CreatedAt: f.now}, f.entry("")))
	var mu sync.Mutex
	seen := map[int64]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for last := int64(0); ; {
				n, _, err := f.s.ReserveCRLNumber(t.Context(), 1, 0)
				if err != nil || n <= last || n>>32 != 3 {
					t.Errorf("number %d after %d: %v", n, last, err)
					return
				}
				last = n
				mu.Lock()
				twice, all := seen[n], len(seen)
				seen[n] = true
				mu.Unlock()
				if twice {
					t.Errorf("number %d twice", n)
				}
				if all > 80 {
					return
				}
			}
		})
	}
	wg.Wait()
	n, _, err := f.s.ReserveCRLNumber(t.Context(), 1, 1)
	f.ok(err)
	if n != 3<<32+1 {
		t.Errorf("the first number of another shard is %d", n)
	}
}

func testSaveCRL(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	_, err := f.s.CurrentCRL(t.Context(), 1, 0)
	f.refused(err, fault.CRLUnknown)
	_, err = f.s.CurrentCRLNumber(t.Context(), 1, 0)
	f.refused(err, fault.CRLUnknown)
	lease := f.hold("crl")
	r := rand.NewChaCha8([32]byte{1})
	var last status.CRL
	for i, size := range []int{700, 512 << 10, 3<<20 + 17, 0, 2 << 20, 900} {
		number, notBefore, err := f.s.ReserveCRLNumber(t.Context(), 1, 0)
		f.ok(err)
		if !notBefore.Equal(last.ThisUpdate) {
			t.Errorf("thisUpdate must not be before %v, want %v", notBefore, last.ThisUpdate)
		}
		c := status.CRL{Authority: 1, Number: number, ThisUpdate: f.now.Add(time.Duration(i) * time.Minute), NextUpdate: f.now.AddDate(0, 0, 1), Entries: i, DER: make([]byte, size)}
		_, _ = r.Read(c.DER)
		f.ok(f.adds(1, func(e ...ledger.Entry) error { return f.s.SaveCRL(t.Context(), c, lease, e...) }))
		f.sameCRL(c)
		f.refused(f.s.SaveCRL(t.Context(), c, lease, f.entry("")), fault.NodeFenced)
		old := c
		old.Number, old.DER = c.Number+1, []byte("older")
		old.ThisUpdate = c.ThisUpdate.Add(-time.Second)
		f.refused(f.s.SaveCRL(t.Context(), old, lease, f.entry("")), fault.NodeFenced)
		f.sameCRL(c)
		last = c
	}
	gone := lease
	gone.Fence++
	next := last
	next.Number, next.DER = last.Number+1, make([]byte, 1<<20)
	f.refused(f.s.SaveCRL(t.Context(), next, gone, f.entry("")), fault.NodeFenced)
	f.sameCRL(last)
	f.readWhileSaving(last, lease)
}

func (f *fixture) sameCRL(want status.CRL) {
	f.Helper()
	got, err := f.s.CurrentCRL(f.Context(), want.Authority, want.Shard)
	f.ok(err)
	if !bytes.Equal(want.DER, got.DER) {
		f.Errorf("a list of %d octets comes back with %d, or others", len(want.DER), len(got.DER))
	}
	want.DER, got.DER = nil, nil
	f.same(want, got)
	got, err = f.s.CurrentCRLNumber(f.Context(), want.Authority, want.Shard)
	f.ok(err)
	f.same(want, got)
}

// readWhileSaving publishes lists each of one octet value, while others read:
// never a mixture.
func (f *fixture) readWhileSaving(last status.CRL, lease ledger.Lease) {
	f.Helper()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := f.s.CurrentCRL(f.Context(), 1, 0)
				if err != nil {
					f.Error(err)
					return
				}
				if n := bytes.Count(c.DER, c.DER[:1]); c.Number > last.Number && (n != len(c.DER) || int(c.DER[0]) != int(c.Number-last.Number)) {
					f.Errorf("list %d is a mixture", c.Number)
					return
				}
			}
		})
	}
	for i := range 6 {
		c := last
		c.Number += int64(i + 1)
		c.DER = bytes.Repeat([]byte{byte(i + 1)}, 1<<20+i)
		f.ok(f.s.SaveCRL(f.Context(), c, lease, f.entry("")))
	}
	close(stop)
	wg.Wait()
}

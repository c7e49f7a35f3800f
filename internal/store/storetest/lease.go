package storetest

import (
	"bytes"
	"encoding/json"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

func testCertSerials(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	c := f.issue(0, "tls-server", "")
	seen := make(map[string]bool)
	var leads [256]int
	for range 2 {
		l, err := f.s.LeaseSerials(t.Context(), "two", 1000, f.now)
		f.ok(err)
		for n := range l.Count {
			id := l.First + device.CredentialID(n)
			certSerial := f.s.CertSerial(l, id)
			if len(certSerial) != 17 || certSerial[0] == 0 || certSerial[0] > 0x7f {
				t.Fatalf("certificate serial %x", certSerial)
			}
			if seen[string(certSerial)] {
				t.Fatalf("certificate serial %x twice", certSerial)
			}
			seen[string(certSerial)] = true
			leads[certSerial[1]]++
			if !bytes.Equal(certSerial, f.s.CertSerial(l, id)) {
				t.Fatal("one id, two certificate serials")
			}
		}
	}
	for octet, n := range leads {
		if n > 60 { // 2,000 draws of 256: 7.8 on average
			t.Errorf("%d of 2000 certificate serials go on with %02x", n, octet)
		}
	}
	for _, wrong := range [][]byte{nil, {1}, c.CertSerial[:16], append([]byte{0}, c.CertSerial...), append([]byte{c.CertSerial[0] + 1}, c.CertSerial[1:]...)} {
		_, err := f.s.CredentialBySerial(t.Context(), access.Everything(), wrong)
		f.refused(err, fault.CredentialUnknown)
	}
	for bit := range 8 * len(c.CertSerial) {
		wrong := bytes.Clone(c.CertSerial)
		wrong[bit/8] ^= 1 << (bit % 8)
		_, err := f.s.CredentialBySerial(t.Context(), access.Everything(), wrong)
		f.refused(err, fault.CredentialUnknown)
	}
	got, err := f.s.CredentialBySerial(t.Context(), access.Everything(), c.CertSerial)
	f.ok(err)
	f.same(c, got)
	// A serial that opens to the row's id but was made of another seed.
	other := f.lease
	other.Seed[0] ^= 1
	_, err = f.s.CredentialBySerial(t.Context(), access.Everything(), f.s.CertSerial(other, c.ID))
	f.refused(err, fault.CredentialUnknown)
}

func testLeasesApart(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	var mu sync.Mutex
	var all []device.SerialLease
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for n := range 5 {
				l, err := f.s.LeaseSerials(t.Context(), "two", 10+n, f.now)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				all = append(all, l)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.SortFunc(all, func(a, b device.SerialLease) int { return int(a.First - b.First) })
	next := device.CredentialID(1)
	seeds := make(map[[32]byte]bool)
	for _, l := range all {
		if l.First != next || seeds[l.Seed] {
			t.Fatalf("a block starts at %d, want %d; its seed is known: %v", l.First, next, seeds[l.Seed])
		}
		next += device.CredentialID(l.Count)
		seeds[l.Seed] = true
	}
	for _, count := range []int{0, -1, 1 << 20} {
		if _, err := f.s.LeaseSerials(t.Context(), "two", count, f.now); err == nil {
			t.Errorf("a block of %d", count)
		}
	}
}

func testAbandoned(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	f.issue(0, "tls-server", "")
	f.issuance(nil, "tls-server", "") // id 2: never stored
	f.issue(0, "tls-server", "")
	f.issue(0, "tls-server", "")
	size := f.size()
	f.ok(f.s.CloseLease(t.Context(), f.lease.LeaseRef, f.now))
	f.ok(f.s.CloseLease(t.Context(), f.lease.LeaseRef, f.now))
	if f.size() != size+1 {
		t.Errorf("closing twice added %d leaves", f.size()-size)
	}
	var leaf struct {
		Kind ledger.Kind
		Body struct{ Abandoned [][2]int64 }
	}
	f.ok(json.Unmarshal(f.leaves()[size], &leaf))
	first := int64(f.lease.First)
	f.same([][2]int64{{first + 1, first + 1}, {first + 4, first + int64(f.lease.Count) - 1}}, leaf.Body.Abandoned)
	if leaf.Kind != ledger.SerialsClosed {
		t.Errorf("leaf %s", leaf.Kind)
	}
}

func testFencedNode(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	node := f.s.Node()
	f.ok(f.s.FenceNode(t.Context(), node, f.now))
	left := f.issuance(nil, "tls-server", "")
	other, err := f.s.LeaseSerials(t.Context(), "two", 8, f.now)
	f.ok(err)
	f.ok(f.s.FenceNode(t.Context(), node, f.now))
	_, err = f.s.StoreIssuance(t.Context(), left)
	f.refused(err, fault.NodeFenced)
	f.used = f.lease.Count
	f.issue(0, "tls-server", "") // under a block of the new run
	i := f.issuance(nil, "tls-server", "")
	f.useLease(&i, other)
	_, err = f.s.StoreIssuance(t.Context(), i) // another node's blocks stay open
	f.ok(err)
}

func testJobLease(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	acquire := func(node string, ttl int) (ledger.Lease, bool) {
		l, ok, err := f.s.AcquireLease(t.Context(), "sequencer", node, ttl)
		f.ok(err)
		return l, ok
	}
	first, ok := acquire("two", 3600)
	if !ok || first.Fence == 0 {
		t.Fatalf("%+v, %v", first, ok)
	}
	if renewed, ok := acquire("two", 3600); !ok || renewed != first {
		t.Errorf("renewed as %+v, %v", renewed, ok)
	}
	if l, ok := acquire("three", 3600); ok {
		t.Errorf("a second holder: %+v", l)
	}
	f.ok(f.s.SaveTiles(t.Context(), nil, ledger.Checkpoint{Size: 1, Note: []byte("a")}, first))
	acquire("two", -1) // given up
	second, ok := acquire("three", 3600)
	if !ok || second.Fence <= first.Fence {
		t.Errorf("after it ran out: %+v, %v", second, ok)
	}
	f.refused(f.s.SaveTiles(t.Context(), nil, ledger.Checkpoint{Size: 2, Note: []byte("b")}, first), fault.NodeFenced)
	// A restarted node does not wait for itself.
	acquire("three", -1)
	own, ok := acquire(f.s.Node(), 3600)
	if !ok {
		t.Fatal("not free")
	}
	f.ok(f.s.FenceNode(t.Context(), f.s.Node(), f.now))
	next, ok := acquire(f.s.Node(), 3600)
	if !ok || next.Fence <= own.Fence {
		t.Errorf("after a restart: %+v, %v; before: %+v", next, ok, own)
	}
	f.refused(f.s.SaveTiles(t.Context(), nil, ledger.Checkpoint{Size: 2, Note: []byte("b")}, own), fault.NodeFenced)
}

func testClockMark(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	mark := func(want time.Time) {
		t.Helper()
		got, err := f.s.ClockMark(t.Context())
		f.ok(err)
		if !got.Equal(want) {
			t.Errorf("mark %v, want %v", got, want)
		}
	}
	mark(time.Time{})
	f.ok(f.s.SaveClockMark(t.Context(), f.now))
	f.ok(f.s.SaveClockMark(t.Context(), f.now.Add(-time.Hour)))
	mark(f.now)
	f.ok(f.s.SaveClockMark(t.Context(), f.now.Add(time.Hour)))
	mark(f.now.Add(time.Hour))
	f.ok(f.s.AcceptClock(t.Context(), f.now, f.entry("accepted")))
	mark(f.now)
}

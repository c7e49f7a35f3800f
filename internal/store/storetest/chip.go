package storetest

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/store"
)

// chip is the n-th of a test, as entry e of its manifest.
func (l *line) chip(n, e int) factory.Chip {
	uid := fmt.Sprintf("0123%08xee", n)
	return factory.Chip{
		ID: l.s.ChipID("microchip", uid), Vendor: "microchip", UID: uid, ChipType: "ATECC608B", Entry: int64(e), State: factory.ChipListed,
		Keys: []factory.ChipKey{
			{Slot: "0", SPKI: fmt.Appendf(nil, "key %d", n), Chain: [][]byte{[]byte("leaf"), []byte("signer")}, VendorProof: true},
			{Slot: "2", SPKI: fmt.Appendf(nil, "second key %d", n)},
		},
	}
}

// chipRange is so many chips from the n-th on, as entries from the first on.
func (l *line) chipRange(n, first, count int) []factory.Chip {
	chips := make([]factory.Chip, count)
	for i := range chips {
		chips[i] = l.chip(n+i, first+i)
	}
	return chips
}

func (l *line) newManifest(name string) factory.Manifest {
	return factory.Manifest{
		Name: name, Format: "microchip", Digest: sha256.Sum256([]byte(name)), Importer: "operator:ann", ImportedAt: l.now,
		Findings: []string{"a remark"},
	}
}

func (l *line) begin(name string) factory.Manifest {
	l.Helper()
	m, err := l.s.BeginManifest(l.Context(), l.newManifest(name), l.entry(""))
	l.ok(err)
	return m
}

func (l *line) stage(m *factory.Manifest, chips []factory.Chip) {
	l.Helper()
	for some := range slices.Chunk(chips, 500) {
		duplicates, err := l.s.StageChips(l.Context(), m.ID, some)
		l.ok(err)
		if len(duplicates) > 0 {
			l.Fatalf("duplicates %+v", duplicates)
		}
		m.Chips += int64(len(some))
	}
}

func (l *line) publish(m *factory.Manifest) {
	l.Helper()
	l.ok(l.adds(1, func(e ...ledger.Entry) error { return l.s.PublishManifest(l.Context(), *m, e...) }))
	m.Visible = true
}

// imported is a published manifest with these chips.
func (l *line) imported(name string, chips []factory.Chip) factory.Manifest {
	l.Helper()
	m := l.begin(name)
	l.stage(&m, chips)
	l.publish(&m)
	return m
}

// sees checks that chips are seen in every way, or in none. Of many it looks at
// some.
func (l *line) sees(chips []factory.Chip, manifest int64, seen bool) {
	l.Helper()
	ctx := l.Context()
	for i := 0; i < len(chips); i += 1 + len(chips)/40 {
		want := chips[i]
		want.Manifest = manifest
		check := func(way string, got factory.Chip, err error) {
			l.Helper()
			if !seen {
				if !fault.Has(err, fault.ChipUnknown) {
					l.Errorf("an invisible chip is found by %s: %v", way, err)
				}
				return
			}
			if err != nil {
				l.Fatalf("by %s: %v", way, err)
			}
			l.same(want, got)
		}
		got, err := l.s.Chip(ctx, want.ID)
		check("id", got, err)
		for _, k := range want.Keys {
			got, err = l.s.ChipByKey(ctx, sha256.Sum256(k.SPKI))
			check("key "+k.Slot, got, err)
		}
		found, err := l.s.FindChips(ctx, strings.ToUpper(want.UID))
		l.ok(err)
		if seen {
			l.same([]factory.Chip{want}, found)
		} else if len(found) > 0 {
			l.Errorf("an invisible chip is found by UID: %+v", found)
		}
	}
}

func (l *line) manifest(id int64) factory.Manifest {
	l.Helper()
	m, err := l.s.Manifest(l.Context(), id)
	l.ok(err)
	return m
}

func testManifest(t *testing.T, open Open) {
	l := newLine(t, open)
	ctx := t.Context()
	var m factory.Manifest
	l.ok(l.adds(1, func(e ...ledger.Entry) (err error) {
		m, err = l.s.BeginManifest(ctx, l.newManifest("a"), e...)
		return err
	}))
	want := l.newManifest("a")
	want.ID = m.ID
	l.same(want, m)
	chips := l.chipRange(0, 1, 1200)
	chips[3].Keys, chips[3].State = nil, factory.ChipNotProvable
	chips[4].Product, chips[4].Vendor = l.product, "infineon"
	chips[4].ID = l.s.ChipID("infineon", chips[4].UID)
	chips[5].Keys[1] = chips[5].Keys[0] // one key in two slots is one key
	chips[5].Keys[1].Slot = "3"
	before := l.size()
	l.stage(&m, chips[:700])
	l.sees(chips[:20], m.ID, false)
	if got := l.manifest(m.ID); got.Chips != 700 || got.Visible {
		t.Errorf("while it is staged: %+v", got)
	}
	// Begun again it is the same one, and nothing is written.
	l.ok(l.adds(0, func(e ...ledger.Entry) error {
		again, err := l.s.BeginManifest(ctx, l.newManifest("a"), e...)
		if again.ID != m.ID || again.Visible || again.Chips != 700 {
			t.Errorf("begun again: %+v", again)
		}
		return err
	}))
	if err := l.s.PublishManifest(ctx, factory.Manifest{ID: m.ID, Chips: 1200}, l.entry("")); err == nil {
		t.Error("a manifest of which chips are missing was published")
	}
	l.stage(&m, chips[700:])
	if l.size() != before {
		t.Error("staging is in the ledger")
	}
	m.NotProvable, m.Signer, m.Product, m.Findings = 1, 3, l.product, []string{"another"}
	l.publish(&m)
	l.same(m, l.manifest(m.ID))
	l.sees(chips, m.ID, true)
	// Published again, and begun again, it is there already.
	l.ok(l.adds(0, func(e ...ledger.Entry) error { return l.s.PublishManifest(ctx, m, e...) }))
	l.ok(l.adds(0, func(e ...ledger.Entry) error {
		again, err := l.s.BeginManifest(ctx, l.newManifest("a"), e...)
		l.same(m, again)
		return err
	}))
	_, err := l.s.StageChips(ctx, m.ID, l.chipRange(5000, 2000, 1))
	l.refused(err, fault.ManifestUnknown)
	l.refused(l.s.DiscardManifest(ctx, m.ID, l.entry("")), fault.ManifestBusy)
	_, err = l.s.ChipByKey(ctx, [32]byte{1})
	l.refused(err, fault.ChipUnknown)
	_, err = l.s.Manifest(ctx, 99)
	l.refused(err, fault.ManifestUnknown)
	_, err = l.s.StageChips(ctx, 99, chips[:1])
	l.refused(err, fault.ManifestUnknown)
	l.refused(l.s.PublishManifest(ctx, factory.Manifest{ID: 99}, l.entry("")), fault.ManifestUnknown)
	l.refused(l.s.DiscardManifest(ctx, 99, l.entry("")), fault.ManifestUnknown)
}

func testDuplicates(t *testing.T, open Open) {
	l := newLine(t, open)
	ctx := t.Context()
	published := l.imported("published", l.chipRange(0, 1, 50))
	staged := l.begin("staged")
	l.stage(&staged, l.chipRange(100, 1, 50))
	m := l.begin("new")
	l.stage(&m, l.chipRange(200, 1, 50))
	withKey := func(c factory.Chip, of int) factory.Chip {
		c.Keys = slices.Clone(c.Keys)
		c.Keys[1].SPKI = l.chip(of, 1).Keys[1].SPKI
		return c
	}
	uid := func(n int) string { return l.chip(n, 1).UID }
	for name, c := range map[string]struct {
		chips []factory.Chip
		want  []factory.Duplicate
	}{
		"none":                        {nil, nil},
		"chip of a published one":     {[]factory.Chip{l.chip(300, 51), withKey(l.chip(7, 52), 301)}, []factory.Duplicate{{Index: 1, Manifest: published.ID, UID: uid(7)}, {Index: 1, Key: true, Manifest: published.ID, UID: uid(7)}}},
		"key of a published one":      {[]factory.Chip{withKey(l.chip(300, 51), 7), l.chip(301, 52)}, []factory.Duplicate{{Index: 0, Key: true, Manifest: published.ID, UID: uid(7)}}},
		"key of one that is staged":   {[]factory.Chip{l.chip(300, 51), withKey(l.chip(301, 52), 107)}, []factory.Duplicate{{Index: 1, Key: true, Manifest: staged.ID, UID: uid(107)}}},
		"key of its own manifest":     {[]factory.Chip{l.chip(300, 51), withKey(l.chip(301, 52), 207)}, []factory.Duplicate{{Index: 1, Key: true, Manifest: m.ID, UID: uid(207)}}},
		"key of the same call":        {[]factory.Chip{l.chip(300, 51), withKey(l.chip(301, 52), 300)}, []factory.Duplicate{{Index: 1, Key: true, Manifest: m.ID, UID: uid(300)}}},
		"after what is staged before": {[]factory.Chip{l.chip(249, 50), withKey(l.chip(301, 51), 207)}, []factory.Duplicate{{Index: 1, Key: true, Manifest: m.ID, UID: uid(207)}}},
	} {
		got, err := l.s.StageChips(ctx, m.ID, c.chips)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		t.Run(name, func(*testing.T) { l.same(c.want, got) })
	}
	for where, n := range map[string]int{"published": 7, "staged": 107, "its own": 207} {
		got, err := l.s.StageChips(ctx, m.ID, []factory.Chip{l.chip(300, 51), l.chip(n, 52)})
		l.ok(err)
		if len(got) != 3 || got[0].Index != 1 || got[0].UID != uid(n) {
			t.Errorf("a chip of %s with its keys: %+v", where, got)
		}
	}
	// Another vendor's chip of the same UID is another chip.
	other := l.chip(7, 51)
	other.Vendor, other.Keys = "infineon", nil
	l.stage(&m, []factory.Chip{other})
	if got := l.manifest(m.ID); got.Chips != 51 {
		t.Errorf("%d chips are staged: what was refused was stored", got.Chips)
	}
	l.publish(&m)
	found, err := l.s.FindChips(ctx, other.UID)
	l.ok(err)
	if len(found) != 2 {
		t.Errorf("%d chips of one UID", len(found))
	}
}

func testStageAgain(t *testing.T, open Open) {
	l := newLine(t, open)
	ctx := t.Context()
	m := l.begin("a")
	chips := l.chipRange(0, 1, 900)
	l.stage(&m, chips[:400])
	// Sent again from the start, in other pieces, it goes on where it stopped.
	for some := range slices.Chunk(chips, 300) {
		duplicates, err := l.s.StageChips(ctx, m.ID, some)
		l.ok(err)
		if len(duplicates) > 0 {
			t.Fatalf("%+v", duplicates)
		}
	}
	m.Chips = 900
	if got := l.manifest(m.ID).Chips; got != 900 {
		t.Fatalf("%d chips are staged", got)
	}
	for name, some := range map[string][]factory.Chip{
		"backward":  {l.chip(901, 902), l.chip(902, 901)},
		"twice":     {l.chip(901, 901), l.chip(902, 901)},
		"too many":  l.chipRange(1000, 901, 501),
		"old later": {l.chip(901, 901), l.chip(902, 3)},
	} {
		if _, err := l.s.StageChips(ctx, m.ID, some); !fault.Has(err, fault.ParameterInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	l.publish(&m)
	l.sees(chips, m.ID, true)
}

// testTwoImports runs imports that share a chip or a key at once, in pieces: at
// most one of them is published, and what one publishes is whole.
func testTwoImports(t *testing.T, open Open) {
	TwoImports(t, func(t *testing.T) (*store.Store, *store.Store) {
		s := open(t)
		return s, s
	})
}

// TwoImports is the same for two nodes on one database.
func TwoImports(t *testing.T, open func(t *testing.T) (one, two *store.Store)) {
	one, two := open(t)
	l := &line{fixture: newFixture(t, one)}
	r := rand.New(rand.NewPCG(7, 8))
	for round := range 12 {
		shared := l.chip(100_000+round, 1)
		var wg sync.WaitGroup
		var ids [2]int64
		var errs [2]error
		var lists [2][]factory.Chip
		for n, s := range []*store.Store{one, two} {
			chips := l.chipRange(10_000*n+500*round, 1, 300)
			at := r.IntN(300)
			if round%2 == 0 {
				shared.Entry = int64(at + 1)
				chips[at] = shared
			} else {
				chips[at].Keys[0] = shared.Keys[0]
			}
			lists[n] = chips
			wg.Go(func() { ids[n], errs[n] = importOn(l, s, fmt.Sprintf("%d of %d", n, round), chips) })
		}
		wg.Wait()
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Fatalf("round %d: not one of two imports of the same chip was published: %v, %v", round, errs[0], errs[1])
		}
		for n, err := range errs {
			if err != nil && !fault.Has(err, fault.ManifestDuplicate) {
				t.Errorf("round %d: %v", round, err)
			}
			if err == nil {
				l.sees(lists[n], ids[n], true)
				continue
			}
			l.ok(one.DiscardManifest(t.Context(), ids[n], l.entry("")))
		}
		for n, err := range errs {
			if err == nil { // the other one's end took nothing of it along
				l.sees(lists[n], ids[n], true)
			}
		}
	}
}

func importOn(l *line, s *store.Store, name string, chips []factory.Chip) (int64, error) {
	ctx := l.Context()
	m, err := s.BeginManifest(ctx, l.newManifest(name), l.entry(""))
	if err != nil {
		return 0, err
	}
	for some := range slices.Chunk(chips, 50) {
		duplicates, err := s.StageChips(ctx, m.ID, some)
		if err == nil && len(duplicates) > 0 {
			err = fault.New(fault.ManifestDuplicate)
		}
		if err != nil {
			return m.ID, err
		}
	}
	m.Chips = int64(len(chips))
	return m.ID, s.PublishManifest(ctx, m, l.entry(""))
}

func testDiscard(t *testing.T, open Open) {
	l := newLine(t, open)
	ctx := t.Context()
	chips := l.chipRange(0, 1, 1100)
	m := l.begin("a")
	l.stage(&m, chips)
	l.ok(l.adds(1, func(e ...ledger.Entry) error { return l.s.DiscardManifest(ctx, m.ID, e...) }))
	_, err := l.s.Manifest(ctx, m.ID)
	l.refused(err, fault.ManifestUnknown)
	_, err = l.s.StageChips(ctx, m.ID, l.chipRange(2000, 2000, 1))
	l.refused(err, fault.ManifestUnknown)
	l.refused(l.s.PublishManifest(ctx, m, l.entry("")), fault.ManifestUnknown)
	l.ok(l.adds(0, func(e ...ledger.Entry) error { return l.s.DiscardManifest(ctx, m.ID, e...) }))
	l.sees(chips[:10], m.ID, false)
	// Another file may list the same chips now, and then the first one may not.
	other := l.imported("b", chips)
	l.sees(chips[:10], other.ID, true)
	again := l.begin("a")
	if again.ID != m.ID || again.Chips != 0 {
		t.Errorf("begun after it was discarded: %+v", again)
	}
	duplicates, err := l.s.StageChips(ctx, again.ID, chips[:1])
	l.ok(err)
	if len(duplicates) != 3 {
		t.Errorf("%+v", duplicates)
	}
	l.ok(l.s.DiscardManifest(ctx, again.ID, l.entry("")))
	l.sees(chips, other.ID, true)
}

func testManifestLists(t *testing.T, open Open) {
	l := newLine(t, open)
	ctx := t.Context()
	var want []factory.Manifest
	for n := range 12 {
		m := l.begin(fmt.Sprint("m", n))
		l.stage(&m, l.chipRange(10*n, 1, 3))
		switch n % 3 {
		case 0:
			l.publish(&m)
		case 1:
			l.ok(l.s.DiscardManifest(ctx, m.ID, l.entry("")))
			continue
		}
		want = append(want, m)
	}
	slices.Reverse(want)
	got, pages, err := walked(ctx, func(after string) ([]factory.Manifest, string, error) {
		return l.s.Manifests(ctx, factory.Page{After: after, Limit: 3})
	})
	l.ok(err)
	l.same(want, got)
	if pages < 3 {
		t.Errorf("%d pages", pages)
	}
}

func testChipLists(t *testing.T, open Open) {
	l := newLine(t, open)
	ctx := t.Context()
	r := rand.New(rand.NewPCG(9, 10))
	var all []factory.Chip
	for n := range 3 {
		chips := l.chipRange(1000*n, 1, 150)
		for i := range chips {
			switch r.IntN(4) {
			case 0:
				chips[i].State, chips[i].Order = factory.ChipAllotted, 1+r.Int64N(2)
			case 1:
				chips[i].State = factory.ChipWithdrawn
			}
		}
		m := l.imported(fmt.Sprint("m", n), chips)
		for i := range chips {
			chips[i].Manifest = m.ID
		}
		all = append(all, chips...)
	}
	hidden := l.begin("hidden")
	l.stage(&hidden, l.chipRange(9000, 1, 10))
	slices.SortFunc(all, func(a, b factory.Chip) int { return cmp.Compare(a.ID, b.ID) })
	for range 100 {
		q := factory.ChipQuery{Manifest: max(0, r.Int64N(7)-2), State: factory.ChipState(max(0, r.IntN(8)-2)), Order: max(0, r.Int64N(5)-2)}
		q.Limit = 1 + r.IntN(80)
		var want []factory.Chip
		for _, c := range all {
			if (q.Manifest == 0 || q.Manifest == c.Manifest) && (q.State == 0 || q.State == c.State) && (q.Order == 0 || q.Order == c.Order) {
				want = append(want, c)
			}
		}
		got, _, err := walked(ctx, func(after string) ([]factory.Chip, string, error) {
			q.After = after
			return l.s.Chips(ctx, q)
		})
		l.ok(err)
		l.same(want, got)
	}
}

func testUpdateChip(t *testing.T, open Open) {
	l := newLine(t, open)
	ctx := t.Context()
	m := l.imported("a", l.chipRange(0, 1, 3))
	c := l.chip(1, 2)
	c.Manifest = m.ID
	update := func(from factory.ChipState) error {
		return l.adds(1, func(e ...ledger.Entry) error { return l.s.UpdateChip(ctx, c, from, e...) })
	}
	c.State, c.Order = factory.ChipAllotted, 7
	l.ok(update(factory.ChipListed))
	l.sees([]factory.Chip{c}, m.ID, true)
	if err := update(factory.ChipListed); !errors.Is(err, device.ErrStale) {
		t.Errorf("a change from another state: %v", err)
	}
	c.State, c.Order, c.Device = factory.ChipUsed, 0, 9
	l.ok(update(factory.ChipAllotted))
	l.sees([]factory.Chip{c, l.chip(0, 1)}, m.ID, true)
	c.ID = l.s.ChipID("microchip", "none")
	l.refused(update(factory.ChipListed), fault.ChipUnknown)
	staged := l.begin("b")
	l.stage(&staged, l.chipRange(10, 1, 1))
	c.ID = l.chip(10, 1).ID
	l.refused(update(factory.ChipListed), fault.ChipUnknown)
}

func testLapse(t *testing.T, open Open) {
	l := newLine(t, open)
	ctx := t.Context()
	chips := l.chipRange(0, 1, 30)
	for i := range chips {
		chips[i].State, chips[i].Order = factory.ChipAllotted, int64(1+i%3)
	}
	m := l.imported("a", chips)
	used := chips[0]
	used.State, used.Order, used.Device = factory.ChipUsed, 1, 5
	l.ok(l.s.UpdateChip(ctx, used, factory.ChipAllotted, l.entry("")))
	var counts []int
	given := make(map[int64]bool)
	for {
		n, err := l.s.LapseAllotted(ctx, 1, 4, l.now, func(ids []int64) []ledger.Entry {
			for _, id := range ids {
				given[id] = true
			}
			return []ledger.Entry{l.entry("lapse")}
		})
		l.ok(err)
		if n == 0 {
			break
		}
		counts = append(counts, n)
	}
	l.same([]int{4, 4, 1}, counts)
	for i := range chips {
		want := chips[i]
		if i == 0 {
			want = used
		} else if i%3 == 0 {
			want.State, want.Order = factory.ChipListed, 0
			if !given[want.ID] {
				t.Errorf("chip %d is in no entry", i)
			}
		}
		l.sees([]factory.Chip{want}, m.ID, true)
	}
	if err := l.adds(0, func(e ...ledger.Entry) error {
		_, err := l.s.LapseAllotted(ctx, 9, 100, time.Time{}, func([]int64) []ledger.Entry { return e })
		return err
	}); err != nil {
		t.Error(err)
	}
}

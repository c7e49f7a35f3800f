//go:build unix

package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// importAll imports the made-up chips 0 to n-1 as one manifest, from its start.
func importAll(ctx context.Context, s *Store, n int64) (factory.Manifest, error) {
	m, err := s.BeginManifest(ctx, factory.Manifest{Name: "m", Digest: [32]byte{1}}, act())
	if err != nil || m.Visible {
		return m, err
	}
	for from := int64(0); from < n; from += maxStage {
		var chips []factory.Chip
		for i := from; i < min(n, from+maxStage); i++ {
			chips = append(chips, madeUpChip(i))
		}
		duplicates, err := s.StageChips(ctx, m.ID, chips)
		if err == nil && len(duplicates) > 0 {
			err = fmt.Errorf("%d duplicates, the first %+v", len(duplicates), duplicates[0])
		}
		if err != nil {
			return m, err
		}
	}
	m.Chips = n
	return m, s.PublishManifest(ctx, m, act())
}

// TestAnImportThatIsCutOff cuts an import off before each of its commits in turn.
// Then nothing of it is seen, or all; it goes on when it is repeated, or goes away
// without a trace.
func TestAnImportThatIsCutOff(t *testing.T) {
	const chips = 1200
	onBoth(t, func(t *testing.T, cfg Config) {
		var left atomic.Int64
		faulty := cfg
		faulty.CommitFault = func() error {
			if left.Add(-1) < 0 {
				return errors.New("the power is off")
			}
			return nil
		}
		for commits, done := int64(0), false; !done; commits++ {
			left.Store(1 << 40)
			s := mustOpen(t, faulty)
			left.Store(commits)
			_, err := importAll(t.Context(), s, chips)
			done = err == nil
			left.Store(1 << 40)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = mustOpen(t, cfg)
			s.mustBeWhole(t, chips, commits)
			s.discardOrGoOn(t, chips, commits)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if commits > 100 {
				t.Fatal("the import does not end")
			}
		}
	})
}

func (s *Store) discardOrGoOn(t *testing.T, chips, commits int64) {
	t.Helper()
	if commits%2 == 0 {
		if m, err := importAll(t.Context(), s, chips); err != nil {
			t.Fatalf("cut off after %d commits, repeated: %v", commits, err)
		} else if err := s.PublishManifest(t.Context(), m, act()); err != nil {
			t.Fatal(err)
		}
		if n := s.mustBeWhole(t, chips, commits); n != chips {
			t.Fatalf("cut off after %d commits, repeated: %d chips are seen", commits, n)
		}
		if n := s.count(t, "SELECT count(*) FROM chip_key"); n != chips {
			t.Fatalf("%d keys", n)
		}
	} else if err := s.DiscardManifest(t.Context(), 1, act()); err != nil && !fault.Has(err, fault.ManifestUnknown) && !fault.Has(err, fault.ManifestBusy) {
		t.Fatalf("cut off after %d commits, discarded: %v", commits, err)
	}
	// The next import tidies up.
	other, err := s.BeginManifest(t.Context(), factory.Manifest{Name: "other", Digest: [32]byte{byte(commits), 2}}, act())
	if err != nil {
		t.Fatal(err)
	}
	if n := s.count(t, "SELECT count(*) FROM chip_part"); n != 0 {
		t.Errorf("after %d commits %d parts stay", commits, n)
	}
	s.eraseManifests(t)
	_ = other
}

// mustBeWhole returns how many chips are seen: none or all.
func (s *Store) mustBeWhole(t *testing.T, chips, commits int64) int64 {
	t.Helper()
	seen := int64(0)
	for n := range chips {
		c := madeUpChip(n)
		got, err := s.Chip(t.Context(), s.ChipID(c.Vendor, c.UID))
		if fault.Has(err, fault.ChipUnknown) {
			continue
		}
		if err != nil || got.UID != c.UID {
			t.Fatal(got, err)
		}
		if _, err := s.ChipByKey(t.Context(), sha256.Sum256(c.Keys[0].SPKI)); err != nil {
			t.Fatalf("a chip is seen and its key is not: %v", err)
		}
		seen++
	}
	if seen != 0 && seen != chips {
		t.Fatalf("cut off after %d commits, %d of %d chips are seen", commits, seen, chips)
	}
	return seen
}

// eraseManifests makes room for the next round, after a discard left nothing.
func (s *Store) eraseManifests(t *testing.T) {
	t.Helper()
	err := s.write(t.Context(), func(t *tx) error {
		for _, table := range []string{"manifest", "chip", "chip_key"} {
			if _, err := t.exec(context.Background(), "DELETE FROM "+table); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestADiscardLeavesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, cfg Config) {
		s := mustOpen(t, cfg)
		m, err := s.BeginManifest(t.Context(), factory.Manifest{Name: "m", Digest: [32]byte{1}}, act())
		if err != nil {
			t.Fatal(err)
		}
		var chips []factory.Chip
		for n := range int64(maxStage) {
			chips = append(chips, madeUpChip(n))
		}
		if _, err := s.StageChips(t.Context(), m.ID, chips); err != nil {
			t.Fatal(err)
		}
		row, err := readManifest(t.Context(), s.read, m.ID)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.sortIn(t.Context(), row); err != nil { // published but for the flip
			t.Fatal(err)
		}
		if n := s.count(t, "SELECT count(*) FROM chip"); n != maxStage {
			t.Fatalf("%d chips are sorted in", n)
		}
		if err := s.DiscardManifest(t.Context(), m.ID, act()); err != nil {
			t.Fatal(err)
		}
		for _, table := range []string{"chip", "chip_key", "chip_part"} {
			if n := s.count(t, "SELECT count(*) FROM "+table); n != 0 {
				t.Errorf("%d rows of %s stay", n, table)
			}
		}
	})
}

func TestOrderTermsAreNotBelowWhatIsIssued(t *testing.T) {
	onBoth(t, func(t *testing.T, cfg Config) {
		s := mustOpen(t, cfg)
		ctx := t.Context()
		product, err1 := s.AddProduct(ctx, device.Product{Name: "p"}, act())
		site, err2 := s.AddSite(ctx, factory.Site{Name: "s"}, act())
		id, err3 := s.AddOrder(ctx, factory.Order{Number: "1", Product: product, Site: site, State: factory.OrderOpen, Quantity: 100, Spares: 10}, act())
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Fatal(err)
		}
		err := s.write(ctx, func(t *tx) error {
			_, err := t.exec(ctx, "UPDATE production_order SET live = 50, issued = 58 WHERE id = $1", id)
			return err
		}, act())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			quantity, spares int64
			good             bool
		}{{49, 100, false}, {50, 7, false}, {0, 0, false}, {57, 0, false}, {50, 8, true}, {58, 0, true}, {1000, 0, true}} {
			o, err := scanOrder(s.read.row(ctx, "SELECT "+orderColumns+" FROM production_order WHERE id = $1", id))
			if err != nil {
				t.Fatal(err)
			}
			o.Quantity, o.Spares = c.quantity, c.spares
			err = s.UpdateOrder(ctx, o, act())
			if c.good && err != nil || !c.good && !fault.Has(err, fault.OrderTerms) {
				t.Errorf("%d + %d: %v", c.quantity, c.spares, err)
			}
		}
		if n := s.count(t, "SELECT live * 1000 + issued FROM production_order"); n != 50_058 {
			t.Errorf("the counts are %d", n)
		}
	})
}

func octetsOf(t *rapid.T, name string) []byte {
	return rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, name)
}

func drawChip(t *rapid.T) factory.Chip {
	c := factory.Chip{
		ID: rapid.Int64Min(1).Draw(t, "id"), Vendor: rapid.String().Draw(t, "vendor"), UID: rapid.String().Draw(t, "uid"),
		ChipType: rapid.String().Draw(t, "type"), Entry: rapid.Int64Min(1).Draw(t, "entry"), Product: rapid.Int64Min(0).Draw(t, "product"),
		State: factory.ChipState(rapid.IntRange(1, 5).Draw(t, "state")), Order: rapid.Int64Min(0).Draw(t, "order"),
	}
	for range rapid.IntRange(0, 4).Draw(t, "keys") {
		k := factory.ChipKey{Slot: rapid.String().Draw(t, "slot"), SPKI: octetsOf(t, "spki"), VendorProof: rapid.Bool().Draw(t, "vendor")}
		for range rapid.IntRange(0, 3).Draw(t, "chain") {
			k.Chain = append(k.Chain, octetsOf(t, "certificate"))
		}
		c.Keys = append(c.Keys, k)
	}
	return c
}

func TestPartsComeBackAsTheyWereStaged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		chips := make([]factory.Chip, rapid.IntRange(0, 4).Draw(t, "chips"))
		keys := make([][]int64, len(chips))
		var part []byte
		for i := range chips {
			chips[i] = drawChip(t)
			keys[i] = rapid.SliceOfN(rapid.Int64Min(1), 0, 3).Draw(t, "key ids")
			part = appendPart(part, &chips[i], keys[i])
		}
		n := 0
		err := eachInPart(part, func(p *partChip) {
			want := &chips[n]
			v, err := recordValues(nil, p.id, 7, p.record)
			if err != nil {
				t.Fatal(err)
			}
			got := factory.Chip{
				ID: v[0].(int64), Vendor: v[1].(string), UID: v[2].(string), ChipType: v[3].(string), Entry: v[5].(int64), Product: v[6].(int64),
				State: factory.ChipState(v[7].(int64)), Order: v[8].(int64),
			}
			if got.Keys, err = parseKeys(v[10].([]byte)); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(*want, got, cmpopts.EquateEmpty()); d != "" || !cmp.Equal(keys[n], p.keys, cmpopts.EquateEmpty()) || recordUID(p.record) != want.UID {
				t.Fatalf("keys %v, chip %s", p.keys, d)
			}
			n++
		})
		if err != nil || n != len(chips) {
			t.Fatalf("%d of %d chips came back: %v", n, len(chips), err)
		}
	})
}

// FuzzParts feeds damaged rows: they are refused or read, and what is read of
// keys is written as the same octets.
func FuzzParts(f *testing.F) {
	c := madeUpChip(1)
	part := appendPart(nil, &c, []int64{5})
	f.Add(part)
	f.Add(part[:len(part)-1])
	f.Add(appendKeys(nil, c.Keys))
	f.Add(bytes.Repeat([]byte{0xff}, 30))
	f.Fuzz(func(t *testing.T, raw []byte) {
		_ = eachInPart(raw, func(p *partChip) {
			if v, err := recordValues(nil, p.id, 1, p.record); err == nil {
				_, _ = parseKeys(v[10].([]byte))
			}
		})
		keys, err := parseKeys(raw)
		if err != nil {
			return
		}
		again, err := parseKeys(appendKeys(nil, keys))
		if err != nil || !cmp.Equal(keys, again) {
			t.Errorf("%v came back as %v, %v", keys, again, err)
		}
	})
}

// TestTheTablesHaveTheLastWord stages a chip and a key twice as two nodes may, that
// do not know of each other.
func TestTheTablesHaveTheLastWord(t *testing.T) {
	onBoth(t, func(t *testing.T, cfg Config) {
		s := mustOpen(t, cfg)
		var chips []factory.Chip
		for n := range int64(10) {
			chips = append(chips, madeUpChip(n))
		}
		first := s.stageUnasked(t, 1, chips)
		sameChip := s.stageUnasked(t, 2, chips[4:])
		other := madeUpChip(100)
		other.Entry, other.Keys = 1, chips[3].Keys
		sameKey := s.stageUnasked(t, 3, []factory.Chip{other})
		if err := s.PublishManifest(t.Context(), first, act()); err != nil {
			t.Fatal(err)
		}
		for _, m := range []factory.Manifest{sameChip, sameKey} {
			refused(t, s.PublishManifest(t.Context(), m, act()), fault.ManifestDuplicate)
			if err := s.DiscardManifest(t.Context(), m.ID, act()); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.mustBeWhole(t, 10, 0); n != 10 {
			t.Errorf("%d chips are seen", n)
		}
		for _, table := range []string{"chip", "chip_key"} {
			if n := s.count(t, "SELECT count(*) FROM "+table); n != 10 {
				t.Errorf("%d rows of %s", n, table)
			}
		}
	})
}

// stageUnasked stages chips without a look at what else is staged.
func (s *Store) stageUnasked(t *testing.T, digest byte, chips []factory.Chip) factory.Manifest {
	t.Helper()
	ctx := t.Context()
	m, err := s.BeginManifest(ctx, factory.Manifest{Name: "m", Digest: [32]byte{digest}}, act())
	if err != nil {
		t.Fatal(err)
	}
	s.staging.mu.Lock()
	defer s.staging.mu.Unlock()
	row, err := readManifest(ctx, s.read, m.ID)
	if err != nil {
		t.Fatal(err)
	}
	call, err := s.newCall(row, chips)
	if err == nil {
		err = s.knowStaged(ctx, row)
	}
	if err == nil {
		err = call.store(ctx, row)
	}
	if err != nil {
		t.Fatal(err)
	}
	m.Chips = int64(len(chips))
	return m
}

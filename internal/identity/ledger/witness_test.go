package ledger

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/birthmark/birthmark/internal/fault"
)

func openTestWitness(t *testing.T, path string) *FileWitness {
	t.Helper()
	w, err := OpenFileWitness(FileWitnessConfig{Path: path, Verifier: newTestSigner(t, testOrigin), Now: func() time.Time { return testTime }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return w
}

// history is a growing tree with what a witness is shown of it.
type history struct {
	*memory
	e edge
}

func (h *history) grow(t *testing.T, n int) Checkpoint {
	t.Helper()
	for range n {
		leaf := []byte{byte(h.e.size), byte(h.e.size >> 8)}
		err := h.e.add(LeafHash(leaf), func(tile Tile) error {
			h.tiles[[2]int64{int64(tile.Level), tile.N}] = tile.Hashes
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tile := range h.e.tiles() {
		h.tiles[[2]int64{int64(tile.Level), tile.N}] = tile.Hashes
	}
	c, err := signCheckpoint(newTestSigner(t, testOrigin), h.e.size, h.e.root(), testTime.Unix())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (h *history) proof(t *testing.T, older, newer int64) tlog.TreeProof {
	t.Helper()
	p, err := ConsistencyProof(t.Context(), h, older, newer)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFileWitnessKeepsWhatItSaw(t *testing.T) {
	path := filepath.Join(t.TempDir(), "witness")
	h := &history{memory: newMemory()}
	w := openTestWitness(t, path)
	last := int64(0)
	for _, n := range []int{3, 0, 1, 300, 70} {
		c := h.grow(t, n)
		if err := w.Submit(t.Context(), c, h.proof(t, last, c.Size)); err != nil {
			t.Fatal(err)
		}
		last = c.Size
		w.Close()
		w = openTestWitness(t, path)
		got, err := w.Last(t.Context())
		if err != nil || got.Size != c.Size || got.Root != c.Root {
			t.Fatalf("after reopening: %+v, %v", got, err)
		}
	}
}

func TestFileWitnessRefusesAnotherHistory(t *testing.T) {
	h := &history{memory: newMemory()}
	w := openTestWitness(t, filepath.Join(t.TempDir(), "witness"))
	old := h.grow(t, 10)
	seen := h.grow(t, 10)
	if err := w.Submit(t.Context(), seen, nil); err != nil {
		t.Fatal(err)
	}
	other, err := signCheckpoint(newTestSigner(t, testOrigin), seen.Size, Hash{1}, 0)
	if err != nil {
		t.Fatal(err)
	}
	longer := h.grow(t, 10)
	foreign, err := signCheckpoint(newTestSigner(t, "elsewhere"), 40, Hash{1}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		c     Checkpoint
		proof tlog.TreeProof
		code  fault.Code
	}{
		"shorter":       {old, nil, fault.LedgerRolledBack},
		"same size":     {other, nil, fault.LedgerRolledBack},
		"without proof": {longer, nil, fault.LedgerRolledBack},
		"wrong proof":   {longer, h.proof(t, 10, longer.Size), fault.LedgerRolledBack},
		"foreign":       {foreign, nil, fault.CheckpointBad},
	} {
		if err := w.Submit(t.Context(), c.c, c.proof); !fault.Has(err, c.code) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if w.last.Size != seen.Size {
		t.Errorf("the witness went to %d", w.last.Size)
	}
	if err := w.Submit(t.Context(), longer, h.proof(t, seen.Size, longer.Size)); err != nil {
		t.Errorf("the right one: %v", err)
	}
}

func TestFileWitnessDropsARecordThatWasCutOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "witness")
	h := &history{memory: newMemory()}
	w := openTestWitness(t, path)
	first := h.grow(t, 3)
	if err := w.Submit(t.Context(), first, nil); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	second := h.grow(t, 3)
	proof := h.proof(t, 3, 6)
	if err := w.Submit(t.Context(), second, proof); err != nil {
		t.Fatal(err)
	}
	both, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := len(whole); cut < len(both); cut++ {
		if err := os.WriteFile(path, both[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		again := openTestWitness(t, path)
		if again.last.Size != 3 {
			t.Fatalf("cut at %d: size %d", cut, again.last.Size)
		}
		if err := again.Submit(t.Context(), second, proof); err != nil {
			t.Fatal(err)
		}
		again.Close()
		if got, err := os.ReadFile(path); err != nil || string(got) != string(both) {
			t.Fatalf("cut at %d: the file is not whole again (%v)", cut, err)
		}
	}
}

func TestFileWitnessRefusesADamagedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "witness")
	h := &history{memory: newMemory()}
	w := openTestWitness(t, path)
	for range 3 {
		last := h.e.size
		c := h.grow(t, 3)
		if err := w.Submit(t.Context(), c, h.proof(t, last, c.Size)); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	records := len(whole) / 3
	for name, data := range map[string][]byte{
		"a letter of the first note": append(append(append([]byte{}, whole[:80]...), whole[80]^1), whole[81:]...),
		"junk before":                append([]byte("junk\n"), whole...),
		"records swapped":            append(append(append([]byte{}, whole[records:2*records]...), whole[:records]...), whole[2*records:]...),
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := OpenFileWitness(FileWitnessConfig{Path: path, Verifier: newTestSigner(t, testOrigin), Now: time.Now})
		if !fault.Has(err, fault.WitnessFailed) && !fault.Has(err, fault.LedgerRolledBack) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFileWitnessLeavesOutWhatComesTooSoon(t *testing.T) {
	now := testTime
	h := &history{memory: newMemory()}
	w, err := OpenFileWitness(FileWitnessConfig{
		Path: filepath.Join(t.TempDir(), "witness"), Verifier: newTestSigner(t, testOrigin),
		Now: func() time.Time { return now }, Every: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	var taken []int64
	for range 7 {
		last := w.last.Size
		c := h.grow(t, 1)
		if err := w.Submit(t.Context(), c, h.proof(t, last, c.Size)); err != nil {
			t.Fatal(err)
		}
		if w.last.Size != last {
			taken = append(taken, w.last.Size)
		}
		now = now.Add(20 * time.Second)
	}
	if len(taken) != 3 || taken[0] != 1 || taken[1] != 4 || taken[2] != 7 {
		t.Errorf("taken: %v", taken)
	}
}

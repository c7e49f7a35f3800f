package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/birthmark/birthmark/internal/fault"
)

var testTime = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func newTestSequencer(t *testing.T, m *memory, node string, witnesses ...Witness) *Sequencer {
	t.Helper()
	s, err := NewSequencer(SequencerConfig{
		Store: m, Signer: newTestSigner(t, testOrigin), Node: node, Witnesses: witnesses,
		Now: func() time.Time { return testTime }, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// checkTree fails unless the stored tree is the one over all leaves.
func checkTree(t *testing.T, m *memory) {
	t.Helper()
	hashes := m.leafHashes()
	c, err := m.LatestCheckpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c.Size != int64(len(hashes)) {
		t.Fatalf("the checkpoint covers %d of %d leaves", c.Size, len(hashes))
	}
	var e edge
	for _, h := range hashes {
		_ = e.add(h, func(Tile) error { return nil })
	}
	if c.Root != e.root() {
		t.Fatal("the checkpoint has another root")
	}
	if _, err := OpenCheckpoint(c.Note, newTestSigner(t, testOrigin)); err != nil {
		t.Fatal(err)
	}
	root, err := RootAt(t.Context(), m, c.Size)
	if err != nil || root != c.Root {
		t.Fatalf("the tiles have root %s, %v", root, err)
	}
}

func TestSequencerCatchesUp(t *testing.T) {
	m, r := newMemory(), rand.New(rand.NewPCG(1, 1))
	s := newTestSequencer(t, m, "a")
	for _, n := range []int64{0, 1, 1, 300, 70000, 3} {
		fill(m, r, n)
		if err := s.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			checkTree(t, m)
		}
	}
	if err := s.Ready(testTime); err != nil {
		t.Error(err)
	}
	h := s.Health()
	if h.Size != m.size || h.Checkpoint != m.size || !h.Leading || !h.CheckpointAt.Equal(testTime) {
		t.Errorf("health %+v", h)
	}
	if m.saves > 4+70000/leavesAtOnce+1 {
		t.Errorf("%d checkpoints for six steps", m.saves)
	}
	saves, fence := m.saves, m.fence
	for range 100 {
		if err := s.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if m.saves != saves || m.fence != fence {
		t.Error("an idle sequencer writes")
	}
}

func TestSequencerGoesOnAfterARestartAnywhere(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	// Each operation of the store fails once, before or after it was done, and
	// with the process, whose memory is lost. The next process ends the work.
	for _, op := range []string{"size", "batches", "tile", "save", "save-after", "checkpoint", "lease"} {
		for at := range 6 {
			t.Run(fmt.Sprintf("%s %d", op, at), func(t *testing.T) {
				m := newMemory()
				w := openTestWitness(t, filepath.Join(t.TempDir(), "witness"))
				fill(m, r, 1+r.Int64N(600))
				if err := newTestSequencer(t, m, "a", w).Step(t.Context()); err != nil {
					t.Fatal(err)
				}
				fill(m, r, 1+r.Int64N(9000))
				m.fail = failOnce(op, at)
				for range 4 {
					err := newTestSequencer(t, m, "a", w).Step(t.Context())
					if err != nil && !errors.Is(err, errInjected) {
						t.Fatal(err)
					}
				}
				checkTree(t, m)
				if w.last.Size != m.size {
					t.Errorf("the witness saw %d of %d", w.last.Size, m.size)
				}
			})
		}
	}
}

func TestSequencerGoesOnAfterAFailure(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for _, op := range []string{"size", "batches", "tile", "save", "save-after", "checkpoint", "lease"} {
		for at := range 4 {
			m := newMemory()
			s := newTestSequencer(t, m, "a")
			for range 5 {
				fill(m, r, 1+r.Int64N(300))
				m.fail = failOnce(op, at)
				_ = s.Step(t.Context())
				m.fail = nil
				if err := s.Step(t.Context()); err != nil {
					t.Fatalf("%s %d: %v", op, at, err)
				}
				checkTree(t, m)
			}
		}
	}
}

func failOnce(op string, at int) func(string) error {
	return func(o string) error {
		if o == op {
			at--
			if at == -1 {
				return errInjected
			}
		}
		return nil
	}
}

func TestOnlyTheLeaseHolderWrites(t *testing.T) {
	m, r := newMemory(), rand.New(rand.NewPCG(4, 4))
	a, b := newTestSequencer(t, m, "a"), newTestSequencer(t, m, "b")
	step := func(s *Sequencer) {
		t.Helper()
		if err := s.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	fill(m, r, 300)
	step(a)
	step(b)
	saves := m.saves
	fill(m, r, 300)
	step(b)
	if m.saves != saves || b.Health().Leading {
		t.Fatal("b wrote without the lease")
	}
	step(a)
	step(b)
	if h := b.Health(); h.Checkpoint != m.size || !h.WaitingSince.IsZero() {
		t.Errorf("b does not see what a did: %+v", h)
	}

	// a's lease runs out while it believes to hold it, and b goes on.
	m.expire()
	fill(m, r, 300)
	step(b)
	checkTree(t, m)
	fill(m, r, 300)
	if err := a.Step(t.Context()); !fault.Has(err, fault.NodeFenced) {
		t.Fatalf("a wrote with an old fence: %v", err)
	}
	if err := a.Ready(testTime); err != nil {
		t.Errorf("losing the lease is no reason to stop issuing: %v", err)
	}
	step(a) // and from then on it watches
	step(b)
	checkTree(t, m)

	m.expire()
	fill(m, r, 5000)
	step(a)
	checkTree(t, m)
}

func TestSequencerRefusesARolledBackOrEditedLedger(t *testing.T) {
	damage := map[string]struct {
		code fault.Code
		do   func(m *memory)
	}{
		"tail cut off":      {fault.LedgerRolledBack, func(m *memory) { cutTail(m) }},
		"leaf edited":       {fault.LedgerBroken, func(m *memory) { b := m.batches[len(m.batches)-1]; b.Leaves[0] = []byte("x") }},
		"leaf missing":      {fault.LedgerBroken, func(m *memory) { b := m.batches[len(m.batches)-1]; b.Leaves[0] = nil }},
		"batch missing":     {fault.LedgerBroken, func(m *memory) { m.batches = append(m.batches[:len(m.batches)-2], m.batches[len(m.batches)-1]) }},
		"tile edited":       {fault.LedgerBroken, func(m *memory) { m.tiles[[2]int64{1, 0}][5] ^= 1 }},
		"edge edited":       {fault.LedgerBroken, func(m *memory) { m.tiles[[2]int64{0, m.size >> 8}][5] ^= 1 }},
		"tile missing":      {fault.LedgerBroken, func(m *memory) { delete(m.tiles, [2]int64{0, m.size >> 8}) }},
		"checkpoint edited": {fault.LedgerBroken, func(m *memory) { m.checkpoints[len(m.checkpoints)-1].Root[3] ^= 1 }},
		"checkpoint of another key": {fault.LedgerBroken, func(m *memory) {
			c := &m.checkpoints[len(m.checkpoints)-1]
			c.Note[len(c.Note)-9] ^= 1
		}},
	}
	for name, d := range damage {
		t.Run(name, func(t *testing.T) {
			m, r := newMemory(), rand.New(rand.NewPCG(5, 5))
			fill(m, r, 1000)
			if err := newTestSequencer(t, m, "a").Step(t.Context()); err != nil {
				t.Fatal(err)
			}
			d.do(m)
			saves := m.saves
			s := newTestSequencer(t, m, "a")
			if err := s.Step(t.Context()); !fault.Has(err, d.code) {
				t.Errorf("got %v", err)
			}
			if err := s.Ready(testTime); !fault.Has(err, d.code) {
				t.Errorf("ready: %v", err)
			}
			if m.saves != saves {
				t.Error("a checkpoint was signed over it")
			}
		})
	}
}

// cutTail removes the newest batch with its tiles and checkpoint, or all but the
// leaves of it.
func cutTail(m *memory) {
	last := m.batches[len(m.batches)-1]
	m.batches, m.size = m.batches[:len(m.batches)-1], last.First
}

func TestSequencerBlockedRecoversWhenTheLedgerIsPutRight(t *testing.T) {
	m, r := newMemory(), rand.New(rand.NewPCG(6, 6))
	fill(m, r, 1000)
	s := newTestSequencer(t, m, "a")
	if err := s.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	batches, size := m.batches, m.size
	cutTail(m)
	if err := s.Step(t.Context()); !fault.Has(err, fault.LedgerRolledBack) {
		t.Fatalf("got %v", err)
	}
	m.fail = func(string) error { return errInjected }
	_ = s.Step(t.Context())
	if err := s.Ready(testTime); !fault.Has(err, fault.LedgerRolledBack) {
		t.Errorf("another failure made it ready: %v", err)
	}
	m.fail, m.batches, m.size = nil, batches, size
	if err := s.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Ready(testTime); err != nil {
		t.Errorf("still blocked: %v", err)
	}
}

func TestWitnessSeesARollbackThatTheDatabaseHides(t *testing.T) {
	path := filepath.Join(t.TempDir(), "witness")
	m, r := newMemory(), rand.New(rand.NewPCG(7, 7))
	w := openTestWitness(t, path)
	s := newTestSequencer(t, m, "a", w)
	fill(m, r, 700)
	if err := s.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	fill(m, r, 700)
	if err := s.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.last.Size != m.size {
		t.Fatalf("the witness saw %d of %d", w.last.Size, m.size)
	}

	shorter, forked := newMemory(), newMemory()
	fill(shorter, rand.New(rand.NewPCG(7, 7)), 700) // an old copy, whole in itself
	fill(forked, rand.New(rand.NewPCG(8, 8)), 2000) // longer, with another history
	for _, other := range []*memory{shorter, forked} {
		if err := newTestSequencer(t, other, "a").Step(t.Context()); err != nil {
			t.Fatal(err)
		}
		again := openTestWitness(t, path)
		s := newTestSequencer(t, other, "a", again)
		fill(other, r, 10)
		saves := other.saves
		if err := s.Step(t.Context()); !fault.Has(err, fault.LedgerRolledBack) {
			t.Errorf("got %v", err)
		}
		if err := s.Ready(testTime); !fault.Has(err, fault.LedgerRolledBack) {
			t.Errorf("issuing goes on: %v", err)
		}
		if other.saves != saves {
			t.Error("a checkpoint was signed over the other ledger")
		}
		if again.last.Size != m.size {
			t.Error("the witness took a checkpoint of the other ledger")
		}
	}

	// After a restore the ledger has another origin, and may begin earlier.
	restored := newTestSequencer(t, shorter, "a")
	restored.cfg.Known = []note.Verifier{newTestSigner(t, testOrigin)}
	restored.cfg.Signer = newTestSigner(t, testOrigin+"/2")
	fresh, err := OpenFileWitness(FileWitnessConfig{Path: path, Verifier: restored.cfg.Signer, Now: func() time.Time { return testTime }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fresh.Close() })
	restored.cfg.Witnesses = []Witness{fresh}
	restored.health.Witnesses = make([]WitnessHealth, 1)
	fill(shorter, r, 10)
	if err := restored.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	if fresh.last.Size != shorter.size {
		t.Errorf("the witness saw %d of %d after the restore", fresh.last.Size, shorter.size)
	}
}

// deaf is a witness that cannot be reached.
type deaf struct{ tried int }

func (*deaf) Name() string { return "deaf" }
func (d *deaf) Last(context.Context) (Checkpoint, error) {
	d.tried++
	return Checkpoint{}, fault.New(fault.WitnessFailed)
}

func (*deaf) Submit(context.Context, Checkpoint, tlog.TreeProof) error {
	return fault.New(fault.WitnessFailed)
}

func TestAWitnessThatIsAwayDoesNotStopTheLedger(t *testing.T) {
	m, r := newMemory(), rand.New(rand.NewPCG(9, 9))
	w := &deaf{}
	s := newTestSequencer(t, m, "a", w)
	for range 50 {
		fill(m, r, 10)
		if err := s.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	checkTree(t, m)
	if err := s.Ready(testTime); err != nil {
		t.Error(err)
	}
	h := s.Health().Witnesses[0]
	if h.Err == nil || h.Failures == 0 || w.tried > 3 {
		t.Errorf("health %+v after %d attempts", h, w.tried)
	}
}

// mute is a signer whose key is away.
type mute struct{ Signer }

func (mute) Sign([]byte) ([]byte, error) { return nil, errInjected }

func TestStalledAfterTenMinutesWithoutCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, r := newMemory(), rand.New(rand.NewPCG(10, 10))
		s := newTestSequencer(t, m, "a")
		s.cfg.Now = time.Now
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()

		// An idle ledger never stalls.
		time.Sleep(time.Hour)
		if err := s.Ready(time.Now()); err != nil {
			t.Errorf("idle: %v", err)
		}
		fill(m, r, 5)
		time.Sleep(2 * time.Second)
		if h := s.Health(); h.Checkpoint != 5 || time.Since(h.CheckpointAt) > 2*time.Second {
			t.Errorf("no checkpoint within two seconds: %+v", h)
		}

		m.mu.Lock()
		m.fail = func(op string) error {
			if op == "save" {
				return errInjected
			}
			return nil
		}
		m.mu.Unlock()
		fill(m, r, 5)
		time.Sleep(10 * time.Minute)
		if err := s.Ready(time.Now()); err != nil {
			t.Errorf("after ten minutes: %v", err)
		}
		time.Sleep(2 * time.Second)
		if err := s.Ready(time.Now()); !fault.Has(err, fault.LedgerStalled) {
			t.Errorf("after more than ten minutes: %v", err)
		}
		m.mu.Lock()
		m.fail = nil
		m.mu.Unlock()
		time.Sleep(2 * time.Second)
		if err := s.Ready(time.Now()); err != nil {
			t.Errorf("after the next checkpoint: %v", err)
		}
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
}

func TestStalledWhenTheKeyIsAway(t *testing.T) {
	m, r := newMemory(), rand.New(rand.NewPCG(11, 11))
	s := newTestSequencer(t, m, "a")
	s.cfg.Signer = mute{s.cfg.Signer}
	fill(m, r, 5)
	if err := s.Step(t.Context()); !errors.Is(err, errInjected) {
		t.Fatal(err)
	}
	if s.Stalled(testTime.Add(10*time.Minute)) || !s.Stalled(testTime.Add(10*time.Minute+1)) {
		t.Error("stalled must begin after ten minutes")
	}
}

func TestReadyBeforeTheLedgerWasRead(t *testing.T) {
	if err := newTestSequencer(t, newMemory(), "a").Ready(testTime); !fault.Has(err, fault.LedgerStalled) {
		t.Errorf("got %v", err)
	}
}

// TestStepsAtOnce calls Step beside another Step, as a server's start and its
// job may: the tree must be the one that a single caller makes.
func TestStepsAtOnce(t *testing.T) {
	m, r := newMemory(), rand.New(rand.NewPCG(7, 7))
	s := newTestSequencer(t, m, "a")
	for range 50 {
		fill(m, r, 40)
		var steps sync.WaitGroup
		for range 4 {
			steps.Go(func() {
				if err := s.Step(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		steps.Wait()
		checkTree(t, m)
	}
}

// TestStepAfterACancelledStep ends a step by its context before the tiles are
// saved, as a server's stop does, and takes the last step after it.
func TestStepAfterACancelledStep(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	for _, op := range []string{"batches", "save", "save-after"} {
		m := newMemory()
		s := newTestSequencer(t, m, "a")
		for range 5 {
			fill(m, r, 1+r.Int64N(600))
			ctx, cancel := context.WithCancel(t.Context())
			m.fail = func(o string) error {
				if o != op {
					return nil
				}
				cancel()
				return context.Canceled
			}
			if err := s.Step(ctx); err == nil {
				t.Fatal("the step was not cut off")
			}
			cancel()
			m.fail = nil
			if err := s.Step(t.Context()); err != nil {
				t.Fatalf("%s: %v", op, err)
			}
			checkTree(t, m)
		}
	}
}

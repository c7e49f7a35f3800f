package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/birthmark/birthmark/internal/fault"
)

const (
	sequencerJob    = "ledger-sequencer"
	leaseSeconds    = 30
	leaseRenewal    = leaseSeconds * time.Second / 3
	stalledAfter    = 10 * time.Minute
	leavesAtOnce    = 4096 // hashed between two checkpoints while catching up
	witnessPatience = 5 * time.Second
	witnessPause    = 10 * time.Second // after a failure
)

// Sequencer hashes committed leaves into the tree and signs checkpoints, about
// one a second while there is something new. Every node runs one; the one that
// holds the lease works, the others watch. What it knows it can read again from
// the tiles, so nothing is lost with the process.
type Sequencer struct {
	cfg SequencerConfig

	working sync.Mutex // held by Step; guards all down to hasher
	edge    *edge      // nil: to be loaded
	lease   Lease
	renewed time.Time
	pauses  map[Witness]time.Time // when to try again
	hasher  leafHasher

	mu     sync.Mutex
	health Health // guarded by mu
}

// SequencerConfig names what a Sequencer needs. Store, Signer, Node, Now and
// Logger are required.
type SequencerConfig struct {
	Store  Store
	Signer Signer
	// Known are verifiers of earlier keys and origins, for the checkpoint that
	// is in the database when a key was changed or a backup restored.
	Known     []note.Verifier
	Node      string
	Witnesses []Witness
	Now       func() time.Time
	Logger    *slog.Logger
	Interval  time.Duration // default one second
}

// Health is how far the sequencer is, for metrics and the health page.
type Health struct {
	Loaded       bool
	Leading      bool      // this node holds the lease
	Size         int64     // leaves committed
	Checkpoint   int64     // leaves under the newest checkpoint
	CheckpointAt time.Time // zero: none
	WaitingSince time.Time // zero: no leaf waits
	Blocked      error     // why no checkpoint may be signed; nil: it may
	Failures     int64     // steps that failed since the start
	Witnesses    []WitnessHealth
}

// WitnessHealth is what is known of a witness.
type WitnessHealth struct {
	Name     string
	Size     int64
	Failures int64
	Err      error // of the last attempt
}

// NewSequencer returns a sequencer; Run makes it work.
func NewSequencer(cfg SequencerConfig) (*Sequencer, error) {
	if cfg.Store == nil || cfg.Signer == nil || cfg.Node == "" || cfg.Now == nil || cfg.Logger == nil {
		return nil, errors.New("sequencer: store, signer, node, clock and logger are required")
	}
	if cfg.Interval <= 0 {
		cfg.Interval = time.Second
	}
	s := &Sequencer{cfg: cfg, pauses: make(map[Witness]time.Time)}
	for _, w := range cfg.Witnesses {
		s.health.Witnesses = append(s.health.Witnesses, WitnessHealth{Name: w.Name()})
	}
	return s, nil
}

// Run works until the context ends.
func (s *Sequencer) Run(ctx context.Context) error {
	ticker := time.NewTicker(s.cfg.Interval)
	defer ticker.Stop()
	for {
		// What fails is tried again; Health and Ready tell of it.
		_ = s.Step(ctx)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// Health returns how far the sequencer is.
func (s *Sequencer) Health() Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.health
	h.Witnesses = append([]WitnessHealth(nil), h.Witnesses...)
	return h
}

// Stalled reports whether leaves have waited for a checkpoint for more than ten
// minutes.
func (s *Sequencer) Stalled(now time.Time) bool {
	h := s.Health()
	return !h.WaitingSince.IsZero() && now.Sub(h.WaitingSince) > stalledAfter
}

// Ready returns why nothing may be issued: fault.LedgerRolledBack,
// fault.LedgerBroken or fault.LedgerStalled. Revocation does not ask.
func (s *Sequencer) Ready(now time.Time) error {
	h := s.Health()
	switch {
	case h.Blocked != nil:
		return h.Blocked
	case !h.Loaded:
		return fault.New(fault.LedgerStalled, "the ledger has not been read yet")
	case s.Stalled(now):
		return fault.New(fault.LedgerStalled)
	}
	return nil
}

// Step does once what Run does over and over: catch up, sign, tell the
// witnesses. It may be called beside Run.
func (s *Sequencer) Step(ctx context.Context) error {
	s.working.Lock()
	defer s.working.Unlock()
	err := s.step(ctx)
	if err == nil {
		s.settle(nil)
		return nil
	}
	s.edge = nil // it may be ahead of the stored tiles
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.settle(err)
	return err
}

// settle notes how a step ended. A broken ledger blocks issuing until a step
// finds it whole.
func (s *Sequencer) settle(err error) {
	var blocked error
	if fault.Has(err, fault.LedgerBroken) || fault.Has(err, fault.LedgerRolledBack) {
		blocked = err
	}
	s.mu.Lock()
	before := s.health.Blocked
	if err == nil || blocked != nil {
		s.health.Blocked = blocked
	}
	if err != nil {
		s.health.Failures++
	}
	s.mu.Unlock()
	switch {
	case blocked != nil && before == nil:
		s.cfg.Logger.Error("the ledger does not hold; issuing stops", "error", blocked)
	case err == nil && before != nil:
		s.cfg.Logger.Info("the ledger holds again")
	case err != nil && blocked == nil:
		s.cfg.Logger.Warn("no checkpoint could be made", "error", err, "cause", errors.Unwrap(err))
	}
}

func (s *Sequencer) step(ctx context.Context) error {
	if s.edge == nil {
		if err := s.load(ctx); err != nil {
			return err
		}
	}
	size, err := s.cfg.Store.LedgerSize(ctx)
	if err != nil {
		return err
	}
	if size < s.edge.size {
		return fault.New(fault.LedgerRolledBack, fmt.Sprintf("%d entries are under a checkpoint, %d are left", s.edge.size, size))
	}
	s.observe(size, s.edge.size)
	if size > s.edge.size {
		leading, err := s.lead(ctx)
		if err != nil || !leading {
			return err
		}
		for s.edge.size < size {
			if err := s.extend(ctx, min(size, s.edge.size+leavesAtOnce)); err != nil {
				return err
			}
			s.observe(size, s.edge.size)
		}
	}
	return s.showWitnesses(ctx)
}

// lead takes or renews the lease and reports whether this node works. What
// another node did meanwhile is read anew.
func (s *Sequencer) lead(ctx context.Context) (bool, error) {
	now := s.cfg.Now()
	if s.lease.Fence != 0 && now.Sub(s.renewed) < leaseRenewal {
		return true, nil
	}
	lease, ok, err := s.cfg.Store.AcquireLease(ctx, sequencerJob, s.cfg.Node, leaseSeconds)
	if err != nil {
		return false, err
	}
	taken := ok && lease.Fence != s.lease.Fence
	s.lease, s.renewed = Lease{}, now
	if ok {
		s.lease = lease
	}
	s.mu.Lock()
	s.health.Leading = ok
	s.mu.Unlock()
	if !ok || taken {
		newest, err := s.cfg.Store.LatestCheckpoint(ctx)
		if err != nil {
			return false, err
		}
		if newest.Size != s.edge.size {
			if err := s.load(ctx); err != nil {
				return false, err
			}
		}
	}
	return ok, nil
}

// observe notes how far the tree is behind. Progress, not only being level,
// restarts the waiting: catching up after a restore may take a while.
func (s *Sequencer) observe(size, checkpoint int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &s.health
	if size <= checkpoint {
		h.WaitingSince = time.Time{}
	} else if checkpoint > h.Checkpoint || h.WaitingSince.IsZero() {
		h.WaitingSince = s.cfg.Now()
	}
	h.Size, h.Checkpoint = size, checkpoint
}

// extend hashes leaves up to at least to, and signs and saves the tree.
func (s *Sequencer) extend(ctx context.Context, to int64) error {
	var tiles []Tile
	full := func(t Tile) error {
		tiles = append(tiles, t)
		return nil
	}
	for s.edge.size < to {
		from := s.edge.size
		batches, err := s.cfg.Store.LedgerBatches(ctx, from, ^Class(0), int(to-from))
		if err != nil {
			return err
		}
		for leaf, err := range leavesFrom(batches, from) {
			if err != nil {
				return err
			}
			if err := s.edge.add(s.hasher.hash(leaf), full); err != nil {
				return err
			}
		}
	}
	c, err := signCheckpoint(s.cfg.Signer, s.edge.size, s.edge.root(), s.cfg.Now().Unix())
	if err != nil {
		return err
	}
	if err := s.cfg.Store.SaveTiles(ctx, append(tiles, s.edge.tiles()...), c, s.lease); err != nil {
		s.lease = Lease{}
		return err
	}
	s.signed(c)
	return nil
}

func (s *Sequencer) signed(c Checkpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.health.CheckpointAt = time.Time{}
	if c.At != 0 {
		s.health.CheckpointAt = time.Unix(c.At, 0)
	}
	s.health.Loaded = true
}

// load reads the newest checkpoint and the edge of its tree, and refuses a
// ledger that is not what was signed or witnessed.
func (s *Sequencer) load(ctx context.Context) error {
	c, err := s.cfg.Store.LatestCheckpoint(ctx)
	if err != nil {
		return err
	}
	size, err := s.cfg.Store.LedgerSize(ctx)
	if err != nil {
		return err
	}
	if c.Size > size {
		return fault.New(fault.LedgerRolledBack, fmt.Sprintf("%d entries are under a checkpoint, %d are left", c.Size, size))
	}
	e, err := loadEdge(ctx, s.cfg.Store, c.Size)
	if err != nil {
		return err
	}
	if err := s.checkLoaded(ctx, c, e); err != nil {
		return err
	}
	if err := s.checkWitnesses(ctx, c.Size); err != nil {
		return err
	}
	s.edge = e
	s.signed(c)
	s.observe(size, c.Size)
	return nil
}

// checkLoaded compares checkpoint, tiles and the newest leaves with each other.
func (s *Sequencer) checkLoaded(ctx context.Context, c Checkpoint, e *edge) error {
	if c.Size == 0 {
		return nil
	}
	opened, err := OpenCheckpoint(c.Note, append([]note.Verifier{s.cfg.Signer}, s.cfg.Known...)...)
	if err != nil || opened.Size != c.Size || opened.Root != c.Root {
		return fault.Wrap(fault.LedgerBroken, err, "the newest checkpoint is not what was signed")
	}
	if e.root() != c.Root {
		return fault.New(fault.LedgerBroken, fmt.Sprintf("the tiles do not have the root of the checkpoint of size %d", c.Size))
	}
	from := (c.Size - 1) &^ (tileWidth - 1)
	row, err := s.cfg.Store.Tile(ctx, 0, from>>tileHeight)
	if err != nil {
		return err
	}
	for i := from; i < c.Size; {
		batches, err := s.cfg.Store.LedgerBatches(ctx, i, ^Class(0), int(c.Size-i))
		if err != nil {
			return err
		}
		for leaf, err := range leavesFrom(batches, i) {
			if err != nil {
				return err
			}
			if i == c.Size {
				return nil
			}
			at := (i - from) * hashSize
			if int64(len(row)) < at+hashSize || s.hasher.hash(leaf) != Hash(row[at:at+hashSize]) {
				return fault.New(fault.LedgerBroken, fmt.Sprintf("entry %d is not what was hashed", i))
			}
			i++
		}
	}
	return nil
}

package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/birthmark/birthmark/internal/fault"
)

// checkWitnesses compares what the witnesses saw with the stored tree, before
// anything is signed on top of it. A witness that cannot be asked does not stop
// the ledger; it is asked again with the next checkpoint.
func (s *Sequencer) checkWitnesses(ctx context.Context, size int64) error {
	for i, w := range s.cfg.Witnesses {
		last, err := s.lastOf(ctx, w)
		if err != nil {
			s.witnessed(i, Checkpoint{}, err)
			continue
		}
		if last.Size > size {
			return fault.New(fault.LedgerRolledBack, fmt.Sprintf("witness %s saw %d entries under a checkpoint, here it has %d", w.Name(), last.Size, size))
		}
		root, err := RootAt(ctx, s.cfg.Store, last.Size)
		if err != nil {
			return err
		}
		if last.Size > 0 && root != last.Root {
			return fault.New(fault.LedgerRolledBack, fmt.Sprintf("the first %d entries are not those that witness %s saw", last.Size, w.Name()))
		}
		s.witnessed(i, last, nil)
	}
	return nil
}

// showWitnesses shows the newest checkpoint to each witness that has not seen
// it.
func (s *Sequencer) showWitnesses(ctx context.Context) error {
	for i, w := range s.cfg.Witnesses {
		if s.cfg.Now().Before(s.pauses[w]) {
			continue
		}
		last, err := s.show(ctx, w)
		if fault.Has(err, fault.LedgerRolledBack) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			s.pauses[w] = s.cfg.Now().Add(witnessPause)
			s.cfg.Logger.Warn("a witness did not take the checkpoint", "witness", w.Name(), "error", err, "cause", errors.Unwrap(err))
		}
		s.witnessed(i, last, err)
	}
	return nil
}

func (s *Sequencer) show(ctx context.Context, w Witness) (Checkpoint, error) {
	last, err := s.lastOf(ctx, w)
	if err != nil || last.Size == s.edge.size {
		return last, err
	}
	newest, err := s.cfg.Store.LatestCheckpoint(ctx)
	if err != nil || newest.Size == 0 {
		return last, err
	}
	if newest.Size < last.Size {
		return last, fault.New(fault.LedgerRolledBack, fmt.Sprintf("witness %s saw %d entries under a checkpoint, here it has %d", w.Name(), last.Size, newest.Size))
	}
	proof, err := ConsistencyProof(ctx, s.cfg.Store, last.Size, newest.Size)
	if err != nil {
		return last, err
	}
	patient, cancel := context.WithTimeout(ctx, witnessPatience)
	defer cancel()
	if err := w.Submit(patient, newest, proof); err != nil {
		return last, err
	}
	return s.lastOf(ctx, w)
}

func (s *Sequencer) lastOf(ctx context.Context, w Witness) (Checkpoint, error) {
	patient, cancel := context.WithTimeout(ctx, witnessPatience)
	defer cancel()
	return w.Last(patient)
}

func (s *Sequencer) witnessed(i int, last Checkpoint, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &s.health.Witnesses[i]
	h.Err = err
	if err != nil {
		h.Failures++
		return
	}
	h.Size = last.Size
}

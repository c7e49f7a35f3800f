package authority_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
)

var everything = access.Everything()

func newSerials(t *testing.T, f *fake, c *clock, count int) *authority.Serials {
	t.Helper()
	s, err := authority.NewSerials(authority.SerialsConfig{Store: f, Node: "n1", Count: count, Now: c.now})
	noError(t, err)
	return s
}

func TestSerialsAreGivenOnce(t *testing.T) {
	f := newFake()
	s := newSerials(t, f, newClock(), 16)
	var mu sync.Mutex
	seen := make(map[device.CredentialID]bool)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				_, id, octets, err := s.Next(t.Context())
				if err != nil || len(octets) != 17 {
					t.Error(err)
					return
				}
				mu.Lock()
				if seen[id] {
					t.Errorf("%d was given twice", id)
				}
				seen[id] = true
				mu.Unlock()
			}
		})
	}
	all.Wait()
	noError(t, s.Close(t.Context()))
	if len(f.open) != 0 {
		t.Fatalf("%d blocks are open after Close", len(f.open))
	}
	if len(f.fenced) != 1 {
		t.Fatalf("fenced %d times", len(f.fenced))
	}
	_, _, _, err := s.Next(t.Context())
	wantFault(t, err, fault.ShuttingDown)
}

func TestNextBlockIsLeasedAhead(t *testing.T) {
	f := newFake()
	s := newSerials(t, f, newClock(), 16)
	leased := make(chan struct{}, 8)
	f.leaseGate = func() error { leased <- struct{}{}; return nil }
	for range 12 {
		_, _, _, err := s.Next(t.Context())
		noError(t, err)
	}
	if len(leased) != 1 {
		t.Fatalf("%d blocks after 12 of 16 serials", len(leased))
	}
	_, _, _, err := s.Next(t.Context()) // the 13th sees four left
	noError(t, err)
	noError(t, s.Close(t.Context())) // waits for what is on its way
	if len(leased) != 2 {
		t.Fatalf("%d blocks after 13 of 16 serials", len(leased))
	}
}

func TestSerialsOutlastTheStoreForABlock(t *testing.T) {
	f := newFake()
	var down atomic.Bool
	f.leaseGate = func() error {
		if down.Load() {
			return fault.New(fault.StoreUnavailable)
		}
		return nil
	}
	s := newSerials(t, f, newClock(), 16)
	_, _, _, err := s.Next(t.Context())
	noError(t, err)
	down.Store(true)
	for range 15 {
		_, _, _, err := s.Next(t.Context())
		noError(t, err)
	}
	_, _, _, err = s.Next(t.Context())
	wantFault(t, err, fault.StoreUnavailable)
	down.Store(false)
	_, _, _, err = s.Next(t.Context())
	noError(t, err)
}

func TestSerialsGiveUpWithTheirCaller(t *testing.T) {
	f := newFake()
	hold := make(chan struct{})
	f.leaseGate = func() error { <-hold; return nil }
	s := newSerials(t, f, newClock(), 16)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("gone"))
	_, _, _, err := s.Next(ctx)
	wantFault(t, err, fault.SerialsExhausted)
	close(hold)
	noError(t, s.Close(t.Context()))
}

func TestUsedUpBlocksAreClosedLater(t *testing.T) {
	f := newFake()
	c := newClock()
	s := newSerials(t, f, c, 4)
	take := func(n int) {
		for range n {
			_, _, _, err := s.Next(t.Context())
			noError(t, err)
		}
	}
	take(9) // two blocks are used up
	f.mu.Lock()
	open := len(f.open)
	f.mu.Unlock()
	if open < 3 {
		t.Fatalf("%d blocks open: a used-up block was closed under issuances on their way", open)
	}
	c.add(11 * time.Minute)
	take(4)
	noError(t, s.Close(t.Context()))
	if len(f.open) != 0 {
		t.Fatalf("%d blocks open", len(f.open))
	}
}

package session_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/keystore/session"
)

var errBroken, errNone = errors.New("broken"), errors.New("no session")

// hardware counts its sessions and fails as it is told.
type hardware struct {
	open, opened atomic.Int64
	limit        atomic.Int64 // sessions that it has; 0: any number
	broken       atomic.Int64 // calls that still fail
	down         atomic.Bool
}

func (h *hardware) pool(t *testing.T, most int) *session.Pool[int64] {
	t.Helper()
	p, err := session.New(session.Config[int64]{
		Open: func(context.Context) (int64, error) {
			if h.down.Load() {
				return 0, fault.New(fault.TokenMissing)
			}
			if limit := h.limit.Load(); limit > 0 && h.open.Load() >= limit {
				return 0, errNone
			}
			h.open.Add(1)
			return h.opened.Add(1), nil
		},
		Close:     func(int64) { h.open.Add(-1) },
		Broken:    func(err error) bool { return errors.Is(err, errBroken) },
		Exhausted: func(err error) bool { return errors.Is(err, errNone) },
		Most:      most, Wait: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (h *hardware) call(s int64) (int64, error) {
	if h.broken.Add(-1) >= 0 {
		return 0, errBroken
	}
	return s, nil
}

func TestSessionsAreSharedAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hardware{}
		p := h.pool(t, 3)
		defer p.Close()
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				_, err := session.Do(t.Context(), p, func(s int64) (int64, error) {
					time.Sleep(10 * time.Millisecond)
					return s, nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if h.opened.Load() != 3 {
			t.Errorf("%d sessions, want 3", h.opened.Load())
		}
	})
}

func TestABrokenSessionIsOpenedAnewOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hardware{}
		p := h.pool(t, 1)
		defer p.Close()
		if _, err := session.Do(t.Context(), p, h.call); err != nil {
			t.Fatal(err)
		}
		h.broken.Store(1)
		if s, err := session.Do(t.Context(), p, h.call); err != nil || s != 2 {
			t.Errorf("session %d, %v; want the second", s, err)
		}
		h.broken.Store(2)
		if _, err := session.Do(t.Context(), p, h.call); !errors.Is(err, errBroken) {
			t.Errorf("%v, want broken: it is tried once more and no oftener", err)
		}
		h.broken.Store(0)
		if _, err := session.Do(t.Context(), p, h.call); err != nil {
			t.Error(err)
		}
		h.broken.Store(1)
		h.down.Store(true)
		if _, err := session.Do(t.Context(), p, h.call); !fault.Has(err, fault.TokenMissing) {
			t.Error(err)
		}
		h.down.Store(false)
		if _, err := session.Do(t.Context(), p, h.call); err != nil {
			t.Errorf("after the token came back: %v", err)
		}
		if h.open.Load() != 1 {
			t.Errorf("%d sessions open", h.open.Load())
		}
	})
}

func TestAHangingCallHoldsUpNobodyForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hardware{}
		p := h.pool(t, 2)
		defer p.Close()
		answer := make(chan struct{})
		hang := func(s int64) (int64, error) { <-answer; return s, nil }
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() {
				begun := time.Now()
				if _, err := session.Do(t.Context(), p, hang); !fault.Has(err, fault.TokenFailed) || time.Since(begun) > time.Second {
					t.Errorf("%v after %v", err, time.Since(begun))
				}
			})
		}
		synctest.Wait()
		if _, err := session.Do(t.Context(), p, h.call); !fault.Has(err, fault.TokenSessions) {
			t.Errorf("%v, want no session", err)
		}
		all.Wait()
		begun := time.Now()
		if _, err := session.Do(t.Context(), p, h.call); !fault.Has(err, fault.TokenFailed) || time.Since(begun) > 0 {
			t.Errorf("%v after %v, want to be told at once", err, time.Since(begun))
		}
		close(answer)
		synctest.Wait()
		if _, err := session.Do(t.Context(), p, h.call); err != nil {
			t.Errorf("after it answered: %v", err)
		}
	})
}

func TestACanceledCallerDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := (&hardware{}).pool(t, 1)
		defer p.Close()
		answer := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		_, err := session.Do(ctx, p, func(int64) (int64, error) { <-answer; return 0, nil })
		if !fault.Has(err, fault.TokenFailed) {
			t.Error(err)
		}
		close(answer)
	})
}

func TestFewerSessionsWhereTheHardwareHasFewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hardware{}
		h.limit.Store(2)
		p := h.pool(t, 8)
		defer p.Close()
		var all sync.WaitGroup
		for range 40 {
			all.Go(func() {
				_, err := session.Do(t.Context(), p, func(s int64) (int64, error) {
					time.Sleep(time.Millisecond)
					return s, nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if h.opened.Load() != 2 {
			t.Errorf("%d sessions, want 2", h.opened.Load())
		}
	})
}

func TestWithoutAnySessionOneWaitsForOthersToEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hardware{}
		h.limit.Store(1)
		h.open.Store(1) // another program's
		p := h.pool(t, 4)
		defer p.Close()
		if _, err := session.Do(t.Context(), p, h.call); err == nil {
			t.Error("a session out of nothing")
		}
		time.AfterFunc(300*time.Millisecond, func() { h.open.Store(0) })
		if _, err := session.Do(t.Context(), p, h.call); err != nil {
			t.Errorf("after the other program ended: %v", err)
		}
	})
}

package enroll_test

import (
	"context"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// markStore keeps the mark as the database does.
type markStore struct {
	mark     time.Time
	accepted int
}

func (m *markStore) ClockMark(context.Context) (time.Time, error) { return m.mark, nil }

func (m *markStore) SaveClockMark(_ context.Context, t time.Time) error {
	if t.After(m.mark) {
		m.mark = t
	}
	return nil
}

func (m *markStore) AcceptClock(_ context.Context, t time.Time, entries ...ledger.Entry) error {
	m.mark = t
	m.accepted += len(entries)
	return nil
}

// hands are a wall clock and a clock that nobody sets.
type hands struct {
	wall time.Time
	mono time.Duration
}

func (h *hands) pass(d time.Duration) { h.wall, h.mono = h.wall.Add(d), h.mono+d }

func newClock(t *testing.T, store *markStore, h *hands) *enroll.Clock {
	t.Helper()
	k, err := enroll.NewClock(t.Context(), enroll.ClockConfig{
		Store: store, Now: func() time.Time { return h.wall }, Monotonic: func() time.Duration { return h.mono },
	})
	must(t, err)
	return k
}

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func TestClockWhileRunning(t *testing.T) {
	tests := []struct {
		name string
		jump time.Duration
		want fault.Code // 0: issuing goes on
	}{
		{"stands still", 0, 0},
		{"back a little", -4 * time.Minute, 0},
		{"back", -6 * time.Minute, fault.ClockBack},
		{"back ten years", -10 * 365 * 24 * time.Hour, fault.ClockBack},
		{"ahead a little", 23 * time.Hour, 0},
		{"ahead", 25 * time.Hour, fault.ClockAhead},
		{"ahead thirty years", 30 * 365 * 24 * time.Hour, fault.ClockAhead},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := &hands{wall: noon}
			store := &markStore{}
			k := newClock(t, store, h)
			for range 100 { // a busy day, and a quiet week, are no jumps
				h.pass(15 * time.Minute)
				must(t, k.MayIssue())
			}
			h.pass(7 * 24 * time.Hour)
			must(t, k.MayIssue())
			h.wall = h.wall.Add(tt.jump)
			err := k.MayIssue()
			if tt.want == 0 {
				must(t, err)
				return
			}
			refused(t, err, tt.want)
			h.pass(time.Hour)
			refused(t, k.MayIssue(), tt.want) // it does not forget
			must(t, k.Save(t.Context()))
			if store.mark.After(noon.Add(9 * 24 * time.Hour)) {
				t.Errorf("the wrong time %s was saved", store.mark)
			}
			must(t, k.Accept(t.Context(), "local:root"))
			must(t, k.MayIssue())
			if store.accepted != 1 {
				t.Error("accepting is not on record")
			}
		})
	}
}

func TestClockAtStart(t *testing.T) {
	tests := []struct {
		name string
		off  time.Duration // how far the clock is from the mark at start
		want fault.Code
	}{
		{"right away", time.Second, 0},
		{"after a long weekend", 4 * 24 * time.Hour, 0},
		{"before the mark", -6 * time.Minute, fault.ClockBack},
		{"at the epoch", -56 * 365 * 24 * time.Hour, fault.ClockBack},
		{"far ahead", 31 * 24 * time.Hour, fault.ClockAhead},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := newClock(t, &markStore{mark: noon}, &hands{wall: noon.Add(tt.off)})
			err := k.MayIssue()
			if tt.want == 0 {
				must(t, err)
				return
			}
			refused(t, err, tt.want)
		})
	}
}

func TestClockSavesItsMark(t *testing.T) {
	h := &hands{wall: noon}
	store := &markStore{}
	k := newClock(t, store, h)
	h.pass(time.Minute)
	must(t, k.MayIssue())
	must(t, k.Save(t.Context()))
	if !store.mark.Equal(noon.Add(time.Minute)) {
		t.Errorf("mark %s", store.mark)
	}
}

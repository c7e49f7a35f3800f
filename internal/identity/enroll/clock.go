package enroll

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// Limits of what a clock may do before issuing stops.
const (
	maxBack  = 5 * time.Minute
	maxAhead = 24 * time.Hour
	// maxGap is how long an installation may have been switched off before its
	// clock is doubted at start: nothing but the clock itself tells a long
	// rest from a wrong date.
	maxGap   = 30 * 24 * time.Hour
	markStep = 10 * time.Second
)

// ClockStore keeps the latest moment that was seen, in the database.
type ClockStore interface {
	ClockMark(ctx context.Context) (time.Time, error) // zero: none yet
	// SaveClockMark raises the mark and never lowers it.
	SaveClockMark(ctx context.Context, t time.Time) error
	// AcceptClock sets the mark, also to an earlier moment.
	AcceptClock(ctx context.Context, t time.Time, entries ...ledger.Entry) error
}

// Clock stops issuing when the clock of this machine cannot be right: it fell
// back behind what was seen before, or jumped ahead. An operator accepts a
// correction with Accept. Revocation and status go on.
type Clock struct {
	store     ClockStore
	now       func() time.Time
	monotonic func() time.Duration

	mu      sync.Mutex
	mark    time.Time     // latest accepted moment
	at      time.Duration // monotonic time of mark
	saved   time.Time     // what the database has
	refused error         // why issuing has stopped
}

// ClockConfig names what a Clock needs; all fields are required.
type ClockConfig struct {
	Store ClockStore
	Now   func() time.Time
	// Monotonic is a clock that nobody sets, from any zero.
	Monotonic func() time.Duration
}

// NewClock reads the mark and judges the clock once.
func NewClock(ctx context.Context, c ClockConfig) (*Clock, error) {
	if c.Store == nil || c.Now == nil || c.Monotonic == nil {
		return nil, errors.New("clock: every field of ClockConfig is required")
	}
	mark, err := c.Store.ClockMark(ctx)
	if err != nil {
		return nil, err
	}
	k := &Clock{store: c.Store, now: c.Now, monotonic: c.Monotonic, saved: mark}
	now := k.now()
	k.mark, k.at = now, k.monotonic()
	if mark.IsZero() {
		return k, nil
	}
	switch {
	case now.Before(mark.Add(-maxBack)):
		k.refused = fault.New(fault.ClockBack)
		k.mark = mark
	case now.After(mark.Add(maxGap)):
		k.refused = fault.New(fault.ClockAhead)
		k.mark = mark
	}
	return k, nil
}

// MayIssue returns nil while the clock can be believed.
func (k *Clock) MayIssue() error {
	now, mono := k.now(), k.monotonic()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.refused != nil {
		return k.refused
	}
	expected := k.mark.Add(mono - k.at)
	switch {
	case now.Before(expected.Add(-maxBack)):
		k.refused = fault.New(fault.ClockBack)
	case now.After(expected.Add(maxAhead)):
		k.refused = fault.New(fault.ClockAhead)
	case now.After(k.mark):
		k.mark, k.at = now, mono
	}
	return k.refused
}

// Save writes the mark if it has moved on; call it every few seconds.
func (k *Clock) Save(ctx context.Context) error {
	k.mu.Lock()
	mark, due := k.mark, k.refused == nil && k.mark.Sub(k.saved) >= markStep
	k.mu.Unlock()
	if !due {
		return nil
	}
	if err := k.store.SaveClockMark(ctx, mark); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.saved = mark
	return nil
}

// Accept takes the clock as it is now for right, on an operator's word.
func (k *Clock) Accept(ctx context.Context, actor string) error {
	now, mono := k.now(), k.monotonic()
	err := k.store.AcceptClock(ctx, now, ledger.Entry{
		Kind: ledger.ClockAccepted, At: now, Actor: actor,
		Body: ledger.JSON(map[string]string{"now": now.UTC().Format(time.RFC3339)}),
	})
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mark, k.at, k.saved, k.refused = now, mono, now, nil
	return nil
}

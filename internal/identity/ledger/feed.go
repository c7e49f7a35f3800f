package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
)

const (
	feedPage = 4096
	// feedGap is the least time between two looks at the database while commits
	// follow one another; it adds that much to the age of a cache.
	feedGap = 10 * time.Millisecond
)

// Feed tells caches of committed entries, in order, on every node. The cursor
// is the truth; a hint only makes the next look come sooner. Entries are told
// at least once: a subscriber that fails is told the same batch again.
type Feed struct {
	cfg FeedConfig

	mu          sync.Mutex
	subscribers []subscriber  // guarded by mu
	cursor      int64         // entries below it were told; guarded by mu
	seen        time.Time     // when the cursor was known to be the end; guarded by mu
	moved       chan struct{} // closed when the cursor moves; guarded by mu
}

type subscriber struct {
	mask Class
	fn   func(context.Context, Batch) error
}

// FeedStore is what a Feed needs of the database.
type FeedStore interface {
	LedgerSize(ctx context.Context) (int64, error)
	LedgerBatches(ctx context.Context, from int64, mask Class, limit int) ([]Batch, error)
}

// FeedConfig names what a Feed needs. Store, Now and Logger are required.
type FeedConfig struct {
	Store FeedStore
	// Changed returns a channel that is closed by the next commit that this
	// process knows of. Nil: there are no hints.
	Changed  func() <-chan struct{}
	Now      func() time.Time
	Logger   *slog.Logger
	Interval time.Duration // how often to look without a hint; default 250 ms
}

// OpenFeed returns a feed that begins after what is committed now. Open it
// before caches load: what they load is at least as new as its beginning.
func OpenFeed(ctx context.Context, cfg FeedConfig) (*Feed, error) {
	if cfg.Store == nil || cfg.Now == nil || cfg.Logger == nil {
		return nil, errors.New("feed: store, clock and logger are required")
	}
	if cfg.Interval <= 0 {
		cfg.Interval = 250 * time.Millisecond
	}
	if cfg.Changed == nil {
		cfg.Changed = func() <-chan struct{} { return nil }
	}
	now := cfg.Now()
	size, err := cfg.Store.LedgerSize(ctx)
	if err != nil {
		return nil, err
	}
	return &Feed{cfg: cfg, cursor: size, seen: now, moved: make(chan struct{})}, nil
}

// Subscribe has fn called with each batch that holds one of the classes. Calls
// come one at a time and must be quick; all other subscribers wait. The batch
// may hold leaves of other classes too: Batch.Each picks.
func (f *Feed) Subscribe(mask Class, fn func(context.Context, Batch) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subscribers = append(f.subscribers, subscriber{mask, fn})
}

// Cursor returns the index below which every subscriber was told.
func (f *Feed) Cursor() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cursor
}

// Fresh reports whether, less than limit ago, all that was committed had been
// told. A cache behind a feed that is not fresh must not be believed.
func (f *Feed) Fresh(now time.Time, limit time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return now.Sub(f.seen) < limit
}

// Caught waits until every entry below size was told.
func (f *Feed) Caught(ctx context.Context, size int64) error {
	for {
		f.mu.Lock()
		cursor, moved := f.cursor, f.moved
		f.mu.Unlock()
		if cursor >= size {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-moved:
		}
	}
}

// Run follows the ledger until the context ends.
func (f *Feed) Run(ctx context.Context) error {
	failing := false
	for {
		changed := f.cfg.Changed()
		err := f.follow(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && !failing {
			f.cfg.Logger.Warn("the change feed does not move", "error", err, "cause", errors.Unwrap(err))
		}
		failing = err != nil
		if err := f.wait(ctx, changed); err != nil {
			return err
		}
	}
}

func (f *Feed) wait(ctx context.Context, changed <-chan struct{}) error {
	timer := time.NewTimer(f.cfg.Interval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	case <-changed:
	}
	timer.Reset(feedGap)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// follow tells all that is committed now.
func (f *Feed) follow(ctx context.Context) error {
	now := f.cfg.Now()
	size, err := f.cfg.Store.LedgerSize(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	cursor, subscribers := f.cursor, f.subscribers
	f.mu.Unlock()
	if size < cursor {
		return fault.New(fault.LedgerRolledBack, fmt.Sprintf("%d entries were told, %d are left", cursor, size))
	}
	var mask Class
	for _, s := range subscribers {
		mask |= s.mask
	}
	if mask == 0 {
		cursor = size
	}
	for cursor < size {
		batches, err := f.cfg.Store.LedgerBatches(ctx, cursor, mask, feedPage)
		if err != nil {
			return err
		}
		next := cursor
		for _, b := range batches {
			if err := tell(ctx, subscribers, b); err != nil {
				return err
			}
			next = b.First + int64(len(b.Leaves))
			f.moveTo(next)
		}
		if next <= cursor {
			return missing(cursor)
		}
		cursor = next
	}
	f.moveTo(cursor)
	f.mu.Lock()
	f.seen = now
	f.mu.Unlock()
	return nil
}

func tell(ctx context.Context, subscribers []subscriber, b Batch) error {
	for _, s := range subscribers {
		if s.mask&b.Classes == 0 {
			continue
		}
		if err := s.fn(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

func (f *Feed) moveTo(cursor int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if cursor > f.cursor {
		f.cursor = cursor
		close(f.moved)
		f.moved = make(chan struct{})
	}
}

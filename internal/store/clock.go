package store

import (
	"context"
	"time"

	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// ClockMark returns the latest time that was ever recorded, zero in a new
// database. A clock that stands far from it is not believed.
func (s *Store) ClockMark(ctx context.Context) (mark time.Time, err error) {
	err = s.read.row(ctx, "SELECT mark_at FROM clock_mark WHERE id = 1").Scan(at(&mark))
	return mark, err
}

// SaveClockMark raises the mark; it never lowers it. Call it every few seconds,
// not with each commit.
func (s *Store) SaveClockMark(ctx context.Context, mark time.Time) error {
	return s.write(ctx, func(t *tx) error {
		_, err := t.exec(ctx, "UPDATE clock_mark SET mark_at = $1 WHERE id = 1 AND mark_at < $1", mark)
		return err
	})
}

// AcceptClock sets the mark to what an operator declared to be the time, also
// backwards.
func (s *Store) AcceptClock(ctx context.Context, mark time.Time, entries ...ledger.Entry) error {
	return s.write(ctx, func(t *tx) error {
		_, err := t.exec(ctx, "UPDATE clock_mark SET mark_at = $1 WHERE id = 1", mark)
		return err
	}, entries...)
}

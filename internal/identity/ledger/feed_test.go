package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func openTestFeed(t *testing.T, m *memory, changed func() <-chan struct{}) *Feed {
	t.Helper()
	f, err := OpenFeed(t.Context(), FeedConfig{Store: m, Changed: changed, Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// runFeed runs the feed until the test is over.
func runFeed(t *testing.T, f *Feed) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- f.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	}
}

func TestFeedTellsEachSubscriberItsClasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.append(ClassStatus, []byte("before"))
		f := openTestFeed(t, m, nil)
		var status, control []string
		note := func(to *[]string) func(context.Context, Batch) error {
			return func(_ context.Context, b Batch) error {
				*to = append(*to, fmt.Sprintf("%d+%d", b.First, len(b.Leaves)))
				return nil
			}
		}
		f.Subscribe(ClassStatus, note(&status))
		f.Subscribe(ClassControl|ClassAccess, note(&control))
		stop := runFeed(t, f)
		m.append(ClassIssuance, []byte("1"), []byte("2"))
		m.append(ClassStatus|ClassIssuance, []byte("3"), []byte("4"))
		m.append(ClassAccess, []byte("5"))
		m.append(^Class(0), []byte("6"))
		if err := f.Caught(t.Context(), m.size); err != nil {
			t.Fatal(err)
		}
		stop()
		if want := []string{"3+2", "6+1"}; !slices.Equal(status, want) {
			t.Errorf("status was told %v, want %v", status, want)
		}
		if want := []string{"5+1", "6+1"}; !slices.Equal(control, want) {
			t.Errorf("control was told %v, want %v", control, want)
		}
	})
}

func TestFeedTellsManyPagesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		f := openTestFeed(t, m, nil)
		next := int64(0)
		f.Subscribe(ClassIssuance, func(_ context.Context, b Batch) error {
			if b.First != next {
				t.Fatalf("told %d, want %d", b.First, next)
			}
			next += int64(len(b.Leaves))
			return nil
		})
		for range 5000 {
			m.append(ClassIssuance, []byte("a"), []byte("b"))
		}
		stop := runFeed(t, f)
		if err := f.Caught(t.Context(), m.size); err != nil || next != m.size {
			t.Errorf("told %d of %d, %v", next, m.size, err)
		}
		stop()
	})
}

func TestFeedTellsAgainAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		f := openTestFeed(t, m, nil)
		told, failures := 0, 3
		f.Subscribe(ClassStatus, func(context.Context, Batch) error {
			if failures > 0 {
				failures--
				return errInjected
			}
			told++
			return nil
		})
		stop := runFeed(t, f)
		m.append(ClassStatus, []byte("x"))
		m.mu.Lock()
		m.fail = failOnce("batches", 0)
		m.mu.Unlock()
		if err := f.Caught(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		stop()
		if told != 1 || failures != 0 {
			t.Errorf("told %d times with %d failures left", told, failures)
		}
	})
}

func TestFeedHintComesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		changed := make(chan struct{})
		f := openTestFeed(t, m, func() <-chan struct{} { return changed })
		stop := runFeed(t, f)
		synctest.Wait()
		start := time.Now()
		m.append(ClassStatus, []byte("x"))
		close(changed)
		if err := f.Caught(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > feedGap {
			t.Errorf("told after %s", d)
		}
		stop()
	})
}

func TestIdleFeedOnlyLooksAtTheSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.append(ClassStatus, []byte("x"))
		f := openTestFeed(t, m, nil)
		f.Subscribe(^Class(0), func(context.Context, Batch) error { return nil })
		stop := runFeed(t, f)
		m.mu.Lock()
		m.reads = 0
		m.mu.Unlock()
		time.Sleep(10 * time.Second)
		stop()
		if m.reads > 41 {
			t.Errorf("%d reads in ten idle seconds", m.reads)
		}
	})
}

func TestFeedIsNotFreshWhileTheDatabaseIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		f := openTestFeed(t, m, nil)
		stop := runFeed(t, f)
		time.Sleep(time.Minute)
		if !f.Fresh(time.Now(), 2*time.Second) {
			t.Error("an idle feed must be fresh")
		}
		m.mu.Lock()
		m.fail = func(string) error { return errInjected }
		m.mu.Unlock()
		time.Sleep(3 * time.Second)
		if f.Fresh(time.Now(), 2*time.Second) {
			t.Error("fresh without a database")
		}
		m.mu.Lock()
		m.fail = nil
		m.mu.Unlock()
		time.Sleep(time.Second)
		if !f.Fresh(time.Now(), 2*time.Second) {
			t.Error("not fresh when the database is back")
		}
		stop()
	})
}

func TestCaughtEndsWithItsContext(t *testing.T) {
	f := openTestFeed(t, newMemory(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Caught(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

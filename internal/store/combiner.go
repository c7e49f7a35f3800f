package store

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/birthmark/birthmark/internal/fault"
)

// combiner joins what several callers want at the same time into groups. There
// is no goroutine of its own: who comes first leads a group and takes with it
// whoever is queued by then; alone, it waits for nobody and wakes nobody. As soon
// as another group may run, the lead passes on to the first who waits.
type combiner[T any] struct {
	most int // members of a group
	// backlog, if not 0, is how many must wait for a second group to set out
	// before the first one is back.
	backlog int
	// run does a group's work; release may be called once another group may run,
	// at the latest it is when run returns.
	run func(group []T, release func())

	crowded atomic.Bool // the newest group had more than one member

	mu      sync.Mutex
	queue   []*member[T] // guarded by mu
	leaders int          // guarded by mu
	closed  bool         // guarded by mu
	inside  sync.WaitGroup
}

// member is one who waits.
type member[T any] struct {
	item T
	err  error     // the group's work ended in a panic
	turn chan bool // true: lead the next group; false: the work is done
}

// submit has the item's work done with a group's. Once it is queued the outcome
// is awaited whatever becomes of ctx.
func (c *combiner[T]) submit(ctx context.Context, item T) error {
	m := &member[T]{item: item, turn: make(chan bool, 1)}
	lead, err := c.join(ctx, m)
	if err != nil {
		return err
	}
	defer c.inside.Done()
	for {
		if !lead {
			lead = <-m.turn
		}
		if !lead || c.lead(m) {
			return m.err
		}
		lead = false
	}
}

// join queues m; lead reports that it leads the next group.
func (c *combiner[T]) join(ctx context.Context, m *member[T]) (lead bool, err error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false, fault.New(fault.ShuttingDown)
	}
	c.inside.Add(1)
	c.queue = append(c.queue, m)
	if c.leaders == 0 || c.backlog > 0 && c.leaders == 1 && len(c.queue) >= c.backlog {
		c.leaders++
		return true, nil
	}
	return false, nil
}

// lead does the work of one group; done reports that own was in it. It was not
// if more were queued before it than a group takes.
func (c *combiner[T]) lead(own *member[T]) (done bool) {
	// Who is ready to run goes first: what they bring joins this group. Yielding
	// wakes a thread, so nobody yields for nobody.
	if c.crowded.Load() {
		runtime.Gosched()
	}
	group := c.collect()
	c.crowded.Store(len(group) > 1)
	release := sync.OnceFunc(c.release)
	defer release()
	items := make([]T, len(group))
	for i, m := range group {
		items[i] = m.item
		done = done || m == own
	}
	finished := false
	defer func() {
		for _, m := range group {
			if !finished { // a panic goes up to who leads; the others are not left waiting
				m.err = fault.New(fault.Unexpected)
			}
			if m != own {
				m.turn <- false
			}
		}
	}()
	if len(items) > 0 {
		c.run(items, release)
	}
	finished = true
	return done
}

func (c *combiner[T]) collect() []*member[T] {
	c.mu.Lock()
	defer c.mu.Unlock()
	group := c.queue
	if len(group) > c.most {
		group = group[:c.most:c.most]
	}
	c.queue = c.queue[len(group):]
	return group
}

// release passes the lead on.
func (c *combiner[T]) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 || c.leaders > 1 {
		c.leaders--
		return
	}
	c.queue[0].turn <- true
}

// close refuses what comes and waits for what is inside.
func (c *combiner[T]) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.inside.Wait()
}

package store

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/birthmark/birthmark/internal/fault"
)

// maxGroup bounds a group: its transaction stays far below 50 ms.
const maxGroup = 512

// backlog is how many must wait for a second group to set out before the first
// one is back, on an engine where groups overlap. Smaller groups cost more than
// the overlap gains: each has its statements, its sync and its row locks.
const backlog = 64

// committer joins what is to be stored into groups. There is no goroutine of its
// own: who comes first leads a group and takes with it whoever is queued by
// then; alone, it waits for nobody and wakes nobody. As soon as another group
// may run, the lead passes on to the first who waits.
type committer struct {
	overlaps bool // a second group may set out while one is on its way

	crowded atomic.Bool // the newest group had more than one member

	mu      sync.Mutex
	queue   []*pending // guarded by mu
	leaders int        // guarded by mu
	closed  bool       // guarded by mu
	inside  sync.WaitGroup
}

// submit has p stored with a group and returns once its outcome is set.
func (c *committer) submit(ctx context.Context, p *pending, commit func(group []*pending, release func())) error {
	lead, err := c.join(ctx, p)
	if err != nil {
		return err
	}
	defer c.inside.Done()
	for {
		if !lead {
			lead = <-p.turn
		}
		if !lead {
			return nil
		}
		if c.lead(p, commit) {
			return nil
		}
		lead = false
	}
}

// join queues p; lead reports that it leads the next group.
func (c *committer) join(ctx context.Context, p *pending) (lead bool, err error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false, fault.New(fault.ShuttingDown)
	}
	c.inside.Add(1)
	c.queue = append(c.queue, p)
	p.turn = make(chan bool, 1)
	if c.leaders == 0 || c.overlaps && c.leaders == 1 && len(c.queue) >= backlog {
		c.leaders++
		return true, nil
	}
	return false, nil
}

// lead commits one group; done reports that own was in it. It was not if more
// were queued before it than a group takes.
func (c *committer) lead(own *pending, commit func(group []*pending, release func())) (done bool) {
	// Who is ready to run goes first: what they bring joins this group, and
	// shares its sync. Yielding wakes a thread, so nobody yields for nobody.
	if c.crowded.Load() {
		runtime.Gosched()
	}
	group := c.collect()
	c.crowded.Store(len(group) > 1)
	release := sync.OnceFunc(c.release)
	defer release()
	finished := false
	defer func() {
		for _, p := range group {
			if !finished { // a panic goes up to who leads; the others are not left waiting
				p.err = fault.New(fault.Unexpected)
			}
			if p != own {
				p.turn <- false
			}
		}
	}()
	if len(group) > 0 {
		commit(group, release)
	}
	finished = true
	return slices.Contains(group, own)
}

func (c *committer) collect() []*pending {
	c.mu.Lock()
	defer c.mu.Unlock()
	group := c.queue
	if len(group) > maxGroup {
		group = group[:maxGroup:maxGroup]
	}
	c.queue = c.queue[len(group):]
	return group
}

// release passes the lead on.
func (c *committer) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 || c.leaders > 1 {
		c.leaders--
		return
	}
	c.queue[0].turn <- true
}

// close refuses what comes and waits for what is inside.
func (c *committer) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.inside.Wait()
}

// Package session keeps a bounded number of sessions with hardware that signs: a
// PKCS #11 token, a TPM. Such hardware may hang, and a call into it cannot be
// interrupted; so each session belongs to a goroutine of its own, and whoever
// waits for an answer stops waiting when his time is over. A session that
// answers at last is used again; while all of them hang, callers are told at
// once. Sessions are opened when they are needed, and opened again after they
// broke, for a token that was drawn and put back.
package session

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
)

// Config says how sessions are opened.
type Config[S any] struct {
	Open  func(context.Context) (S, error)
	Close func(S)
	// Broken reports whether an error means that the session must be opened anew
	// and the call be made again, once.
	Broken func(error) bool
	// Exhausted reports whether Open failed because the hardware has no more
	// sessions: fewer are used then.
	Exhausted func(error) bool
	Most      int           // sessions; default 4
	Wait      time.Duration // the longest that a call takes; default 10 seconds
}

// Pool is a number of sessions. It may be used by many goroutines.
type Pool[S any] struct {
	c      Config[S]
	jobs   chan *job[S]
	ending chan struct{} // closed by Close

	mu     sync.Mutex
	most   int  // guarded by mu
	live   int  // guarded by mu; goroutines
	stuck  int  // guarded by mu; of them in calls that nobody waits for
	closed bool // guarded by mu
}

// job is one call.
type job[S any] struct {
	ctx  context.Context
	call func(S) error
	fail func(error)
	done chan struct{}

	state state // guarded by the pool's mu
}

// state says how far a job is.
type state uint8

const (
	waiting state = iota
	running
	abandoned
)

// New returns a pool without sessions.
func New[S any](c Config[S]) (*Pool[S], error) {
	if c.Open == nil || c.Close == nil || c.Broken == nil || c.Exhausted == nil {
		return nil, errors.New("session: Open, Close, Broken and Exhausted are needed")
	}
	if c.Most == 0 {
		c.Most = 4
	}
	if c.Wait == 0 {
		c.Wait = 10 * time.Second
	}
	return &Pool[S]{c: c, jobs: make(chan *job[S]), ending: make(chan struct{}), most: c.Most}, nil
}

// Most is how many sessions there may be.
func (p *Pool[S]) Most() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.most
}

// Do makes a call in a session and returns what it returns. Without a free
// session in time it returns fault.TokenSessions, without an answer in time
// fault.TokenFailed; the call may go on then, so it must share nothing with the
// caller that changes.
func Do[S, R any](ctx context.Context, p *Pool[S], call func(S) (R, error)) (R, error) {
	type outcome struct {
		result R
		err    error
	}
	ctx, cancel := context.WithTimeout(ctx, p.c.Wait)
	defer cancel()
	var got outcome
	j := &job[S]{ctx: ctx, done: make(chan struct{})}
	j.call = func(s S) (err error) { got.result, err = call(s); return err }
	j.fail = func(err error) { got.err = err }
	if err := p.submit(j); err != nil {
		return outcome{}.result, err
	}
	select {
	case <-j.done:
		return got.result, got.err
	case <-ctx.Done():
	}
	select {
	case <-j.done: // both at once
		return got.result, got.err
	default:
	}
	return outcome{}.result, p.abandon(j)
}

// submit gives the job to a session that is idle, to a new one, or waits.
func (p *Pool[S]) submit(j *job[S]) error {
	p.mu.Lock()
	switch {
	case p.closed:
		p.mu.Unlock()
		return fault.New(fault.ShuttingDown)
	case p.live > 0 && p.live >= p.most && p.stuck >= p.live:
		p.mu.Unlock()
		return fault.New(fault.TokenFailed, "it does not answer; all sessions hang")
	}
	p.mu.Unlock()
	select {
	case p.jobs <- j:
		return nil
	default:
	}
	p.mu.Lock()
	if p.live < p.most && !p.closed {
		p.live++
		p.mu.Unlock()
		go p.work(j)
		return nil
	}
	p.mu.Unlock()
	select {
	case p.jobs <- j:
		return nil
	case <-j.ctx.Done():
		return fault.Wrap(fault.TokenSessions, context.Cause(j.ctx), "all are in use")
	}
}

// abandon gives up waiting.
func (p *Pool[S]) abandon(j *job[S]) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if j.state == running {
		p.stuck++
	}
	j.state = abandoned
	return fault.Wrap(fault.TokenFailed, context.Cause(j.ctx), "it does not answer in time")
}

// work is a session's goroutine.
func (p *Pool[S]) work(j *job[S]) {
	var s S
	open := false
	for ; j != nil; j = p.next() {
		if !p.begin(j) {
			continue
		}
		var err error
		if open {
			if err = j.call(s); err != nil && p.c.Broken(err) {
				p.c.Close(s)
				open = false
			}
		}
		if !open {
			var leave bool
			if s, leave, err = p.open(j.ctx); leave {
				p.handOn(j)
				return
			}
			if err == nil {
				open = true
				if err = j.call(s); err != nil && p.c.Broken(err) {
					p.c.Close(s)
					open = false
				}
			}
		}
		p.end(j, err)
	}
	if open {
		p.c.Close(s)
	}
}

// next returns the next job, nil at the end.
func (p *Pool[S]) next() *job[S] {
	select {
	case j := <-p.jobs:
		return j
	case <-p.ending:
		return nil
	}
}

// pause is how long a lone session waits before it asks for itself again.
const pause = 100 * time.Millisecond

// open opens a session. If the hardware has no more, leave says that the
// goroutine is one too many and does not count any longer. The last one waits for
// other programs to give a session back.
func (p *Pool[S]) open(ctx context.Context) (s S, leave bool, err error) {
	for {
		s, err = p.c.Open(ctx)
		if err == nil || !p.c.Exhausted(err) {
			return s, false, err
		}
		if p.shrink() {
			return s, true, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return s, false, err
		}
	}
}

// shrink takes one goroutine out of the count, if others are left.
func (p *Pool[S]) shrink() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live < 2 {
		return false
	}
	p.live--
	p.most = min(p.most, p.live)
	return true
}

// handOn leaves a job to another session.
func (p *Pool[S]) handOn(j *job[S]) {
	p.mu.Lock()
	if j.state == abandoned {
		p.stuck--
		p.mu.Unlock()
		return
	}
	j.state = waiting
	p.mu.Unlock()
	select {
	case p.jobs <- j:
	case <-j.ctx.Done():
	case <-p.ending:
	}
}

// begin reports whether somebody still waits for the job.
func (p *Pool[S]) begin(j *job[S]) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if j.state == abandoned || j.ctx.Err() != nil {
		return false
	}
	j.state = running
	return true
}

// end answers a job, if somebody still waits for it.
func (p *Pool[S]) end(j *job[S], err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if j.state == abandoned {
		p.stuck--
		return
	}
	j.fail(err)
	close(j.done)
}

// Close closes all sessions that are idle, and others as they come back.
func (p *Pool[S]) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.closed = true
		close(p.ending)
	}
}

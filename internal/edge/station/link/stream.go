package link

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
)

// inFlight is how many items of one stream wait for their answers at once; the
// server works on as many.
const inFlight = 64

// maxResult is the longest line of an answer.
const maxResult = 2 * station.MaxLine

// Stream sends items of one kind over a request that stays open and gives each
// caller its own answer. It opens when it is needed and ends when nothing comes
// for a while. Items are sent as they come; those that come together leave
// together.
type Stream struct {
	c     *Client
	path  string
	slots chan struct{}

	mu  sync.Mutex
	now *flow // nil: none is open; guarded by mu
}

// stream returns the stream of a path.
func (c *Client) stream(path string) *Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[path]
	if s == nil {
		s = &Stream{c: c, path: path, slots: make(chan struct{}, inFlight)}
		c.streams[path] = s
	}
	return s
}

// Unit asks for the initial identity of a unit. A result that is not OK is a
// refusal; an error means that there is no answer, and the same may be sent
// again.
func (c *Client) Unit(ctx context.Context, u *station.Unit) (station.Result, error) {
	return c.stream(station.UnitsPath).do(ctx, u.ID, func(dst []byte, id string) []byte {
		sent := *u
		sent.ID = id
		return appendUnit(dst, &sent)
	})
}

// Challenge asks for what only the TPM of a unit can answer.
func (c *Client) Challenge(ctx context.Context, u *station.ChallengeRequest) (station.Result, error) {
	return c.stream(station.ChallengePath).do(ctx, u.ID, func(dst []byte, id string) []byte {
		sent := *u
		sent.ID = id
		return appendJSON(dst, &sent)
	})
}

// Confirm returns what a device has after provisioning.
func (c *Client) Confirm(ctx context.Context, u *station.Confirm) (station.Result, error) {
	return c.stream(station.ConfirmPath).do(ctx, u.ID, func(dst []byte, id string) []byte {
		sent := *u
		sent.ID = id
		return appendConfirm(dst, &sent)
	})
}

// Scrap ends a unit.
func (c *Client) Scrap(ctx context.Context, u *station.Scrap) (station.Result, error) {
	return c.stream(station.ScrapPath).do(ctx, u.ID, func(dst []byte, id string) []byte {
		sent := *u
		sent.ID = id
		return appendJSON(dst, &sent)
	})
}

// Failed reports an attempt that failed at the line.
func (c *Client) Failed(ctx context.Context, u *station.Failed) (station.Result, error) {
	return c.stream(station.FailedPath).do(ctx, u.ID, func(dst []byte, id string) []byte {
		sent := *u
		sent.ID = id
		return appendJSON(dst, &sent)
	})
}

func (s *Stream) do(ctx context.Context, id string, line func(dst []byte, id string) []byte) (station.Result, error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return station.Result{}, noAnswer(ctx.Err())
	}
	for {
		f, fresh := s.open()
		result, err := f.do(ctx, line)
		result.ID = id
		switch {
		case errors.Is(err, errEnded) && ctx.Err() == nil:
			// The stream ended between two items: another is opened for this one. On a fresh
			// one it is the server's doing.
			if !fresh {
				continue
			}
			err = fault.New(fault.StationLink, "the server ended the stream")
		case err == nil && result.Code == fault.StationCertificate.String() && f.generation != s.c.generation.Load():
			continue // it was asked with the certificate before
		}
		if err != nil {
			return station.Result{}, noAnswer(err)
		}
		return result, nil
	}
}

// open returns the flow for the next item, and whether it was made for it.
func (s *Stream) open() (*flow, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now != nil && s.now.usable() {
		return s.now, false
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	s.now = &flow{
		generation: s.c.generation.Load(), timeout: s.c.timeout, idle: s.c.idle, ctx: ctx, cancel: cancel,
		waiting: map[string]chan station.Result{}, wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	go s.now.run(s.c, s.path)
	return s.now, true
}

func (s *Stream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now != nil {
		s.now.end()
		s.now = nil
	}
}

// errEnded says that a flow took no more items, or did not answer this one.
var errEnded = errors.New("the stream ended")

// flow is one open request. It is the request's body, too: the transport reads
// lines from it.
type flow struct {
	generation int64 // of the station's certificate when it was opened
	timeout    time.Duration
	idle       time.Duration
	ctx        context.Context // of the request, which outlives the callers
	cancel     context.CancelCauseFunc
	wake       chan struct{} // there is something to send, or the end
	done       chan struct{} // closed when no more answers come

	mu      sync.Mutex
	out     []byte // lines not sent yet; guarded by mu
	sent    []byte // lines being read by the transport; only Read uses it
	next    int64  // guarded by mu
	ended   bool   // no more items are taken; guarded by mu
	err     error  // why no more answers come; set before done is closed
	waiting map[string]chan station.Result
}

func (f *flow) usable() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.ended
}

// end takes no more items; what is under way is answered.
func (f *flow) end() {
	f.mu.Lock()
	f.ended = true
	f.mu.Unlock()
	f.signal()
}

func (f *flow) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// answers are reused: each holds at most the one answer to its item.
var answers = sync.Pool{New: func() any { return make(chan station.Result, 1) }}

func (f *flow) do(ctx context.Context, line func(dst []byte, id string) []byte) (station.Result, error) {
	answer := answers.Get().(chan station.Result)
	f.mu.Lock()
	if f.ended {
		f.mu.Unlock()
		return station.Result{}, errEnded
	}
	f.next++
	id := strconv.FormatInt(f.next, 10)
	before := len(f.out)
	f.out = line(f.out, id)
	if len(f.out)-before > station.MaxLine {
		f.out = f.out[:before]
		f.mu.Unlock()
		return station.Result{}, fault.New(fault.RequestTooLarge, "one unit")
	}
	f.waiting[id] = answer
	f.mu.Unlock()
	f.signal()

	late := time.NewTimer(f.timeout)
	defer late.Stop()
	select {
	case r := <-answer:
		answers.Put(answer)
		return r, nil
	case <-f.done:
		select {
		case r := <-answer: // it came just before the end
			return r, nil
		default:
			return station.Result{}, f.err
		}
	case <-late.C:
		// A stream that answers one item too late is not worth waiting for.
		f.cancel(context.DeadlineExceeded)
		return station.Result{}, context.DeadlineExceeded
	case <-ctx.Done():
		f.forget(id)
		return station.Result{}, ctx.Err()
	}
}

// forget lets the answer to an item go by.
func (f *flow) forget(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.waiting[id]; ok {
		f.waiting[id] = nil
	}
}

// Read gives the transport what is to be sent.
func (f *flow) Read(p []byte) (int, error) {
	if len(f.sent) == 0 {
		if err := f.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, f.sent)
	f.sent = f.sent[n:]
	return n, nil
}

// fill waits for lines.
func (f *flow) fill() error {
	idle := time.NewTimer(f.idle)
	defer idle.Stop()
	for {
		f.mu.Lock()
		switch {
		case len(f.out) > 0:
			f.sent, f.out = f.out, nil
			f.mu.Unlock()
			return nil
		case f.ended:
			f.mu.Unlock()
			return io.EOF
		}
		f.mu.Unlock()
		select {
		case <-f.wake:
		case <-idle.C:
			f.endIfQuiet()
			idle.Reset(f.idle)
		case <-f.ctx.Done():
			return context.Cause(f.ctx)
		}
	}
}

// endIfQuiet ends a flow on which nobody waits.
func (f *flow) endIfQuiet() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.waiting) == 0 {
		f.ended = true
	}
}

// Close is called by the transport when it reads no more.
func (f *flow) Close() error { return nil }

// run sends the request and gives out the answers until they end.
func (f *flow) run(c *Client, path string) {
	err := f.exchange(c, path)
	if err == nil {
		err = errEnded
	} else if cause := context.Cause(f.ctx); cause != nil {
		err = cause
	}
	f.mu.Lock()
	f.ended, f.err = true, err
	f.mu.Unlock()
	f.cancel(err)
	close(f.done)
}

func (f *flow) exchange(c *Client, path string) error {
	req, err := http.NewRequestWithContext(f.ctx, http.MethodPost, c.base+path, f)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", station.LinesType)
	req.Header.Set("Accept", station.LinesType)
	resp, err := c.http.Load().Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return refusedCall(resp)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 16<<10), maxResult)
	lines.Split(wholeLines)
	for lines.Scan() {
		if err := f.give(lines.Bytes()); err != nil {
			return err
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fault.New(fault.StationLink, "the server's answer is too long")
	}
	return lines.Err()
}

// wholeLines is bufio.ScanLines without the last line that has no end: it may be
// half of one.
func wholeLines(data []byte, atEOF bool) (int, []byte, error) {
	n, line, err := bufio.ScanLines(data, false)
	if atEOF && n == 0 && len(data) > 0 {
		return 0, nil, io.ErrUnexpectedEOF
	}
	return n, line, err
}

// give hands one answer to whoever waits for it.
func (f *flow) give(line []byte) error {
	if len(line) == 0 {
		return nil
	}
	var r station.Result
	if err := parseResult(line, &r); err != nil {
		return fault.Wrap(fault.StationLink, err, "the server's answer is not of the station protocol")
	}
	f.mu.Lock()
	answer, ok := f.waiting[r.ID]
	delete(f.waiting, r.ID)
	f.mu.Unlock()
	if !ok {
		return fault.New(fault.StationLink, "the server answered what was not asked")
	}
	if answer != nil {
		answer <- r
	}
	return nil
}

func parseResult(line []byte, r *station.Result) error { return json.Unmarshal(line, r) }

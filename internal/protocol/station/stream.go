package station

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
)

const (
	// inFlight is how many items of one stream are worked on at once.
	inFlight = 64
	// sendTime is how long a station may take to accept what is ready for it.
	sendTime = 30 * time.Second
	// budget is how many octets of a stream may be on their way at once; a line
	// costs lineCost times its length, since its answer may repeat it. Whoever
	// sends long lines and takes no answers fills no memory with them.
	budget   = 1 << 20
	lineCost = 4
	// readBuffer is how much is read at once; only a longer line takes more.
	readBuffer = 16 << 10
	// longest is a line with its end.
	longest = station.MaxLine + 1
	// keptBuffer is the longest buffer that is kept for another line.
	keptBuffer = 8 << 10
	// sendBuffer is how much is gathered before it is sent although more is ready.
	sendBuffer = 64 << 10
)

// work answers one line: it fills the result, or returns why not.
type work func(ctx context.Context, in []byte, result *station.Result) error

// stream answers lines with lines: up to inFlight at once, each answer sent as
// soon as it is there. Answers that are ready together leave together. What one
// line gets wrong is the answer to that line; the stream goes on. A station that
// does not take its answers is not read from any more.
func (h *Handlers) stream(w http.ResponseWriter, r *http.Request, do work) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	if strings.EqualFold(r.Header.Get("Expect"), "100-continue") {
		w.WriteHeader(http.StatusContinue) // once the answer has begun it could not be said any more
	}
	w.Header()["Content-Type"] = []string{station.LinesType}
	w.Header()["Cache-Control"] = []string{"no-store"}
	ready := make(chan *line, inFlight)
	sent := make(chan error, 1)
	room := semaphore.NewWeighted(budget)
	go func() {
		err := send(w, ready, room)
		if err != nil {
			cancel() // nobody hears the answers: begin nothing more
			_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0))
		}
		for l := range ready {
			l.done(room)
		}
		sent <- err
	}()
	err := h.readLines(ctx, r.Body, ready, room, do)
	close(ready)
	if sendErr := <-sent; sendErr != nil || err != nil {
		h.log.DebugContext(ctx, "a stream of a station was cut", "read", err, "send", sendErr)
		return http.ErrAbortHandler
	}
	return nil
}

// readLines has each line worked on and waits until all of it is done. It
// returns nil when the stream ended at a line's end, or nothing came for so long
// that the stream is closed.
func (h *Handlers) readLines(ctx context.Context, body io.Reader, ready chan<- *line, room *semaphore.Weighted, do work) error {
	in := lineReader{in: bufio.NewReaderSize(body, readBuffer)}
	crew := &crew{jobs: make(chan *line), do: func(l *line) {
		h.answer(ctx, l, do)
		ready <- l
	}}
	defer crew.dismiss()
	for ctx.Err() == nil {
		text, err := in.next()
		switch {
		case errors.Is(err, bufio.ErrTooLong):
			ready <- h.refused(fault.New(fault.RequestTooLarge, "a line"))
			continue
		case err != nil && len(text) > 0:
			// It may be half of a line: it is not acted on.
			ready <- h.refused(fault.New(fault.RequestMalformed, "the last line does not end"))
			return ended(err)
		case err != nil:
			return ended(err)
		case len(text) == 1:
			continue // an empty line keeps the connection awake
		}
		cost := min(int64(len(text))*lineCost, budget)
		if err := room.Acquire(ctx, cost); err != nil {
			return err
		}
		l := lines.Get().(*line)
		l.in, l.cost = append(l.in[:0], text...), cost
		crew.take(l)
	}
	return ctx.Err()
}

// crew is the goroutines that work on one stream: as many as are needed, at
// most inFlight. They are kept, since their stacks have grown to the work.
type crew struct {
	jobs    chan *line
	do      func(*line)
	size    int
	running sync.WaitGroup
}

// take gives a line to whoever is free, and waits while nobody is.
func (c *crew) take(l *line) {
	select {
	case c.jobs <- l:
		return
	default:
	}
	if c.size == inFlight {
		c.jobs <- l
		return
	}
	c.size++
	c.running.Go(func() {
		c.do(l)
		for l := range c.jobs {
			c.do(l)
		}
	})
}

// dismiss waits until all is done.
func (c *crew) dismiss() {
	close(c.jobs)
	c.running.Wait()
}

// lineReader reads lines. Its own memory is that of a short line: a thousand
// streams that say nothing cost little.
type lineReader struct {
	in   *bufio.Reader
	long []byte // of a line that is longer than in's buffer
}

// next returns the next line with its end, until the next call; bufio.ErrTooLong
// once a line that is too long has been passed over. What comes with any other
// error is no whole line.
func (r *lineReader) next() ([]byte, error) {
	r.long = nil
	text, err := r.in.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return text, err
	}
	for errors.Is(err, bufio.ErrBufferFull) && len(r.long)+len(text) <= longest {
		r.long = append(r.long, text...)
		text, err = r.in.ReadSlice('\n')
	}
	if len(r.long)+len(text) <= longest {
		r.long = append(r.long, text...)
		return r.long, err
	}
	r.long = nil
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = r.in.ReadSlice('\n')
	}
	if err == nil {
		err = bufio.ErrTooLong
	}
	return nil, err
}

// ended tells an end that is in order from one that is not.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// line is an item on its way: as it came and as it goes.
type line struct {
	in, out []byte
	cost    int64 // of the stream's budget
}

// done gives back what the line took.
func (l *line) done(room *semaphore.Weighted) {
	room.Release(l.cost)
	l.cost = 0
	if cap(l.in) <= keptBuffer && cap(l.out) <= keptBuffer {
		lines.Put(l)
	}
}

var lines = sync.Pool{New: func() any { return new(line) }}

func (h *Handlers) refused(err error) *line {
	l := lines.Get().(*line)
	result := station.Result{}
	h.refuse(&result, err)
	l.out = appendResult(l.out[:0], &result)
	return l
}

// answer does the work on one line.
func (h *Handlers) answer(ctx context.Context, l *line, do work) {
	result := h.outcome(func(r *station.Result) error { return do(ctx, l.in, r) })
	l.out = appendResult(l.out[:0], &result)
}

// outcome is the result of one item; what the work on it panics with is a
// refusal of this item alone.
func (h *Handlers) outcome(do func(*station.Result) error) (result station.Result) {
	defer func() {
		if p := recover(); p != nil {
			result = station.Result{ID: result.ID, DeviceSerial: result.DeviceSerial}
			h.refuse(&result, fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
		}
	}()
	if err := do(&result); err != nil {
		result = station.Result{ID: result.ID, DeviceSerial: result.DeviceSerial}
		h.refuse(&result, err)
		return result
	}
	result.OK = true
	return result
}

// send writes what is ready. It flushes when nothing more is, so that a lone
// answer leaves at once and a crowd leaves in few pieces.
func send(w http.ResponseWriter, ready <-chan *line, room *semaphore.Weighted) error {
	control := http.NewResponseController(w)
	var out []byte
	flush := func() error {
		_ = control.SetWriteDeadline(time.Now().Add(sendTime)) // without a connection there is no deadline
		if _, err := w.Write(out); err != nil {
			return err
		}
		out = out[:0]
		if err := control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		return nil
	}
	// The headers go out first: a station may wait for them before it sends.
	if err := flush(); err != nil {
		return err
	}
	for l := range ready {
		out = append(out, l.out...)
		l.done(room)
		if len(ready) > 0 && len(out) < sendBuffer {
			continue
		}
		if err := flush(); err != nil {
			return err
		}
	}
	if len(out) == 0 {
		return nil
	}
	return flush()
}

// refuse makes result the refusal that err is. What went wrong on our side is
// logged under a number that the station can quote.
func (h *Handlers) refuse(result *station.Result, err error) {
	f := fault.Of(err)
	if f.Kind == fault.Internal {
		id := rand.Text()[:12]
		h.log.Error("an item of a station", "request_id", id, "fault", f.Code.String(), "error", err, "cause", errors.Unwrap(f))
		f = fault.New(f.Code, "request", id)
	}
	h.count(f.Code)
	result.OK = false
	result.Code, result.Kind, result.Message = f.Code.String(), f.Kind.String(), f.Message
	result.Detail, result.Remedy, result.Who = f.Detail, f.Remedy, f.Code.Who()
}

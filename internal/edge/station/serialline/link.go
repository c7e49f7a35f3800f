package serialline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
)

// Timing says how patient a link is. Zero fields take the defaults.
type Timing struct {
	Resend time.Duration // until a request is sent again at first: 250 ms; then doubled three times
	Line   time.Duration // until a device that only moves data is given up: 5 s
	Work   time.Duration // until a device that makes keys, signs or stores is given up: 60 s
	Pause  time.Duration // before a busy device is asked again: 50 ms
}

func (t Timing) withDefaults() Timing {
	set := func(d *time.Duration, standard time.Duration) {
		if *d <= 0 {
			*d = standard
		}
	}
	set(&t.Resend, 250*time.Millisecond)
	set(&t.Line, 5*time.Second)
	set(&t.Work, time.Minute)
	set(&t.Pause, 50*time.Millisecond)
	return t
}

// link sends requests and waits for their answers, one at a time.
type link struct {
	port   io.ReadWriteCloser
	timing Timing
	frames chan frame // answers as they arrive
	dead   chan struct{}
	died   error // set before dead is closed

	mu     sync.Mutex // guards the rest: one exchange at a time
	seq    uint16
	resent int // how many requests were sent again, for the log
}

func newLink(port io.ReadWriteCloser, timing Timing, seq uint16) *link {
	l := &link{port: port, timing: timing.withDefaults(), seq: seq, frames: make(chan frame, 8), dead: make(chan struct{})}
	go l.receive()
	return l
}

// receive lives until the port is closed or breaks.
func (l *link) receive() {
	defer close(l.dead)
	split := splitter{to: toStation}
	buf := make([]byte, 512)
	for {
		n, err := l.port.Read(buf)
		split.feed(buf[:n], func(f frame) {
			select {
			case l.frames <- f:
			default: // nobody waits: an answer that came twice
			}
		})
		if err != nil {
			l.died = err
			return
		}
	}
}

func (l *link) close() error {
	err := l.port.Close()
	<-l.dead
	return err
}

// exchange sends one request until its answer arrives. The device does the work
// once, however often the request or its answer is lost or doubled.
func (l *link) exchange(ctx context.Context, patience time.Duration, verb string, fields ...string) (frame, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	giveUp := time.NewTimer(patience)
	defer giveUp.Stop()
	for {
		answer, err := l.send(ctx, giveUp.C, verb, fields)
		if err != nil || answer.verb != "BUSY" {
			return answer, err
		}
		select {
		case <-time.After(l.timing.Pause):
		case <-giveUp.C:
			return frame{}, fault.New(fault.FixtureFailed, "the device is busy for too long with", verb)
		case <-ctx.Done():
			return frame{}, ctx.Err()
		}
	}
}

// send sends one numbered request, again and again, and returns its answer.
func (l *link) send(ctx context.Context, giveUp <-chan time.Time, verb string, fields []string) (frame, error) {
	l.seq++
	line := appendFrame(nil, frame{to: toDevice, seq: l.seq, verb: verb, fields: fields})
	if len(line) > maxLine {
		return frame{}, fault.New(fault.FixtureProtocol, verb, "does not fit into a line")
	}
	wait := l.timing.Resend
	for attempt := 0; ; attempt++ {
		if attempt > 0 {
			l.resent++
		}
		if _, err := l.port.Write(line); err != nil {
			return frame{}, fault.Wrap(fault.FixtureFailed, err, "the serial line is broken")
		}
		answer, err := l.await(ctx, wait, giveUp, verb)
		if !errors.Is(err, errSilence) {
			return answer, err
		}
		wait = min(2*wait, 8*l.timing.Resend)
	}
}

var errSilence = errors.New("no answer yet")

// await returns the answer to the newest request, or errSilence when it is time
// to send it again.
func (l *link) await(ctx context.Context, wait time.Duration, giveUp <-chan time.Time, verb string) (frame, error) {
	again := time.NewTimer(wait)
	defer again.Stop()
	for {
		select {
		case f := <-l.frames:
			if f.seq == l.seq {
				return f, nil
			}
		case <-again.C:
			return frame{}, errSilence
		case <-giveUp:
			return frame{}, fault.New(fault.FixtureFailed, "the device does not answer to", verb)
		case <-l.dead:
			return frame{}, fault.Wrap(fault.FixtureFailed, fmt.Errorf("read: %w", l.died), "the serial line is broken")
		case <-ctx.Done():
			return frame{}, ctx.Err()
		}
	}
}

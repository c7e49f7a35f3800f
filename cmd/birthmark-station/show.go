package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/birthmark/birthmark/cmd/internal/program"
	"github.com/birthmark/birthmark/internal/edge/station"
	"github.com/birthmark/birthmark/internal/edge/station/queue"
	format "github.com/birthmark/birthmark/internal/format/station"
)

// show tells a run of units: as a picture that stands still on a terminal, as one
// line per unit otherwise.
type show struct {
	io    *streams
	json  bool
	order *format.Order
	count int
	line  *station.Line
	queue *queue.Queue
	now   func() time.Time
	begin time.Time

	mu       sync.Mutex
	problems error // guarded by mu
	drawn    int   // lines of the picture on the screen; guarded by mu
	stop     chan struct{}
	stopped  chan struct{}
}

// redrawEvery is how often the picture is drawn.
const redrawEvery = 200 * time.Millisecond

func newShow(io *streams, json bool, order *format.Order, count int, line *station.Line, q *queue.Queue) *show {
	s := &show{io: io, json: json, order: order, count: count, line: line, queue: q, now: time.Now, begin: time.Now()}
	if s.picture() {
		s.stop, s.stopped = make(chan struct{}), make(chan struct{})
		go s.redraw()
	}
	return s
}

func (s *show) picture() bool { return s.io.terminal && !s.json }

// tell prints one unit where there is no picture.
func (s *show) tell(o *station.Outcome) {
	if s.picture() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.json {
		_ = program.PrintLine(s.io.out, o) // a reader that is gone does not stop the line
		return
	}
	fmt.Fprintln(s.io.out, outcomeLine(o))
}

func (s *show) redraw() {
	defer close(s.stopped)
	ticker := time.NewTicker(redrawEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.draw()
		case <-s.stop:
			s.draw()
			return
		}
	}
}

func (s *show) close() {
	if s.stop != nil {
		close(s.stop)
		<-s.stopped
	}
}

// draw writes the picture over the one before.
func (s *show) draw() {
	waiting, err := s.queue.Len()
	if err != nil {
		s.problem(err)
	}
	text := s.render(s.line.Counts(), waiting)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drawn > 0 {
		fmt.Fprintf(s.io.out, "\x1b[%dA\x1b[J", s.drawn)
	}
	s.drawn = strings.Count(text, "\n")
	fmt.Fprint(s.io.out, text)
}

// render draws takt against target, yield, and the last failures.
func (s *show) render(c station.Counts, waiting int) string {
	var b strings.Builder
	took := s.now().Sub(s.begin)
	fmt.Fprintf(&b, "order %s  %s  running %v\n", s.order.Number, s.order.Product, took.Round(time.Second))
	goal := int64(s.count)
	if goal == 0 {
		goal = s.order.Left
	}
	fmt.Fprintf(&b, "units    %s %d of %d\n", bar(c.Passed, goal, 30), c.Passed, goal)
	fmt.Fprintf(&b, "takt     %s\n", s.takt(c, took))
	fmt.Fprintf(&b, "yield    %s first pass, %s in the end, %d failed\n", percent(c.FirstPass, c.Passed+c.Failed), percent(c.Passed, c.Passed+c.Failed), c.Failed)
	if waiting > 0 {
		fmt.Fprintf(&b, "queue    %d confirmations and scraps wait for the server\n", waiting)
	}
	for i := range c.Failures {
		fmt.Fprintf(&b, "%s\n", cutTo(outcomeLine(&c.Failures[i]), 150))
	}
	return b.String()
}

func (s *show) takt(c station.Counts, took time.Duration) string {
	if c.Passed == 0 {
		return "-"
	}
	is := took / time.Duration(c.Passed)
	text := fmt.Sprintf("%v per unit, %.1f per hour, a unit takes %v", is.Round(time.Millisecond), float64(time.Hour)/float64(is),
		(time.Duration(c.CycleSum/c.Passed) * time.Millisecond).Round(time.Millisecond))
	if s.order.TaktMillis <= 0 {
		return text
	}
	target := time.Duration(s.order.TaktMillis) * time.Millisecond
	verdict := "in time"
	if is > target {
		verdict = "BEHIND"
	}
	return fmt.Sprintf("%s; target %v: %s", text, target, verdict)
}

func percent(n, of int64) string {
	if of == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f %%", 100*float64(n)/float64(of))
}

func bar(n, of, width int64) string {
	full := width
	if of > 0 {
		full = min(width, n*width/of)
	}
	return "[" + strings.Repeat("#", int(full)) + strings.Repeat(".", int(width-full)) + "]"
}

func cutTo(text string, n int) string {
	runes := []rune(text)
	return string(runes[:min(len(runes), n)])
}

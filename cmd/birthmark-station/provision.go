package main

import (
	"context"
	"fmt"
	"time"

	"github.com/birthmark/birthmark/cmd/internal/program"
	"github.com/birthmark/birthmark/internal/edge/station"
)

type provisionCmd struct {
	stateFlags `embed:""`
	lineFlags  `embed:""`

	Order  string   `help:"Production order; may be left out where only one is open." env:"BIRTHMARK_STATION_ORDER"`
	Count  int      `help:"How many units; 0: until the order is full."`
	Nests  int      `help:"How many nests at once." default:"1"`
	First  string   `help:"Device serial of the first unit, whose last digits count up; nothing: the devices say theirs." placeholder:"SERIAL"`
	Serial []string `help:"Device serials to work on; may be repeated."`
	Rework string   `help:"The units had an identity before: why they get another one." placeholder:"REASON"`
	Ahead  int      `help:"How many nonces are drawn at a time; 0: two for each nest, at least 32."`
}

// Run provisions units until it has enough.
func (c *provisionCmd) Run(ctx context.Context, io *streams) error {
	o, err := c.open()
	if err != nil {
		return err
	}
	defer o.close()
	if c.Ahead == 0 {
		c.Ahead = max(32, 2*c.Nests)
	}
	l, adapter, err := c.line(o, c.Ahead)
	if err != nil {
		return err
	}
	defer adapter.Close()
	background, stop := context.WithCancel(ctx)
	defer stop()
	go l.Run(background)
	go o.keepCertificate(background, io)
	order, err := l.Order(ctx, c.Order)
	if err != nil {
		return err
	}
	s := newShow(io, c.JSON, order, c.Count, l, o.queue)
	passed, failed := l.Provision(ctx, station.Loop{
		Order: order.Number, Count: c.Count, Nests: c.Nests, First: c.First, DeviceSerials: c.Serial, Rework: c.Rework,
		Tell: func(unit station.Outcome) {
			s.tell(&unit)
			if unit.Passed() {
				s.problem(c.label(ctx, l, &unit))
			}
		},
	})
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
	defer cancel()
	_, _ = l.Flush(flush) // what is unheard waits for the next run
	waiting, _ := o.queue.Len()
	if err := s.end(passed, failed, waiting); err != nil {
		return err
	}
	if failed > 0 || passed == 0 {
		return program.ErrSilent
	}
	return nil
}

// summary is what a run of units came to.
type summary struct {
	Order     string  `json:"order"`
	Passed    int64   `json:"passed"`
	Failed    int64   `json:"failed"`
	FirstPass int64   `json:"firstPass"`
	Waiting   int     `json:"waiting"` // confirmations that are not at the server yet
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"perSecond"`
}

func (s *show) summary(passed, failed int64, waiting int) summary {
	took := s.now().Sub(s.begin).Seconds()
	return summary{
		Order: s.order.Number, Passed: passed, Failed: failed, FirstPass: s.line.Counts().FirstPass, Waiting: waiting,
		Seconds: took, PerSecond: float64(passed) / max(took, 1e-3),
	}
}

func (s *show) end(passed, failed int64, waiting int) error {
	s.close()
	if s.problems != nil {
		fmt.Fprintln(s.io.err, "birthmark-station:", s.problems)
	}
	sum := s.summary(passed, failed, waiting)
	if s.json {
		return program.PrintLine(s.io.out, &sum)
	}
	fmt.Fprintf(s.io.out, "%d passed, %d failed, %d at first attempt, in %v (%.1f units/s).", passed, failed, sum.FirstPass,
		time.Duration(sum.Seconds*float64(time.Second)).Round(time.Millisecond), sum.PerSecond)
	if waiting > 0 {
		fmt.Fprintf(s.io.out, " %d confirmations wait for the server.", waiting)
	}
	fmt.Fprintln(s.io.out)
	return nil
}

// problem keeps the first thing that went wrong beside the units.
func (s *show) problem(err error) {
	if err == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.problems == nil {
		s.problems = err
	}
}

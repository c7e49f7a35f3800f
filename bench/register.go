package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/store"
)

// timing is how long something took, over many tries.
type timing struct {
	what       string
	p50, worst time.Duration
}

// tries is how often each look at the register is timed.
const tries = 101

// timed calls fn again and again.
func timed(what string, fn func(n int) error) (timing, error) {
	took := make([]time.Duration, 0, tries)
	for n := range tries {
		begin := time.Now()
		if err := fn(n); err != nil {
			return timing{}, fmt.Errorf("%s: %w", what, err)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	return timing{what, took[len(took)/2], took[len(took)-1]}, nil
}

// listPage is a page of any list of the API.
type listPage struct {
	Items []struct {
		Serial string `json:"serial"`
	} `json:"items"`
	Next string `json:"next"`
}

// register times what an operator does with a full register, the start of the
// server, and its memory after that.
func (b *bench) register(ctx context.Context) error {
	b.step("the register: pages, look-ups, starts")
	if err := b.lookUps(ctx); err != nil {
		return err
	}
	for range 3 {
		if err := b.sqlite.stop(); err != nil {
			return err
		}
		took, err := b.sqlite.start(ctx)
		if err != nil {
			return err
		}
		b.figures.starts = append(b.figures.starts, took.Seconds())
		resident, err := memory(b.sqlite.server.pid(), "VmHWM")
		if err != nil {
			return err
		}
		b.figures.resident = max(b.figures.resident, resident)
	}
	if err := b.sqlite.stop(); err != nil {
		return err
	}
	return b.expiring(ctx)
}

func (b *bench) lookUps(ctx context.Context) error {
	var after string
	var page listPage
	list := func(query string) func(int) error {
		return func(int) error {
			page = listPage{}
			return b.sqlite.get(ctx, query, &page)
		}
	}
	device := func(n int) string { return store.SeedSerial(1 + n*7919%b.plan.stored) }
	for _, look := range []struct {
		what string
		fn   func(int) error
	}{
		{"page of 100 devices", list("/devices?limit=100")},
		{"page after page of devices", func(int) error {
			page = listPage{}
			err := b.sqlite.get(ctx, "/devices?limit=100&after="+url.QueryEscape(after), &page)
			after = page.Next
			return err
		}},
		{"page of one product's devices", list("/devices?limit=100&product=meter")},
		{"page of devices that may enroll", list("/devices?limit=100&state=registered")},
		{"page of 100 certificates", list("/certificates?limit=100")},
		{"device by serial", func(n int) error {
			var d struct{ Serial string }
			return b.sqlite.get(ctx, "/devices/"+device(n), &d)
		}},
		{"certificate by serial", func(n int) error {
			var c struct{ Serial string }
			if len(page.Items) == 0 {
				if err := list("/certificates?limit=100")(0); err != nil {
					return err
				}
			}
			return b.sqlite.get(ctx, "/certificates/"+page.Items[n%len(page.Items)].Serial, &c)
		}},
		{"certificates that end, over the API", func(int) error {
			var all struct{ Items []struct{} }
			return b.sqlite.get(ctx, "/expiry?days=3660", &all)
		}},
	} {
		t, err := timed(look.what, look.fn)
		if err != nil {
			return err
		}
		b.figures.looks = append(b.figures.looks, t)
	}
	return nil
}

// expiring times the counters by product and day themselves.
func (b *bench) expiring(ctx context.Context) (err error) {
	s, err := store.Open(ctx, store.Config{DSN: b.sqlite.database, Node: "bench", ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	from := time.Now().AddDate(10, 1, 0).Unix() / (24 * 60 * 60)
	t, err := timed("30 days' ends by product, counters", func(int) error {
		counts, err := s.Expiring(ctx, access.Everything(), from, from+30)
		if err == nil && len(counts) < 30 {
			err = fmt.Errorf("only %d counters", len(counts))
		}
		return err
	})
	b.figures.looks = append(b.figures.looks, t)
	return err
}

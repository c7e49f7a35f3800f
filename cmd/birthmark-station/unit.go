package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/birthmark/birthmark/cmd/internal/program"
	"github.com/birthmark/birthmark/internal/edge/station"
	"github.com/birthmark/birthmark/internal/edge/station/durable"
	"github.com/birthmark/birthmark/internal/edge/station/fixture"
	"github.com/birthmark/birthmark/internal/edge/station/label"
	"github.com/birthmark/birthmark/internal/edge/station/queue"
	"github.com/birthmark/birthmark/internal/fault"
	format "github.com/birthmark/birthmark/internal/format/station"
)

type unitCmd struct {
	stateFlags `embed:""`
	lineFlags  `embed:""`

	Serial    string `help:"Device serial; may be left out where the device says it."`
	Nest      string `help:"Nest of the fixture."`
	Order     string `help:"Production order; may be left out where only one is open." env:"BIRTHMARK_STATION_ORDER"`
	Reference string `help:"The MES's own name of the unit, an idempotency key."`
	Rework    string `help:"The unit had an identity before: why it gets another one." placeholder:"REASON"`
}

// flushTime is how long a call of one unit spends on what waits in the queue.
const flushTime = 5 * time.Second

// Run provisions one unit.
func (c *unitCmd) Run(ctx context.Context, io *streams) error {
	o, err := c.stateFlags.open()
	if err != nil {
		return err
	}
	defer o.close()
	l, adapter, err := c.line(o, 1)
	if err != nil {
		return err
	}
	defer adapter.Close()
	_, renewErr := o.home.Renew(ctx, o.link, time.Now()) // the unit matters more
	outcome := l.Do(ctx, station.Job{Nest: c.Nest, Order: c.Order, DeviceSerial: c.Serial, Reference: c.Reference, Rework: c.Rework})
	if c.JSON {
		err = program.PrintLine(io.out, &outcome)
	} else {
		_, err = fmt.Fprintln(io.out, outcomeLine(&outcome))
	}
	if err == nil && outcome.Passed() {
		err = c.label(ctx, l, &outcome)
	}
	if renewErr != nil {
		fmt.Fprintln(io.err, "birthmark-station: the station's certificate was not renewed:", renewErr)
	}
	if outcome.Result == station.Pass {
		flush, cancel := context.WithTimeout(ctx, flushTime)
		defer cancel()
		_, _ = l.Flush(flush) // what is unheard waits for the next call
	}
	if err == nil && !outcome.Passed() {
		return program.ErrSilent
	}
	return err
}

// label writes the label of a unit that passed.
func (f *lineFlags) label(ctx context.Context, l *station.Line, o *station.Outcome) error {
	if f.LabelDir == "" {
		return nil
	}
	order, err := l.OrderOf(ctx, o.Order)
	if err != nil {
		return err
	}
	drawing := label.Of(o.DeviceSerial, order.Product, o.Certificate)
	svg, err := drawing.SVG()
	if err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(f.LabelDir, 0o755), durable.WriteFile(filepath.Join(f.LabelDir, fileName(o.DeviceSerial)+".svg"), svg))
}

// fileName makes a device serial a file's name.
func fileName(deviceSerial string) string {
	return strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return '_'
	}, deviceSerial)
}

type scrapCmd struct {
	stateFlags `embed:""`

	Serial string `help:"Device serial." required:""`
	Order  string `help:"Production order." required:"" env:"BIRTHMARK_STATION_ORDER"`
	Reason string `help:"Why, in words." required:""`
}

// Run ends a unit, or puts the end into the queue.
func (c *scrapCmd) Run(ctx context.Context, io *streams) error {
	o, err := c.open()
	if err != nil {
		return err
	}
	defer o.close()
	l, err := station.New(station.Config{Link: o.link, Queue: o.queue, Adapter: noAdapter{}, Now: time.Now})
	if err != nil {
		return err
	}
	if err := l.Scrap(ctx, format.Scrap{ID: c.Serial, Order: c.Order, DeviceSerial: c.Serial, Reason: c.Reason}); err != nil {
		return err
	}
	queued := o.queue.Has(c.Serial)
	if c.JSON {
		return program.PrintJSON(io.out, map[string]any{"serial": c.Serial, "order": c.Order, "scrapped": !queued, "queued": queued})
	}
	if queued {
		fmt.Fprintf(io.out, "QUEUED %s; the server does not answer, the scrap waits in the queue\n", c.Serial)
		return nil
	}
	fmt.Fprintf(io.out, "Scrapped %s; its identity is revoked.\n", c.Serial)
	return nil
}

type queueCmd struct {
	Show  queueShowCmd  `cmd:"" help:"Show what waits, and what the server did not take."`
	Flush queueFlushCmd `cmd:"" help:"Send what waits now."`
}

type queueShowCmd struct {
	stateFlags `embed:""`

	Limit int `help:"How many items to show." default:"100"`
}

// Run shows the queue.
func (c *queueShowCmd) Run(io *streams) error {
	q, err := queue.Open(queue.Config{Dir: c.State, Limit: c.QueueLimit})
	if err != nil {
		return err
	}
	defer q.Close()
	n, err := q.Len()
	if err != nil {
		return err
	}
	items, err := q.Items(c.Limit)
	if err != nil {
		return err
	}
	refused, err := q.Refused()
	if err != nil {
		return err
	}
	if c.JSON {
		return program.PrintJSON(io.out, map[string]any{"waiting": n, "items": items, "refused": refused})
	}
	rows := [][]string{}
	for i := range items {
		rows = append(rows, []string{items[i].Kind(), items[i].DeviceSerial(), "waits"})
	}
	for i := range refused {
		rows = append(rows, []string{refused[i].Kind(), refused[i].DeviceSerial(), refused[i].Code + " " + refused[i].Message})
	}
	fmt.Fprintf(io.out, "%d wait, %d were refused.\n", n, len(refused))
	if len(rows) == 0 {
		return nil
	}
	return program.PrintTable(io.out, []string{"WHAT", "SERIAL", "STATE"}, rows)
}

type queueFlushCmd struct {
	stateFlags `embed:""`
}

// Run sends the queue.
func (c *queueFlushCmd) Run(ctx context.Context, io *streams) error {
	o, err := c.open()
	if err != nil {
		return err
	}
	defer o.close()
	f, err := o.queue.Flush(ctx, func(ctx context.Context, item *queue.Item) error { return station.Send(ctx, o.link, item) })
	if c.JSON {
		if printErr := program.PrintJSON(io.out, f); printErr != nil {
			return printErr
		}
		return err
	}
	fmt.Fprintf(io.out, "%d sent, %d refused, %d wait.\n", f.Sent, f.Refused, f.Left)
	return err
}

// noAdapter reaches no device: for commands that need none.
type noAdapter struct{}

// Open implements fixture.Adapter.
func (noAdapter) Open(context.Context, fixture.Job) (fixture.Unit, error) {
	return nil, fault.New(fault.FixtureFailed, "no device is reached here")
}

// Close implements fixture.Adapter.
func (noAdapter) Close() error { return nil }

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/birthmark/birthmark/cmd/internal/program"
	"github.com/birthmark/birthmark/internal/edge/station"
	"github.com/birthmark/birthmark/internal/edge/station/durable"
)

type noncesCmd struct {
	stateFlags `embed:""`

	Order   string `help:"Production order; may be left out where only one is open." env:"BIRTHMARK_STATION_ORDER"`
	Count   int    `help:"For how many units." required:""`
	Discard bool   `help:"Forget what was collected with the block before and not applied."`
}

// Run draws a block while there is a link.
func (c *noncesCmd) Run(ctx context.Context, io *streams) error {
	o, err := c.open()
	if err != nil {
		return err
	}
	defer o.close()
	if c.Discard {
		if err := o.home.DiscardBatch(c.Order); err != nil {
			return err
		}
	}
	b, err := o.home.DrawBlock(ctx, o.link, c.Order, c.Count)
	if err != nil {
		return err
	}
	if c.JSON {
		return program.PrintJSON(io.out, map[string]any{"order": b.Order.Number, "nonces": len(b.Nonces.Nonces), "until": b.Nonces.ExpiresAt})
	}
	fmt.Fprintf(io.out, "%d units of order %s can be collected without a link until %s.\n", len(b.Nonces.Nonces), b.Order.Number, b.Nonces.ExpiresAt.Format(time.RFC3339))
	return nil
}

// batchFlags are what collect and apply have in common.
type batchFlags struct {
	stateFlags   `embed:""`
	adapterFlags `embed:""`

	Order string `help:"Production order." required:"" env:"BIRTHMARK_STATION_ORDER"`
}

func (f *batchFlags) batch() (*station.Batch, func(), error) {
	o, err := f.stateFlags.open()
	if err != nil {
		return nil, nil, err
	}
	adapter, err := f.adapterFlags.open()
	if err != nil {
		o.close()
		return nil, nil, err
	}
	b, err := station.OpenBatch(station.BatchConfig{Home: o.home, Adapter: adapter, Queue: o.queue, Now: time.Now, Order: f.Order})
	if err != nil {
		return nil, nil, errors.Join(err, adapter.Close())
	}
	return b, func() { b.Close(); _ = adapter.Close(); o.close() }, nil
}

// told prints one outcome.
func (f *stateFlags) told(io *streams, o *station.Outcome) error {
	if f.JSON {
		return program.PrintLine(io.out, o)
	}
	_, err := fmt.Fprintln(io.out, outcomeLine(o))
	return err
}

type collectCmd struct {
	batchFlags `embed:""`

	Count  int      `help:"How many units to collect now, where the devices say their serials." default:"1"`
	Serial []string `help:"Device serials of the units to collect; may be repeated."`
	Nest   string   `help:"Nest of the fixture."`
	Out    string   `help:"Bundle to write when done, with all units of the batch." required:"" placeholder:"FILE" type:"path"`
}

// Run collects units and writes the bundle.
func (c *collectCmd) Run(ctx context.Context, io *streams) error {
	b, closeBatch, err := c.batch()
	if err != nil {
		return err
	}
	defer closeBatch()
	serials := c.Serial
	if len(serials) == 0 {
		serials = make([]string, c.Count)
	}
	failed := false
	for _, one := range serials {
		if ctx.Err() != nil {
			break
		}
		o := b.Collect(ctx, station.Job{Nest: c.Nest, DeviceSerial: one})
		failed = failed || !o.Passed()
		if err := c.told(io, &o); err != nil {
			return err
		}
	}
	bundle, err := b.Bundle()
	if err != nil {
		return err
	}
	if err := durable.WriteFile(c.Out, bundle); err != nil {
		return err
	}
	collected, left := b.Len()
	fmt.Fprintf(io.err, "%s holds %d units; there are nonces for %d more.\n", c.Out, collected, left)
	if failed {
		return program.ErrSilent
	}
	return nil
}

type applyCmd struct {
	batchFlags `embed:""`

	Bundle string `help:"The bundle that collect wrote." required:"" type:"existingfile"`
	Reply  string `help:"The server's reply to it." required:"" type:"existingfile"`
	Serial string `help:"Only this device; nothing: all, one after the other."`
}

// Run writes certificates into devices.
func (c *applyCmd) Run(ctx context.Context, io *streams) error {
	b, closeBatch, err := c.batch()
	if err != nil {
		return err
	}
	defer closeBatch()
	bundle, err := os.ReadFile(c.Bundle)
	if err != nil {
		return err
	}
	reply, err := os.ReadFile(c.Reply)
	if err != nil {
		return err
	}
	failed := false
	var printErr error
	err = b.Apply(ctx, bundle, reply, c.Serial, func(o station.Outcome) {
		failed = failed || !o.Passed()
		printErr = errors.Join(printErr, c.told(io, &o))
	})
	if err := errors.Join(err, printErr); err != nil {
		return err
	}
	if failed {
		return program.ErrSilent
	}
	return nil
}

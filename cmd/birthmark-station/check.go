package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/birthmark/birthmark/cmd/internal/program"
	"github.com/birthmark/birthmark/internal/edge/station"
)

type checkCmd struct {
	stateFlags `embed:""`

	Order string   `help:"Production order; may be left out where only one is open." env:"BIRTHMARK_STATION_ORDER"`
	Chip  []string `help:"UID of a chip at the start of the reel; may be repeated, at most 100 times." placeholder:"UID"`
}

// Run checks what the shift needs.
func (c *checkCmd) Run(ctx context.Context, io *streams) error {
	o, err := c.open()
	if err != nil {
		return err
	}
	defer o.close()
	_, _ = o.home.Renew(ctx, o.link, time.Now()) // the check says what is wrong
	waiting, err := o.queue.Len()
	if err != nil {
		return err
	}
	findings := station.Check(ctx, station.CheckConfig{Home: o.home, Link: o.link, Now: time.Now, Order: c.Order, Reel: c.Chip, Queue: waiting})
	ok := true
	for _, f := range findings {
		ok = ok && f.OK
		if c.JSON {
			continue
		}
		if f.OK {
			fmt.Fprintf(io.out, "ok    %-12s %s\n", f.What, f.Detail)
		} else {
			fmt.Fprintf(io.out, "FAIL  %-12s %s %s | do: %s | who: %s\n", f.What, f.Code, f.Detail, f.Remedy, f.Who)
		}
	}
	if c.JSON {
		if err := program.PrintJSON(io.out, map[string]any{"ok": ok, "findings": findings}); err != nil {
			return err
		}
	}
	if !ok {
		return program.ErrSilent
	}
	return nil
}

type statusCmd struct {
	stateFlags `embed:""`
}

// Run shows the station's orders.
func (c *statusCmd) Run(ctx context.Context, io *streams) error {
	o, err := c.open()
	if err != nil {
		return err
	}
	defer o.close()
	s, err := o.link.Status(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return program.PrintJSON(io.out, s)
	}
	rows := [][]string{}
	for _, order := range s.Orders {
		rows = append(rows, []string{
			order.Number, order.State, order.Product, order.KeyModel, strconv.FormatInt(order.Quantity, 10),
			strconv.FormatInt(order.Confirmed, 10), strconv.FormatInt(order.Left, 10),
		})
	}
	fmt.Fprintf(io.out, "Station %s of site %s.\n", s.Station, s.Site)
	return program.PrintTable(io.out, []string{"ORDER", "STATE", "PRODUCT", "KEYS", "QUANTITY", "CONFIRMED", "LEFT"}, rows)
}

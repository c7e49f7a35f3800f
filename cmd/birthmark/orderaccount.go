package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/web/rest"
)

type orderShowCmd struct {
	remote `embed:""`
	Number string `arg:"" help:"Number of the order."`
}

// shownOrder is an order with its account and why attempts failed.
type shownOrder struct {
	rest.OrderWithAccount
	Failures []rest.Failures `json:"failures"`
}

// Run shows an order's account.
func (c *orderShowCmd) Run(ctx context.Context, io *streams) error {
	return c.with(ctx, func(a *api) error {
		var o shownOrder
		if err := a.do(ctx, http.MethodGet, orderPath(c.Number), nil, &o.OrderWithAccount); err != nil {
			return err
		}
		var k rest.KPIs
		if err := a.do(ctx, http.MethodGet, "/kpis?"+query("order", o.Number).Encode(), nil, &k); err != nil {
			return err
		}
		o.Failures = k.Failures
		if c.JSON {
			return printJSON(io.out, &o)
		}
		return o.print(io)
	})
}

func (o *shownOrder) print(io *streams) error {
	fmt.Fprintf(io.out, "%s  %s at %s  %s\n", o.Number, o.Product, o.Site, orderState(&o.Order))
	if err := printFields(io.out, o.terms()); err != nil {
		return err
	}
	fmt.Fprintln(io.out)
	if err := printNumbers(io.out, []string{"ACCOUNT", "UNITS", ""}, o.account(), 1); err != nil {
		return err
	}
	return printFailures(io, o.Failures)
}

// terms are what was agreed, as far as it says anything.
func (o *shownOrder) terms() [][2]string {
	serials := ""
	if o.SerialFrom != "" {
		serials = o.SerialFrom + " to " + o.SerialTo
	}
	takt := ""
	if o.TaktSeconds > 0 {
		takt = fmt.Sprintf("%s a unit, %.0f an hour", time.Duration(o.TaktSeconds*float64(time.Second)), 3600/o.TaktSeconds)
	}
	var times strings.Builder
	times.WriteString("created " + day(o.CreatedAt))
	for _, t := range []struct {
		what string
		at   *time.Time
	}{{"opened", o.OpenedAt}, {"closed", o.ClosedAt}} {
		if t.at != nil {
			times.WriteString(", " + t.what + " " + day(*t.at))
		}
	}
	return [][2]string{
		{"reference", o.ExternalRef},
		{"stations", cmp.Or(strings.Join(o.Stations, ", "), "none assigned")},
		{"chip types", strings.Join(o.ChipTypes, ", ")},
		{"evidence", o.Evidence},
		{"serials", serials},
		{"takt", takt},
		{"times", times.String()},
	}
}

// account says of each number what it means and how to see the devices behind
// it.
func (o *shownOrder) account() [][]string {
	a := &o.Account
	behind := func(n int64, says, difference string) string {
		if n == 0 {
			return says
		}
		return says + ": birthmark order units " + o.Number + " --difference " + difference
	}
	return [][]string{
		{"ordered", number(a.Ordered), "may live at once"},
		{"issued", number(a.Issued), "ever; " + number(a.Live) + " of them live, " + number(o.Left) + " may still be issued"},
		{"confirmed", number(a.Confirmed), "read back from the device: " + share(a.Confirmed, a.Ordered) + " of what was ordered"},
		{"unaccounted", number(a.Unaccounted), behind(a.Unaccounted, "issued and neither read back nor scrapped", "unaccounted")},
		{"scrapped", number(a.Scrapped), behind(a.Scrapped, "ended, for any reason", "scrapped")},
		{"spares", number(a.Spares), number(a.SparesUsed) + " used, " + number(a.SparesLeft) + " left"},
		{"missing", number(a.Missing), "ordered and not live"},
		{"shipped", number(a.Shipped), behind(a.NotShipped, number(a.NotShipped)+" confirmed and not shipped", "not-shipped")},
		{"activated", number(a.Activated), behind(a.NotActivated, number(a.NotActivated)+" shipped and not activated", "not-activated")},
	}
}

// printFailures prints why attempts failed, most frequent first.
func printFailures(io *streams, all []rest.Failures) error {
	if len(all) == 0 {
		return nil
	}
	fmt.Fprintln(io.out)
	rows := make([][]string, len(all))
	for i, f := range all {
		rows[i] = []string{number(f.Count), f.Code, f.Message}
	}
	return printNumbers(io.out, []string{"FAILED", "CODE", "WHY"}, rows, 0)
}

// print sums up a reply that was written.
func (c *orderBatchIssueCmd) print(io *streams) error {
	text, err := os.ReadFile(c.Out)
	if err != nil {
		return err
	}
	var reply station.Reply
	if err := json.Unmarshal(text, &reply); err != nil {
		return fault.Wrap(fault.ServerUnreached, err, "the reply is not whole")
	}
	var summary struct {
		Order   string          `json:"order"`
		Station string          `json:"station"`
		Issued  int             `json:"issued"`
		Refused int             `json:"refused"`
		Reasons []rest.Failures `json:"reasons"`
	}
	summary.Order, summary.Station, summary.Reasons = reply.Order, reply.Station, []rest.Failures{}
	for i := range reply.Results {
		r := &reply.Results[i]
		if r.OK {
			summary.Issued++
			continue
		}
		summary.Refused++
		summary.Reasons = countFailure(summary.Reasons, r.Code, r.Message)
	}
	if c.JSON {
		return printJSON(io.out, &summary)
	}
	fmt.Fprintf(io.out, "%s of station %s: %d issued, %d refused; the reply is in %s.\n",
		summary.Order, summary.Station, summary.Issued, summary.Refused, c.Out)
	return printFailures(io, summary.Reasons)
}

func countFailure(all []rest.Failures, code, message string) []rest.Failures {
	for i := range all {
		if all[i].Code == code {
			all[i].Count++
			return all
		}
	}
	return append(all, rest.Failures{Code: code, Message: message, Count: 1})
}

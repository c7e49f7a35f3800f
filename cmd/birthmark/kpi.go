package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/birthmark/birthmark/internal/web/rest"
)

// kpiCmd is the only verb of its noun.
type kpiCmd struct {
	remote  `embed:""`
	Order   string `help:"Only this order."`
	Station string `help:"Only this station."`
	Site    string `help:"Only this site."`
	Product string `help:"Only this product."`
	From    string `help:"First day, UTC, for example 2027-03-01."`
	To      string `help:"Last day, UTC, included."`
}

// Run shows yield, rates, times and causes.
func (c *kpiCmd) Run(ctx context.Context, io *streams) error {
	q := query("order", c.Order, "station", c.Station, "site", c.Site, "product", c.Product, "from", c.From, "to", c.To)
	return call(ctx, &c.remote, io, http.MethodGet, "/kpis?"+q.Encode(), nil, func(k *rest.KPIs) error { return printKPIs(io, k) })
}

func printKPIs(io *streams, k *rest.KPIs) error {
	rows := [][]string{
		{"provisioning success", percent(k.Success), "goal " + percent(k.SuccessGoal) + ": " + met(k)},
		{"first-pass yield", percent(k.FirstPassYield), number(k.FirstPass) + " units at the first attempt"},
		{"units", number(k.Confirmed), fmt.Sprintf("confirmed of %s issued, %s scrapped", number(k.Issued), number(k.Scrapped))},
		{"devices an hour", fmt.Sprintf("%.0f", k.UnitsPerHour), takt(k)},
		{"issuing", span(k.IssueP50), "p50 in the server; p99 " + span(k.IssueP99)},
		{"whole unit", span(k.CycleP50), "p50 at the station; p99 " + span(k.CycleP99)},
		{"failed attempts", number(k.Failed), "refused by the server or failed at the fixture"},
	}
	if err := printNumbers(io.out, []string{"KPI", "VALUE", ""}, rows, 1); err != nil {
		return err
	}
	if err := printFailures(io, k.Failures); err != nil || len(k.Days) == 0 {
		return err
	}
	fmt.Fprintln(io.out)
	days := make([][]string, len(k.Days))
	for i, d := range k.Days {
		days[i] = []string{d.Date, number(d.Issued), number(d.Confirmed), number(d.FirstPass), number(d.Scrapped), number(d.Failed)}
	}
	return printNumbers(io.out, []string{"DAY", "ISSUED", "CONFIRMED", "FIRST PASS", "SCRAPPED", "FAILED"}, days, 1, 2, 3, 4, 5)
}

func met(k *rest.KPIs) string {
	switch {
	case k.Confirmed+k.Scrapped == 0:
		return "nothing made yet"
	case k.GoalMet:
		return "met"
	}
	return "missed"
}

// takt holds the rate to what the order asks for.
func takt(k *rest.KPIs) string {
	if k.TaktPerHour == 0 {
		return fmt.Sprintf("over %d working hours", k.Hours)
	}
	return fmt.Sprintf("over %d working hours; the takt asks for %.0f", k.Hours, k.TaktPerHour)
}

// span shows milliseconds as a person reads them.
func span(millis float64) string {
	if millis == 0 {
		return "not measured"
	}
	d := time.Duration(millis * float64(time.Millisecond))
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}

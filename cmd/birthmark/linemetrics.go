package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// lineGauges reads the state of the production lines at each scrape.
type lineGauges struct{ node *node }

var (
	alarmsOpen    = prometheus.NewDesc("birthmark_alarms_open", "Alarms that are not closed, by kind.", []string{"kind", "state"}, nil)
	orderUnits    = prometheus.NewDesc("birthmark_order_units", "Units of planned and open orders, by account.", []string{"order", "account"}, nil)
	lineUnits     = prometheus.NewDesc("birthmark_line_units_today", "Units and attempts since midnight UTC, by site, product and measure.", []string{"site", "product", "measure"}, nil)
	issueSeconds  = prometheus.NewDesc("birthmark_unit_issue_seconds", "Time of the server from a unit's request to its certificate, today.", nil, nil)
	cycleSeconds  = prometheus.NewDesc("birthmark_unit_cycle_seconds", "Time of whole units from nonce to confirmation as stations measured it, today.", nil, nil)
	webhookBehind = prometheus.NewDesc("birthmark_webhook_behind_entries", "Ledger entries that a webhook has not looked at.", []string{"webhook"}, nil)
	webhookFails  = prometheus.NewDesc("birthmark_webhook_failing", "1 while a webhook's events cannot be delivered.", []string{"webhook"}, nil)
)

// Describe implements prometheus.Collector.
func (g *lineGauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{alarmsOpen, orderUnits, lineUnits, issueSeconds, cycleSeconds, webhookBehind, webhookFails} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. What cannot be read is left out; its
// absence is the alarm.
func (g *lineGauges) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapePatience)
	defer cancel()
	gauge := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	g.alarms(ctx, gauge)
	g.orders(ctx, gauge)
	g.today(ctx, ch, gauge)
	g.webhooks(ctx, gauge)
}

type gauging func(d *prometheus.Desc, v int64, labels ...string)

// mostAlarms bounds how many open alarms a scrape counts.
const mostAlarms = 1000

func (g *lineGauges) alarms(ctx context.Context, gauge gauging) {
	for _, state := range []factory.AlarmState{factory.AlarmRaised, factory.AlarmAcknowledged} {
		rows, _, err := g.node.store.Alarms(ctx, access.Everything(), factory.AlarmQuery{State: state, Page: factory.Page{Limit: mostAlarms}})
		if err != nil {
			return
		}
		count := map[factory.AlarmKind]int64{}
		for i := range rows {
			count[rows[i].Kind]++
		}
		for kind, n := range count {
			gauge(alarmsOpen, n, string(kind), state.String())
		}
	}
}

func (g *lineGauges) orders(ctx context.Context, gauge gauging) {
	plane, err := g.node.store.Plane(ctx)
	if err != nil {
		return
	}
	for i := range plane.Orders {
		o := &plane.Orders[i]
		for account, n := range map[string]int64{
			"quantity": o.Quantity, "spares": o.Spares, "spares_used": o.SparesUsed(), "issued": o.Counts.Issued, "live": o.Counts.Live,
			"confirmed": o.Counts.Confirmed, "scrapped": o.Counts.Scrapped, "left": o.Left(),
		} {
			gauge(orderUnits, n, o.Number, account)
		}
	}
}

var measureNames = map[factory.Measure]string{
	factory.MeasureIssued: "issued", factory.MeasureConfirmed: "confirmed", factory.MeasureFirstPass: "first_pass",
	factory.MeasureScrapped: "scrapped", factory.MeasureFailed: "failed",
}

// today tells the KPI counters of this day. They begin anew at midnight, which
// rate() takes for a counter's reset.
func (g *lineGauges) today(ctx context.Context, ch chan<- prometheus.Metric, gauge gauging) {
	day := time.Now().Unix() / (24 * 60 * 60)
	tallies, err := g.node.store.Tallies(ctx, access.Everything(), factory.TallyQuery{FromDay: day, ToDay: day})
	if err != nil {
		return
	}
	names, err := g.node.line.factory.Names(ctx)
	if err != nil {
		return
	}
	sums := map[[3]string]int64{}
	issue, cycle := histogram{}, histogram{}
	for _, t := range tallies {
		switch t.Measure {
		case factory.MeasureIssueTime:
			issue.add(t)
		case factory.MeasureCycleTime:
			cycle.add(t)
		}
		if name, ok := measureNames[t.Measure]; ok {
			sums[[3]string{names.Site(t.Site), names.Product(t.Product), name}] += t.N
		}
	}
	for labels, n := range sums {
		gauge(lineUnits, n, labels[:]...)
	}
	ch <- issue.metric(issueSeconds)
	ch <- cycle.metric(cycleSeconds)
}

// histogram gathers KPI buckets; each is counted at its upper end.
type histogram map[int64]uint64

func (h histogram) add(t factory.Tally) { h[t.Bucket] += uint64(max(0, t.N)) }

// secondsBounds are the upper bounds that are shown.
var secondsBounds = []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 2, 5, 10, 30, 60, 300}

func (h histogram) metric(d *prometheus.Desc) prometheus.Metric {
	var total uint64
	var sum float64
	buckets := make(map[float64]uint64, len(secondsBounds))
	for _, bound := range secondsBounds {
		buckets[bound] = 0
	}
	for bucket, n := range h {
		upper := factory.BucketUpper(bucket).Seconds()
		total += n
		sum += upper * float64(n)
		for _, bound := range secondsBounds {
			if upper <= bound {
				buckets[bound] += n
			}
		}
	}
	return prometheus.MustNewConstHistogram(d, total, sum, buckets)
}

func (g *lineGauges) webhooks(ctx context.Context, gauge gauging) {
	size, err := g.node.store.LedgerSize(ctx)
	if err != nil {
		return
	}
	rows, err := g.node.store.Webhooks(ctx)
	if err != nil {
		return
	}
	for _, w := range rows {
		if w.Disabled {
			continue
		}
		gauge(webhookBehind, max(0, size-w.Cursor), w.Name)
		failing := int64(0)
		if w.Failure != "" {
			failing = 1
		}
		gauge(webhookFails, failing, w.Name)
	}
}

package main

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/web/server"
)

// consoleRoutes is what people and programs can reach with a token.
func (s *service) consoleRoutes(local bool) ([]server.Route, error) {
	routes, err := s.node.apiRoutes(local)
	if err != nil {
		return nil, err
	}
	metrics := promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{})
	return append(routes,
		server.Route{Method: "GET", Path: "/healthz", Action: access.Public, Handler: s.healthz, Quiet: true},
		server.Route{Method: "GET", Path: "/readyz", Action: access.Public, Handler: s.readyz, Quiet: true},
		server.Route{
			Method: "GET", Path: "/metrics", Action: access.SystemRead, Quiet: true,
			Handler: func(w http.ResponseWriter, r *http.Request, _ []byte) error {
				metrics.ServeHTTP(w, r)
				return nil
			},
		},
	), nil
}

// registerMetrics adds what is read when metrics are asked for.
func (s *service) registerMetrics() error {
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &gauges{service: s}, &lineGauges{node: s.node},
	} {
		if err := s.registry.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// gauges reads the state of the installation at each scrape.
type gauges struct{ service *service }

var (
	authorityExpiry = prometheus.NewDesc("birthmark_authority_not_after_seconds", "End of an authority's certificate, unix time.", []string{"authority", "state"}, nil)
	serverExpiry    = prometheus.NewDesc("birthmark_server_certificate_not_after_seconds", "End of one of the server's own certificates, unix time.", []string{"listener"}, nil)
	crlNextUpdate   = prometheus.NewDesc("birthmark_crl_next_update_seconds", "nextUpdate of a published CRL, unix time.", []string{"authority", "shard"}, nil)
	ledgerSize      = prometheus.NewDesc("birthmark_ledger_entries", "Entries of the ledger.", nil, nil)
	ledgerSigned    = prometheus.NewDesc("birthmark_ledger_checkpoint_entries", "Entries under the newest checkpoint.", nil, nil)
	ledgerWaiting   = prometheus.NewDesc("birthmark_ledger_waiting_seconds", "How long entries have waited for a checkpoint.", nil, nil)
	mayIssueDesc    = prometheus.NewDesc("birthmark_issuing_allowed", "1 while certificates may be issued.", nil, nil)
	deviceCount     = prometheus.NewDesc("birthmark_devices", "Devices by state.", []string{"state"}, nil)
	credentialCount = prometheus.NewDesc("birthmark_certificates", "Certificates of devices by state.", []string{"state"}, nil)
)

// Describe implements prometheus.Collector.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		authorityExpiry, serverExpiry, crlNextUpdate, ledgerSize, ledgerSigned, ledgerWaiting, mayIssueDesc, deviceCount, credentialCount,
	} {
		ch <- d
	}
}

// scrapePatience bounds what a scrape may cost.
const scrapePatience = 5 * time.Second

// Collect implements prometheus.Collector. What cannot be read is left out; its
// absence is the alarm.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapePatience)
	defer cancel()
	n := g.service.node
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	g.authorities(ctx, gauge)
	for name, slot := range map[string]*server.Certificate{"device": &g.service.device, "console": &g.service.console} {
		if c := slot.Current(); c != nil && c.Leaf != nil {
			gauge(serverExpiry, float64(c.Leaf.NotAfter.Unix()), name)
		}
	}
	health := n.sequencer.Health()
	gauge(ledgerSize, float64(health.Size))
	gauge(ledgerSigned, float64(health.Checkpoint))
	waiting := 0.0
	if !health.WaitingSince.IsZero() {
		waiting = time.Since(health.WaitingSince).Seconds()
	}
	gauge(ledgerWaiting, waiting)
	allowed := 1.0
	if n.mayIssue() != nil {
		allowed = 0
	}
	gauge(mayIssueDesc, allowed)
	if counts, err := n.store.Counts(ctx, access.Everything()); err == nil {
		for state, v := range counts.Devices {
			gauge(deviceCount, float64(v), state.String())
		}
		for state, v := range counts.Credentials {
			gauge(credentialCount, float64(v), state.String())
		}
	}
}

func (g *gauges) authorities(ctx context.Context, gauge func(*prometheus.Desc, float64, ...string)) {
	n := g.service.node
	plane, err := n.authority.Snapshot(ctx)
	if err != nil {
		return
	}
	names := map[int64]string{}
	for _, m := range plane.Authorities() {
		names[m.ID] = m.Name
		if m.X509 != nil {
			gauge(authorityExpiry, float64(m.X509.NotAfter.Unix()), m.Name, m.State.String())
		}
	}
	lists, err := n.status.Lists(ctx)
	if err != nil {
		return
	}
	for _, c := range lists {
		gauge(crlNextUpdate, float64(c.NextUpdate.Unix()), names[c.Authority], strconv.Itoa(c.Shard))
	}
}

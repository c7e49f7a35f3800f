package server

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/birthmark/birthmark/internal/fault"
)

// Metrics counts requests of all listeners.
type Metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	faults   *prometheus.CounterVec
	panics   prometheus.Counter
}

// NewMetrics registers the counters with reg.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "birthmark_http_requests_total", Help: "Requests by listener, route and status.",
		}, []string{"listener", "route", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "birthmark_http_request_seconds", Help: "Time from headers to answer.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5},
		}, []string{"listener", "route"}),
		faults: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "birthmark_refusals_total", Help: "Refusals by listener and code.",
		}, []string{"listener", "code"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "birthmark_panics_total", Help: "Requests that ended in a panic.",
		}),
	}
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.faults, m.panics} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// routeCounters are a route's counters, looked up once: label look-ups cost
// more than counting.
type routeCounters struct {
	metrics  *Metrics
	listener string
	route    string
	duration prometheus.Observer
	byStatus *sync.Map // int -> prometheus.Counter
}

func (m *Metrics) forRoute(listener string, r *Route) routeCounters {
	name := r.Method + " " + r.Path
	return routeCounters{
		metrics: m, listener: listener, route: name,
		duration: m.duration.WithLabelValues(listener, name), byStatus: &sync.Map{},
	}
}

func (c *routeCounters) done(status int, f *fault.Error, took time.Duration) {
	c.duration.Observe(took.Seconds())
	counter, ok := c.byStatus.Load(status)
	if !ok {
		counter, _ = c.byStatus.LoadOrStore(status, c.metrics.requests.WithLabelValues(c.listener, c.route, strconv.Itoa(status)))
	}
	counter.(prometheus.Counter).Inc()
	if f != nil {
		c.metrics.refused(c.listener, f)
	}
}

func (m *Metrics) refused(listener string, f *fault.Error) {
	m.faults.WithLabelValues(listener, f.Code.String()).Inc()
}

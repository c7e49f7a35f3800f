package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
)

// endpoint is a route with its listener: limits, caller, handler, rendering,
// log line and counters.
type endpoint struct {
	route  *Route
	server *Server
	count  routeCounters
	seen   atomic.Uint64 // requests, for sampling the log of quiet routes
}

func newEndpoint(s *Server, r *Route) *endpoint {
	return &endpoint{route: r, server: s, count: s.cfg.Metrics.forRoute(s.cfg.Name, r)}
}

// recorder notes what was answered.
type recorder struct {
	http.ResponseWriter
	status int
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// ServeHTTP answers one request.
func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := e.server.cfg.Now()
	rec := &recorder{ResponseWriter: w}
	caller, err := e.answer(rec, r)
	l := line{caller: caller}
	if err != nil {
		l.fault = fault.Of(err)
		if l.fault.Kind == fault.Internal {
			l.requestID = rand.Text()[:12]
		}
		e.refuse(rec, l)
	}
	l.took = e.server.cfg.Now().Sub(start)
	e.count.done(rec.status, l.fault, l.took)
	e.logRequest(r, rec, l)
}

// answer runs the handler; what it panics with becomes an internal fault.
func (e *endpoint) answer(w *recorder, r *http.Request) (caller string, err error) {
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p) // a stream that cannot be finished: cutting the connection says so
			}
			err = fault.Wrap(fault.Unexpected, fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
			e.server.cfg.Metrics.panics.Inc()
		}
	}()
	body, err := e.readBody(w, r)
	if err != nil {
		return "", err
	}
	if e.route.Action != access.Public && e.route.Action != access.Enroll {
		c, err := e.server.cfg.Authenticate(r)
		if err != nil {
			return "", err
		}
		caller = c.Name
		if !c.May(e.route.Action) {
			return caller, fault.New(fault.NotAllowed, string(e.route.Action))
		}
		r = r.WithContext(access.WithCaller(r.Context(), c))
	}
	return caller, e.route.Handler(w, r, body)
}

// readBody reads at most MaxBody octets before anything else is done with the
// request.
func (e *endpoint) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > e.route.MaxBody {
		return nil, fault.New(fault.RequestTooLarge)
	}
	if r.ContentLength == 0 {
		return nil, nil
	}
	limited := http.MaxBytesReader(w, r.Body, e.route.MaxBody)
	var body []byte
	var err error
	if n := r.ContentLength; n > 0 {
		body = make([]byte, n)
		_, err = io.ReadFull(limited, body)
	} else {
		body, err = io.ReadAll(limited)
	}
	if err == nil {
		return body, nil
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, fault.New(fault.RequestTooLarge)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, fault.New(fault.RequestTooSlow)
	}
	return nil, fault.Wrap(fault.RequestMalformed, err, "the body ended early")
}

// refuse renders a fault unless the handler has answered already.
func (e *endpoint) refuse(w *recorder, l line) {
	f := l.fault
	if l.requestID != "" {
		f = fault.New(f.Code, "request", l.requestID)
	}
	if w.status != 0 {
		return
	}
	status := HTTPStatus(f)
	if (f.Kind == fault.Unavailable || f.Kind == fault.Exhausted) && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", retryAfter)
	}
	if f.Code == fault.RequestTooLarge || f.Code == fault.RequestTooSlow {
		w.Header().Set("Connection", "close")
	}
	if e.route.Fault != nil {
		e.route.Fault(w, status, f)
		return
	}
	WriteProblem(w, status, f)
}

// sampleQuiet is how many requests of a quiet route share one log line.
const sampleQuiet = 1000

// line is what a request's log line says beyond the request itself.
type line struct {
	caller    string
	fault     *fault.Error
	requestID string // of internal faults only
	took      time.Duration
}

func (e *endpoint) logRequest(r *http.Request, w *recorder, l line) {
	f := l.fault
	internal := l.requestID != ""
	if e.route.Quiet && !internal && e.seen.Add(1)%sampleQuiet != 1 {
		return
	}
	level := slog.LevelInfo
	if internal {
		level = slog.LevelError
	}
	log := e.server.cfg.Logger
	if !log.Enabled(r.Context(), level) {
		return
	}
	attributes := make([]slog.Attr, 0, 9)
	attributes = append(attributes,
		slog.String("listener", e.server.cfg.Name), slog.String("method", r.Method), slog.String("route", e.route.Path),
		slog.Int("status", w.status), slog.Int64("duration_us", l.took.Microseconds()), slog.String("remote", r.RemoteAddr))
	if l.caller != "" {
		attributes = append(attributes, slog.String("requester", l.caller))
	}
	if f != nil {
		attributes = append(attributes, slog.String("fault", f.Code.String()))
		if cause := errors.Unwrap(f); cause != nil {
			attributes = append(attributes, slog.String("cause", cause.Error()))
		}
		if internal {
			attributes = append(attributes, slog.String("request_id", l.requestID))
		}
	}
	log.LogAttrs(context.WithoutCancel(r.Context()), level, "request", attributes...)
}

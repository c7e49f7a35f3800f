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

// recorder notes what was answered. Until an endpoint takes it, what the mux
// writes by itself (not found, wrong method, a redirect) goes nowhere.
type recorder struct {
	http.ResponseWriter
	status  int
	taken   bool        // by an endpoint
	probe   http.Header // headers until then
	refused error       // by Refuse
}

// Header returns the headers to be sent, or, while nobody has taken the
// request, some that are not.
func (w *recorder) Header() http.Header {
	if w.taken {
		return w.ResponseWriter.Header()
	}
	if w.probe == nil {
		w.probe = http.Header{}
	}
	return w.probe
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK { // 1xx are no answers
		w.status = status
	}
	if w.taken {
		w.ResponseWriter.WriteHeader(status)
	}
}

func (w *recorder) Write(b []byte) (int, error) {
	if !w.taken {
		return len(b), nil
	}
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Refuse tells the listener that the handler behind w refuses the request, as
// if the route's Handler had returned err: for handlers that a library calls.
// It reports whether w belongs to a listener; if not, nothing was done.
func Refuse(w http.ResponseWriter, err error) bool {
	rec, ok := w.(*recorder)
	if ok {
		rec.refused = err
	}
	return ok
}

// ServeHTTP answers one request.
func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec, ok := w.(*recorder)
	if !ok {
		rec = &recorder{ResponseWriter: w}
	}
	rec.taken, rec.status = true, 0
	start := e.server.cfg.Now()
	caller, err := e.answer(rec, r)
	l := line{caller: caller}
	cut := errors.Is(err, http.ErrAbortHandler)
	if err != nil && !cut {
		l.fault = fault.Of(err)
		if l.fault.Kind == fault.Internal {
			l.requestID = rand.Text()[:12]
		}
		e.refuse(rec, l)
	}
	if rec.status == 0 {
		rec.status = http.StatusOK // what the library sends when nothing was written
	}
	l.took = e.server.cfg.Now().Sub(start)
	e.count.done(rec.status, l.fault, l.took)
	e.logRequest(r, rec, l, cut)
	if cut {
		panic(http.ErrAbortHandler) // a stream that cannot be finished: cutting the connection says so
	}
}

// answer runs the handler; what it panics with becomes an internal fault.
func (e *endpoint) answer(w *recorder, r *http.Request) (caller string, err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p == http.ErrAbortHandler {
			err = http.ErrAbortHandler
			return
		}
		err = fault.Wrap(fault.Unexpected, fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
		e.server.cfg.Metrics.panics.Inc()
	}()
	if r.ContentLength > e.route.MaxBody {
		return "", fault.New(fault.RequestTooLarge)
	}
	if e.route.needsCaller() {
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
	if e.route.Stream > 0 {
		done := e.stream(w, r)
		defer done()
		if err := e.route.Handler(w, r, nil); err != nil {
			return caller, err
		}
		return caller, w.refused
	}
	body, err := e.readBody(w, r)
	if err != nil {
		return caller, err
	}
	if err := e.route.Handler(w, r, body); err != nil {
		return caller, err
	}
	return caller, w.refused
}

// firstRead is how much room a body gets on its sender's word: enough for a
// request with an RSA key. More comes with the octets themselves.
const firstRead = 4 << 10

// readBody reads at most MaxBody octets before anything else is done with the
// request. A declared length over the limit has been refused before.
func (e *endpoint) readBody(w *recorder, r *http.Request) ([]byte, error) {
	if r.ContentLength == 0 || e.route.unread {
		return nil, nil
	}
	limited := http.MaxBytesReader(w, r.Body, e.route.MaxBody)
	var body []byte
	var err error
	if n := r.ContentLength; n > 0 && n <= firstRead {
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
	// What is left of a stream is not read: nothing can follow on its connection.
	if f.Code == fault.RequestTooLarge || f.Code == fault.RequestTooSlow || e.route.Stream > 0 {
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

func (e *endpoint) logRequest(r *http.Request, w *recorder, l line, cut bool) {
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
	attributes := make([]slog.Attr, 0, 10)
	attributes = append(attributes,
		slog.String("listener", e.server.cfg.Name), slog.String("method", r.Method), slog.String("route", e.route.Path),
		slog.Int("status", w.status), slog.Int64("duration_us", l.took.Microseconds()), slog.String("remote", r.RemoteAddr))
	if l.caller != "" {
		attributes = append(attributes, slog.String("requester", l.caller))
	}
	if cut {
		attributes = append(attributes, slog.Bool("cut", true))
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

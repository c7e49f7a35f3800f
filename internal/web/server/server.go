// Package server runs the listeners. For each of them one table of routes is
// both the router and the authorization: method, path, the action a caller
// needs, the largest body. What is not in the table does not exist. Limits come
// before work: sizes, times, connections; then who asks; then the handler,
// which returns an error that is rendered in one place. A panic ends one
// request, never the process.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
)

// Handler answers a request whose body has been read. Errors are rendered by
// the route's Fault.
type Handler func(w http.ResponseWriter, r *http.Request, body []byte) error

// Route is one row of a listener's table.
type Route struct {
	Method string
	Path   string // http.ServeMux pattern without method; with Raw a prefix of the request target
	// Action is what the caller must be allowed to do. access.Public and
	// access.Enroll need no caller; enroll judges the requester itself.
	Action access.Action
	// Raw routes are matched against the request target as it was sent, before
	// any cleaning of paths.
	Raw bool
	// MaxBody is the largest body in octets; zero reads none and refuses one.
	MaxBody int64
	Handler Handler
	// Fault renders a refusal; nil: RFC 9457 problem details.
	Fault func(w http.ResponseWriter, status int, f *fault.Error)
	// Quiet routes are counted, and logged once in a thousand.
	Quiet bool
}

// Config is one listener.
type Config struct {
	Name   string // "device", "console", "status", "local": label of metrics and log lines
	Routes []Route
	// Authenticate finds out who calls on routes that need a caller. Nil: such
	// routes must not be in the table.
	Authenticate func(r *http.Request) (*access.Caller, error)
	// TLS is nil for plain HTTP.
	TLS *tls.Config
	// ConnContext, if set, adds to the context of a connection.
	ConnContext func(ctx context.Context, c net.Conn) context.Context
	Limits      Limits
	Logger      *slog.Logger
	Metrics     *Metrics
	Now         func() time.Time
}

// Limits are what one listener gives to strangers.
type Limits struct {
	Connections   int           // at once; further ones wait in the kernel's queue
	HeaderTimeout time.Duration // handshake and headers
	BodyTimeout   time.Duration // whole request
	WriteTimeout  time.Duration
	IdleTimeout   time.Duration
	HeaderBytes   int
}

// DefaultLimits suit a listener that faces devices.
func DefaultLimits() Limits {
	return Limits{
		Connections: 8192, HeaderTimeout: 10 * time.Second, BodyTimeout: 20 * time.Second,
		WriteTimeout: 60 * time.Second, IdleTimeout: 2 * time.Minute, HeaderBytes: 16 << 10,
	}
}

// Server is one listener with its table.
type Server struct {
	cfg  Config
	http *http.Server
	mux  *http.ServeMux
	raw  []*endpoint
}

// New checks the table and returns a server that does not listen yet.
func New(c Config) (*Server, error) {
	if c.Name == "" || c.Logger == nil || c.Metrics == nil || c.Now == nil {
		return nil, errors.New("server: name, logger, metrics and clock are required")
	}
	s := &Server{cfg: c, mux: http.NewServeMux()}
	for i := range c.Routes {
		if err := s.add(&c.Routes[i]); err != nil {
			return nil, fmt.Errorf("server %s: %w", c.Name, err)
		}
	}
	l := c.Limits
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		TLSConfig:         c.TLS,
		ReadHeaderTimeout: l.HeaderTimeout,
		ReadTimeout:       l.BodyTimeout,
		WriteTimeout:      l.WriteTimeout,
		IdleTimeout:       l.IdleTimeout,
		MaxHeaderBytes:    l.HeaderBytes,
		ConnContext:       c.ConnContext,
		ErrorLog:          slog.NewLogLogger(c.Logger.With("listener", c.Name).Handler(), slog.LevelDebug),
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/1.1 only
	}
	return s, nil
}

func (s *Server) add(r *Route) error {
	if r.Handler == nil || r.Method == "" || r.Path == "" || r.Action == "" {
		return fmt.Errorf("route %s %s: method, path, action and handler are required", r.Method, r.Path)
	}
	if r.Action != access.Public && r.Action != access.Enroll && s.cfg.Authenticate == nil {
		return fmt.Errorf("route %s %s needs a caller, but the listener knows none", r.Method, r.Path)
	}
	e := newEndpoint(s, r)
	if r.Raw {
		s.raw = append(s.raw, e)
		return nil
	}
	s.mux.Handle(r.Method+" "+r.Path, e)
	return nil
}

// serve finds the row of a request. Raw rows go first, since their targets are
// not clean paths.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	for _, e := range s.raw {
		if e.route.Method == r.Method && strings.HasPrefix(r.RequestURI, e.route.Path) {
			e.ServeHTTP(w, r)
			return
		}
	}
	h, pattern := s.mux.Handler(r)
	if pattern == "" {
		s.refuseUnknown(w, r, h)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// refuseUnknown answers what is not in the table: with 405 if the path is there
// under other methods, and 404 else.
func (s *Server) refuseUnknown(w http.ResponseWriter, r *http.Request, h http.Handler) {
	probe := &statusProbe{header: http.Header{}}
	h.ServeHTTP(probe, r)
	f := fault.New(fault.RouteUnknown)
	if probe.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", probe.header.Get("Allow"))
		f = fault.New(fault.MethodNotAllowed)
	}
	s.cfg.Metrics.refused(s.cfg.Name, f)
	WriteProblem(w, HTTPStatus(f), f)
}

// statusProbe lets the mux say which refusal it would write.
type statusProbe struct {
	header http.Header
	status int
}

func (p *statusProbe) Header() http.Header         { return p.header }
func (p *statusProbe) WriteHeader(status int)      { p.status = status }
func (p *statusProbe) Write(b []byte) (int, error) { return len(b), nil }

// ServeHTTP answers one request by the table, for commands that run without a
// listener.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.serve(w, r) }

// Serve accepts connections until Shutdown. It returns nil after Shutdown.
func (s *Server) Serve(l net.Listener) error {
	if n := s.cfg.Limits.Connections; n > 0 {
		l = limitListener(l, n)
	}
	var err error
	if s.cfg.TLS != nil {
		err = s.http.ServeTLS(l, "", "")
	} else {
		err = s.http.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("listener %s: %w", s.cfg.Name, err)
}

// Shutdown stops accepting, lets requests in progress end, and gives up when
// ctx is done.
func (s *Server) Shutdown(ctx context.Context) error {
	if err := s.http.Shutdown(ctx); err != nil {
		return errors.Join(err, s.http.Close())
	}
	return nil
}

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
	"math"
	"net"
	"net/http"
	"net/netip"
	"slices"
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
	// Action is what the caller must be allowed to do. access.Public needs no
	// caller; behind access.Enroll and access.Station the handler's service judges
	// who asks.
	Action access.Action
	// Raw routes are matched against the request target as it was sent, before
	// any cleaning of paths.
	Raw bool
	// MaxBody is the largest body in octets; zero reads none and refuses one.
	MaxBody int64
	// Stream, if positive, leaves the body to the handler, which reads it from the
	// request while it answers; each read may take this long. A read fails with
	// os.ErrDeadlineExceeded then, and when the server is told to stop.
	Stream  time.Duration
	Handler Handler
	// Fault renders a refusal; nil: RFC 9457 problem details.
	Fault func(w http.ResponseWriter, status int, f *fault.Error)
	// Quiet routes are counted, and logged once in a thousand.
	Quiet bool

	unread bool // the body is left alone
}

// takes reports whether requests with this method are the route's. As in
// http.ServeMux, HEAD is GET whose body stays away.
func (r *Route) takes(method string) bool {
	return r.Method == method || r.Method == http.MethodGet && method == http.MethodHead
}

// needsCaller reports whether the listener finds out who calls, before the
// handler.
func (r *Route) needsCaller() bool {
	return r.Action != access.Public && r.Action != access.Enroll && r.Action != access.Station
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
	// ProxyFrom are addresses of proxies whose connections begin with a header of
	// the PROXY protocol, version 2: RemoteAddr is then what they say.
	ProxyFrom []netip.Prefix
	Limits    Limits
	Logger    *slog.Logger
	Metrics   *Metrics
	Now       func() time.Time
}

// Limits are what one listener gives to strangers.
type Limits struct {
	Connections   int           // at once; further ones wait in the kernel's queue
	PerAddress    int           // of them from one address; further ones are closed; 0: all
	HeaderTimeout time.Duration // handshake and headers
	BodyTimeout   time.Duration // whole request
	WriteTimeout  time.Duration
	IdleTimeout   time.Duration
	HeaderBytes   int
}

// DefaultLimits suit a listener that faces devices.
func DefaultLimits() Limits {
	return Limits{
		Connections: 8192, PerAddress: 2048, HeaderTimeout: 10 * time.Second, BodyTimeout: 20 * time.Second,
		WriteTimeout: 60 * time.Second, IdleTimeout: 2 * time.Minute, HeaderBytes: 16 << 10,
	}
}

// Server is one listener with its table.
type Server struct {
	cfg  Config
	http *http.Server
	mux  *http.ServeMux
	raw  []*endpoint
	// stopping is done once Shutdown was called; streams end then.
	stopping context.Context
	stop     context.CancelFunc
	// what is not in the table
	unknown, wrongMethod *endpoint
}

// New checks the table and returns a server that does not listen yet.
func New(c Config) (*Server, error) {
	if c.Name == "" || c.Logger == nil || c.Metrics == nil || c.Now == nil {
		return nil, errors.New("server: name, logger, metrics and clock are required")
	}
	s := &Server{cfg: c, mux: http.NewServeMux()}
	s.stopping, s.stop = context.WithCancel(context.Background())
	quiet := !slices.ContainsFunc(c.Routes, func(r Route) bool { return !r.Quiet })
	s.unknown, s.wrongMethod = s.refusal(fault.RouteUnknown, quiet), s.refusal(fault.MethodNotAllowed, quiet)
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
		// "OPTIONS *" is not in the table either.
		DisableGeneralOptionsHandler: true,
	}
	return s, nil
}

func (s *Server) add(r *Route) error {
	if r.Handler == nil || r.Method == "" || r.Path == "" || r.Action == "" {
		return fmt.Errorf("route %s %s: method, path, action and handler are required", r.Method, r.Path)
	}
	if r.needsCaller() && s.cfg.Authenticate == nil {
		return fmt.Errorf("route %s %s needs a caller, but the listener knows none", r.Method, r.Path)
	}
	e := newEndpoint(s, r)
	if r.Raw {
		if !strings.HasPrefix(r.Path, "/") {
			return fmt.Errorf("route %s %s: a raw prefix begins with a slash", r.Method, r.Path)
		}
		for _, other := range s.raw {
			if other.route.Method == r.Method && (strings.HasPrefix(r.Path, other.route.Path) || strings.HasPrefix(other.route.Path, r.Path)) {
				return fmt.Errorf("raw routes %s %s and %s overlap", r.Method, r.Path, other.route.Path)
			}
		}
		s.raw = append(s.raw, e)
		return nil
	}
	return s.handle(r.Method+" "+r.Path, e)
}

// handle turns what the mux panics with, a pattern that is malformed or
// conflicts with another, into an error.
func (s *Server) handle(pattern string, e *endpoint) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("route %s: %v", pattern, p)
		}
	}()
	s.mux.Handle(pattern, e)
	return nil
}

// refusal is the endpoint of requests that fit no row: nobody is asked who they
// are, and no body is read.
func (s *Server) refusal(code fault.Code, quiet bool) *endpoint {
	return newEndpoint(s, &Route{
		Method: "ANY", Path: "none", Action: access.Public, MaxBody: math.MaxInt64, unread: true, Quiet: quiet,
		Handler: func(http.ResponseWriter, *http.Request, []byte) error { return fault.New(code) },
	})
}

// serve finds the row of a request. Raw rows go first, since their targets are
// not clean paths. The mux's own answers are not sent: what is not in the table
// is refused like everything else, and nothing is ever redirected.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	rec := &recorder{ResponseWriter: w}
	if len(s.raw) > 0 {
		// RFC 9112, section 3.2.2: a server accepts the absolute form, too.
		if _, rest, ok := strings.Cut(r.RequestURI, "://"); ok && r.RequestURI[0] != '/' {
			_, path, _ := strings.Cut(rest, "/")
			r.RequestURI = "/" + path
		}
		for _, e := range s.raw {
			if e.route.takes(r.Method) && strings.HasPrefix(r.RequestURI, e.route.Path) {
				e.ServeHTTP(rec, r)
				return
			}
		}
	}
	s.mux.ServeHTTP(rec, r)
	if rec.taken {
		return
	}
	if rec.status == http.StatusMethodNotAllowed {
		allow := rec.probe.Get("Allow")
		rec.taken = true
		rec.Header().Set("Allow", allow)
		s.wrongMethod.ServeHTTP(rec, r)
		return
	}
	s.unknown.ServeHTTP(rec, r)
}

// ServeHTTP answers one request by the table, for commands that run without a
// listener.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.serve(w, r) }

// Serve accepts connections until Shutdown. It returns nil after Shutdown.
func (s *Server) Serve(l net.Listener) error {
	if len(s.cfg.ProxyFrom) > 0 {
		l = listenBehindProxies(l, s.cfg.ProxyFrom, s.cfg.Limits.Connections, s.cfg.Logger.With("listener", s.cfg.Name))
	}
	if n := s.cfg.Limits.Connections; n > 0 {
		l = limitListener(l, n, s.cfg.Limits.PerAddress)
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
// ctx is done. Streams are read no further.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	if err := s.http.Shutdown(ctx); err != nil {
		return errors.Join(err, s.http.Close())
	}
	return nil
}

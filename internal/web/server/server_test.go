package server_test

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/web/server"
	"github.com/birthmark/birthmark/internal/web/webtest"
)

func say(text string) server.Handler {
	return func(w http.ResponseWriter, _ *http.Request, _ []byte) error {
		_, err := io.WriteString(w, text)
		return err
	}
}

// routes is a table with one row for each thing that can happen.
func routes() []server.Route {
	public := func(method, path string, h server.Handler) server.Route {
		return server.Route{Method: method, Path: path, Action: access.Public, Handler: h}
	}
	length := func(w http.ResponseWriter, r *http.Request, body []byte) error {
		_, err := io.WriteString(w, access.CallerOf(r.Context()).Name+" "+strconv.Itoa(len(body)))
		return err
	}
	spoken := public("GET", "/spoken", func(http.ResponseWriter, *http.Request, []byte) error { return fault.New(fault.DeviceUnknown) })
	spoken.Fault = func(w http.ResponseWriter, status int, f *fault.Error) {
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "spoken "+f.Code.String())
	}
	raw := public("GET", "/raw/", func(w http.ResponseWriter, r *http.Request, _ []byte) error {
		_, err := io.WriteString(w, r.RequestURI)
		return err
	})
	raw.Raw = true
	return []server.Route{
		public("GET", "/ok", say("fine\n")),
		public("GET", "/tree/{path...}", say("tree")),
		raw,
		public("GET", "/fault/{code}", func(_ http.ResponseWriter, r *http.Request, _ []byte) error {
			code, err := strconv.Atoi(r.PathValue("code"))
			if err != nil {
				return err
			}
			return fault.New(fault.Code(code))
		}),
		public("GET", "/error", func(http.ResponseWriter, *http.Request, []byte) error { return errors.New("disk17 is full") }),
		public("GET", "/panic", func(http.ResponseWriter, *http.Request, []byte) error { panic("kaboom") }),
		public("GET", "/abort", func(w http.ResponseWriter, _ *http.Request, _ []byte) error {
			_, _ = io.WriteString(w, "half")
			panic(http.ErrAbortHandler)
		}),
		public("GET", "/late", func(w http.ResponseWriter, _ *http.Request, _ []byte) error {
			_, _ = io.WriteString(w, "begun")
			return fault.New(fault.DeviceUnknown)
		}),
		public("GET", "/library", func(w http.ResponseWriter, _ *http.Request, _ []byte) error {
			if !server.Refuse(w, fault.New(fault.DeviceExists)) {
				return errors.New("no listener")
			}
			return nil
		}),
		spoken,
		{Method: "POST", Path: "/ten", Action: access.Public, MaxBody: 10, Handler: length},
		{Method: "POST", Path: "/big", Action: access.Public, MaxBody: 1 << 20, Handler: length},
		{Method: "POST", Path: "/guarded", Action: access.DeviceManage, MaxBody: 10, Handler: length},
	}
}

// authenticate takes a bearer's word for who it is.
func authenticate(r *http.Request) (*access.Caller, error) {
	name, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return nil, fault.New(fault.NotAuthenticated)
	}
	return &access.Caller{Name: name, Actions: map[access.Action]bool{access.DeviceManage: name == "manager"}}, nil
}

func listen(t testing.TB, change func(*server.Config)) *webtest.Listener {
	t.Helper()
	c := server.Config{Routes: routes(), Authenticate: authenticate, Limits: server.DefaultLimits()}
	if change != nil {
		change(&c)
	}
	return webtest.Listen(t, c)
}

func TestListener(t *testing.T) {
	l := listen(t, nil)
	s := &webtest.Script{Network: "tcp", Address: l.Address, Vars: map[string]string{"flood": strings.Repeat("x", 32<<10)}}
	s.Run(t, "testdata/listener.txt")
	if n := l.Count(t, "birthmark_panics_total"); n != 1 {
		t.Errorf("%v panics were counted", n)
	}
	if n := l.Count(t, "birthmark_refusals_total", "BM-5030"); n < 5 {
		t.Errorf("%v unknown addresses were counted", n)
	}
	if n := l.Count(t, "birthmark_http_requests_total", "ANY none", "405"); n < 3 {
		t.Errorf("%v wrong methods were counted", n)
	}
	log := l.Log.String()
	for _, want := range []string{"cause=\"disk17 is full\"", "panic: kaboom", "route=none status=404", "requester=manager", "level=ERROR"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not hold %s", want)
		}
	}
}

// The id in the answer leads to the line in the log.
func TestRequestIDLeadsToTheLog(t *testing.T) {
	l := listen(t, nil)
	resp, err := http.Get("http://" + l.Address + "/error")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	_, rest, _ := strings.Cut(string(body), `"detail":"request `)
	id, _, _ := strings.Cut(rest, `"`)
	if len(id) != 12 || !strings.Contains(l.Log.String(), "request_id="+id) {
		t.Fatalf("id %q of %s is not in the log", id, body)
	}
}

func TestEveryKindHasAStatus(t *testing.T) {
	want := map[fault.Kind]int{
		fault.Internal: 500, fault.Invalid: 400, fault.Unauthenticated: 401, fault.Forbidden: 403,
		fault.NotFound: 404, fault.Conflict: 409, fault.Exhausted: 429, fault.Unavailable: 503,
	}
	own := map[fault.Code]int{
		fault.RequestTooLarge: 413, fault.RequestTooSlow: 408, fault.ContentTypeWrong: 415, fault.MethodNotAllowed: 405,
	}
	seen := map[fault.Kind]bool{}
	for _, entry := range fault.All() {
		seen[entry.Kind] = true
		status := want[entry.Kind]
		if s, ok := own[entry.Code]; ok {
			status = s
		}
		f := fault.New(entry.Code)
		if got := server.HTTPStatus(f); got != status {
			t.Errorf("%s (%s): %d, want %d", entry.Code, entry.Kind, got, status)
		}
		if p := server.NewProblem(status, f); p.Code != entry.Code.String() || p.Title == "" || p.Remedy == "" {
			t.Errorf("%s: problem %+v", entry.Code, p)
		}
	}
	if len(seen) != len(want) {
		t.Errorf("the table uses %d of %d kinds", len(seen), len(want))
	}
}

func TestTablesThatCannotBe(t *testing.T) {
	ok := server.Route{Method: "GET", Path: "/x", Action: access.Public, Handler: say("x")}
	with := func(change func(*server.Route)) server.Route {
		r := ok
		change(&r)
		return r
	}
	for name, table := range map[string][]server.Route{
		"no handler":            {with(func(r *server.Route) { r.Handler = nil })},
		"no action":             {with(func(r *server.Route) { r.Action = "" })},
		"no method":             {with(func(r *server.Route) { r.Method = "" })},
		"no path":               {with(func(r *server.Route) { r.Path = "" })},
		"the same twice":        {ok, ok},
		"two that conflict":     {with(func(r *server.Route) { r.Path = "/{a}/x" }), with(func(r *server.Route) { r.Path = "/x/{b}" })},
		"a malformed pattern":   {with(func(r *server.Route) { r.Path = "/{" })},
		"raw twice":             {with(func(r *server.Route) { r.Raw = true }), with(func(r *server.Route) { r.Raw = true })},
		"raw within raw":        {with(func(r *server.Route) { r.Raw = true }), with(func(r *server.Route) { r.Raw, r.Path = true, "/x/y" })},
		"raw without slash":     {with(func(r *server.Route) { r.Raw, r.Path = true, "x" })},
		"a caller, nobody asks": {with(func(r *server.Route) { r.Action = access.DeviceRead })},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := newServer(t, server.Config{Name: "test", Routes: table}); err == nil {
				t.Fatal("accepted")
			}
		})
	}
	if _, err := newServer(t, server.Config{Name: "test", Routes: []server.Route{ok}}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]server.Config{
		"no name":   {Logger: slog.New(slog.DiscardHandler), Now: time.Now, Metrics: new(server.Metrics)},
		"no logger": {Name: "x", Now: time.Now, Metrics: new(server.Metrics)},
		"no clock":  {Name: "x", Logger: slog.New(slog.DiscardHandler), Metrics: new(server.Metrics)},
	} {
		if _, err := server.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func newServer(t *testing.T, c server.Config) (*server.Server, error) {
	t.Helper()
	metrics, err := server.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	c.Logger, c.Metrics, c.Now = slog.New(slog.DiscardHandler), metrics, time.Now
	return server.New(c)
}

func TestQuietRoutesAreSampled(t *testing.T) {
	l := listen(t, func(c *server.Config) {
		for i := range c.Routes {
			c.Routes[i].Quiet = true
		}
	})
	for range 1500 {
		l.ServeHTTP(newAnswer(), newRequest("GET", "/ok"))
	}
	l.ServeHTTP(newAnswer(), newRequest("GET", "/error"))
	l.ServeHTTP(newAnswer(), newRequest("GET", "/error"))
	if n := strings.Count(l.Log.String(), "route=/ok"); n != 2 {
		t.Errorf("%d lines for 1500 requests", n)
	}
	if n := strings.Count(l.Log.String(), "route=/error"); n != 2 {
		t.Errorf("%d lines for 2 internal errors", n)
	}
	if n := l.Count(t, "birthmark_http_requests_total", "GET /ok", "200"); n != 1500 {
		t.Errorf("%v were counted", n)
	}
	for range 1500 {
		l.ServeHTTP(newAnswer(), newRequest("GET", "/scan"))
	}
	if n := strings.Count(l.Log.String(), "route=none"); n != 2 {
		t.Errorf("%d lines for 1500 unknown addresses on a quiet listener", n)
	}
}

// Whatever a stranger or an operator sends, none of it is in the log.
func TestLogHoldsNoSecrets(t *testing.T) {
	l := listen(t, nil)
	const canary = "canary7391"
	for _, target := range []string{"/ok", "/ten", "/guarded", "/error", "/panic", "/fault/2001", "/nothing/" + canary, "/late", "/tree/" + canary, "/raw/" + canary} {
		for _, method := range []string{"GET", "POST", canary} {
			for _, authorization := range []string{"Basic " + canary, "Bearer " + canary + "\xff"} {
				body := io.Reader(strings.NewReader(canary))
				if method == "GET" {
					body = nil
				}
				r, err := http.NewRequestWithContext(t.Context(), method, "http://"+l.Address+target+"?token="+canary, body)
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("Authorization", authorization)
				r.Header.Set("Cookie", canary)
				resp, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
			}
		}
	}
	// And as broken HTTP.
	for _, text := range []string{"GET /" + canary + "\r\n\r\n", canary + "\r\n\r\n", "GET / HTTP/1.1\r\n" + canary + "\r\n\r\n", "\x16\x03\x01" + canary} {
		c, err := net.Dial("tcp", l.Address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, text)
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
		c.Close()
	}
	for line := range strings.Lines(l.Log.String()) {
		line = strings.ReplaceAll(line, "requester="+canary, "") // authenticate of this test makes the token a name
		line = strings.ReplaceAll(line, `requester="`+canary, "")
		line = strings.ReplaceAll(line, "method="+canary, "")
		if strings.Contains(line, canary) {
			t.Errorf("in the log: %s", line)
		}
	}
}

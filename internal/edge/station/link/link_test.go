package link_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/edge/station/link"
	"github.com/birthmark/birthmark/internal/edge/station/stationtest"
	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
)

func connect(t *testing.T, s *stationtest.Server, change func(*link.Config)) *link.Client {
	t.Helper()
	own := s.Credential()
	c := link.Config{URL: s.URL(), Trust: s.Trust(), Credential: func() *tls.Certificate { return own }}
	if change != nil {
		change(&c)
	}
	client, err := link.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func scrap(t *testing.T, c *link.Client) (station.Result, error) {
	t.Helper()
	return c.Scrap(t.Context(), &station.Scrap{ID: "mine", Order: "PO-1", DeviceSerial: "SN1", Reason: "test"})
}

// TestHostileServers: whatever a server does, the station gets a fault with code
// StationLink or the server's own, in time, and nothing from elsewhere.
func TestHostileServers(t *testing.T) {
	duplex := func(w http.ResponseWriter) *http.ResponseController {
		c := http.NewResponseController(w)
		_ = c.EnableFullDuplex()
		return c
	}
	lines := func(w http.ResponseWriter, text string) {
		c := duplex(w)
		w.Header().Set("Content-Type", station.LinesType)
		_, _ = w.Write([]byte(text))
		_ = c.Flush()
	}
	for name, one := range map[string]struct {
		hook func(w http.ResponseWriter, r *http.Request)
		want fault.Code
	}{
		"redirects": {func(w http.ResponseWriter, r *http.Request) {
			duplex(w)
			http.Redirect(w, r, "https://elsewhere.example/", http.StatusTemporaryRedirect)
		}, fault.StationLink},
		"is busy":                {func(w http.ResponseWriter, _ *http.Request) { duplex(w); w.WriteHeader(503) }, fault.StationLink},
		"refuses with its code":  {func(w http.ResponseWriter, _ *http.Request) { stationtest.Refuse(w, 403, fault.StationState, "") }, fault.StationState},
		"says nonsense":          {func(w http.ResponseWriter, _ *http.Request) { lines(w, "hello\n") }, fault.StationLink},
		"answers another item":   {func(w http.ResponseWriter, _ *http.Request) { lines(w, `{"id":"77","ok":true}`+"\n") }, fault.StationLink},
		"answers half a line":    {func(w http.ResponseWriter, _ *http.Request) { lines(w, `{"id":"1","ok":true}`) }, fault.StationLink},
		"answers without end":    {func(w http.ResponseWriter, _ *http.Request) { lines(w, strings.Repeat("x", 1<<20)) }, fault.StationLink},
		"ends without an answer": {func(w http.ResponseWriter, _ *http.Request) { lines(w, "") }, fault.StationLink},
		"cuts the connection":    {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, fault.StationLink},
		"never answers":          {func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }, fault.StationLink},
		"refuses without a code": {func(w http.ResponseWriter, _ *http.Request) { lines(w, `{"id":"1","ok":false}`+"\n") }, fault.StationLink},
		"refuses in its own words": {func(w http.ResponseWriter, _ *http.Request) {
			lines(w, `{"id":"1","ok":false,"code":"BM-8999","kind":"conflict","message":"new\u001b[2J","remedy":"r"}`+"\n")
		}, 8999},
	} {
		t.Run(name, func(t *testing.T) {
			s := stationtest.New(t)
			s.HTTP.Config.ErrorLog = nil
			s.Hook = func(w http.ResponseWriter, r *http.Request) bool { one.hook(w, r); return true }
			c := connect(t, s, func(c *link.Config) { c.Timeout = 300 * time.Millisecond })
			r, err := scrap(t, c)
			if err == nil {
				if f := link.Fault(&r); f != nil {
					err = f
				}
			}
			f := fault.Of(err)
			if err == nil || f.Code != one.want {
				t.Fatalf("%+v, %v", r, err)
			}
			if strings.ContainsRune(f.Message+f.Detail, '\x1b') {
				t.Errorf("the server commands the terminal: %q", f.Message)
			}
		})
	}
}

func TestQuestionsToHostileServers(t *testing.T) {
	for name, hook := range map[string]func(w http.ResponseWriter, r *http.Request){
		"redirects":     func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
		"says nonsense": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"says too much": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat(" ", 9<<20)) },
		"says half": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			fmt.Fprint(w, "{")
		},
		"never answers": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"is a web proxy": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "<html>log in</html>", http.StatusForbidden)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := stationtest.New(t)
			s.Hook = func(w http.ResponseWriter, r *http.Request) bool { hook(w, r); return true }
			c := connect(t, s, func(c *link.Config) { c.Timeout = 500 * time.Millisecond })
			if _, err := c.Status(t.Context()); !fault.Has(err, fault.StationLink) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestStrangersAreNotTrusted(t *testing.T) {
	s, stranger := stationtest.New(t), stationtest.New(t)
	c := connect(t, s, func(c *link.Config) { c.Trust = stranger.Trust() })
	if _, err := c.Status(t.Context()); !fault.Has(err, fault.StationLink) || !strings.Contains(err.Error(), "not the one to trust") {
		t.Errorf("another authority: %v", err)
	}
	_, err := scrap(t, c)
	if !fault.Has(err, fault.StationLink) {
		t.Errorf("a stream to another authority: %v", err)
	}
	c = connect(t, s, func(c *link.Config) { c.URL = strings.Replace(c.URL, "127.0.0.1", "localhost", 1) })
	if _, err := c.Status(t.Context()); !fault.Has(err, fault.StationLink) {
		t.Errorf("another host: %v", err)
	}
	for _, url := range []string{"http://127.0.0.1:1", "127.0.0.1:1", "https://user:secret@host", "https://host/path", "https://", "https://host?x"} {
		if _, err := link.New(link.Config{URL: url, Trust: x509.NewCertPool()}); err == nil {
			t.Errorf("%s was taken", url)
		}
	}
}

func TestServerMustSpeakTLS13(t *testing.T) {
	s := stationtest.New(t)
	own := s.Credential()
	old := &http.Server{TLSConfig: &tls.Config{MaxVersion: tls.VersionTLS12, Certificates: s.HTTP.TLS.Certificates}}
	l, err := tls.Listen("tcp", "127.0.0.1:0", old.TLSConfig)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = old.Serve(l) }()
	t.Cleanup(func() { _ = old.Close() })
	c, err := link.New(link.Config{URL: "https://" + l.Addr().String(), Trust: s.Trust(), Credential: func() *tls.Certificate { return own }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Status(t.Context()); !fault.Has(err, fault.StationLink) {
		t.Errorf("%v", err)
	}
}

// TestAnswersFindTheirItems: many items over one stream, answered in any order.
func TestAnswersFindTheirItems(t *testing.T) {
	s := stationtest.New(t)
	s.AddOrder(station.Order{Number: "PO-1", KeyModel: "on-device"})
	var streams atomic.Int64
	s.Hook = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == station.ScrapPath {
			streams.Add(1)
		}
		return false
	}
	s.Spoil = func(_ string, r *station.Result) { r.Detail = r.Code }
	c := connect(t, s, nil)
	var work sync.WaitGroup
	for i := range 500 {
		work.Go(func() {
			id := fmt.Sprintf("unit <%d>", i)
			r, err := c.Scrap(t.Context(), &station.Scrap{ID: id, Order: "PO-1", DeviceSerial: id})
			if err != nil || r.ID != id || r.Code != fault.UnitUnknown.String() {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
	work.Wait()
	if n := streams.Load(); n != 1 {
		t.Errorf("%d streams were opened for one kind of item", n)
	}
}

// TestStreamsEndWhenNothingComes and open again for the next item.
func TestStreamsEndWhenNothingComes(t *testing.T) {
	s := stationtest.New(t)
	var streams atomic.Int64
	ended := make(chan struct{}, 10)
	s.Hook = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Hooked") != "" {
			return false
		}
		r.Header.Set("Hooked", "1")
		streams.Add(1)
		s.HTTP.Config.Handler.ServeHTTP(w, r)
		ended <- struct{}{}
		return true
	}
	c := connect(t, s, func(c *link.Config) { c.Idle = 20 * time.Millisecond })
	for range 3 {
		if _, err := scrap(t, c); err != nil {
			t.Fatal(err)
		}
		<-ended
	}
	if n := streams.Load(); n != 3 {
		t.Errorf("%d streams", n)
	}
}

// TestRenewedCertificateIsUsed although a stream is open with the old one.
func TestRenewedCertificateIsUsed(t *testing.T) {
	s := stationtest.New(t)
	var own atomic.Pointer[tls.Certificate]
	c := connect(t, s, func(c *link.Config) { c.Credential = own.Load })
	own.Store(s.Credential())
	if _, err := scrap(t, c); err != nil {
		t.Fatal(err)
	}
	own.Store(s.Credential())
	c.Renewed()
	if _, err := c.Status(t.Context()); err != nil {
		t.Error(err)
	}
	if r, err := scrap(t, c); err != nil || r.Code != fault.UnitUnknown.String() {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestItemTooLongIsNotSent(t *testing.T) {
	s := stationtest.New(t)
	c := connect(t, s, nil)
	_, err := c.Scrap(t.Context(), &station.Scrap{Reason: strings.Repeat("x", station.MaxLine)})
	if !fault.Has(err, fault.RequestTooLarge) {
		t.Errorf("%v", err)
	}
	if _, err := scrap(t, c); err != nil {
		t.Errorf("the next item: %v", err)
	}
}

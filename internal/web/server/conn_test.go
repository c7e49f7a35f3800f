package server_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/needs"
	"github.com/birthmark/birthmark/internal/web/server"
	"github.com/birthmark/birthmark/internal/web/webtest"
)

func newAnswer() *httptest.ResponseRecorder { return httptest.NewRecorder() }

func newRequest(method, target string) *http.Request { return httptest.NewRequest(method, target, nil) }

// short are limits that a test can wait for.
func short(c *server.Config) {
	c.Limits = server.Limits{
		Connections: 8, HeaderTimeout: 100 * time.Millisecond, BodyTimeout: 150 * time.Millisecond,
		WriteTimeout: 10 * time.Second, IdleTimeout: 100 * time.Millisecond, HeaderBytes: 8 << 10,
	}
}

func dial(t *testing.T, l *webtest.Listener) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// A connection on which nothing more comes ends by itself: in the middle of
// headers with the library's word, in the middle of a body with 408, and after an
// answer.
func TestSlowSenders(t *testing.T) {
	l := listen(t, short)
	for name, row := range map[string]struct{ send, want string }{
		"nothing":       {"", ""},
		"half a header": {"GET /ok HTTP/1.1\r\nHost: x\r\nX-", "HTTP/1.1 400"},
		"half a body":   {"POST /ten HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n123", "HTTP/1.1 408"},
		"half a chunk":  {"POST /ten HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12", "HTTP/1.1 408"},
		"no body":       {"POST /ten HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 408"},
		"after one":     {"GET /ok HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200"},
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, l)
			if _, err := io.WriteString(c, row.send); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(c) // to the end: the server closes
			if err != nil && !errors.Is(err, net.ErrClosed) {
				t.Fatal(err)
			}
			if !strings.HasPrefix(string(got), row.want) || row.want == "" && len(got) > 0 {
				t.Fatalf("got %q, want %q", got, row.want)
			}
			if strings.Contains(row.want, "408") && (!strings.Contains(string(got), "BM-1003") || !strings.Contains(string(got), "Connection: close")) {
				t.Fatalf("got %q", got)
			}
		})
	}
}

// What is over the limit is refused although the sender goes on for ever.
func TestEndlessBody(t *testing.T) {
	l := listen(t, nil)
	c := dial(t, l)
	go func() {
		_, _ = io.WriteString(c, "POST /ten HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
		for {
			if _, err := io.WriteString(c, "400\r\n"+strings.Repeat("x", 1024)+"\r\n"); err != nil {
				return
			}
		}
	}()
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 413 || !resp.Close {
		t.Fatalf("status %d, close %v", resp.StatusCode, resp.Close)
	}
}

func TestConnectionLimit(t *testing.T) {
	const most = 3
	l := listen(t, func(c *server.Config) { c.Limits.Connections = most })
	ask := func(c net.Conn) error {
		if _, err := io.WriteString(c, "GET /ok HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	var held []net.Conn
	for range most {
		c := dial(t, l)
		if err := ask(c); err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	late := dial(t, l) // waits in the kernel's queue
	answered := make(chan error, 1)
	go func() { answered <- ask(late) }()
	select {
	case err := <-answered:
		t.Fatalf("one connection too many was answered: %v", err)
	default:
	}
	if n := l.Count(t, "birthmark_http_requests_total"); n != most {
		t.Fatalf("%v requests were served", n)
	}
	held[0].Close()
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
}

func TestShutdownLetsRequestsEnd(t *testing.T) {
	inside, goOn := make(chan struct{}), make(chan struct{})
	l := listen(t, func(c *server.Config) {
		c.Routes = append(c.Routes, server.Route{
			Method: "GET", Path: "/long", Action: access.Public,
			Handler: func(w http.ResponseWriter, _ *http.Request, _ []byte) error {
				close(inside)
				<-goOn
				_, err := io.WriteString(w, "whole")
				return err
			},
		})
	})
	idle := bufio.NewReader(dialAndAsk(t, l))
	if _, err := http.ReadResponse(idle, &http.Request{Method: http.MethodHead}); err != nil {
		t.Fatal(err)
	}
	var got string
	var wait sync.WaitGroup
	wait.Go(func() {
		resp, err := http.Get("http://" + l.Address + "/long")
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		got = string(body)
	})
	<-inside
	stopped := make(chan error, 1)
	go func() { stopped <- l.Shutdown(t.Context()) }()
	for { // nothing is accepted from now on
		c, err := net.Dial("tcp", l.Address)
		if err != nil {
			break
		}
		c.Close()
	}
	select {
	case err := <-stopped:
		t.Fatalf("stopped while a request was in progress: %v", err)
	default:
	}
	close(goOn)
	wait.Wait()
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if got != "whole" {
		t.Fatalf("got %q", got)
	}
	if _, err := io.ReadAll(idle); err != nil {
		t.Errorf("the idle connection was not closed: %v", err)
	}
}

func dialAndAsk(t *testing.T, l *webtest.Listener) net.Conn {
	t.Helper()
	c := dial(t, l)
	if _, err := io.WriteString(c, "HEAD /ok HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestShutdownGivesUp(t *testing.T) {
	inside, goOn := make(chan struct{}), make(chan struct{})
	l := listen(t, func(c *server.Config) {
		c.Routes = append(c.Routes, server.Route{
			Method: "GET", Path: "/long", Action: access.Public,
			Handler: func(http.ResponseWriter, *http.Request, []byte) error {
				close(inside)
				<-goOn
				return nil
			},
		})
	})
	c := dial(t, l)
	if _, err := io.WriteString(c, "GET /long HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-inside
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Shutdown(done); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if got, err := io.ReadAll(c); err != nil || len(got) > 0 {
		t.Fatalf("the connection was not cut: %q, %v", got, err)
	}
	close(goOn)
}

// What a handler cuts off is cut off for the reader, too, and still is in log
// and counters.
func TestCutStream(t *testing.T) {
	l := listen(t, nil)
	c := dial(t, l)
	if _, err := io.WriteString(c, "GET /abort HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(c); strings.HasSuffix(string(got), "0\r\n\r\n") || strings.Contains(string(got), "Content-Length") {
		t.Fatalf("looks whole: %q", got)
	}
	if !strings.Contains(l.Log.String(), "route=/abort status=200") || !strings.Contains(l.Log.String(), "cut=true") {
		t.Errorf("log: %s", l.Log)
	}
	if n := l.Count(t, "birthmark_panics_total"); n != 0 {
		t.Errorf("counted as %v panics", n)
	}
}

func TestDeviceTLS(t *testing.T) {
	var slot server.Certificate
	l := listen(t, func(c *server.Config) { c.TLS = server.DeviceTLS(&slot) })
	client := func(change func(*tls.Config)) (*tls.Conn, error) {
		c := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}}
		if change != nil {
			change(c)
		}
		return tls.Dial("tcp", l.Address, c)
	}
	if _, err := client(nil); err == nil {
		t.Fatal("a handshake without a certificate of ours")
	}
	first := webtest.SelfSigned(t, "first", time.Now().Add(time.Hour))
	slot.Set(first)
	c, err := client(nil)
	if err != nil {
		t.Fatal(err)
	}
	if s := c.ConnectionState(); s.NegotiatedProtocol != "http/1.1" || s.PeerCertificates[0].Subject.CommonName != "first" {
		t.Errorf("protocol %q, certificate of %s", s.NegotiatedProtocol, s.PeerCertificates[0].Subject)
	}
	c.Close()
	if _, err := client(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS11; c.MinVersion = tls.VersionTLS10 }); err == nil {
		t.Error("TLS 1.1 was spoken")
	}
	if _, err := client(func(c *tls.Config) { c.NextProtos = []string{"h2"} }); err == nil {
		t.Error("HTTP/2 alone was agreed to")
	}
	slot.Set(webtest.SelfSigned(t, "second", time.Now().Add(time.Hour)))
	if c, err = client(nil); err != nil {
		t.Fatal(err)
	}
	if name := c.ConnectionState().PeerCertificates[0].Subject.CommonName; name != "second" {
		t.Errorf("the next handshake shows %s", name)
	}
	c.Close()
	if slot.Current().Leaf.Subject.CommonName != "second" {
		t.Error("Current is not what was set")
	}
}

// Nothing is resumed: a session would skip the look at the client's
// certificate.
func TestNoResumption(t *testing.T) {
	for name, configure := range map[string]func(*server.Certificate) *tls.Config{"device": server.DeviceTLS, "console": server.ConsoleTLS} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(name+" "+tls.VersionName(version), func(t *testing.T) {
				var slot server.Certificate
				cert := webtest.SelfSigned(t, "x", time.Now().Add(time.Hour))
				slot.Set(cert)
				l := listen(t, func(c *server.Config) { c.TLS = configure(&slot) })
				roots := x509.NewCertPool()
				roots.AddCert(cert.Leaf)
				config := &tls.Config{
					RootCAs: roots, ServerName: "localhost", ClientSessionCache: tls.NewLRUClientSessionCache(8),
					MinVersion: version, MaxVersion: version,
				}
				for range 3 {
					c, err := tls.Dial("tcp", l.Address, config)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := io.WriteString(c, "GET /ok HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
						t.Fatal(err)
					}
					if _, err := io.ReadAll(c); err != nil {
						t.Fatal(err)
					}
					if c.ConnectionState().DidResume {
						t.Fatal("resumed")
					}
				}
			})
		}
	}
}

func TestUnixSocketKnowsItsPeer(t *testing.T) {
	needs.Linux(t)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	webtest.ListenOn(t, server.Config{
		Limits: server.DefaultLimits(), ConnContext: server.PeerContext, Authenticate: func(r *http.Request) (*access.Caller, error) {
			name, _ := server.PeerUser(r.Context())
			return &access.Caller{Name: name, Actions: map[access.Action]bool{access.DeviceRead: true}}, nil
		},
		Routes: []server.Route{{Method: "GET", Path: "/who", Action: access.DeviceRead, Handler: func(w http.ResponseWriter, r *http.Request, _ []byte) error {
			_, err := io.WriteString(w, access.CallerOf(r.Context()).Name)
			return err
		}}},
	}, "unix", path)
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /who HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(string(got), "\r\n\r\n"+me.Username) {
		t.Fatalf("got %q, want %s", got, me.Username)
	}
	if name, ok := server.PeerUser(server.PeerContext(t.Context(), dial(t, listen(t, nil)))); ok {
		t.Errorf("a TCP connection has the peer %q", name)
	}
}

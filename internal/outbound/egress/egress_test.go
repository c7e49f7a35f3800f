package egress

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
)

func TestCheck(t *testing.T) {
	g, err := New(Config{Allow: []string{"ERP.factory.local", "127.0.0.1:9000"}})
	must(t, err)
	for text, good := range map[string]bool{
		"https://example.com/hook":           true,
		"https://example.com:8443/hook?a=b":  true,
		"https://93.184.216.34/":             true,
		"https://[2606:2800:220:1::1]/":      true,
		"http://erp.factory.local/hook":      true,
		"https://erp.factory.local.:99/hook": true,
		"http://127.0.0.1:9000/":             true,
		"http://127.0.0.1:9001/":             false,
		"http://example.com/hook":            false,
		"ftp://example.com/":                 false,
		"https://":                           false,
		"https:///path":                      false,
		"https:example.com":                  false,
		"//example.com":                      false,
		"example.com":                        false,
		"":                                   false,
		"https://user:pw@example.com/":       false,
		"https://example.com/#part":          false,
		"https://127.0.0.1/":                 false,
		"https://10.0.0.1/":                  false,
		"https://169.254.169.254/latest":     false,
		"https://[::1]/":                     false,
		"https://[fe80::1%25eth0]/":          false,
		"https://[::ffff:10.0.0.1]/":         false,
		"https://[64:ff9b::a00:1]/":          false,
		"https://0.0.0.0/":                   false,
		"https://100.64.0.1/":                false,
		"https://example.com/\x00":           false,
		"file:///etc/passwd":                 false,
		"https://sub.erp.factory.local/":     true, // its address decides
		"http://sub.erp.factory.local/":      false,
	} {
		if err := g.Check(text); good != (err == nil) || err != nil && !fault.Has(err, fault.WebhookInvalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, host := range []string{"", "https://x", "*.example.com", "a b", "u@h"} {
		if _, err := New(Config{Allow: []string{host}}); !fault.Has(err, fault.ConfigInvalid) {
			t.Errorf("allowed %q: %v", host, err)
		}
	}
}

func TestPublic(t *testing.T) {
	for text, want := range map[string]bool{
		"8.8.8.8": true, "2606:4700::1111": true, "::ffff:8.8.8.8": true,
		"127.0.0.1": false, "127.8.8.8": false, "10.1.1.1": false, "172.16.0.1": false, "172.32.0.1": true, "192.168.1.1": false,
		"169.254.169.254": false, "0.0.0.0": false, "0.1.2.3": false, "255.255.255.255": false, "224.0.0.1": false, "100.127.0.1": false,
		"::": false, "::1": false, "fe80::1": false, "fc00::1": false, "fd12::1": false, "ff02::1": false, "::ffff:127.0.0.1": false,
		"::127.0.0.1": false, "2002:7f00:1::": false, "64:ff9b::7f00:1": false, "2001:0:1::": false, "2606:4700::1%eth0": false,
	} {
		if got := public(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	if public(netip.Addr{}) {
		t.Error("no address is public")
	}
}

// guard lets a name point at the test's own machine.
func guard(t *testing.T, s *httptest.Server, allow ...string) *Guard {
	t.Helper()
	roots := x509.NewCertPool()
	if s.Certificate() != nil {
		roots.AddCert(s.Certificate())
	}
	g, err := New(Config{Allow: allow, Roots: roots, Timeout: 5 * time.Second, Resolve: func(_ context.Context, host string) ([]netip.Addr, error) {
		switch host {
		case "example.com":
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		case "two.example.com":
			return []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.1"), netip.MustParseAddr("127.0.0.1")}, nil
		}
		return nil, errors.New("no such host")
	}})
	must(t, err)
	t.Cleanup(g.Close)
	return g
}

func portOfServer(t *testing.T, s *httptest.Server) string {
	t.Helper()
	u, err := url.Parse(s.URL)
	must(t, err)
	return u.Port()
}

func TestPost(t *testing.T) {
	var got atomic.Value
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got.Store(r.Header.Get("X-Test") + string(body))
		w.WriteHeader(http.StatusNoContent)
	}))
	defer s.Close()
	to := "https://example.com:" + portOfServer(t, s) + "/hook"
	header := http.Header{"X-Test": {"a"}}
	g := guard(t, s, "example.com")
	must(t, g.Post(t.Context(), to, header, strings.NewReader("b")))
	if got.Load() != "ab" {
		t.Errorf("received %v", got.Load())
	}
	// The same name without the operator's word: nothing is dialed.
	if err := guard(t, s).Post(t.Context(), to, nil, nil); !errors.Is(err, errRefused) {
		t.Errorf("a private address: %v", err)
	}
	if err := guard(t, s).Post(t.Context(), strings.Replace(to, "example", "two.example", 1), nil, nil); !errors.Is(err, errRefused) {
		t.Errorf("two private addresses: %v", err)
	}
	if err := g.Post(t.Context(), "https://unknown.example.com/x-secret-path", nil, nil); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("unknown: %v", err)
	}
	if err := g.Post(t.Context(), "http://unknown.example.com/", nil, nil); !fault.Has(err, fault.WebhookInvalid) {
		t.Errorf("http: %v", err)
	}
	stranger, err := New(Config{Allow: []string{"127.0.0.1"}})
	must(t, err)
	if err := stranger.Post(t.Context(), s.URL, nil, nil); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown authority: %v", err)
	}
}

func TestPostFollowsNothing(t *testing.T) {
	var inside atomic.Int64
	secret := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { inside.Add(1) }))
	defer secret.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, secret.URL, status) }))
		err := guard(t, s, "127.0.0.1").Post(t.Context(), s.URL, nil, strings.NewReader("x"))
		if err == nil || err.Error() != fmt.Sprintf("the receiver answered %d", status) {
			t.Errorf("%d: %v", status, err)
		}
		s.Close()
	}
	if inside.Load() > 0 {
		t.Error("a redirect was followed")
	}
}

func TestPostIsBounded(t *testing.T) {
	endless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil || r.Context().Err() != nil {
				return
			}
		}
	}))
	defer endless.Close()
	must(t, guard(t, endless, "127.0.0.1").Post(t.Context(), endless.URL, nil, nil))

	heads := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X", strings.Repeat("x", 10*maxAnswer))
	}))
	defer heads.Close()
	if err := guard(t, heads, "127.0.0.1").Post(t.Context(), heads.URL, nil, nil); err == nil {
		t.Error("headers without end")
	}

	silent, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer silent.Close()
	g, err := New(Config{Allow: []string{"127.0.0.1"}, Timeout: 50 * time.Millisecond})
	must(t, err)
	if err := g.Post(t.Context(), "http://"+silent.Addr().String(), nil, nil); err == nil || !strings.Contains(err.Error(), "in time") {
		t.Errorf("nobody answers: %v", err)
	}
	down := silent.Addr().String()
	silent.Close()
	if err := g.Post(t.Context(), "http://"+down+"/secret", nil, nil); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("nobody is there: %v", err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

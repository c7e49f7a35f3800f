package server_test

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/web/server"
	"github.com/birthmark/birthmark/internal/web/webtest"
)

const proxyLocal = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"

// proxied is the header that a load balancer sends for a client.
func proxied(client string) string {
	c := netip.MustParseAddrPort(client)
	rest := append(c.Addr().AsSlice(), 127, 0, 0, 1)
	rest = binary.BigEndian.AppendUint16(rest, c.Port())
	rest = append(rest, 0, 1, 4, 0, 1, 'x') // our port, a TLV
	return "\r\n\r\n\x00\r\nQUIT\n\x21\x11" + string(binary.BigEndian.AppendUint16(nil, uint16(len(rest)))) + string(rest)
}

// behind trusts connections from this machine, and says whose they are.
func behind(c *server.Config) {
	c.ProxyFrom = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	c.Routes = append(c.Routes, server.Route{
		Method: "GET", Path: "/remote", Action: access.Public,
		Handler: func(w http.ResponseWriter, r *http.Request, _ []byte) error {
			_, err := io.WriteString(w, r.RemoteAddr)
			return err
		},
	})
}

const askRemote = "GET /remote HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

// answer sends text and returns the body of what comes back, or what came.
func answer(t *testing.T, c io.ReadWriter, text string) string {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(c) // refused connections may be reset
	if _, body, ok := strings.Cut(string(got), "\r\n\r\n"); ok {
		return body
	}
	return string(got)
}

func TestBehindProxy(t *testing.T) {
	l := listen(t, behind)
	if got := answer(t, dial(t, l), proxied("192.0.2.7:1234")+askRemote); got != "192.0.2.7:1234" {
		t.Errorf("the client is %q", got)
	}
	if !strings.Contains(l.Log.String(), "remote=192.0.2.7:1234") {
		t.Errorf("log: %s", l.Log)
	}
	own := dial(t, l)
	if got := answer(t, own, proxyLocal+askRemote); got != own.LocalAddr().String() {
		t.Errorf("the proxy's own connection is of %q, want %s", got, own.LocalAddr())
	}
	for name, text := range map[string]string{
		"none":    askRemote,
		"text":    "PROXY TCP4 192.0.2.7 127.0.0.1 1234 1\r\n" + askRemote,
		"late":    askRemote + proxied("192.0.2.7:1234"),
		"damaged": strings.Replace(proxied("192.0.2.7:1234"), "QUIT", "QUID", 1) + askRemote,
	} {
		if got := answer(t, dial(t, l), text); got != "" {
			t.Errorf("%s: a connection without a header was answered: %q", name, got)
		}
	}
	if got := answer(t, dial(t, l), proxied("192.0.2.7:1234")+proxied("192.0.2.8:1")+askRemote); strings.Contains(got, "192.0.2") {
		t.Errorf("a second header was taken: %q", got)
	}
}

// Nobody's word is taken but a trusted proxy's.
func TestStrangersAreNoProxies(t *testing.T) {
	l := listen(t, func(c *server.Config) {
		behind(c)
		c.ProxyFrom = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	})
	own := dial(t, l)
	if got := answer(t, own, askRemote); got != own.LocalAddr().String() {
		t.Errorf("a stranger's connection is of %q, want %s", got, own.LocalAddr())
	}
	if got := answer(t, dial(t, l), proxied("192.0.2.7:1234")+askRemote); strings.Contains(got, "192.0.2.7") {
		t.Errorf("a stranger's header was taken: %q", got)
	}
}

// The header comes before the handshake.
func TestBehindProxyTLS(t *testing.T) {
	var slot server.Certificate
	slot.Set(webtest.SelfSigned(t, "x", time.Now().Add(time.Hour)))
	l := listen(t, func(c *server.Config) {
		behind(c)
		c.TLS = server.DeviceTLS(&slot)
	})
	c := dial(t, l)
	if _, err := io.WriteString(c, proxied("192.0.2.7:1234")); err != nil {
		t.Fatal(err)
	}
	if got := answer(t, tls.Client(c, &tls.Config{InsecureSkipVerify: true}), askRemote); got != "192.0.2.7:1234" {
		t.Errorf("the client is %q", got)
	}
	if err := tls.Client(dial(t, l), &tls.Config{InsecureSkipVerify: true}).Handshake(); err == nil {
		t.Error("a handshake without a header")
	}
}

// The limit of connections from one address counts clients, not the proxy, and
// a proxy that says nothing keeps nobody waiting.
func TestLimitsBehindProxy(t *testing.T) {
	l := listen(t, func(c *server.Config) {
		behind(c)
		c.Limits.PerAddress = 1
	})
	dial(t, l) // silent
	keep := func(client string) net.Conn {
		c := dial(t, l)
		if _, err := io.WriteString(c, proxied(client)+"GET /remote HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, client := range []string{"192.0.2.7:1", "192.0.2.8:1"} {
		if n, err := keep(client).Read(make([]byte, 100)); n == 0 {
			t.Fatalf("%s: %v", client, err)
		}
	}
	if n, err := keep("192.0.2.7:2").Read(make([]byte, 100)); err == nil {
		t.Errorf("a second connection of one client was answered with %d octets", n)
	}
}

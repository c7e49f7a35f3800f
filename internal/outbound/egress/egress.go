// Package egress is the guard in front of every request that the server makes by
// itself. An operator writes a URL into the settings; the guard makes sure that
// it does not become a way into the inside: https only, no address of this
// machine or of a private network unless the operator allowed the host, the
// address that was judged is the one that is dialed, redirects are not followed,
// and sizes and times are bounded.
package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
)

// Config says what the guard lets through.
type Config struct {
	// Allow names hosts that may have private addresses and may be reached
	// without TLS: "erp.factory.local", "10.1.2.3", "127.0.0.1:9000". A host
	// without port stands for all its ports.
	Allow []string
	// Roots are the anchors for TLS; nil: the system's.
	Roots *x509.CertPool
	// Timeout bounds one request with its answer; 0: 10 seconds.
	Timeout time.Duration
	// Resolve finds the addresses of a host; nil: the system's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
}

// maxAnswer is how much of an answer is read.
const maxAnswer = 64 << 10

// Guard makes requests.
type Guard struct {
	allow   []string
	resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	client  *http.Client
}

// New returns a Guard.
func New(c Config) (*Guard, error) {
	for _, host := range c.Allow {
		if host == "" || strings.ContainsAny(host, "/*@ ") {
			return nil, fault.New(fault.ConfigInvalid, "allowed host", host)
		}
	}
	if c.Timeout <= 0 {
		c.Timeout = 10 * time.Second
	}
	g := &Guard{allow: lower(c.Allow), resolve: c.Resolve}
	if g.resolve == nil {
		g.resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	g.client = &http.Client{
		Timeout: c.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
		Transport: &http.Transport{
			Proxy: nil, DialContext: g.dial, ForceAttemptHTTP2: false,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.Roots},
			TLSHandshakeTimeout:    c.Timeout,
			MaxResponseHeaderBytes: maxAnswer,
			MaxIdleConnsPerHost:    1, IdleConnTimeout: time.Minute, DisableCompression: true,
		},
	}
	return g, nil
}

func lower(hosts []string) []string {
	out := make([]string, len(hosts))
	for i, h := range hosts {
		out[i] = strings.ToLower(h)
	}
	return out
}

// Check says whether a URL may be sent to, as far as its text tells; what its
// host resolves to is judged at each request. The refusal is fault.WebhookInvalid.
func (g *Guard) Check(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return fault.New(fault.WebhookInvalid, "the URL does not parse")
	}
	return g.check(u)
}

func (g *Guard) check(u *url.URL) error {
	switch {
	case u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.Opaque != "":
		return fault.New(fault.WebhookInvalid, "the URL is not https://host/path")
	case u.User != nil:
		return fault.New(fault.WebhookInvalid, "the URL holds a password")
	case u.Fragment != "":
		return fault.New(fault.WebhookInvalid, "the URL holds a fragment")
	}
	if g.allowed(u.Hostname(), portOf(u)) {
		return nil
	}
	if u.Scheme != "https" {
		return fault.New(fault.WebhookInvalid, "only https, unless the host is allowed in the settings")
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil && !public(ip) {
		return fault.New(fault.WebhookInvalid, "a private address, and the host is not allowed in the settings")
	}
	return nil
}

func portOf(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "http" {
		return "80"
	}
	return "443"
}

func (g *Guard) allowed(host, port string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return slices.Contains(g.allow, host) || slices.Contains(g.allow, net.JoinHostPort(host, port))
}

// Post sends a body and returns the status of the answer. An answer that is no
// 2xx is an error that names the status; nothing that the other side sent is in
// the error.
func (g *Guard) Post(ctx context.Context, to string, header http.Header, body io.Reader) error {
	u, err := url.Parse(to)
	if err != nil {
		return fault.New(fault.WebhookInvalid, "the URL does not parse")
	}
	if err := g.check(u); err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to, body)
	if err != nil {
		return err
	}
	maps.Copy(r.Header, header)
	resp, err := g.client.Do(r)
	if err != nil {
		return plain(err)
	}
	defer resp.Body.Close()
	// Read so that the connection can be kept; what is longer is cut off with it.
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("the receiver answered %d", resp.StatusCode)
	}
	return nil
}

// Close gives idle connections back.
func (g *Guard) Close() { g.client.CloseIdleConnections() }

// errRefused is why nothing was dialed.
var errRefused = errors.New("the host has a private address and is not allowed in the settings")

// plain leaves the URL, which may hold a secret path, out of an error.
func plain(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		if e.Timeout() {
			return errors.New("the receiver did not answer in time")
		}
		return e.Err
	}
	return err
}

// dial resolves a host once, judges each address and dials exactly those that
// passed, so that a name cannot point elsewhere between the two.
func (g *Guard) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	addresses, err := g.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	allowed := g.allowed(host, port)
	// The last word before the system call: whatever led here, the address that
	// is really connected to has been judged.
	d := net.Dialer{ControlContext: func(_ context.Context, _, to string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(to)
		if err != nil {
			return err
		}
		if !allowed && !public(ap.Addr()) {
			return errRefused
		}
		return nil
	}}
	err = errors.New("the host has no address")
	for _, ip := range addresses {
		if !allowed && !public(ip) {
			err = errRefused
			continue
		}
		var c net.Conn
		if c, err = d.DialContext(ctx, network, net.JoinHostPort(ip.String(), port)); err == nil {
			return c, nil
		}
	}
	return nil, err
}

func (g *Guard) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	addresses, err := g.resolve(ctx, host)
	if err != nil {
		return nil, errors.New("the host's name does not resolve")
	}
	return addresses, nil
}

// special are networks that are reachable from here but are not the public
// Internet, besides those that netip names, and the ways to write an IPv4
// address as an IPv6 one.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"), // RFC 6598
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/96"),
	netip.MustParsePrefix("64:ff9b::/96"), // RFC 6052
	netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("100::/64"),
	netip.MustParsePrefix("2001::/23"),
	netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("2002::/16"),
	netip.MustParsePrefix("fec0::/10"),
}

// public reports whether an address is one of the public Internet.
func public(ip netip.Addr) bool {
	if !ip.IsValid() || ip.Zone() != "" {
		return false
	}
	ip = ip.Unmap()
	if !ip.IsGlobalUnicast() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsLoopback() {
		return false
	}
	return !slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(ip) })
}

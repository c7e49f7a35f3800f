// Package link is the station's end of the station protocol: JSON over HTTPS
// with the station's own certificate, TLS 1.3 only, through a proxy where the
// environment names one. Single questions are single requests; units,
// confirmations, scraps and failures go over streams that stay open, so that a
// line with many nests pays for one handshake and not for a request per unit.
//
// Every refusal comes back as a fault with the server's code; everything that
// keeps the server from answering is fault.StationLink.
package link

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/birthmark/birthmark/internal/edge/refusal"
	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
)

// Config says where the server is, whom to trust and who the station is.
type Config struct {
	URL   string // https://host:port
	Trust *x509.CertPool
	// Credential returns the station's certificate with its key; nil: it has none
	// yet. It is asked at each handshake, so that a renewed one is used.
	Credential func() *tls.Certificate
	// Timeout is for a whole question, and for the answer to one item of a stream;
	// 0: 30 s.
	Timeout time.Duration
	// Idle is how long a stream stays open without an item; 0: 10 s.
	Idle time.Duration
}

const (
	defaultTimeout = 30 * time.Second
	defaultIdle    = 10 * time.Second
	// maxAnswer bounds the answer to a question: an offline block of nonces is the
	// longest.
	maxAnswer = 8 << 20
)

// Client talks to one server.
type Client struct {
	base       string
	timeout    time.Duration
	idle       time.Duration
	tls        *tls.Config
	http       atomic.Pointer[http.Client]
	generation atomic.Int64 // of the station's certificate

	mu      sync.Mutex
	streams map[string]*Stream // by path; guarded by mu
}

// New returns a client; it connects at the first question.
func New(c Config) (*Client, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return nil, fault.New(fault.ParameterInvalid, "the server's address is not of the form https://host:port")
	}
	if c.Trust == nil {
		return nil, errors.New("station link: nobody to trust")
	}
	config := &tls.Config{RootCAs: c.Trust, MinVersion: tls.VersionTLS13}
	if c.Credential != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if own := c.Credential(); own != nil {
				return own, nil
			}
			return new(tls.Certificate), nil // without one the server says what is missing
		}
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.Idle == 0 {
		c.Idle = defaultIdle
	}
	client := &Client{base: "https://" + u.Host, timeout: c.Timeout, idle: c.Idle, tls: config, streams: map[string]*Stream{}}
	client.http.Store(client.fresh())
	return client, nil
}

// fresh returns an HTTP client without connections.
func (c *Client) fresh() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			TLSClientConfig:     c.tls,
			TLSHandshakeTimeout: c.timeout,
			MaxIdleConnsPerHost: 4,
			IdleConnTimeout:     time.Minute,
			DisableCompression:  true,
			WriteBufferSize:     16 << 10,
			ReadBufferSize:      16 << 10,
		},
		// Elsewhere nobody said whom to trust, and the protocol knows no redirects.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Renewed makes the client use the station's new certificate from now on. What is
// under way ends on its old connections, which nothing new is sent over.
func (c *Client) Renewed() {
	old := c.http.Swap(c.fresh())
	c.generation.Add(1)
	c.Close()
	old.CloseIdleConnections()
}

// Close ends streams that are open, after what is under way on them, and drops
// kept connections. The client may go on to be used.
func (c *Client) Close() {
	c.mu.Lock()
	for _, s := range c.streams {
		s.end()
	}
	c.mu.Unlock()
	c.http.Load().CloseIdleConnections()
}

// Enroll spends a station's one-time code.
func (c *Client) Enroll(ctx context.Context, in *station.EnrollRequest) (*station.Enrolled, error) {
	return ask[station.Enrolled](ctx, c, http.MethodPost, station.EnrollPath, in)
}

// Renew asks for the station's next certificate.
func (c *Client) Renew(ctx context.Context, in *station.RenewRequest) (*station.Enrolled, error) {
	return ask[station.Enrolled](ctx, c, http.MethodPost, station.RenewPath, in)
}

// Status asks what the station may do now.
func (c *Client) Status(ctx context.Context) (*station.Status, error) {
	return ask[station.Status](ctx, c, http.MethodGet, station.StatusPath, nil)
}

// Nonces draws nonces for an order.
func (c *Client) Nonces(ctx context.Context, in *station.NoncesRequest) (*station.Nonces, error) {
	return ask[station.Nonces](ctx, c, http.MethodPost, station.NoncesPath, in)
}

// Chips asks whether chips may be used for an order.
func (c *Client) Chips(ctx context.Context, in *station.ChipsRequest) (*station.Chips, error) {
	return ask[station.Chips](ctx, c, http.MethodPost, station.ChipsPath, in)
}

// ask sends one question and reads the answer.
func ask[T any](ctx context.Context, c *Client, method, path string, in any) (*T, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var body io.Reader = http.NoBody
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("write a question: %w", err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	resp, err := c.http.Load().Do(req)
	if err != nil {
		return nil, noAnswer(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, refusedCall(resp)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, noAnswer(err)
	}
	out := new(T)
	if len(text) > maxAnswer {
		return nil, fault.New(fault.StationLink, "the server's answer is too long")
	}
	if err := json.Unmarshal(text, out); err != nil {
		return nil, fault.Wrap(fault.StationLink, err, "the server's answer is not of the station protocol")
	}
	return out, nil
}

// noAnswer says in the line's words why there was none; the cause has the
// details.
func noAnswer(err error) error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	var detail string
	switch {
	case errors.Is(err, context.Canceled):
		detail = "interrupted"
	case isA[*tls.CertificateVerificationError](err), isA[x509.UnknownAuthorityError](err), isA[x509.HostnameError](err):
		detail = "the server's certificate is not the one to trust"
	case errors.Is(err, context.DeadlineExceeded):
		detail = "no answer in time"
	case isA[tls.AlertError](err):
		detail = "the server ended the handshake"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		detail = "the server closed the connection"
	}
	if detail == "" {
		return fault.Wrap(fault.StationLink, err)
	}
	return fault.Wrap(fault.StationLink, err, detail)
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// maxRefusal bounds the body of a refusal.
const maxRefusal = 16 << 10

// refusedCall reads the answer to a call that was refused as a whole.
func refusedCall(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxRefusal)) // the status alone says enough
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		return fault.New(fault.StationLink, "the server sends elsewhere, which is not followed")
	}
	if w, ok := refusal.Read(text); ok {
		return w.Fault(fault.StationLink)
	}
	return fault.New(fault.StationLink, "the server answered", resp.StatusCode)
}

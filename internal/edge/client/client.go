// Package client is the device side of EST (RFC 7030) in Go: what the agent,
// the quickstart's simulated devices and the load generator use to enroll. It
// shares no code with the server but the formats.
package client

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/birthmark/birthmark/internal/pki/cms"
)

// EST talks to one server.
type EST struct {
	base string
	http *http.Client
}

// Config says where the server is and whom to trust.
type Config struct {
	URL   string // https://host:port
	Label string // empty: none
	// Anchors verify the server's certificate.
	Anchors *x509.CertPool
	// Certificate authenticates re-enrollment; nil: none.
	Certificate *tls.Certificate
	// Connections is how many connections are kept; 0: two.
	Connections int
	// Timeout is for a whole request with its answer; 0: 30 s.
	Timeout time.Duration
}

const defaultTimeout = 30 * time.Second

// New returns a client; it connects at the first request.
func New(c Config) (*EST, error) {
	if c.URL == "" || c.Anchors == nil {
		return nil, errors.New("EST client: URL and anchors are required")
	}
	t := &tls.Config{RootCAs: c.Anchors, MinVersion: tls.VersionTLS12}
	if c.Certificate != nil {
		t.Certificates = []tls.Certificate{*c.Certificate}
	}
	base := strings.TrimSuffix(c.URL, "/") + "/.well-known/est/"
	if c.Label != "" {
		base += c.Label + "/"
	}
	n := max(c.Connections, 2)
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	return &EST{base: base, http: &http.Client{
		Timeout:       c.Timeout,
		CheckRedirect: sameOrigin,
		Transport:     &http.Transport{TLSClientConfig: t, MaxIdleConnsPerHost: n, MaxConnsPerHost: n, IdleConnTimeout: time.Minute},
	}}, nil
}

// maxRedirects bounds how often a server may send us elsewhere.
const maxRedirects = 3

// sameOrigin follows redirects within the server that was named and nowhere
// else: elsewhere nobody said whom to trust (RFC 7030, section 3.2.1).
func sameOrigin(to *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects || to.URL.Scheme != via[0].URL.Scheme || to.URL.Host != via[0].URL.Host {
		return http.ErrUseLastResponse
	}
	return nil
}

// Close drops kept connections.
func (e *EST) Close() { e.http.CloseIdleConnections() }

// Refused is a server's answer other than success.
type Refused struct {
	Status     int
	RetryAfter time.Duration // 0: not said; status 202 means the request waits
	Text       string        // as the server said it, at most 1 KiB, printable
}

// Error quotes the server.
func (r *Refused) Error() string {
	return fmt.Sprintf("server answered %d: %s", r.Status, strings.TrimSpace(r.Text))
}

// CACerts fetches the authorities of the label, issuer first.
func (e *EST) CACerts(ctx context.Context) ([]*x509.Certificate, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.base+"cacerts", nil)
	if err != nil {
		return nil, err
	}
	return e.do(req)
}

// Enroll sends a DER certificate request with the device's one-time secret;
// with an empty secret the client's certificate has to do.
func (e *EST) Enroll(ctx context.Context, csr []byte, deviceSerial, secret string) (*x509.Certificate, error) {
	return e.post(ctx, "simpleenroll", csr, deviceSerial, secret)
}

// Reenroll sends a DER certificate request under the client's certificate.
func (e *EST) Reenroll(ctx context.Context, csr []byte) (*x509.Certificate, error) {
	return e.post(ctx, "simplereenroll", csr, "", "")
}

func (e *EST) post(ctx context.Context, operation string, csr []byte, user, password string) (*x509.Certificate, error) {
	body := make([]byte, base64.StdEncoding.EncodedLen(len(csr)))
	base64.StdEncoding.Encode(body, csr)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.base+operation, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/pkcs10")
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	certs, err := e.do(req)
	if err != nil {
		return nil, err
	}
	if len(certs) != 1 {
		return nil, fmt.Errorf("server sent %d certificates instead of one", len(certs))
	}
	// The request holds the key as the certificate must: octet for octet.
	if !bytes.Contains(csr, certs[0].RawSubjectPublicKeyInfo) {
		return nil, errors.New("server sent a certificate for another key")
	}
	return certs[0], nil
}

// maxAnswer bounds what a server may send.
const maxAnswer = 256 << 10

func (e *EST) do(req *http.Request) ([]*x509.Certificate, error) {
	resp, err := e.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	if len(body) > maxAnswer {
		return nil, errors.New("the answer is too long")
	}
	if resp.StatusCode != http.StatusOK {
		r := &Refused{Status: resp.StatusCode, Text: printable(body[:min(len(body), 1024)])}
		if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s >= 0 {
			r.RetryAfter = time.Duration(s) * time.Second
		}
		return nil, r
	}
	return parse(body)
}

// printable keeps a server's words from commanding a terminal.
func printable(text []byte) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(text), ""))
}

// parse reads base64, broken into lines or not, around a certs-only CMS.
func parse(body []byte) ([]*x509.Certificate, error) {
	text := bytes.Map(func(r rune) rune {
		if r == '\n' || r == '\r' || r == ' ' {
			return -1
		}
		return r
	}, body)
	der, err := base64.StdEncoding.AppendDecode(nil, text)
	if err != nil {
		return nil, fmt.Errorf("answer is not base64: %w", err)
	}
	list, err := cms.ParseCertsOnly(der)
	if err != nil {
		return nil, err
	}
	certs := make([]*x509.Certificate, 0, len(list))
	for _, one := range list {
		c, err := x509.ParseCertificate(one)
		if err != nil {
			return nil, fmt.Errorf("answer holds a bad certificate: %w", err)
		}
		certs = append(certs, c)
	}
	return certs, nil
}

// Request makes a DER PKCS #10 request for a key; the subject matters only for
// re-enrollment, where it must be the current certificate's (pass its
// RawSubject).
func Request(key crypto.Signer, rawSubject []byte) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{RawSubject: rawSubject}, key)
}

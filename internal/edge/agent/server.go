package agent

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/birthmark/birthmark/internal/edge/client"
	"github.com/birthmark/birthmark/internal/edge/refusal"
	"github.com/birthmark/birthmark/internal/fault"
	format "github.com/birthmark/birthmark/internal/format/tpm"
)

// server is the server as the agent asks it.
type server struct {
	base string
	by   Requester
	http *http.Client
}

const (
	timeout   = 30 * time.Second
	linesType = "application/x-ndjson"
)

func newServer(address string, trust []byte, by Requester) (*server, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
		return nil, fault.New(fault.ParameterInvalid, "the server's address is not of the form https://host:port")
	}
	config, err := tlsConfig(trust, by)
	if err != nil {
		return nil, err
	}
	return &server{base: "https://" + u.Host, by: by, http: &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, TLSHandshakeTimeout: timeout, DisableCompression: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func tlsConfig(trust []byte, by Requester) (*tls.Config, error) {
	anchors := x509.NewCertPool()
	if !anchors.AppendCertsFromPEM(trust) {
		return nil, fault.New(fault.ParameterInvalid, "the file of trusted authorities holds no certificate")
	}
	config := &tls.Config{RootCAs: anchors, MinVersion: tls.VersionTLS12}
	if by.Key == nil {
		return config, nil
	}
	own := &tls.Certificate{Certificate: by.Certificates, PrivateKey: by.Key}
	if _, ok := by.Key.Public().(*rsa.PublicKey); ok {
		// TLS 1.3 wants PSS with a salt as long as the digest; many TPMs make it as long as
		// fits.
		config.MaxVersion = tls.VersionTLS12
		own.SupportedSignatureAlgorithms = []tls.SignatureScheme{tls.PKCS1WithSHA256, tls.PKCS1WithSHA384, tls.PKCS1WithSHA512}
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own, nil }
	return config, nil
}

func (s *server) close() { s.http.CloseIdleConnections() }

// maxAnswer bounds what a server may send.
const maxAnswer = 2 << 20

// ask sends one item and returns its outcome. A refusal is a fault with the
// server's code.
func (s *server) ask(ctx context.Context, path string, item any) (*format.Result, error) {
	line, err := json.Marshal(item)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+path, bytes.NewReader(append(line, '\n')))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", linesType)
	if s.by.Secret != "" {
		req.SetBasicAuth(s.by.DeviceSerial, s.by.Secret)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, noAnswer(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, noAnswer(err)
	}
	return outcome(resp.StatusCode, text)
}

func outcome(status int, text []byte) (*format.Result, error) {
	var r format.Result
	// The answer is one line; a second one would be nobody's.
	err := json.Unmarshal(text, &r)
	if status != http.StatusOK || err == nil && !r.OK {
		if w, ok := refusal.Read(text); ok {
			return nil, w.Fault(fault.AgentLink)
		}
		return nil, fault.New(fault.AgentLink, "the server answered", status)
	}
	if err != nil || len(text) > maxAnswer {
		return nil, fault.Wrap(fault.AgentLink, err, "the server's answer is not of the protocol")
	}
	return &r, nil
}

// estFault makes what went wrong with EST a fault.
func estFault(err error) error {
	r, ok := errors.AsType[*client.Refused](err)
	if !ok {
		return noAnswer(err)
	}
	if r.Status == http.StatusAccepted {
		return fault.New(fault.ApprovalWaiting, "ask again in", r.RetryAfter)
	}
	if w, ok := refusal.ReadLine(r.Text); ok {
		return w.Fault(fault.AgentLink)
	}
	return fault.New(fault.AgentLink, "the server answered", r.Status)
}

// noAnswer says why there was none.
func noAnswer(err error) error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f // the TPM's, in the handshake
	}
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case isA[*tls.CertificateVerificationError](err), isA[x509.UnknownAuthorityError](err), isA[x509.HostnameError](err):
		return fault.Wrap(fault.AgentLink, err, "the server's certificate is not the one to trust, or this clock is wrong")
	case isTimeout(err):
		return fault.Wrap(fault.AgentLink, err, "no answer in time")
	case isA[*net.DNSError](err):
		return fault.Wrap(fault.AgentLink, err, "its name is not known here")
	case errors.Is(err, syscall.ECONNREFUSED):
		return fault.Wrap(fault.AgentLink, err, "nobody listens there")
	}
	return fault.Wrap(fault.AgentLink, err)
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

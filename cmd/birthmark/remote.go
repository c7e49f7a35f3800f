package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/web/rest"
	"github.com/birthmark/birthmark/internal/web/server"
)

// remote is how a command reaches the API: another server by URL and token, the
// server of the data folder by its socket, or the folder itself.
type remote struct {
	Data           string `help:"Data folder." default:"birthmark-data" env:"BIRTHMARK_DATA" type:"path"`
	Database       string `help:"Database, if it is not SQLite in the data folder." env:"BIRTHMARK_DATABASE"`
	PassphraseFile string `help:"File with the passphrase of the keys that the server opens by itself." env:"BIRTHMARK_PASSPHRASE_FILE"`
	SignerSocket   string `help:"Socket of birthmark-signer, if the command does the work itself." env:"BIRTHMARK_SIGNER_SOCKET" placeholder:"PATH" type:"path"`
	Server         string `help:"URL of another server's API, for example https://pki.example.com:9443." env:"BIRTHMARK_SERVER" placeholder:"URL"`
	ServerCA       string `help:"PEM file with the authority of that server." env:"BIRTHMARK_SERVER_CA" placeholder:"FILE" type:"path"`
	Token          string `help:"API token for that server." env:"BIRTHMARK_TOKEN"`
	JSON           bool   `help:"Print JSON."`
}

// api is an open way to the API.
type api struct {
	http  *http.Client
	base  string
	token string
	close func() error
}

// connect finds the way.
func (r *remote) connect(ctx context.Context) (*api, error) {
	if r.Server != "" {
		return r.connectServer()
	}
	path, err := os.ReadFile(folder(r.Data).socket())
	if err == nil {
		socket := strings.TrimSpace(string(path))
		if c, err := net.DialTimeout("unix", socket, 5*time.Second); err == nil {
			_ = c.Close() // it was only to see whether somebody serves
			return &api{base: "http://local", close: func() error { return nil }, http: &http.Client{Transport: &http.Transport{
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, "unix", socket)
				},
			}}}, nil
		}
	}
	return r.connectFolder(ctx)
}

func (r *remote) connectServer() (*api, error) {
	u, err := url.Parse(r.Server)
	if err != nil || u.Host == "" {
		return nil, fault.New(fault.ParameterInvalid, "--server takes a URL")
	}
	if u.Scheme != "https" && !loopback(u.Host) && u.Hostname() != "localhost" {
		return nil, fault.New(fault.ParameterInvalid, "a token is not sent without TLS")
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if r.ServerCA != "" {
		pem, err := os.ReadFile(r.ServerCA)
		if err != nil {
			return nil, fault.Wrap(fault.ConfigInvalid, err, "--server-ca cannot be read")
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fault.New(fault.ConfigInvalid, "--server-ca holds no certificate")
		}
	}
	return &api{
		base: strings.TrimSuffix(r.Server, "/"), token: r.Token, close: func() error { return nil },
		http: &http.Client{Transport: &http.Transport{TLSClientConfig: t}},
	}, nil
}

// connectFolder takes the folder's lock and serves the API to this command
// alone, as the local user and by the same table.
func (r *remote) connectFolder(ctx context.Context) (*api, error) {
	settings := Settings{Data: r.Data, Database: r.Database, PassphraseFile: r.PassphraseFile, SignerSocket: r.SignerSocket}
	n, err := openNode(ctx, settings, slog.New(slog.DiscardHandler), nodeOptions{block: oneShotBlock})
	if err != nil {
		return nil, err
	}
	handler, err := n.localHandler(ctx)
	if err != nil {
		return nil, joinClose(ctx, n, err)
	}
	return &api{
		base: "http://local", http: &http.Client{Transport: inProcess{handler}},
		close: func() error { return joinClose(ctx, n, n.lastCheckpoint(ctx)) },
	}, nil
}

// localHandler is the API for the user of this process.
func (n *node) localHandler(ctx context.Context) (http.Handler, error) {
	if _, err := n.store.Installation(ctx); err != nil {
		return nil, err
	}
	if err := n.startLedger(ctx); err != nil {
		return nil, err
	}
	// The folder's lock says that no earlier run of this node lives: take over
	// what it held.
	if err := n.authority.Start(ctx); err != nil {
		return nil, err
	}
	if err := n.openLine(ctx); err != nil {
		return nil, err
	}
	user, err := localUser()
	if err != nil {
		return nil, err
	}
	metrics, err := server.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		return nil, err
	}
	routes, err := n.apiRoutes(true)
	if err != nil {
		return nil, err
	}
	return server.New(server.Config{
		Name: "command", Routes: routes, Logger: n.log, Metrics: metrics, Now: time.Now,
		Authenticate: func(r *http.Request) (*access.Caller, error) {
			c, err := n.access.LocalCaller(r.Context(), user)
			return &c, err
		},
	})
}

// inProcess answers requests without a connection.
type inProcess struct{ handler http.Handler }

// RoundTrip runs the handler and streams what it writes.
func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	in, out := io.Pipe()
	w := &pipeWriter{header: http.Header{}, body: out, started: make(chan struct{})}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	r.RequestURI = r.URL.RequestURI()
	go func() {
		defer func() {
			var err error
			if p := recover(); p != nil {
				err = fmt.Errorf("the answer was cut off: %v", p)
			}
			w.WriteHeader(http.StatusOK)
			_ = out.CloseWithError(err) // never fails
		}()
		t.handler.ServeHTTP(w, r)
	}()
	<-w.started
	return &http.Response{
		StatusCode: w.status, Status: strconv.Itoa(w.status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.header, Body: in, ContentLength: -1, Request: r,
	}, nil
}

type pipeWriter struct {
	header  http.Header
	body    *io.PipeWriter
	status  int
	started chan struct{}
}

func (w *pipeWriter) Header() http.Header { return w.header }

func (w *pipeWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
		close(w.started)
	}
}

func (w *pipeWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}

// do sends one request and reads the JSON answer into out (nil: none wanted).
func (a *api) do(ctx context.Context, method, path string, in, out any) error {
	resp, err := a.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil || resp.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	return nil
}

// send sends one request; refusals come back as the fault that the server
// named.
func (a *api) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base+rest.Prefix+path, body)
	if err != nil {
		return nil, err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return a.perform(req)
}

// perform sends a request that is ready.
func (a *api) perform(req *http.Request) (*http.Response, error) {
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, fault.Wrap(fault.ServerUnreached, err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	var p server.Problem
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&p); err != nil || p.Code == "" {
		return nil, fault.New(fault.ServerUnreached, "it answered", resp.Status)
	}
	return nil, refusal(&p)
}

// refusal turns a problem back into the fault it was made from.
func refusal(p *server.Problem) error {
	n, err := strconv.ParseUint(strings.TrimPrefix(p.Code, "BM-"), 10, 16)
	if err != nil {
		return errors.New(p.Title)
	}
	f := fault.New(fault.Code(n))
	f.Detail, f.Message, f.Remedy = p.Detail, p.Title, p.Remedy
	return f
}

// with runs fn over an open way to the API.
func (r *remote) with(ctx context.Context, fn func(a *api) error) error {
	a, err := r.connect(ctx)
	if err != nil {
		return err
	}
	return errors.Join(fn(a), a.close())
}

// call sends one request and prints the answer: as JSON, or by show.
func call[T any](ctx context.Context, r *remote, io *streams, method, path string, in any, show func(*T) error) error {
	return r.with(ctx, func(a *api) error {
		out := new(T)
		if err := a.do(ctx, method, path, in, out); err != nil {
			return err
		}
		if r.JSON {
			return printJSON(io.out, out)
		}
		return show(out)
	})
}

// listing is a list's answer.
type listing[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

// listAll fetches up to most rows, page by page (0: all), and prints them.
func listAll[T any](ctx context.Context, r *remote, io *streams, path string, query url.Values, most int, header []string, row func(*T) []string) error {
	return r.with(ctx, func(a *api) error {
		all := listing[T]{Items: []T{}}
		for {
			if most > 0 {
				query.Set("limit", strconv.Itoa(min(1000, most-len(all.Items))))
			}
			var page listing[T]
			if err := a.do(ctx, http.MethodGet, path+"?"+query.Encode(), nil, &page); err != nil {
				return err
			}
			all.Items, all.Next = append(all.Items, page.Items...), page.Next
			if page.Next == "" || most > 0 && len(all.Items) >= most {
				break
			}
			query.Set("after", page.Next)
		}
		if r.JSON {
			return printJSON(io.out, all.Items)
		}
		rows := make([][]string, len(all.Items))
		for i := range all.Items {
			rows[i] = row(&all.Items[i])
		}
		if err := printTable(io.out, header, rows); err != nil {
			return err
		}
		if all.Next != "" {
			fmt.Fprintf(io.err, "More rows: --limit 0 lists all, --after %s goes on.\n", all.Next)
		}
		return nil
	})
}

// fileText reads a file, or standard input for "-".
func fileText(io_ *streams, path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(io.LimitReader(io_.in, 16<<20))
	}
	b, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return nil, fault.Wrap(fault.ParameterInvalid, err, path, "cannot be read")
	}
	return b, nil
}

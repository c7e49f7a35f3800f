package main

import (
	"net/http"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/protocol/est"
	"github.com/birthmark/birthmark/internal/protocol/ocsp"
	"github.com/birthmark/birthmark/internal/web/server"
)

// deviceRoutes is the whole of what devices can reach.
func (s *service) deviceRoutes() []server.Route {
	h := est.New(s.node.enroller)
	operations := []struct {
		method, name string
		action       access.Action
		maxBody      int64
		handler      server.Handler
	}{
		{"GET", "cacerts", access.Public, 0, h.CACerts},
		{"GET", "csrattrs", access.Enroll, 0, h.CSRAttrs},
		{"POST", "simpleenroll", access.Enroll, est.MaxBody, h.SimpleEnroll},
		{"POST", "simplereenroll", access.Enroll, est.MaxBody, h.SimpleReenroll},
		{"POST", "serverkeygen", access.Enroll, est.MaxBody, h.ServerKeyGen},
		{"GET", "nonce", access.Enroll, 0, h.Nonce},
		{"POST", "nonce", access.Enroll, est.MaxNonceBody, h.Nonce},
		{"POST", "tcg-csr", access.Enroll, tpm.MaxCSR, h.TCGCSR},
	}
	var routes []server.Route
	for _, o := range operations {
		for _, path := range []string{est.Prefix + o.name, est.Prefix + "{label}/" + o.name} {
			routes = append(routes, server.Route{
				Method: o.method, Path: path, Action: o.action, Handler: o.handler, MaxBody: o.maxBody, Fault: est.WriteFault,
			})
		}
	}
	for _, o := range s.stations.Operations() {
		routes = append(routes, server.Route{
			Method: o.Method, Path: o.Path, Action: o.Action, MaxBody: o.MaxBody, Stream: o.Stream, Handler: o.Handler,
		})
	}
	for _, o := range s.attest.Operations() {
		routes = append(routes, server.Route{
			Method: o.Method, Path: o.Path, Action: o.Action, MaxBody: o.MaxBody, Stream: o.Stream, Handler: o.Handler,
		})
	}
	return routes
}

// statusRoutes is what anyone can reach.
func (s *service) statusRoutes() []server.Route {
	h := ocsp.New(s.node.status, s.node.authority, time.Now)
	return []server.Route{
		{Method: "GET", Path: ocsp.Prefix, Raw: true, Action: access.Public, Handler: h.Get, Fault: ocsp.WriteFault, Quiet: true},
		{Method: "POST", Path: "/ocsp/{issuer}", Action: access.Public, MaxBody: ocsp.MaxBody, Handler: h.Post, Fault: ocsp.WriteFault, Quiet: true},
		{Method: "POST", Path: "/ocsp", Action: access.Public, MaxBody: ocsp.MaxBody, Handler: h.Post, Fault: ocsp.WriteFault, Quiet: true},
		{Method: "POST", Path: "/{$}", Action: access.Public, MaxBody: ocsp.MaxBody, Handler: h.Post, Fault: ocsp.WriteFault, Quiet: true},
		{Method: "GET", Path: "/crl/{issuer}/{shard}", Action: access.Public, Handler: h.CRL, Quiet: true},
		{Method: "GET", Path: "/crl/{file}", Action: access.Public, Handler: h.WholeCRL, Quiet: true},
		{Method: "GET", Path: "/ca/{file}", Action: access.Public, Handler: h.Authority, Quiet: true},
		{Method: "GET", Path: "/healthz", Action: access.Public, Handler: s.healthz, Quiet: true},
		{Method: "GET", Path: "/readyz", Action: access.Public, Handler: s.readyz, Quiet: true},
		{Method: "GET", Path: "/ledger/checkpoint", Action: access.Public, Handler: s.checkpoint, Quiet: true},
		{Method: "GET", Path: "/ledger/tile/{path...}", Action: access.Public, Handler: s.tile, Quiet: true},
	}
}

// healthz answers as long as the process runs.
func (s *service) healthz(w http.ResponseWriter, _ *http.Request, _ []byte) error {
	return plain(w, "ok\n")
}

// readyz answers 200 when requests are served and the record can be read.
func (s *service) readyz(w http.ResponseWriter, r *http.Request, _ []byte) error {
	if !s.ready.Load() {
		return fault.New(fault.ShuttingDown)
	}
	if _, err := s.node.store.LedgerSize(r.Context()); err != nil {
		return err
	}
	return plain(w, "ready\n")
}

func plain(w http.ResponseWriter, text string) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write([]byte(text)) // the peer is gone
	return nil
}

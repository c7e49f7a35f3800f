// Package loopback lets a fixture or MES on the same computer be the master: it
// asks for units over HTTP on the loopback address and gets the outcome as the
// answer, many nests at once. Whoever asks shows a token; other addresses, other
// host names and browsers' requests are refused.
package loopback

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/edge/refusal"
	"github.com/birthmark/birthmark/internal/edge/station"
	"github.com/birthmark/birthmark/internal/edge/station/queue"
	"github.com/birthmark/birthmark/internal/fault"
	format "github.com/birthmark/birthmark/internal/format/station"
)

// Line provisions and ends units: *station.Line.
type Line interface {
	Do(ctx context.Context, job station.Job) station.Outcome
	Scrap(ctx context.Context, x format.Scrap) error
	Counts() station.Counts
}

// Config names what the handler needs.
type Config struct {
	Line   Line
	Queue  *queue.Queue
	Token  string // at least MinToken characters
	Order  string // for requests that name none
	Who    station.Settings
	Logger *slog.Logger
	// Passed is called with each unit that passed, before it is answered; nil:
	// nothing. What it returns as error is in the log.
	Passed func(ctx context.Context, o *station.Outcome) error
}

// MinToken is the least length of a token.
const MinToken = 16

// maxBody is the largest request.
const maxBody = 16 << 10

// Handler answers requests.
type Handler struct {
	c     Config
	token [32]byte
	mux   *http.ServeMux

	mu    sync.Mutex
	nests map[string]bool // at work; guarded by mu
}

// New returns a handler.
func New(c Config) (*Handler, error) {
	if c.Line == nil || c.Queue == nil || c.Logger == nil {
		return nil, errors.New("loopback: line, queue and logger are required")
	}
	if len(c.Token) < MinToken {
		return nil, fault.New(fault.ParameterInvalid, "the token is shorter than", MinToken, "characters")
	}
	h := &Handler{c: c, token: sha256.Sum256([]byte(c.Token)), mux: http.NewServeMux(), nests: map[string]bool{}}
	for _, route := range []struct {
		pattern string
		handler func(http.ResponseWriter, *http.Request) (any, error)
	}{
		{"POST /v1/unit", h.unit},
		{"POST /v1/scrap", h.scrap},
		{"GET /v1/status", h.status},
	} {
		h.mux.HandleFunc(route.pattern, h.answer(route.handler))
	}
	return h, nil
}

// CheckListen refuses addresses that others could reach.
func CheckListen(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err == nil && isLoopback(host) {
		return nil
	}
	return fault.New(fault.ParameterInvalid, "listen on a loopback address such as 127.0.0.1:7443: what is asked here needs no certificate")
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	if err := h.admit(r); err != nil {
		refuse(w, err)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	h.mux.ServeHTTP(w, r)
}

// admit lets whoever has the token in. The host's name keeps out web pages whose
// name was made to lead here.
func (h *Handler) admit(r *http.Request) error {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	digest := sha256.Sum256([]byte(token))
	if !isLoopback(strings.Trim(host, "[]")) || !bearer || subtle.ConstantTimeCompare(digest[:], h.token[:]) != 1 || r.Header.Get("Origin") != "" {
		return fault.New(fault.NotAuthenticated, "show the token of the token file")
	}
	return nil
}

func (h *Handler) answer(do func(http.ResponseWriter, *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := do(w, r)
		if err != nil {
			refuse(w, err)
			return
		}
		_ = json.NewEncoder(w).Encode(v) // the caller is gone
	}
}

// statuses are the HTTP status of each kind of refusal.
var statuses = map[fault.Kind]int{
	fault.Internal:        http.StatusInternalServerError,
	fault.Invalid:         http.StatusBadRequest,
	fault.Unauthenticated: http.StatusUnauthorized,
	fault.Forbidden:       http.StatusForbidden,
	fault.NotFound:        http.StatusNotFound,
	fault.Conflict:        http.StatusConflict,
	fault.Exhausted:       http.StatusTooManyRequests,
	fault.Unavailable:     http.StatusServiceUnavailable,
}

func refuse(w http.ResponseWriter, err error) {
	f := fault.Of(err)
	w.WriteHeader(statuses[f.Kind])
	_ = json.NewEncoder(w).Encode(map[string]string{
		"code": f.Code.String(), "message": f.Message, "detail": f.Detail, "remedy": f.Remedy, "who": f.Code.Who(),
	})
}

func object(r *http.Request, v any) error {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if kind != "application/json" {
		return fault.New(fault.RequestMalformed, "send application/json")
	}
	if err := d.Decode(v); err != nil {
		return fault.Wrap(fault.RequestMalformed, err, "not one object with known members")
	}
	return nil
}

// UnitRequest asks for a unit.
type UnitRequest struct {
	DeviceSerial string `json:"serial"`
	Nest         string `json:"nest"`
	Order        string `json:"order"`
	Reference    string `json:"reference"`
	Rework       string `json:"rework"` // why the unit gets another identity
}

// unit provisions a unit; the answer is its outcome, also when it failed.
func (h *Handler) unit(_ http.ResponseWriter, r *http.Request) (any, error) {
	var in UnitRequest
	if err := object(r, &in); err != nil {
		return nil, err
	}
	if in.Order == "" {
		in.Order = h.c.Order
	}
	if !h.take(in.Nest) {
		return nil, fault.New(fault.UnitState, "nest", refusal.Printable(in.Nest), "is at work on another unit")
	}
	defer h.release(in.Nest)
	// A unit that was begun is ended, whether or not its master still waits.
	ctx := context.WithoutCancel(r.Context())
	o := h.c.Line.Do(ctx, station.Job{Nest: in.Nest, Order: in.Order, DeviceSerial: in.DeviceSerial, Reference: in.Reference, Rework: in.Rework})
	if o.Passed() && h.c.Passed != nil {
		if err := h.c.Passed(ctx, &o); err != nil {
			h.c.Logger.ErrorContext(ctx, "what follows a unit", "serial", o.DeviceSerial, "error", err)
		}
	}
	h.c.Logger.InfoContext(ctx, "unit", "result", o.Result, "serial", o.DeviceSerial, "nest", o.Nest, "code", o.Code, "cycle", time.Duration(o.CycleMillis)*time.Millisecond)
	return &o, nil
}

func (h *Handler) take(nest string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if nest != "" && h.nests[nest] {
		return false
	}
	h.nests[nest] = true
	return true
}

func (h *Handler) release(nest string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.nests, nest)
}

// ScrapRequest ends a unit.
type ScrapRequest struct {
	DeviceSerial string `json:"serial"`
	Order        string `json:"order"`
	Reason       string `json:"reason"`
}

func (h *Handler) scrap(_ http.ResponseWriter, r *http.Request) (any, error) {
	var in ScrapRequest
	if err := object(r, &in); err != nil {
		return nil, err
	}
	if in.Order == "" {
		in.Order = h.c.Order
	}
	if in.DeviceSerial == "" || in.Order == "" || in.Reason == "" {
		return nil, fault.New(fault.RequestMalformed, "serial, order and reason are required")
	}
	ctx := context.WithoutCancel(r.Context())
	if err := h.c.Line.Scrap(ctx, format.Scrap{ID: in.DeviceSerial, Order: in.Order, DeviceSerial: in.DeviceSerial, Reason: in.Reason}); err != nil {
		return nil, err
	}
	return map[string]any{"serial": in.DeviceSerial, "queued": h.c.Queue.Has(in.DeviceSerial)}, nil
}

// Status is what a master sees of the station.
type Status struct {
	Station string         `json:"station"`
	Site    string         `json:"site"`
	Order   string         `json:"order,omitempty"`
	Queue   int            `json:"queue"` // waits for the server
	AtWork  int            `json:"atWork"`
	Counts  station.Counts `json:"counts"`
}

func (h *Handler) status(http.ResponseWriter, *http.Request) (any, error) {
	waiting, err := h.c.Queue.Len()
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	atWork := len(h.nests)
	h.mu.Unlock()
	return &Status{
		Station: h.c.Who.Station, Site: h.c.Who.Site, Order: h.c.Order, Queue: waiting, AtWork: atWork, Counts: h.c.Line.Counts(),
	}, nil
}

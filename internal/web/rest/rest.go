// Package rest is the management API under /api/v1: one operation per act of an
// operator or a program. Request and response structs with their tags are the
// one source of validation and of the OpenAPI 3.1 description, which is served
// and kept as a golden file. An operation translates and calls an identity
// package; it decides nothing. Who may call it stands in the same table from
// which the listener is made.
package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/web/server"
)

// Prefix is where the API lives.
const Prefix = "/api/v1"

// maxBody is the largest body of an operation that names no other.
const maxBody = 1 << 20

// Config names what the API serves. All fields but Now and Spool are required.
type Config struct {
	Register  *device.Register
	Devices   device.Store
	Authority *authority.Service
	Access    *access.Service
	Status    Status
	Ledger    Ledger
	System    System
	Factory   *factory.Service
	Attest    *attest.Service
	Batches   Batches
	// MayReach says why the server sends nothing to a URL; nil if it does.
	MayReach func(url string) error
	Spool    string // folder for what is imported, while it is; empty: the system's
	Version  string
	Now      func() time.Time // nil: time.Now
}

// API is the table of operations with their handlers.
type API struct {
	cfg  Config
	now  func() time.Time
	mux  *http.ServeMux
	huma huma.API
	rows []Row
}

// Row is one operation as a listener needs it.
type Row struct {
	Method  string
	Path    string
	Action  access.Action
	MaxBody int64
	// Stream is how long a piece of a body may take that the operation reads by
	// itself; zero: the body is read before.
	Stream time.Duration
	// LocalOnly operations carry a root's passphrase and are served on the unix
	// socket only.
	LocalOnly bool
}

// New returns the API over these services.
func New(c Config) (*API, error) {
	if c.Register == nil || c.Devices == nil || c.Authority == nil || c.Access == nil || c.Status == nil || c.Ledger == nil || c.System == nil ||
		c.Factory == nil || c.Attest == nil || c.Batches == nil || c.MayReach == nil {
		return nil, errors.New("rest: every field of Config is required")
	}
	renderFaults()
	a := &API{cfg: c, now: c.Now, mux: http.NewServeMux()}
	if a.now == nil {
		a.now = time.Now
	}
	h := huma.DefaultConfig("Birthmark", c.Version)
	h.OpenAPIPath, h.DocsPath, h.SchemasPath = "", "", ""
	h.CreateHooks = nil // no $schema links in answers
	h.RejectUnknownQueryParameters = true
	h.Transformers = []huma.Transformer{keepRefusal}
	h.Info.Description = "Management API of a device identity platform. Refusals are RFC 9457 problems with a permanent code."
	h.Info.License = &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}
	h.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer"}}
	h.Security = []map[string][]string{{"token": {}}}
	a.huma = humago.New(a.mux, h)
	a.devices()
	a.products()
	a.certificates()
	a.authorities()
	a.profiles()
	a.approvals()
	a.tokens()
	a.operators()
	a.ledger()
	a.system()
	a.sites()
	a.stations()
	a.orders()
	a.units()
	a.manifests()
	a.chips()
	a.alarms()
	a.kpis()
	a.webhooks()
	a.tpms()
	a.evidence()
	return a, nil
}

// Rows returns the table.
func (a *API) Rows() []Row { return slices.Clone(a.rows) }

// ServeHTTP answers a request that a listener has authorized. Refusals go to
// the listener, which renders, logs and counts them like all others. Answers
// are for the caller alone: some hold secrets that are shown once.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o := &outcome{ResponseWriter: w}
	w.Header().Set("Cache-Control", "no-store")
	a.mux.ServeHTTP(o, r)
	if o.refusal != nil && !server.Refuse(w, o.refusal) {
		f := fault.Of(o.refusal)
		server.WriteProblem(w, server.HTTPStatus(f), f)
	}
}

// outcome holds back what the library would write of a refusal.
type outcome struct {
	http.ResponseWriter
	refusal error
}

// WriteHeader sends the status of an answer.
func (o *outcome) WriteHeader(status int) {
	if o.refusal == nil {
		o.ResponseWriter.WriteHeader(status)
	}
}

// Write sends a part of an answer.
func (o *outcome) Write(b []byte) (int, error) {
	if o.refusal != nil {
		return len(b), nil
	}
	return o.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (o *outcome) Unwrap() http.ResponseWriter { return o.ResponseWriter }

// keepRefusal takes a refusal off the library's hands before it is written.
func keepRefusal(ctx huma.Context, _ string, body any) (any, error) {
	p, ok := body.(*problem)
	if !ok {
		return body, nil
	}
	_, w := humago.Unwrap(ctx)
	if o, ok := w.(*outcome); ok {
		o.refusal = p.cause
	}
	return body, nil
}

// Routes returns the rows of a listener's table: the operations and their
// description. local adds what carries a root's passphrase.
func (a *API) Routes(local bool) ([]server.Route, error) {
	description, err := a.OpenAPI()
	if err != nil {
		return nil, err
	}
	routes := []server.Route{{
		Method: http.MethodGet, Path: "/api/openapi.json", Action: access.Public,
		Handler: func(w http.ResponseWriter, _ *http.Request, _ []byte) error {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(description) // the peer is gone
			return nil
		},
	}}
	for _, row := range a.rows {
		if row.LocalOnly && !local {
			continue
		}
		routes = append(routes, server.Route{
			Method: row.Method, Path: row.Path, Action: row.Action, MaxBody: row.MaxBody, Stream: row.Stream,
			Handler: func(w http.ResponseWriter, r *http.Request, body []byte) error {
				if row.Stream == 0 {
					r.Body = io.NopCloser(bytes.NewReader(body))
				}
				a.ServeHTTP(w, r)
				return nil
			},
		})
	}
	return routes, nil
}

// OpenAPI returns the description of all operations.
func (a *API) OpenAPI() ([]byte, error) { return json.MarshalIndent(a.huma.OpenAPI(), "", "  ") }

// op is one operation before it is registered.
type op struct {
	method, path string
	action       access.Action
	summary      string
	status       int // of success; 0: 200
	maxBody      int64
	localOnly    bool
	stream       time.Duration // see Row; the body is octets
	slow         bool          // may take longer than a listener waits with its answer
	// everywhere marks acts on what no product, site or owner has to itself. A
	// caller whose scope is limited does not do them, whatever its actions.
	everywhere bool
}

// add puts an operation into the table. Its handler gets the caller whom the
// listener has authorized for the operation's action.
func add[I, O any](a *API, o op, handle func(ctx context.Context, c *access.Caller, in *I) (*O, error)) {
	path := Prefix + o.path
	noun := strings.Split(strings.TrimPrefix(o.path, "/"), "/")[0]
	row := Row{Method: o.method, Path: path, Action: o.action, MaxBody: o.maxBody, Stream: o.stream, LocalOnly: o.localOnly}
	if row.MaxBody == 0 && o.method != http.MethodGet && o.method != http.MethodDelete {
		row.MaxBody = maxBody
	}
	a.rows = append(a.rows, row)
	var around huma.Middlewares
	if o.slow {
		around = huma.Middlewares{withoutHurry}
	}
	var octets *huma.RequestBody
	if o.stream > 0 {
		octets = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/octet-stream": {}}}
	}
	huma.Register(a.huma, huma.Operation{
		Middlewares: around, RequestBody: octets,
		OperationID: operationID(o.method, o.path), Method: o.method, Path: path, Summary: o.summary,
		Description: "Needs " + string(o.action) + ".", Tags: []string{noun}, DefaultStatus: o.status,
		MaxBodyBytes: row.MaxBody + 1, Errors: []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusConflict},
	}, func(ctx context.Context, in *I) (*O, error) {
		c := access.CallerOf(ctx)
		if o.everywhere && !c.Scope.SeesEverything() {
			return nil, asProblem(fault.New(fault.NotAllowed, "with a limited scope"))
		}
		out, err := handle(ctx, c, in)
		if err != nil {
			return nil, asProblem(err)
		}
		return out, nil
	})
}

// patience is how long a slow operation may take.
const patience = time.Hour

// withoutHurry lifts the listener's time limit for an answer.
func withoutHurry(ctx huma.Context, next func(huma.Context)) {
	_, w := humago.Unwrap(ctx)
	// What has no connection has no time limit either.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(patience))
	next(ctx)
}

// operationID names an operation for generated clients: get-devices,
// post-devices-by-id-state.
func operationID(method, path string) string {
	path = strings.NewReplacer("/{", "-by-", "}", "", "/", "-").Replace(path)
	return strings.ToLower(method) + path
}

// problem is a fault as huma writes it.
type problem struct {
	*server.Problem
	cause error
}

// Error returns what the problem says.
func (p *problem) Error() string { return p.Title }

// Unwrap keeps the cause for the log.
func (p *problem) Unwrap() error { return p.cause }

// GetStatus returns the HTTP status.
func (p *problem) GetStatus() int { return p.Status }

// ContentType makes it a problem document (RFC 9457).
func (p *problem) ContentType(string) string { return "application/problem+json" }

// MarshalJSON writes the problem document alone.
func (p *problem) MarshalJSON() ([]byte, error) { return json.Marshal(p.Problem) }

func asProblem(err error) *problem {
	f := fault.Of(err)
	return &problem{server.NewProblem(server.HTTPStatus(f), f), err}
}

// renderFaults makes the library's own refusals (validation, unreadable bodies)
// entries of our table. The library has one hook for it, in the package.
var renderFaults = sync.OnceFunc(func() {
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		var details []any
		if message != "" && message != "validation failed" {
			details = append(details, message)
		}
		for _, err := range errs {
			if text := publicText(err); text != "" {
				details = append(details, text)
			}
		}
		code := fault.ParameterInvalid
		switch {
		case status == http.StatusRequestEntityTooLarge:
			code = fault.RequestTooLarge
		case status == http.StatusUnsupportedMediaType:
			code = fault.ContentTypeWrong
		case status >= http.StatusInternalServerError:
			code, details = fault.Unexpected, nil
		}
		return asProblem(fault.New(code, details...))
	}
})

// publicText says what is wrong and where, but never repeats what was sent: it
// may be a passphrase.
func publicText(err error) string {
	if err == nil {
		return ""
	}
	var d *huma.ErrorDetail
	if !errors.As(err, &d) {
		return "a value is not acceptable"
	}
	if d.Location == "" {
		return d.Message
	}
	return d.Message + " (" + shortened(d.Location) + ")"
}

// shortened keeps names that the caller made up within bounds.
func shortened(location string) string {
	const most = 100
	text := strings.ToValidUTF8(location[:min(len(location), most)], "")
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text)
}

// Page is the paging of every list.
type Page struct {
	After string `query:"after" maxLength:"200" doc:"Cursor of the previous page"`
	Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Largest number of rows"`
}

// list is a page of rows.
type list[T any] struct {
	Body struct {
		Items []T    `json:"items"`
		Next  string `json:"next,omitempty" doc:"Cursor of the next page; absent on the last"`
	}
}

func newList[T any](items []T, next string) *list[T] {
	l := new(list[T])
	l.Body.Items, l.Body.Next = items, next
	if items == nil {
		l.Body.Items = []T{}
	}
	return l
}

// one is a single object.
type one[T any] struct{ Body T }

// nothing is an empty answer.
type nothing struct{}

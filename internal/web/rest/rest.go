// Package rest is the management API under /api/v1: one operation per act of an
// operator or a program. Request and response structs with their tags are the
// one source of validation and of the OpenAPI 3.1 description, which is served
// and kept as a golden file. An operation translates and calls an identity
// package; it decides nothing. Who may call it stands in the same table from
// which the listener is made.
package rest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/web/server"
)

// Prefix is where the API lives.
const Prefix = "/api/v1"

// maxBody is the largest body of an operation that names no other.
const maxBody = 1 << 20

// Config names what the API serves. All fields are required.
type Config struct {
	Register  *device.Register
	Devices   device.Store
	Authority *authority.Service
	Access    *access.Service
	Status    Status
	Ledger    Ledger
	System    System
	Version   string
}

// API is the table of operations with their handlers.
type API struct {
	cfg  Config
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
	// LocalOnly operations carry a root's passphrase and are served on the unix
	// socket only.
	LocalOnly bool
}

// New returns the API over these services.
func New(c Config) (*API, error) {
	if c.Register == nil || c.Devices == nil || c.Authority == nil || c.Access == nil || c.Status == nil || c.Ledger == nil || c.System == nil {
		return nil, errors.New("rest: every field of Config is required")
	}
	renderFaults()
	a := &API{cfg: c, mux: http.NewServeMux()}
	h := huma.DefaultConfig("Birthmark", c.Version)
	h.OpenAPIPath, h.DocsPath, h.SchemasPath = "", "", ""
	h.CreateHooks = nil // no $schema links in answers
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
	return a, nil
}

// Rows returns the table.
func (a *API) Rows() []Row { return slices.Clone(a.rows) }

// ServeHTTP answers a request that a listener has authorized.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.mux.ServeHTTP(w, r) }

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
}

// add puts an operation into the table. Its handler gets the caller whom the
// listener has authorized for the operation's action.
func add[I, O any](a *API, o op, handle func(ctx context.Context, c *access.Caller, in *I) (*O, error)) {
	path := Prefix + o.path
	noun := strings.Split(strings.TrimPrefix(o.path, "/"), "/")[0]
	row := Row{Method: o.method, Path: path, Action: o.action, MaxBody: o.maxBody, LocalOnly: o.localOnly}
	if row.MaxBody == 0 && o.method != http.MethodGet && o.method != http.MethodDelete {
		row.MaxBody = maxBody
	}
	a.rows = append(a.rows, row)
	huma.Register(a.huma, huma.Operation{
		OperationID: operationID(o.method, o.path), Method: o.method, Path: path, Summary: o.summary,
		Description: "Needs " + string(o.action) + ".", Tags: []string{noun}, DefaultStatus: o.status,
		MaxBodyBytes: row.MaxBody, Errors: []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusConflict},
	}, func(ctx context.Context, in *I) (*O, error) {
		out, err := handle(ctx, access.CallerOf(ctx), in)
		if err != nil {
			return nil, asProblem(err)
		}
		return out, nil
	})
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
		details := []any{}
		if message != "" && message != "validation failed" {
			details = append(details, message)
		}
		for _, err := range errs {
			if err != nil {
				details = append(details, err.Error())
			}
		}
		code := fault.ParameterInvalid
		if status == http.StatusRequestEntityTooLarge {
			code = fault.RequestTooLarge
		}
		if status >= http.StatusInternalServerError {
			code, details = fault.Unexpected, nil
		}
		return asProblem(fault.New(code, details...))
	}
})

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

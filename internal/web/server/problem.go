package server

import (
	"encoding/json"
	"net/http"

	"github.com/birthmark/birthmark/internal/fault"
)

// retryAfter is how many seconds a refused request should wait when nothing
// better is known.
const retryAfter = "5"

var statusOfKind = map[fault.Kind]int{
	fault.Internal:        http.StatusInternalServerError,
	fault.Invalid:         http.StatusBadRequest,
	fault.Unauthenticated: http.StatusUnauthorized,
	fault.Forbidden:       http.StatusForbidden,
	fault.NotFound:        http.StatusNotFound,
	fault.Conflict:        http.StatusConflict,
	fault.Exhausted:       http.StatusTooManyRequests,
	fault.Unavailable:     http.StatusServiceUnavailable,
}

// statusOfCode lists the few faults for which HTTP has a word of its own.
var statusOfCode = map[fault.Code]int{
	fault.RequestTooLarge:  http.StatusRequestEntityTooLarge,
	fault.RequestTooSlow:   http.StatusRequestTimeout,
	fault.ContentTypeWrong: http.StatusUnsupportedMediaType,
	fault.MethodNotAllowed: http.StatusMethodNotAllowed,
}

// HTTPStatus is the one table from faults to HTTP.
func HTTPStatus(f *fault.Error) int {
	if status, ok := statusOfCode[f.Code]; ok {
		return status
	}
	return statusOfKind[f.Kind]
}

// Problem is RFC 9457's problem details as all our APIs send them.
type Problem struct {
	Type   string `json:"type" doc:"Kind of refusal, relative to docs/refusals.md" example:"urn:birthmark:problem:not-found"`
	Title  string `json:"title" doc:"What was refused, in words"`
	Status int    `json:"status" doc:"HTTP status"`
	Detail string `json:"detail,omitempty" doc:"What exactly"`
	Code   string `json:"code" doc:"Permanent code, see birthmark explain" example:"BM-2001"`
	Remedy string `json:"remedy" doc:"What to do"`
}

// NewProblem describes a fault.
func NewProblem(status int, f *fault.Error) *Problem {
	return &Problem{
		Type: "urn:birthmark:problem:" + f.Kind.String(), Title: f.Message, Status: status,
		Detail: f.Detail, Code: f.Code.String(), Remedy: f.Remedy,
	}
}

// WriteProblem renders a fault as application/problem+json.
func WriteProblem(w http.ResponseWriter, status int, f *fault.Error) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="birthmark"`)
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(NewProblem(status, f)) // the peer is gone; nothing else is owed
}

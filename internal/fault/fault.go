// Package fault is the one vocabulary of errors. Each refusal of the product
// is one entry of one table: a permanent code (BM-2014), a kind, a message that
// a stranger may read and a remedy. Inner packages return faults; each edge
// (EST, REST, command line) renders the kind in its own tongue and never looks
// at anything else. A plain Go error that reaches an edge is Internal: its text
// goes to the log, the peer sees only the code.
package fault

import (
	"errors"
	"fmt"
	"slices"
)

// Kind says what sort of refusal a fault is. Edges translate kinds, not codes.
type Kind uint8

// The kinds, as in docs/refusals.md.
const (
	Internal Kind = iota
	Invalid
	Unauthenticated
	Forbidden
	NotFound
	Conflict
	Exhausted
	Unavailable
)

var kindNames = [...]string{
	"internal", "invalid-request", "unauthenticated", "forbidden",
	"not-found", "conflict", "limit-reached", "unavailable",
}

// String returns the kind's name as problem types and metrics spell it.
func (k Kind) String() string { return kindNames[k] }

// Code is the permanent number of a refusal. Numbers are never reused.
type Code uint16

// String renders the code as people quote it, for example BM-2014.
func (c Code) String() string { return fmt.Sprintf("BM-%04d", uint16(c)) }

// Entry is one row of the table of refusals.
type Entry struct {
	Code    Code
	Kind    Kind
	Message string // may be shown to anyone; says nothing about the inside
	Remedy  string // what the reader can do next
}

// Error is a refusal: an entry of the table, an optional public detail and an
// optional cause that stays inside.
type Error struct {
	Entry
	Detail string // public: names what was refused, never a secret or an internal
	cause  error
}

// Error returns code, message and detail, without the cause.
func (e *Error) Error() string {
	if e.Detail == "" {
		return e.Code.String() + ": " + e.Message
	}
	return e.Code.String() + ": " + e.Message + ": " + e.Detail
}

// Unwrap returns the internal cause, which edges log and never show.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is a fault with the same code, so that
// errors.Is(err, fault.New(fault.DeviceUnknown)) works.
func (e *Error) Is(target error) bool {
	t, ok := errors.AsType[*Error](target)
	return ok && t.Code == e.Code
}

// New returns the refusal with this code. Details are public; they are joined
// with spaces.
func New(c Code, detail ...any) *Error {
	return &Error{Entry: Lookup(c), Detail: join(detail)}
}

// Wrap returns the refusal with this code and keeps cause for the log.
func Wrap(c Code, cause error, detail ...any) *Error {
	e := New(c, detail...)
	e.cause = cause
	return e
}

// Of returns err as a fault: itself or the fault it wraps, or Unexpected around
// anything else. Of(nil) is nil.
func Of(err error) *Error {
	if err == nil {
		return nil
	}
	if f, ok := errors.AsType[*Error](err); ok {
		return f
	}
	return Wrap(Unexpected, err)
}

// Has reports whether err is or wraps the refusal with this code.
func Has(err error, c Code) bool {
	f, ok := errors.AsType[*Error](err)
	return ok && f.Code == c
}

// Lookup returns the entry of a code; an unknown code is Unexpected's entry,
// which a test forbids for the codes declared here.
func Lookup(c Code) Entry {
	if i, ok := slices.BinarySearchFunc(table, c, func(e Entry, c Code) int { return int(e.Code) - int(c) }); ok {
		return table[i]
	}
	return Entry{Code: Unexpected, Kind: Internal, Message: "something went wrong on our side", Remedy: "quote the request id to the operator"}
}

// All returns the whole table in order of codes.
func All() []Entry { return slices.Clone(table) }

func join(detail []any) string {
	if len(detail) == 0 {
		return ""
	}
	s := fmt.Sprintln(detail...)
	return s[:len(s)-1]
}

// Package refusal reads what a server refuses, for programs away from it: the same
// permanent codes, in words that are safe to show. Codes that this build does not
// know, of a newer server, keep the server's words.
package refusal

import (
	"encoding/json"
	"strconv"
	"strings"
	"unicode"

	"github.com/birthmark/birthmark/internal/fault"
)

// Words are what a server says of a refusal.
type Words struct {
	Code    string // BM-8023
	Kind    string // limit-reached
	Message string
	Detail  string
	Remedy  string
}

// Read reads a refusal as an item of a stream has it (kind, message), or a call as
// a whole (RFC 9457: type, title).
func Read(text []byte) (*Words, bool) {
	var in struct {
		Code, Kind, Message, Detail, Remedy string
		Type, Title                         string
	}
	if json.Unmarshal(text, &in) != nil || in.Code == "" {
		return nil, false
	}
	w := &Words{Code: in.Code, Kind: in.Kind, Message: in.Message, Detail: in.Detail, Remedy: in.Remedy}
	if w.Message == "" {
		w.Message = in.Title
	}
	if w.Kind == "" {
		w.Kind = in.Type[strings.LastIndexByte(in.Type, ':')+1:]
	}
	return w, true
}

// ReadLine reads a refusal of EST: a line with code, message and detail, and a line
// with the remedy.
func ReadLine(text string) (*Words, bool) {
	line, rest, _ := strings.Cut(text, "\n")
	name, message, _ := strings.Cut(line, ": ")
	code, ok := ParseCode(name)
	if !ok {
		return nil, false
	}
	w := &Words{Code: name, Message: message}
	if detail, ok := strings.CutPrefix(message, fault.Lookup(code).Message+": "); ok {
		w.Detail = detail
	}
	w.Remedy, _, _ = strings.Cut(rest, "\n")
	return w, true
}

// Fault returns the refusal; one without a code of ours is unreadable.
func (w *Words) Fault(unreadable fault.Code) *fault.Error {
	code, ok := ParseCode(w.Code)
	if !ok {
		return fault.New(unreadable, "the server refused without a code of ours")
	}
	f := fault.New(code)
	if f.Code != code {
		f = &fault.Error{Entry: fault.Entry{Code: code, Kind: kindNamed(w.Kind), Message: Printable(w.Message), Remedy: Printable(w.Remedy)}}
	}
	f.Detail = Printable(w.Detail)
	return f
}

// ParseCode reads "BM-8023".
func ParseCode(text string) (fault.Code, bool) {
	digits, ok := strings.CutPrefix(text, "BM-")
	n, err := strconv.ParseUint(digits, 10, 16)
	return fault.Code(n), ok && err == nil && n != 0
}

func kindNamed(name string) fault.Kind {
	for k := fault.Internal; k <= fault.Unavailable; k++ {
		if k.String() == name {
			return k
		}
	}
	return fault.Internal
}

// maxText bounds what a peer may say about itself, in octets.
const maxText = 500

// Printable keeps a peer's words from commanding a terminal or breaking a line.
func Printable(text string) string {
	if len(text) > maxText {
		text = text[:maxText]
	}
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' || r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
}

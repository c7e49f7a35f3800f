// Package refusal reads what a server refuses, for programs away from it: the same
// permanent codes, in words that are safe to show. Codes that this build does not
// know, of a newer server, keep the server's words.
package refusal

import (
	"strconv"
	"strings"
	"unicode"

	"github.com/birthmark/birthmark/internal/fault"
)

// Words are what a server says of a refusal, as its protocols write it.
type Words struct {
	Code    string `json:"code"` // BM-8023
	Kind    string `json:"kind"`
	Message string `json:"message"`
	Detail  string `json:"detail"`
	Remedy  string `json:"remedy"`
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

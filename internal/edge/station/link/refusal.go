package link

import (
	"strconv"
	"strings"
	"unicode"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
)

// Fault returns the refusal that a result is, nil if it is none. Codes that this
// build does not know, of a newer server, keep the server's words.
func Fault(r *station.Result) *fault.Error {
	if r.OK {
		return nil
	}
	code, ok := ParseCode(r.Code)
	if !ok {
		return fault.New(fault.StationLink, "the server refused without a code of ours")
	}
	f := fault.New(code)
	if f.Code != code {
		f = &fault.Error{Entry: fault.Entry{Code: code, Kind: kindNamed(r.Kind), Message: Printable(r.Message), Remedy: Printable(r.Remedy)}}
	}
	f.Detail = Printable(r.Detail)
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

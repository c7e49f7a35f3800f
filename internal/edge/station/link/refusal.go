package link

import (
	"github.com/birthmark/birthmark/internal/edge/refusal"
	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
)

// Fault returns the refusal that a result is, nil if it is none.
func Fault(r *station.Result) *fault.Error {
	if r.OK {
		return nil
	}
	w := refusal.Words{Code: r.Code, Kind: r.Kind, Message: r.Message, Detail: r.Detail, Remedy: r.Remedy}
	return w.Fault(fault.StationLink)
}

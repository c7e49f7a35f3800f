package station

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
)

// What the tests see of the inside: streams without services behind them.
const (
	InFlight  = inFlight
	MaxStream = maxStream
)

type Work = func(ctx context.Context, in []byte, result *station.Result) error

func Bare(log *slog.Logger, count func(fault.Code)) *Handlers {
	return &Handlers{log: log, count: count}
}

func (h *Handlers) Stream(w http.ResponseWriter, r *http.Request, do Work) error {
	return h.stream(w, r, do)
}

func Decode(in []byte, out any) error { return decode(in, out) }

func AppendResult(dst []byte, r *station.Result) []byte { return appendResult(dst, r) }

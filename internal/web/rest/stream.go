package rest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/birthmark/birthmark/internal/fault"
)

// streamed is an answer that is written piece by piece.
func streamed(contentType string, write func(ctx context.Context, w io.Writer) error) *huma.StreamResponse {
	return &huma.StreamResponse{Body: func(ctx huma.Context) { answer(ctx, contentType, write) }}
}

// answer writes a streamed answer. What fails before the first octet is a
// refusal like any other; after that cutting the connection is all that can be
// said.
func answer(ctx huma.Context, contentType string, write func(ctx context.Context, w io.Writer) error) {
	ctx.SetHeader("Content-Type", contentType)
	_, w := humago.Unwrap(ctx)
	out := &stream{Writer: ctx.BodyWriter(), control: http.NewResponseController(w)}
	err := write(ctx.Context(), out)
	if err == nil {
		return
	}
	if o, ok := w.(*outcome); ok && !out.begun {
		o.refusal = err
		return
	}
	panic(http.ErrAbortHandler)
}

// stream gives each piece its own time to be sent, instead of one for all.
type stream struct {
	io.Writer
	control *http.ResponseController
	begun   bool
}

// pieceTime is how long a caller may take to accept or send a piece.
const pieceTime = time.Minute

// Write sends a piece.
func (s *stream) Write(b []byte) (int, error) {
	s.begun = true
	_ = s.control.SetWriteDeadline(time.Now().Add(pieceTime)) // what has no connection has no time limit
	return s.Writer.Write(b)
}

// flush sends what was written, for a caller who waits for lines.
func (s *stream) flush() {
	_ = s.control.Flush() // without a connection there is nothing to flush
}

// readAll reads a streamed body whole.
func readAll(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(r)
	return body, bodyFault(err)
}

// bodyFault says what is wrong with a body that could not be read to its end.
func bodyFault(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return fault.New(fault.RequestTooLarge)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fault.New(fault.RequestTooSlow)
	}
	return fault.Wrap(fault.RequestMalformed, err, "the body ended early")
}

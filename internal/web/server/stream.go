package server

import (
	"context"
	"io"
	"net/http"
	"os"
	"time"
)

// stream prepares a request whose handler reads the body and answers at once.
// The listener's limits for a whole request are replaced by one for each read;
// writing is timed by whoever writes. The caller runs done after the handler.
func (e *endpoint) stream(w *recorder, r *http.Request) (done func()) {
	control := http.NewResponseController(w)
	// What has no connection (a command in the process itself) has no deadlines
	// and is duplex anyway.
	_ = control.EnableFullDuplex()
	_ = control.SetWriteDeadline(time.Time{})
	b := &pieces{
		ReadCloser: http.MaxBytesReader(w, r.Body, e.route.MaxBody),
		control:    control, each: e.route.Stream, stopping: e.server.stopping,
	}
	r.Body = b
	stop := context.AfterFunc(e.server.stopping, b.interrupt)
	return func() { stop() }
}

// pieces is a body each of whose reads has its own time.
type pieces struct {
	io.ReadCloser
	control  *http.ResponseController
	each     time.Duration
	stopping context.Context
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// interrupt ends a read that waits.
func (p *pieces) interrupt() { _ = p.control.SetReadDeadline(longAgo) }

// Read reads what is there.
func (p *pieces) Read(b []byte) (int, error) {
	_ = p.control.SetReadDeadline(time.Now().Add(p.each)) // without a connection there is no deadline
	if p.stopping.Err() != nil {
		p.interrupt()
		return 0, os.ErrDeadlineExceeded
	}
	return p.ReadCloser.Read(b)
}

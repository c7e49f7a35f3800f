package server

import (
	"bufio"
	"io"
	"sync"
	"time"
)

// LogWriter collects log lines and writes them in larger pieces, at the latest
// after a quarter of a second, so that a line per request does not cost a
// system call per request. Close writes what is left.
type LogWriter struct {
	mu    sync.Mutex // guards all below
	out   io.Writer
	buf   *bufio.Writer
	timer *time.Timer
	armed bool
}

// NewLogWriter returns a LogWriter over w.
func NewLogWriter(w io.Writer) *LogWriter {
	l := &LogWriter{out: w, buf: bufio.NewWriterSize(w, 64<<10)}
	l.timer = time.AfterFunc(time.Hour, l.flush)
	l.timer.Stop()
	return l
}

// Write keeps one line. It fails only for a line that could not be written
// right after those before it could not.
func (l *LogWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.armed {
		l.armed = true
		l.timer.Reset(250 * time.Millisecond)
	}
	n, err := l.buf.Write(p)
	if err == nil {
		return n, nil
	}
	l.buf.Reset(l.out)
	return l.buf.Write(p)
}

func (l *LogWriter) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed = false
	if err := l.buf.Flush(); err != nil {
		l.buf.Reset(l.out) // a full disk costs these lines; it must not stop the service or the next lines
	}
}

// Close writes what is left.
func (l *LogWriter) Close() error {
	l.timer.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Flush()
}

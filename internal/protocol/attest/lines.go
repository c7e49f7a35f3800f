package attest

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/tpm"
)

// lines reads the items of a request. Only a long line takes memory.
type lines struct {
	in   *bufio.Reader
	text []byte
}

func newLines(body io.Reader) *lines { return &lines{in: bufio.NewReader(body)} }

// next returns the next line that is not empty, until the next call. A line that is
// too long or has no end is a refusal, with text that is not nil; without text the
// error is the body's.
func (l *lines) next() (text []byte, err error) {
	l.text = l.text[:0]
	for {
		piece, err := l.in.ReadSlice('\n')
		l.text = append(l.text, piece...)
		switch {
		case len(l.text) > tpm.MaxLine+1:
			return l.text[:0], fault.New(fault.RequestTooLarge, "a line")
		case errors.Is(err, bufio.ErrBufferFull):
		case err != nil && len(l.text) == 0:
			return nil, err
		case err != nil: // it may be half of a line: it is not acted on
			return l.text[:0], fault.New(fault.RequestMalformed, "the last line does not end")
		case len(l.text) == 1:
			l.text = l.text[:0] // an empty line keeps the connection awake
		default:
			return l.text, nil
		}
	}
}

// ended tells an end that is in order from one that is not.
func (l *lines) ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return http.ErrAbortHandler
}

// answers writes results, each at once.
type answers struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (a *answers) send(r *tpm.Result) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_ = a.control.SetWriteDeadline(time.Now().Add(sendTime)) // without a connection there is no deadline
	if _, err := a.w.Write(append(text, '\n')); err != nil {
		return err
	}
	return a.flush()
}

func (a *answers) flush() error {
	_ = a.control.SetWriteDeadline(time.Now().Add(sendTime))
	if err := a.control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

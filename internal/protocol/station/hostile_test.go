package station_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/factory"
	protocol "github.com/birthmark/birthmark/internal/protocol/station"
)

// deaf takes no answer until it is told to.
type deaf struct {
	*httptest.ResponseRecorder
	hears chan struct{}
}

func (d *deaf) Write(p []byte) (int, error) {
	if len(p) > 0 {
		<-d.hears
	}
	return len(p), nil
}

// endless says the same line until it is stopped.
type endless struct {
	line    string
	read    int
	stopped bool
}

func (e *endless) Read(p []byte) (int, error) {
	if e.stopped {
		return 0, io.EOF
	}
	n := copy(p, e.line[e.read%len(e.line):])
	e.read += n
	return n, nil
}

// A station that sends the longest lines and reads no answers is read from no
// further than its stream's budget.
func TestUnreadAnswersFillNoMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := protocol.Bare(slog.New(slog.DiscardHandler), func(fault.Code) {})
		w := &deaf{httptest.NewRecorder(), make(chan struct{})}
		body := &endless{line: strings.Repeat("x", station.MaxLine-1) + "\n"}
		done := make(chan error)
		go func() {
			done <- h.Stream(w, httptest.NewRequest(http.MethodPost, "/s", body), func(_ context.Context, in []byte, out *station.Result) error {
				out.ID = string(in)
				return nil
			})
		}()
		synctest.Wait()
		if most := 1<<20/4 + 4*station.MaxLine; body.read > most {
			t.Errorf("%d octets were read of a station that hears nothing", body.read)
		}
		body.stopped = true
		close(w.hears)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestStreamsOfAStationAreBounded(t *testing.T) {
	f := newFloor(t)
	f.station(t, "ST-1")
	f.station(t, "ST-2")
	open := func(as string) (end func(), status int) {
		t.Helper()
		r, w := io.Pipe()
		q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+f.Address+station.UnitsPath, r)
		must(t, err)
		q.Header.Set("Content-Type", station.LinesType)
		answer, err := f.clients[as].Do(q)
		must(t, err)
		return func() {
			w.Close()
			_, err := io.Copy(io.Discard, answer.Body)
			must(t, err)
			answer.Body.Close()
		}, answer.StatusCode
	}
	var ends []func()
	defer func() {
		for _, end := range ends {
			end()
		}
	}()
	for i := range 64 {
		end, status := open("ST-1")
		ends = append(ends, end)
		if status != http.StatusOK {
			t.Fatalf("stream %d: %d", i, status)
		}
	}
	end, status := open("ST-1")
	end()
	if status != http.StatusTooManyRequests {
		t.Errorf("one stream more: %d", status)
	}
	end, status = open("ST-2")
	ends = append(ends, end)
	if status != http.StatusOK {
		t.Errorf("another station: %d", status)
	}
	ends[0]()
	ends = ends[1:]
	end, status = open("ST-1")
	ends = append(ends, end)
	if status != http.StatusOK {
		t.Errorf("in place of one that ended: %d", status)
	}
}

// slow holds a draw of nonces until it may go on.
type slow struct {
	*factory.Service
	begun, goOn chan struct{}
}

func (s *slow) DrawNonces(context.Context, factory.StationRef, station.NoncesRequest) (station.Nonces, error) {
	s.begun <- struct{}{}
	<-s.goOn
	return station.Nonces{}, nil
}

func TestOneBlockForABatchAtATime(t *testing.T) {
	f := newFloor(t)
	f.station(t, "ST-1")
	f.station(t, "ST-2")
	s := &slow{f.Factory, make(chan struct{}, 3), make(chan struct{})}
	h, err := protocol.New(protocol.Config{Enroller: f.Enroller, Factory: s, Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	draw := func(as string) error {
		leaf, err := x509.ParseCertificate(f.tls[as].Certificate[0])
		must(t, err)
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, station.NoncesPath, nil)
		r.Header.Set("Content-Type", "application/json")
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
		return h.Nonces(httptest.NewRecorder(), r, []byte(`{"order":"PO-1","count":1000,"offline":true}`))
	}
	first, other := make(chan error, 1), make(chan error, 1)
	go func() { first <- draw("ST-1") }()
	<-s.begun
	if err := draw("ST-1"); !fault.Has(err, fault.TooManyRequests) {
		t.Errorf("a second block at once: %v", err)
	}
	go func() { other <- draw("ST-2") }()
	<-s.begun
	close(s.goOn)
	must(t, <-first)
	must(t, <-other)
	must(t, draw("ST-1"))
}

// A thousand stations that keep a stream open and say nothing cost little, however
// long a line may be.
func TestSilentStreamTakesLittleMemory(t *testing.T) {
	h := protocol.Bare(slog.New(slog.DiscardHandler), func(fault.Code) {})
	do := func(context.Context, []byte, *station.Result) error { return nil }
	stream := func() {
		r := httptest.NewRequest(http.MethodPost, "/s", strings.NewReader("{}\n"))
		must(t, h.Stream(httptest.NewRecorder(), r, do))
	}
	stream()
	const n = 50
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range n {
		stream()
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / n; each > 64<<10 {
		t.Errorf("a stream with one short line takes %d octets", each)
	}
}

package station_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/access"
	protocol "github.com/birthmark/birthmark/internal/protocol/station"
	"github.com/birthmark/birthmark/internal/web/server"
	"github.com/birthmark/birthmark/internal/web/webtest"
)

// echo answers a unit with its serial as certificate; some units are refused or
// panic.
func echo(_ context.Context, in []byte, out *station.Result) error {
	var u station.Unit
	err := protocol.Decode(in, &u)
	out.ID, out.DeviceSerial = u.ID, u.DeviceSerial
	if err != nil {
		return err
	}
	switch u.DeviceSerial {
	case "full":
		return fault.New(fault.OrderFull)
	case "broken":
		return errors.New("disk17 is on fire")
	case "panic":
		panic("canary7391")
	}
	out.Certificate = []byte(u.DeviceSerial)
	return nil
}

// counted are handlers without services that count refusals.
func counted(log io.Writer) (*protocol.Handlers, *sync.Map) {
	var codes sync.Map
	return protocol.Bare(slog.New(slog.NewTextHandler(log, nil)), func(c fault.Code) {
		n, _ := codes.LoadOrStore(c, new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
	}), &codes
}

func listen(t *testing.T, h *protocol.Handlers, do protocol.Work, each time.Duration) *webtest.Listener {
	t.Helper()
	return webtest.Listen(t, server.Config{Name: "device", Limits: server.DefaultLimits(), Routes: []server.Route{{
		Method: "POST", Path: "/s", Action: access.Station, MaxBody: protocol.MaxStream, Stream: each,
		Handler: func(w http.ResponseWriter, r *http.Request, _ []byte) error { return h.Stream(w, r, do) },
	}}})
}

// post sends a whole body and returns all answers.
func post(t *testing.T, l *webtest.Listener, body io.Reader) []station.Result {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+l.Address+"/s", body)
	must(t, err)
	resp, err := http.DefaultClient.Do(r)
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != station.LinesType {
		t.Fatalf("%s %v", resp.Status, resp.Header)
	}
	return results(t, resp.Body)
}

func results(t testing.TB, r io.Reader) (all []station.Result) {
	t.Helper()
	d := json.NewDecoder(r)
	for {
		var x station.Result
		err := d.Decode(&x)
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		all = append(all, x)
	}
}

func TestStreamAnswersEachLine(t *testing.T) {
	h, codes := counted(io.Discard)
	l := listen(t, h, echo, time.Minute)
	var body bytes.Buffer
	const n = 5000
	for i := range n {
		serial := "SN-" + strconv.Itoa(i)
		if i%10 == 0 {
			serial = "full"
		}
		fmt.Fprintf(&body, "{\"id\":\"%d\",\"serial\":%q}\n", i, serial)
	}
	seen := map[string]bool{}
	for _, x := range post(t, l, &body) {
		i, err := strconv.Atoi(x.ID)
		must(t, err)
		if seen[x.ID] {
			t.Fatalf("%s was answered twice", x.ID)
		}
		seen[x.ID] = true
		if x.OK == (i%10 == 0) || x.OK && string(x.Certificate) != "SN-"+x.ID || !x.OK && x.Code != "BM-8023" {
			t.Fatalf("%+v", x)
		}
	}
	if len(seen) != n {
		t.Errorf("%d of %d lines were answered", len(seen), n)
	}
	if c, _ := codes.Load(fault.OrderFull); c.(*atomic.Int64).Load() != n/10 {
		t.Errorf("counted %d refusals", c.(*atomic.Int64).Load())
	}
}

// What is wrong with a line is the answer to that line; those after it are
// answered as ever.
func TestStreamSurvivesBadLines(t *testing.T) {
	var log webtest.Log
	h, _ := counted(&log)
	l := listen(t, h, echo, time.Minute)
	good := `{"id":"good","serial":"SN-1"}` + "\n"
	for name, c := range map[string]struct{ line, id, code string }{
		"not JSON":         {"hello\n", "", "BM-1001"},
		"an array":         {"[1]\n", "", "BM-1001"},
		"half an object":   {`{"id":"x","serial":` + "\n", "", "BM-1001"},
		"two objects":      {`{"id":"x"} {"id":"y"}` + "\n", "", "BM-1001"},
		"a wrong type":     {`{"id":"x","serial":7}` + "\n", "x", "BM-1001"},
		"not base64":       {`{"id":"x","csr":"***"}` + "\n", "x", "BM-1001"},
		"deep":             {strings.Repeat("[", 20_000) + "\n", "", "BM-1001"},
		"NUL":              {"\x00\n", "", "BM-1001"},
		"no UTF-8":         {"{\"id\":\"\xff\xfe\",\"serial\":7}\n", "\ufffd\ufffd", "BM-1001"},
		"a giant":          {`{"id":"x","csr":"` + strings.Repeat("A", 10*station.MaxLine) + `"}` + "\n", "", "BM-1002"},
		"one octet beyond": {`{"id":"` + strings.Repeat("x", station.MaxLine) + "\n", "", "BM-1002"},
		"a panic":          {`{"id":"x","serial":"panic"}` + "\n", "x", "BM-9999"},
		"broken inside":    {`{"id":"x","serial":"broken"}` + "\n", "x", "BM-9999"},
	} {
		t.Run(name, func(t *testing.T) {
			all := post(t, l, strings.NewReader(good+"\n"+c.line+"\r\n"[1:]+good))
			if len(all) != 3 {
				t.Fatalf("%d answers: %+v", len(all), all)
			}
			goods := 0
			for _, x := range all {
				if x.OK {
					goods++
					continue
				}
				if x.ID != c.id || x.Code != c.code || x.Message == "" || x.Remedy == "" || x.Who == "" || x.Kind == "" {
					t.Errorf("%+v", x)
				}
				if text := fmt.Sprint(x); strings.Contains(text, "disk17") || strings.Contains(text, "canary7391") {
					t.Errorf("the inside shows: %s", text)
				}
			}
			if goods != 2 {
				t.Errorf("%d of 2 good lines were answered: %+v", goods, all)
			}
		})
	}
	if text := log.String(); !strings.Contains(text, "disk17") || !strings.Contains(text, "canary7391") {
		t.Error("the cause is not in the log")
	}
}

// A line of the greatest length is good, and a line that does not end is not
// acted on.
func TestStreamLineEnds(t *testing.T) {
	h, _ := counted(io.Discard)
	var did atomic.Int64
	l := listen(t, h, func(ctx context.Context, in []byte, out *station.Result) error {
		did.Add(1)
		return echo(ctx, in, out)
	}, time.Minute)
	pad := strings.Repeat(" ", station.MaxLine-len(`{"id":"long"}`))
	all := post(t, l, strings.NewReader(`{"id":"long"`+pad+"}\n"+`{"id":"half"}`))
	if len(all) != 2 || did.Load() != 1 {
		t.Fatalf("%d done, %+v", did.Load(), all)
	}
	for _, x := range all {
		if x.OK != (x.ID == "long") {
			t.Errorf("%+v", x)
		}
	}
}

// An answer comes before the next line was sent, and an idle stream is ended in
// order.
func TestStreamIsALiveTalk(t *testing.T) {
	h, _ := counted(io.Discard)
	l := listen(t, h, echo, 200*time.Millisecond)
	c, err := net.Dial("tcp", l.Address)
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(time.Minute)))
	_, err = io.WriteString(c, "POST /s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
	must(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	must(t, err)
	answers := bufio.NewReader(resp.Body)
	for i := range 3 {
		text := fmt.Sprintf("{\"id\":\"%d\",\"serial\":\"S\"}\n", i)
		_, err := fmt.Fprintf(c, "%x\r\n%s\r\n", len(text), text)
		must(t, err)
		answer, err := answers.ReadBytes('\n')
		must(t, err)
		if !bytes.Contains(answer, fmt.Appendf(nil, `"id":"%d"`, i)) {
			t.Fatalf("%s", answer)
		}
	}
	if rest, err := io.ReadAll(answers); err != nil || len(rest) > 0 {
		t.Errorf("an idle stream ended with %q, %v", rest, err)
	}
}

// Who waits for "100 Continue" before sending lines gets it, and then answers.
func TestStreamSaysContinue(t *testing.T) {
	h, _ := counted(io.Discard)
	l := listen(t, h, echo, time.Minute)
	c, err := net.Dial("tcp", l.Address)
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(time.Minute)))
	body := `{"id":"1","serial":"S"}` + "\n"
	_, err = fmt.Fprintf(c, "POST /s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", len(body))
	must(t, err)
	in := bufio.NewReader(c)
	for _, want := range []string{"HTTP/1.1 100 Continue\r\n", "\r\n"} {
		got, err := in.ReadString('\n')
		must(t, err)
		if got != want {
			t.Fatalf("%q before the body", got)
		}
	}
	_, err = io.WriteString(c, body)
	must(t, err)
	resp, err := http.ReadResponse(in, nil)
	must(t, err)
	if all := results(t, resp.Body); resp.StatusCode != http.StatusOK || len(all) != 1 || !all[0].OK {
		t.Errorf("%s %+v", resp.Status, all)
	}
	if n := l.Count(t, "birthmark_http_requests_total", "200"); n != 1 {
		t.Errorf("%v requests were counted as 200", n)
	}
}

// A server that stops ends a stream that waits for lines.
func TestStreamEndsWithTheServer(t *testing.T) {
	h, _ := counted(io.Discard)
	l := listen(t, h, echo, time.Hour)
	in, out := io.Pipe()
	defer out.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+l.Address+"/s", in)
	must(t, err)
	resp, err := http.DefaultClient.Do(r)
	must(t, err)
	defer resp.Body.Close()
	_, err = io.WriteString(out, `{"id":"1","serial":"S"}`+"\n")
	must(t, err)
	answers := bufio.NewReader(resp.Body)
	_, err = answers.ReadBytes('\n')
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	must(t, l.Shutdown(ctx))
	if rest, err := io.ReadAll(answers); err != nil || len(rest) > 0 {
		t.Errorf("%q, %v", rest, err)
	}
}

// stuck takes nothing until it is let go.
type stuck struct {
	http.ResponseWriter
	free chan struct{}
}

func (s *stuck) Write(b []byte) (int, error) {
	<-s.free
	return s.ResponseWriter.Write(b)
}

// A station that does not take its answers is not read from any more: what it
// has sent is not all worked on, and what is kept for it is bounded.
func TestStreamWaitsForSlowReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := counted(io.Discard)
		var begun, most, now atomic.Int64
		do := func(ctx context.Context, in []byte, out *station.Result) error {
			begun.Add(1)
			most.Store(max(most.Load(), now.Add(1)))
			time.Sleep(time.Millisecond) // of the test's own clock: all that may run, run
			defer now.Add(-1)
			return echo(ctx, in, out)
		}
		const n = 10_000
		r := httptest.NewRequest(http.MethodPost, "/s", strings.NewReader(strings.Repeat(`{"id":"1","serial":"S"}`+"\n", n)))
		answer := httptest.NewRecorder()
		w := &stuck{answer, make(chan struct{})}
		done := make(chan error, 1)
		go func() { done <- h.Stream(w, r, do) }()
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := begun.Load(); got > 3*protocol.InFlight {
			t.Errorf("%d items were begun for a reader that takes nothing", got)
		}
		close(w.free)
		must(t, <-done)
		if got := len(results(t, answer.Body)); got != n {
			t.Errorf("%d of %d answers", got, n)
		}
		if got := most.Load(); got > protocol.InFlight || got < protocol.InFlight/2 {
			t.Errorf("%d items at once", got)
		}
	})
}

// gone fails from the second write on.
type gone struct {
	http.ResponseWriter
	writes int
}

func (g *gone) Write(b []byte) (int, error) {
	if g.writes++; g.writes > 1 {
		return 0, net.ErrClosed
	}
	return len(b), nil
}

func TestStreamStopsWhenNobodyListens(t *testing.T) {
	h, _ := counted(io.Discard)
	var begun atomic.Int64
	in, out := io.Pipe()
	defer in.Close()
	go func() {
		for { // an endless stream
			if _, err := io.WriteString(out, `{"id":"1","serial":"S"}`+"\n"); err != nil {
				return
			}
		}
	}()
	err := h.Stream(&gone{ResponseWriter: httptest.NewRecorder()}, httptest.NewRequest(http.MethodPost, "/s", in), func(ctx context.Context, in []byte, out *station.Result) error {
		begun.Add(1)
		return echo(ctx, in, out)
	})
	if !errors.Is(err, http.ErrAbortHandler) || begun.Load() == 0 {
		t.Errorf("%v after %d items", err, begun.Load())
	}
}

// A result is written as encoding/json writes it.
func TestResultIsJSON(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-zA-Z0-9 :.-]{0,30}`), rapid.SampledFrom([]string{"", `"`, `\`, "<>&", "\u2028", "\xff", "\x00\x1f\x7f", "é"}))
	octets := rapid.SliceOfN(rapid.Byte(), 0, 100)
	rapid.Check(t, func(t *rapid.T) {
		r := station.Result{
			ID: text.Draw(t, "id"), DeviceSerial: text.Draw(t, "serial"), OK: rapid.Bool().Draw(t, "ok"), Replayed: rapid.Bool().Draw(t, "replayed"),
			Certificate: octets.Draw(t, "certificate"), Chain: rapid.SliceOfN(octets, 0, 3).Draw(t, "chain"),
			ConfirmNonce: octets.Draw(t, "nonce"), Wrapped: octets.Draw(t, "wrapped"),
			Code: text.Draw(t, "code"), Kind: text.Draw(t, "kind"), Message: text.Draw(t, "message"),
			Detail: text.Draw(t, "detail"), Remedy: text.Draw(t, "remedy"), Who: text.Draw(t, "who"),
		}
		want, err := json.Marshal(&r)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want)+"\n", string(protocol.AppendResult(nil, &r))); diff != "" {
			t.Fatal(diff)
		}
	})
}

// Whatever octets come, each whole line gets one answer, which is JSON, and
// nothing else does but a line that does not end.
func FuzzStream(f *testing.F) {
	for _, text := range []string{"", "\n", "{}\n", "{}", `{"id":"x","serial":"S"}` + "\n\n" + `{"id":1}` + "\n", "\r\n{}\r\n", strings.Repeat("x", station.MaxLine+2) + "\n{}\n", strings.Repeat("[", 20_000) + "\n"} {
		f.Add([]byte(text))
	}
	h, _ := counted(io.Discard)
	f.Fuzz(func(t *testing.T, body []byte) {
		want := 0
		for i, part := range bytes.Split(body, []byte("\n")) {
			last := i == bytes.Count(body, []byte("\n"))
			if len(part) > 0 && (!last || len(part) <= station.MaxLine) {
				want++
			}
		}
		answer := httptest.NewRecorder()
		if err := h.Stream(answer, httptest.NewRequest(http.MethodPost, "/s", bytes.NewReader(body)), echo); err != nil {
			t.Fatal(err)
		}
		all := results(t, answer.Body)
		if len(all) != want {
			t.Fatalf("%d answers to %d lines", len(all), want)
		}
		for _, r := range all {
			if r.OK == (r.Code != "") {
				t.Fatalf("%+v", r)
			}
		}
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

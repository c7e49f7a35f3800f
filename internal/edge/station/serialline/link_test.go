package serialline

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/birthmark/birthmark/internal/edge/station/fixture"
	"github.com/birthmark/birthmark/internal/fault"
)

// device is the other end of a line: it is asked with each request as it
// arrives and writes what reply returns, if that is anything.
type device struct {
	requests []frame
	reply    func(d *device, f frame) []byte
}

// start returns the station's end of a line to the device.
func (d *device) start(t *testing.T) net.Conn {
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _ = theirs.Close() })
	go func() {
		split := splitter{to: toDevice}
		buf := make([]byte, 256)
		for {
			n, err := theirs.Read(buf)
			if err != nil {
				return
			}
			var out []byte
			split.feed(buf[:n], func(f frame) {
				d.requests = append(d.requests, f)
				out = append(out, d.reply(d, f)...)
			})
			if _, err := theirs.Write(out); err != nil {
				return
			}
		}
	}()
	return ours
}

func answer(f frame, verb string, fields ...string) []byte {
	return appendFrame(nil, frame{to: toStation, seq: f.seq, verb: verb, fields: fields})
}

// polite greets and leaves everything else to next.
func polite(next func(d *device, f frame) []byte) *device {
	return &device{reply: func(d *device, f frame) []byte {
		if f.verb == "HELLO" {
			return answer(f, "OK", "01", "0800")
		}
		return next(d, f)
	}}
}

func connect(t *testing.T, d *device) *Device {
	t.Helper()
	station, err := Connect(t.Context(), Config{Port: d.start(t), Random: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = station.Close() })
	return station
}

func TestLostLinesAreSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		station := connect(t, polite(func(d *device, f frame) []byte {
			if len(d.requests) < 5 {
				return nil
			}
			return answer(f, "OK")
		}))
		if err := station.Abort(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := station.Resent(); got != 3 {
			t.Errorf("%d requests were sent again, want 3", got)
		}
	})
}

func TestSameNumberWhenSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := polite(func(d *device, f frame) []byte {
			if len(d.requests) == 2 {
				return []byte("<0000 garbled\n")
			}
			return answer(f, "OK")
		})
		station := connect(t, d)
		if err := errors.Join(station.Abort(t.Context()), station.Done(t.Context())); err != nil {
			t.Fatal(err)
		}
		first := d.requests[0].seq
		for i, want := range []uint16{first, first + 1, first + 1, first + 2} {
			if got := d.requests[i].seq; got != want {
				t.Errorf("request %d has the number %d, want %d", i, got, want)
			}
		}
	})
}

func TestAnswersOfOtherRequestsAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		station := connect(t, polite(func(_ *device, f frame) []byte {
			before := f
			before.seq--
			return append(answer(before, "ERR", "FAIL", "0001"), answer(f, "OK")...)
		}))
		for range 20 {
			if err := station.Abort(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestBusyDeviceIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := polite(func(d *device, f frame) []byte {
			if len(d.requests) < 10 {
				return answer(f, "BUSY")
			}
			return answer(f, "OK")
		})
		station := connect(t, d)
		if err := station.Done(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d.requests[1].seq == d.requests[2].seq {
			t.Error("a new question has the old number, so that the old answer would come")
		}
	})
}

func TestPatienceEnds(t *testing.T) {
	for name, reply := range map[string]func(*device, frame) []byte{
		"silence": func(*device, frame) []byte { return nil },
		"busy":    func(_ *device, f frame) []byte { return answer(f, "BUSY") },
		"noise":   func(*device, frame) []byte { return bytes.Repeat([]byte("<"), 400) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				station := connect(t, polite(reply))
				start := time.Now()
				err := station.Done(t.Context())
				if !fault.Has(err, fault.FixtureFailed) {
					t.Errorf("got %v", err)
				}
				if took := time.Since(start); took < time.Minute || took > 2*time.Minute {
					t.Errorf("given up after %v", took)
				}
			})
		})
	}
}

func TestCanceledCallerDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		station := connect(t, polite(func(*device, frame) []byte { return nil }))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := station.Done(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestBrokenLineIsSeenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		station := connect(t, polite(func(*device, frame) []byte { return nil }))
		time.AfterFunc(time.Second, func() { _ = station.link.port.Close() })
		start := time.Now()
		if err := station.Done(t.Context()); !fault.Has(err, fault.FixtureFailed) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("seen after %v", took)
		}
	})
}

func TestAnswersThatAreRefused(t *testing.T) {
	object := []byte("0123456789")
	good := []string{"000a", fmt.Sprintf("%08x", crc32.ChecksumIEEE(object))}
	tests := map[string]struct {
		first []string // answer to IDENT: verb and fields
		read  []string
		want  fault.Code
	}{
		"device's reason":    {[]string{"ERR", "FAIL", "0007"}, nil, fault.FixtureFailed},
		"not in firmware":    {[]string{"ERR", "NONE"}, nil, fault.FixtureFailed},
		"restarted":          {[]string{"ERR", "SEQ"}, nil, fault.FixtureFailed},
		"form":               {[]string{"ERR", "FORM"}, nil, fault.FixtureProtocol},
		"empty refusal":      {[]string{"ERR"}, nil, fault.FixtureProtocol},
		"other verb":         {[]string{"YES"}, nil, fault.FixtureProtocol},
		"too few fields":     {[]string{"OK", "000a"}, nil, fault.FixtureProtocol},
		"length is no hex":   {[]string{"OK", "00xx", good[1]}, nil, fault.FixtureProtocol},
		"other CRC":          {[]string{"OK", good[0], "00000000"}, []string{"OK", "0000", encode(object)}, fault.FixtureProtocol},
		"longer than said":   {[]string{"OK", "0009", good[1]}, []string{"OK", "0000", encode(object)}, fault.FixtureProtocol},
		"nothing more":       {append([]string{"OK"}, good...), []string{"OK", "0000", "-"}, fault.FixtureProtocol},
		"other offset":       {append([]string{"OK"}, good...), []string{"OK", "0001", encode(object)}, fault.FixtureProtocol},
		"no base64":          {append([]string{"OK"}, good...), []string{"OK", "0000", "=="}, fault.FixtureProtocol},
		"malformed identity": {append([]string{"OK"}, good...), []string{"OK", "0000", encode(object)}, fault.FixtureProtocol},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			station := connect(t, polite(func(_ *device, f frame) []byte {
				reply := test.first
				if f.verb == "READ" {
					reply = test.read
				}
				return answer(f, reply[0], reply[1:]...)
			}))
			if _, err := station.Identify(t.Context()); !fault.Has(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestOtherVersionIsRefused(t *testing.T) {
	d := &device{reply: func(_ *device, f frame) []byte { return answer(f, "OK", "02", "0800") }}
	if _, err := Connect(t.Context(), Config{Port: d.start(t), Random: rand.Reader}); !fault.Has(err, fault.FixtureProtocol) {
		t.Errorf("got %v", err)
	}
}

func TestOneUnitAtATimeOnALine(t *testing.T) {
	d := polite(func(_ *device, f frame) []byte { return answer(f, "OK") })
	a, err := NewAdapter(AdapterConfig{
		Ports: map[string]string{"": "one"}, Random: rand.Reader,
		Open: func(string, int) (io.ReadWriteCloser, error) { return d.start(t), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	first, err := a.Open(t.Context(), fixture.Job{Nest: "1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Open(t.Context(), fixture.Job{Nest: "2"}); !fault.Has(err, fault.FixtureFailed) {
		t.Errorf("two units share a line: %v", err)
	}
	if err := first.Close(true); err != nil {
		t.Fatal(err)
	}
	if last := d.requests[len(d.requests)-1].verb; last != "DONE" {
		t.Errorf("the device was told %s at the end", last)
	}
	second, err := a.Open(t.Context(), fixture.Job{Nest: "2"})
	if err != nil {
		t.Fatal(err)
	}
	_ = second.Close(false)
	if last := d.requests[len(d.requests)-1].verb; last != "HELLO" {
		t.Errorf("a unit that failed was told %s", last)
	}
}

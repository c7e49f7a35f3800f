package signer_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	frames "github.com/birthmark/birthmark/internal/format/signer"
	"github.com/birthmark/birthmark/internal/pki/signer"
)

// served is a server at a socket, and who it takes the next client for.
type served struct {
	*world
	socket string
	as     atomic.Uint32
}

func newServed(t *testing.T, keys ...signer.KeyConfig) *served {
	t.Helper()
	dir, err := os.MkdirTemp("", "bm") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &served{world: newWorld(t, keys...), socket: filepath.Join(dir, "s")}
	s.as.Store(uid)
	server, err := signer.NewServer(signer.ServerConfig{
		Engine: s.engine, UIDs: []uint32{uid, uid + 1}, Now: time.Now,
		Peer: func(net.Conn) (uint32, error) { return s.as.Load(), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s
}

// client is a connection on which a test says what it likes.
type client struct {
	net.Conn
	t  *testing.T
	in *bufio.Reader
}

func (s *served) dial(t *testing.T) *client {
	t.Helper()
	c, err := net.Dial("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &client{c, t, bufio.NewReader(c)}
}

func (c *client) say(octets []byte) *client {
	c.t.Helper()
	if _, err := c.Write(octets); err != nil && !errors.Is(err, net.ErrClosed) {
		c.t.Log(err) // the server may have closed already
	}
	return c
}

// hears returns the next frame.
func (c *client) hears() (frames.Type, []byte) {
	c.t.Helper()
	kind, payload, err := frames.Read(c.in)
	if err != nil {
		c.t.Fatal(err)
	}
	return kind, payload
}

// ends expects that the server closes the connection and has signed nothing.
func (c *client) ends(what string) {
	c.t.Helper()
	for {
		kind, payload, err := frames.Read(c.in)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.t.Errorf("%s: it goes on", what)
		}
		if err != nil {
			return
		}
		if all, err := frames.ParseResults(payload); kind != frames.Results || err != nil || all[0].Code == 0 {
			c.t.Errorf("%s: frame %d %x", what, kind, payload)
		}
	}
}

func (c *client) greeted() *client {
	c.t.Helper()
	if kind, payload := c.say(frames.AppendHello(nil)).hears(); kind != frames.Hello {
		r, _ := frames.ParseRefused(payload)
		c.t.Fatalf("greeted with frame %d, %s", kind, r.Code)
	}
	return c
}

func item(id uint32, key string, tbs []byte) []byte {
	return frames.Append(nil, frames.Sign, frames.AppendItem(nil, &frames.Item{ID: id, Key: key, TBS: tbs}))
}

func (c *client) result(what string) frames.Result {
	c.t.Helper()
	kind, payload := c.hears()
	all, err := frames.ParseResults(payload)
	if kind != frames.Results || err != nil || len(all) != 1 {
		c.t.Fatalf("%s: frame %d, %v", what, kind, err)
	}
	return all[0]
}

// Nonsense ends the connection on which it comes, and nothing else.
func TestNonsenseOnTheSocket(t *testing.T) {
	a := newAuthority(t, "Issuing CA", nil)
	s := newServed(t, a.keyConfig("issuing", nil))
	good := s.dial(t).greeted()
	length := func(n uint32, rest ...byte) []byte { return append(binary.BigEndian.AppendUint32(nil, n), rest...) }
	open := frames.AppendOpen(nil, &frames.Stream{ID: 1, Key: "issuing", Size: 10})
	request := a.tbs(leaf(1))
	for name, octets := range map[string][]byte{
		"a length of 4 GB":             length(0xffffffff, 3),
		"a length of 0":                length(0),
		"a frame one too long":         length(frames.MaxFrame+1, 3),
		"an unknown type":              length(1, 99),
		"the server's own frame":       frames.Append(nil, frames.Results, []byte{1, 2, 3}),
		"hello again":                  frames.AppendHello(nil),
		"no items":                     frames.Append(nil, frames.Sign, nil),
		"a number twice in a frame":    frames.Append(nil, frames.Sign, append(frames.AppendItem(nil, &frames.Item{ID: 1, Key: "k", TBS: request}), frames.AppendItem(nil, &frames.Item{ID: 1, Key: "k", TBS: request})...)),
		"a key that is no name":        item(1, "../issuing", request),
		"a length beyond the frame":    frames.Append(nil, frames.Sign, []byte{0, 0, 0, 1, 1, 'k', 0, 1, 0, 0, 1}),
		"a piece of no stream":         frames.AppendData(nil, 9, []byte{1}),
		"a stream of no octets":        frames.AppendOpen(nil, &frames.Stream{ID: 1, Key: "issuing"}),
		"a stream of 4 GB":             frames.AppendOpen(nil, &frames.Stream{ID: 1, Key: "issuing", Size: 0xffffffff}),
		"two streams of a number":      append(append([]byte(nil), open...), open...),
		"more octets than announced":   frames.AppendData(append([]byte(nil), open...), 1, make([]byte, 11)),
		"a cut list of cancellations":  frames.Append(nil, frames.Cancel, []byte{0, 0, 1}),
		"HTTP, as a browser speaks it": []byte("GET / HTTP/1.1\r\nHost: signer\r\n\r\n"),
	} {
		s.dial(t).greeted().say(octets).ends(name)
	}
	s.dial(t).say([]byte("GET / HTTP/1.1\r\n\r\n")).ends("a greeting in HTTP")
	half := s.dial(t).greeted().say(item(1, "issuing", request)[:40])
	if err := half.Close(); err != nil {
		t.Error(err)
	}
	if r := good.say(item(1, "issuing", request)).result("a good one"); r.Code != 0 || r.ID != 1 {
		t.Errorf("%+v", r)
	}
	if o := s.engine.Sign(t.Context(), uid, []signer.Request{{Key: "issuing", TBS: request}}); !fault.Has(o[0].Err, fault.SignerRefused) {
		t.Errorf("the same serial on another way: %v", o[0].Err)
	}
}

// One connection's numbers are nothing to another's.
func TestNobodyCancelsForAnother(t *testing.T) {
	a := newAuthority(t, "Issuing CA", nil)
	s := newServed(t, a.keyConfig("issuing", nil))
	list := a.crl(1, 2000, nil)
	one, other := s.dial(t).greeted(), s.dial(t).greeted()
	one.say(frames.AppendOpen(nil, &frames.Stream{ID: 1, Key: "issuing", Size: uint32(len(list))}))
	one.say(frames.AppendData(nil, 1, list[:1000]))
	// The answer says that the cancellation was read.
	other.say(frames.AppendCancel(nil, 1, 2, 3)).say(item(1, "issuing", a.tbs(leaf(1)))).result("other's own")
	other.say(frames.AppendData(nil, 1, list[1000:])).ends("a piece of another's stream")
	one.say(frames.AppendData(nil, 1, list[1000:]))
	if r := one.result("the stream"); r.Code != 0 || r.ID != 1 {
		t.Errorf("%+v", r)
	}
}

// Whoever opens all connections that there are does not keep another user out,
// and strangers take none.
func TestOneUserLeavesRoomForOthers(t *testing.T) {
	a := newAuthority(t, "Issuing CA", nil)
	s := newServed(t, a.keyConfig("issuing", nil))
	var refused int
	for range 100 {
		c := s.dial(t).say(frames.AppendHello(nil))
		if kind, payload, err := frames.Read(c.in); err != nil || kind == frames.Refused {
			refused++
			if r, err2 := frames.ParseRefused(payload); err == nil && (err2 != nil || r.Code != fault.SignerLimit) {
				t.Errorf("%+v, %v", r, err2)
			}
		}
	}
	if refused != 84 {
		t.Errorf("%d of 100 connections were refused", refused)
	}
	s.as.Store(uid + 2)
	for range 100 {
		c := s.dial(t).say(frames.AppendHello(nil))
		if kind, payload := c.hears(); kind != frames.Refused {
			t.Fatalf("a stranger: frame %d %x", kind, payload)
		}
	}
	s.as.Store(uid + 1)
	if r := s.dial(t).greeted().say(item(1, "issuing", a.tbs(leaf(1)))).result("another user"); r.Code != 0 {
		t.Errorf("%+v", r)
	}
}

// Streams that never end, and storms of cancellations, end with their connection.
func TestAClientThatIsGoneIsForgotten(t *testing.T) {
	a := newAuthority(t, "Issuing CA", nil)
	s := newServed(t, a.keyConfig("issuing", nil))
	for range 40 { // more than a user's connections: each must have given its place back
		c := s.dial(t).greeted()
		for id := range uint32(4) {
			c.say(frames.AppendOpen(nil, &frames.Stream{ID: id, Key: "issuing", Size: 1 << 20})).say(frames.AppendData(nil, id, []byte{0x30}))
		}
		ids := make([]uint32, 1000)
		for range 50 {
			c.say(frames.AppendCancel(nil, ids...))
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c.in); err != nil {
			t.Fatal(err)
		}
	}
	if r := s.dial(t).greeted().say(item(1, "issuing", a.tbs(leaf(1)))).result("a good one"); r.Code != 0 {
		t.Errorf("%+v", r)
	}
}

// CloseWrite says that nothing more comes.
func (c *client) CloseWrite() error { return c.Conn.(*net.UnixConn).CloseWrite() }

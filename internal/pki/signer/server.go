package signer

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/signer"
)

// ServerConfig names what the server needs.
type ServerConfig struct {
	Engine *Engine
	// UIDs are the users who may connect.
	UIDs []uint32
	// Peer returns the user at the other end of a connection, as the system
	// vouches for it.
	Peer   func(net.Conn) (uid uint32, err error)
	Now    func() time.Time
	Logger *slog.Logger
}

// Server answers at a socket.
type Server struct {
	c           ServerConfig
	connections chan struct{}

	mu   sync.Mutex
	open map[uint32]int // guarded by mu; connections of each user
}

// Bounds of what clients may have open.
const (
	maxConnections = 64
	maxOfUser      = 16 // of these, so that one user leaves room for others
	maxFrames      = 16 // of a connection, being worked on
	maxStreams     = 4  // of a connection, open
	helloPatience  = 10 * time.Second
	writePatience  = 30 * time.Second
)

// NewServer returns a server.
func NewServer(c ServerConfig) (*Server, error) {
	if c.Engine == nil || c.Peer == nil || c.Now == nil || len(c.UIDs) == 0 {
		return nil, errors.New("signer: Engine, UIDs, Peer and Now are needed")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{c: c, connections: make(chan struct{}, maxConnections), open: make(map[uint32]int)}, nil
}

// Serve answers until ctx ends; then it takes nothing more, signs what is
// journaled, and returns.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	var open sync.WaitGroup
	defer open.Wait()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	for {
		raw, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case s.connections <- struct{}{}:
		default:
			_ = raw.Close() // more connections than any server needs
			continue
		}
		open.Go(func() {
			defer func() { <-s.connections }()
			defer raw.Close()
			if err := s.serve(ctx, raw); err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
				s.c.Logger.Warn("a connection ended", "error", err)
			}
		})
	}
}

// connection is one client.
type connection struct {
	server *Server
	uid    uint32
	raw    net.Conn
	frames chan struct{}
	work   sync.WaitGroup

	writing sync.Mutex
	out     []byte // guarded by writing

	mu      sync.Mutex
	items   map[uint32]*atomic.Bool // guarded by mu; those being worked on, true: canceled
	streams map[uint32]*stream      // guarded by mu; those whose end has not come
}

// stream is what a client sends in pieces.
type stream struct {
	left uint32
	to   *io.PipeWriter
}

func (s *Server) serve(ctx context.Context, raw net.Conn) error {
	uid, err := s.c.Peer(raw)
	if err != nil {
		return err
	}
	c := &connection{
		server: s, uid: uid, raw: raw, frames: make(chan struct{}, maxFrames),
		items: make(map[uint32]*atomic.Bool), streams: make(map[uint32]*stream),
	}
	if !slices.Contains(s.c.UIDs, uid) {
		s.c.Logger.Warn("a user may not use the signer", "uid", uid)
		return c.write(func(dst []byte) []byte { return wire.AppendRefused(dst, fault.SignerPeer, "") })
	}
	if !s.enter(uid) {
		return c.write(func(dst []byte) []byte { return wire.AppendRefused(dst, fault.SignerLimit, "too many connections") })
	}
	defer s.leave(uid)
	in := bufio.NewReaderSize(raw, 64<<10)
	if err := c.greet(in); err != nil {
		return err
	}
	// A client that is gone wants nothing signed any more.
	ctx, gone := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { _ = raw.SetReadDeadline(time.Unix(1, 0)) })()
	err = c.read(ctx, in)
	gone()
	c.endStreams()
	c.work.Wait()
	return err
}

// enter counts a user's connection, unless there are too many.
func (s *Server) enter(uid uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[uid] >= maxOfUser {
		return false
	}
	s.open[uid]++
	return true
}

func (s *Server) leave(uid uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[uid]--; s.open[uid] == 0 {
		delete(s.open, uid)
	}
}

func (c *connection) greet(in io.Reader) error {
	if err := c.raw.SetReadDeadline(c.server.c.Now().Add(helloPatience)); err != nil {
		return err
	}
	t, payload, err := wire.Read(in)
	if err != nil {
		return err
	}
	if t != wire.Hello {
		return wire.ErrFrame
	}
	if err := wire.ParseHello(payload); err != nil {
		return err
	}
	if err := c.raw.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	return c.write(wire.AppendHello)
}

// read takes frames until the client is gone or talks nonsense.
func (c *connection) read(ctx context.Context, in io.Reader) error {
	for ctx.Err() == nil {
		t, payload, err := wire.Read(in)
		if err != nil {
			return err
		}
		switch t {
		case wire.Sign:
			err = c.sign(ctx, payload)
		case wire.Cancel:
			err = c.cancel(payload)
		case wire.Open:
			err = c.open(ctx, payload)
		case wire.Data:
			err = c.data(payload)
		case wire.Keys:
			err = c.keys()
		default:
			err = wire.ErrFrame
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sign has a frame's items signed while the next frame is read.
func (c *connection) sign(ctx context.Context, payload []byte) error {
	items, err := wire.ParseItems(payload)
	if err != nil {
		return err
	}
	requests := make([]Request, len(items))
	ids := make([]uint32, len(items))
	c.mu.Lock()
	for i, item := range items {
		if c.items[item.ID] != nil {
			c.mu.Unlock()
			return wire.ErrFrame
		}
		canceled := new(atomic.Bool)
		c.items[item.ID] = canceled
		ids[i], requests[i] = item.ID, Request{Key: item.Key, TBS: item.TBS, Canceled: canceled}
	}
	c.mu.Unlock()
	return c.start(ctx, ids, requests)
}

// start works on requests as soon as fewer than maxFrames are being worked on.
func (c *connection) start(ctx context.Context, ids []uint32, requests []Request) error {
	select {
	case c.frames <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	c.work.Go(func() {
		defer func() { <-c.frames }()
		outcomes := c.server.c.Engine.Sign(ctx, c.uid, requests)
		c.mu.Lock()
		for _, id := range ids {
			delete(c.items, id)
		}
		c.mu.Unlock()
		if err := c.answer(ids, outcomes); err != nil {
			_ = c.raw.Close() // the reader finds out
		}
	})
	return nil
}

func (c *connection) answer(ids []uint32, outcomes []Outcome) error {
	return c.write(func(dst []byte) []byte {
		start := len(dst)
		dst = wire.Begin(dst, wire.Results)
		for i := range outcomes {
			r := wire.Result{ID: ids[i], Signature: outcomes[i].Signature}
			if err := outcomes[i].Err; err != nil {
				f := fault.Of(err)
				r.Code, r.Detail = f.Code, f.Detail
			}
			dst = wire.AppendResult(dst, &r)
		}
		return wire.End(dst, start)
	})
}

// write sends what appends appends, in one piece.
func (c *connection) write(appends func([]byte) []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.out = appends(c.out[:0])
	if err := c.raw.SetWriteDeadline(c.server.c.Now().Add(writePatience)); err != nil {
		return err
	}
	_, err := c.raw.Write(c.out)
	return err
}

func (c *connection) cancel(payload []byte) error {
	ids, err := wire.ParseCancel(payload)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		if canceled := c.items[id]; canceled != nil {
			canceled.Store(true)
		}
		if s := c.streams[id]; s != nil {
			_ = s.to.CloseWithError(errCanceled) // never fails
		}
	}
	return nil
}

var errCanceled = errors.New("canceled")

// open begins a stream, which is read while its pieces come.
func (c *connection) open(ctx context.Context, payload []byte) error {
	announced, err := wire.ParseOpen(payload)
	if err != nil {
		return err
	}
	c.mu.Lock()
	if c.items[announced.ID] != nil || c.streams[announced.ID] != nil || len(c.streams) >= maxStreams {
		c.mu.Unlock()
		return wire.ErrFrame
	}
	from, to := io.Pipe()
	canceled := new(atomic.Bool)
	c.items[announced.ID] = canceled
	c.streams[announced.ID] = &stream{left: announced.Size, to: to}
	c.mu.Unlock()
	c.work.Go(func() {
		outcomes := c.server.c.Engine.Sign(ctx, c.uid, []Request{{Key: announced.Key, Stream: from, Canceled: canceled}})
		_ = from.CloseWithError(errCanceled) // what still comes is thrown away
		c.mu.Lock()
		delete(c.items, announced.ID)
		c.mu.Unlock()
		if err := c.answer([]uint32{announced.ID}, outcomes); err != nil {
			_ = c.raw.Close()
		}
	})
	return nil
}

// data hands a piece on. The connection waits until it is read: a stream is read
// faster than it comes.
func (c *connection) data(payload []byte) error {
	id, piece, err := wire.ParseData(payload)
	if err != nil {
		return err
	}
	c.mu.Lock()
	s := c.streams[id]
	if s == nil || uint64(len(piece)) > uint64(s.left) {
		c.mu.Unlock()
		return wire.ErrFrame
	}
	s.left -= uint32(len(piece))
	if s.left == 0 {
		delete(c.streams, id)
	}
	c.mu.Unlock()
	_, _ = s.to.Write(piece) // fails if the stream was refused or canceled
	if s.left == 0 {
		_ = s.to.Close()
	}
	return nil
}

func (c *connection) endStreams() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.streams {
		_ = s.to.CloseWithError(errCanceled)
	}
}

// keys shows the user's keys.
func (c *connection) keys() error {
	var all []wire.Key
	for _, k := range c.server.c.Engine.Keys(c.uid) {
		out := wire.Key{Name: k.Name, SPKI: k.SPKI, Certificate: k.Certificate}
		for _, kind := range k.Kinds {
			out.Kinds = append(out.Kinds, kind.String())
		}
		all = append(all, out)
	}
	return c.write(func(dst []byte) []byte { return wire.AppendKeys(dst, all) })
}

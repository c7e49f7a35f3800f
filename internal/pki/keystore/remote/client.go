// Package remote is the keystore scheme signer:NAME: keys that live in
// birthmark-signer, a process of its own behind a Unix socket. A key of this
// package has a public key and a name; to sign, it sends the whole to-be-signed
// bytes and waits.
//
// Those who sign with a key at the same time share frames: who comes first sends what is
// queued by then, and while frames are on their way the next gather. The
// connection is made when it is needed and again after it broke, so that a
// signer that was restarted is found without a restart of the server. What was
// on its way when a connection broke is answered with fault.SignerUnreachable,
// never sent twice: the signer may have signed it. Nothing is trusted: package
// issuing verifies every signature with the public key of the authority's
// certificate.
package remote

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/signer"
)

// Config says how to reach the signer.
type Config struct {
	Socket string // path
	// Timeout is how long a signature may take, the queue included; default 15
	// seconds. Streams may take four times as long.
	Timeout time.Duration
	Now     func() time.Time
	// Dial connects; nil: to Socket.
	Dial func(ctx context.Context) (net.Conn, error)
}

// Client speaks to the signer. It may be used by many goroutines.
type Client struct {
	timeout time.Duration
	now     func() time.Time
	dial    func(context.Context) (net.Conn, error)

	mu     sync.Mutex
	lanes  map[string]*lane // guarded by mu; by key
	closed bool             // guarded by mu

	connecting sync.Mutex // held while conn is made
	conn       *conn      // guarded by mu; nil or broken: made at the next need
}

// lane is what is to be signed with one key. A key whose hardware hangs holds up
// nobody who signs with another.
type lane struct {
	queue   []*call // guarded by the client's mu; not sent yet
	flights int     // guarded by the client's mu; frames on their way, or being prepared
}

// Frames of a lane on their way. A second sets out before the first is answered if so many
// wait for it.
const (
	mostFlights = 2
	backlog     = 4
	mostOctets  = wire.MaxFrame - 16
)

// New returns a client, which connects when it is first needed.
func New(c Config) (*Client, error) {
	if c.Now == nil || c.Socket == "" && c.Dial == nil {
		return nil, errors.New("remote: Socket and Now are needed")
	}
	if c.Timeout == 0 {
		c.Timeout = 15 * time.Second
	}
	if c.Dial == nil {
		c.Dial = func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", c.Socket)
		}
	}
	return &Client{timeout: c.Timeout, now: c.Now, dial: c.Dial, lanes: make(map[string]*lane)}, nil
}

// call is one thing to be signed, on its way.
type call struct {
	item   wire.Item
	lane   *lane
	flight *flight // set before it is sent
	turn   chan struct{}
	done   chan struct{}

	// Guarded by the connection's mu.
	sent     bool // its frame has left
	answered bool
	since    time.Time // when it got its number

	signature []byte // before done is closed
	err       error
}

// flight counts the calls of a frame that are not answered.
type flight struct {
	lane *lane
	left int
}

func (c *call) finish(signature []byte, err error) {
	c.signature, c.err = signature, err
	close(c.done)
}

// Sign returns the signature of a key over tbs.
func (c *Client) Sign(ctx context.Context, key string, tbs []byte) ([]byte, error) {
	if len(tbs) > wire.MaxItem {
		return c.signStream(ctx, key, tbs)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, errTimeout)
	defer cancel()
	one := &call{item: wire.Item{Key: key, TBS: tbs}, turn: make(chan struct{}, 1), done: make(chan struct{})}
	lead, err := c.join(one)
	if err != nil {
		return nil, err
	}
	for {
		if lead {
			c.lead(ctx, one.lane)
			lead = false
		}
		select {
		case <-one.turn:
			lead = true
		case <-one.done:
			c.passOn(one)
			return one.signature, one.err
		case <-ctx.Done():
			c.abandon(one, context.Cause(ctx))
			return nil, unreachable(context.Cause(ctx))
		}
	}
}

// passOn gives up the lead that a call was given while another frame took it
// along.
func (c *Client) passOn(one *call) {
	select {
	case <-one.turn:
		c.release(one.lane)
	default:
	}
}

var errTimeout = errors.New("the signer does not answer in time")

func unreachable(err error) error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	return fault.Wrap(fault.SignerUnreachable, err)
}

// join queues a call; lead reports that the caller sends the next frame.
func (c *Client) join(one *call) (lead bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false, fault.New(fault.ShuttingDown)
	}
	l := c.lanes[one.item.Key]
	if l == nil {
		l = new(lane)
		c.lanes[one.item.Key] = l
	}
	one.lane, l.queue = l, append(l.queue, one)
	if l.flights == 0 || l.flights < mostFlights && len(l.queue) >= backlog {
		l.flights++
		return true, nil
	}
	return false, nil
}

// lead sends what is queued. The flight that the caller holds ends when all of
// its calls are answered.
func (c *Client) lead(ctx context.Context, l *lane) {
	conn, err := c.connected(ctx)
	group := c.collect(l)
	if len(group) == 0 {
		c.release(l)
		return
	}
	// A connection that turns out to be broken before the frame has left, since the
	// signer was restarted, is made anew once.
	for range 2 {
		if err != nil || len(group) == 0 {
			break
		}
		if group = conn.send(group); len(group) > 0 {
			conn, err = c.connected(ctx)
		}
	}
	if err == nil {
		err = errBroken
	}
	for _, one := range group {
		f := one.flight
		one.finish(nil, unreachable(err))
		c.landed(f, 1)
	}
}

var errBroken = errors.New("the connection broke twice")

// collect takes as many calls off the queue as fit into a frame.
func (c *Client) collect(l *lane) []*call {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, octets := 0, 0
	for n < len(l.queue) && n < wire.MaxItems {
		octets += wire.ItemSize(&l.queue[n].item)
		if n > 0 && octets > mostOctets {
			break
		}
		n++
	}
	group := l.queue[:n:n]
	l.queue = l.queue[n:]
	f := &flight{lane: l, left: n}
	for _, one := range group {
		one.flight = f
	}
	return group
}

// landed notes that a call of a flight is answered or was given up.
func (c *Client) landed(f *flight, n int) {
	c.mu.Lock()
	f.left -= n
	last := f.left == 0
	c.mu.Unlock()
	if last {
		c.release(f.lane)
	}
}

// release ends a flight, and passes the lead to the first who waits.
func (c *Client) release(l *lane) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(l.queue) == 0 || l.flights > 1 {
		l.flights--
		return
	}
	l.queue[0].turn <- struct{}{}
}

// abandon gives a call up. If it was told to lead, the next one does. A signer
// that leaves something unanswered for so long is not waited for by others,
// either: it answers in time even if its hardware does not.
func (c *Client) abandon(one *call, cause error) {
	c.mu.Lock()
	for i, other := range one.lane.queue {
		if other == one {
			one.lane.queue = append(one.lane.queue[:i:i], one.lane.queue[i+1:]...)
			break
		}
	}
	conn := c.conn
	c.mu.Unlock()
	c.passOn(one)
	switch {
	case conn == nil:
	case errors.Is(cause, errTimeout) && conn.overdue(c.now().Add(-c.timeout*4/5)):
		conn.fail(cause)
	default:
		conn.cancel(one)
	}
}

// connected returns a connection that is not known to be broken.
func (c *Client) connected(ctx context.Context) (*conn, error) {
	if conn, err := c.current(); conn != nil || err != nil {
		return conn, err
	}
	c.connecting.Lock()
	defer c.connecting.Unlock()
	if conn, err := c.current(); conn != nil || err != nil {
		return conn, err
	}
	made, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = made
	return made, nil
}

func (c *Client) current() (*conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, fault.New(fault.ShuttingDown)
	}
	if c.conn != nil && !c.conn.broken() {
		return c.conn, nil
	}
	return nil, nil
}

// Keys asks for the keys that this process may sign with.
func (c *Client) Keys(ctx context.Context) ([]wire.Key, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, errTimeout)
	defer cancel()
	conn, err := c.connected(ctx)
	if err != nil {
		return nil, unreachable(err)
	}
	return conn.keys(ctx)
}

// Key asks for one key, or returns fault.SignerKeyUnknown.
func (c *Client) Key(ctx context.Context, name string) (wire.Key, error) {
	all, err := c.Keys(ctx)
	if err != nil {
		return wire.Key{}, err
	}
	for _, k := range all {
		if k.Name == name {
			return k, nil
		}
	}
	return wire.Key{}, fault.New(fault.SignerKeyUnknown, name)
}

// signStream sends what is too large for an item in pieces.
func (c *Client) signStream(ctx context.Context, key string, tbs []byte) ([]byte, error) {
	if len(tbs) > wire.MaxStream {
		return nil, fault.New(fault.SignerContent, "it is too large")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 4*c.timeout, errTimeout)
	defer cancel()
	conn, err := c.connected(ctx)
	if err != nil {
		return nil, unreachable(err)
	}
	one := &call{item: wire.Item{Key: key}, done: make(chan struct{})}
	conn.stream(one, tbs)
	select {
	case <-one.done:
		return one.signature, one.err
	case <-ctx.Done():
		conn.cancel(one)
		return nil, unreachable(context.Cause(ctx))
	}
}

// Close ends the connection. What is on its way is answered with an error.
func (c *Client) Close() error {
	c.mu.Lock()
	conn := c.conn
	c.closed, c.conn = true, nil
	c.mu.Unlock()
	if conn != nil {
		conn.fail(fault.New(fault.ShuttingDown))
	}
	return nil
}

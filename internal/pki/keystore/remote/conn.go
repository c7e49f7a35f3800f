package remote

import (
	"bufio"
	"context"
	"net"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/signer"
)

// conn is one connection. It is used until its first error.
type conn struct {
	client *Client
	raw    net.Conn

	writing sync.Mutex
	out     []byte // guarded by writing

	mu      sync.Mutex
	err     error            // guarded by mu; it is broken
	next    uint32           // guarded by mu
	pending map[uint32]*call // guarded by mu
	asked   []chan []wire.Key
}

// writePatience is how long the signer may take to read.
const writePatience = 30 * time.Second

// connect says hello and has the answers read.
func (c *Client) connect(ctx context.Context) (*conn, error) {
	raw, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	in := bufio.NewReaderSize(raw, 64<<10)
	if err := greet(raw, in); err != nil {
		_ = raw.Close()
		return nil, err
	}
	if !stop() {
		_ = raw.Close()
		return nil, context.Cause(ctx)
	}
	made := &conn{client: c, raw: raw, pending: make(map[uint32]*call)}
	go made.read(in)
	return made, nil
}

func greet(raw net.Conn, in *bufio.Reader) error {
	// A signer that refuses us may have closed already; what it said is there to
	// be read.
	_, sent := raw.Write(wire.AppendHello(nil))
	t, payload, err := wire.Read(in)
	switch {
	case err != nil && sent != nil:
		return sent
	case err != nil:
		return err
	case t == wire.Refused:
		return refusal(payload)
	case t != wire.Hello:
		return wire.ErrFrame
	}
	return wire.ParseHello(payload)
}

func refusal(payload []byte) error {
	r, err := wire.ParseRefused(payload)
	if err != nil {
		return err
	}
	return fault.New(r.Code, details(r.Detail)...)
}

func details(text string) []any {
	if text == "" {
		return nil
	}
	return []any{text}
}

func (c *conn) broken() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err != nil
}

// fail ends the connection and everything on its way.
func (c *conn) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	var ended []*call
	for _, one := range c.pending {
		if one.sent { // what is being sent is its sender's
			ended = append(ended, one)
		}
	}
	asked := c.asked
	c.pending, c.asked = nil, nil
	c.mu.Unlock()
	_ = c.raw.Close() // it has failed already
	for _, one := range ended {
		c.finish(one, nil, unreachable(err))
	}
	for _, to := range asked {
		close(to)
	}
}

// finish answers a call that is out of pending.
func (c *conn) finish(one *call, signature []byte, err error) {
	f := one.flight
	one.finish(signature, err)
	if f != nil {
		c.client.landed(f, 1)
	}
}

// send sends a frame of calls and returns those that the signer cannot have
// seen: it takes no notice of a frame that was not written to its end. The others
// are answered sooner or later.
func (c *conn) send(group []*call) (unsent []*call) {
	if err := c.register(group...); err != nil {
		return group
	}
	err := c.write(func(dst []byte) []byte {
		start := len(dst)
		dst = wire.Begin(dst, wire.Sign)
		for _, one := range group {
			dst = wire.AppendItem(dst, &one.item)
		}
		return wire.End(dst, start)
	})
	var lost []*call
	c.mu.Lock()
	for _, one := range group {
		switch {
		case one.answered:
		case err != nil:
			delete(c.pending, one.item.ID)
			unsent = append(unsent, one)
		case c.err != nil: // it broke after the frame had left
			lost = append(lost, one)
		default:
			one.sent = true
		}
	}
	broke := c.err
	c.mu.Unlock()
	for _, one := range lost {
		c.finish(one, nil, unreachable(broke))
	}
	if err != nil {
		c.fail(err)
	}
	return unsent
}

// register gives calls their numbers.
func (c *conn) register(group ...*call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	for _, one := range group {
		for {
			c.next++
			if c.pending[c.next] == nil {
				break
			}
		}
		one.item.ID, one.sent, one.answered, one.since = c.next, false, false, c.client.now()
		c.pending[c.next] = one
	}
	return nil
}

// write sends what appends appends.
func (c *conn) write(appends func([]byte) []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.out = appends(c.out[:0])
	err := c.raw.SetWriteDeadline(c.client.now().Add(writePatience))
	if err == nil {
		_, err = c.raw.Write(c.out)
	}
	return err
}

// tell writes what nobody waits for, and fails the connection if it cannot.
func (c *conn) tell(appends func([]byte) []byte) {
	if err := c.write(appends); err != nil {
		c.fail(err)
	}
}

// stream sends what one call wants signed, in pieces between other frames.
func (c *conn) stream(one *call, tbs []byte) {
	if err := c.register(one); err != nil {
		c.finish(one, nil, unreachable(err))
		return
	}
	c.mu.Lock()
	one.sent = true // it is not sent again
	broke := c.err
	c.mu.Unlock()
	if broke != nil {
		c.finish(one, nil, unreachable(broke))
		return
	}
	c.tell(func(dst []byte) []byte {
		return wire.AppendOpen(dst, &wire.Stream{ID: one.item.ID, Key: one.item.Key, Size: uint32(len(tbs))})
	})
	for len(tbs) > 0 && !c.broken() {
		piece := tbs[:min(len(tbs), wire.MaxPiece)]
		tbs = tbs[len(piece):]
		c.tell(func(dst []byte) []byte { return wire.AppendData(dst, one.item.ID, piece) })
	}
}

// overdue reports whether something that was sent before then is not answered.
func (c *conn) overdue(then time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range c.pending {
		if one.sent && one.since.Before(then) && one.flight != nil {
			return true
		}
	}
	return false
}

// cancel tells the signer that nobody waits for a call any more.
func (c *conn) cancel(one *call) {
	c.mu.Lock()
	id := one.item.ID
	if c.err != nil || c.pending[id] != one {
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	// The call stays pending: its number is in use until the signer has answered.
	c.tell(func(dst []byte) []byte { return wire.AppendCancel(dst, id) })
}

// keys asks for the keys. Answers come in the order of questions.
func (c *conn) keys(ctx context.Context) ([]wire.Key, error) {
	to := make(chan []wire.Key, 1)
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return nil, unreachable(c.err)
	}
	c.asked = append(c.asked, to)
	c.mu.Unlock()
	c.tell(func(dst []byte) []byte { return wire.AppendKeys(dst, nil) })
	select {
	case all, ok := <-to:
		if !ok {
			return nil, fault.New(fault.SignerUnreachable)
		}
		return all, nil
	case <-ctx.Done():
		return nil, unreachable(context.Cause(ctx))
	}
}

// read hands out the answers until the connection ends.
func (c *conn) read(in *bufio.Reader) {
	for {
		t, payload, err := wire.Read(in)
		if err == nil {
			err = c.take(t, payload)
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

func (c *conn) take(t wire.Type, payload []byte) error {
	switch t {
	case wire.Results:
		results, err := wire.ParseResults(payload)
		if err != nil {
			return err
		}
		return c.answer(results)
	case wire.Keys:
		all, err := wire.ParseKeys(payload)
		if err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.asked) == 0 {
			return wire.ErrFrame
		}
		c.asked[0] <- all
		c.asked = c.asked[1:]
		return nil
	case wire.Refused:
		return refusal(payload)
	}
	return wire.ErrFrame
}

// answer hands out results. One that nobody asked for means that the two sides
// do not understand each other.
func (c *conn) answer(results []wire.Result) error {
	calls := make([]*call, len(results))
	c.mu.Lock()
	for i := range results {
		if calls[i] = c.pending[results[i].ID]; calls[i] == nil {
			calls = calls[:i]
			break
		}
		calls[i].answered = true
		delete(c.pending, results[i].ID)
	}
	c.mu.Unlock()
	for i, one := range calls {
		r := &results[i]
		if r.Code != 0 {
			c.finish(one, nil, fault.New(r.Code, details(r.Detail)...))
			continue
		}
		c.finish(one, r.Signature, nil)
	}
	if len(calls) < len(results) {
		return wire.ErrFrame
	}
	return nil
}

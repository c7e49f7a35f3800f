package station

import (
	"context"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
)

// nonceMargin is how long a nonce must still be good to be used.
const nonceMargin = 30 * time.Second

// nonces are the drawn nonces of one order. More are drawn when half of them are
// gone, so that units do not wait.
type nonces struct {
	l     *Line
	order string

	mu      sync.Mutex
	drawn   []nonce       // guarded by mu
	drawing chan struct{} // closed when the draw under way ends; nil: none; guarded by mu
	err     error         // of the newest draw; guarded by mu
}

type nonce struct {
	value   []byte
	expires time.Time
}

func (l *Line) nonceStore(order string) *nonces {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nonces[order]
	if n == nil {
		n = &nonces{l: l, order: order}
		l.nonces[order] = n
	}
	return n
}

// take returns a nonce that was never given out before.
func (n *nonces) take(ctx context.Context) ([]byte, error) {
	for {
		n.mu.Lock()
		n.dropExpired()
		low := len(n.drawn) <= n.l.c.Ahead/2
		if low && n.drawing == nil {
			n.drawing = make(chan struct{})
			go n.draw(context.WithoutCancel(ctx), len(n.drawn) > 0, n.drawing)
		}
		if len(n.drawn) > 0 {
			value := n.drawn[0].value
			n.drawn = n.drawn[1:]
			n.mu.Unlock()
			return value, nil
		}
		drawing := n.drawing
		n.mu.Unlock()
		select {
		case <-drawing:
		case <-ctx.Done():
			return nil, fault.Wrap(fault.StationLink, ctx.Err(), "interrupted")
		}
		n.mu.Lock()
		err := n.err
		empty := len(n.drawn) == 0
		n.mu.Unlock()
		if empty && err != nil {
			return nil, err
		}
	}
}

// dropExpired forgets nonces that would be too old on arrival.
func (n *nonces) dropExpired() {
	good := n.l.c.Now().Add(nonceMargin)
	for len(n.drawn) > 0 && n.drawn[0].expires.Before(good) {
		n.drawn = n.drawn[1:]
	}
}

func (n *nonces) draw(ctx context.Context, ahead bool, done chan struct{}) {
	got, err := n.l.c.Link.Nonces(ctx, &station.NoncesRequest{Order: n.order, Count: n.l.c.Ahead, Ahead: ahead})
	n.mu.Lock()
	defer n.mu.Unlock()
	if err == nil && len(got.Nonces) == 0 {
		err = fault.New(fault.StationLink, "the server sent no nonces")
	}
	if err == nil && got.ExpiresAt.Before(n.l.c.Now().Add(nonceMargin)) {
		err = fault.New(fault.NonceExpired, "fresh nonces are too old already: the station's clock is wrong")
	}
	if n.err = err; err == nil {
		for _, value := range got.Nonces {
			n.drawn = append(n.drawn, nonce{value, got.ExpiresAt})
		}
	}
	n.drawing = nil
	close(done)
}

// forget drops what was drawn: the server does not take it.
func (n *nonces) forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.drawn = nil
}

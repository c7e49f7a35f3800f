package server

import (
	"net"
	"net/netip"
	"sync"
)

// limitListener accepts at most n connections at a time, of which at most
// perAddress come from one address; 0 is no limit. Further ones wait in the
// kernel's queue; those beyond an address's share are closed at once, so that
// one sender does not keep all others out by holding connections.
func limitListener(l net.Listener, n, perAddress int) net.Listener {
	return &limitedListener{
		Listener: l, slots: make(chan struct{}, n), closed: make(chan struct{}),
		perAddress: perAddress, from: make(map[netip.Prefix]int),
	}
}

type limitedListener struct {
	net.Listener
	slots      chan struct{}
	closed     chan struct{}
	once       sync.Once
	perAddress int

	mu   sync.Mutex
	from map[netip.Prefix]int // open connections by origin; guarded by mu
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		select {
		case l.slots <- struct{}{}:
		case <-l.closed:
			return nil, net.ErrClosed
		}
		c, err := l.Listener.Accept()
		if err != nil {
			<-l.slots
			return nil, err
		}
		origin := originOf(c.RemoteAddr())
		if !l.enter(origin) {
			_ = c.Close() // its share is used up; there is nothing to say before a handshake
			<-l.slots
			continue
		}
		return &limitedConn{Conn: c, release: func() {
			l.leave(origin)
			<-l.slots
		}}, nil
	}
}

func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// originOf is who counts as one sender: an IPv4 address, or the 64 bits that an
// IPv6 host can choose the rest of. Other networks have no origins.
func originOf(a net.Addr) netip.Prefix {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap()
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	p, _ := ip.WithZone("").Prefix(bits) // an invalid address is of no origin
	return p
}

// enter counts a connection in, if its origin has room for it.
func (l *limitedListener) enter(origin netip.Prefix) bool {
	if l.perAddress == 0 || !origin.IsValid() {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.from[origin] >= l.perAddress {
		return false
	}
	l.from[origin]++
	return true
}

func (l *limitedListener) leave(origin netip.Prefix) {
	if l.perAddress == 0 || !origin.IsValid() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.from[origin]--; l.from[origin] == 0 {
		delete(l.from, origin)
	}
}

type limitedConn struct {
	net.Conn
	once    sync.Once
	release func()
}

func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.release)
	return err
}

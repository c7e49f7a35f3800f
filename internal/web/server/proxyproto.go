package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// The PROXY protocol, version 2: a load balancer in front of a listener says
// with the first octets of a connection for whom it makes it. Version 1, which
// is text, is refused.

// proxySignature begins each header.
const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

const (
	// maxProxyHeader bounds a header with all that a proxy adds to it.
	maxProxyHeader = 536
	// proxyPatience is how long a trusted proxy may take for its header.
	proxyPatience = 3 * time.Second

	proxyFixed = len(proxySignature) + 4 // up to where addresses begin
)

var (
	errNotProxy       = errors.New("the connection does not begin with a PROXY header of version 2")
	errProxyMalformed = errors.New("the PROXY header is malformed")
)

// readProxyHeader reads one header and not an octet more. The address is that
// of the client, or invalid where the connection is the proxy's own (LOCAL) or
// for a client that has no address in a network (UNSPEC, unix sockets).
func readProxyHeader(r io.Reader) (netip.AddrPort, error) {
	var header [maxProxyHeader]byte
	if _, err := io.ReadFull(r, header[:proxyFixed]); err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: %w", errNotProxy, err)
	}
	if !bytes.HasPrefix(header[:], []byte(proxySignature)) {
		return netip.AddrPort{}, errNotProxy
	}
	length := int(binary.BigEndian.Uint16(header[proxyFixed-2:]))
	if length > maxProxyHeader-proxyFixed {
		return netip.AddrPort{}, fmt.Errorf("%w: %d octets", errProxyMalformed, length)
	}
	rest := header[proxyFixed : proxyFixed+length]
	if _, err := io.ReadFull(r, rest); err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: %w", errProxyMalformed, err)
	}
	return proxyClient(header[len(proxySignature)], header[len(proxySignature)+1], rest)
}

// proxyClient reads command, network and addresses. What follows the addresses
// (TLVs) is of no interest.
func proxyClient(versionCommand, network byte, rest []byte) (netip.AddrPort, error) {
	const (
		local = 0x20
		proxy = 0x21

		unspec = 0x00
		tcp4   = 0x11
		tcp6   = 0x21
		unix   = 0x31
	)
	switch versionCommand {
	case local:
		return netip.AddrPort{}, nil
	case proxy:
	default:
		return netip.AddrPort{}, fmt.Errorf("%w: version and command %#x", errProxyMalformed, versionCommand)
	}
	size := 4
	switch network {
	case unspec, unix:
		return netip.AddrPort{}, nil
	case tcp4:
	case tcp6:
		size = 16
	default: // datagrams do not come over a connection
		return netip.AddrPort{}, fmt.Errorf("%w: network %#x", errProxyMalformed, network)
	}
	if len(rest) < 2*size+4 { // two addresses, two ports
		return netip.AddrPort{}, fmt.Errorf("%w: addresses of %d octets", errProxyMalformed, len(rest))
	}
	ip, _ := netip.AddrFromSlice(rest[:size])
	return netip.AddrPortFrom(ip.Unmap(), binary.BigEndian.Uint16(rest[2*size:])), nil
}

// proxyListener takes the header off connections that come from trusted
// addresses. Others are what they seem, whatever they send. Headers are read
// beside Accept, so that a slow one holds nobody up.
type proxyListener struct {
	net.Listener
	trusted []netip.Prefix
	log     *slog.Logger
	reading chan struct{} // a slot for each header that is being read
	ready   chan accepted
	closed  chan struct{}
	once    sync.Once
}

type accepted struct {
	conn net.Conn
	err  error
}

// listenBehindProxies wraps l until it is closed; at most n headers are read at
// a time.
func listenBehindProxies(l net.Listener, trusted []netip.Prefix, n int, log *slog.Logger) net.Listener {
	p := &proxyListener{
		Listener: l, trusted: trusted, log: log,
		reading: make(chan struct{}, max(n, 1)), ready: make(chan accepted), closed: make(chan struct{}),
	}
	go p.acceptAll()
	return p
}

func (l *proxyListener) acceptAll() {
	for {
		c, err := l.Listener.Accept()
		switch {
		case err != nil:
			l.hand(accepted{err: err}) // Serve decides whether to go on
		case !l.trusts(c.RemoteAddr()):
			l.hand(accepted{conn: c})
		default:
			select {
			case l.reading <- struct{}{}:
				go l.introduce(c)
			case <-l.closed:
				_ = c.Close()
			}
		}
		select {
		case <-l.closed:
			return
		default:
		}
	}
}

// hand gives a connection to Accept, or closes it when nobody will come for it.
func (l *proxyListener) hand(a accepted) {
	select {
	case l.ready <- a:
	case <-l.closed:
		if a.conn != nil {
			_ = a.conn.Close()
		}
	}
}

// introduce reads the header of a trusted proxy's connection.
func (l *proxyListener) introduce(c net.Conn) {
	defer func() { <-l.reading }()
	named, err := clientOf(c)
	if err != nil {
		level := slog.LevelWarn
		if errors.Is(err, errNotProxy) && errors.Is(err, io.EOF) { // a proxy that only looks whether somebody listens
			level = slog.LevelDebug
		}
		l.log.Log(context.Background(), level, "a connection of a proxy was refused", "remote", c.RemoteAddr().String(), "error", err)
		_ = c.Close()
		return
	}
	l.hand(accepted{conn: named})
}

// clientOf returns the connection as its client's.
func clientOf(c net.Conn) (net.Conn, error) {
	if err := c.SetReadDeadline(time.Now().Add(proxyPatience)); err != nil {
		return nil, err
	}
	client, err := readProxyHeader(c)
	if err != nil {
		return nil, err
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	if !client.IsValid() {
		return c, nil
	}
	return &proxiedConn{Conn: c, client: net.TCPAddrFromAddrPort(client)}, nil
}

func (l *proxyListener) trusts(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return false
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	return slices.ContainsFunc(l.trusted, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// Accept returns the next connection whose client is known.
func (l *proxyListener) Accept() (net.Conn, error) {
	select {
	case a := <-l.ready:
		return a.conn, a.err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept. Headers that are being read end by themselves.
func (l *proxyListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// proxiedConn is a connection that a proxy makes for a client.
type proxiedConn struct {
	net.Conn
	client *net.TCPAddr
}

// RemoteAddr is the client's address.
func (c *proxiedConn) RemoteAddr() net.Addr { return c.client }

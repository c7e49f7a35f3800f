package server

import (
	"net"
	"net/netip"
	"testing"
)

func TestOrigins(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.7:1": "192.0.2.7/32", "[::ffff:192.0.2.7]:1": "192.0.2.7/32",
		"[2001:db8:1:2:3:4:5:6]:1": "2001:db8:1:2::/64", "[fe80::1%eth0]:1": "fe80::/64",
	} {
		if got := originOf(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address))); got.String() != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
	for _, a := range []net.Addr{&net.UnixAddr{Name: "@", Net: "unix"}, &net.TCPAddr{}} {
		if got := originOf(a); got.IsValid() {
			t.Errorf("%v: %s", a, got)
		}
	}
}

func TestOneAddressHasItsShare(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := limitListener(inner, 10, 2).(*limitedListener)
	defer l.Close()
	accepted := make(chan net.Conn)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	var held []net.Conn
	for range 2 {
		dial()
		held = append(held, <-accepted)
	}
	if _, err := dial().Read(make([]byte, 1)); err == nil {
		t.Fatal("the third connection lives")
	}
	held[0].Close()
	held[0].Close() // counts once
	dial()
	held[0] = <-accepted
	if _, err := dial().Read(make([]byte, 1)); err == nil {
		t.Fatal("a connection that was closed twice was counted twice")
	}
	for _, c := range held {
		c.Close()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.from) > 0 || len(l.slots) > 1 { // one: Accept waits with it
		t.Errorf("still counted: %v, %d slots", l.from, len(l.slots))
	}
}

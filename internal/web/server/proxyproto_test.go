package server

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

const fromClient = "\xc0\x00\x02\x07" + "\xc6\x33\x64\x01" + "\x04\xd2" + "\x20\xfb" // 192.0.2.7:1234 to 198.51.100.1:8443

var fromClient6 = "\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x07" + strings.Repeat("\x01", 16) + "\x04\xd2" + "\x20\xfb"

func proxyHeader(versionCommand, network byte, rest string) string {
	return proxySignature + string([]byte{versionCommand, network, byte(len(rest) >> 8), byte(len(rest))}) + rest
}

func TestProxyHeader(t *testing.T) {
	mapped := strings.Repeat("\x00", 10) + "\xff\xff" + "\xc0\x00\x02\x07" + strings.Repeat("\x01", 16) + "\x04\xd2" + "\x20\xfb"
	tlv := "\x04\x00\x03abc"
	largest := strings.Repeat("x", maxProxyHeader-proxyFixed-len(fromClient))
	for name, row := range map[string]struct {
		sent, want string // want: the client; empty: none
		err        error
	}{
		"IPv4":             {proxyHeader(0x21, 0x11, fromClient), "192.0.2.7:1234", nil},
		"IPv6":             {proxyHeader(0x21, 0x21, fromClient6), "[2001:db8::7]:1234", nil},
		"IPv4 in IPv6":     {proxyHeader(0x21, 0x21, mapped), "192.0.2.7:1234", nil},
		"with a TLV":       {proxyHeader(0x21, 0x11, fromClient+tlv), "192.0.2.7:1234", nil},
		"a broken TLV":     {proxyHeader(0x21, 0x11, fromClient+tlv[:4]), "192.0.2.7:1234", nil},
		"largest":          {proxyHeader(0x21, 0x11, fromClient+largest), "192.0.2.7:1234", nil},
		"local":            {proxyHeader(0x20, 0x00, ""), "", nil},
		"local, addresses": {proxyHeader(0x20, 0x11, fromClient), "", nil},
		"unspecified":      {proxyHeader(0x21, 0x00, "anything"), "", nil},
		"unix":             {proxyHeader(0x21, 0x31, strings.Repeat("\x00", 216)), "", nil},

		"nothing":               {"", "", errNotProxy},
		"half a signature":      {proxySignature[:7], "", errNotProxy},
		"version 1":             {"PROXY TCP4 192.0.2.7 198.51.100.1 1234 8443\r\n", "", errNotProxy},
		"an HTTP request":       {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "", errNotProxy},
		"wrong last octet":      {strings.Replace(proxyHeader(0x21, 0x11, fromClient), "QUIT\n", "QUIT\r", 1), "", errNotProxy},
		"version 1 in binary":   {proxyHeader(0x11, 0x11, fromClient), "", errProxyMalformed},
		"version 3":             {proxyHeader(0x31, 0x11, fromClient), "", errProxyMalformed},
		"unknown command":       {proxyHeader(0x22, 0x11, fromClient), "", errProxyMalformed},
		"datagrams":             {proxyHeader(0x21, 0x12, fromClient), "", errProxyMalformed},
		"unknown network":       {proxyHeader(0x21, 0x41, fromClient), "", errProxyMalformed},
		"IPv4 cut off":          {proxyHeader(0x21, 0x11, fromClient[:11]), "", errProxyMalformed},
		"IPv6 of IPv4's length": {proxyHeader(0x21, 0x21, fromClient), "", errProxyMalformed},
		"too long":              {proxyHeader(0x21, 0x11, fromClient+largest+"x"), "", errProxyMalformed},
		"ends early":            {proxyHeader(0x21, 0x11, fromClient)[:20], "", errProxyMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			for _, rest := range []string{"", "GET / HTTP/1.1"} {
				if row.err != nil && rest != "" {
					continue // what is refused has no rest
				}
				in := strings.NewReader(row.sent + rest)
				got, err := readProxyHeader(iotest.OneByteReader(in))
				if !errors.Is(err, row.err) || got.IsValid() != (row.want != "") || got.IsValid() && got.String() != row.want {
					t.Fatalf("got %v, %v; want %q, %v", got, err, row.want, row.err)
				}
				if left, _ := io.ReadAll(in); err == nil && string(left) != rest {
					t.Errorf("left: %q, want %q", left, rest)
				}
			}
		})
	}
}

// Whatever comes: never more octets are read than a header may have, and never
// one of what follows it.
func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte(proxyHeader(0x21, 0x11, fromClient)))
	f.Add([]byte(proxyHeader(0x21, 0x21, fromClient6) + "GET /"))
	f.Add([]byte(proxyHeader(0x20, 0x00, "")))
	f.Add([]byte("PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		client, err := readProxyHeader(r)
		read := len(in) - r.Len()
		if read > maxProxyHeader {
			t.Fatalf("%d octets were read", read)
		}
		if err != nil {
			if client.IsValid() {
				t.Fatalf("%v and %v", client, err)
			}
			return
		}
		if want := proxyFixed + int(in[14])<<8 + int(in[15]); read != want {
			t.Fatalf("%d octets were read of a header of %d", read, want)
		}
		if again, err := readProxyHeader(bytes.NewReader(in[:read])); err != nil || again != client {
			t.Fatalf("without what follows: %v, %v", again, err)
		}
	})
}

func TestTrustedProxies(t *testing.T) {
	l := proxyListener{trusted: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("2001:db8::1/128")}}
	for address, want := range map[string]bool{
		"10.1.0.7:1": true, "[::ffff:10.1.0.7]:1": true, "10.1.1.7:1": false, "[2001:db8::1]:1": true, "[2001:db8::1%eth0]:1": true,
		"[2001:db8::2]:1": false,
	} {
		if got := l.trusts(tcpAddr(address)); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
	if l.trusts(nil) || slices.ContainsFunc(l.trusted, func(p netip.Prefix) bool { return !p.IsValid() }) {
		t.Error("a connection without an address is trusted")
	}
}

// A proxy that is slow with its header is not waited for, and one that was in
// time has all the time of a client.
func TestSlowProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		go func() { _, _ = io.WriteString(far, proxySignature) }()
		begin := time.Now()
		if _, err := clientOf(near); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != proxyPatience {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		near, far = net.Pipe()
		go func() {
			_, _ = io.WriteString(far, proxyHeader(0x21, 0x11, fromClient))
			time.Sleep(2 * proxyPatience)
			far.Close()
		}()
		c, err := clientOf(near)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the header's deadline holds after it: %v", err)
		}
	})
}

func tcpAddr(address string) net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address))
}

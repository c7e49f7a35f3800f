package server_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/web/server"
	"github.com/birthmark/birthmark/internal/web/webtest"
)

// Connections that say nothing, half of something or rubbish keep nobody else
// waiting, and nothing is left of them when the listener stops.
func TestHostileConnectionsLeaveNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	var slot server.Certificate
	slot.Set(webtest.SelfSigned(t, "x", time.Now().Add(time.Hour)))
	l := listen(t, func(c *server.Config) { c.TLS = server.DeviceTLS(&slot) })
	noise := make([]byte, 500)
	_, _ = rand.Read(noise)
	insecure := &tls.Config{InsecureSkipVerify: true}
	for i := range 200 {
		c, err := net.Dial("tcp", l.Address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		switch i % 8 {
		case 0:
			_, _ = c.Write(noise)
		case 1:
			_, _ = c.Write(append([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3}, noise[:32]...)) // the start of a ClientHello
		case 2:
			_, _ = io.WriteString(c, "GET /ok HTTP/1.1\r\nHost: x\r\n\r\n") // without TLS
		case 3:
			_, _ = io.WriteString(tls.Client(c, insecure), "GET /ok HTTP/1.1\r\nX-")
		case 4:
			_, _ = io.WriteString(tls.Client(c, insecure), "POST /big HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
		case 5:
			_, _ = tls.Client(c, insecure).Write(noise)
		case 6:
			_, _ = io.WriteString(tls.Client(c, insecure), strings.Repeat("GET /ok HTTP/1.1\r\nHost: x\r\n\r\n", 50)) // and reads nothing
		case 7:
			_ = c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}
	good, err := tls.Dial("tcp", l.Address, insecure)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(good, "GET /ok HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(good); err != nil || !strings.HasSuffix(string(got), "fine\n") {
		t.Fatalf("%q %v", got, err)
	}
	done, cancel := context.WithCancel(t.Context())
	cancel() // no patience with such
	_ = l.Shutdown(done)
	if n := l.Count(t, "birthmark_panics_total"); n > 0 {
		t.Errorf("%v panics", n)
	}
	end := time.After(20 * time.Second)
	for runtime.NumGoroutine() > before+2 { // the listener's own, which ends with the test
		select {
		case <-end:
			stacks := make([]byte, 1<<16)
			t.Fatalf("%d goroutines, %d before\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		default:
			runtime.Gosched()
		}
	}
}

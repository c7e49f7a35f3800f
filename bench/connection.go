package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// connection speaks just enough HTTP/1.1 to send whole requests over a kept
// connection and read answers that state their length, so that the load costs
// the servers beside it little.
type connection struct {
	net  net.Conn
	in   *bufio.Reader
	body []byte // of the last answer
}

// connect opens a connection, with TLS if config is not nil.
func connect(address string, config *tls.Config) (*connection, error) {
	c, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return nil, err
	}
	if config != nil {
		t := tls.Client(c, config)
		if err := t.Handshake(); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		c = t
	}
	return &connection{net: c, in: bufio.NewReaderSize(c, 16<<10)}, nil
}

// do sends a request and returns the answer's status and body, which is good
// until the next call.
func (c *connection) do(request []byte) (status int, body []byte, err error) {
	if _, err := c.net.Write(request); err != nil {
		return 0, nil, err
	}
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return 0, nil, err
	}
	if len(line) < 12 {
		return 0, nil, fmt.Errorf("not HTTP: %q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, nil, err
	}
	n, err := c.headers()
	if err != nil {
		return 0, nil, err
	}
	if cap(c.body) < n {
		c.body = make([]byte, n)
	}
	c.body = c.body[:n]
	_, err = io.ReadFull(c.in, c.body)
	return status, c.body, err
}

var contentLength = []byte("content-length")

// headers reads up to the empty line and returns the body's length.
func (c *connection) headers() (n int, err error) {
	n = -1
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, ok := bytes.Cut(line, []byte{':'})
		if ok && bytes.EqualFold(name, contentLength) {
			if n, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, err
			}
		}
	}
	if n < 0 || n > 64<<10 {
		return 0, errors.New("an answer without a length, or too long")
	}
	return n, nil
}

package main

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"net"
	"strings"
	"testing"
)

// The requests that the load sends are whole, and the check of answers tells a
// certificate for the key from one for another.
func TestRequestsAndAnswers(t *testing.T) {
	p := pool{first: 7}
	if err := p.extend(8); err != nil {
		t.Fatal(err)
	}
	s, err := newIdeal()
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := bytes.Cut(p.request(7), []byte("\r\n\r\n"))
	answer, err := s.issue(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	own, err := keyOf(p.request(7))
	if err != nil {
		t.Fatal(err)
	}
	other, err := keyOf(p.request(8))
	if err != nil {
		t.Fatal(err)
	}
	if err := checkCertificate(answer, own, s.issuer); err != nil {
		t.Error(err)
	}
	if err := checkCertificate(answer, other, s.issuer); err == nil {
		t.Error("an answer for another key passes")
	}
	stranger, err := newIdeal()
	if err != nil {
		t.Fatal(err)
	}
	if err := checkCertificate(answer, own, stranger.issuer); err == nil {
		t.Error("an answer of another authority passes")
	}
}

func TestOneInAHundredIsWrong(t *testing.T) {
	n := 0
	for number := range 1000 {
		if wrong(number) {
			n++
		}
	}
	if n != 10 {
		t.Fatalf("%d of 1000", n)
	}
	good, err := enrollment(98)
	if err != nil {
		t.Fatal(err)
	}
	bad, err := enrollment(99)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(basicOf(t, good), basicOf(t, bad)) || len(basicOf(t, good)) != len(basicOf(t, bad)) {
		t.Fatal("a wrong secret should be as long as a right one, and different")
	}
}

func basicOf(t *testing.T, request []byte) []byte {
	t.Helper()
	_, rest, ok := bytes.Cut(request, []byte("Authorization: Basic "))
	if !ok {
		t.Fatal("no secret")
	}
	basic, _, _ := bytes.Cut(rest, []byte("\r\n"))
	return basic
}

func TestConnectionReadsAnswers(t *testing.T) {
	for _, one := range []struct {
		name, answer, body string
		status             int
		fails              bool
	}{
		{"an answer", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", 200, false},
		{"other case", "HTTP/1.1 401 Unauthorized\r\ncontent-length:2\r\nX: y\r\n\r\nno", "no", 401, false},
		{"no length", "HTTP/1.1 200 OK\r\n\r\n", "", 0, true},
		{"too long", "HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n", "", 0, true},
		{"cut short", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", "", 0, true},
		{"not HTTP", "hello\n", "", 0, true},
	} {
		t.Run(one.name, func(t *testing.T) {
			near, far := net.Pipe()
			defer near.Close()
			go func() {
				_, _ = far.Read(make([]byte, 16))
				_, _ = far.Write([]byte(one.answer))
				_ = far.Close()
			}()
			c := &connection{net: near, in: bufio.NewReader(near)}
			status, body, err := c.do([]byte("ask"))
			if (err != nil) != one.fails || !one.fails && (status != one.status || string(body) != one.body) {
				t.Fatalf("%d %q %v", status, body, err)
			}
		})
	}
}

func TestMedianAndRatio(t *testing.T) {
	if m := median([]float64{9, 1, 5}); m != 5 {
		t.Error(m)
	}
	if m := median([]float64{4, 2}); m != 3 {
		t.Error(m)
	}
	// The machine was half as fast in the second pass; the ratio holds.
	if r := ratio([]float64{10, 5, 10}, []float64{20, 10, 20}); r != 0.5 {
		t.Error(r)
	}
}

func TestTablesHaveAllColumns(t *testing.T) {
	var text, markdown strings.Builder
	tab := &table{title: "T", head: []string{"", "a", "b"}}
	tab.add("row", "1", "2")
	tab.text(&text)
	tab.markdown(&markdown)
	if !strings.Contains(markdown.String(), "| row | 1 | 2 |\n") || !strings.Contains(text.String(), "row") {
		t.Error(text.String(), markdown.String())
	}
}

// The request is one that any server reads: its signature is the key's.
func TestRequestIsSigned(t *testing.T) {
	der, err := newCSR()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := csr.CheckSignature(); err != nil {
		t.Error(err)
	}
}

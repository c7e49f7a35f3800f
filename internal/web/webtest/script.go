// Package webtest is what the tests of everything that speaks HTTP share. A
// World is an installation on a real store, a Listener is a server on a port of
// this machine, and a Script is a list of requests with the answers they must
// get, in a file that reads like the requirement:
//
//	== the wrong content type is refused
//	> POST /.well-known/est/simpleenroll as device
//	> Content-Type: text/plain
//	> @csr
//	< 415
//	< Content-Type: /^text\/plain/
//	< !Location
//	<< BM-1004
//
// Lines with ">" are a request, sent as they stand: the request line (with "as
// NAME" for a client certificate), header fields (a field "-" is left out),
// "> @NAME" for a body kept under a name, ">> TEXT" for lines of a body. Lines
// with "<" are the answer: status, fields (exact, or /pattern/, or "!" for
// absent), "<< TEXT" for text in the body, "<! TEXT" for text that must not be
// there, "<@ NAME" for a whole body, "<= NAME FIELD /(pattern)/" and
// "<= NAME body /(pattern)/" to keep something for ${NAME}. "! ACT ARGUMENTS"
// calls an act of the test. Each request has a connection of its own.
package webtest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Script runs lists of requests against one listener.
type Script struct {
	Network, Address string // "tcp" or "unix"
	// TLS returns the configuration for a client certificate by name; "" is
	// none. A nil TLS speaks plain HTTP.
	TLS    func(name string) *tls.Config
	Vars   map[string]string
	Bodies map[string][]byte
	Acts   map[string]func(t *testing.T, s *Script, args []string)
}

// exchange is a request with what must come back.
type exchange struct {
	line    int
	act     []string // instead of a request
	request []string
	named   string // body kept under a name
	literal []string
	expect  []string
}

// Run runs a file; each section is a test of its own.
func (s *Script) Run(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if s.Vars == nil {
		s.Vars = map[string]string{}
	}
	if s.Bodies == nil {
		s.Bodies = map[string][]byte{}
	}
	names, sections := parseScript(t, strings.ReplaceAll(string(text), "\r\n", "\n"))
	if len(names) == 0 {
		t.Fatalf("%s holds no test", file)
	}
	for i, name := range names {
		t.Run(name, func(t *testing.T) {
			for _, x := range sections[i] {
				if x.act != nil {
					act := s.Acts[x.act[0]]
					if act == nil {
						t.Fatalf("line %d: there is no act %s", x.line, x.act[0])
					}
					args := make([]string, len(x.act)-1)
					for i := range args {
						args[i] = s.expand(x.act[i+1])
					}
					act(t, s, args)
					continue
				}
				s.exchange(t, x)
			}
		})
	}
}

func parseScript(t *testing.T, text string) (names []string, sections [][]*exchange) {
	t.Helper()
	var x *exchange
	for i, line := range strings.Split(text, "\n") {
		add := func(n *exchange) *exchange {
			n.line = i + 1
			if len(sections) == 0 {
				t.Fatalf("line %d stands before the first ==", n.line)
			}
			last := len(sections) - 1
			sections[last] = append(sections[last], n)
			return n
		}
		mark, rest, _ := strings.Cut(line, " ")
		switch mark {
		case "==":
			names, sections, x = append(names, rest), append(sections, nil), nil
		case "!":
			add(&exchange{act: strings.Fields(rest)})
			x = nil
		case ">":
			if x == nil || x.expect != nil {
				x = add(&exchange{})
			}
			if name, ok := strings.CutPrefix(rest, "@"); ok {
				x.named = name
				continue
			}
			x.request = append(x.request, rest)
		case ">>":
			x.literal = append(x.literal, rest)
		case "<", "<<", "<!", "<@", "<=":
			x.expect = append(x.expect, line)
		default:
			if line != "" && mark != "#" {
				t.Fatalf("line %d is not understood: %s", i+1, line)
			}
		}
	}
	return names, sections
}

var variable = regexp.MustCompile(`\$\{([a-zA-Z0-9_-]+)\}`)

func (s *Script) expand(text string) string {
	return variable.ReplaceAllStringFunc(text, func(v string) string {
		if value, ok := s.Vars[v[2:len(v)-1]]; ok {
			return value
		}
		return v
	})
}

// Dial opens a connection, with a client certificate by name if as is not
// empty.
func (s *Script) Dial(t *testing.T, as string) net.Conn {
	t.Helper()
	c, err := net.DialTimeout(s.Network, s.Address, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if s.TLS == nil {
		return c
	}
	config := s.TLS(as)
	if config == nil {
		t.Fatalf("there is no client certificate %s", as)
	}
	return tls.Client(c, config)
}

// patience ends tests of a server that does not answer.
const patience = 20 * time.Second

func (s *Script) exchange(t *testing.T, x *exchange) {
	t.Helper()
	first, as, _ := strings.Cut(s.expand(x.request[0]), " as ")
	method, _, _ := strings.Cut(first, " ")
	c := s.Dial(t, as)
	defer c.Close()
	// The server may refuse before it has read everything: its answer counts,
	// not that writing fails.
	_, wrote := c.Write(s.render(t, first, x))
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("line %d: %s: %v (%v)", x.line, first, err, wrote)
	}
	body, err := io.ReadAll(resp.Body)
	// A reset is how a server says that it reads no more.
	if _, reset := errors.AsType[*net.OpError](err); err != nil && !reset {
		t.Fatalf("line %d: %s: body: %v", x.line, first, err)
	}
	for _, e := range x.expect {
		if problem := s.check(resp, body, s.expand(e)); problem != "" {
			t.Errorf("line %d: %s: %s\n%s %v\n%.2000s", x.line, first, problem, resp.Status, resp.Header, body)
		}
	}
}

// render makes the octets of a request.
func (s *Script) render(t *testing.T, first string, x *exchange) []byte {
	t.Helper()
	body := []byte(s.expand(strings.Join(x.literal, "\n")))
	if x.named != "" {
		kept, ok := s.Bodies[x.named]
		if !ok {
			t.Fatalf("line %d: there is no body %s", x.line, x.named)
		}
		body = kept
	}
	fields := [][2]string{{"Host", "localhost"}, {"Connection", "close"}}
	if body != nil && (x.named != "" || x.literal != nil) || strings.HasPrefix(first, "POST") {
		fields = append(fields, [2]string{"Content-Length", strconv.Itoa(len(body))})
	}
	chunked := false
	for _, line := range x.request[1:] {
		name, value, _ := strings.Cut(s.expand(line), ": ")
		fields = dropField(fields, name)
		if strings.EqualFold(name, "Transfer-Encoding") {
			fields, chunked = dropField(fields, "Content-Length"), value == "chunked"
		}
		if value != "-" {
			fields = append(fields, [2]string{name, value})
		}
	}
	var b bytes.Buffer
	if !strings.Contains(first, " HTTP/") {
		first += " HTTP/1.1"
	}
	b.WriteString(first + "\r\n")
	for _, f := range fields {
		b.WriteString(f[0] + ": " + f[1] + "\r\n")
	}
	b.WriteString("\r\n")
	if !chunked {
		b.Write(body)
		return b.Bytes()
	}
	for len(body) > 0 {
		n := min(len(body), 1000)
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	b.WriteString("0\r\n\r\n")
	return b.Bytes()
}

func dropField(fields [][2]string, name string) [][2]string {
	var kept [][2]string
	for _, f := range fields {
		if !strings.EqualFold(f[0], name) {
			kept = append(kept, f)
		}
	}
	return kept
}

// check says how an answer differs from one expectation, or nothing.
func (s *Script) check(resp *http.Response, body []byte, expect string) string {
	mark, rest, _ := strings.Cut(expect, " ")
	switch mark {
	case "<<":
		if !bytes.Contains(body, []byte(rest)) {
			return "the body does not hold " + rest
		}
		return ""
	case "<!":
		if bytes.Contains(body, []byte(rest)) {
			return "the body holds " + rest
		}
		return ""
	case "<@":
		if !bytes.Equal(body, s.Bodies[rest]) {
			return "the body is not " + rest
		}
		return ""
	case "<=":
		return s.keep(resp, body, rest)
	}
	if status, err := strconv.Atoi(rest); err == nil {
		if resp.StatusCode != status {
			return "status is not " + rest
		}
		return ""
	}
	if name, ok := strings.CutPrefix(rest, "!"); ok {
		if got, ok := resp.Header[textproto.CanonicalMIMEHeaderKey(name)]; ok {
			return fmt.Sprintf("%s is there: %q", name, got)
		}
		return ""
	}
	name, want, _ := strings.Cut(rest, ": ")
	got := strings.Join(resp.Header.Values(name), ", ")
	if pattern, ok := strings.CutPrefix(want, "/"); ok {
		if !regexp.MustCompile(strings.TrimSuffix(pattern, "/")).MatchString(got) {
			return fmt.Sprintf("%s is %q, want a match of %s", name, got, pattern)
		}
		return ""
	}
	if got != want {
		return fmt.Sprintf("%s is %q, want %q", name, got, want)
	}
	return ""
}

// keep stores a part of the answer under a name.
func (s *Script) keep(resp *http.Response, body []byte, rest string) string {
	parts := strings.SplitN(rest, " ", 3)
	if len(parts) < 2 {
		return "keep what? " + rest
	}
	text := string(body)
	if parts[1] != "body" {
		text = resp.Header.Get(parts[1])
	}
	if len(parts) == 2 {
		s.Vars[parts[0]] = text
		s.Bodies[parts[0]] = []byte(text)
		return ""
	}
	found := regexp.MustCompile(strings.Trim(parts[2], "/")).FindStringSubmatch(text)
	if len(found) != 2 {
		return parts[2] + " does not match " + text
	}
	s.Vars[parts[0]] = found[1]
	return ""
}

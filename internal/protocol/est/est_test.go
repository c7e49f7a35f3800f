package est_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/pki/cms"
	"github.com/birthmark/birthmark/internal/protocol/est"
	"github.com/birthmark/birthmark/internal/web/server"
	"github.com/birthmark/birthmark/internal/web/webtest"
)

func TestEST(t *testing.T) {
	w := newWorld(t, server.DefaultLimits())
	s := w.script()
	s.Run(t, "testdata/est.txt")
	log := w.Log.String()
	if !strings.Contains(log, "fault=BM-2011") {
		t.Error("a wrong secret is not in the log")
	}
	secrets := 0
	for name, value := range s.Vars {
		if strings.HasPrefix(name, "SN-") || strings.HasPrefix(name, "GW-") {
			secrets++
			if strings.Contains(log, value) {
				t.Errorf("%s is in the log", name)
			}
		}
	}
	if secrets < 10 {
		t.Errorf("only %d secrets were looked for", secrets)
	}
	if n := w.Count(t, "birthmark_panics_total") + w.Count(t, "birthmark_http_requests_total", "500"); n > 0 {
		t.Errorf("%v internal errors", n)
	}
}

// client sends requests on kept connections.
type client struct {
	http *http.Client
	base string
}

func (w *world) client(t testing.TB, name string) *client {
	t.Helper()
	c := &client{
		base: "https://" + w.Address + est.Prefix,
		http: &http.Client{Transport: &http.Transport{TLSClientConfig: w.tls(name)}, Timeout: 60 * time.Second},
	}
	t.Cleanup(c.http.CloseIdleConnections)
	return c
}

func (c *client) post(t testing.TB, operation, user, password string, body []byte) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.base+operation, bytes.NewReader(body))
	must(t, err)
	r.Header.Set("Content-Type", "application/pkcs10")
	if user != "" {
		r.SetBasicAuth(user, password)
	}
	resp, err := c.http.Do(r)
	must(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(text)
}

// hostileFolder holds requests that a CA must survive; manifest.json says what
// each of them must come to.
const hostileFolder = "../../pki/request/testdata/hostile-csr"

type hostileCase struct{ ID, File, Expect, Note string }

func hostileCases(t testing.TB) []hostileCase {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(hostileFolder, "manifest.json"))
	must(t, err)
	var cases []hostileCase
	must(t, json.Unmarshal(text, &cases))
	if len(cases) < 70 {
		t.Fatalf("only %d cases", len(cases))
	}
	return cases
}

// bodies are the ways in which a device may send the case.
func (c hostileCase) bodies(t testing.TB) map[string][]byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(hostileFolder, filepath.Base(c.File)))
	must(t, err)
	return map[string][]byte{"as it is": raw, "base64": based(raw)}
}

var ofRequests = regexp.MustCompile(`^BM-1\d\d\d: `)

// What must be rejected is, as 4xx with a code that says why; nothing is issued
// and the secret is not spent. What may be issued carries nothing of the
// request but the key.
func TestHostileRequestsEnroll(t *testing.T) {
	w := newWorld(t, server.DefaultLimits())
	c := w.client(t, "")
	for i, h := range hostileCases(t) {
		t.Run(h.ID, func(t *testing.T) {
			deviceSerial := fmt.Sprintf("HOSTILE-%d", i)
			d := w.Device(t, "sensor", deviceSerial)
			issued := 0
			for how, body := range h.bodies(t) {
				status, text := c.post(t, "simpleenroll", deviceSerial, d.Secret, body)
				issued += w.judge(t, h, how, status, text, deviceSerial)
			}
			if got := len(w.credentials(t, deviceSerial)); got != min(issued, 1) {
				t.Errorf("%d certificates on record", got)
			}
			if issued > 0 {
				return
			}
			good := based(webtest.NewCSR(t, webtest.NewKey(t), nil))
			if status, text := c.post(t, "simpleenroll", deviceSerial, d.Secret, good); status != http.StatusOK {
				t.Errorf("the secret is spent: %d %s", status, text)
			}
		})
	}
}

func TestHostileRequestsReenroll(t *testing.T) {
	w := newWorld(t, server.DefaultLimits())
	w.certs["RE-1"] = w.Enrolled(t, "sensor", "RE-1")
	c := w.client(t, "RE-1")
	for _, h := range hostileCases(t) {
		t.Run(h.ID, func(t *testing.T) {
			for how, body := range h.bodies(t) {
				status, text := c.post(t, "simplereenroll", "", "", body)
				w.judge(t, h, how, status, text, "RE-1")
				if status == http.StatusOK {
					t.Errorf("%s: renewed with a subject that is not the certificate's", how)
				}
			}
		})
	}
	if n := len(w.credentials(t, "RE-1")); n != 1 {
		t.Errorf("%d certificates", n)
	}
	good := based(webtest.NewCSR(t, webtest.NewKey(t), w.certs["RE-1"].Leaf.RawSubject))
	if status, text := c.post(t, "simplereenroll", "", "", good); status != http.StatusOK {
		t.Errorf("%d %s", status, text)
	}
}

// judge returns how many certificates the answer holds.
func (w *world) judge(t *testing.T, h hostileCase, how string, status int, text, deviceSerial string) int {
	t.Helper()
	switch {
	case status == http.StatusOK:
		if h.Expect == "reject" || h.Expect == "reject_unless_profile" {
			t.Errorf("%s: issued: %s", how, h.Note)
		}
		w.checkSanitized(t, text, deviceSerial)
		return 1
	case status < 400 || status > 499:
		t.Errorf("%s: %d %s", how, status, text)
	case !strings.HasPrefix(text, "BM-") || !strings.HasSuffix(text, "\n"):
		t.Errorf("%s: %q does not say why", how, text)
	case strings.HasPrefix(h.Expect, "reject") && h.Expect != "reject_or_issue" && !ofRequests.MatchString(text):
		t.Errorf("%s: %s", how, text)
	}
	return 0
}

// checkSanitized wants the names of the register and no extension that the
// profile does not have.
func (w *world) checkSanitized(t *testing.T, text, deviceSerial string) {
	t.Helper()
	der, err := base64.StdEncoding.DecodeString(text)
	must(t, err)
	list, err := cms.ParseCertsOnly(der)
	must(t, err)
	if len(list) != 1 {
		t.Fatalf("%d certificates", len(list))
	}
	c, err := x509.ParseCertificate(list[0])
	must(t, err)
	if c.Subject.String() != "CN="+deviceSerial+",O=Acme" || c.IsCA || c.KeyUsage != x509.KeyUsageDigitalSignature ||
		len(c.DNSNames)+len(c.EmailAddresses)+len(c.IPAddresses)+len(c.URIs) > 0 || len(c.ExtKeyUsage) != 1 || len(c.UnknownExtKeyUsage) > 0 {
		t.Errorf("certificate %+v", c)
	}
}

// 200 requests at once with one secret: with distinct keys one certificate, and
// with the same key the same one to all.
func TestOneSecretAtOnce(t *testing.T) {
	w := newWorld(t, server.DefaultLimits())
	for name, same := range map[string]bool{"distinct keys": false, "the same key": true} {
		t.Run(name, func(t *testing.T) {
			const many = 200
			deviceSerial := strings.ReplaceAll(name, " ", "-")
			d := w.Device(t, "sensor", deviceSerial)
			bodies := make([][]byte, many)
			key := webtest.NewKey(t)
			for i := range bodies {
				if !same {
					key = webtest.NewKey(t)
				}
				bodies[i] = based(webtest.NewCSR(t, key, nil))
			}
			answers := make([]string, many)
			codes := make([]int, many)
			var all sync.WaitGroup
			c := w.client(t, "")
			for i := range many {
				all.Go(func() { codes[i], answers[i] = c.post(t, "simpleenroll", deviceSerial, d.Secret, bodies[i]) })
			}
			all.Wait()
			won := map[string]int{}
			for i, code := range codes {
				switch {
				case code == http.StatusOK:
					won[answers[i]]++
				case code != http.StatusUnauthorized || !strings.HasPrefix(answers[i], "BM-2012"):
					t.Errorf("%d %s", code, answers[i])
				}
			}
			if len(won) != 1 {
				t.Fatalf("%d different certificates", len(won))
			}
			for _, n := range won {
				if same && n != many || !same && n != 1 {
					t.Errorf("%d answers with the certificate", n)
				}
			}
			if n := len(w.credentials(t, deviceSerial)); n != 1 {
				t.Errorf("%d certificates on record", n)
			}
		})
	}
}

// A body that does not come is answered with 408 and the connection is closed,
// whoever sends it; the secret is not spent.
func TestSlowBody(t *testing.T) {
	limits := server.DefaultLimits()
	limits.BodyTimeout = 150 * time.Millisecond
	w := newWorld(t, limits)
	d := w.Device(t, "sensor", "SLOW-1")
	body := based(webtest.NewCSR(t, webtest.NewKey(t), nil))
	for name, authorization := range map[string]string{
		"stranger": "",
		"device":   "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("SLOW-1:"+d.Secret)) + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c, err := tls.Dial("tcp", w.Address, w.tls(""))
			must(t, err)
			defer c.Close()
			_, err = fmt.Fprintf(c, "POST %ssimpleenroll HTTP/1.1\r\nHost: x\r\nContent-Type: application/pkcs10\r\n%sContent-Length: %d\r\n\r\n%s",
				est.Prefix, authorization, len(body), body[:len(body)-1])
			must(t, err)
			r := bufio.NewReader(c)
			resp, err := http.ReadResponse(r, nil)
			must(t, err)
			text, err := io.ReadAll(resp.Body)
			must(t, err)
			if resp.StatusCode != http.StatusRequestTimeout || !resp.Close || !bytes.HasPrefix(text, []byte("BM-1003")) {
				t.Errorf("%s %q", resp.Status, text)
			}
			if _, err := r.ReadByte(); err != io.EOF {
				t.Errorf("the connection is open: %v", err)
			}
		})
	}
	if status, text := w.client(t, "").post(t, "simpleenroll", "SLOW-1", d.Secret, body); status != http.StatusOK {
		t.Errorf("%d %s", status, text)
	}
}

// Odd users and passwords are wrong ones, not errors of ours.
func TestOddCredentials(t *testing.T) {
	w := newWorld(t, server.DefaultLimits())
	d := w.Device(t, "sensor", "ODD-1")
	c := w.client(t, "")
	body := based(webtest.NewCSR(t, webtest.NewKey(t), nil))
	random := make([]byte, 300)
	_, _ = rand.Read(random)
	for name, user := range map[string][2]string{
		"NUL":             {"ODD-1\x00", d.Secret},
		"NUL in password": {"ODD-1", d.Secret + "\x00"},
		"UTF-8":           {"Prüfling", "geheim"},
		"no UTF-8":        {"\xff\xfe", "\xc0\x80"},
		"colons":          {"ODD-1", d.Secret + ":" + d.Secret},
		"only colons":     {":", ":::"},
		"blank":           {"ODD-1 ", d.Secret},
		"case":            {"odd-1", d.Secret},
		"SQL":             {"' OR 1=1 --", "x"},
		"random":          {string(random), string(random)},
		"8 KiB":           {strings.Repeat("u", 4<<10), strings.Repeat("p", 4<<10)},
	} {
		t.Run(name, func(t *testing.T) {
			if status, text := c.post(t, "simpleenroll", user[0], user[1], body); status != http.StatusUnauthorized {
				t.Errorf("%d %s", status, text)
			}
		})
	}
	if status, _ := c.post(t, "simpleenroll", strings.Repeat("u", 64<<10), "p", body); status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("64 KiB of user: %d", status)
	}
	if status, text := c.post(t, "simpleenroll", "ODD-1", d.Secret, body); status != http.StatusOK {
		t.Errorf("%d %s", status, text)
	}
}

// Whoever presents many or odd certificates gets an answer or no handshake, and
// the listener goes on.
func TestHostileClientChains(t *testing.T) {
	w := newWorld(t, server.DefaultLimits())
	device := w.Enrolled(t, "sensor", "CHAIN-1")
	body := based(webtest.NewCSR(t, webtest.NewKey(t), device.Leaf.RawSubject))
	other := webtest.SelfSigned(t, "other", time.Now().Add(time.Hour))
	chain := func(leaf *tls.Certificate, more [][]byte) *tls.Certificate {
		return &tls.Certificate{Certificate: append([][]byte{leaf.Certificate[0]}, more...), PrivateKey: leaf.PrivateKey}
	}
	many := make([][]byte, 300)
	for i := range many {
		many[i] = other.Certificate[0]
	}
	for name, cert := range map[string]*tls.Certificate{
		"300 certificates":                    chain(other, many),
		"300 certificates, the leaf is ours":  chain(device, many),
		"the same certificate 10 times":       chain(other, many[:10]),
		"beyond what a handshake may hold":    chain(other, append(append(many, many...), many...)),
		"a leaf with the issuer of the leaf":  chain(device, [][]byte{w.Certificate(t, "issuing").Raw, w.Certificate(t, "root").Raw}),
		"ours behind a stranger's":            chain(other, device.Certificate),
		"our issuing authority's, by copying": chain(other, [][]byte{w.Certificate(t, "issuing").Raw}),
	} {
		t.Run(name, func(t *testing.T) {
			w.certs["x"] = cert
			c := w.client(t, "x")
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.base+"simplereenroll", bytes.NewReader(body))
			must(t, err)
			r.Header.Set("Content-Type", "application/pkcs10")
			resp, err := c.http.Do(r)
			if err != nil {
				t.Logf("no handshake: %v", err)
				return
			}
			defer resp.Body.Close()
			text, _ := io.ReadAll(resp.Body)
			ours := cert.Certificate[0][0] == device.Certificate[0][0] && bytes.Equal(cert.Certificate[0], device.Certificate[0])
			if ours && resp.StatusCode != http.StatusOK || !ours && resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s %s", resp.Status, text)
			}
		})
	}
	if n := w.Count(t, "birthmark_http_requests_total", "500"); n > 0 {
		t.Errorf("%v internal errors", n)
	}
}

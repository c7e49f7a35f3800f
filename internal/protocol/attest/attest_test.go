package attest_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	protocol "github.com/birthmark/birthmark/internal/protocol/attest"
	"github.com/birthmark/birthmark/internal/store"
	"github.com/birthmark/birthmark/internal/web/server"
	"github.com/birthmark/birthmark/internal/web/webtest"
)

// field is an installation whose devices have TPMs, with its device listener.
type field struct {
	*webtest.World
	*webtest.Listener
	maker  *tpmtest.Maker
	roots  *x509.CertPool
	record *store.Store
}

func newField(t testing.TB) *field {
	t.Helper()
	f := &field{}
	f.World = webtest.NewWorld(t, webtest.Config{Open: func(path string, now func() time.Time) (webtest.Store, func() error, error) {
		s, err := store.Open(t.Context(), store.Config{DSN: "sqlite:" + path, Node: "test", Now: now, Rand: rand.Reader, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			return nil, nil, err
		}
		f.record = s
		return s, s.Close, nil
	}})
	_, err := f.Authority.AddProduct(t.Context(), "system", device.Product{
		Name: "gateway", Profiles: []string{"ldevid-tpm", "attestation-key"}, LeastEvidence: "tpm-genuine",
	})
	must(t, err)
	must(t, f.Authority.SetLabel(t.Context(), "system", authority.Label{Name: "ak", Profile: "attestation-key"}))
	f.maker = tpmtest.NewMaker(t, "Test TPMs", tpmtest.MakerOptions{Now: f.Now()})
	f.trust(t)
	f.Follow(t)
	h, err := protocol.New(protocol.Config{Enroller: f.Enroller, Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	f.Listener = webtest.Listen(t, server.Config{
		Name: "device", Routes: routes(h), TLS: server.DeviceTLS(f.ServerCertificate(t)), Limits: server.DefaultLimits(),
	})
	f.roots = f.Roots(t)
	return f
}

func routes(h *protocol.Handlers) (routes []server.Route) {
	for _, o := range h.Operations() {
		routes = append(routes, server.Route{Method: o.Method, Path: o.Path, Action: o.Action, MaxBody: o.MaxBody, Stream: o.Stream, Handler: o.Handler})
	}
	return routes
}

// trust imports a bundle that has the maker.
func (f *field) trust(t testing.TB) {
	t.Helper()
	content, err := json.Marshal(tpmtest.Bundle(1, f.maker))
	must(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	digest := sha256.Sum256(content)
	b := attest.Bundle{Content: content}
	b.Signature, err = ecdsa.SignASN1(rand.Reader, key, digest[:])
	must(t, err)
	b.Signer, err = x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	text, err := json.Marshal(b)
	must(t, err)
	_, err = f.Attest.ImportRoots(t.Context(), *f.Operator, attest.RootsImport{Bundle: text})
	must(t, err)
}

// gateway is a device with a TPM.
type gateway struct {
	*tpmtest.TPM
	ak, key      *tpmtest.Key
	deviceSerial string
	secret       string
	cert         *tls.Certificate
}

func (f *field) gateway(t testing.TB, deviceSerial string) *gateway {
	t.Helper()
	added, err := f.Register.Add(t.Context(), f.Operator, []device.NewDevice{{DeviceSerial: deviceSerial, Product: "gateway"}})
	must(t, err)
	x := tpmtest.New(t, f.maker, tpmtest.Options{})
	return &gateway{TPM: x, ak: x.NewAK(wire.ECP256), key: x.NewSubject(wire.ECP256), deviceSerial: deviceSerial, secret: added[0].Secret}
}

// client connects as a device.
func (f *field) client(t testing.TB, g *gateway) *http.Client {
	t.Helper()
	c := &tls.Config{RootCAs: f.roots, ServerName: "localhost"}
	if g != nil && g.cert != nil {
		c.Certificates = []tls.Certificate{*g.cert}
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: c}, Timeout: time.Minute}
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// post sends a body and returns the answer.
func (f *field) post(t testing.TB, g *gateway, path, contentType string, body io.Reader) (*http.Response, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+f.Address+path, body)
	must(t, err)
	r.Header.Set("Content-Type", contentType)
	if g != nil && g.cert == nil {
		r.SetBasicAuth(g.deviceSerial, g.secret)
	}
	answer, err := f.client(t, g).Do(r)
	must(t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	must(t, err)
	return answer, text
}

// results sends lines and returns the results by their ids.
func (f *field) results(t testing.TB, g *gateway, path string, body string) []wire.Result {
	t.Helper()
	answer, text := f.post(t, g, path, protocol.LinesType, strings.NewReader(body))
	if answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != protocol.LinesType || answer.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s: %s %s", path, answer.Status, text)
	}
	return parse(t, text)
}

func parse(t testing.TB, text []byte) (all []wire.Result) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	for {
		var r wire.Result
		err := d.Decode(&r)
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		all = append(all, r)
	}
}

func line(t testing.TB, item any) string {
	t.Helper()
	text, err := json.Marshal(item)
	must(t, err)
	return string(text) + "\n"
}

func (f *field) challenge(t testing.TB, g *gateway, label string) wire.Result {
	t.Helper()
	all := f.results(t, g, wire.ChallengePath, line(t, wire.ChallengeRequest{ID: "c", Label: label, Claim: g.Claim(g.ak)}))
	if len(all) != 1 || all[0].ID != "c" {
		t.Fatalf("challenges %+v", all)
	}
	return all[0]
}

// request answers a challenge.
func (f *field) request(t testing.TB, g *gateway, label string) wire.EnrollRequest {
	t.Helper()
	c := f.challenge(t, g, label)
	if !c.OK || c.Challenge == nil {
		t.Fatalf("challenge %+v", c)
	}
	subject := g.key
	if label == "ak" {
		subject = nil
	}
	a, err := g.Answer(g.ak, subject, c.Challenge)
	must(t, err)
	q := wire.EnrollRequest{ID: "e", Label: label, Answer: a}
	if subject != nil {
		q.CSR = subject.CSR(t, &x509.CertificateRequest{})
	}
	return q
}

// enroll wants a certificate.
func (f *field) enroll(t testing.TB, g *gateway, label string) *x509.Certificate {
	t.Helper()
	all := f.results(t, g, wire.EnrollPath, line(t, f.request(t, g, label)))
	if len(all) != 1 || !all[0].OK || len(all[0].Chain) == 0 {
		t.Fatalf("results %+v", all)
	}
	leaf, err := x509.ParseCertificate(all[0].Certificate)
	must(t, err)
	return leaf
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// nobody is a key that signed no checkpoint.
type nobody struct{}

func (nobody) Name() string            { return "nobody" }
func (nobody) KeyHash() uint32         { return 0 }
func (nobody) Verify(_, _ []byte) bool { return false }

// The whole road of a device: its first certificate for its one-time secret, then
// one for its attestation key and the next one by certificate.
func TestDevice(t *testing.T) {
	f := newField(t)
	g := f.gateway(t, "GW-1")
	leaf := f.enroll(t, g, "")
	if spki, err := x509.MarshalPKIXPublicKey(leaf.PublicKey); err != nil || !bytes.Equal(spki, g.key.SPKI()) || leaf.Subject.CommonName != "GW-1" {
		t.Errorf("certificate of %s, %v", leaf.Subject, err)
	}
	g.cert = &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: g.key.Signer, Leaf: leaf}
	ak := f.enroll(t, g, "ak")
	if spki, err := x509.MarshalPKIXPublicKey(ak.PublicKey); err != nil || !bytes.Equal(spki, g.ak.SPKI()) {
		t.Errorf("attestation key: %v", err)
	}
	g.key = g.NewSubject(wire.ECP256)
	q := f.request(t, g, "")
	all := f.results(t, g, wire.EnrollPath, line(t, q))
	again := f.results(t, g, wire.EnrollPath, line(t, q))
	if !all[0].OK || all[0].Replayed || !again[0].Replayed || !bytes.Equal(all[0].Certificate, again[0].Certificate) {
		t.Errorf("renewed: %+v, again: %+v", all, again)
	}
	_, err := ledger.Verify(t.Context(), f.record, ledger.VerifyOptions{Verifiers: []note.Verifier{nobody{}}, Now: f.Now})
	must(t, err)
}

// Each item has its own outcome, and one that is wrong ends no other.
func TestItemsAreJudgedOneByOne(t *testing.T) {
	f := newField(t)
	g := f.gateway(t, "GW-1")
	good := line(t, wire.ChallengeRequest{ID: "good", Claim: g.Claim(g.ak)})
	unlisted := g.Claim(g.ak)
	unlisted.EKCertificate = nil
	body := good + "not json\n\n" + `{"id":"newer","claim":{},"colour":"blue"}` + "\n" +
		line(t, wire.ChallengeRequest{ID: "bare", Claim: unlisted}) + line(t, wire.ChallengeRequest{ID: "label", Label: "nowhere", Claim: g.Claim(g.ak)}) + good
	all := f.results(t, g, wire.ChallengePath, body)
	var got []string
	for _, r := range all {
		got = append(got, r.ID+" "+r.Code)
		if r.OK == (r.Code != "") || r.OK != (r.Challenge != nil) || !r.OK && (r.Message == "" || r.Remedy == "" || r.Kind == "") {
			t.Errorf("result %+v", r)
		}
	}
	want := []string{
		"good ", " " + fault.RequestMalformed.String(), "newer " + fault.AttestMalformed.String(),
		"bare " + fault.EKNotListed.String(), "label " + fault.LabelUnknown.String(), "good ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	wrong := f.request(t, g, "")
	wrong.Answer.Secret = make([]byte, 32)
	all = f.results(t, g, wire.EnrollPath, line(t, wrong)+line(t, wire.EnrollRequest{ID: "none"})+line(t, f.request(t, g, "")))
	if len(all) != 3 || all[0].Code != "BM-9034" || all[1].Code != "BM-9030" || !all[2].OK {
		t.Errorf("results %+v", all)
	}
}

func TestStrangersAreRefusedBeforeAnythingIsRead(t *testing.T) {
	f := newField(t)
	g := f.gateway(t, "GW-1")
	guess := *g
	guess.secret = "guess"
	for name, who := range map[string]*gateway{"nobody": nil, "wrong secret": &guess} {
		t.Run(name, func(t *testing.T) {
			// The body never ends: whoever waited for it would wait for ever.
			r, w := io.Pipe()
			defer w.Close()
			answer, text := f.post(t, who, wire.ChallengePath, protocol.LinesType, r)
			var p server.Problem
			must(t, json.Unmarshal(text, &p))
			if answer.StatusCode != http.StatusUnauthorized || p.Code == "" {
				t.Errorf("%s %s", answer.Status, text)
			}
		})
	}
	answer, text := f.post(t, g, wire.ChallengePath, "application/json", strings.NewReader("{}\n"))
	if answer.StatusCode != http.StatusUnsupportedMediaType || !bytes.Contains(text, []byte(fault.ContentTypeWrong.String())) {
		t.Errorf("%s %s", answer.Status, text)
	}
}

func TestLimits(t *testing.T) {
	f := newField(t)
	g := f.gateway(t, "GW-1")
	good := line(t, wire.ChallengeRequest{ID: "good", Claim: g.Claim(g.ak)})
	pad := func(n int) string { return `{"id":"long"` + strings.Repeat(" ", n-len(`{"id":"long"}`)) + "}\n" }
	for name, tt := range map[string]struct {
		body  string
		n     int
		codes string // of the last result
	}{
		"a line as long as may be": {pad(wire.MaxLine) + good, 2, ""},
		"a line that is too long":  {good + pad(wire.MaxLine+1) + good, 2, fault.RequestTooLarge.String()},
		"a line without an end":    {good + good[:len(good)-1], 2, fault.RequestMalformed.String()},
		"too many items":           {strings.Repeat("{}\n", protocol.MaxItems+5), protocol.MaxItems + 1, fault.RequestTooLarge.String()},
		"as many items as may be":  {strings.Repeat("{}\n", protocol.MaxItems-1) + good, protocol.MaxItems, ""},
		"nothing":                  {"", 0, ""},
		"empty lines":              {"\n\n\n" + good + "\n", 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			all := f.results(t, g, wire.ChallengePath, tt.body)
			if len(all) != tt.n || tt.n > 0 && all[tt.n-1].Code != tt.codes {
				t.Errorf("%d results, the last %+v", len(all), all[max(len(all)-1, 0):])
			}
		})
	}
}

// broken goes wrong in every way.
type broken struct{}

func (broken) Known(context.Context, enroll.Requester) error { return nil }

func (broken) Challenge(_ context.Context, r enroll.ChallengeRequest) (*wire.Challenge, error) {
	if r.Label == "panic" {
		panic("canary7391")
	}
	return nil, errors.New("disk17 is full")
}

func (broken) Enroll(context.Context, enroll.Request) (*enroll.Response, error) {
	return nil, &enroll.Waiting{Approval: 7, RetryAfter: time.Minute}
}

func TestWhatGoesWrongInsideStaysInside(t *testing.T) {
	var log bytes.Buffer
	counted := map[fault.Code]int{}
	h, err := protocol.New(protocol.Config{
		Enroller: broken{}, Logger: slog.New(slog.NewTextHandler(&log, nil)), Refused: func(c fault.Code) { counted[c]++ },
	})
	must(t, err)
	do := func(handler func(http.ResponseWriter, *http.Request, []byte) error, body string) []wire.Result {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(body))
		r.Header.Set("Content-Type", protocol.LinesType+"; charset=utf-8")
		w := httptest.NewRecorder()
		must(t, handler(w, r, nil))
		for _, secret := range []string{"canary7391", "disk17"} {
			if strings.Contains(w.Body.String(), secret) {
				t.Errorf("the inside shows: %s", w.Body)
			}
		}
		return parse(t, w.Body.Bytes())
	}
	all := do(h.Challenge, `{"id":"1","label":"panic"}`+"\n"+`{"id":"2"}`+"\n")
	if len(all) != 2 || all[0].ID != "1" || all[0].Code != "BM-9999" || all[1].Code != "BM-9999" || counted[fault.Unexpected] != 2 {
		t.Errorf("results %+v, counted %v", all, counted)
	}
	if text := log.String(); !strings.Contains(text, "canary7391") || !strings.Contains(text, "disk17") {
		t.Error("the cause is not in the log")
	}
	all = do(h.Enroll, `{"id":"3"}`+"\n")
	if len(all) != 1 || all[0].Code != fault.ApprovalWaiting.String() || all[0].Kind != fault.Unavailable.String() {
		t.Errorf("results %+v", all)
	}
}

// A device that is suspended while its stream is open is refused at its next
// item.
func TestDeviceThatEndsOnALiveStream(t *testing.T) {
	f := newField(t)
	g := f.gateway(t, "GW-1")
	leaf := f.enroll(t, g, "")
	g.cert = &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: g.key.Signer, Leaf: leaf}
	r, w := io.Pipe()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+f.Address+wire.ChallengePath, r)
	must(t, err)
	q.Header.Set("Content-Type", protocol.LinesType)
	answer, err := f.client(t, g).Do(q)
	must(t, err)
	defer answer.Body.Close()
	in := json.NewDecoder(answer.Body)
	ask := func() (result wire.Result) {
		t.Helper()
		_, err := io.WriteString(w, line(t, wire.ChallengeRequest{ID: "c", Claim: g.Claim(g.ak)}))
		must(t, err)
		must(t, in.Decode(&result))
		return result
	}
	if first := ask(); !first.OK {
		t.Fatalf("result %+v", first)
	}
	c, err := f.Store.CredentialBySerial(t.Context(), access.Everything(), leaf.SerialNumber.Bytes())
	must(t, err)
	_, err = f.Register.Move(t.Context(), f.Operator, c.Device, device.Suspended)
	must(t, err)
	if second := ask(); second.Code != fault.DeviceState.String() && second.Code != fault.CredentialRevoked.String() {
		t.Errorf("result %+v", second)
	}
	w.Close()
}

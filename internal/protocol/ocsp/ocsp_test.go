package ocsp_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"log/slog"
	"math/big"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	xocsp "golang.org/x/crypto/ocsp"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/status"
	"github.com/birthmark/birthmark/internal/protocol/ocsp"
	"github.com/birthmark/birthmark/internal/store"
	"github.com/birthmark/birthmark/internal/web/server"
	"github.com/birthmark/birthmark/internal/web/webtest"
)

// world is an installation with its status listener.
type world struct {
	*webtest.World
	*webtest.Listener
	certs map[string]*tls.Certificate
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{certs: map[string]*tls.Certificate{}}
	w.World = webtest.NewWorld(t, webtest.Config{Open: func(path string, now func() time.Time) (webtest.Store, func() error, error) {
		s, err := store.Open(t.Context(), store.Config{DSN: "sqlite:" + path, Node: "test", Now: now, Rand: rand.Reader, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			return nil, nil, err
		}
		return s, s.Close, nil
	}})
	h := ocsp.New(w.Status, w.Authority, w.World.Now)
	row := func(method, path string, handler server.Handler) server.Route {
		return server.Route{Method: method, Path: path, Action: access.Public, Handler: handler, Quiet: true}
	}
	asked := func(method, path string, handler server.Handler) server.Route {
		r := row(method, path, handler)
		r.Fault, r.Raw = ocsp.WriteFault, method == "GET"
		if method == "POST" {
			r.MaxBody = ocsp.MaxBody
		}
		return r
	}
	w.Listener = webtest.Listen(t, server.Config{Name: "status", Limits: server.DefaultLimits(), Routes: []server.Route{
		asked("GET", ocsp.Prefix, h.Get), asked("POST", "/ocsp/{issuer}", h.Post), asked("POST", "/ocsp", h.Post), asked("POST", "/{$}", h.Post),
		row("GET", "/crl/{issuer}/{shard}", h.CRL), row("GET", "/crl/{file}", h.WholeCRL), row("GET", "/ca/{file}", h.Authority),
	}})
	return w
}

// statusAct is revoking, holding or releasing.
type statusAct func(context.Context, access.Caller, status.Act) (device.Credential, error)

func TestStatus(t *testing.T) {
	w := newWorld(t)
	s := &webtest.Script{Network: "tcp", Address: w.Address, Acts: map[string]func(*testing.T, *webtest.Script, []string){
		"enrolled": func(t *testing.T, _ *webtest.Script, args []string) {
			w.certs[args[0]] = w.Enrolled(t, "sensor", args[0])
		},
		"ask": w.actAsk, "answer": w.actAnswer, "refused": actRefused, "twisted": w.actTwisted, "many": w.actMany, "foreign": actForeign,
		"revoke": w.act(w.Status.Revoke, "keyCompromise"), "hold": w.act(w.Status.Hold, ""), "release": w.act(w.Status.Release, ""),
		"pass": func(t *testing.T, _ *webtest.Script, args []string) {
			d, err := time.ParseDuration(args[0])
			must(t, err)
			w.Pass(d)
		},
		"publish": func(t *testing.T, _ *webtest.Script, _ []string) {
			w.Follow(t)
			must(t, w.Status.Step(t.Context()))
		},
		"crl": w.actCRL,
		"ca": func(t *testing.T, s *webtest.Script, args []string) {
			if !bytes.Equal(s.Bodies[args[0]], w.Certificate(t, args[1]).Raw) {
				t.Error("another certificate")
			}
		},
	}}
	s.Run(t, "testdata/status.txt")
}

func (w *world) act(do statusAct, reason status.Reason) func(*testing.T, *webtest.Script, []string) {
	return func(t *testing.T, _ *webtest.Script, args []string) {
		_, err := do(t.Context(), *w.Operator, status.Act{CertSerial: w.certs[args[0]].Leaf.SerialNumber.Bytes(), Reason: reason})
		must(t, err)
	}
}

// keep puts a request under a name, as body and as GET would carry it.
func keep(s *webtest.Script, name string, der []byte) {
	text := base64.StdEncoding.EncodeToString(der)
	s.Bodies[name] = der
	s.Vars[name+"-raw"] = text
	s.Vars[name+"-encoded"] = url.QueryEscape(text)
	s.Vars[name+"-unpadded"] = strings.TrimRight(text, "=")
	s.Vars[name+"-blank"] = strings.ReplaceAll(url.PathEscape(text), "+", "%20")
}

// request makes a DER request for certificate serials of an issuer, by an
// independent encoder; nonce < 0 is none.
func request(t testing.TB, issuer *x509.Certificate, nonce int, certSerials ...*big.Int) []byte {
	t.Helper()
	type single struct{ ID asn1.RawValue }
	type extension struct {
		ID    asn1.ObjectIdentifier
		Value []byte
	}
	type tbs struct {
		List       []single
		Extensions []extension `asn1:"explicit,tag:2,optional,omitempty"`
	}
	var r tbs
	for _, certSerial := range certSerials {
		one, err := xocsp.CreateRequest(&x509.Certificate{SerialNumber: certSerial}, issuer, &xocsp.RequestOptions{Hash: crypto.SHA1})
		must(t, err)
		var outer struct{ TBS struct{ List []single } }
		_, err = asn1.Unmarshal(one, &outer)
		must(t, err)
		r.List = append(r.List, outer.TBS.List[0])
	}
	if nonce >= 0 {
		value, err := asn1.Marshal(bytes.Repeat([]byte{7}, nonce))
		must(t, err)
		r.Extensions = []extension{{asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}, value}}
	}
	der, err := asn1.Marshal(struct{ TBS tbs }{r})
	must(t, err)
	return der
}

// ask NAME SERIAL [NONCE]
func (w *world) actAsk(t *testing.T, s *webtest.Script, args []string) {
	nonce := -1
	if len(args) > 2 {
		var err error
		nonce, err = strconv.Atoi(args[2])
		must(t, err)
	}
	keep(s, args[0], request(t, w.Certificate(t, "issuing"), nonce, w.certs[args[1]].Leaf.SerialNumber))
}

// twisted NAME: a request whose base64 holds "//" and "+".
func (w *world) actTwisted(t *testing.T, s *webtest.Script, args []string) {
	issuer := w.Certificate(t, "issuing")
	for i := range 100000 {
		certSerial := new(big.Int).SetBytes(append(bytes.Repeat([]byte{0x7f, 0xff, 0xff}, 4), byte(i>>8), byte(i), 0xfb, 0xef, byte(i)))
		der := request(t, issuer, -1, certSerial)
		if text := base64.StdEncoding.EncodeToString(der); strings.Contains(text, "//") && strings.Contains(text, "+") {
			keep(s, args[0], der)
			return
		}
	}
	t.Fatal("none found")
}

// many NAME COUNT
func (w *world) actMany(t *testing.T, s *webtest.Script, args []string) {
	n, err := strconv.Atoi(args[1])
	must(t, err)
	certSerials := make([]*big.Int, n)
	for i := range certSerials {
		certSerials[i] = big.NewInt(int64(i + 1))
	}
	der := request(t, w.Certificate(t, "issuing"), -1, certSerials...)
	keep(s, args[0], der)
	s.Vars[args[0]+"-start"] = base64.RawURLEncoding.EncodeToString(der[:6000])
}

// foreign NAME: about a certificate of another authority.
func actForeign(t *testing.T, s *webtest.Script, args []string) {
	other := webtest.SelfSigned(t, "other", time.Now().Add(time.Hour))
	keep(s, args[0], request(t, other.Leaf, -1, big.NewInt(1)))
}

// answer NAME SERIAL good|revoked|unknown [NONCE]
func (w *world) actAnswer(t *testing.T, s *webtest.Script, args []string) {
	r, err := xocsp.ParseResponse(s.Bodies[args[0]], w.Certificate(t, "issuing"))
	must(t, err)
	if want := map[string]int{"good": xocsp.Good, "revoked": xocsp.Revoked, "unknown": xocsp.Unknown}[args[2]]; r.Status != want {
		t.Errorf("status %d, want %s", r.Status, args[2])
	}
	if args[1] != "-" && r.SerialNumber.Cmp(w.certs[args[1]].Leaf.SerialNumber) != 0 {
		t.Error("the answer is about another certificate")
	}
	if len(args) > 3 {
		n, err := strconv.Atoi(args[3])
		must(t, err)
		value, err := asn1.Marshal(bytes.Repeat([]byte{7}, n))
		must(t, err)
		if !bytes.Contains(s.Bodies[args[0]], value) {
			t.Error("the nonce is not in the answer")
		}
	}
}

// refused NAME malformed|unauthorized
func actRefused(t *testing.T, s *webtest.Script, args []string) {
	_, err := xocsp.ParseResponse(s.Bodies[args[0]], nil)
	refused, ok := err.(xocsp.ResponseError) //nolint:errorlint // as the library returns it
	want := map[string]xocsp.ResponseStatus{"malformed": xocsp.Malformed, "unauthorized": xocsp.Unauthorized}[args[1]]
	if !ok || refused.Status != want {
		t.Errorf("got %v, want %s", err, args[1])
	}
}

// crl NAME SERIAL: the list is signed, current and names the certificate.
func (w *world) actCRL(t *testing.T, s *webtest.Script, args []string) {
	list, err := x509.ParseRevocationList(s.Bodies[args[0]])
	must(t, err)
	must(t, list.CheckSignatureFrom(w.Certificate(t, "issuing")))
	for _, e := range list.RevokedCertificateEntries {
		if e.SerialNumber.Cmp(w.certs[args[1]].Leaf.SerialNumber) == 0 {
			return
		}
	}
	t.Errorf("%s is not in the list of %d", args[1], len(list.RevokedCertificateEntries))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

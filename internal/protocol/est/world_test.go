package est_test

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/status"
	"github.com/birthmark/birthmark/internal/protocol/est"
	"github.com/birthmark/birthmark/internal/store"
	"github.com/birthmark/birthmark/internal/web/server"
	"github.com/birthmark/birthmark/internal/web/webtest"
)

// guarded is a profile whose requests wait for an operator.
const guarded = `name: guarded
kind: ldevid
purpose: guarded
keys: [p256]
validity: {days: 30}
subject:
  - {attribute: commonName, from: deviceSerial}
keyUsage: [digitalSignature]
requireApproval: true
`

// served and sealed are profiles whose keys we may make.
const served = `name: served
kind: ldevid
purpose: served
keys: [rsa4096, p256]
validity: {days: 30}
subject:
  - {attribute: commonName, from: deviceSerial}
keyUsage: [digitalSignature]
trusts: [issuing]
serverKeygen: tls
`

const sealed = `name: sealed
kind: ldevid
purpose: sealed
keys: [ed25519]
validity: {days: 30}
subject:
  - {attribute: commonName, from: deviceSerial}
keyUsage: [digitalSignature]
trusts: [issuing]
serverKeygen: sealed
`

const hardware = `name: hardware
kind: ldevid
purpose: hardware
keys: [p256]
validity: {days: 30}
subject:
  - {attribute: commonName, from: deviceSerial}
keyUsage: [digitalSignature]
requireHardwareKey: true
`

// world is an installation with its device listener.
type world struct {
	*webtest.World
	*webtest.Listener
	roots *x509.CertPool
	certs map[string]*tls.Certificate // of devices, by name
}

func newWorld(t testing.TB, limits server.Limits) *world {
	t.Helper()
	w := &world{certs: map[string]*tls.Certificate{}}
	w.World = webtest.NewWorld(t, webtest.Config{Profiles: []string{guarded, served, sealed, hardware}, Open: func(path string, now func() time.Time) (webtest.Store, func() error, error) {
		s, err := store.Open(t.Context(), store.Config{DSN: "sqlite:" + path, Node: "test", Now: now, Rand: rand.Reader, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			return nil, nil, err
		}
		return s, s.Close, nil
	}})
	w.Listener = webtest.Listen(t, server.Config{
		Name: "device", Routes: routes(est.New(w.Enroller)), TLS: server.DeviceTLS(w.ServerCertificate(t)), Limits: limits,
	})
	w.roots = w.Roots(t)
	return w
}

// routes is the table of a device listener.
func routes(h *est.Handlers) []server.Route {
	var all []server.Route
	for _, label := range []string{"", "{label}/"} {
		row := func(method, name string, action access.Action, handler server.Handler, most int64) {
			all = append(all, server.Route{
				Method: method, Path: est.Prefix + label + name, Action: action, Handler: handler, MaxBody: most, Fault: est.WriteFault,
			})
		}
		row("GET", "cacerts", access.Public, h.CACerts, 0)
		row("GET", "csrattrs", access.Enroll, h.CSRAttrs, 0)
		row("POST", "simpleenroll", access.Enroll, h.SimpleEnroll, est.MaxBody)
		row("POST", "simplereenroll", access.Enroll, h.SimpleReenroll, est.MaxBody)
		row("POST", "serverkeygen", access.Enroll, h.ServerKeyGen, est.MaxBody)
		row("GET", "nonce", access.Enroll, h.Nonce, 0)
		row("POST", "nonce", access.Enroll, h.Nonce, est.MaxNonceBody)
		row("POST", "tcg-csr", access.Enroll, h.TCGCSR, tpm.MaxCSR)
	}
	return all
}

// tls is how a client connects, with a certificate by name or none.
func (w *world) tls(name string) *tls.Config {
	c := &tls.Config{RootCAs: w.roots, ServerName: "localhost"}
	if name == "" {
		return c
	}
	cert := w.certs[name]
	if cert == nil {
		return nil
	}
	// Also when its issuer is not among those that the server names.
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	return c
}

func (w *world) script() *webtest.Script {
	return &webtest.Script{
		Network: "tcp", Address: w.Address, TLS: w.tls, Vars: map[string]string{}, Bodies: map[string][]byte{},
		Acts: map[string]func(*testing.T, *webtest.Script, []string){
			"device": w.actDevice, "enrolled": w.actEnrolled, "csr": w.actCSR, "revoke": w.actRevoke, "hold": w.actHold,
			"approve": w.actApprove, "pass": w.actPass, "foreign": w.actForeign, "issued": w.actIssued, "label": w.actLabel,
			"product": w.actProduct, "decode": w.actDecode,
		},
	}
}

// product NAME PROFILE...
func (w *world) actProduct(t *testing.T, _ *webtest.Script, args []string) {
	w.Product(t, args[0], args[1:]...)
}

// device SERIAL [PRODUCT]: registers it; ${SERIAL} is its Basic credentials,
// ${SERIAL-secret} the secret.
func (w *world) actDevice(t *testing.T, s *webtest.Script, args []string) {
	product := "sensor"
	if len(args) > 1 {
		product = args[1]
	}
	d := w.Device(t, product, args[0])
	s.Vars[args[0]] = base64.StdEncoding.EncodeToString([]byte(args[0] + ":" + d.Secret))
	s.Vars[args[0]+"-secret"] = d.Secret
}

// enrolled SERIAL: has a certificate, to be used "as SERIAL"; body SERIAL-csr
// asks for the same names with a new key.
func (w *world) actEnrolled(t *testing.T, s *webtest.Script, args []string) {
	cert := w.Enrolled(t, "sensor", args[0])
	w.certs[args[0]] = cert
	s.Bodies[args[0]+"-csr"] = based(webtest.NewCSR(t, webtest.NewKey(t), cert.Leaf.RawSubject))
	s.Bodies[args[0]+"-same"] = based(webtest.NewCSR(t, cert.PrivateKey.(crypto.Signer), cert.Leaf.RawSubject))
}

// csr NAME: bodies NAME (base64), NAME-crlf, NAME-pem, NAME-der, NAME-bad.
func (w *world) actCSR(t *testing.T, s *webtest.Script, args []string) {
	der := webtest.NewCSR(t, webtest.NewKey(t), nil)
	s.Bodies[args[0]] = based(der)
	s.Bodies[args[0]+"-crlf"] = []byte(wrapped(string(based(der)), 64, "\r\n"))
	s.Bodies[args[0]+"-lf"] = []byte(wrapped(string(based(der)), 76, "\n"))
	s.Bodies[args[0]+"-pem"] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	s.Bodies[args[0]+"-der"] = der
	s.Bodies[args[0]+"-bad"] = append(based(der)[:100], '*')
	s.Bodies[args[0]+"-big"] = []byte(strings.Repeat("A", est.MaxBody+1))
}

func (w *world) actRevoke(t *testing.T, _ *webtest.Script, args []string) {
	_, err := w.Status.Revoke(t.Context(), *w.Operator, status.Act{CertSerial: w.certs[args[0]].Leaf.SerialNumber.Bytes(), Reason: "keyCompromise"})
	must(t, err)
}

func (w *world) actHold(t *testing.T, _ *webtest.Script, args []string) {
	_, err := w.Status.Hold(t.Context(), *w.Operator, status.Act{CertSerial: w.certs[args[0]].Leaf.SerialNumber.Bytes()})
	must(t, err)
}

// approve: a second operator approves all that waits.
func (w *world) actApprove(t *testing.T, _ *webtest.Script, _ []string) {
	all, _, err := w.Store.Approvals(t.Context(), access.Waiting, "", 10)
	must(t, err)
	for _, a := range all {
		a.State, a.DecidedBy, a.DecidedAt = access.Approved, "operator:second", w.Now()
		must(t, w.Store.MoveApproval(t.Context(), a, access.Waiting, ledger.Entry{Kind: ledger.ApprovalDecided, At: w.Now(), Actor: "operator:second", Body: ledger.JSON(struct{}{})}))
	}
}

// pass DURATION
func (w *world) actPass(t *testing.T, _ *webtest.Script, args []string) {
	d, err := time.ParseDuration(args[0])
	must(t, err)
	w.Pass(d)
}

// foreign NAME SERIAL expired|valid: a certificate of nobody we know.
func (w *world) actForeign(t *testing.T, _ *webtest.Script, args []string) {
	end := time.Now().Add(time.Hour)
	if args[1] == "expired" {
		end = time.Now().Add(-time.Hour)
	}
	w.certs[args[0]] = webtest.SelfSigned(t, args[0], end)
}

// label NAME PROFILE WRAP
func (w *world) actLabel(t *testing.T, _ *webtest.Script, args []string) {
	wrap := 0
	if len(args) > 2 {
		wrap = len(args[2])
	}
	must(t, w.Authority.SetLabel(t.Context(), "system", authority.Label{Name: args[0], Profile: args[1], Wrap: wrap}))
}

// issued SERIAL none|one|two: how many certificates the device has.
func (w *world) actIssued(t *testing.T, _ *webtest.Script, args []string) {
	want := map[string]int{"none": 0, "one": 1, "two": 2}[args[1]]
	if got := len(w.credentials(t, args[0])); got != want {
		t.Errorf("%s has %d certificates, want %s", args[0], got, args[1])
	}
}

func (w *world) credentials(t testing.TB, deviceSerial string) []device.Credential {
	t.Helper()
	rows, _, err := w.Store.Credentials(t.Context(), access.Everything(), device.CredentialQuery{Device: w.Store.DeviceID(deviceSerial), Limit: 100})
	must(t, err)
	return rows
}

// decode NAME LENGTH: the body kept under this name is base64 in lines of this
// length (0: one line), and nothing else.
func (w *world) actDecode(t *testing.T, s *webtest.Script, args []string) {
	text := string(s.Bodies[args[0]])
	flat := strings.ReplaceAll(text, "\n", "")
	der, err := base64.StdEncoding.Strict().DecodeString(flat)
	must(t, err)
	want := base64.StdEncoding.EncodeToString(der)
	if args[1] == "64" {
		want = wrapped(want, 64, "\n")
	}
	if text != want {
		t.Errorf("got %q, want %q", text, want)
	}
}

func based(der []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(der)) }

func wrapped(text string, n int, end string) string {
	var b strings.Builder
	for len(text) > 0 {
		line := text[:min(n, len(text))]
		b.WriteString(line + end)
		text = text[len(line):]
	}
	return b.String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

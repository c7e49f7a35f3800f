package agent_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/edge/agent"
	"github.com/birthmark/birthmark/internal/edge/station/stationtest"
	"github.com/birthmark/birthmark/internal/edge/tpm"
	"github.com/birthmark/birthmark/internal/edge/tpm/tpmtest"
	"github.com/birthmark/birthmark/internal/fault"
	format "github.com/birthmark/birthmark/internal/format/tpm"
)

// world is a server that gives each device one certificate: one-time secrets are
// spent, the same key gets the same again.
type world struct {
	t    *testing.T
	http *httptest.Server
	root *x509.Certificate
	key  *ecdsa.PrivateKey
	// hook sees each item's result before it is sent; when it returns true the
	// connection breaks instead.
	hook func(path string, r *format.Result) bool
	life time.Duration
	now  func() time.Time

	mu      sync.Mutex
	secrets map[string]string // by device serial
	tickets map[string]*stationtest.Ticket
	issued  map[string][]byte // SPKI to certificate
	owner   map[string]string // SPKI to device serial
	count   int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, life: 90 * 24 * time.Hour, now: time.Now,
		secrets: map[string]string{}, tickets: map[string]*stationtest.Ticket{}, issued: map[string][]byte{}, owner: map[string]string{},
	}
	var err error
	if w.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	w.root = w.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "Root"}, NotAfter: time.Now().Add(24 * 365 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}, &w.key.PublicKey)
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+format.ChallengePath, w.lines(w.challenge))
	mux.HandleFunc("POST "+format.EnrollPath, w.lines(w.enroll))
	w.http = httptest.NewUnstartedServer(mux)
	w.http.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	w.http.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are meant to fail
	w.http.StartTLS()
	t.Cleanup(w.http.Close)
	return w
}

func (w *world) sign(c *x509.Certificate, public any) *x509.Certificate {
	c.SerialNumber, _ = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if c.NotBefore.IsZero() {
		c.NotBefore = time.Now().Add(-time.Hour)
	}
	parent := w.root
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, public, w.key)
	if err != nil {
		w.t.Error(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		w.t.Error(err)
	}
	return out
}

// who returns the device that asks; empty: nobody who may.
func (w *world) who(r *http.Request) (deviceSerial string, bySecret bool) {
	if list := r.TLS.PeerCertificates; len(list) > 0 && list[0].CheckSignatureFrom(w.root) == nil {
		return list[0].Subject.SerialNumber, false
	}
	user, password, _ := r.BasicAuth()
	w.mu.Lock()
	defer w.mu.Unlock()
	if password != "" && w.secrets[user] == password {
		return user, true
	}
	return "", false
}

func refused(err error) format.Result {
	f := fault.Of(err)
	return format.Result{Code: f.Code.String(), Kind: f.Kind.String(), Message: f.Message, Detail: f.Detail, Remedy: f.Remedy}
}

func (w *world) lines(do func(deviceSerial string, bySecret bool, line []byte) format.Result) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		deviceSerial, bySecret := w.who(r)
		if deviceSerial == "" {
			rw.Header().Set("Content-Type", "application/problem+json")
			rw.WriteHeader(http.StatusUnauthorized)
			_ = json.NewEncoder(rw).Encode(map[string]string{"type": "urn:birthmark:problem:unauthenticated", "code": fault.SecretWrong.String()})
			return
		}
		in := bufio.NewScanner(r.Body)
		in.Buffer(nil, format.MaxLine)
		for in.Scan() {
			result := do(deviceSerial, bySecret, in.Bytes())
			if w.hook != nil && w.hook(r.URL.Path, &result) {
				panic(http.ErrAbortHandler)
			}
			_ = json.NewEncoder(rw).Encode(result)
		}
	}
}

func (w *world) challenge(_ string, _ bool, line []byte) format.Result {
	var in format.ChallengeRequest
	if err := json.Unmarshal(line, &in); err != nil {
		return refused(fault.New(fault.RequestMalformed))
	}
	c, ticket, err := stationtest.NewChallenge(in.Claim)
	if err != nil {
		return refused(err)
	}
	c.Quote = &format.QuoteRequest{Bank: "sha256", PCRs: []int{0, 7}}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tickets[string(c.Ticket)] = ticket
	return format.Result{ID: in.ID, OK: true, Challenge: c}
}

func (w *world) enroll(deviceSerial string, bySecret bool, line []byte) format.Result {
	var in format.EnrollRequest
	if err := json.Unmarshal(line, &in); err != nil {
		return refused(fault.New(fault.RequestMalformed))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	ticket := w.tickets[string(in.Answer.Ticket)]
	if ticket == nil {
		return refused(fault.New(fault.TicketInvalid))
	}
	delete(w.tickets, string(in.Answer.Ticket))
	public, spki := ticket.AK.Key, ticket.AK.SPKI
	if len(in.CSR) > 0 {
		csr, err := x509.ParseCertificateRequest(in.CSR)
		if err != nil || csr.CheckSignature() != nil {
			return refused(fault.New(fault.RequestMalformed))
		}
		public, spki = csr.PublicKey, csr.RawSubjectPublicKeyInfo
		if err := ticket.Check(&in.Answer, spki); err != nil {
			return refused(err)
		}
	} else if in.Label != "attestation" {
		return refused(fault.New(fault.RequestMalformed, "no request and no attestation profile"))
	}
	if owner, ok := w.owner[string(spki)]; ok && owner != deviceSerial {
		return refused(fault.New(fault.KeyInUse))
	}
	if der := w.issued[string(spki)]; der != nil && bySecret {
		return format.Result{ID: in.ID, OK: true, Replayed: true, Certificate: der, Chain: [][]byte{w.root.Raw}}
	}
	if bySecret {
		for _, one := range w.owner {
			if one == deviceSerial {
				return refused(fault.New(fault.SecretSpent))
			}
		}
	}
	c := w.sign(&x509.Certificate{Subject: pkix.Name{SerialNumber: deviceSerial}, NotBefore: w.now().Add(-time.Minute), NotAfter: w.now().Add(w.life)}, public)
	w.issued[string(spki)], w.owner[string(spki)] = c.Raw, deviceSerial
	w.count++
	return format.Result{ID: in.ID, OK: true, Certificate: c.Raw, Chain: [][]byte{w.root.Raw}}
}

// add lets a device enroll with a secret.
func (w *world) add(deviceSerial string) agent.Requester {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.secrets[deviceSerial] = "secret of " + deviceSerial
	return agent.Requester{DeviceSerial: deviceSerial, Secret: w.secrets[deviceSerial]}
}

func (w *world) certificates() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}

func (w *world) trust() []byte { return agent.PEM(w.http.Certificate().Raw) }

// config is a device of the world with a TPM.
func (w *world) config(dir string, d *tpm.TPM, by agent.Requester) agent.Config {
	return agent.Config{
		Dir: dir, Server: w.http.URL, Trust: w.trust(), Key: agent.InTPM, TPM: d, Requester: by,
		AKLabel: "attestation", Patience: 10 * time.Second, Now: w.now,
	}
}

func run(t *testing.T, c agent.Config) (*agent.Outcome, error) {
	t.Helper()
	a, err := agent.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return a.Enroll(t.Context())
}

func open(t *testing.T, one *tpmtest.TPM) *tpm.TPM {
	t.Helper()
	d, err := tpm.Open(t.Context(), tpm.Config{Path: one.Path})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func nothingLoaded(t *testing.T, d *tpm.TPM) {
	t.Helper()
	h, err := d.Handles(t.Context())
	if err != nil || len(h.Objects)+len(h.Sessions) > 0 {
		t.Errorf("the TPM holds objects %x and sessions %x, %v", h.Objects, h.Sessions, err)
	}
}

func same(a, b []byte) bool { return len(a) > 0 && bytes.Equal(a, b) }

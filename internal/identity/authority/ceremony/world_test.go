package ceremony

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/birthmark/birthmark/internal/pki/profile"
	"github.com/birthmark/birthmark/internal/pki/shares"
)

// room is where a test's ceremony is held.
type room struct {
	t          *testing.T
	dir        string
	now        time.Time
	identities map[string]string // of custodians
	plan       NewPlan
	key        []byte // the ceremony's, before it ended
}

// newRoom plans a ceremony with two of three custodians.
func newRoom(t *testing.T) *room {
	t.Helper()
	r := &room{
		t: t, dir: filepath.Join(t.TempDir(), "ceremony"), now: time.Date(2026, 9, 1, 8, 0, 0, 0, time.UTC),
		identities: make(map[string]string),
	}
	r.plan = NewPlan{Plan: Plan{
		Title: "Root of Acme", Authority: "root", Organization: "Acme", StatusURL: "http://pki.example.com",
		Participants: []string{"administrator", "auditor"}, Key: KeyFile, Threshold: 2,
		Custodians: []Custodian{r.custodian("custodian-1"), r.custodian("custodian-2"), r.custodian("custodian-3")},
	}}
	return r
}

// custodian makes a custodian with a key.
func (r *room) custodian(name string) Custodian {
	r.t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		r.t.Fatal(err)
	}
	r.identities[name] = id.String()
	return Custodian{Name: name, Recipient: id.Recipient().String()}
}

func (r *room) config() Config {
	return Config{
		Dir: r.dir, Rand: rand.Reader, Iterations: 1000, Present: []string{"administrator"},
		Now: func() time.Time { r.now = r.now.Add(time.Minute); return r.now },
		Machine: Machine{
			Version: "test", Binary: strings.Repeat("0", 64), System: "linux/amd64",
		},
	}
}

func (r *room) begin() {
	r.t.Helper()
	if _, err := Begin(r.config(), r.plan); err != nil {
		r.t.Fatal(err)
	}
}

func (r *room) open() *Ceremony {
	r.t.Helper()
	c, err := Open(r.config())
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func preset(t *testing.T, name string) []byte {
	t.Helper()
	text, ok := profile.Preset(name)
	if !ok {
		t.Fatal("no preset", name)
	}
	return text
}

func (r *room) makeRoot() {
	r.t.Helper()
	_, err := r.open().MakeRoot(context.Background(), NewRoot{Profile: preset(r.t, "root"), KeyType: profile.P256})
	if err != nil {
		r.t.Fatal(err)
	}
}

// share opens a custodian's share.
func (r *room) share(name string) shares.Share {
	r.t.Helper()
	_, s, err := r.open().OpenShare(name, strings.NewReader(r.identities[name]))
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// session opens the root with these custodians.
func (r *room) session(names ...string) *Session {
	r.t.Helper()
	var given []shares.Share
	for _, name := range names {
		given = append(given, r.share(name))
	}
	s, err := r.open().OpenRoot(r.t.Context(), given)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// csr returns a request for a new key.
func (r *room) csr() []byte {
	r.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "whatever they ask for"}}, key)
	if err != nil {
		r.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// whole holds a whole ceremony.
func (r *room) whole() {
	r.t.Helper()
	r.begin()
	r.makeRoot()
	s := r.session("custodian-1", "custodian-3")
	defer s.Close()
	if _, err := s.Sign(Subordinate{Name: "issuing", CSR: r.csr(), Profile: preset(r.t, "issuing")}); err != nil {
		r.t.Fatal(err)
	}
	if _, err := s.SignCRL(nil); err != nil {
		r.t.Fatal(err)
	}
	var err error
	if r.key, err = os.ReadFile(r.step(keyName)); err != nil {
		r.t.Fatal(err)
	}
	if _, err := s.Finish(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *room) step(name string) string { return filepath.Join(r.dir, name) }

package webtest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/statement"
	"github.com/birthmark/birthmark/internal/identity/status"
	"github.com/birthmark/birthmark/internal/pki/keypool"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/pki/profile"
	"github.com/birthmark/birthmark/internal/web/server"
)

// Store is the record behind a World: package store has it.
type Store interface {
	authority.Store
	device.Store
	access.Store
	status.Store
	ledger.Store
	factory.Store
	attest.Store
	// Changed is closed when something is committed.
	Changed() <-chan struct{}
}

// RootPassphrase opens the root of a World.
const RootPassphrase = "a passphrase of the root 7Hq"

// World is an installation with a root, an issuing authority "issuing", the
// presets, and a product "sensor" whose devices get LDevIDs.
type World struct {
	Store     Store
	Authority *authority.Service
	Register  *device.Register
	Access    *access.Service
	Status    *status.Service
	Enroller  *enroll.Enroller
	Factory   *factory.Service
	Attest    *attest.Service
	// Statements signs nonce blocks and replies to batches.
	Statements *statement.Signer
	Operator   *access.Caller // may do everything

	dir    string
	keys   *keystore.Store
	cursor int64 // of the change feed
	mu     sync.Mutex
	now    time.Time // guarded by mu
}

// Config says what a World is made of.
type Config struct {
	// Open opens the record at a path.
	Open func(path string, now func() time.Time) (Store, func() error, error)
	// Profiles are imported besides the presets.
	Profiles []string
}

// NewWorld makes an installation.
func NewWorld(t testing.TB, c Config) *World {
	t.Helper()
	w := &World{now: time.Now().Truncate(time.Second)}
	system := access.System()
	w.Operator = &system
	w.dir = t.TempDir()
	db, closeStore, err := c.Open(filepath.Join(w.dir, "birthmark.db"), w.Now)
	must(t, err)
	w.Store = db
	w.keys, err = keystore.Open(keystore.Config{Dir: filepath.Join(w.dir, "keys"), Rand: rand.Reader, Iterations: 1000})
	must(t, err)
	w.wire(t)
	t.Cleanup(func() {
		must(t, w.Authority.Close(context.Background()))
		must(t, closeStore())
	})
	w.install(t, c.Profiles)
	return w
}

func (w *World) wire(t testing.TB) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	var err error
	w.Authority, err = authority.New(authority.Config{
		Store: w.Store, Register: w.Store, Keys: w.keys, Now: w.Now, Rand: rand.Reader, Node: "test", Block: 512,
		Secret: func(string) (keystore.Secret, error) { return keystore.Secret("issuing"), nil },
	})
	must(t, err)
	w.Register, err = device.NewRegister(device.RegisterConfig{Store: w.Store, Now: w.Now, Rand: rand.Reader})
	must(t, err)
	w.Access, err = access.New(access.Config{Store: w.Store, Now: w.Now, Rand: rand.Reader, SecondOperator: []string{factory.ApprovalKind}})
	must(t, err)
	leases, ok := w.Store.(status.Leases)
	if !ok {
		t.Fatal("the store hands out no leases")
	}
	w.Status, err = status.New(status.Config{
		Store: w.Store, Register: w.Store, Leases: leases, Authorities: w.Authority, Now: w.Now, Rand: rand.Reader, Node: "test",
	})
	must(t, err)
	w.wireLine(t, log)
}

// wireLine adds the factory and the road that asks it.
func (w *World) wireLine(t testing.TB, log *slog.Logger) {
	t.Helper()
	var err error
	w.Statements, err = statement.Open(context.Background(), statement.Config{
		Keys: w.keys, Secret: keystore.Secret("issuing"), Certificate: filepath.Join(w.dir, "statement.pem"),
		Organization: "Acme", Now: w.Now, Rand: rand.Reader,
	})
	must(t, err)
	planes, err := factory.NewPlanes(w.Store)
	must(t, err)
	sealer, err := factory.NewSealer([32]byte{1})
	must(t, err)
	w.Factory, err = factory.New(factory.Config{
		Store: w.Store, Register: w.Store, Authorities: w.Authority, Approvals: w.Access, Ledger: w.Store, Planes: planes,
		Statements: w.Statements, Secrets: sealer, Now: w.Now, Rand: rand.Reader, Node: "test", Logger: log,
	})
	must(t, err)
	w.Attest, err = attest.New(attest.Config{
		Store: w.Store, Products: w.Store, ParseRoots: tpm.ParseRoots, Now: w.Now, Logger: log,
		CheckPolicy: func(content []byte) error { _, err := tpm.ParsePolicy(content); return err },
	})
	must(t, err)
	pool, err := keypool.New(keypool.Config{Rand: rand.Reader})
	must(t, err)
	t.Cleanup(pool.Close)
	w.Enroller, err = enroll.New(enroll.Config{
		Devices: w.Store, Authorities: w.Authority, Approvals: w.Store, MayIssue: func() error { return nil }, Now: w.Now, Logger: log,
		Line:   &enroll.Line{Store: w.Store, Planes: planes, Keys: pool, Alarms: alarms{w.Factory}, Status: w.Status, Random: rand.Reader, Packages: w.Statements},
		Attest: &enroll.Attest{Store: w.Store, Chips: w.Store, Random: rand.Reader},
	})
	must(t, err)
}

// alarms is the factory as the road raises alarms.
type alarms struct{ factory *factory.Service }

// Raise raises an alarm.
func (a alarms) Raise(_ context.Context, _ string, x factory.Alarm) { a.factory.Raise(x) }

func (w *World) install(t testing.TB, profiles []string) {
	t.Helper()
	ctx := context.Background()
	must(t, w.Store.Install(ctx,
		authority.Installation{ID: [16]byte{1}, Organization: "Acme", StatusURL: "http://pki.example.com", CreatedAt: w.Now()},
		ledger.Entry{Kind: ledger.Installed, At: w.Now(), Actor: "system", Body: ledger.JSON(struct{}{})}))
	_, err := w.Authority.CreateRoot(ctx, "system", authority.NewAuthority{Name: "root", Secret: keystore.Secret(RootPassphrase)})
	must(t, err)
	session, err := w.Authority.OpenRoot(ctx, "root", keystore.Secret(RootPassphrase))
	must(t, err)
	defer session.Close()
	_, err = session.CreateIssuing(ctx, "system", authority.NewAuthority{Name: "issuing", Secret: keystore.Secret("issuing")})
	must(t, err)
	must(t, w.Authority.ImportPresets(ctx, "system"))
	for _, text := range profiles {
		_, err := w.Authority.ImportProfile(ctx, "system", []byte(text))
		must(t, err)
	}
	w.Product(t, "sensor", "ldevid-cloud")
}

// Now is the time in this world; it stands still.
func (w *World) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// Pass lets time pass.
func (w *World) Pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// Follow tells the services what was committed, as the change feed does.
func (w *World) Follow(t testing.TB) {
	t.Helper()
	batches, err := w.Store.LedgerBatches(context.Background(), w.cursor, ^ledger.Class(0), 1<<20)
	must(t, err)
	for _, b := range batches {
		w.cursor = b.First + int64(len(b.Leaves))
		must(t, errors.Join(
			w.Authority.Follow(context.Background(), b), w.Access.Follow(context.Background(), b), w.Status.Follow(context.Background(), b)))
	}
}

// Product adds a product with these profiles.
func (w *World) Product(t testing.TB, name string, profiles ...string) device.Product {
	t.Helper()
	p, err := w.Authority.AddProduct(context.Background(), "system", device.Product{Name: name, Profiles: profiles})
	must(t, err)
	return p
}

// Device registers a device and returns it with its one-time secret.
func (w *World) Device(t testing.TB, product, deviceSerial string) device.Added {
	t.Helper()
	added, err := w.Register.Add(context.Background(), w.Operator, []device.NewDevice{{DeviceSerial: deviceSerial, Product: product}})
	must(t, err)
	return added[0]
}

// Enrolled registers a device and enrolls it.
func (w *World) Enrolled(t testing.TB, product, deviceSerial string) *tls.Certificate {
	t.Helper()
	d := w.Device(t, product, deviceSerial)
	key := NewKey(t)
	r, err := w.Enroller.Enroll(context.Background(), enroll.Request{
		Operation: enroll.Enroll, CSR: NewCSR(t, key, nil),
		Requester: enroll.Requester{DeviceSerial: deviceSerial, Secret: []byte(d.Secret)},
	})
	must(t, err)
	leaf, err := x509.ParseCertificate(r.Credential.DER)
	must(t, err)
	return &tls.Certificate{Certificate: [][]byte{r.Credential.DER}, PrivateKey: key, Leaf: leaf}
}

// Roots are the anchors of this world.
func (w *World) Roots(t testing.TB) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(w.Certificate(t, "root"))
	return pool
}

// Certificate returns an authority's certificate.
func (w *World) Certificate(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	plane, err := w.Authority.Refresh(context.Background())
	must(t, err)
	m, err := plane.Authority(name)
	must(t, err)
	return m.X509
}

// ServerCertificate is the listener's certificate.
func (w *World) ServerCertificate(t testing.TB) *server.Certificate {
	t.Helper()
	p, err := w.Authority.Server(context.Background(), "device", []string{"localhost", "127.0.0.1"}, profile.P256)
	must(t, err)
	c := new(server.Certificate)
	c.Set(&tls.Certificate{Certificate: p.Chain, PrivateKey: p.Key, Leaf: p.X509})
	return c
}

// NewKey makes a P-256 key.
func NewKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

// NewCSR makes a request; without a subject it has one that nobody looks at.
func NewCSR(t testing.TB, key crypto.Signer, rawSubject []byte) []byte {
	t.Helper()
	r := &x509.CertificateRequest{RawSubject: rawSubject}
	if rawSubject == nil {
		r.Subject = pkix.Name{CommonName: "whatever"}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, r, key)
	must(t, err)
	return der
}

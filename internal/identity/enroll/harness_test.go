package enroll_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/status"
	"github.com/birthmark/birthmark/internal/pki/keypool"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/store"
)

var secret = keystore.Secret("correct horse battery staple")

// world is an installation on real SQLite with a movable clock.
type world struct {
	t        testing.TB
	dsn      string
	keys     *keystore.Store
	store    *store.Store
	plane    *authority.Service
	register *device.Register
	enroller *enroll.Enroller
	status   *status.Service
	alarms   alarms
	line     *enroll.Line
	operator *access.Caller

	mu  sync.Mutex
	now time.Time // guarded by mu
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func newWorld(t testing.TB, profiles ...string) *world {
	t.Helper()
	return newWorldOn(t, "sqlite:"+filepath.Join(t.TempDir(), "test.db"), profiles...)
}

func newWorldOn(t testing.TB, dsn string, profiles ...string) *world {
	t.Helper()
	w := &world{t: t, dsn: dsn, now: time.Now().Truncate(time.Second), operator: &access.Caller{Name: "system", Scope: access.Everything()}}
	ctx := t.Context()
	var err error
	w.keys, err = keystore.Open(keystore.Config{Dir: filepath.Join(t.TempDir(), "keys"), Rand: rand.Reader, Iterations: 1000})
	must(t, err)
	w.open("first")
	must(t, w.store.Install(ctx, authority.Installation{ID: [16]byte{1}, Organization: "Acme", CreatedAt: w.now},
		ledger.Entry{Kind: ledger.Installed, At: w.now, Actor: "system", Body: ledger.JSON(struct{}{})}))
	_, err = w.plane.CreateRoot(ctx, "system", authority.NewAuthority{Name: "root", Secret: secret})
	must(t, err)
	session, err := w.plane.OpenRoot(ctx, "root", secret)
	must(t, err)
	defer session.Close()
	_, err = session.CreateIssuing(ctx, "system", authority.NewAuthority{Name: "issuing", Secret: secret})
	must(t, err)
	must(t, w.plane.ImportPresets(ctx, "system"))
	for _, text := range profiles {
		_, err := w.plane.ImportProfile(ctx, "system", []byte(text))
		must(t, err)
	}
	w.register, err = device.NewRegister(device.RegisterConfig{Store: w.store, Now: w.clock, Rand: rand.Reader})
	must(t, err)
	return w
}

// open is a node's start on the world's database.
func (w *world) open(node string) {
	t := w.t
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	var err error
	w.store, err = store.Open(t.Context(), store.Config{DSN: w.dsn, Node: node, Now: w.clock, Rand: rand.Reader, Logger: log})
	must(t, err)
	w.plane, err = authority.New(authority.Config{
		Store: w.store, Register: w.store, Keys: w.keys, Secret: func(string) (keystore.Secret, error) { return secret, nil },
		Now: w.clock, Rand: rand.Reader, Node: node, Block: 64,
	})
	must(t, err)
	plane, db := w.plane, w.store
	t.Cleanup(func() {
		must(t, plane.Close(context.Background()))
		must(t, db.Close())
	})
	planes, err := factory.NewPlanes(w.store)
	must(t, err)
	pool, err := keypool.New(keypool.Config{Rand: rand.Reader})
	must(t, err)
	t.Cleanup(pool.Close)
	w.status, err = status.New(status.Config{
		Store: w.store, Register: w.store, Authorities: w.plane, Leases: w.store, Now: w.clock, Rand: rand.Reader, Node: node,
	})
	must(t, err)
	w.alarms = make(chan factory.Alarm, 1000)
	w.line = &enroll.Line{Store: w.store, Planes: planes, Keys: pool, Alarms: w.alarms, Status: w.status, Random: rand.Reader}
	w.reopen(&enroll.Attest{Store: w.store, Chips: w.store, Random: rand.Reader})
}

// reopen makes an enroller anew, with this for TPMs.
func (w *world) reopen(a *enroll.Attest) {
	w.t.Helper()
	var err error
	w.enroller, err = enroll.New(enroll.Config{
		Devices: w.store, Authorities: w.plane, Approvals: w.store, MayIssue: func() error { return nil },
		Now: w.clock, Logger: slog.New(slog.DiscardHandler), Line: w.line, Attest: a,
	})
	must(w.t, err)
}

// withoutLine is an enroller of an installation that has no production line.
func withoutLine(t testing.TB, w *world) *enroll.Enroller {
	t.Helper()
	e, err := enroll.New(enroll.Config{
		Devices: w.store, Authorities: w.plane, Approvals: w.store, MayIssue: func() error { return nil },
		Now: w.clock, Logger: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	return e
}

// alarms collects what was raised.
type alarms chan factory.Alarm

func (a alarms) Raise(_ context.Context, _ string, x factory.Alarm) { a <- x }

// secondNode is another node on the same database, with caches of its own that
// nobody refreshes.
func (w *world) secondNode() *world {
	w.t.Helper()
	second := &world{t: w.t, dsn: w.dsn, keys: w.keys, now: w.now, operator: w.operator}
	second.open("second")
	_, err := second.plane.Snapshot(w.t.Context())
	must(w.t, err)
	return second
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// product adds a product with these profiles.
func (w *world) product(name string, profiles ...string) {
	w.t.Helper()
	_, err := w.plane.AddProduct(w.t.Context(), "system", device.Product{Name: name, Profiles: profiles})
	must(w.t, err)
}

// device registers a device and returns its one-time secret.
func (w *world) device(product, deviceSerial string) device.Added {
	w.t.Helper()
	added, err := w.register.Add(w.t.Context(), w.operator, []device.NewDevice{{DeviceSerial: deviceSerial, Product: product}})
	must(w.t, err)
	return added[0]
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func newCSR(t testing.TB, key crypto.Signer, rawSubject []byte) []byte {
	t.Helper()
	r := &x509.CertificateRequest{RawSubject: rawSubject}
	if rawSubject == nil {
		r.Subject = pkix.Name{CommonName: "whatever"}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, r, key)
	must(t, err)
	return der
}

// bySecret enrolls with the one-time secret.
func (w *world) bySecret(d device.Added, csr []byte) (*enroll.Response, error) {
	return w.enroller.Enroll(w.t.Context(), enroll.Request{
		Operation: enroll.Enroll, CSR: csr,
		Requester: enroll.Requester{DeviceSerial: d.Device.DeviceSerial, Secret: []byte(d.Secret)},
	})
}

// byCertificate asks with a client certificate.
func (w *world) byCertificate(op enroll.Operation, cert *x509.Certificate, label string, csr []byte) (*enroll.Response, error) {
	return w.enroller.Enroll(w.t.Context(), enroll.Request{
		Operation: op, Label: label, CSR: csr, Requester: enroll.Requester{Chain: []*x509.Certificate{cert}},
	})
}

func parsed(t testing.TB, r *enroll.Response) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(r.Credential.DER)
	must(t, err)
	return c
}

func label(name, profileName string) authority.Label {
	return authority.Label{Name: name, Profile: profileName}
}

// foreignCA makes a chip maker's authority.
func foreignCA(t testing.TB) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	key := newKey(t)
	return signCertificate(t, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "Chip maker CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, key, key), key
}

// foreignLeaf is an IDevID that a chip maker put in.
func foreignLeaf(t testing.TB, ca *x509.Certificate, caKey, key crypto.Signer, deviceSerial string) *x509.Certificate {
	t.Helper()
	return signCertificate(t, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "chip", SerialNumber: deviceSerial},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}, ca, caKey, key)
}

func signCertificate(t testing.TB, template, parent *x509.Certificate, parentKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	must(t, err)
	c, err := x509.ParseCertificate(der)
	must(t, err)
	return c
}

package status_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/status"
	"github.com/birthmark/birthmark/internal/pki/issuing"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/store"
)

var (
	rootSecret   = keystore.Secret("root passphrase")
	serverSecret = keystore.Secret("server passphrase")
	officer      = access.System()
)

// clock is a time that tests set.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// world is a status service with everything real behind it: SQLite, keystore,
// authorities.
type world struct {
	*status.Service
	store       *store.Store
	authorities *authority.Service
	keys        *keystore.Store
	clock       *clock
	folder      string
	cursor      int64
	product     int64
	next        int
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldAt(t, time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC), 1)
}

func newWorldAt(t testing.TB, at time.Time, shards int) *world {
	t.Helper()
	w := &world{folder: t.TempDir(), clock: &clock{t: at}}
	w.start(t)
	ctx := t.Context()
	noError(t, w.store.Install(ctx, authority.Installation{
		ID: [16]byte{1}, Organization: "Acme", StatusURL: "http://pki.example.com", CreatedAt: w.clock.now(),
	}, ledger.Entry{Kind: ledger.Installed, At: w.clock.now(), Actor: "system", Body: ledger.JSON(struct{}{})}))
	_, err := w.authorities.CreateRoot(ctx, "system", authority.NewAuthority{Name: "root", Secret: rootSecret})
	noError(t, err)
	w.root(t, func(r *authority.RootSession) {
		_, err = r.CreateIssuing(ctx, "system", authority.NewAuthority{Name: "issuing", Secret: serverSecret, CRLShards: shards})
		noError(t, err)
	})
	noError(t, w.authorities.ImportPresets(ctx, "system"))
	p, err := w.authorities.AddProduct(ctx, "system", device.Product{Name: "sensor", Profiles: []string{"ldevid-cloud"}})
	noError(t, err)
	w.product = p.ID
	w.follow(t)
	return w
}

// start opens the data folder, as a process does.
func (w *world) start(t testing.TB) {
	t.Helper()
	var err error
	w.store, err = store.Open(context.Background(), store.Config{
		DSN: "sqlite:" + filepath.Join(w.folder, "birthmark.db"), Node: "n1", Now: w.clock.now, Rand: rand.Reader,
	})
	noError(t, err)
	t.Cleanup(func() { w.store.Close() })
	w.keys, err = keystore.Open(keystore.Config{Dir: filepath.Join(w.folder, "keys"), Rand: rand.Reader, Iterations: 1000})
	noError(t, err)
	w.cursor, err = w.store.LedgerSize(context.Background())
	noError(t, err)
	w.authorities, err = authority.New(authority.Config{
		Store: w.store, Register: w.store, Keys: w.keys, Now: w.clock.now, Rand: rand.Reader, Node: "n1", Block: 512,
		Secret: func(string) (keystore.Secret, error) { return serverSecret, nil },
	})
	noError(t, err)
	w.Service = w.service(t, "n1")
}

// service returns another status service over the same record.
func (w *world) service(t testing.TB, node string) *status.Service {
	t.Helper()
	s, err := status.New(status.Config{
		Store: w.store, Register: w.store, Leases: w.store, Authorities: w.authorities,
		Now: w.clock.now, Rand: rand.Reader, Node: node,
	})
	noError(t, err)
	return s
}

// restart closes everything and opens it again.
func (w *world) restart(t testing.TB) {
	t.Helper()
	noError(t, w.store.Close())
	w.start(t)
}

// follow tells the services what was committed since.
func (w *world) follow(t testing.TB) { w.tell(t, w.Service) }

func (w *world) tell(t testing.TB, services ...*status.Service) {
	t.Helper()
	batches, err := w.store.LedgerBatches(t.Context(), w.cursor, ^ledger.Class(0), 1<<20)
	noError(t, err)
	for _, b := range batches {
		w.cursor = b.First + int64(len(b.Leaves))
		for _, s := range services {
			noError(t, s.Follow(t.Context(), b))
		}
	}
}

// root runs fn in a session of the root.
func (w *world) root(t testing.TB, fn func(*authority.RootSession)) {
	t.Helper()
	session, err := w.authorities.OpenRoot(t.Context(), "root", rootSecret)
	noError(t, err)
	defer session.Close()
	fn(session)
}

// issue makes a device with a certificate.
func (w *world) issue(t testing.TB) device.Credential {
	t.Helper()
	ctx := t.Context()
	w.next++
	now := w.clock.now()
	deviceSerial := fmt.Sprintf("SN%06d", w.next)
	d := device.Device{
		ID: w.store.DeviceID(deviceSerial), DeviceSerial: deviceSerial, Product: w.product, State: device.Registered,
		Version: 1, RegisteredAt: now, ChangedAt: now,
	}
	noError(t, w.store.AddDevices(ctx, access.Everything(), []device.Device{d}, ledger.Entry{
		Kind: ledger.DeviceRegistered, At: now, Actor: "system",
		Body: &ledger.Registered{Device: int64(d.ID), DeviceSerial: deviceSerial, Product: w.product, Version: 1, State: uint8(d.State)},
	}))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	noError(t, err)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	noError(t, err)
	snap, err := w.authorities.Refresh(ctx)
	noError(t, err)
	road, err := snap.Road("ldevid-cloud")
	noError(t, err)
	lease, err := w.authorities.NextSerial(ctx)
	noError(t, err)
	from, to, err := road.Compiled.Validity(now)
	noError(t, err)
	der, err := road.Compiled.Issue(issuing.Input{CertSerial: lease.Bytes, NotBefore: from, NotAfter: to, Values: road.Values(&d), SPKI: spki})
	noError(t, err)
	c, err := w.store.StoreIssuance(ctx, device.Issuance{
		Credential: device.Credential{
			ID: lease.ID, CertSerial: lease.Bytes, Authority: road.Authority.ID, Profile: road.Version.ID, Kind: "ldevid",
			Purpose: "cloud", Device: d.ID, Product: w.product, State: device.Issued, KeyKind: device.KeySoftware,
			NotBefore: from, NotAfter: to, SPKIDigest: sha256.Sum256(spki), IssuedAt: now, DER: der,
		},
		Lease: lease.Lease, ControlEpoch: snap.Epoch,
		Change: &device.Change{ID: d.ID, Version: 1, From: device.Registered, State: device.Active, Slot: device.LDevIDSlot("cloud")},
		Entries: []ledger.Entry{{Kind: ledger.CertificateIssued, At: now, Actor: "system", Body: &ledger.Issued{
			Credential: int64(lease.ID), CertSerial: lease.Bytes, Authority: road.Authority.ID, Kind: "ldevid", Device: int64(d.ID),
			NotBefore: from, NotAfter: to, SPKI: sha256.Sum256(spki), DER: sha256.Sum256(der),
		}}},
	})
	noError(t, err)
	return c
}

func (w *world) revoke(t testing.TB, c device.Credential, reason status.Reason) {
	t.Helper()
	_, err := w.Revoke(t.Context(), officer, status.Act{CertSerial: c.CertSerial, Reason: reason})
	noError(t, err)
}

// certificate returns an authority's certificate.
func (w *world) certificate(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	snap, err := w.authorities.Refresh(t.Context())
	noError(t, err)
	m, err := snap.Authority(name)
	noError(t, err)
	return m.X509
}

// list returns the published CRL of an authority, checked and parsed.
func (w *world) list(t testing.TB, name string) *x509.RevocationList {
	t.Helper()
	c, err := w.CRL(t.Context(), name, 0)
	noError(t, err)
	l, err := x509.ParseRevocationList(c.DER)
	noError(t, err)
	noError(t, l.CheckSignatureFrom(w.certificate(t, name)))
	if l.Number.Int64() != c.Number || len(l.RevokedCertificateEntries) != c.Entries {
		t.Fatalf("the list says number %v with %d entries, its record %d with %d", l.Number, len(l.RevokedCertificateEntries), c.Number, c.Entries)
	}
	return l
}

// listed returns the reason under which a certificate is on a list, -1: it is
// not.
func listed(l *x509.RevocationList, c device.Credential) int {
	for _, e := range l.RevokedCertificateEntries {
		if string(e.SerialNumber.Bytes()) == string(c.CertSerial) {
			return e.ReasonCode
		}
	}
	return -1
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantFault(t testing.TB, err error, code fault.Code) {
	t.Helper()
	if !fault.Has(err, code) {
		t.Fatalf("got %v, want %v", err, code)
	}
}

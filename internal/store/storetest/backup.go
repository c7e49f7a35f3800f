package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/status"
	"github.com/birthmark/birthmark/internal/store"
)

func seedConfig(f *fixture, devices, certificates int) store.SeedConfig {
	return store.SeedConfig{Devices: devices, Certificates: certificates, At: f.now}
}

// filled is a store with something in every table that matters.
func filled(t *testing.T, open Open) *fixture {
	f := newFixture(t, open(t))
	f.install()
	f.ok(f.s.Seed(t.Context(), seedConfig(f, 300, 200)))
	f.add(f.device("SN-1"), f.device("SN-2"))
	one := f.issue(f.s.DeviceID("SN-1"), "idevid", "")
	f.issue(f.s.DeviceID("SN-2"), "ldevid", "cloud")
	f.ok(f.s.Revoke(t.Context(), access.Everything(), revocation(f, one, 1), f.entry("")))
	_, err := f.s.AddAuthority(t.Context(), authority.Authority{Name: "pending", Kind: authority.Issuing, State: authority.Pending, CreatedAt: f.now}, f.entry(""))
	f.ok(err)
	_, err = f.s.AddProduct(t.Context(), device.Product{Name: "sensor", CreatedAt: f.now}, f.entry(""))
	f.ok(err)
	_, err = f.s.AddToken(t.Context(), access.Token{Name: "ci", Hash: [32]byte{1}, CreatedAt: f.now, ExpiresAt: f.now}, f.entry(""))
	f.ok(err)
	f.ok(f.s.SaveOperator(t.Context(), access.Operator{Name: "ann", CreatedAt: f.now}, ledger.Entry{Kind: ledger.OperatorChanged, At: f.now, Actor: "local:ann", Body: ledger.JSON(map[string]int{})}))
	number, _, err := f.s.ReserveCRLNumber(t.Context(), 1, 0)
	f.ok(err)
	f.ok(f.s.SaveCRL(t.Context(), status.CRL{Authority: 1, Number: number, ThisUpdate: f.now, DER: bytes.Repeat([]byte("crl"), 300_000)}, f.hold("crl"), f.entry("")))
	return f
}

func (f *fixture) backup(files ...store.BackupFile) ([]byte, store.BackupInfo) {
	f.Helper()
	var b bytes.Buffer
	info, err := f.s.Backup(f.Context(), &b, files, nil)
	f.ok(err)
	if info.Bytes != int64(b.Len()) {
		f.Errorf("%d octets are said to be %d", b.Len(), info.Bytes)
	}
	return b.Bytes(), info
}

func (f *fixture) restoration() store.Restoration {
	return store.Restoration{Entries: func(i store.BackupInfo) []ledger.Entry {
		return []ledger.Entry{{Kind: ledger.BackupRestored, At: f.now, Actor: "system", Body: ledger.JSON(i)}}
	}}
}

func testBackup(t *testing.T, open Open) {
	f := filled(t, open)
	raw, info := f.backup(store.BackupFile{Name: "keys/issuing", Content: strings.NewReader("a key")}, store.BackupFile{Name: "empty", Content: strings.NewReader("")})
	seen, err := store.VerifyBackup(bytes.NewReader(raw))
	f.ok(err)
	f.same(info, seen)
	if info.Rows["device"] != 302 || info.Rows["credential"] != 202 || info.LedgerSize != f.size() {
		t.Errorf("the backup holds %v", info.Rows)
	}

	g := newFixture(t, open(t))
	o := g.restoration()
	files := map[string]string{}
	o.File = func(name string, content io.Reader) error {
		text, err := io.ReadAll(content)
		files[name] = string(text)
		return err
	}
	_, err = g.s.Restore(t.Context(), bytes.NewReader(raw), o)
	g.ok(err)
	g.same(map[string]string{"keys/issuing": "a key", "empty": ""}, files)
	g.sameRegister(f)
	_, err = g.s.Restore(t.Context(), bytes.NewReader(raw), o)
	g.refused(err, fault.DataFolderState)

	// The same content is the same bytes, whatever the engine and its order.
	again, _ := f.backup()
	third, _ := f.backup()
	if !bytes.Equal(tablesOf(again), tablesOf(third)) {
		t.Error("two backups of one state differ")
	}
	calls := 0
	_, err = f.s.Backup(t.Context(), io.Discard, nil, func(store.BackupInfo) []ledger.Entry {
		calls++
		return []ledger.Entry{f.entry("made")}
	})
	f.ok(err)
	if calls != 1 || f.size() != info.LedgerSize+1 {
		t.Error("making a backup is not in the ledger")
	}
}

// tablesOf is a backup without its header, which has the time, and trailer.
func tablesOf(raw []byte) []byte {
	return raw[bytes.Index(raw, []byte("table/")) : len(raw)-32]
}

// sameRegister compares with the store that the backup is of.
func (f *fixture) sameRegister(g *fixture) {
	f.Helper()
	ctx := f.Context()
	for _, q := range []device.CredentialQuery{{Limit: 1000}} {
		want, _, err := g.s.Credentials(ctx, access.Everything(), q)
		f.ok(err)
		got, _, err := f.s.Credentials(ctx, access.Everything(), q)
		f.ok(err)
		f.same(want, got)
		for _, c := range got {
			if _, err := f.s.CredentialBySerial(ctx, access.Everything(), c.CertSerial); err != nil {
				f.Fatalf("by serial: %v", err)
			}
			if _, err := f.s.CredentialBySPKI(ctx, access.Everything(), c.SPKIDigest); err != nil {
				f.Fatalf("by key: %v", err)
			}
		}
	}
	wantCounts, err := g.s.Counts(ctx, access.Everything())
	f.ok(err)
	gotCounts, err := f.s.Counts(ctx, access.Everything())
	f.ok(err)
	f.same(wantCounts, gotCounts)
	wantControl, err := g.s.Control(ctx)
	f.ok(err)
	gotControl, err := f.s.Control(ctx)
	f.ok(err)
	gotControl.Epoch = wantControl.Epoch
	f.same(wantControl, gotControl)
	want, err := g.s.CurrentCRL(ctx, 1, 0)
	f.ok(err)
	f.sameCRL(want)
	size := g.size()
	wantLeaves, err := g.s.LedgerBatches(ctx, 0, ^ledger.Class(0), int(size))
	f.ok(err)
	gotLeaves, err := f.s.LedgerBatches(ctx, 0, ^ledger.Class(0), int(size))
	f.ok(err)
	if len(gotLeaves) < len(wantLeaves) {
		f.Fatal("leaves are missing")
	}
	f.same(wantLeaves, gotLeaves[:len(wantLeaves)])
}

func testSecondLife(t *testing.T, open Open) {
	f := filled(t, open)
	before := f.issuance(nil, "tls-server", "")
	number, _, err := f.s.ReserveCRLNumber(t.Context(), 1, 0)
	f.ok(err)
	raw, _ := f.backup()
	g := newFixture(t, open(t))
	_, err = g.s.Restore(t.Context(), bytes.NewReader(raw), g.restoration())
	g.ok(err)
	i, err := g.s.Installation(t.Context())
	g.ok(err)
	if i.RestoreEpoch != 1 {
		t.Errorf("restore epoch %d", i.RestoreEpoch)
	}
	later, _, err := g.s.ReserveCRLNumber(t.Context(), 1, 0)
	g.ok(err)
	if later <= number || later>>32 != 1 {
		t.Errorf("CRL number %d after %d", later, number)
	}
	// Unspent secrets are dead, spent ones are still spent.
	if d := g.load(g.s.DeviceID("SN-1")); d.Secret.Set {
		t.Error("a one-time secret lives twice")
	}
	if d := g.load(g.s.DeviceID(store.SeedSerial(300))); d.Secret.Set || d.Version != 2 {
		t.Error("a one-time secret lives twice")
	}
	if d := g.load(g.s.DeviceID(store.SeedSerial(1))); !d.Secret.Set || d.Secret.SpentAt.IsZero() {
		t.Error("a spent secret is forgotten")
	}
	// The old block of serials is closed, and a new one is far from it.
	before.ControlEpoch = g.epoch()
	_, err = g.s.StoreIssuance(t.Context(), before)
	g.refused(err, fault.NodeFenced)
	l, err := g.s.LeaseSerials(t.Context(), "new", 10, g.now)
	g.ok(err)
	if l.First <= before.Credential.ID+1000 {
		t.Errorf("serials go on at %d after %d", l.First, before.Credential.ID)
	}
	g.keys = 1000
	g.issue(g.s.DeviceID("SN-1"), "idevid", "")
}

func testDamagedBackup(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	f.install()
	f.ok(f.s.Seed(t.Context(), seedConfig(f, 40, 30)))
	raw, _ := f.backup(store.BackupFile{Name: "key", Content: strings.NewReader("secret")})
	r := rand.New(rand.NewPCG(3, 4))
	verify := func(what string, damaged []byte) {
		t.Helper()
		if _, err := store.VerifyBackup(bytes.NewReader(damaged)); !fault.Has(err, fault.BackupInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for range 1000 {
		at, bit := r.IntN(len(raw)), r.IntN(8)
		raw[at] ^= 1 << bit
		verify(fmt.Sprintf("bit %d of octet %d of %d", bit, at, len(raw)), raw)
		raw[at] ^= 1 << bit
	}
	for range 200 {
		n := r.IntN(len(raw))
		verify(fmt.Sprintf("cut off after %d", n), raw[:n])
	}
	verify("an octet too many", append(bytes.Clone(raw), 0))
	verify("twice", append(bytes.Clone(raw), raw...))
	if _, err := store.VerifyBackup(bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}

	g := newFixture(t, open(t))
	g.add(g.device("STAYS"))
	raw[len(raw)/2] ^= 4
	_, err := g.s.Restore(t.Context(), bytes.NewReader(raw), g.restoration())
	g.refused(err, fault.BackupInvalid)
	g.load(g.s.DeviceID("STAYS"))
	raw[len(raw)/2] ^= 4
	// Interrupted in the middle, then done.
	o := g.restoration()
	o.File = func(string, io.Reader) error { return errInterrupted }
	if _, err := g.s.Restore(t.Context(), bytes.NewReader(raw), o); !errors.Is(err, errInterrupted) {
		t.Fatalf("the caller's error is %v", err)
	}
	_, err = g.s.Installation(t.Context())
	g.refused(err, fault.DataFolderState)
	_, err = g.s.Restore(t.Context(), bytes.NewReader(raw), g.restoration())
	g.ok(err)
	g.load(g.s.DeviceID(store.SeedSerial(1)))
	_, err = g.s.Device(t.Context(), access.Everything(), g.s.DeviceID("STAYS"))
	g.refused(err, fault.DeviceUnknown)
}

func testSeed(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	c := seedConfig(f, 5000, 4500)
	c.Products = []int64{1, 2, 3}
	f.ok(f.s.Seed(t.Context(), c))
	counts, err := f.s.Counts(t.Context(), access.Everything())
	f.ok(err)
	f.same(device.Counts{
		Devices:     map[device.State]int64{device.Registered: 500, device.Active: 4500},
		Credentials: map[device.CredentialState]int64{device.Issued: 4500},
	}, counts)
	fresh := f.load(f.s.DeviceID(store.SeedSerial(5000)))
	if fresh.Secret.Hash != device.HashSecret([]byte(store.SeedSecret(fresh.DeviceSerial))) || !fresh.Secret.SpentAt.IsZero() {
		t.Error("a fresh device cannot enroll")
	}
	f.issue(fresh.ID, "idevid", "")
	used := f.load(f.s.DeviceID(store.SeedSerial(77)))
	cred := f.credential(used.Current[device.IDevIDSlot])
	if cred.Device != used.ID || cred.SPKIDigest != used.Secret.SpentSPKI || len(cred.DER) < 550 || len(cred.DER) > 750 {
		t.Errorf("device and certificate do not fit: %d octets", len(cred.DER))
	}
	byKey, err := f.s.CredentialBySPKI(t.Context(), access.Everything(), cred.SPKIDigest)
	f.ok(err)
	f.same(cred, byKey)
	bySerial, err := f.s.CredentialBySerial(t.Context(), access.Everything(), cred.CertSerial)
	f.ok(err)
	f.same(cred, bySerial)
}

// Move tests that a backup of one sort of database restores into another.
func Move(t *testing.T, from, to Open) {
	f := filled(t, from)
	raw, _ := f.backup()
	g := newFixture(t, to(t))
	_, err := g.s.Restore(t.Context(), bytes.NewReader(raw), g.restoration())
	g.ok(err)
	g.sameRegister(f)
	g.keys = 1000
	g.issue(g.s.DeviceID("SN-1"), "idevid", "")
}

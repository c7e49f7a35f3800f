package storetest

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"iter"
	"slices"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/store"
)

// verifies derives the register from the ledger.
func (f *fixture) verifies() ledger.Report {
	f.Helper()
	r, err := f.verify()
	f.ok(err)
	return r
}

func (f *fixture) verify() (ledger.Report, error) {
	f.Helper()
	_, public, err := note.GenerateKey(rand.Reader, "test")
	f.ok(err)
	v, err := note.NewVerifier(public)
	f.ok(err)
	return ledger.Verify(f.Context(), f.s, ledger.VerifyOptions{Verifiers: []note.Verifier{v}, Now: func() time.Time { return f.now }})
}

func (f *fixture) registered(d *device.Device) ledger.Entry {
	b := &ledger.Registered{
		Device: int64(d.ID), DeviceSerial: d.DeviceSerial, Product: d.Product, Version: d.Version, State: uint8(d.State),
		Site: d.Site, Owner: d.Owner, Region: d.Region, Labels: ledger.LabelsDigest(d.Labels),
	}
	if d.Secret.Set {
		b.Secret = d.Secret.Hash
	}
	return ledger.Entry{Kind: ledger.DeviceRegistered, At: d.RegisteredAt, Actor: "local:ann", Body: b}
}

func (f *fixture) registeredAll(devices []device.Device) (entries []ledger.Entry) {
	for i := range devices {
		entries = append(entries, f.registered(&devices[i]))
	}
	return entries
}

// enroll stores a certificate with the entry that the one road writes.
func (f *fixture) enroll(id device.ID, kind, purpose string, spend bool) device.Credential {
	f.Helper()
	d := f.load(id)
	i := f.issuance(&d, kind, purpose)
	f.issued(&i, &d, spend)
	stored, err := f.s.StoreIssuance(f.Context(), i)
	f.ok(err)
	return stored
}

// issued sets the entry of an issuance as the one road writes it.
func (f *fixture) issued(i *device.Issuance, d *device.Device, spend bool) {
	c := &i.Credential
	if spend {
		i.Change.SpendSPKI = &c.SPKIDigest
	}
	i.Entries[0].Body = &ledger.Issued{
		Credential: int64(c.ID), CertSerial: c.CertSerial, Authority: c.Authority, Profile: c.Profile, Kind: c.Kind, Purpose: c.Purpose,
		Device: int64(d.ID), DeviceSerial: d.DeviceSerial, DeviceVersion: d.Version + 1, DeviceState: uint8(device.Active), Slot: string(c.Slot()),
		SecretSpent: spend, Supersedes: int64(i.Change.Supersedes), Product: c.Product, Site: c.Site, Owner: c.Owner, KeyKind: uint8(c.KeyKind),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, SPKI: c.SPKIDigest, DER: sha256.Sum256(c.DER), Idempotency: c.Idempotency, Previous: int64(c.Previous),
	}
}

func (f *fixture) revoke(c device.Credential, reason int) {
	f.Helper()
	r := revocation(f, c, reason)
	e := ledger.Entry{Kind: ledger.CertificateRevoked, At: f.now, Actor: "system", Body: &ledger.Revoked{
		Credential: int64(c.ID), CertSerial: c.CertSerial, Authority: c.Authority, Device: int64(c.Device),
		Shard: r.Shard, Reason: reason, RevokedAt: r.At, NotAfter: c.NotAfter,
	}}
	if reason == 6 {
		e.Kind = ledger.CertificateHeld
	}
	f.ok(f.s.Revoke(f.Context(), access.Everything(), r, e))
}

func (f *fixture) release(c device.Credential) {
	f.Helper()
	f.ok(f.s.Release(f.Context(), access.Everything(), c.ID, ledger.Entry{Kind: ledger.CertificateFreed, At: f.now, Actor: "system", Body: &ledger.Released{
		Credential: int64(c.ID), CertSerial: c.CertSerial, Authority: c.Authority, Device: int64(c.Device),
	}}))
}

// lived is a store in which everything happened that the ledger derives.
func lived(t *testing.T, open Open) *fixture {
	f := newFixture(t, open(t))
	f.install()
	devices := manyDevices(f, 40)
	f.ok(f.s.AddDevices(t.Context(), access.Everything(), devices, f.registeredAll(devices)...))
	for i := range devices[:20] {
		id := devices[i].ID
		first := f.enroll(id, "idevid", "", true)
		second := f.enroll(id, "ldevid", "cloud", false)
		f.ok(f.s.Confirm(t.Context(), device.Confirmation{ID: second.ID, At: f.now}, ledger.Entry{
			Kind: ledger.CertificateUsed, At: f.now, Actor: "system", Body: &ledger.Confirmed{Credential: int64(second.ID), Device: int64(id)},
		}))
		switch i % 5 {
		case 0:
			f.revoke(first, 1)
		case 1:
			f.revoke(second, 6)
		case 2:
			f.revoke(second, 6)
			f.enroll(id, "ldevid", "cloud", false)
			f.release(second)
		case 3:
			f.revoke(second, 6)
			f.release(second)
		}
	}
	d := f.load(devices[30].ID)
	d.State, d.Region, d.ChangedAt = device.Shipped, "us", f.now
	f.ok(f.s.UpdateDevice(t.Context(), access.Everything(), d, ledger.Entry{Kind: ledger.DeviceChanged, At: f.now, Actor: "system", Body: &ledger.Changed{
		Device: int64(d.ID), Version: d.Version + 1, State: uint8(d.State), Site: d.Site, Owner: d.Owner, Region: d.Region,
		Labels: ledger.LabelsDigest(d.Labels), Secret: d.Secret.Hash,
	}}))
	return f
}

func testLedgerDerives(t *testing.T, open Open) {
	f := lived(t, open)
	r := f.verifies()
	if r.Devices != 40 || r.Certificates != 44 || r.Revocations != 8 {
		t.Errorf("verified %+v", r)
	}
	raw, _ := f.backup()
	g := newFixture(t, open(t))
	_, err := g.s.Restore(t.Context(), bytes.NewReader(raw), g.restoration())
	g.ok(err)
	if again := g.verifies(); again.Certificates != r.Certificates || again.Devices != r.Devices || again.Entries <= r.Entries {
		t.Errorf("after a restore %+v", again)
	}
	// A revocation whose entry says otherwise is noticed: the check can fail.
	c := g.credential(f.load(g.s.DeviceID(store.SeedSerial(5))).Current[device.IDevIDSlot])
	lie := revocation(g, c, 1)
	g.ok(g.s.Revoke(t.Context(), access.Everything(), lie, g.entry("not a revocation")))
	_, err = g.verify()
	g.refused(err, fault.LedgerBroken)
}

func testLedgerDerivesSeed(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	c := seedConfig(f, 3000, 2500)
	c.Products = []int64{1, 2}
	f.ok(f.s.Seed(t.Context(), c))
	fresh := f.s.DeviceID(store.SeedSerial(2700))
	f.enroll(fresh, "idevid", "", true)
	if r := f.verifies(); r.Devices != 3000 || r.Certificates != 2501 {
		t.Errorf("verified %+v", r)
	}
}

func testLedgerDerivesStaged(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	devices := manyDevices(f, 90)
	honest := func(most int) iter.Seq2[store.DeviceChunk, error] {
		return func(yield func(store.DeviceChunk, error) bool) {
			for some := range slices.Chunk(devices, 20) {
				if most == 0 {
					yield(store.DeviceChunk{}, errInterrupted)
					return
				}
				most--
				if !yield(store.DeviceChunk{Devices: some, Entries: f.registeredAll(some)}, nil) {
					return
				}
			}
		}
	}
	_, err := f.s.AddDevicesStaged(t.Context(), access.Everything(), "job", honest(3))
	if err == nil {
		t.Fatal("an interruption went unnoticed")
	}
	f.verifies()
	f.ok(f.s.DiscardBatch(t.Context(), "job", "system"))
	if r := f.verifies(); r.Devices != 0 {
		t.Errorf("after giving up %+v", r)
	}
	_, err = f.s.AddDevicesStaged(t.Context(), access.Everything(), "job", honest(-1))
	f.ok(err)
	if r := f.verifies(); r.Devices != 90 {
		t.Errorf("at the end %+v", r)
	}
}

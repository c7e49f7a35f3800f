package storetest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/store"
)

// fixture is a store with what a test needs to fill it.
type fixture struct {
	*testing.T
	s     *store.Store
	now   time.Time
	lease device.SerialLease
	used  int
	keys  uint64
}

func newFixture(t *testing.T, s *store.Store) *fixture {
	return &fixture{T: t, s: s, now: time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)}
}

func (f *fixture) ok(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) refused(err error, c fault.Code) {
	f.Helper()
	if !fault.Has(err, c) {
		f.Fatalf("got %v, want %v", err, fault.New(c))
	}
}

func (f *fixture) size() int64 {
	f.Helper()
	n, err := f.s.LedgerSize(f.Context())
	f.ok(err)
	return n
}

// adds runs a write and checks that it appended so many entries.
func (f *fixture) adds(n int64, write func(e ...ledger.Entry) error) error {
	f.Helper()
	before := f.size()
	err := write(f.entry("a"))
	if err != nil {
		n = 0
	}
	if got := f.size() - before; got != n {
		f.Errorf("a write appended %d entries to the ledger, want %d (error %v)", got, n, err)
	}
	return err
}

// epoch is the control plane's.
func (f *fixture) epoch() int64 {
	f.Helper()
	c, err := f.s.Control(f.Context())
	f.ok(err)
	return c.Epoch
}

// raises runs a write of the control plane: one entry, and a higher epoch.
func (f *fixture) raises(write func(e ...ledger.Entry) error) {
	f.Helper()
	before := f.epoch()
	f.ok(f.adds(1, write))
	if f.epoch() <= before {
		f.Error("a write of the control plane did not raise the epoch")
	}
}

func (f *fixture) entry(what string) ledger.Entry {
	return ledger.Entry{Kind: ledger.NodeStarted, At: f.now, Actor: "system", Body: ledger.JSON(map[string]string{"what": what})}
}

func (f *fixture) device(serial string) device.Device {
	return device.Device{
		ID: f.s.DeviceID(serial), DeviceSerial: serial, Product: 1, Region: "eu", Labels: map[string]string{"line": "3"},
		State: device.Registered, Version: 1, Secret: device.Secret{Set: true, Hash: sha256.Sum256([]byte(serial))},
		RegisteredAt: f.now, ChangedAt: f.now,
	}
}

func (f *fixture) add(devices ...device.Device) {
	f.Helper()
	f.ok(f.s.AddDevices(f.Context(), access.Everything(), devices, f.entry("add")))
}

// load returns a device as it is stored.
func (f *fixture) load(id device.ID) device.Device {
	f.Helper()
	d, err := f.s.Device(f.Context(), access.Everything(), id)
	f.ok(err)
	return d
}

func (f *fixture) credential(id device.CredentialID) device.Credential {
	f.Helper()
	c, err := f.s.Credential(f.Context(), access.Everything(), id)
	f.ok(err)
	return c
}

// issuance is one for a device as it is now, with a new key.
func (f *fixture) issuance(d *device.Device, kind, purpose string) device.Issuance {
	f.Helper()
	if f.used == f.lease.Count {
		var err error
		f.lease, err = f.s.LeaseSerials(f.Context(), f.s.Node(), 512, f.now)
		f.ok(err)
		f.used = 0
	}
	id := f.lease.First + device.CredentialID(f.used)
	f.used++
	f.keys++
	c := device.Credential{
		ID: id, CertSerial: f.s.CertSerial(f.lease, id), Authority: 1, Profile: 1, Kind: kind, Purpose: purpose,
		State: device.Issued, KeyKind: device.KeySoftware, NotBefore: f.now, NotAfter: f.now.AddDate(0, 0, 30),
		SPKIDigest:  sha256.Sum256(binary.BigEndian.AppendUint64(nil, f.keys)),
		Idempotency: sha256.Sum256(binary.BigEndian.AppendUint64([]byte("i"), f.keys)),
		IssuedAt:    f.now, DER: fmt.Appendf(nil, "certificate %d", id),
	}
	i := device.Issuance{
		Lease: f.lease.LeaseRef, ControlEpoch: f.epoch(),
		Entries: []ledger.Entry{{Kind: ledger.CertificateIssued, At: f.now, Actor: "system", Body: ledger.JSON(map[string]int64{"credential": int64(id)})}},
	}
	if d != nil {
		c.Device, c.Product, c.Site, c.Owner = d.ID, d.Product, d.Site, d.Owner
		c.Previous = d.Current[c.Slot()]
		i.Change = &device.Change{ID: d.ID, Version: d.Version, State: device.Active, Slot: c.Slot(), Supersedes: c.Previous}
	}
	i.Credential = c
	return i
}

// issue stores a certificate for a device.
func (f *fixture) issue(id device.ID, kind, purpose string) device.Credential {
	f.Helper()
	var i device.Issuance
	if id == 0 {
		i = f.issuance(nil, kind, purpose)
	} else {
		d := f.load(id)
		i = f.issuance(&d, kind, purpose)
	}
	c, err := f.s.StoreIssuance(f.Context(), i)
	f.ok(err)
	return c
}

func (f *fixture) install() {
	f.Helper()
	i := authority.Installation{Organization: "Acme", StatusURL: "http://pki.example.com", CreatedAt: f.now}
	_, err := rand.Read(i.ID[:])
	f.ok(err)
	f.ok(f.s.Install(f.Context(), i, f.entry("install")))
}

// walked follows the cursors of a list to its end.
func walked[T any](ctx context.Context, list func(after string) ([]T, string, error)) (all []T, pages int, err error) {
	after := ""
	for {
		some, next, err := list(after)
		if err != nil {
			return nil, pages, err
		}
		all = append(all, some...)
		pages++
		if next == "" {
			return all, pages, ctx.Err()
		}
		if next == after || pages > 10_000 {
			return nil, pages, fmt.Errorf("the list does not go on after %q", after)
		}
		after = next
	}
}

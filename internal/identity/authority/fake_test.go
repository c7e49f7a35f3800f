package authority_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// fake keeps the control plane and credentials in memory, with the conditions
// of STORE that this package relies on. fail, if set, is asked before every
// write and stands for a process that is killed there.
type fake struct {
	mu           sync.Mutex
	epoch        int64
	installation authority.Installation
	authorities  []authority.Authority
	profiles     []authority.ProfileVersion
	products     []device.Product
	labels       map[string]authority.Label
	credentials  []device.Credential
	leases       []device.SerialLease
	open         map[int64]bool
	fenced       []string
	nextID       device.CredentialID
	kinds        []ledger.Kind
	fail         func(write string) error
	leaseGate    func() error
	controlReads int
}

func newFake() *fake {
	return &fake{
		epoch: 1, nextID: 1, open: make(map[int64]bool), labels: make(map[string]authority.Label),
		installation: authority.Installation{Organization: "Acme", StatusURL: "http://pki.example.com"},
	}
}

func (f *fake) write(what string, entries []ledger.Entry) error {
	if f.fail != nil {
		if err := f.fail(what); err != nil {
			return err
		}
	}
	if len(entries) == 0 {
		panic(what + " without a ledger entry")
	}
	for _, e := range entries {
		leaf := e.Body.AppendJSON(nil)
		if len(leaf) < 2 || e.Actor == "" || e.At.IsZero() {
			panic("bad entry of " + what)
		}
		f.kinds = append(f.kinds, e.Kind)
	}
	return nil
}

func (f *fake) Install(_ context.Context, i authority.Installation, entries ...ledger.Entry) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.installation = i
	return f.write("Install", entries)
}

func (f *fake) Installation(context.Context) (authority.Installation, error) {
	return f.installation, nil
}

func (f *fake) Control(context.Context) (authority.Control, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.controlReads++
	c := authority.Control{Epoch: f.epoch, Authorities: slices.Clone(f.authorities), Products: slices.Clone(f.products)}
	for _, l := range f.labels {
		c.Labels = append(c.Labels, l)
	}
	newest := make(map[string]authority.ProfileVersion)
	for _, p := range f.profiles {
		newest[p.Name] = p
	}
	for _, p := range newest {
		c.Profiles = append(c.Profiles, p)
	}
	return c, nil
}

func (f *fake) AddAuthority(_ context.Context, a authority.Authority, entries ...ledger.Entry) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.ContainsFunc(f.authorities, func(o authority.Authority) bool { return o.Name == a.Name }) {
		return 0, fault.New(fault.AuthorityExists)
	}
	if err := f.write("AddAuthority", entries); err != nil {
		return 0, err
	}
	a.ID = int64(len(f.authorities) + 1)
	f.authorities = append(f.authorities, a)
	f.epoch++
	return a.ID, nil
}

func (f *fake) UpdateAuthority(_ context.Context, a authority.Authority, entries ...ledger.Entry) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.write("UpdateAuthority", entries); err != nil {
		return err
	}
	f.authorities[a.ID-1] = a
	f.epoch++
	return nil
}

func (f *fake) AddProfileVersion(_ context.Context, p authority.ProfileVersion, entries ...ledger.Entry) (authority.ProfileVersion, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p.Version = 1
	for _, o := range f.profiles {
		if o.Name != p.Name {
			continue
		}
		if o.Version >= p.Version {
			p.Version = o.Version + 1
		}
		if o.Digest == p.Digest {
			return o, nil
		}
	}
	if err := f.write("AddProfileVersion", entries); err != nil {
		return p, err
	}
	p.ID = int64(len(f.profiles) + 1)
	f.profiles = append(f.profiles, p)
	f.epoch++
	return p, nil
}

func (f *fake) ProfileVersion(_ context.Context, id int64) (authority.ProfileVersion, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.profiles[id-1], nil
}

func (f *fake) ProfileVersions(_ context.Context, name string) ([]authority.ProfileVersion, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []authority.ProfileVersion
	for _, p := range f.profiles {
		if p.Name == name {
			all = append(all, p)
		}
	}
	return all, nil
}

func (f *fake) SetLabel(_ context.Context, l authority.Label, entries ...ledger.Entry) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.labels[l.Name] = l
	f.epoch++
	return f.write("SetLabel", entries)
}

func (f *fake) AddProduct(_ context.Context, p device.Product, entries ...ledger.Entry) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p.ID = int64(len(f.products) + 1)
	f.products = append(f.products, p)
	f.epoch++
	return p.ID, f.write("AddProduct", entries)
}

func (f *fake) UpdateProduct(_ context.Context, p device.Product, entries ...ledger.Entry) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.products[p.ID-1] = p
	f.epoch++
	return f.write("UpdateProduct", entries)
}

func (f *fake) LeaseSerials(_ context.Context, node string, count int, _ time.Time) (device.SerialLease, error) {
	if f.leaseGate != nil {
		if err := f.leaseGate(); err != nil {
			return device.SerialLease{}, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	l := device.SerialLease{Node: node, First: f.nextID, Count: count}
	l.ID = int64(f.nextID)
	f.nextID += device.CredentialID(count)
	f.leases = append(f.leases, l)
	f.open[l.ID] = true
	return l, nil
}

func (f *fake) CloseLease(_ context.Context, ref device.LeaseRef, _ time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, ref.ID)
	return nil
}

func (f *fake) FenceNode(_ context.Context, node string, _ time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fenced = append(f.fenced, node)
	return nil
}

func (f *fake) CertSerial(_ device.SerialLease, id device.CredentialID) []byte {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(id)))
	return append([]byte{0x40}, sum[:16]...)
}

func (f *fake) StoreIssuance(_ context.Context, i device.Issuance) (device.Credential, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := i.Credential
	if i.ControlEpoch != f.epoch {
		return c, device.ErrStale
	}
	if !f.open[i.Lease.ID] {
		return c, fault.New(fault.NodeFenced)
	}
	for _, o := range slices.Backward(f.credentials) {
		if o.SPKIDigest == c.SPKIDigest && o.ID != i.SameKeyAs {
			return c, &device.KeyConflict{Existing: o}
		}
		if o.SPKIDigest == c.SPKIDigest {
			break
		}
	}
	if err := f.write("StoreIssuance", i.Entries); err != nil {
		return c, err
	}
	c.AuthorityIndex = int64(len(f.credentials) + 1)
	f.credentials = append(f.credentials, c)
	return c, nil
}

func (f *fake) Credential(_ context.Context, _ access.Scope, id device.CredentialID) (device.Credential, error) {
	return f.find(func(c *device.Credential) bool { return c.ID == id })
}

func (f *fake) CredentialBySPKI(_ context.Context, _ access.Scope, digest [32]byte) (device.Credential, error) {
	return f.find(func(c *device.Credential) bool { return c.SPKIDigest == digest })
}

func (f *fake) find(match func(*device.Credential) bool) (device.Credential, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range slices.Backward(f.credentials) {
		if match(&c) {
			return c, nil
		}
	}
	return device.Credential{}, fault.New(fault.CredentialUnknown)
}

// clock is a time that tests set.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)} }

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

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantFault(t *testing.T, err error, code fault.Code) {
	t.Helper()
	if !fault.Has(err, code) {
		t.Fatalf("got %v, want %v", err, code)
	}
}

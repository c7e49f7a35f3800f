package storetest

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/store"
)

func testEvidenceMeets(t *testing.T, open Open) { EvidenceMeets(t, open(t)) }

// EvidenceMeets lets many devices show the same ticket, TPM or chip at the same time
// through all nodes of one database: each time one is stored, and the others hear
// why. Beside them go devices that must not be disturbed, and some whose key is
// taken, who must not take anything with them.
func EvidenceMeets(t *testing.T, nodes ...*store.Store) {
	const callers, rounds = 24, 12
	m := &meeting{shop: newShop(t, nodes[0], 1, 0, 2*rounds), nodes: nodes, made: make(map[[32]byte]int)}
	for n := range callers {
		d := m.device(fmt.Sprintf("SN-%d", n))
		m.add(d)
		m.devices = append(m.devices, d.ID)
	}
	stranger := m.device("STRANGER")
	m.add(stranger)
	m.taken = m.issue(stranger.ID, "idevid", "")
	for round := range rounds {
		m.meet(round, fault.TicketUsed, func(i *device.Issuance) { i.Attestation.Ticket = m.ticket(1_000_000 + round) })
		m.meet(round, fault.TPMOfOther, func(i *device.Issuance) { i.Attestation.TPM.EK = m.tpm(1_000_000+round, 0).EK })
		m.meet(round, fault.ChipUsed, func(i *device.Issuance) { i.Attestation.TPM.Chip = m.chips[round] })
	}
	for round := range rounds {
		m.crowd(round)
	}
	m.check()
}

// crowd lets a device that shows its TPM for the first time ask for many
// certificates at once: they follow each other.
func (m *meeting) crowd(round int) {
	d := m.device(fmt.Sprintf("CROWD-%d", round))
	m.add(d)
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			err := m.ask(m.nodes[n%len(m.nodes)], d.ID, func(i *device.Issuance) { i.Attestation.TPM = m.tpm(2_000_000+round, 1) })
			if err != nil {
				m.Errorf("certificate %d of a crowd: %v", n, err)
			}
		})
	}
	wg.Wait()
}

type meeting struct {
	*shop
	nodes   []*store.Store
	devices []device.ID
	taken   device.Credential

	mu     sync.Mutex // of what follows, and the fixture's counters
	n      int
	stored []device.Issuance
	made   map[[32]byte]int
}

// meet lets every device ask for a certificate at once. Three in four show the same
// thing, of which one is stored.
func (m *meeting) meet(round int, refusal fault.Code, same func(i *device.Issuance)) {
	m.Helper()
	outcomes := make(chan error, len(m.devices))
	var wg sync.WaitGroup
	shared := 0
	for n, id := range m.devices {
		alone, keyless := n%4 == 3, n%8 == round%8
		if !alone {
			shared++
		}
		wg.Go(func() {
			err := m.ask(m.nodes[n%len(m.nodes)], id, func(i *device.Issuance) {
				if !alone {
					same(i)
				}
				if keyless {
					i.Credential.SPKIDigest = m.taken.SPKIDigest
				}
			})
			if alone && !keyless && err != nil || keyless && err == nil {
				m.Errorf("device %d (alone %t, key taken %t): %v", n, alone, keyless, err)
			}
			if !alone {
				outcomes <- err
			}
		})
	}
	wg.Wait()
	won := 0
	for range shared {
		switch err := <-outcomes; {
		case err == nil:
			won++
		case fault.Has(err, refusal):
		default:
			if _, conflict := errors.AsType[*device.KeyConflict](err); !conflict {
				m.Errorf("refused with %v, want %d", err, refusal)
			}
		}
	}
	if won != 1 {
		m.Errorf("%d of %d were stored, want 1", won, shared)
	}
}

// ask requests a certificate until there is an outcome.
func (m *meeting) ask(s *store.Store, id device.ID, spoil func(i *device.Issuance)) error {
	m.mu.Lock()
	m.n++
	n := m.n
	m.mu.Unlock()
	for range 100 {
		d, err := s.Device(m.Context(), access.Everything(), id)
		if err != nil {
			return err
		}
		m.mu.Lock()
		i := m.issuance(&d, "ldevid", [...]string{"a", "b"}[n%2])
		m.mu.Unlock()
		i = m.attested(i, m.ticket(n), m.tpm(n, 1))
		spoil(&i)
		m.issued(&i, &d, false)
		i = m.told(i)
		_, err = s.StoreIssuance(m.Context(), i)
		if err == nil {
			m.mu.Lock()
			m.stored = append(m.stored, i)
			m.mu.Unlock()
		}
		if !errors.Is(err, device.ErrStale) {
			return err
		}
	}
	return errors.New("stale a hundred times")
}

// check compares what is there with what was acknowledged.
func (m *meeting) check() {
	m.Helper()
	owners, tickets, chips := make(map[[32]byte]device.ID), make(map[[16]byte]bool), make(map[int64]device.ID)
	for _, i := range m.stored {
		a := i.Attestation
		m.shows(&device.Issuance{Credential: i.Credential, Attestation: &device.Attestation{Ticket: a.Ticket, Kind: a.Kind, Claims: a.Claims, Evidence: a.Evidence}})
		if tickets[a.Ticket.ID] {
			m.Errorf("ticket %x was spent twice", a.Ticket.ID)
		}
		tickets[a.Ticket.ID] = true
		if by := owners[a.TPM.EK]; by != 0 && by != i.Credential.Device {
			m.Errorf("TPM %x is tied twice", a.TPM.EK[:4])
		}
		owners[a.TPM.EK] = i.Credential.Device
		if a.TPM.Chip != 0 {
			chips[a.TPM.Chip] = i.Credential.Device
		}
	}
	rows, err := m.s.TPMRows(m.Context(), 0, 10_000)
	m.ok(err)
	if len(rows) != len(owners) {
		m.Errorf("%d TPMs, %d were acknowledged", len(rows), len(owners))
	}
	for _, x := range rows {
		if owners[x.EK] != device.ID(x.Device) {
			m.Errorf("TPM %x is that of %016x", x.EK[:4], x.Device)
		}
	}
	for n, id := range m.chips {
		c, err := m.s.Chip(m.Context(), id)
		m.ok(err)
		if c.Device != chips[id] || (c.State == factory.ChipUsed) != (chips[id] != 0) {
			m.Errorf("chip %d: %+v", n, c)
		}
	}
	for n := range m.n { // who was refused spent nothing
		k := m.ticket(n + 1)
		if err := m.s.SpendTicket(m.Context(), k, m.entry("")); (err == nil) == tickets[k.ID] {
			m.Errorf("ticket %d: %v", n, err)
		}
	}
}

// proven is a store in which hardware showed everything that the ledger derives.
func proven(t *testing.T, open Open) *shop {
	x := newShop(t, open(t), 40, 10, 20)
	r := rand.New(rand.NewPCG(5, 6))
	record := func(k ledger.Kind, b any) ledger.Entry {
		return ledger.Entry{Kind: k, At: x.now, Actor: "operator:ann", Body: ledger.JSON(b)}
	}
	for version := range int64(3) {
		b := x.roots("makers", version+1, fmt.Sprint("roots ", version), fmt.Sprint("key ", version))
		b.Repinned = version > 0
		_, err := x.s.AddRoots(t.Context(), b, record(ledger.RootsImported, map[string]any{
			"name": b.Name, "version": b.Version, "sha256": hex.EncodeToString(b.Digest[:]), "signer": attest.Fingerprint(b.Signer), "repinned": b.Repinned,
		}))
		x.ok(err)
		p := attest.Policy{Product: x.product, Version: version + 1, Content: b.Content, Digest: b.Digest, Author: "ann", SetAt: x.now}
		_, err = x.s.SetPolicy(t.Context(), p, record(ledger.TPMPolicySet, map[string]any{
			"product": p.Product, "version": p.Version, "sha256": hex.EncodeToString(p.Digest[:]),
		}))
		x.ok(err)
	}
	devices := manyDevices(x.fixture, 12)
	x.ok(x.s.AddDevices(t.Context(), access.Everything(), devices, x.registeredAll(devices)...))
	for n := range 40 {
		x.now = x.now.Add(1500 * time.Millisecond)
		d := x.load(devices[n%len(devices)].ID)
		i := x.issuance(&d, "ldevid", "cloud")
		x.issued(&i, &d, d.Secret.SpentAt.IsZero())
		a := x.tpm(n%len(devices), n)
		if n < 5 {
			a.Chip = x.chips[15+n]
		}
		a.Plain, a.Safe, a.Firmware = r.IntN(2) == 0, r.IntN(2) == 0, r.Uint64()
		if n%7 == 6 {
			a = nil
		}
		_, err := x.s.StoreIssuance(t.Context(), x.attested(i, x.ticket(n), a))
		x.ok(err)
		u := x.unit()
		if n < 10 {
			_, err = x.s.StoreIssuance(t.Context(), x.attested(x.recorded(u), x.ticket(100+n), &device.TPMState{EK: [32]byte{byte(n + 1)}, Chip: u.Unit.Chip}))
			x.ok(err)
		}
	}
	x.ok(x.s.ResetTPM(t.Context(), devices[3].ID, ledger.Entry{Kind: ledger.TPMReset, At: x.now, Actor: "system", Body: &ledger.ResetTPM{Device: int64(devices[3].ID)}}))
	// One TPM goes over to another device when its own has ended.
	d := x.load(devices[4].ID)
	d.State = device.Scrapped
	x.ok(x.s.UpdateDevice(t.Context(), access.Everything(), d, ledger.Entry{Kind: ledger.DeviceChanged, At: x.now, Actor: "system", Body: &ledger.Changed{
		Device: int64(d.ID), Version: d.Version + 1, State: uint8(d.State), Site: d.Site, Owner: d.Owner, Region: d.Region,
		Labels: ledger.LabelsDigest(d.Labels), Secret: d.Secret.Hash, SecretSpent: d.Secret.SpentAt, SecretSPKI: d.Secret.SpentSPKI,
	}}))
	d = x.load(devices[5].ID)
	i := x.issuance(&d, "ldevid", "cloud")
	x.issued(&i, &d, false)
	_, err := x.s.StoreIssuance(t.Context(), x.attested(i, x.ticket(900), x.tpm(4, 90)))
	x.ok(err)
	x.recordPlane()
	return x
}

func testLedgerDerivesEvidence(t *testing.T, open Open) {
	x := proven(t, open)
	r, err := x.verify()
	x.ok(err)
	if r.Evidence != 51 || r.TPMs != 22 {
		t.Errorf("verified %+v", r)
	}
	lies := map[string]func(g *shop) error{
		"roots without entry": func(g *shop) error {
			_, err := g.s.AddRoots(t.Context(), g.roots("others", 1, "x", "key"), g.entry("not roots"))
			return err
		},
		"policy without entry": func(g *shop) error {
			_, err := g.s.SetPolicy(t.Context(), attest.Policy{Product: g.product, Version: 4, Content: []byte("x")}, g.entry("not a policy"))
			return err
		},
		"counters forgotten without entry": func(g *shop) error {
			list, err := g.s.TPMRows(t.Context(), 0, 1000)
			if err != nil {
				return err
			}
			list = slices.DeleteFunc(list, func(x ledger.TPMRow) bool { return x.ResetCount == 0 })
			return g.s.ResetTPM(t.Context(), device.ID(list[0].Device), g.entry("not a reset"))
		},
		"reset of another device's": func(g *shop) error {
			list, err := g.s.TPMRows(t.Context(), 0, 1000)
			if err != nil {
				return err
			}
			list = slices.DeleteFunc(list, func(x ledger.TPMRow) bool { return x.ResetCount == 0 })
			return g.s.Record(t.Context(), ledger.Entry{Kind: ledger.TPMReset, At: g.now, Actor: "system", Body: &ledger.ResetTPM{Device: list[0].Device}})
		},
	}
	for name, lie := range lies {
		y := proven(t, open)
		y.ok(lie(y))
		if _, err := y.verify(); !fault.Has(err, fault.LedgerBroken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func testProvenRestored(t *testing.T, open Open) {
	x := proven(t, open)
	x.install()
	raw, _ := x.backup()
	g := newFixture(t, open(t))
	_, err := g.s.Restore(t.Context(), bytes.NewReader(raw), g.restoration())
	g.ok(err)
	before, err := x.s.TPMRows(t.Context(), 0, 1000)
	x.ok(err)
	after, err := g.s.TPMRows(t.Context(), 0, 1000)
	g.ok(err)
	g.same(before, after)
	want, got := x.attestPlane(), g.attestPlane()
	got.Epoch = want.Epoch
	g.same(want, got)
	evidence, err := x.s.EvidenceRows(t.Context(), 0, 1000)
	x.ok(err)
	again, err := g.s.EvidenceRows(t.Context(), 0, 1000)
	g.ok(err)
	g.same(evidence, again)
	for _, e := range evidence {
		if _, err := g.s.Evidence(t.Context(), access.Everything(), device.CredentialID(e.ID)); err != nil {
			t.Error(err)
		}
	}
}

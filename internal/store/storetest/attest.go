package storetest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/store"
)

// Attest tests the control plane of hardware proof, and what the group commit does
// for evidence.
func Attest(t *testing.T, open Open) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, Open)
	}{
		{"bundles of roots are versioned and pinned", testRoots},
		{"policies are versioned", testPolicies},
		{"challenges have one key, and another after a restore", testTicketKey},
		{"a ticket is spent once", testTickets},
		{"evidence is kept with its certificate", testEvidence},
		{"a unit rests on evidence", testUnitEvidence},
		{"refused evidence leaves nothing", testRefusedEvidence},
		{"evidence that the ledger does not tell is refused", testUntoldEvidence},
		{"a TPM is free when its device has ended", testFreedTPM},
		{"a TPM that was cleared may begin anew", testResetTPM},
		{"of many with one ticket, TPM or chip one is stored", testEvidenceMeets},
		{"the ledger derives what hardware showed", testLedgerDerivesEvidence},
		{"a restore brings evidence, TPMs and roots along", testProvenRestored},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open) })
	}
}

func (f *fixture) roots(name string, version int64, content, signer string) attest.Roots {
	return attest.Roots{
		Name: name, Version: version, Content: []byte(content), Digest: sha256.Sum256([]byte(content)), Signer: []byte(signer),
		ImportedBy: "operator:ann", ImportedAt: f.now,
	}
}

func (f *fixture) attestPlane() attest.Plane {
	f.Helper()
	p, err := f.s.AttestPlane(f.Context())
	f.ok(err)
	if want := f.epoch(); p.Epoch != want {
		f.Errorf("the plane is of epoch %d, the control plane of %d", p.Epoch, want)
	}
	return p
}

func testRoots(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	f.same(0, len(f.attestPlane().Roots))
	add := func(x attest.Roots) (id int64) {
		t.Helper()
		f.raises(func(e ...ledger.Entry) (err error) { id, err = f.s.AddRoots(t.Context(), x, e...); return err })
		return id
	}
	first, other, third := f.roots("makers", 1, "one", "key"), f.roots("another", 7, "seven", "key 2"), f.roots("makers", 3, "three", "key")
	first.ID = add(first)
	other.ID = add(other)
	third.ID = add(third)
	f.same([]attest.Roots{other, third}, f.attestPlane().Roots)

	refused := func(x attest.Roots, code fault.Code) {
		t.Helper()
		epoch := f.epoch()
		f.refused(f.adds(1, func(e ...ledger.Entry) error { _, err := f.s.AddRoots(t.Context(), x, e...); return err }), code)
		if f.epoch() != epoch {
			t.Error("a refused bundle raised the epoch")
		}
	}
	refused(f.roots("makers", 2, "two", "key"), fault.RootsOlder)
	refused(f.roots("makers", 3, "three, but other", "key"), fault.RootsOlder)
	refused(f.roots("makers", 4, "four", "thief"), fault.RootsSigner)
	repinned := f.roots("makers", 4, "four", "key of the successor")
	repinned.Repinned = true
	// The same octets again: nothing is done.
	size := f.size()
	again, err := f.s.AddRoots(t.Context(), f.roots("makers", 3, "three", "key"), f.entry("again"))
	if err != nil || again != third.ID || f.size() != size {
		t.Errorf("the same bundle again: %d, %v, %d leaves more", again, err, f.size()-size)
	}
	repinned.ID = add(repinned)
	refused(f.roots("makers", 5, "five", "key"), fault.RootsSigner)
	f.same([]attest.Roots{other, repinned}, f.attestPlane().Roots)

	history, err := f.s.RootsHistory(t.Context(), "makers")
	f.ok(err)
	f.same([]attest.Roots{repinned, third, first}, history)
	history, err = f.s.RootsHistory(t.Context(), "")
	f.ok(err)
	f.same([]attest.Roots{repinned, third, other, first}, history)
	history, err = f.s.RootsHistory(t.Context(), "none")
	if err != nil || len(history) != 0 {
		t.Errorf("history of nothing: %v, %v", history, err)
	}
}

func testPolicies(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	set := func(p attest.Policy) (stored attest.Policy, err error) {
		p.Digest, p.Author, p.SetAt = sha256.Sum256(p.Content), "operator:ann", f.now
		err = f.adds(1, func(e ...ledger.Entry) (err error) { stored, err = f.s.SetPolicy(t.Context(), p, e...); return err })
		return stored, err
	}
	one, err := set(attest.Policy{Product: 1, Version: 1, Content: []byte("one")})
	f.ok(err)
	for _, version := range []int64{0, 1, 3} {
		if _, err := set(attest.Policy{Product: 1, Version: version, Content: []byte("x")}); !errors.Is(err, device.ErrStale) {
			t.Errorf("version %d after 1: %v", version, err)
		}
	}
	epoch := f.epoch()
	two, err := set(attest.Policy{Product: 1, Version: 2, Content: []byte("two")})
	f.ok(err)
	if f.epoch() <= epoch || two.ID <= one.ID {
		t.Errorf("policy %d after %d under epoch %d", two.ID, one.ID, epoch)
	}
	none, err := set(attest.Policy{Product: 2, Version: 1})
	f.ok(err)
	none.Content = []byte{}
	p := f.attestPlane()
	f.same([]attest.Policy{two, none}, p.Policies)
	if found, ok := p.PolicyOf(1); !ok || found.Version != 2 {
		t.Errorf("policy %+v", found)
	}
	if _, ok := p.PolicyOf(2); ok {
		t.Error("an ended policy is one")
	}
}

func testTicketKey(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	f.install()
	key, err := f.s.TicketKey(t.Context())
	f.ok(err)
	again, err := f.s.TicketKey(t.Context())
	if err != nil || key != again || key == [32]byte{} {
		t.Errorf("keys %x and %x, %v", key, again, err)
	}
	k := f.ticket(1)
	f.ok(f.s.SpendTicket(t.Context(), k, f.entry("")))
	raw, info := f.backup()
	if _, in := info.Rows["attest_ticket"]; in || bytes.Contains(raw, key[:]) {
		t.Error("the backup holds the key of challenges, or tickets")
	}
	g := newFixture(t, open(t))
	before, err := g.s.TicketKey(t.Context())
	g.ok(err)
	_, err = g.s.Restore(t.Context(), bytes.NewReader(raw), g.restoration())
	g.ok(err)
	second, err := g.s.TicketKey(t.Context())
	g.ok(err)
	if second == key || second == before || second == [32]byte{} {
		t.Error("the second life goes on with a key of the first")
	}
	g.ok(g.s.SpendTicket(t.Context(), k, g.entry(""))) // nobody can show it any more
}

// ticket is a challenge of now; n tells it from others.
func (f *fixture) ticket(n int) device.Ticket {
	k := device.Ticket{ExpiresAt: f.now.Add(10 * time.Minute)}
	binary.BigEndian.PutUint64(k.ID[:8], uint64(f.now.UnixMicro()))
	binary.BigEndian.PutUint64(k.ID[8:], uint64(n))
	return k
}

func testTickets(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	spend := func(k device.Ticket) error {
		t.Helper()
		return f.adds(1, func(e ...ledger.Entry) error { return f.s.SpendTicket(t.Context(), k, e...) })
	}
	f.ok(spend(f.ticket(1)))
	f.refused(spend(f.ticket(1)), fault.TicketUsed)
	f.ok(spend(f.ticket(2)))
	for _, wrong := range []device.Ticket{{ID: f.ticket(3).ID}, {ID: f.ticket(3).ID, ExpiresAt: f.now.Add(-time.Microsecond)}} {
		if err := spend(wrong); !isPlain(err) {
			t.Errorf("a ticket that would never be pruned: %v", err)
		}
	}
	// Pruning takes those that expired before, however many, and no others.
	old := f.now
	var kept []device.Ticket
	for n := range 700 {
		f.now = f.now.Add(time.Second)
		kept = append(kept, f.ticket(n))
		f.ok(f.s.SpendTicket(t.Context(), kept[n], f.entry("")))
	}
	f.ok(f.s.PruneTickets(t.Context(), old.Add(650*time.Second+10*time.Minute)))
	for n, k := range kept {
		err := f.s.SpendTicket(t.Context(), k, f.entry(""))
		if pruned := n < 649; pruned != (err == nil) || !pruned && !fault.Has(err, fault.TicketUsed) {
			t.Fatalf("ticket %d: %v", n, err)
		}
	}
}

// tpm is a TPM, the same for the same n, as it shows itself the k-th time.
func (f *fixture) tpm(n, k int) *device.TPMState {
	return &device.TPMState{
		EK: sha256.Sum256(fmt.Appendf(nil, "ek %d", n)), AK: sha256.Sum256(fmt.Appendf(nil, "ak %d", n)), Plain: true, ResetCount: math.MaxUint32 - 100 + uint32(k),
		RestartCount: uint32(k), Clock: 1<<63 + uint64(k), Safe: true, Firmware: 1<<63 | 7, Vendor: "id:494E5443", Model: "Ünit",
	}
}

// attested lets an issuance rest on evidence.
func (f *fixture) attested(i device.Issuance, k device.Ticket, x *device.TPMState) device.Issuance {
	i.Attestation = &device.Attestation{
		Ticket: k, Kind: string(attest.TPM), Claims: uint8(attest.KeyInChip | attest.Genuine | attest.Fresh),
		Evidence: fmt.Appendf(nil, `{"certificate":%d}`, i.Credential.ID), TPM: x,
	}
	return f.told(i)
}

// told sets the entry of an attestation.
func (f *fixture) told(i device.Issuance) device.Issuance {
	i.Entries = slices.DeleteFunc(slices.Clone(i.Entries), func(e ledger.Entry) bool { return e.Kind == ledger.EvidenceKept })
	i.Entries = append(i.Entries, ledger.Entry{
		Kind: ledger.EvidenceKept, At: f.now, Actor: "system", Body: i.Attestation.Kept(i.Credential.ID, i.Credential.Device),
	})
	return i
}

// operational is an attested certificate for a device as it is now.
func (f *fixture) operational(id device.ID, k device.Ticket, x *device.TPMState) device.Issuance {
	f.Helper()
	d := f.load(id)
	return f.attested(f.issuance(&d, "ldevid", "cloud"), k, x)
}

func (f *fixture) recordOf(x *device.TPMState, id device.ID) attest.TPMRecord {
	return attest.TPMRecord{
		EK: x.EK, Device: id, Chip: x.Chip, AK: x.AK, Plain: x.Plain, ResetCount: x.ResetCount, RestartCount: x.RestartCount, Clock: x.Clock, Safe: x.Safe,
		Firmware: x.Firmware, Vendor: x.Vendor, Model: x.Model, SeenAt: f.now,
	}
}

func (f *fixture) shows(i *device.Issuance) {
	f.Helper()
	c, a := &i.Credential, i.Attestation
	e, err := f.s.Evidence(f.Context(), access.Everything(), c.ID)
	f.ok(err)
	f.same(attest.Evidence{
		Credential: c.ID, Device: c.Device, Kind: attest.Kind(a.Kind), Claims: attest.Claims(a.Claims), Content: a.Evidence,
		Digest: sha256.Sum256(a.Evidence), At: c.IssuedAt,
	}, e)
	if a.Ticket != (device.Ticket{}) {
		f.refused(f.s.SpendTicket(f.Context(), a.Ticket, f.entry("")), fault.TicketUsed)
	}
	if a.TPM == nil {
		return
	}
	x, err := f.s.TPM(f.Context(), a.TPM.EK)
	f.ok(err)
	f.same(f.recordOf(a.TPM, c.Device), x)
	x, err = f.s.TPMOf(f.Context(), access.Everything(), c.Device)
	f.ok(err)
	f.same(f.recordOf(a.TPM, c.Device), x)
}

func testEvidence(t *testing.T, open Open) {
	x := newShop(t, open(t), 1, 0, 2)
	d := x.device("SN-1")
	d.Product, d.Site = x.product, x.site
	x.add(d, x.device("SN-2"))
	listed := x.tpm(1, 1)
	listed.Chip = x.chips[0]
	i := x.operational(d.ID, x.ticket(1), listed)
	size := x.size()
	c, err := x.s.StoreIssuance(t.Context(), i)
	x.ok(err)
	if got := x.size() - size; got != 2 {
		t.Errorf("%d leaves, want 2", got)
	}
	x.same(c, x.credential(c.ID))
	x.shows(&i)
	chip, err := x.s.Chip(t.Context(), x.chips[0])
	if err != nil || chip.State != factory.ChipUsed || chip.Device != d.ID {
		t.Errorf("chip %+v, %v", chip, err)
	}
	for _, scope := range []access.Scope{{}, access.Limited([]int64{x.product + 1}, nil, nil), access.Limited(nil, []int64{x.site + 1}, nil)} {
		_, err = x.s.Evidence(t.Context(), scope, c.ID)
		x.refused(err, fault.CredentialUnknown)
		_, err = x.s.TPMOf(t.Context(), scope, d.ID)
		x.refused(err, fault.DeviceUnknown)
	}
	_, err = x.s.TPMOf(t.Context(), access.Limited([]int64{x.product}, nil, nil), d.ID)
	x.ok(err)
	_, err = x.s.TPMOf(t.Context(), access.Everything(), x.s.DeviceID("SN-2"))
	x.refused(err, fault.DeviceUnknown)
	_, err = x.s.TPM(t.Context(), [32]byte{1})
	x.refused(err, fault.ChipUnknown)
	_, err = x.s.Evidence(t.Context(), access.Everything(), x.issue(d.ID, "ldevid", "other").ID)
	x.refused(err, fault.CredentialUnknown)

	// The same TPM again, later; evidence without a TPM, without a ticket; a second TPM.
	x.now = x.now.Add(time.Minute)
	later := x.tpm(1, 2)
	later.Chip = x.chips[0]
	for n, a := range []*device.TPMState{later, nil, x.tpm(2, 1)} {
		i := x.operational(d.ID, device.Ticket{}, a)
		if n == 1 {
			i.Attestation.Kind, i.Attestation.Claims = string(attest.ChipProof), 255
			i = x.told(i)
		}
		_, err := x.s.StoreIssuance(t.Context(), i)
		x.ok(err)
		x.shows(&i)
		x.now = x.now.Add(time.Minute)
	}
}

func testUnitEvidence(t *testing.T, open Open) {
	x := newShop(t, open(t), 10, 2, 3)
	i := x.unit()
	a := x.tpm(1, 1)
	a.Chip = i.Unit.Chip
	i.Unit.Evidence, i.Unit.Nonce = "tpm", device.NonceRef{}
	i = x.attested(x.recorded(i), x.ticket(1), a)
	size := x.size()
	c, err := x.s.StoreIssuance(t.Context(), i)
	x.ok(err)
	if got := x.size() - size; got != 4 {
		t.Errorf("%d leaves, want 4", got)
	}
	x.shows(&i)
	if u := x.unitOf(c.ID); u.Chip != a.Chip || u.Evidence != "tpm" {
		t.Errorf("unit %+v", u)
	}
	// Another unit of the same board: the TPM stays the device's.
	again := x.tpm(1, 2)
	second := x.attested(x.another(c.Device, c.ID), x.ticket(2), again)
	_, err = x.s.StoreIssuance(t.Context(), second)
	x.ok(err)
	x.shows(&second)
	// A unit that is refused for its order spends nothing.
	x.amend(x.order, func(o *factory.Order) { o.Quantity = 1 })
	full := x.attested(x.recorded(x.unit()), x.ticket(3), x.tpm(3, 1))
	_, err = x.s.StoreIssuance(t.Context(), full)
	x.refused(err, fault.OrderFull)
	x.unshown(&full)
}

// unshown checks that an attestation left nothing.
func (f *fixture) unshown(i *device.Issuance) {
	f.Helper()
	if _, err := f.s.Evidence(f.Context(), access.Everything(), i.Credential.ID); !fault.Has(err, fault.CredentialUnknown) {
		f.Errorf("evidence is kept: %v", err)
	}
	if x := i.Attestation.TPM; x != nil {
		if _, err := f.s.TPM(f.Context(), x.EK); !fault.Has(err, fault.ChipUnknown) {
			f.Errorf("the TPM is kept: %v", err)
		}
	}
	f.ok(f.s.SpendTicket(f.Context(), i.Attestation.Ticket, f.entry("it was free")))
}

func testRefusedEvidence(t *testing.T, open Open) {
	x := newShop(t, open(t), 100, 10, 10)
	holder, d, twin := x.device("HOLDER"), x.device("SN-1"), x.device("SN-2")
	x.add(holder, d, twin)
	seen := x.tpm(1, 50)
	seen.Chip = x.chips[0]
	tickets := []device.Ticket{x.ticket(0), x.ticket(1), x.ticket(2), x.ticket(3)}
	held := x.operational(holder.ID, tickets[1], seen)
	heldBy, err := x.s.StoreIssuance(t.Context(), held)
	x.ok(err)
	x.ok(x.s.SpendTicket(t.Context(), tickets[2], x.entry("")))
	first, err := x.s.StoreIssuance(t.Context(), x.operational(d.ID, tickets[3], x.tpm(2, 50)))
	x.ok(err)
	other := x.addOrder("other", 10, 1)
	for n, state := range map[int]factory.ChipState{5: factory.ChipWithdrawn, 6: factory.ChipAllotted, 8: factory.ChipNotProvable} {
		c, err := x.s.Chip(t.Context(), x.chips[n])
		x.ok(err)
		from := c.State
		c.State, c.Order = state, map[int]int64{6: other}[n]
		x.ok(x.s.UpdateChip(t.Context(), c, from, x.entry("")))
	}
	hidden := x.stage("hidden", 1)[0]
	is := func(c fault.Code) func(error) bool { return func(err error) bool { return fault.Has(err, c) } }
	isStale := func(err error) bool { return errors.Is(err, device.ErrStale) }
	older := func(change func(s *device.TPMState)) func(i *device.Issuance) {
		return func(i *device.Issuance) {
			s := x.tpm(2, 50)
			change(s)
			i.Attestation.TPM = s
		}
	}
	chip := func(id int64) func(i *device.Issuance) {
		return func(i *device.Issuance) { i.Attestation.TPM.Chip = id }
	}
	n := 100
	for name, c := range map[string]struct {
		spoil   func(i *device.Issuance)
		refused func(error) bool
	}{
		"ticket used":           {func(i *device.Issuance) { i.Attestation.Ticket = tickets[2] }, is(fault.TicketUsed)},
		"ticket of another":     {func(i *device.Issuance) { i.Attestation.Ticket = tickets[1] }, is(fault.TicketUsed)},
		"ticket expired":        {func(i *device.Issuance) { i.Attestation.Ticket.ExpiresAt = x.now }, is(fault.TicketExpired)},
		"TPM of another":        {func(i *device.Issuance) { i.Attestation.TPM = x.tpm(1, 51) }, is(fault.TPMOfOther)},
		"TPM of another, older": {func(i *device.Issuance) { i.Attestation.TPM = x.tpm(1, 1) }, is(fault.TPMOfOther)},
		"reset count lower":     {older(func(s *device.TPMState) { s.ResetCount--; s.Clock++ }), is(fault.QuoteOld)},
		"restart count lower":   {older(func(s *device.TPMState) { s.RestartCount--; s.Clock++ }), is(fault.QuoteOld)},
		"clock lower":           {older(func(s *device.TPMState) { s.Clock -= 1 << 20 }), is(fault.QuoteOld)},
		"chip used":             {chip(x.chips[0]), is(fault.ChipUsed)},
		"chip withdrawn":        {chip(x.chips[5]), is(fault.ChipWithdrawn)},
		"chip of an order":      {chip(x.chips[6]), is(fault.ChipOtherOrder)},
		"chip unknown":          {chip(12345), is(fault.ChipUnknown)},
		"chip not imported yet": {chip(hidden), is(fault.ChipUnknown)},
		"control plane changed": {func(i *device.Issuance) { i.ControlEpoch++ }, isStale},
		"device changed":        {func(i *device.Issuance) { i.Change.Version-- }, isStale},
		"used, and the device changed": {func(i *device.Issuance) { // a retry that came too late
			i.Attestation.Ticket = tickets[3]
			i.Change.Version--
		}, isStale},
		"key of another device": {func(i *device.Issuance) { i.Credential.SPKIDigest = heldBy.SPKIDigest }, func(err error) bool {
			conflict, ok := errors.AsType[*device.KeyConflict](err)
			return ok && cmp.Equal(conflict.Existing, heldBy)
		}},
		"vendor that no database keeps": {func(i *device.Issuance) { i.Attestation.TPM.Vendor = "a\x00b" }, is(fault.AttestMalformed)},
		"model that is no text":         {func(i *device.Issuance) { i.Attestation.TPM.Model = "\xff" }, is(fault.AttestMalformed)},
	} {
		t.Run(name, func(t *testing.T) {
			x.T = t
			n++
			x.now = x.now.Add(time.Second) // the TPM that is seen last is this one's
			i := x.operational(d.ID, x.ticket(n), x.tpm(n, 1))
			change := *i.Change
			good := i
			good.Change = &change
			good = x.attested(good, x.ticket(n), x.tpm(n, 1))
			good.Attestation.TPM.Chip = x.chips[8]
			good = x.told(good)
			c.spoil(&i)
			i = x.told(i)
			before, chips := x.state(&i), x.all(&i).Chips
			_, err := x.s.StoreIssuance(t.Context(), i)
			if !c.refused(err) {
				t.Fatalf("refused with %v", err)
			}
			x.same(before, x.state(&i))
			x.same(chips, x.all(&i).Chips)
			for ek, want := range map[[32]byte]device.ID{seen.EK: holder.ID, x.tpm(2, 0).EK: d.ID} {
				if r, err := x.s.TPM(t.Context(), ek); err != nil || r.Device != want || r.RestartCount != 50 {
					t.Errorf("a TPM changed: %+v, %v", r, err)
				}
			}
			// Nothing of what it wanted is taken.
			_, err = x.s.StoreIssuance(t.Context(), good)
			x.ok(err)
			x.shows(&good)
		})
	}
	x.T = t
	x.same(first, x.credentialBut(first))
}

// credentialBut is a credential as it was when it was issued.
func (f *fixture) credentialBut(c device.Credential) device.Credential {
	f.Helper()
	now := f.credential(c.ID)
	now.State = c.State
	return now
}

func testUntoldEvidence(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	d := f.device("SN-1")
	f.add(d)
	for name, spoil := range map[string]func(i *device.Issuance){
		"no entry":                 func(i *device.Issuance) { i.Entries = i.Entries[:1] },
		"before its certificate":   func(i *device.Issuance) { slices.Reverse(i.Entries) },
		"claims more":              func(i *device.Issuance) { i.Attestation.Claims |= 8 },
		"another evidence":         func(i *device.Issuance) { i.Attestation.Evidence = []byte("{}") },
		"another TPM":              func(i *device.Issuance) { i.Attestation.TPM = f.tpm(2, 1) },
		"another count":            func(i *device.Issuance) { i.Attestation.TPM = f.tpm(1, 2) },
		"no evidence":              func(i *device.Issuance) { i.Attestation.Evidence = nil; *i = f.told(*i) },
		"no kind":                  func(i *device.Issuance) { i.Attestation.Kind = ""; *i = f.told(*i) },
		"no endorsement key":       func(i *device.Issuance) { i.Attestation.TPM.EK = [32]byte{}; *i = f.told(*i) },
		"no device":                func(i *device.Issuance) { i.Change, i.Credential.Device = nil, 0; *i = f.told(*i) },
		"a ticket of the future":   func(i *device.Issuance) { i.Attestation.Ticket.ID[0] = 0x7f },
		"far too much":             func(i *device.Issuance) { i.Attestation.Evidence = make([]byte, 5<<20); *i = f.told(*i) },
		"of another certificate":   func(i *device.Issuance) { i.Entries[1].Body = i.Attestation.Kept(i.Credential.ID+1, d.ID) },
		"under another name":       func(i *device.Issuance) { i.Entries[1].Kind = ledger.EvidenceRefused },
		"in words of the caller's": func(i *device.Issuance) { i.Entries[1].Body = ledger.JSON(struct{}{}) },
	} {
		i := f.operational(d.ID, f.ticket(1), f.tpm(1, 1))
		spoil(&i)
		if _, err := f.s.StoreIssuance(t.Context(), i); !isPlain(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := f.operational(d.ID, f.ticket(1), f.tpm(1, 1))
	_, err := f.s.StoreIssuance(t.Context(), good)
	f.ok(err)
}

func testFreedTPM(t *testing.T, open Open) {
	for state, free := range map[device.State]bool{
		device.Suspended: false, device.InRepair: false, device.Scrapped: true, device.Decommissioned: true,
	} {
		f := newFixture(t, open(t))
		old, next := f.device("OLD"), f.device("NEW")
		f.add(old, next)
		_, err := f.s.StoreIssuance(t.Context(), f.operational(old.ID, f.ticket(1), f.tpm(1, 5)))
		f.ok(err)
		d := f.load(old.ID)
		d.State = state
		f.ok(f.s.UpdateDevice(t.Context(), access.Everything(), d, f.entry("")))
		// What it showed for its former device counts on.
		_, err = f.s.StoreIssuance(t.Context(), f.operational(next.ID, f.ticket(2), f.tpm(1, 4)))
		if want := map[bool]fault.Code{true: fault.QuoteOld, false: fault.TPMOfOther}[free]; !fault.Has(err, want) {
			t.Errorf("%s: %v", state, err)
		}
		i := f.operational(next.ID, f.ticket(3), f.tpm(1, 6))
		_, err = f.s.StoreIssuance(t.Context(), i)
		if !free {
			f.refused(err, fault.TPMOfOther)
			continue
		}
		f.ok(err)
		f.shows(&i)
		_, err = f.s.TPMOf(t.Context(), access.Everything(), old.ID)
		f.refused(err, fault.DeviceUnknown)
	}
}

func testResetTPM(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	d, other := f.device("SN-1"), f.device("SN-2")
	f.add(d, other)
	for n, id := range map[int]device.ID{1: d.ID, 2: other.ID} {
		_, err := f.s.StoreIssuance(t.Context(), f.operational(id, f.ticket(n), f.tpm(n, 5)))
		f.ok(err)
	}
	cleared := &device.TPMState{EK: f.tpm(1, 0).EK, AK: [32]byte{1}, Plain: true, Safe: true}
	_, err := f.s.StoreIssuance(t.Context(), f.operational(d.ID, f.ticket(3), cleared))
	f.refused(err, fault.QuoteOld)
	f.ok(f.adds(1, func(e ...ledger.Entry) error { return f.s.ResetTPM(t.Context(), d.ID, e...) }))
	f.refused(f.adds(1, func(e ...ledger.Entry) error { return f.s.ResetTPM(t.Context(), f.s.DeviceID("NONE"), e...) }), fault.DeviceUnknown)
	forgotten := f.recordOf(f.tpm(1, 5), d.ID)
	forgotten.AK, forgotten.Plain, forgotten.ResetCount, forgotten.RestartCount, forgotten.Clock, forgotten.Safe = [32]byte{}, false, 0, 0, 0, false
	x, err := f.s.TPM(t.Context(), cleared.EK)
	f.ok(err)
	f.same(forgotten, x)
	i := f.operational(d.ID, f.ticket(3), cleared)
	_, err = f.s.StoreIssuance(t.Context(), i)
	f.ok(err)
	f.shows(&i)
	// The other device's TPM forgot nothing.
	_, err = f.s.StoreIssuance(t.Context(), f.operational(other.ID, f.ticket(4), f.tpm(2, 4)))
	f.refused(err, fault.QuoteOld)
	// Nor is a TPM that was reset anybody's.
	_, err = f.s.StoreIssuance(t.Context(), f.operational(other.ID, f.ticket(4), f.tpm(1, 9)))
	f.refused(err, fault.TPMOfOther)
}

func (f *fixture) attestWrites() []namedWrite {
	ctx, s := f.Context(), f.s
	d := f.device("WITH-TPM")
	return []namedWrite{
		{"AddRoots", func(e ledger.Entry) error { _, err := s.AddRoots(ctx, f.roots("r", 1, "r", "key"), e); return err }},
		{"SetPolicy", func(e ledger.Entry) error {
			_, err := s.SetPolicy(ctx, attest.Policy{Product: 1, Version: 1}, e)
			return err
		}},
		{"SpendTicket", func(e ledger.Entry) error { return s.SpendTicket(ctx, f.ticket(9), e) }},
		{"Record", func(e ledger.Entry) error { return s.Record(ctx, e) }},
		{"ResetTPM", func(e ledger.Entry) error {
			if err := s.AddDevices(ctx, access.Everything(), []device.Device{d}, e); err != nil {
				return err
			}
			if _, err := s.StoreIssuance(ctx, f.operational(d.ID, f.ticket(8), f.tpm(9, 1))); err != nil {
				return err
			}
			before := f.size()
			err := s.ResetTPM(ctx, d.ID, e)
			if f.size() <= before {
				f.Error("ResetTPM wrote without an entry in the ledger")
			}
			return err
		}},
	}
}

var _ attest.Store = (*store.Store)(nil)

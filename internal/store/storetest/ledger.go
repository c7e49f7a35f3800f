package storetest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/status"
	"github.com/birthmark/birthmark/internal/store"
)

func (f *fixture) write(entries ...ledger.Entry) {
	f.Helper()
	f.ok(f.s.AcceptClock(f.Context(), f.now, entries...))
}

func testLedgerBatches(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	r := rand.New(rand.NewPCG(3, 4))
	kinds := []ledger.Kind{ledger.ProductAdded, ledger.CertificateRevoked, ledger.TokenCreated, ledger.ClockAccepted, ledger.AuthorityRevoked}
	var sizes []int
	var classes []ledger.Class
	for range 60 {
		var entries []ledger.Entry
		var class ledger.Class
		for range 1 + r.IntN(5) {
			k := kinds[r.IntN(len(kinds))]
			class |= ledger.ClassOf(k)
			entries = append(entries, ledger.Entry{Kind: k, At: f.now, Actor: "system", Body: ledger.JSON(map[string]int{"n": r.IntN(100)})})
		}
		f.write(entries...)
		sizes, classes = append(sizes, len(entries)), append(classes, class)
	}
	size := int(f.size())
	starts := make([]int, len(sizes))
	for n := 1; n < len(sizes); n++ {
		starts[n] = starts[n-1] + sizes[n-1]
	}
	for range 300 {
		from, limit, mask := r.IntN(size+3), 1+r.IntN(30), ledger.Class(1+r.IntN(63))
		got, err := f.s.LedgerBatches(t.Context(), int64(from), mask, limit)
		f.ok(err)
		at, _ := slices.BinarySearch(starts, from+1)
		at-- // the batch that holds from
		if from >= size {
			if len(got) != 0 {
				t.Fatalf("batches after the end: %v", got)
			}
			continue
		}
		leaves := 0
		for n, b := range got {
			k := at + n
			if b.First != int64(starts[k]) || len(b.Leaves) != sizes[k] || b.Classes != classes[k] {
				t.Fatalf("batch %+v from %d, want first %d of %d", b, from, starts[k], sizes[k])
			}
			if read := b.Leaves[0] != nil; read != (mask&classes[k] != 0) {
				t.Fatalf("leaves of classes %b read for mask %b: %v", classes[k], mask, read)
			}
			leaves += len(b.Leaves)
		}
		if len(got) == 0 || len(got) > 1 && leaves > limit {
			t.Fatalf("%d batches with %d leaves, limit %d", len(got), leaves, limit)
		}
	}
	f.leaves()
}

func testLedgerPrivate(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	f.write(f.entry("a"), ledger.Entry{Kind: ledger.ClockAccepted, At: f.now, Actor: "operator:ann", Body: ledger.JSON(struct{}{})})
	d := f.device("SN-1")
	f.add(d)
	i := f.issuance(&d, "idevid", "")
	i.Entries = append(i.Entries, ledger.Entry{Kind: ledger.ApprovalExecuted, At: f.now, Actor: "local:bob", Body: ledger.JSON(struct{}{})})
	_, err := f.s.StoreIssuance(t.Context(), i)
	f.ok(err)
	leaves := f.leaves()
	for index, want := range map[int]string{0: "", 1: "operator:ann", len(leaves) - 2: "", len(leaves) - 1: "local:bob", len(leaves): ""} {
		p, err := f.s.LedgerPrivate(t.Context(), int64(index))
		f.ok(err)
		if (p == nil) != (want == "") || p != nil && p.Value != want {
			t.Errorf("beside leaf %d: %v, want %q", index, p, want)
		}
		if p == nil {
			continue
		}
		digest := p.Commitment()
		if !bytes.Contains(leaves[index], []byte(hex.EncodeToString(digest[:]))) || bytes.Contains(leaves[index], []byte(want)) {
			t.Errorf("leaf %s does not commit to %q", leaves[index], want)
		}
	}
	for _, leaf := range leaves {
		if !json.Valid(leaf) {
			t.Errorf("leaf %q", leaf)
		}
	}
}

func testTiles(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	c, err := f.s.LatestCheckpoint(t.Context())
	f.ok(err)
	f.same(ledger.Checkpoint{}, c)
	_, err = f.s.Tile(t.Context(), 0, 0)
	f.refused(err, fault.EntryUnknown)
	lease := f.hold("sequencer")
	hashes := bytes.Repeat([]byte{7}, 64)
	for n := int64(1); n <= 300; n++ {
		c = ledger.Checkpoint{Size: n, Root: sha256.Sum256(hashes), Note: []byte("note"), At: 1000 + n}
		f.ok(f.s.SaveTiles(t.Context(), []ledger.Tile{{Level: 0, N: 0, Hashes: hashes}, {Level: 1, N: n, Hashes: hashes[:32]}}, c, lease))
		hashes = append(hashes, 8)
	}
	latest, err := f.s.LatestCheckpoint(t.Context())
	f.ok(err)
	f.same(c, latest)
	got, err := f.s.Tile(t.Context(), 0, 0)
	f.ok(err)
	f.same(hashes[:len(hashes)-1], got)
	got, err = f.s.Tile(t.Context(), 1, 300)
	f.ok(err)
	if len(got) != 32 {
		t.Errorf("tile of %d octets", len(got))
	}
	lease.Fence++
	f.refused(f.s.SaveTiles(t.Context(), []ledger.Tile{{Level: 0, N: 0, Hashes: nil}}, c, lease), fault.NodeFenced)
	if again, err := f.s.Tile(t.Context(), 0, 0); err != nil || len(again) == 0 {
		t.Error("a passed-on lease wrote a tile")
	}
}

func testFollowers(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	changed := f.s.Changed()
	f.write(f.entry("a"))
	<-changed
	changed = f.s.Changed()
	f.issue(0, "tls-server", "")
	<-changed
	changed = f.s.Changed()
	go f.s.Close() //nolint:errcheck // closed again, with its error, by the test
	<-changed
}

// silent are the methods that write without a leaf, and why.
var silent = map[string]string{
	"AcquireLease":     "who runs a job says nothing about identities, and is renewed every few seconds",
	"SaveTiles":        "the tree itself; a leaf for it would have to be in it",
	"SaveClockMark":    "a copy of the clock",
	"ReserveCRLNumber": "gaps are allowed; the list that uses it is in the ledger",
	"Seed":             "fills a benchmark's register, with leaves as if it had happened",
	"SeedChips":        "the same, by the methods that are tested here",
	"SeedUnits":        "the same",
	"StageChips":       "what is staged is seen by nobody; the manifest's flip is in the ledger, with its digest",
	"PruneNonceBlocks": "nonces that are too old to be used; drawing and using them is in the ledger",
	"PruneTickets":     "challenges that are too old to be answered; what was answered is in the ledger",
	"TicketKey":        "made at first use; it seals what the server keeps nowhere",
	"PruneRevocations": "rows of certificates that expired; that they were revoked is in the ledger",
	"MoveCursor":       "a delivery; its leaf would be delivered too, for ever",
	"Restore":          "brings its ledger along; tested by itself",
	"Backup":           "its entry is made by the caller from the result; tested by itself",
}

// reading are the methods that write nothing.
var reading = strings.Fields(`Approval ApprovalByDigest Approvals CertSerial Changed CheckClock ClockMark Close Control Counts
Credential CredentialBySPKI CredentialBySerial Credentials CurrentCRL CurrentCRLNumber Device DeviceID EndedOverlaps Devices Expiring Installation
CRLRows CredentialRows DeviceRows LeaseRows OrderRows RecordRows Returned RevocationRows UnitRows Writable LatestCheckpoint LedgerBatches LedgerPrivate LedgerSize Node Operators Product Products ProfileVersion ProfileVersions Revocations Tile TokenByHash Tokens
Alarm Alarms Chip ChipByKey ChipID Chips FindChips Manifest Manifests Order OrderByNumber OrderByReference Orders Plane Signers Sites
Station StationByCode StationByName Stations Tallies Webhooks NonceBlock Unconfirmed Unit UnitByReference Units WrappedKey
AttestPlane Evidence EvidenceRows RootsHistory TPM TPMOf TPMRows`)

func testEveryWriteHasALeaf(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	writes := slices.Concat(f.writes(), f.factoryWrites(), f.unitWrites(), f.attestWrites())
	var all []string
	for m := range reflect.TypeFor[*store.Store]().Methods() {
		all = append(all, m.Name)
	}
	for _, name := range all {
		_, quiet := silent[name]
		if slices.ContainsFunc(writes, func(w namedWrite) bool { return w.name == name }) || quiet || slices.Contains(reading, name) {
			continue
		}
		t.Errorf("%s is in no list: does it write, and is that in the ledger?", name)
	}
	for _, w := range writes {
		if !slices.Contains(all, w.name) {
			t.Errorf("there is no %s any more", w.name)
			continue
		}
		before := f.size()
		if err := w.write(f.entry(w.name)); err != nil {
			t.Errorf("%s: %v", w.name, err)
		}
		if f.size() <= before {
			t.Errorf("%s wrote without an entry in the ledger", w.name)
		}
	}
}

// namedWrite calls one writing method, in a state in which it has to write.
type namedWrite struct {
	name  string
	write func(e ledger.Entry) error
}

func (f *fixture) writes() []namedWrite {
	ctx, s, all := f.Context(), f.s, access.Everything()
	d := f.device("SN-1")
	var c device.Credential
	var token, approval, authorityID int64
	var lease device.SerialLease
	product := device.Product{Name: "P", CreatedAt: f.now}
	ca := authority.Authority{Name: "A", Kind: authority.Root, State: authority.Pending, CreatedAt: f.now, ChangedAt: f.now}
	waiting := access.Approval{Kind: "k", Params: []byte("{}"), Requester: "operator:a", State: access.Waiting, RequestedAt: f.now, ExpiresAt: f.now.Add(time.Hour)}
	return []namedWrite{
		{"Install", func(e ledger.Entry) error {
			return s.Install(ctx, authority.Installation{ID: [16]byte{1}, Organization: "O", CreatedAt: f.now}, e)
		}},
		{"AcceptClock", func(e ledger.Entry) error { return s.AcceptClock(ctx, f.now, e) }},
		{"FenceNode", func(ledger.Entry) error { return s.FenceNode(ctx, s.Node(), f.now) }},
		{"LeaseSerials", func(ledger.Entry) (err error) {
			lease, err = s.LeaseSerials(ctx, s.Node(), 8, f.now)
			return err
		}},
		{"CloseLease", func(ledger.Entry) error { return s.CloseLease(ctx, lease.LeaseRef, f.now) }},
		{"AddProduct", func(e ledger.Entry) (err error) { product.ID, err = s.AddProduct(ctx, product, e); return err }},
		{"UpdateProduct", func(e ledger.Entry) error { product.Description = "x"; return s.UpdateProduct(ctx, product, e) }},
		{"AddDevices", func(e ledger.Entry) error { return s.AddDevices(ctx, all, []device.Device{d}, e) }},
		{"AddDevicesStaged", func(e ledger.Entry) error {
			chunk := func(yield func(store.DeviceChunk, error) bool) {
				yield(store.DeviceChunk{Devices: []device.Device{f.device("SN-2")}, Entries: []ledger.Entry{e}}, nil)
			}
			_, err := s.AddDevicesStaged(ctx, all, "batch", chunk, e)
			return err
		}},
		{"DiscardBatch", func(ledger.Entry) error {
			chunk := func(yield func(store.DeviceChunk, error) bool) {
				_ = yield(store.DeviceChunk{Devices: []device.Device{f.device("SN-3")}}, nil) && yield(store.DeviceChunk{}, fault.New(fault.ShuttingDown))
			}
			_, _ = s.AddDevicesStaged(ctx, all, "broken", chunk)
			return s.DiscardBatch(ctx, "broken", "system")
		}},
		{"UpdateDevice", func(e ledger.Entry) error { d := f.load(d.ID); d.Region = "us"; return s.UpdateDevice(ctx, all, d, e) }},
		{"StoreIssuance", func(ledger.Entry) (err error) {
			d := f.load(d.ID)
			c, err = s.StoreIssuance(ctx, f.issuance(&d, "idevid", ""))
			return err
		}},
		{"Confirm", func(e ledger.Entry) error { return s.Confirm(ctx, device.Confirmation{ID: c.ID, At: f.now}, e) }},
		{"Revoke", func(e ledger.Entry) error {
			return s.Revoke(ctx, all, status.Revocation{Credential: c.ID, At: f.now, Reason: 6}, e)
		}},
		{"Release", func(e ledger.Entry) error { return s.Release(ctx, all, c.ID, e) }},
		{"SaveCRL", func(e ledger.Entry) error {
			return s.SaveCRL(ctx, status.CRL{Authority: 1, Number: 1, ThisUpdate: f.now, NextUpdate: f.now, DER: []byte{1}}, f.hold("crl"), e)
		}},
		{"AddAuthority", func(e ledger.Entry) (err error) {
			authorityID, err = s.AddAuthority(ctx, ca, e)
			return err
		}},
		{"UpdateAuthority", func(e ledger.Entry) error {
			ca.ID, ca.State = authorityID, authority.Retired
			return s.UpdateAuthority(ctx, ca, e)
		}},
		{"AddProfileVersion", func(e ledger.Entry) error {
			_, err := s.AddProfileVersion(ctx, authority.ProfileVersion{Name: "p", Text: []byte("t"), Digest: [32]byte{1}, ImportedAt: f.now}, e)
			return err
		}},
		{"SetLabel", func(e ledger.Entry) error { return s.SetLabel(ctx, authority.Label{Name: "l", Profile: "p"}, e) }},
		{"SaveOperator", func(e ledger.Entry) error {
			return s.SaveOperator(ctx, access.Operator{Name: "a", CreatedAt: f.now}, e)
		}},
		{"AddToken", func(e ledger.Entry) (err error) {
			token, err = s.AddToken(ctx, access.Token{Name: "t", CreatedAt: f.now, ExpiresAt: f.now}, e)
			return err
		}},
		{"RevokeToken", func(e ledger.Entry) error { return s.RevokeToken(ctx, token, f.now.Unix(), e) }},
		{"AddApproval", func(e ledger.Entry) (err error) { approval, err = s.AddApproval(ctx, waiting, e); return err }},
		{"MoveApproval", func(e ledger.Entry) error {
			waiting.ID, waiting.State = approval, access.Refused
			return s.MoveApproval(ctx, waiting, access.Waiting, e)
		}},
	}
}

package attest_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/store"
)

// world is the service with a database behind it. Contents of bundles and policies
// are read by the package below; here they are what these tests say.
type world struct {
	*attest.Service
	*testing.T
	store   *store.Store
	now     time.Time
	ann     access.Caller // sees everything
	bob     access.Caller // sees the second product alone
	product []int64
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, now: time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC), ann: access.Caller{Name: "operator:ann", Scope: access.Everything()}}
	clock := func() time.Time { return w.now }
	var err error
	w.store, err = store.Open(t.Context(), store.Config{DSN: "sqlite:" + filepath.Join(t.TempDir(), "birthmark.db"), Node: "one", Now: clock})
	w.ok(err)
	t.Cleanup(func() { w.store.Close() })
	for _, name := range []string{"sensor", "gateway"} {
		id, err := w.store.AddProduct(t.Context(), device.Product{Name: name, CreatedAt: w.now}, ledger.Entry{
			Kind: ledger.ProductAdded, At: w.now, Actor: "system", Body: ledger.JSON(map[string]string{"name": name}),
		})
		w.ok(err)
		w.product = append(w.product, id)
	}
	w.bob = access.Caller{Name: "operator:bob", Scope: access.Limited(w.product[1:], nil, nil)}
	w.Service, err = attest.New(attest.Config{
		Store: w.store, Products: w.store, Now: clock,
		ParseRoots: func(content []byte) (*attest.RootsFile, error) {
			var f attest.RootsFile
			if err := json.Unmarshal(content, &f); err != nil || f.Name == "" {
				return nil, fault.New(fault.RootsInvalid, "no name")
			}
			return &f, nil
		},
		CheckPolicy: func(content []byte) error {
			if bytes.Contains(content, []byte("bad")) {
				return fault.New(fault.PolicyInvalid, "bad")
			}
			return nil
		},
	})
	w.ok(err)
	return w
}

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) refused(err error, c fault.Code) {
	w.Helper()
	if !fault.Has(err, c) {
		w.Fatalf("got %v, want %v", err, fault.New(c))
	}
}

func newKey(t *testing.T) crypto.Signer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (w *world) bundle(key crypto.Signer, name string, version int64, more string) attest.RootsImport {
	w.Helper()
	content := fmt.Appendf(nil, `{"name":%q,"version":%d,"deny":[{"reason":%q}]}`, name, version, more)
	text, err := attest.SignBundle(content, key, rand.Reader)
	w.ok(err)
	return attest.RootsImport{Bundle: text}
}

func (w *world) size() int64 {
	w.Helper()
	n, err := w.store.LedgerSize(w.Context())
	w.ok(err)
	return n
}

// verifies derives the record anew from the ledger.
func (w *world) verifies() {
	w.Helper()
	_, public, err := note.GenerateKey(rand.Reader, "test")
	w.ok(err)
	v, err := note.NewVerifier(public)
	w.ok(err)
	_, err = ledger.Verify(w.Context(), w.store, ledger.VerifyOptions{Verifiers: []note.Verifier{v}, Now: func() time.Time { return w.now }})
	w.ok(err)
}

func TestRootsArePinnedToTheirSigner(t *testing.T) {
	w := newWorld(t)
	issuer, thief := newKey(t), newKey(t)
	first, err := w.ImportRoots(t.Context(), w.ann, w.bundle(issuer, "makers", 3, ""))
	w.ok(err)
	spki := first.Roots.Signer
	if !first.Pinned || first.Again || first.File.Name != "makers" || first.Roots.Version != 3 || first.Roots.ImportedBy != "operator:ann" || first.Roots.Repinned {
		t.Errorf("imported %+v", first)
	}
	size := w.size()
	again, err := w.ImportRoots(t.Context(), w.ann, w.bundle(issuer, "makers", 3, ""))
	w.ok(err)
	if !again.Again || again.Pinned || again.Roots.ID != first.Roots.ID || w.size() != size {
		t.Errorf("the same again %+v", again)
	}
	for name, c := range map[string]struct {
		r    attest.RootsImport
		want fault.Code
	}{
		"an older version":           {w.bundle(issuer, "makers", 2, ""), fault.RootsOlder},
		"another of this version":    {w.bundle(issuer, "makers", 3, "changed"), fault.RootsOlder},
		"another signer":             {w.bundle(thief, "makers", 4, ""), fault.RootsSigner},
		"not one of ours":            {attest.RootsImport{Bundle: []byte("{}")}, fault.RootsInvalid},
		"content that does not read": {w.bundle(issuer, "", 4, ""), fault.RootsInvalid},
		"another fingerprint than expected": {attest.RootsImport{
			Bundle: w.bundle(thief, "new", 1, "").Bundle, Fingerprint: attest.Fingerprint(spki),
		}, fault.RootsSigner},
	} {
		if _, err := w.ImportRoots(t.Context(), w.ann, c.r); !fault.Has(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if w.size() != size {
		t.Error("a refused bundle is in the ledger")
	}
	// The signer's successor, with its fingerprint as people write it.
	next := w.bundle(thief, "makers", 4, "")
	next.Repin = true
	b, err := attest.ParseBundle(next.Bundle)
	w.ok(err)
	upper := strings.ToUpper(attest.Fingerprint(b.Signer))
	next.Fingerprint = upper[:2] + ":" + upper[2:]
	got, err := w.ImportRoots(t.Context(), w.ann, next)
	w.ok(err)
	if !got.Pinned || !got.Roots.Repinned || !bytes.Equal(got.Roots.Signer, b.Signer) {
		t.Errorf("repinned %+v", got)
	}
	_, err = w.ImportRoots(t.Context(), w.ann, w.bundle(issuer, "makers", 5, ""))
	w.refused(err, fault.RootsSigner)
	// To accept another signer where it is the same changes nothing.
	same := w.bundle(thief, "makers", 6, "")
	same.Repin = true
	if got, err = w.ImportRoots(t.Context(), w.ann, same); err != nil || got.Pinned || got.Roots.Repinned {
		t.Errorf("%+v, %v", got, err)
	}
	list, err := w.Roots(t.Context(), w.ann)
	if err != nil || len(list) != 1 || list[0].Version != 6 {
		t.Errorf("%+v, %v", list, err)
	}
	history, err := w.RootsHistory(t.Context(), w.ann, "makers")
	if err != nil || len(history) != 3 || history[0].Version != 6 || history[2].Version != 3 {
		t.Errorf("%+v, %v", history, err)
	}
	_, err = w.RootsHistory(t.Context(), w.ann, "none")
	w.refused(err, fault.RootsUnknown)
	w.verifies()
}

func TestPoliciesAreSetInScope(t *testing.T) {
	w := newWorld(t)
	one, two := w.product[0], w.product[1]
	_, err := w.SetPolicy(t.Context(), w.ann, one, []byte("bad"))
	w.refused(err, fault.PolicyInvalid)
	_, err = w.SetPolicy(t.Context(), w.ann, 99, []byte("a"))
	w.refused(err, fault.ProductUnknown)
	_, err = w.SetPolicy(t.Context(), w.bob, one, []byte("a"))
	w.refused(err, fault.ProductUnknown)
	_, err = w.SetPolicy(t.Context(), w.ann, one, nil)
	w.refused(err, fault.PolicyUnknown)
	_, err = w.PolicyOf(t.Context(), w.ann, one)
	w.refused(err, fault.PolicyUnknown)

	p, err := w.SetPolicy(t.Context(), w.ann, one, []byte("a"))
	if err != nil || p.Version != 1 || p.ID == 0 || p.Digest != sha256.Sum256([]byte("a")) || p.Author != "operator:ann" {
		t.Errorf("%+v, %v", p, err)
	}
	size := w.size()
	if again, err := w.SetPolicy(t.Context(), w.ann, one, []byte("a")); err != nil || again.ID != p.ID || w.size() != size {
		t.Errorf("the same again: %+v, %v", again, err)
	}
	p, err = w.SetPolicy(t.Context(), w.ann, one, []byte("b"))
	if err != nil || p.Version != 2 {
		t.Errorf("%+v, %v", p, err)
	}
	_, err = w.SetPolicy(t.Context(), w.bob, two, []byte("c"))
	w.ok(err)
	all, err := w.Policies(t.Context(), w.ann)
	if err != nil || len(all) != 2 {
		t.Errorf("%+v, %v", all, err)
	}
	his, err := w.Policies(t.Context(), w.bob)
	if err != nil || len(his) != 1 || his[0].Product != two {
		t.Errorf("%+v, %v", his, err)
	}
	_, err = w.PolicyOf(t.Context(), w.bob, one)
	w.refused(err, fault.ProductUnknown)
	if p, err := w.PolicyOf(t.Context(), w.bob, two); err != nil || string(p.Content) != "c" {
		t.Errorf("%+v, %v", p, err)
	}
	// Ended, and set again.
	if p, err := w.SetPolicy(t.Context(), w.ann, one, nil); err != nil || p.Version != 3 || len(p.Content) != 0 {
		t.Errorf("%+v, %v", p, err)
	}
	_, err = w.PolicyOf(t.Context(), w.ann, one)
	w.refused(err, fault.PolicyUnknown)
	if all, err = w.Policies(t.Context(), w.ann); err != nil || len(all) != 1 {
		t.Errorf("%+v, %v", all, err)
	}
	if p, err := w.SetPolicy(t.Context(), w.ann, one, []byte("b")); err != nil || p.Version != 4 {
		t.Errorf("%+v, %v", p, err)
	}
	w.verifies()
}

func TestPoliciesOfManyAtOnceFollowEachOther(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	var versions []int64
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			p, err := w.SetPolicy(context.WithoutCancel(t.Context()), w.ann, w.product[0], fmt.Append(nil, n))
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			versions = append(versions, p.Version)
			mu.Unlock()
		})
	}
	wg.Wait()
	slices.Sort(versions)
	if !slices.Equal(versions, []int64{1, 2, 3, 4}) {
		t.Errorf("versions %v", versions)
	}
	w.verifies()
}

// enrolled is a device whose certificate rests on a TPM.
func (w *world) enrolled(product int64) device.Credential {
	w.Helper()
	ctx := w.Context()
	d := device.Device{ID: w.store.DeviceID("SN-1"), DeviceSerial: "SN-1", Product: product, State: device.Registered, Version: 1, RegisteredAt: w.now, ChangedAt: w.now}
	act := func(k ledger.Kind, b ledger.Body) ledger.Entry {
		return ledger.Entry{Kind: k, At: w.now, Actor: "system", Body: b}
	}
	w.ok(w.store.AddDevices(ctx, access.Everything(), []device.Device{d}, act(ledger.DeviceRegistered, &ledger.Registered{
		Device: int64(d.ID), DeviceSerial: d.DeviceSerial, Product: product, Version: 1, State: uint8(d.State),
	})))
	lease, err := w.store.LeaseSerials(ctx, "one", 4, w.now)
	w.ok(err)
	control, err := w.store.Control(ctx)
	w.ok(err)
	c := device.Credential{
		ID: lease.First, CertSerial: w.store.CertSerial(lease, lease.First), Authority: 1, Profile: 1, Kind: "idevid", Device: d.ID, Product: product,
		State: device.Issued, KeyKind: device.KeyHardware, NotBefore: w.now, NotAfter: w.now.AddDate(1, 0, 0), SPKIDigest: [32]byte{1}, IssuedAt: w.now, DER: []byte("der"),
	}
	k := device.Ticket{ExpiresAt: w.now.Add(10 * time.Minute)}
	binary.BigEndian.PutUint64(k.ID[:], uint64(w.now.UnixMicro()))
	a := &device.Attestation{Ticket: k, Kind: string(attest.TPM), Claims: 3, Evidence: []byte("{}"), TPM: &device.TPMState{EK: [32]byte{7}, Plain: true, ResetCount: 5}}
	_, err = w.store.StoreIssuance(ctx, device.Issuance{
		Credential: c, Lease: lease.LeaseRef, ControlEpoch: control.Epoch, Attestation: a,
		Change: &device.Change{ID: d.ID, Version: 1, State: device.Active, Slot: device.IDevIDSlot},
		Entries: []ledger.Entry{
			act(ledger.CertificateIssued, &ledger.Issued{
				Credential: int64(c.ID), CertSerial: c.CertSerial, Authority: 1, Profile: 1, Kind: "idevid", Device: int64(d.ID), DeviceVersion: 2,
				DeviceState: uint8(device.Active), Slot: "idevid", Product: product, KeyKind: uint8(c.KeyKind), NotBefore: c.NotBefore, NotAfter: c.NotAfter,
				SPKI: c.SPKIDigest, DER: sha256.Sum256(c.DER),
			}),
			act(ledger.EvidenceKept, a.Kept(c.ID, d.ID)),
		},
	})
	w.ok(err)
	return c
}

func TestEvidenceAndTPMsAreShownInScope(t *testing.T) {
	w := newWorld(t)
	c := w.enrolled(w.product[0])
	e, err := w.Evidence(t.Context(), w.ann, c.ID)
	if err != nil || e.Kind != attest.TPM || e.Device != c.Device {
		t.Errorf("%+v, %v", e, err)
	}
	_, err = w.Evidence(t.Context(), w.bob, c.ID)
	w.refused(err, fault.CredentialUnknown)
	x, err := w.TPMOf(t.Context(), w.ann, c.Device)
	if err != nil || x.ResetCount != 5 {
		t.Errorf("%+v, %v", x, err)
	}
	_, err = w.TPMOf(t.Context(), w.bob, c.Device)
	w.refused(err, fault.DeviceUnknown)

	w.refused(w.ResetTPM(t.Context(), w.ann, c.Device, " "), fault.ParameterInvalid)
	w.refused(w.ResetTPM(t.Context(), w.bob, c.Device, "cleared in repair"), fault.DeviceUnknown)
	w.ok(w.ResetTPM(t.Context(), w.ann, c.Device, "cleared in repair"))
	if x, err = w.TPMOf(t.Context(), w.ann, c.Device); err != nil || x.ResetCount != 0 {
		t.Errorf("%+v, %v", x, err)
	}
	size := w.size()
	w.ok(w.Refused(t.Context(), "device:"+c.Device.String(), &ledger.RefusedEvidence{Code: "BM-9042", Device: int64(c.Device)}))
	if w.size() != size+1 {
		t.Error("a refusal is not in the ledger")
	}
	w.verifies()
}

func TestTicketsArePrunedLongAfterTheirEnd(t *testing.T) {
	w := newWorld(t)
	k := device.Ticket{ExpiresAt: w.now.Add(10 * time.Minute)}
	spend := func() error {
		return w.store.SpendTicket(t.Context(), k, ledger.Entry{Kind: ledger.EvidenceRefused, At: w.now, Actor: "system", Body: &ledger.RefusedEvidence{Code: "BM-9034"}})
	}
	w.ok(spend())
	w.now = w.now.Add(69 * time.Minute)
	w.ok(w.Prune(t.Context()))
	w.refused(spend(), fault.TicketUsed)
	w.now = w.now.Add(2 * time.Minute)
	w.ok(w.Prune(t.Context()))
	w.ok(spend())
}

func TestServiceNeedsItsParts(t *testing.T) {
	if _, err := attest.New(attest.Config{}); err == nil {
		t.Error("a service of nothing")
	}
}

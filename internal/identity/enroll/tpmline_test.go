package enroll_test

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// tpmLine is a line whose units have TPMs of a trusted maker.
type tpmLine struct {
	*line
	maker *tpmtest.Maker
}

func newTPMLine(t testing.TB, edit func(*device.Product), profiles ...string) *tpmLine {
	t.Helper()
	l := &tpmLine{line: newLine(t, func(p *device.Product) {
		p.ChipTypes, p.LeastEvidence = []string{"tpm2.0"}, "tpm"
		if edit != nil {
			edit(p)
		}
	}, profiles...)}
	l.maker = tpmtest.NewMaker(t, "Test TPMs", tpmtest.MakerOptions{Now: l.clock()})
	l.trust(tpmtest.Bundle(1, l.maker))
	return l
}

// trust imports a bundle of makers.
func (w *world) trust(f *attest.RootsFile) {
	w.t.Helper()
	content, err := json.Marshal(f)
	must(w.t, err)
	_, err = w.store.AddRoots(w.t.Context(), attest.Roots{
		Name: f.Name, Version: f.Version, Content: content, Digest: sha256.Sum256(content), Signer: []byte("signer"),
		ImportedBy: "system", ImportedAt: w.clock(),
	}, entry(w, ledger.RootsImported))
	must(w.t, err)
	w.refreshPlane()
}

// policy demands registers of a product's devices.
func (w *world) policy(product, version int64, f attest.PolicyFile) {
	w.t.Helper()
	content, err := json.Marshal(f)
	must(w.t, err)
	_, err = w.store.SetPolicy(w.t.Context(), attest.Policy{
		Product: product, Version: version, Content: content, Digest: sha256.Sum256(content), Author: "system", SetAt: w.clock(),
	}, entry(w, ledger.TPMPolicySet))
	must(w.t, err)
	w.refreshPlane()
}

func (w *world) refreshPlane() {
	w.t.Helper()
	_, err := w.plane.Refresh(w.t.Context())
	must(w.t, err)
}

// unitTPM is a unit's TPM with its keys.
type unitTPM struct {
	*tpmtest.TPM
	deviceSerial string
	ak, key      *tpmtest.Key
}

func newTPM(t testing.TB, m *tpmtest.Maker, deviceSerial string, o tpmtest.Options) *unitTPM {
	t.Helper()
	x := tpmtest.New(t, m, o)
	return &unitTPM{x, deviceSerial, x.NewAK(wire.ECP256), x.NewSubject(wire.ECP256)}
}

func (l *tpmLine) tpm(deviceSerial string) *unitTPM {
	return newTPM(l.t, l.maker, deviceSerial, tpmtest.Options{})
}

// ek is the SHA-256 of the EK's SubjectPublicKeyInfo.
func (x *unitTPM) ek() [32]byte { return sha256.Sum256(x.EK.SPKI()) }

// listTPM puts the EK into a manifest.
func (l *tpmLine) listTPM(x *unitTPM, edit func(*chip)) *chip {
	l.t.Helper()
	ek := x.ek()
	uid := hex.EncodeToString(ek[:])
	c := &chip{Chip: factory.Chip{
		ID: l.store.ChipID("tpm", uid), Vendor: "tpm", UID: uid, ChipType: "tpm2.0", Entry: 1, State: factory.ChipListed,
		Keys: []factory.ChipKey{{Slot: "ek", SPKI: x.EK.SPKI()}},
	}}
	if edit != nil {
		edit(c)
	}
	l.list(c)
	return c
}

func (l *tpmLine) challenge(x *unitTPM) (*wire.Challenge, error) {
	return l.challengeOf(l.session, l.order.Number, x)
}

func (l *tpmLine) challengeOf(s *enroll.StationSession, order string, x *unitTPM) (*wire.Challenge, error) {
	return l.enroller.ChallengeUnit(l.t.Context(), s, &station.ChallengeRequest{
		Order: order, DeviceSerial: x.deviceSerial, Claim: x.Claim(x.ak),
	})
}

// challenged wants a challenge.
func (l *tpmLine) challenged(x *unitTPM) *wire.Challenge {
	l.t.Helper()
	c, err := l.challenge(x)
	must(l.t, err)
	return c
}

// answered is the unit as its station asks with the answer.
func (l *tpmLine) answered(x *unitTPM, c *wire.Challenge) *station.Unit {
	l.t.Helper()
	a, err := x.Answer(x.ak, x.key, c)
	must(l.t, err)
	return &station.Unit{
		ID: x.deviceSerial, Order: l.order.Number, DeviceSerial: x.deviceSerial, TPM: &a,
		CSR: x.key.CSR(l.t, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "unit"}}),
	}
}

// enrolled wants an identity for a unit with a TPM.
func (l *tpmLine) enrolled(x *unitTPM) *enroll.UnitResponse {
	l.t.Helper()
	return l.made(l.answered(x, l.challenged(x)))
}

// leaf is an entry of the ledger.
type leaf struct {
	Kind  ledger.Kind
	Actor string
	Body  map[string]any
}

// leaves returns the entries of a kind from an index on.
func (w *world) leaves(kind ledger.Kind, from int64) (all []leaf) {
	w.t.Helper()
	size, err := w.store.LedgerSize(w.t.Context())
	must(w.t, err)
	for i := from; i < size; i++ {
		text, err := ledger.Leaf(w.t.Context(), w.store, i)
		must(w.t, err)
		var x leaf
		must(w.t, json.Unmarshal(text, &x))
		if x.Kind == kind {
			all = append(all, x)
		}
	}
	return all
}

func (w *world) ledgerSize() int64 {
	w.t.Helper()
	size, err := w.store.LedgerSize(w.t.Context())
	must(w.t, err)
	return size
}

// refusedOnRecord wants one leaf of refused evidence with this code.
func (l *tpmLine) refusedOnRecord(from int64, code fault.Code, x *unitTPM) {
	l.t.Helper()
	all := l.leaves(ledger.EvidenceRefused, from)
	if len(all) != 1 || all[0].Body["code"] != code.String() || all[0].Body["device_serial"] != x.deviceSerial {
		l.t.Fatalf("leaves %+v, want one of %s for %s", all, code, x.deviceSerial)
	}
	ek := x.ek()
	if shown := all[0].Body["ek_sha256"]; code != fault.TicketInvalid && shown != hex.EncodeToString(ek[:]) {
		l.t.Errorf("the leaf %+v does not name the EK %x", all[0], ek)
	}
}

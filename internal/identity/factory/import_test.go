package factory_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/manifest"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// maker is a provisioning house that signs manifests.
type maker struct {
	t           testing.TB
	key         crypto.Signer
	certificate []byte
}

func newMaker(t testing.TB, from, to time.Time) *maker {
	t.Helper()
	key := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Chip maker"}, NotBefore: from, NotAfter: to,
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}, &x509.Certificate{Subject: pkix.Name{CommonName: "Chip maker"}}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &maker{t: t, key: key, certificate: der}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func spkiOf(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return spki
}

// chip returns an entry with a new key.
func (m *maker) chip(uid string) manifest.Entry {
	m.t.Helper()
	return manifest.Entry{UID: uid, Keys: []manifest.Key{{Slot: "0", SPKI: spkiOf(m.t, newKey(m.t))}}}
}

// file returns a signed manifest of these chips.
func (m *maker) file(at time.Time, chips ...manifest.Entry) []byte {
	m.t.Helper()
	var out bytes.Buffer
	w, err := manifest.NewWriter(&out, manifest.Header{Maker: "Chip maker", Created: at, Vendor: "chipco", ChipType: "SE050"}, m.certificate, m.key)
	if err != nil {
		m.t.Fatal(err)
	}
	for i := range chips {
		if err := w.Write(&chips[i]); err != nil {
			m.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		m.t.Fatal(err)
	}
	return out.Bytes()
}

func (w *world) maker() *maker {
	w.t.Helper()
	m := newMaker(w.t, w.clock.now().Add(-time.Hour), w.clock.now().Add(365*24*time.Hour))
	_, err := w.PinSigner(w.t.Context(), w.planner, "chipco", "birthmark", m.certificate)
	w.ok(err)
	return m
}

func (w *world) importing(by access.Caller, file []byte) (factory.Imported, error) {
	w.t.Helper()
	spool := w.t.TempDir()
	out, err := w.ImportManifest(w.t.Context(), by, factory.ImportRequest{
		Name: "reel.json", Format: "birthmark", Spool: spool, Body: bytes.NewReader(file),
	}, nil)
	if left, readErr := os.ReadDir(spool); readErr != nil || len(left) != 0 {
		w.t.Errorf("%d files are left in the spool, %v", len(left), readErr)
	}
	return out, err
}

func TestManifestIsImportedOnce(t *testing.T) {
	w := newWorld(t)
	m := w.maker()
	file := m.file(w.clock.now(), m.chip("01"), m.chip("02"), manifest.Entry{UID: "03"})
	first, err := w.importing(w.lead, file)
	w.ok(err)
	if first.Again || first.Manifest.Chips != 3 || first.Manifest.NotProvable != 1 || !first.Manifest.Visible || first.Manifest.Signer == 0 {
		t.Fatalf("%+v", first)
	}
	again, err := w.importing(w.lead, file)
	w.ok(err)
	if !again.Again || again.Manifest.ID != first.Manifest.ID {
		t.Fatalf("%+v", again)
	}
	c, err := w.Chip(t.Context(), w.planner, "", "02")
	w.ok(err)
	if c.Vendor != "chipco" || c.ChipType != "SE050" || c.State != factory.ChipListed || c.Entry != 2 || len(c.Keys) != 1 {
		t.Errorf("%+v", c)
	}
	if c, err = w.Chip(t.Context(), w.planner, "ChipCo", "03"); err != nil || c.State != factory.ChipNotProvable {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestManifestThatIsNotGoodIsRefusedWhole(t *testing.T) {
	w := newWorld(t)
	m := w.maker()
	good := m.file(w.clock.now(), m.chip("01"), m.chip("02"))
	flipped := bytes.Replace(good, []byte(`"uid":"02"`), []byte(`"uid":"04"`), 1)
	stranger := newMaker(t, w.clock.now().Add(-time.Hour), w.clock.now().Add(time.Hour))
	late := newMaker(t, w.clock.now().Add(-48*time.Hour), w.clock.now().Add(-24*time.Hour))
	_, err := w.PinSigner(t.Context(), w.planner, "late", "birthmark", late.certificate)
	w.ok(err)
	same := m.chip("01")
	for name, row := range map[string]struct {
		file  []byte
		code  fault.Code
		alarm factory.AlarmKind
	}{
		"flipped":              {flipped, fault.ManifestSignature, factory.AlarmManifestSigner},
		"of a stranger":        {stranger.file(w.clock.now(), m.chip("01")), fault.ManifestSigner, factory.AlarmManifestSigner},
		"of an expired signer": {late.file(w.clock.now(), m.chip("01")), fault.ManifestSigner, factory.AlarmManifestSigner},
		"cut off":              {good[:len(good)-40], fault.ManifestFormat, ""},
		"nothing":              {nil, fault.ManifestFormat, ""},
		"a chip twice":         {m.file(w.clock.now(), same, m.chip("02"), m.chip("01")), fault.ManifestDuplicate, factory.AlarmDuplicateChip},
		"a key twice":          {m.file(w.clock.now(), same, manifest.Entry{UID: "02", Keys: same.Keys}), fault.ManifestDuplicate, factory.AlarmDuplicateChip},
		"a bad key at the end": {m.file(w.clock.now(), m.chip("01"), manifest.Entry{UID: "02", Keys: []manifest.Key{{Slot: "0", SPKI: []byte{1}}}}), fault.ManifestEntry, ""},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(w.alarmed(row.alarm))
			_, err := w.importing(w.lead, row.file)
			if !fault.Has(err, row.code) {
				t.Errorf("got %v, want %v", err, row.code)
			}
			if row.alarm != "" && len(w.alarmed(row.alarm)) != before+1 {
				t.Error("no alarm")
			}
			if list, _, err := w.Chips(t.Context(), w.planner, factory.ChipQuery{}); err != nil || len(list) != 0 {
				t.Errorf("%d chips are listed, %v", len(list), err)
			}
		})
	}
	first, err := w.importing(w.lead, good) // nothing of the refused files is in its way
	w.ok(err)
	if first.Manifest.Chips != 2 {
		t.Errorf("%+v", first)
	}
}

func TestChipInASecondManifestIsRefusedAndAlarmed(t *testing.T) {
	w := newWorld(t)
	m := w.maker()
	chip := m.chip("01")
	_, err := w.importing(w.lead, m.file(w.clock.now(), chip))
	w.ok(err)
	for name, other := range map[string]manifest.Entry{
		"the chip":                   m.chip("01"),
		"its key under another chip": {UID: "09", Keys: chip.Keys},
	} {
		out, err := w.importing(w.lead, m.file(w.clock.now(), m.chip("0a"), other))
		if !fault.Has(err, fault.ManifestDuplicate) || !strings.Contains(err.Error(), "entry 2") {
			t.Errorf("%s: %v %+v", name, err, out)
		}
	}
	if list := w.alarmed(factory.AlarmDuplicateChip); len(list) != 2 {
		t.Errorf("%d alarms", len(list))
	}
	_, err = w.Chip(t.Context(), w.planner, "", "0a")
	w.refused(err, fault.ChipUnknown)
}

func TestLineLeadImportsOnlyWhatAPinnedSignerSigned(t *testing.T) {
	w := newWorld(t)
	csv := func(by access.Caller) error {
		_, err := w.ImportManifest(t.Context(), by, factory.ImportRequest{
			Name: "list.csv", Format: "csv", Vendor: "chipco", Type: "SE050", Spool: t.TempDir(),
			Body: strings.NewReader("uid\n01\n"),
		}, nil)
		return err
	}
	w.refused(csv(w.lead), fault.NotAllowed)
	w.refused(csv(w.second), fault.NotAllowed)
	if err := csv(w.planner); fault.Has(err, fault.NotAllowed) {
		t.Error(err)
	}
	m := w.maker()
	_, err := w.importing(w.second, m.file(w.clock.now(), m.chip("05"))) // a planner is no line lead
	w.refused(err, fault.NotAllowed)
	_, err = w.WithdrawSigner(t.Context(), w.planner, "chipco", "key lost")
	w.ok(err)
	_, err = w.importing(w.lead, m.file(w.clock.now(), m.chip("06")))
	w.refused(err, fault.ManifestSigner)
}

func TestSignersArePinnedOnce(t *testing.T) {
	w := newWorld(t)
	m := w.maker()
	_, err := w.PinSigner(t.Context(), w.planner, "again", "birthmark", m.certificate)
	w.refused(err, fault.SignerExists)
	_, err = w.PinSigner(t.Context(), w.planner, "other", "csv", m.certificate)
	w.refused(err, fault.ManifestFormat)
	_, err = w.PinSigner(t.Context(), w.planner, "other", "birthmark", []byte("hello"))
	w.refused(err, fault.ParameterInvalid)
	_, err = w.WithdrawSigner(t.Context(), w.planner, "nobody", "x")
	w.refused(err, fault.SignerUnknown)
	_, err = w.WithdrawSigner(t.Context(), w.planner, "chipco", "rotated")
	w.ok(err)
	_, err = w.PinSigner(t.Context(), w.planner, "again", "birthmark", m.certificate)
	w.ok(err) // after checking anew
}

// brokenReader fails in the middle.
type brokenReader struct{ r io.Reader }

var errPulled = errors.New("the cable was pulled")

func (b *brokenReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err == io.EOF {
		err = errPulled
	}
	return n, err
}

func TestUploadThatBreaksOffLeavesNothing(t *testing.T) {
	w := newWorld(t)
	m := w.maker()
	file := m.file(w.clock.now(), m.chip("01"))
	_, err := w.ImportManifest(t.Context(), w.lead, factory.ImportRequest{
		Name: "reel.json", Format: "birthmark", Spool: t.TempDir(), Body: &brokenReader{bytes.NewReader(file)},
	}, nil)
	if !errors.Is(err, errPulled) {
		t.Fatalf("got %v", err)
	}
	if list, _, err := w.Manifests(t.Context(), w.planner, factory.Page{}); err != nil || len(list) != 0 {
		t.Errorf("%d manifests, %v", len(list), err)
	}
}

func TestImportThatWasCutOffGoesOn(t *testing.T) {
	w := newWorld(t)
	m := w.maker()
	chips := make([]manifest.Entry, 1700)
	for i := range chips {
		chips[i] = manifest.Entry{UID: fmt.Sprintf("%08x", i)}
	}
	file := m.file(w.clock.now(), chips...)
	ctx, cancel := context.WithCancel(t.Context())
	request := func() factory.ImportRequest {
		return factory.ImportRequest{Name: "reel.json", Format: "birthmark", Spool: t.TempDir(), Body: bytes.NewReader(file)}
	}
	_, err := w.ImportManifest(ctx, w.lead, request(), func(p factory.ImportProgress) {
		if p.Chips >= 1000 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if list, _, err := w.Chips(t.Context(), w.planner, factory.ChipQuery{}); err != nil || len(list) != 0 {
		t.Fatalf("%d chips of half a manifest are seen, %v", len(list), err)
	}
	out, err := w.ImportManifest(t.Context(), w.lead, request(), nil)
	w.ok(err)
	if out.Again || out.Manifest.Chips != 1700 {
		t.Fatalf("%+v", out)
	}
	c, err := w.Chip(t.Context(), w.planner, "chipco", "000006a3")
	w.ok(err)
	if c.Entry != 1700 {
		t.Errorf("%+v", c)
	}
}

func TestImportThatNobodyContinuesIsThrownAway(t *testing.T) {
	w := newWorld(t)
	m := w.maker()
	chips := make([]manifest.Entry, 1200)
	for i := range chips {
		chips[i] = manifest.Entry{UID: fmt.Sprintf("%08x", i)}
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := w.ImportManifest(ctx, w.lead, factory.ImportRequest{
		Name: "reel.json", Format: "birthmark", Spool: t.TempDir(), Body: bytes.NewReader(m.file(w.clock.now(), chips...)),
	}, func(p factory.ImportProgress) {
		if p.Chips >= 500 {
			cancel()
		}
	})
	if err == nil {
		t.Fatal("it was not cut off")
	}
	w.ok(w.Sweep(t.Context()))
	list, _, err := w.Manifests(t.Context(), w.planner, factory.Page{})
	w.ok(err)
	if len(list) != 1 || list[0].Visible {
		t.Fatalf("%+v", list)
	}
	w.clock.add(25 * time.Hour)
	w.ok(w.Sweep(t.Context()))
	if list, _, err = w.Manifests(t.Context(), w.planner, factory.Page{}); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestAllottedChipsAreForOneOrderAndLapseWithIt(t *testing.T) {
	w := newWorld(t)
	m := w.maker()
	_, err := w.importing(w.lead, m.file(w.clock.now(), m.chip("01"), m.chip("02"), manifest.Entry{UID: "03"}))
	w.ok(err)
	o := w.opened(terms())
	second := terms()
	second.Number, second.ExternalRef = "PO-2", ""
	w.opened(second)

	n, err := w.AllotChips(t.Context(), w.planner, "PO-1", []string{"01", "02"})
	w.ok(err)
	if n != 2 {
		t.Fatalf("%d allotted", n)
	}
	if n, err = w.AllotChips(t.Context(), w.planner, "PO-1", []string{"01", "02"}); err != nil || n != 0 {
		t.Errorf("again: %d, %v", n, err)
	}
	_, err = w.AllotChips(t.Context(), w.planner, "PO-2", []string{"02"})
	w.refused(err, fault.ChipOtherOrder)
	_, err = w.AllotChips(t.Context(), w.planner, "PO-1", []string{"03"})
	w.refused(err, fault.ChipNotProvable)
	_, err = w.AllotChips(t.Context(), w.planner, "PO-1", []string{"ff"})
	w.refused(err, fault.ChipUnknown)

	answers, err := w.CheckChips(t.Context(), w.station("b1"), station.ChipsRequest{Order: "PO-1", UIDs: []string{"01", "03", "ff"}})
	w.ok(err)
	if !answers[0].OK || answers[1].Code != "BM-8042" || answers[2].Code != "BM-8040" {
		t.Errorf("%+v", answers)
	}

	_, err = w.CloseOrder(t.Context(), w.planner, "PO-1", "done")
	w.ok(err)
	for _, uid := range []string{"01", "02"} {
		c, err := w.Chip(t.Context(), w.planner, "", uid)
		w.ok(err)
		if c.State != factory.ChipListed || c.Order != 0 {
			t.Errorf("chip %s after order %d was closed: %+v", uid, o.ID, c)
		}
	}
}

func TestWithdrawnChipStaysWithdrawn(t *testing.T) {
	w := newWorld(t)
	m := w.maker()
	_, err := w.importing(w.lead, m.file(w.clock.now(), m.chip("01")))
	w.ok(err)
	w.opened(terms())
	_, err = w.AllotChips(t.Context(), w.planner, "PO-1", []string{"01"})
	w.ok(err)
	_, err = w.WithdrawChip(t.Context(), w.planner, "", "01", "")
	w.refused(err, fault.ParameterInvalid)
	c, err := w.WithdrawChip(t.Context(), w.planner, "", "01", "stolen reel")
	w.ok(err)
	if c.State != factory.ChipWithdrawn {
		t.Fatalf("%+v", c)
	}
	_, err = w.WithdrawChip(t.Context(), w.planner, "", "01", "stolen reel")
	w.ok(err)
	_, err = w.CloseOrder(t.Context(), w.planner, "PO-1", "")
	w.ok(err)
	if c, err = w.Chip(t.Context(), w.planner, "", "01"); err != nil || c.State != factory.ChipWithdrawn {
		t.Errorf("after its order was closed: %+v, %v", c, err)
	}
}

// A chip's certificate is its maker's word if it leads to an authority that
// somebody imported, and never for what its manifest says.
func TestImportedAuthoritiesAreTheChipMakersRoots(t *testing.T) {
	w := newWorld(t)
	m := w.maker()
	now := w.clock.now()
	caKey, key := newKey(t), newKey(t)
	issuer := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Chips CA"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(10_000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	ca, err := x509.CreateCertificate(rand.Reader, issuer, issuer, caKey.Public(), caKey)
	w.ok(err)
	leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "a0"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(9_000 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}, issuer, key.Public(), caKey)
	w.ok(err)
	proven := func(uid string, key crypto.Signer, chain ...[]byte) bool {
		t.Helper()
		_, err := w.importing(w.planner, m.file(now, manifest.Entry{UID: uid, Keys: []manifest.Key{{Slot: "0", SPKI: spkiOf(t, key), Chain: chain}}}))
		w.ok(err)
		c, err := w.store.Chip(t.Context(), w.store.ChipID("chipco", uid))
		w.ok(err)
		return c.Keys[0].VendorProof
	}
	if proven("a0", key, leaf, ca) {
		t.Error("the manifest vouches for its own certificates")
	}
	_, err = w.authorities.Import(t.Context(), "system", authority.Existing{Name: "chips", Certificate: ca})
	w.ok(err)
	w.refresh()
	other := newKey(t)
	leaf, err = x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "a1"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(9_000 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}, issuer, other.Public(), caKey)
	w.ok(err)
	if !proven("a1", other, leaf) {
		t.Error("a certificate of an imported authority is no vendor proof")
	}
}

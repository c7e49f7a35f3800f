package factory_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/manifest"
	"github.com/birthmark/birthmark/internal/format/proof"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// unit is a device on the line, with the key that it made.
type unit struct {
	key        *ecdsa.PrivateKey
	serial     string
	order      string
	credential device.Credential
	nonce      [32]byte
}

// made is what a test says of a unit that is issued.
type made struct {
	order    string
	serial   string
	replaces *unit
}

// issue stores a unit as package enroll does, without its checks.
func (w *world) issue(m made) (*unit, error) {
	w.t.Helper()
	ctx := w.t.Context()
	o, err := w.Order(ctx, w.planner, m.order)
	w.ok(err)
	snap, err := w.authorities.Refresh(ctx)
	w.ok(err)
	number, err := w.authorities.NextSerial(ctx)
	w.ok(err)
	now := w.clock.now()
	u := &unit{key: newKey(w.t), serial: m.serial, order: m.order, nonce: sha256.Sum256(number.Bytes)}
	der := w.certify(u, number.Bytes)
	spki := sha256.Sum256(spkiOf(w.t, u.key))
	id := w.store.DeviceID(m.serial)
	i := device.Issuance{
		Credential: device.Credential{
			ID: number.ID, CertSerial: number.Bytes, Authority: 1, Profile: 1, Kind: "idevid", Device: id, Product: o.Product, Site: o.Site,
			State: device.Issued, KeyKind: device.KeyHardware, NotBefore: now, NotAfter: now.Add(1000 * time.Hour), SPKIDigest: spki, IssuedAt: now, DER: der,
		},
		Lease: number.Lease, ControlEpoch: snap.Epoch,
		Unit: &device.UnitIssue{Order: o.ID, Station: o.Stations[0], ConfirmNonce: u.nonce, Evidence: "chip", IssueTime: 3 * time.Millisecond},
	}
	version := int64(1)
	if m.replaces == nil {
		i.Unit.New = &device.Device{
			ID: id, DeviceSerial: m.serial, Product: o.Product, Site: o.Site, State: device.Registered, Version: 1, RegisteredAt: now, ChangedAt: now,
		}
	} else {
		d, err := w.store.Device(ctx, access.Everything(), id)
		w.ok(err)
		version = d.Version + 1
		i.Unit.Replaces, i.Unit.ReplacesReason = m.replaces.credential.ID, 4
		i.Credential.Previous = m.replaces.credential.ID
		i.Change = &device.Change{ID: id, Version: d.Version, From: d.State, State: d.State, Slot: device.IDevIDSlot}
	}
	i.Entries = []ledger.Entry{
		{Kind: ledger.CertificateIssued, At: now, Actor: "station:b1", Body: &ledger.Issued{
			Credential: int64(number.ID), CertSerial: number.Bytes, Authority: 1, Kind: "idevid", Device: int64(id), DeviceVersion: version,
			NotBefore: now, NotAfter: i.Credential.NotAfter, SPKI: spki, DER: sha256.Sum256(der),
		}},
		{Kind: ledger.UnitIssued, At: now, Actor: "station:b1", Body: &ledger.IssuedUnit{
			Credential: int64(number.ID), Order: o.ID, Device: int64(id), Station: i.Unit.Station, Replaces: int64(i.Unit.Replaces), ConfirmNonce: u.nonce,
		}},
	}
	u.credential, err = w.store.StoreIssuance(ctx, i)
	return u, err
}

// certify makes a certificate that no authority of ours signed.
func (w *world) certify(u *unit, certSerial []byte) []byte {
	w.t.Helper()
	if w.key == nil {
		w.key, w.issuer = newKey(w.t), &x509.Certificate{Subject: pkix.Name{CommonName: "line"}}
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(certSerial), Subject: pkix.Name{CommonName: u.serial},
		NotBefore: w.clock.now(), NotAfter: w.clock.now().Add(1000 * time.Hour),
	}, w.issuer, u.key.Public(), w.key)
	w.ok(err)
	return der
}

func (w *world) issued(m made) *unit {
	w.t.Helper()
	u, err := w.issue(m)
	w.ok(err)
	return u
}

// confirmation is what the device returns.
func (u *unit) confirmation(t testing.TB) *station.Confirm {
	t.Helper()
	digest := proof.Confirm(u.nonce[:], u.serial, u.credential.DER)
	signature, err := ecdsa.SignASN1(rand.Reader, u.key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return &station.Confirm{Order: u.order, DeviceSerial: u.serial, Certificate: u.credential.DER, Signature: signature, CycleMillis: 12_000, FirstPass: true}
}

func (w *world) confirmed(m made) *unit {
	w.t.Helper()
	u := w.issued(m)
	w.ok(w.Confirm(w.t.Context(), w.station("b1"), u.confirmation(w.t)))
	return u
}

func (w *world) unit(u *unit) factory.Unit {
	w.t.Helper()
	x, err := w.store.Unit(w.t.Context(), access.Everything(), u.credential.ID)
	w.ok(err)
	return x
}

func (w *world) device(deviceSerial string) device.Device {
	w.t.Helper()
	d, err := w.store.Device(w.t.Context(), access.Everything(), w.store.DeviceID(deviceSerial))
	w.ok(err)
	return d
}

func (w *world) account(number string) factory.Account {
	w.t.Helper()
	a, err := w.Account(w.t.Context(), w.planner, number)
	w.ok(err)
	return a
}

func TestUnitIsConfirmedByWhatTheDeviceReturns(t *testing.T) {
	w := newWorld(t)
	w.opened(terms())
	u := w.issued(made{order: "PO-1", serial: "SN0001"})
	if got := w.device("SN0001"); got.State != device.Registered {
		t.Fatalf("%+v", got)
	}
	w.clock.add(time.Minute)
	w.ok(w.Confirm(t.Context(), w.station("b1"), u.confirmation(t)))
	x := w.unit(u)
	c, err := w.store.Credential(t.Context(), access.Everything(), u.credential.ID)
	w.ok(err)
	if x.State != factory.UnitConfirmed || !x.ConfirmedAt.Equal(w.clock.now()) || c.State != device.Confirmed || w.device("SN0001").State != device.Provisioned {
		t.Errorf("unit %+v, certificate %v, device %v", x, c.State, w.device("SN0001").State)
	}
	before, err := w.store.LedgerSize(t.Context())
	w.ok(err)
	w.ok(w.Confirm(t.Context(), w.station("b1"), u.confirmation(t)))
	after, err := w.store.LedgerSize(t.Context())
	w.ok(err)
	if a := w.account("PO-1"); a.Confirmed != 1 || a.Unaccounted != 0 || after != before {
		t.Errorf("after a second confirmation: %+v, %d entries more", a, after-before)
	}
}

func TestReadBackThatIsNotWhatWasIssuedIsRefused(t *testing.T) {
	w := newWorld(t)
	w.opened(terms())
	second := terms()
	second.Number, second.ExternalRef = "PO-2", ""
	w.opened(second)
	u := w.issued(made{order: "PO-1", serial: "SN0001"})
	other := w.issued(made{order: "PO-1", serial: "SN0002"})
	for name, row := range map[string]struct {
		change func(*station.Confirm)
		code   fault.Code
	}{
		"no certificate":         {func(c *station.Confirm) { c.Certificate = nil }, fault.ReadBackWrong},
		"no signature":           {func(c *station.Confirm) { c.Signature = nil }, fault.ReadBackWrong},
		"another's signature":    {func(c *station.Confirm) { c.Signature = other.confirmation(t).Signature }, fault.ReadBackWrong},
		"another's certificate":  {func(c *station.Confirm) { c.Certificate = other.credential.DER }, fault.ReadBackWrong},
		"another's answer":       {func(c *station.Confirm) { *c = *other.confirmation(t); c.DeviceSerial = "SN0001" }, fault.ReadBackWrong},
		"a flipped bit":          {func(c *station.Confirm) { c.Certificate = flip(c.Certificate, len(c.Certificate)-1) }, fault.ReadBackWrong},
		"a flipped bit in front": {func(c *station.Confirm) { c.Certificate = flip(c.Certificate, 0) }, fault.ReadBackWrong},
		"one octet more":         {func(c *station.Confirm) { c.Certificate = append(bytes.Clone(c.Certificate), 0) }, fault.ReadBackWrong},
		"its own, signed anew":   {func(c *station.Confirm) { c.Certificate = w.certify(u, u.credential.CertSerial) }, fault.ReadBackWrong},
		"another serial":         {func(c *station.Confirm) { c.DeviceSerial = "SN0099" }, fault.UnitUnknown},
		"another order":          {func(c *station.Confirm) { c.Order = "PO-2" }, fault.UnitUnknown},
		"no order":               {func(c *station.Confirm) { c.Order = "" }, fault.OrderUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			c := u.confirmation(t)
			row.change(c)
			if err := w.Confirm(t.Context(), w.station("b1"), c); !fault.Has(err, row.code) {
				t.Errorf("got %v, want %v", err, row.code)
			}
		})
	}
	if x := w.unit(u); x.State != factory.UnitIssued {
		t.Errorf("%+v", x)
	}
	wrongNonce := *u
	wrongNonce.nonce[0] ^= 1
	w.refused(w.Confirm(t.Context(), w.station("b1"), wrongNonce.confirmation(t)), fault.ReadBackWrong)
	w.ok(w.Confirm(t.Context(), w.station("b1"), u.confirmation(t)))
}

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}

func TestScrapRevokesInTheSameTransaction(t *testing.T) {
	w := newWorld(t)
	w.opened(terms())
	u := w.confirmed(made{order: "PO-1", serial: "SN0001"})
	st := w.station("b1")
	w.refused(w.Scrap(t.Context(), st, &station.Scrap{Order: "PO-1", DeviceSerial: "SN0001"}), fault.ParameterInvalid) // says why
	w.refused(w.Scrap(t.Context(), st, &station.Scrap{Order: "PO-1", DeviceSerial: "SN0009", Reason: "burnt"}), fault.UnitUnknown)
	w.ok(w.Scrap(t.Context(), st, &station.Scrap{Order: "PO-1", DeviceSerial: "SN0001", Reason: "burnt"}))
	c, err := w.store.Credential(t.Context(), access.Everything(), u.credential.ID)
	w.ok(err)
	x := w.unit(u)
	if c.State != device.Revoked || c.Reason != 5 || x.State != factory.UnitScrapped || x.Reason != "burnt" || w.device("SN0001").State != device.Scrapped {
		t.Errorf("certificate %v for %d, unit %+v, device %v", c.State, c.Reason, x, w.device("SN0001").State)
	}
	if a := w.account("PO-1"); a.Live != 0 || a.Confirmed != 0 || a.Scrapped != 1 || a.Issued != 1 || a.SparesUsed != 1 || a.Missing != 10 {
		t.Errorf("%+v", a)
	}
	w.ok(w.Scrap(t.Context(), st, &station.Scrap{Order: "PO-1", DeviceSerial: "SN0001", Reason: "burnt"})) // a queue may send twice
	w.refused(w.Confirm(t.Context(), st, u.confirmation(t)), fault.UnitState)
	if a := w.account("PO-1"); a.Scrapped != 1 {
		t.Errorf("%+v", a)
	}
}

func TestScrappedUnitIsNotShipped(t *testing.T) {
	w := newWorld(t)
	w.opened(terms())
	w.confirmed(made{order: "PO-1", serial: "SN0001"})
	w.confirmed(made{order: "PO-1", serial: "SN0002"})
	w.issued(made{order: "PO-1", serial: "SN0003"})
	_, err := w.ScrapUnit(t.Context(), w.planner, "PO-1", "SN0002", "sold on the side")
	w.ok(err)
	n, refused, err := w.Ship(t.Context(), w.planner, []string{"SN0001", "SN0002", "SN0077"})
	w.refused(err, fault.UnitState)
	if n != 0 || fmt.Sprint(refused) != "[SN0002 SN0077]" {
		t.Errorf("%d shipped, %v refused", n, refused)
	}
	w.wantAlarm(factory.AlarmScrapShipped, 1)
	if n, refused, err = w.Ship(t.Context(), w.planner, []string{"SN0003"}); err == nil || n != 0 || len(refused) != 1 {
		t.Errorf("a unit that nobody confirmed: %d shipped, %v refused, %v", n, refused, err)
	}
	n, _, err = w.Ship(t.Context(), w.planner, []string{"SN0001", "SN0001"})
	w.ok(err)
	if n != 1 || w.device("SN0001").State != device.Shipped {
		t.Errorf("%d shipped, device %v", n, w.device("SN0001").State)
	}
	_, _, err = w.Ship(t.Context(), w.planner, []string{"SN0001"})
	w.ok(err)
	if a := w.account("PO-1"); a.Shipped != 1 || a.NotShipped != 0 || a.NotActive != 1 {
		t.Errorf("%+v", a)
	}
}

func TestUnitsThatNobodyConfirmsLapse(t *testing.T) {
	w := newWorld(t)
	w.opened(terms())
	good := w.confirmed(made{order: "PO-1", serial: "SN0001"})
	lost := w.issued(made{order: "PO-1", serial: "SN0002"})
	late := w.issued(made{order: "PO-1", serial: "SN0003"})
	_, err := w.CloseOrder(t.Context(), w.planner, "PO-1", "")
	w.ok(err)
	w.refresh()
	w.clock.add(59 * time.Minute)
	w.ok(w.Sweep(t.Context()))
	w.ok(w.Confirm(t.Context(), w.station("b1"), late.confirmation(t))) // out of a queue, within the grace
	w.clock.add(time.Minute)
	w.ok(w.Sweep(t.Context()))
	c, err := w.store.Credential(t.Context(), access.Everything(), lost.credential.ID)
	w.ok(err)
	if x := w.unit(lost); x.State != factory.UnitLapsed || c.State != device.Revoked || w.device("SN0002").State != device.Suspended {
		t.Errorf("unit %+v, certificate %v, device %v", x, c.State, w.device("SN0002").State)
	}
	for _, u := range []*unit{good, late} {
		if x := w.unit(u); x.State != factory.UnitConfirmed {
			t.Errorf("%+v", x)
		}
	}
	w.wantAlarm(factory.AlarmUnconfirmed, 1)
	w.refused(w.Confirm(t.Context(), w.station("b1"), lost.confirmation(t)), fault.UnitState)
	w.ok(w.Sweep(t.Context()))
	w.wantAlarm(factory.AlarmUnconfirmed, 1)
	if a := w.account("PO-1"); a.Unaccounted != 0 || a.Scrapped != 1 || a.Live != 2 {
		t.Errorf("%+v", a)
	}
}

func TestAlarmWhenSparesRunOut(t *testing.T) {
	w := newWorld(t)
	w.opened(terms()) // 10 and 5 spares
	st := w.station("b1")
	for n := range 4 {
		serial := fmt.Sprintf("SN%04d", n+1)
		w.confirmed(made{order: "PO-1", serial: serial})
		if list := w.alarmed(factory.AlarmSpares); len(list) != 0 {
			t.Fatalf("an alarm after %d scrapped: %+v", n, list)
		}
		w.ok(w.Scrap(t.Context(), st, &station.Scrap{Order: "PO-1", DeviceSerial: serial, Reason: "burnt"}))
	}
	w.wantAlarm(factory.AlarmSpares, 1)
	list := w.alarmed(factory.AlarmSpares)
	if !strings.Contains(list[0].Message, "4 of 5 spares are used") || !strings.Contains(list[0].Message, "10 units are still to make") {
		t.Errorf("%q", list[0].Message)
	}
	w.ok(w.Sweep(t.Context()))
	w.wantAlarm(factory.AlarmSpares, 1) // looking again is no second time
}

func TestBoardSwapKeepsTheAccount(t *testing.T) {
	w := newWorld(t)
	w.opened(terms())
	first := w.confirmed(made{order: "PO-1", serial: "SN0001"})
	w.clock.add(time.Minute)
	next := w.issued(made{order: "PO-1", serial: "SN0001", replaces: first})
	if x := w.unit(first); x.State != factory.UnitReplaced {
		t.Errorf("%+v", x)
	}
	w.refused(w.Confirm(t.Context(), w.station("b1"), first.confirmation(t)), fault.UnitState)
	w.ok(w.Confirm(t.Context(), w.station("b1"), next.confirmation(t)))
	a := w.account("PO-1")
	if a.Issued != 2 || a.Live != 1 || a.Confirmed != 1 || a.SparesUsed != 1 {
		t.Errorf("%+v", a)
	}
	r, err := w.KPIs(t.Context(), w.planner, factory.KPIQuery{Order: "PO-1"})
	w.ok(err)
	if r.Confirmed != 2 || r.FirstPass != 1 {
		t.Errorf("%d confirmed, %d at first pass", r.Confirmed, r.FirstPass)
	}
	x, err := w.Unit(t.Context(), w.planner, "PO-1", "SN0001")
	w.ok(err)
	if x.ID != next.credential.ID {
		t.Errorf("the newest unit is %d", x.ID)
	}
}

func TestDifferencesNameEachDevice(t *testing.T) {
	w := newWorld(t)
	w.opened(terms())
	for n := range 6 {
		m := made{order: "PO-1", serial: fmt.Sprintf("SN%04d", n+1)}
		if n%2 == 0 {
			w.confirmed(m)
		} else {
			w.issued(m)
		}
	}
	_, err := w.ScrapUnit(t.Context(), w.planner, "PO-1", "SN0005", "broken")
	w.ok(err)
	_, _, err = w.Ship(t.Context(), w.planner, []string{"SN0001"})
	w.ok(err)
	for d, want := range map[factory.Difference]string{
		factory.DiffUnaccounted: "SN0002 SN0004 SN0006", factory.DiffScrapped: "SN0005",
		factory.DiffNotShipped: "SN0003", factory.DiffNotActive: "SN0001",
	} {
		for _, limit := range []int{1, 2, 100} {
			if got := w.listed(d, limit); got != want {
				t.Errorf("%s, %d at a time: %q, want %q", d, limit, got, want)
			}
		}
	}
	_, _, err = w.Differences(t.Context(), w.planner, "PO-1", "stolen", factory.Page{})
	w.refused(err, fault.ParameterInvalid)
}

func (w *world) listed(d factory.Difference, limit int) string {
	w.t.Helper()
	var serials []string
	q := factory.Page{Limit: limit}
	for {
		page, next, err := w.Differences(w.t.Context(), w.planner, "PO-1", d, q)
		w.ok(err)
		if len(page) > limit {
			w.t.Fatalf("%d units on a page of %d", len(page), limit)
		}
		for _, u := range page {
			serials = append(serials, u.DeviceSerial)
		}
		if next == "" {
			return strings.Join(serials, " ")
		}
		q.After = next
	}
}

func TestAccountIsExported(t *testing.T) {
	w := newWorld(t)
	w.opened(terms())
	w.confirmed(made{order: "PO-1", serial: "SN0001"})
	w.issued(made{order: "PO-1", serial: "SN0002"})
	_, err := w.ScrapUnit(t.Context(), w.planner, "PO-1", "SN0002", "=HYPERLINK(1)")
	w.ok(err)

	var text bytes.Buffer
	w.ok(w.ExportAccountCSV(t.Context(), w.planner, "PO-1", &text))
	rows, err := csv.NewReader(&text).ReadAll()
	w.ok(err)
	if len(rows) != 3 || rows[1][0] != "SN0001" || rows[1][2] != "confirmed" || rows[1][4] != "b1" || rows[2][13] != "'=HYPERLINK(1)" {
		t.Errorf("%v", rows)
	}

	text.Reset()
	w.ok(w.ExportAccountJSON(t.Context(), w.planner, "PO-1", &text))
	var got struct {
		Account struct{ Ordered, Issued, Confirmed, Scrapped, Missing int64 }
		Units   []struct{ Serial, State, Reason string }
	}
	w.ok(json.Unmarshal(text.Bytes(), &got))
	if got.Account.Ordered != 10 || got.Account.Issued != 2 || got.Account.Confirmed != 1 || got.Account.Scrapped != 1 || len(got.Units) != 2 || got.Units[1].State != "scrapped" {
		t.Errorf("%+v", got)
	}
}

func TestOrderIsExportedAsAManifestThatAnotherInstallationImports(t *testing.T) {
	w := newWorld(t)
	w.opened(terms())
	u := w.confirmed(made{order: "PO-1", serial: "SN0001"})
	w.issued(made{order: "PO-1", serial: "SN0002"}) // not confirmed: not delivered
	var file bytes.Buffer
	w.ok(w.ExportManifest(t.Context(), w.planner, "PO-1", &file))
	r, err := manifest.NewReader(bytes.NewReader(file.Bytes()))
	w.ok(err)
	if h := r.Header(); h.Maker != "Acme Devices" || h.Vendor != "acme-devices" || h.ChipType != "sensor" || h.Order != "PO-1" {
		t.Errorf("%+v", h)
	}

	customer := newWorld(t)
	_, err = customer.PinSigner(t.Context(), customer.planner, "acme", "birthmark", w.statements.Certificate())
	w.ok(err)
	out, err := customer.importing(customer.lead, file.Bytes())
	w.ok(err)
	c, err := customer.Chip(t.Context(), customer.planner, "acme-devices", "sn0001")
	w.ok(err)
	if out.Manifest.Chips != 1 || c.ChipType != "sensor" || !bytes.Equal(c.Keys[0].SPKI, spkiOf(t, u.key)) {
		t.Errorf("%+v %+v", out.Manifest, c)
	}
}

func TestSystemIsNotBuiltIntoItself(t *testing.T) {
	w := newWorld(t)
	w.opened(terms())
	for n := range 4 {
		w.confirmed(made{order: "PO-1", serial: fmt.Sprintf("SN%04d", n+1)})
	}
	w.ok(w.BuildInto(t.Context(), w.planner, "SN0001", []string{"SN0002", "SN0003"}))
	w.ok(w.BuildInto(t.Context(), w.planner, "SN0001", []string{"SN0002"}))
	if w.device("SN0002").BuiltInto != w.device("SN0001").ID {
		t.Error("not built in")
	}
	w.refused(w.BuildInto(t.Context(), w.planner, "SN0001", []string{"SN0001"}), fault.ParameterInvalid)
	w.refused(w.BuildInto(t.Context(), w.planner, "SN0002", []string{"SN0001"}), fault.ParameterInvalid)
	w.refused(w.BuildInto(t.Context(), w.planner, "SN0004", []string{"SN0002"}), fault.UnitState)
	w.refused(w.BuildInto(t.Context(), w.planner, "SN0001", []string{"SN0077"}), fault.DeviceUnknown)
	_, err := w.ScrapUnit(t.Context(), w.planner, "PO-1", "SN0004", "broken")
	w.ok(err)
	w.refused(w.BuildInto(t.Context(), w.planner, "SN0001", []string{"SN0004"}), fault.UnitState)
}

func TestOrderWithUnitsIsNotCanceled(t *testing.T) {
	w := newWorld(t)
	w.opened(terms())
	w.issued(made{order: "PO-1", serial: "SN0001"})
	_, err := w.CancelOrder(t.Context(), w.planner, "PO-1", "")
	w.refused(err, fault.OrderState)
}

func TestAmendmentBelowWhatIsIssuedIsRefused(t *testing.T) {
	w := newWorld(t)
	w.opened(terms())
	for n := range 3 {
		w.issued(made{order: "PO-1", serial: fmt.Sprintf("SN%04d", n+1)})
	}
	two, none := int64(2), int64(0)
	_, err := w.AmendOrder(t.Context(), w.planner, factory.Amendment{Number: "PO-1", Quantity: &two, Reason: "less"})
	w.refused(err, fault.OrderTerms)
	three := int64(3)
	less := factory.Amendment{Number: "PO-1", Quantity: &three, Spares: &none, Reason: "less"}
	_, err = w.AmendOrder(t.Context(), w.planner, less)
	w.approve(err)
	w.issued(made{order: "PO-1", serial: "SN0004"}) // while it was being approved
	_, err = w.AmendOrder(t.Context(), w.planner, less)
	w.refused(err, fault.OrderTerms)
}

func TestFullOrderGivesNoNonces(t *testing.T) {
	w := newWorld(t)
	small := terms()
	small.Quantity, small.Spares = 1, 1
	w.opened(small)
	st := w.station("b1")
	first := w.confirmed(made{order: "PO-1", serial: "SN0001"})
	n, err := w.DrawNonces(t.Context(), st, station.NoncesRequest{Order: "PO-1", Count: 5})
	w.ok(err)
	if len(n.Nonces) != 1 { // for a rework
		t.Errorf("%d nonces", len(n.Nonces))
	}
	w.issued(made{order: "PO-1", serial: "SN0001", replaces: first})
	_, err = w.DrawNonces(t.Context(), st, station.NoncesRequest{Order: "PO-1", Count: 1, Ahead: true})
	w.refused(err, fault.OrderFull)
	if list := w.alarmed(factory.AlarmOrderFull); len(list) > 0 { // no unit was there for it
		t.Errorf("an alarm: %+v", list)
	}
	_, err = w.DrawNonces(t.Context(), st, station.NoncesRequest{Order: "PO-1", Count: 1})
	w.refused(err, fault.OrderFull)
	w.wantAlarm(factory.AlarmOrderFull, 1)
	_, err = w.issue(made{order: "PO-1", serial: "SN0002"})
	if !fault.Has(err, fault.OrderFull) && !fault.Has(err, fault.SparesUsed) {
		t.Errorf("a unit beyond the order: %v", err)
	}
}

func TestSuspensionMakesADecisionStale(t *testing.T) {
	w := newWorld(t)
	w.opened(terms())
	snap, err := w.authorities.Snapshot(t.Context())
	w.ok(err)
	_, err = w.SuspendStation(t.Context(), w.lead, "b1", "found open")
	w.ok(err)
	p, err := w.store.Plane(t.Context())
	w.ok(err)
	if p.Epoch <= snap.Epoch {
		t.Errorf("epoch %d after %d", p.Epoch, snap.Epoch)
	}
}

func TestKPIsAddUp(t *testing.T) {
	w := newWorld(t)
	w.opened(terms())
	st := w.station("b1")
	for n := range 4 {
		w.confirmed(made{order: "PO-1", serial: fmt.Sprintf("SN%04d", n+1)})
	}
	w.clock.add(time.Hour)
	slow := w.issued(made{order: "PO-1", serial: "SN0005"})
	c := slow.confirmation(t)
	c.CycleMillis, c.FirstPass = 60_000, false
	w.ok(w.Confirm(t.Context(), st, c))
	w.ok(w.Scrap(t.Context(), st, &station.Scrap{Order: "PO-1", DeviceSerial: "SN0001", Reason: "burnt"}))
	w.ok(w.Failed(t.Context(), st, &station.Failed{Order: "PO-1", Code: "BM-8092"}))
	w.ok(w.Failed(t.Context(), st, &station.Failed{Order: "PO-1", DeviceSerial: "not a serial!", Code: "BM-8092"}))
	for _, code := range []string{"", "BM-7777", "8092", "BM-08092", "BM-99999999"} {
		w.refused(w.Failed(t.Context(), st, &station.Failed{Order: "PO-1", Code: code}), fault.ParameterInvalid)
	}
	w.CountRefused(t.Context(), st, "PO-1", fault.New(fault.ChipUsed))
	w.CountRefused(t.Context(), st, "PO-1", fault.New(fault.StoreUnavailable)) // ours, not the line's
	w.CountRefused(t.Context(), st, "PO-1", errors.New("a bug"))
	w.CountRefused(t.Context(), st, "PO-1", nil)
	w.ok(w.Flush(t.Context()))

	for name, q := range map[string]factory.KPIQuery{
		"everything": {}, "order": {Order: "PO-1"}, "station": {Station: "b1"}, "site": {Site: "brno"}, "product": {Product: "sensor"},
		"day": {From: w.clock.now(), To: w.clock.now()},
	} {
		r, err := w.KPIs(t.Context(), w.planner, q)
		w.ok(err)
		if r.Issued != 5 || r.Confirmed != 5 || r.FirstPass != 4 || r.Scrapped != 1 || r.Failed != 3 || r.Hours != 2 || r.UnitsPerHour != 2.5 {
			t.Errorf("%s: %+v", name, r)
		}
		if len(r.Failures) != 2 || r.Failures[0] != (factory.FailureCount{Code: "BM-8092", Count: 2}) || r.Failures[1].Code != "BM-8041" {
			t.Errorf("%s: %+v", name, r.Failures)
		}
		if r.CycleP50 < 12*time.Second || r.CycleP50 > 13200*time.Millisecond || r.CycleP99 < time.Minute || r.CycleP99 > 66*time.Second || r.IssueP50 < 3*time.Millisecond {
			t.Errorf("%s: %v %v %v", name, r.CycleP50, r.CycleP99, r.IssueP50)
		}
		if r.Success < 0.83 || r.Success > 0.84 || r.GoalMet || len(r.Days) != 1 {
			t.Errorf("%s: success %v, goal met %v, days %v", name, r.Success, r.GoalMet, r.Days)
		}
	}
	r, err := w.KPIs(t.Context(), w.planner, factory.KPIQuery{Order: "PO-1"})
	w.ok(err)
	if r.TaktPerHour != 60 {
		t.Errorf("takt %v", r.TaktPerHour)
	}
	for _, q := range []factory.KPIQuery{{Site: "penang"}, {Station: "b2"}, {Product: "gateway"}, {From: w.clock.now().Add(24 * time.Hour)}, {To: w.clock.now().Add(-24 * time.Hour)}} {
		r, err := w.KPIs(t.Context(), w.planner, q)
		w.ok(err)
		if r.Issued != 0 || r.Success != 1 || !r.GoalMet {
			t.Errorf("%+v: %+v", q, r)
		}
	}
}

package enroll_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/proof"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

func TestUnitGetsItsIdentity(t *testing.T) {
	l := newLine(t, nil)
	c := l.newChip("0123aa", nil)
	key := newKey(t)
	u := l.unit("SN-1", key, c, l.nonce())
	u.Reference = "MES-17"
	r := l.made(u)
	cert := parsed(t, &r.Response)
	if cert.Subject.SerialNumber != "SN-1" || !key.PublicKey.Equal(cert.PublicKey) {
		t.Errorf("certificate of %s", cert.Subject)
	}
	if bytes.Contains(cert.Raw, []byte("PO-1")) || bytes.Contains(cert.Raw, []byte("MES-17")) || bytes.Contains(cert.Raw, []byte("line-7")) {
		t.Error("the factory can be read in the certificate")
	}
	row, err := l.store.Credential(t.Context(), access.Everything(), r.Credential.ID)
	must(t, err)
	if row.KeyKind != device.KeyHardware || row.Kind != "idevid" || row.Site != l.site {
		t.Errorf("credential %+v", row)
	}
	d, err := l.store.Device(t.Context(), access.Everything(), row.Device)
	must(t, err)
	if d.State != device.Registered || d.Current[device.IDevIDSlot] != row.ID || d.Order != l.order.ID || d.Chip != c.ID || d.Site != l.site || d.Version != 2 {
		t.Errorf("device %+v", d)
	}
	unit, err := l.store.Unit(t.Context(), access.Everything(), row.ID)
	must(t, err)
	if unit.State != factory.UnitIssued || unit.ConfirmNonce != r.ConfirmNonce || unit.ConfirmNonce == [32]byte{} ||
		unit.Evidence != "chip" || unit.Reference != "MES-17" || unit.Station != l.station.ID || unit.Spare {
		t.Errorf("unit %+v", unit)
	}
	used, err := l.store.Chip(t.Context(), c.ID)
	must(t, err)
	if used.State != factory.ChipUsed || used.Device != d.ID {
		t.Errorf("chip %+v", used)
	}
	if n := l.counts("PO-1"); n.Issued != 1 || n.Live != 1 {
		t.Errorf("counts %+v", n)
	}
}

func TestUnitRetryGetsTheSameAnswer(t *testing.T) {
	l := newLine(t, nil)
	c := l.newChip("0123aa", nil)
	key, nonce := newKey(t), l.nonce()
	first := l.made(l.unit("SN-1", key, c, nonce))
	other, session := l.newStation("line-8", l.site)
	l.terms("PO-1", func(o *factory.Order) { o.Stations = append(o.Stations, other.ID) })
	l.refresh()
	for name, ask := range map[string]func() (*enroll.UnitResponse, error){
		"the same nonce": func() (*enroll.UnitResponse, error) { return l.ask(l.unit("SN-1", key, c, nonce)) },
		"a fresh nonce":  func() (*enroll.UnitResponse, error) { return l.ask(l.unit("SN-1", key, c, l.nonce())) },
		"no nonce":       func() (*enroll.UnitResponse, error) { return l.ask(l.unit("SN-1", key, nil, nil)) },
		"another station": func() (*enroll.UnitResponse, error) {
			return l.enroller.EnrollUnit(t.Context(), session, l.unit("SN-1", key, c, nil))
		},
		"a full order": func() (*enroll.UnitResponse, error) {
			l.terms("PO-1", func(o *factory.Order) { o.Quantity, o.Spares = 1, 0 })
			return l.ask(l.unit("SN-1", key, c, l.nonce()))
		},
		"a closed order": func() (*enroll.UnitResponse, error) {
			l.terms("PO-1", func(o *factory.Order) { o.State, o.ClosedAt = factory.OrderClosed, l.clock() })
			l.refresh()
			defer func() {
				l.terms("PO-1", func(o *factory.Order) { o.State, o.ClosedAt = factory.OrderOpen, time.Time{} })
				l.refresh()
			}()
			return l.ask(l.unit("SN-1", key, c, nil))
		},
	} {
		t.Run(name, func(t *testing.T) {
			again, err := ask()
			must(t, err)
			if !again.Replayed || !bytes.Equal(again.Credential.DER, first.Credential.DER) || again.ConfirmNonce != first.ConfirmNonce ||
				len(again.Chain) != len(first.Chain) || again.Unit.ID != first.Unit.ID {
				t.Errorf("got %+v", again)
			}
		})
	}
	if n := l.counts("PO-1"); n.Issued != 1 {
		t.Errorf("retries used up the order: %+v", n)
	}
	elsewhere := l.newOrder("PO-2", 5, 0, l.station.ID)
	_, err := l.ask(l.unitOf("PO-2", "SN-1", key, c, l.draw(elsewhere.ID, l.station.ID, 1)[0]))
	refused(t, err, fault.UnitSerialTaken)
}

// Each row is one thing that is wrong with a unit's request. Nothing is issued
// for any of them.
func TestUnitRefuses(t *testing.T) {
	l := newLine(t, func(p *device.Product) { p.SerialPattern = "[A-Z]{2}-[0-9]+" })
	elsewhere, err := l.store.AddSite(t.Context(), factory.Site{Name: "Brno", CreatedAt: l.clock()}, entry(l.world, "site.added"))
	must(t, err)
	stranger := l.addStation("line-9", elsewhere)
	foreign := l.addOrder(factory.Order{
		Number: "PO-Brno", Product: l.product.ID, Site: elsewhere, State: factory.OrderOpen, Quantity: 5, Stations: []int64{stranger.ID}, CreatedAt: l.clock(),
	})
	unassigned := l.newOrder("PO-other", 5, 0)
	planned := l.newOrder("PO-planned", 5, 0, l.station.ID)
	l.terms("PO-planned", func(o *factory.Order) { o.State = factory.OrderPlanned })
	closed := l.newOrder("PO-closed", 5, 0, l.station.ID)
	l.terms("PO-closed", func(o *factory.Order) { o.State, o.ClosedAt = factory.OrderClosed, l.clock() })
	frozen := l.newOrder("PO-frozen", 5, 0, l.station.ID)
	l.terms("PO-frozen", func(o *factory.Order) { o.Frozen = true })
	ranged := l.newOrder("PO-range", 5, 0, l.station.ID)
	l.terms("PO-range", func(o *factory.Order) { o.SerialFrom, o.SerialTo = "SN-100", "SN-199" })
	full := l.newOrder("PO-full", 1, 0, l.station.ID)
	l.refresh()
	l.made(l.unitOf("PO-full", "SN-900", newKey(t), l.newChip("f0", nil), l.draw(full.ID, l.station.ID, 1)[0]))
	l.made(l.unit("SN-901", newKey(t), l.newChip("f1", nil), l.nonce()))
	product2, err := l.plane.AddProduct(t.Context(), "system", device.Product{Name: "bare", Profiles: []string{"ldevid-cloud"}})
	must(t, err)
	noStation := l.addOrder(factory.Order{
		Number: "PO-bare", Product: product2.ID, Site: l.site, State: factory.OrderOpen, Quantity: 5, Stations: []int64{l.station.ID}, CreatedAt: l.clock(),
	})
	l.device("bare", "SN-902")
	oldNonce := l.nonce()
	l.pass(11 * time.Minute)
	usedNonce := l.nonce()
	l.made(l.unit("SN-903", newKey(t), l.newChip("f2", nil), usedNonce))

	good := l.newChip("c0", nil)
	// on builds a request of an order with a chip and a nonce of that order.
	on := func(o factory.Order, serial string, c *chip) *station.Unit {
		return l.unitOf(o.Number, serial, newKey(t), c, l.draw(o.ID, l.station.ID, 1)[0])
	}
	with := func(edit func(u *station.Unit)) *station.Unit {
		u := on(l.order, "SN-1", good)
		edit(u)
		return u
	}
	resigned := func(c *chip, edit func(u *station.Unit)) *station.Unit {
		u := on(l.order, "SN-1", c)
		edit(u)
		return u
	}
	for name, tt := range map[string]struct {
		unit *station.Unit
		want fault.Code
	}{
		"order that is not there":            {with(func(u *station.Unit) { u.Order = "PO-0" }), fault.OrderUnknown},
		"order of another site":              {on(foreign, "SN-1", good), fault.OrderUnknown},
		"order of other stations":            {on(unassigned, "SN-1", good), fault.StationNotAssigned},
		"planned order":                      {on(planned, "SN-1", good), fault.OrderState},
		"closed order":                       {on(closed, "SN-1", good), fault.OrderState},
		"frozen order":                       {on(frozen, "SN-1", good), fault.OrderFrozen},
		"full order":                         {on(full, "SN-1", good), fault.OrderFull},
		"product without stations":           {on(noStation, "SN-1", good), fault.KeyModel},
		"serial out of range":                {on(ranged, "SN-200", good), fault.UnitSerialRange},
		"serial of another length":           {on(ranged, "SN-1000", good), fault.UnitSerialRange},
		"serial that does not match":         {on(l.order, "X-1", good), fault.UnitSerialRange},
		"serial that is no serial":           {on(l.order, "SN 1", good), fault.DeviceSerialInvalid},
		"serial of another unit":             {on(l.order, "SN-901", good), fault.UnitSerialTaken},
		"serial of another product":          {on(l.order, "SN-902", good), fault.UnitSerialTaken},
		"serial of another order":            {on(ranged, "SN-901", good), fault.UnitSerialTaken},
		"rework of nothing":                  {with(func(u *station.Unit) { u.Rework = &station.Rework{Reason: "board"} }), fault.UnitUnknown},
		"no request":                         {with(func(u *station.Unit) { u.CSR = nil }), fault.KeyModel},
		"request that is none":               {with(func(u *station.Unit) { u.CSR = []byte("x") }), fault.RequestMalformed},
		"no proof":                           {with(func(u *station.Unit) { u.Proof = nil }), fault.ChipProofMissing},
		"no chip":                            {with(func(u *station.Unit) { u.Chip = nil }), fault.ChipProofMissing},
		"no nonce":                           {with(func(u *station.Unit) { u.Nonce = nil }), fault.NonceInvalid},
		"proof spliced onto another request": {with(func(u *station.Unit) { u.CSR = newCSR(t, newKey(t), nil) }), fault.ChipProof},
		"proof for another serial":           {with(func(u *station.Unit) { u.DeviceSerial = "SN-2" }), fault.ChipProof},
		"proof for another nonce":            {with(func(u *station.Unit) { u.Nonce = l.nonce() }), fault.ChipProof},
		"proof of another chip":              {with(func(u *station.Unit) { u.Chip.UID = l.newChip("c1", nil).UID }), fault.ChipProof},
		"proof for another order": {func() *station.Unit {
			u := on(ranged, "SN-150", good)
			u.Order, u.Nonce = "PO-1", l.nonce()
			return u
		}(), fault.ChipProof},
		"proof that is none": {with(func(u *station.Unit) { u.Proof = []byte{0x30, 0x00} }), fault.ChipProof},
		"key held in place of chip": {with(func(u *station.Unit) {
			u.Proof = sign(t, good.key, proof.Held(u.Nonce, u.Order, u.DeviceSerial, good.Keys[0].SPKI))
		}), fault.ChipProof},
		"nonce of nobody":          {with(func(u *station.Unit) { u.Nonce = bytes.Repeat([]byte{1}, 32) }), fault.NonceInvalid},
		"nonce that is too short":  {with(func(u *station.Unit) { u.Nonce = u.Nonce[:31] }), fault.NonceInvalid},
		"nonce with another MAC":   {with(func(u *station.Unit) { u.Nonce = flipped(u.Nonce, 31) }), fault.NonceInvalid},
		"nonce with another index": {with(func(u *station.Unit) { u.Nonce = flipped(u.Nonce, 11) }), fault.NonceInvalid},
		"nonce of another order":   {l.unit("SN-1", newKey(t), good, l.draw(ranged.ID, l.station.ID, 1)[0]), fault.NonceInvalid},
		"nonce of another station": {l.unit("SN-1", newKey(t), good, l.draw(l.order.ID, stranger.ID, 1)[0]), fault.NonceInvalid},
		"nonce that was used":      {l.unit("SN-1", newKey(t), good, usedNonce), fault.NonceUsed},
		"nonce that is too old":    {l.unit("SN-1", newKey(t), good, oldNonce), fault.NonceExpired},
		"chip in no manifest":      {with(func(u *station.Unit) { u.Chip.UID = "00" }), fault.ChipUnknown},
		"chip of another vendor":   {with(func(u *station.Unit) { u.Chip.Vendor = "infineon" }), fault.ChipUnknown},
		"chip of another product":  {on(l.order, "SN-1", l.newChip("c2", func(c *chip) { c.Product = product2.ID })), fault.ChipOtherProduct},
		"chip of another type":     {on(l.order, "SN-1", l.newChip("c3", func(c *chip) { c.ChipType = "OPTIGA" })), fault.ChipOtherProduct},
		"chip without a key":       {on(l.order, "SN-1", l.newChip("c4", func(c *chip) { c.State, c.Keys = factory.ChipNotProvable, nil })), fault.ChipNotProvable},
		"chip without that slot":   {resigned(l.newChip("c5", nil), func(u *station.Unit) { u.Chip.Slot = "3" }), fault.ChipNotProvable},
		"chip of another device":   {on(l.order, "SN-1", &chip{Chip: factory.Chip{UID: "f1"}, key: good.key}), fault.ChipUsed},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := l.ask(tt.unit)
			refused(t, err, tt.want)
		})
	}
	if n := l.counts("PO-1"); n.Issued != 2 {
		t.Errorf("something was issued: %+v", n)
	}
	// The chip and the serial are as good as before.
	l.made(on(l.order, "SN-1", good))
}

func flipped(b []byte, i int) []byte {
	b = bytes.Clone(b)
	b[i] ^= 1
	return b
}

func TestUnitRefusesWithdrawnAndAllottedChips(t *testing.T) {
	l := newLine(t, nil)
	other := l.newOrder("PO-2", 5, 0, l.station.ID)
	change := func(c *chip, state factory.ChipState, order int64) {
		x, err := l.store.Chip(t.Context(), c.ID)
		must(t, err)
		from := x.State
		x.State, x.Order = state, order
		must(t, l.store.UpdateChip(t.Context(), x, from, entry(l.world, "chip.changed")))
	}
	withdrawn, theirs, ours := l.newChip("a0", nil), l.newChip("a1", nil), l.newChip("a2", nil)
	change(withdrawn, factory.ChipWithdrawn, 0)
	change(theirs, factory.ChipAllotted, other.ID)
	change(ours, factory.ChipAllotted, l.order.ID)
	_, err := l.ask(l.unit("SN-1", newKey(t), withdrawn, l.nonce()))
	refused(t, err, fault.ChipWithdrawn)
	_, err = l.ask(l.unit("SN-1", newKey(t), theirs, l.nonce()))
	refused(t, err, fault.ChipOtherOrder)
	l.made(l.unit("SN-1", newKey(t), ours, l.nonce()))
}

func TestUnitCloneIsRefusedAndAlarmed(t *testing.T) {
	l := newLine(t, nil)
	c := l.newChip("0123aa", nil)
	key := newKey(t)
	l.made(l.unit("SN-1", key, c, l.nonce()))
	_, err := l.ask(l.unit("SN-2", newKey(t), c, l.nonce()))
	refused(t, err, fault.ChipUsed)
	if a := l.alarm(factory.AlarmChipReused); a.Key != "microchip/0123aa" || a.Order != l.order.ID || a.Station != l.station.ID {
		t.Errorf("alarm %+v", a)
	}
	_, err = l.ask(l.unit("SN-2", key, l.newChip("0123ab", nil), l.nonce()))
	refused(t, err, fault.KeyInUse)
	l.alarm(factory.AlarmKeyReused)
	_, err = l.ask(l.unitOf("PO-9", "SN-3", newKey(t), c, l.nonce()))
	refused(t, err, fault.OrderUnknown)
	l.newOrder("PO-9", 5, 0)
	_, err = l.ask(l.unitOf("PO-9", "SN-3", newKey(t), c, l.nonce()))
	refused(t, err, fault.StationNotAssigned)
	l.alarm(factory.AlarmStation)
}

func TestUnitReferenceNamesOneUnit(t *testing.T) {
	l := newLine(t, nil)
	u := l.unit("SN-1", newKey(t), l.newChip("a0", nil), l.nonce())
	u.Reference = "MES-1"
	l.made(u)
	u = l.unit("SN-2", newKey(t), l.newChip("a1", nil), l.nonce())
	u.Reference = "MES-1"
	_, err := l.ask(u)
	refused(t, err, fault.UnitReference)
}

func TestUnitWithoutEvidenceIsSoftware(t *testing.T) {
	l := newLine(t, func(p *device.Product) { p.LeastEvidence = "none" })
	kindOf := func(r *enroll.UnitResponse) (device.KeyKind, string) {
		c, err := l.store.Credential(t.Context(), access.Everything(), r.Credential.ID)
		must(t, err)
		u, err := l.store.Unit(t.Context(), access.Everything(), r.Credential.ID)
		must(t, err)
		return c.KeyKind, u.Evidence
	}
	if kind, evidence := kindOf(l.made(l.unit("SN-1", newKey(t), nil, nil))); kind != device.KeySoftware || evidence != "" {
		t.Errorf("a request alone: %s, %q", kind, evidence)
	}
	// A chip that proves nothing is used up all the same: one chip, one device.
	c := l.newChip("a0", func(c *chip) { c.State, c.Keys = factory.ChipNotProvable, nil })
	u := l.unit("SN-2", newKey(t), nil, nil)
	u.Chip = &station.Chip{UID: c.UID}
	if kind, evidence := kindOf(l.made(u)); kind != device.KeySoftware || evidence != "listed" {
		t.Errorf("a listed chip: %s, %q", kind, evidence)
	}
	u = l.unit("SN-3", newKey(t), nil, nil)
	u.Chip = &station.Chip{UID: c.UID}
	_, err := l.ask(u)
	refused(t, err, fault.ChipUsed)
	// A proof counts where none is demanded.
	if kind, evidence := kindOf(l.made(l.unit("SN-4", newKey(t), l.newChip("a1", nil), l.nonce()))); kind != device.KeyHardware || evidence != "chip" {
		t.Errorf("a proof: %s, %q", kind, evidence)
	}
}

const makerProfile = `name: ldevid-maker
kind: ldevid
purpose: cloud
keys: [p256]
validity: {days: 30}
subject:
  - {attribute: commonName, from: deviceSerial}
keyUsage: [digitalSignature]
trusts: [chipmaker]
`

const hardwareProfile = `name: hard
kind: idevid
keys: [p256]
validity: {years: 10, shorten: true}
subject:
  - {attribute: serialNumber, from: deviceSerial}
subjectAltName:
  - {type: hardwareModuleName, hardwareType: 1.3.6.1.4.1.32473.1, from: hardwareSerial, or: deviceSerial}
keyUsage: [digitalSignature]
requireHardwareKey: true
`

func TestUnitOfAHardwareProfileNeedsProof(t *testing.T) {
	l := newLine(t, func(p *device.Product) {
		p.LeastEvidence, p.IDevIDProfile, p.Profiles = "none", "hard", []string{"hard"}
	}, hardwareProfile)
	_, err := l.ask(l.unit("SN-1", newKey(t), nil, nil))
	refused(t, err, fault.ChipProofMissing)
	r := l.made(l.unit("SN-1", newKey(t), l.newChip("a0", nil), l.nonce()))
	if !bytes.Contains(r.Credential.DER, []byte("a0")) {
		t.Error("the profile wants the chip's UID in the certificate")
	}
	// Nor does anybody get such a certificate on the other road.
	l.world.product("field", "hard")
	_, err = l.bySecret(l.device("field", "SN-9"), newCSR(t, newKey(t), nil))
	refused(t, err, fault.ChipProofMissing)
}

func TestUnitNeverGetsAnInjectedKeyWhereHardwareIsDemanded(t *testing.T) {
	for name, edit := range map[string]func(p *device.Product){
		"by the profile": func(p *device.Product) {
			p.KeyModel, p.LeastEvidence, p.IDevIDProfile, p.Profiles = device.KeyModelInjected, "", "hard", []string{"hard"}
		},
		"by the product": func(p *device.Product) { p.KeyModel = device.KeyModelInjected },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLine(t, edit, hardwareProfile)
			_, err := l.ask(&station.Unit{
				Order: "PO-1", DeviceSerial: "SN-1", Password: "one-time password", Chip: &station.Chip{UID: l.newChip("a0", nil).UID},
			})
			refused(t, err, fault.KeyModel)
		})
	}
}

func TestUnitReworkReplacesTheBoard(t *testing.T) {
	l := newLine(t, nil)
	l.terms("PO-1", func(o *factory.Order) { o.Quantity, o.Spares = 1, 1 })
	l.refresh()
	first := l.made(l.unit("SN-1", newKey(t), l.newChip("a0", nil), l.nonce()))
	second := l.newChip("a1", nil)
	key := newKey(t)
	_, err := l.ask(l.unit("SN-1", key, second, l.nonce()))
	refused(t, err, fault.UnitSerialTaken) // rework must be said
	rework := func(c *chip, key2 bool) *station.Unit {
		k := key
		if key2 {
			k = newKey(t)
		}
		u := l.unit("SN-1", k, c, l.nonce())
		u.Rework = &station.Rework{Reason: "board swapped"}
		return u
	}
	next := l.made(rework(second, false))
	if next.Replayed || !next.Unit.Spare {
		t.Errorf("rework: %+v", next.Unit)
	}
	again := l.made(rework(second, false))
	if !again.Replayed || again.Unit.ID != next.Unit.ID {
		t.Error("a retry of the rework is another unit")
	}
	old, err := l.store.Credential(t.Context(), access.Everything(), first.Credential.ID)
	must(t, err)
	oldUnit, err := l.store.Unit(t.Context(), access.Everything(), first.Credential.ID)
	must(t, err)
	if old.State != device.Revoked || oldUnit.State != factory.UnitReplaced {
		t.Errorf("the old board: certificate %s, unit %s", old.State, oldUnit.State)
	}
	if n := l.counts("PO-1"); n.Live != 1 || n.Issued != 2 || n.Scrapped != 1 {
		t.Errorf("counts %+v", n)
	}
	_, err = l.ask(rework(l.newChip("a2", nil), true))
	refused(t, err, fault.SparesUsed)
	l.alarm(factory.AlarmOrderFull)
	d, err := l.store.Device(t.Context(), access.Everything(), next.Credential.Device)
	must(t, err)
	if d.DeviceSerial != "SN-1" || d.Chip != second.ID || d.Current[device.IDevIDSlot] != next.Credential.ID {
		t.Errorf("device %+v", d)
	}
}

func TestUnitOfARegisteredDevice(t *testing.T) {
	l := newLine(t, nil)
	d := l.device("sensor", "SN-1")
	r := l.made(l.unit("SN-1", newKey(t), l.newChip("a0", nil), l.nonce()))
	if r.Credential.Device != d.Device.ID {
		t.Error("another device")
	}
	_, err := l.register.Move(t.Context(), l.operator, l.device("sensor", "SN-2").Device.ID, device.Scrapped)
	must(t, err)
	_, err = l.ask(l.unit("SN-2", newKey(t), l.newChip("a1", nil), l.nonce()))
	refused(t, err, fault.DeviceState)
}

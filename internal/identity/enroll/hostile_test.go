package enroll_test

import (
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/proof"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// Whoever has a line can neither copy nor end a device that left the factory.
func TestStationHasNoPowerOverWhatWasShipped(t *testing.T) {
	l := newLine(t, nil)
	works, ctx := l.works(), t.Context()
	key := newKey(t)
	r := l.made(l.unit("SN-1", key, l.newChip("a0", nil), l.nonce()))
	must(t, works.Confirm(ctx, l.session.Ref(), &station.Confirm{
		Order: "PO-1", DeviceSerial: "SN-1", Certificate: r.Credential.DER,
		Signature: sign(t, key, proof.Confirm(r.ConfirmNonce[:], "SN-1", r.Credential.DER)),
	}))
	_, _, err := works.Ship(ctx, access.System(), []string{"SN-1"})
	must(t, err)
	chips := []string{"a1", "a2", "a3"}
	swap := func() error {
		u := l.unit("SN-1", newKey(t), l.newChip(chips[0], nil), l.nonce())
		chips = chips[1:]
		u.Rework = &station.Rework{Reason: "board"}
		_, err := l.ask(u)
		return err
	}
	scrap := func() error {
		return works.Scrap(ctx, l.session.Ref(), &station.Scrap{Order: "PO-1", DeviceSerial: "SN-1", Reason: "dead"})
	}
	for _, state := range []device.State{device.Shipped, device.Active} {
		if state == device.Active {
			_, err := l.register.Move(ctx, l.operator, r.Credential.Device, state)
			must(t, err)
		}
		refused(t, swap(), fault.DeviceState)
		refused(t, scrap(), fault.UnitState)
	}
	c, err := l.store.Credential(ctx, access.Everything(), r.Credential.ID)
	must(t, err)
	if c.State != device.Confirmed {
		t.Errorf("the certificate of a device in use is %s", c.State)
	}
	_, err = l.register.Move(ctx, l.operator, r.Credential.Device, device.InRepair)
	must(t, err)
	must(t, swap())
	must(t, scrap())
}

// An identity of a product that stations make is counted in an order: there is no
// other road to the first one, and so to a second one of the same device.
func TestFirstIdentityOfALineProductIsMadeAtAStation(t *testing.T) {
	l := newLine(t, nil)
	added := l.device("sensor", "SN-1")
	_, err := l.bySecret(added, newCSR(t, newKey(t), nil))
	refused(t, err, fault.ProfileNotAllowed)
	key := newKey(t)
	r := l.made(l.unit("SN-1", key, l.newChip("a0", nil), l.nonce()))
	_, err = l.bySecret(added, newCSR(t, newKey(t), nil))
	refused(t, err, fault.ProfileNotAllowed)
	_, err = l.enroller.EnrollServerKey(t.Context(), enroll.Request{
		Operation: enroll.Enroll, CSR: newCSR(t, newKey(t), nil),
		Requester: enroll.Requester{DeviceSerial: "SN-1", Secret: []byte(added.Secret)},
	})
	refused(t, err, fault.ProfileNotAllowed)
	// With it, the device gets the next one.
	next, err := l.byCertificate(enroll.Reenroll, parsed(t, &r.Response), "", newCSR(t, newKey(t), parsed(t, &r.Response).RawSubject))
	must(t, err)
	if next.Credential.Previous != r.Credential.ID {
		t.Errorf("the next identity follows %d", next.Credential.Previous)
	}
}

// An order of another site is refused like one that is not there; people hear of it.
func TestOrdersOfOtherSitesAreHidden(t *testing.T) {
	l := newLine(t, nil)
	elsewhere, err := l.store.AddSite(t.Context(), factory.Site{Name: "Brno", CreatedAt: l.clock()}, entry(l.world, "site.added"))
	must(t, err)
	stranger := l.addStation("line-9", elsewhere)
	for number, state := range map[string]factory.OrderState{"PO-open": factory.OrderOpen, "PO-closed": factory.OrderClosed} {
		l.addOrder(factory.Order{
			Number: number, Product: l.product.ID, Site: elsewhere, State: state, Quantity: 5, Stations: []int64{stranger.ID}, CreatedAt: l.clock(),
		})
	}
	ask := func(order string) string {
		_, err := l.ask(l.unitOf(order, "SN-1", newKey(t), l.newChip("chip of "+order, nil), l.nonce()))
		if err == nil {
			t.Fatal("a unit of another site's order")
		}
		return err.Error()
	}
	want := ask("PO-none")
	for _, order := range []string{"PO-open", "PO-closed"} {
		if got := ask(order); got != want {
			t.Errorf("%s: %q, want %q", order, got, want)
		}
		l.alarm(factory.AlarmStation)
	}
}

// Every key is one thing's key.
func TestUnitRefusesKeysOfOthers(t *testing.T) {
	l := newLine(t, nil)
	key := newKey(t)
	st := l.addStation("line-8", l.site)
	l.code(st.ID, "code of line-8")
	_, err := l.enroller.EnrollStation(t.Context(), "code of line-8", newCSR(t, key, nil))
	must(t, err)
	_, err = l.ask(l.unit("SN-1", key, l.newChip("a0", nil), l.nonce()))
	refused(t, err, fault.KeyInUse)
	made := newKey(t)
	l.made(l.unit("SN-2", made, l.newChip("a1", nil), l.nonce()))
	st = l.addStation("line-9", l.site)
	l.code(st.ID, "code of line-9")
	_, err = l.enroller.EnrollStation(t.Context(), "code of line-9", newCSR(t, made, nil))
	refused(t, err, fault.KeyInUse)
}

// What a station says is shown to people: in lists, on terminals, in CSV files.
func TestStationsWordsAreFitToRead(t *testing.T) {
	l := newLine(t, nil)
	l.made(l.unit("SN-1", newKey(t), l.newChip("a0", nil), l.nonce()))
	for name, edit := range map[string]func(u *station.Unit){
		"no reason":              func(u *station.Unit) { u.Rework = &station.Rework{} },
		"an essay":               func(u *station.Unit) { u.Rework = &station.Rework{Reason: strings.Repeat("a", 501)} },
		"a reason of the screen": func(u *station.Unit) { u.Rework = &station.Rework{Reason: "\x1b[2J"} },
		"an 8-bit escape":        func(u *station.Unit) { u.Rework = &station.Rework{Reason: "\u009b2J"} },
		"text that runs back":    func(u *station.Unit) { u.Rework = &station.Rework{Reason: "a\u202eb"} },
		"a long reference":       func(u *station.Unit) { u.Reference = strings.Repeat("R", 256) },
		"lines in a reference":   func(u *station.Unit) { u.Reference = "a\nb" },
		"octets in a reference":  func(u *station.Unit) { u.Reference = "\xff" },
	} {
		u := l.unit("SN-1", newKey(t), l.newChip("chip of "+name, nil), l.nonce())
		edit(u)
		_, err := l.ask(u)
		if !fault.Has(err, fault.ParameterInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

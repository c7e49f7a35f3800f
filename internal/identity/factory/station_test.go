package factory_test

import (
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/statement"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

func TestStationCodeIsKeptAsItsHashAndEnds(t *testing.T) {
	w := newWorld(t)
	x, code, err := w.AddStation(t.Context(), w.lead, "b3", "brno")
	w.ok(err)
	if len(code) < 26 || x.Code.Hash != device.HashSecret([]byte(code)) || !x.Code.ExpiresAt.Equal(w.clock.now().Add(24*time.Hour)) {
		t.Fatalf("code of %d letters, %+v", len(code), x.Code)
	}
	found, err := w.store.StationByCode(t.Context(), device.HashSecret([]byte(code)))
	w.ok(err)
	if found.ID != x.ID {
		t.Fatalf("station %d has the code of %d", found.ID, x.ID)
	}
	_, second, err := w.NewStationCode(t.Context(), w.lead, "b3")
	w.ok(err)
	if second == code {
		t.Fatal("the same code again")
	}
	_, err = w.store.StationByCode(t.Context(), device.HashSecret([]byte(code)))
	w.refused(err, fault.StationUnknown)
	_, _, err = w.AddStation(t.Context(), w.lead, "b3", "penang")
	w.refused(err, fault.StationExists)
	_, _, err = w.AddStation(t.Context(), w.lead, "b4", "mars")
	w.refused(err, fault.SiteUnknown)
	_, _, err = w.AddStation(t.Context(), w.lead, "b/4", "brno")
	w.refused(err, fault.ParameterInvalid)
}

func TestSuspendedStationGetsNothingDone(t *testing.T) {
	w := newWorld(t)
	w.opened(terms())
	st := w.station("b1")
	_, err := w.DrawNonces(t.Context(), st, station.NoncesRequest{Order: "PO-1", Count: 1})
	w.ok(err)
	_, err = w.SuspendStation(t.Context(), w.lead, "b1", "found open")
	w.ok(err)
	w.refresh()
	for name, do := range map[string]func() error{
		"nonces": func() error {
			_, err := w.DrawNonces(t.Context(), st, station.NoncesRequest{Order: "PO-1", Count: 1})
			return err
		},
		"confirm": func() error {
			return w.Confirm(t.Context(), st, &station.Confirm{Order: "PO-1", DeviceSerial: "SN0001"})
		},
		"scrap": func() error {
			return w.Scrap(t.Context(), st, &station.Scrap{Order: "PO-1", DeviceSerial: "SN0001", Reason: "x"})
		},
		"failed": func() error { return w.Failed(t.Context(), st, &station.Failed{Order: "PO-1", Code: "BM-8092"}) },
		"chips": func() error {
			_, err := w.CheckChips(t.Context(), st, station.ChipsRequest{Order: "PO-1", UIDs: []string{"01"}})
			return err
		},
	} {
		if err := do(); !fault.Has(err, fault.StationState) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = w.ResumeStation(t.Context(), w.lead, "b1", "")
	w.ok(err)
	w.refresh()
	_, err = w.DrawNonces(t.Context(), st, station.NoncesRequest{Order: "PO-1", Count: 1})
	w.ok(err)
	_, err = w.RetireStation(t.Context(), w.lead, "b1", "sold")
	w.ok(err)
	_, err = w.ResumeStation(t.Context(), w.lead, "b1", "")
	w.refused(err, fault.StationState)
	_, _, err = w.NewStationCode(t.Context(), w.lead, "b1")
	w.refused(err, fault.StationState)
}

func TestStationActsOnlyWithinItsOrders(t *testing.T) {
	w := newWorld(t)
	w.opened(terms())
	// p1 is at another site and does not learn that there is such an order.
	for name, want := range map[string]fault.Code{"b2": fault.StationNotAssigned, "p1": fault.OrderUnknown} {
		_, err := w.DrawNonces(t.Context(), w.station(name), station.NoncesRequest{Order: "PO-1", Count: 1})
		w.refused(err, want)
	}
	_, err := w.DrawNonces(t.Context(), w.station("b1"), station.NoncesRequest{Order: "PO-9", Count: 1})
	w.refused(err, fault.OrderUnknown)
	if list := w.alarmed(factory.AlarmStation); len(list) != 2 {
		t.Fatalf("%d alarms, want one for each station", len(list))
	}
	status, err := w.Status(t.Context(), w.station("b2"))
	w.ok(err)
	if len(status.Orders) != 0 || status.Site != "brno" {
		t.Errorf("%+v", status)
	}
	_, err = w.AssignStations(t.Context(), w.lead, "PO-1", []string{"b2"})
	w.ok(err)
	w.refresh()
	_, err = w.DrawNonces(t.Context(), w.station("b2"), station.NoncesRequest{Order: "PO-1", Count: 1})
	w.ok(err)
	_, err = w.DrawNonces(t.Context(), w.station("b1"), station.NoncesRequest{Order: "PO-1", Count: 1})
	w.refused(err, fault.StationNotAssigned)
}

func TestStatusShowsWhatAStationMayDo(t *testing.T) {
	w := newWorld(t)
	w.opened(terms())
	status, err := w.Status(t.Context(), w.station("b1"))
	w.ok(err)
	if status.Station != "b1" || len(status.Orders) != 1 {
		t.Fatalf("%+v", status)
	}
	o := status.Orders[0]
	if o.Number != "PO-1" || o.State != "open" || o.Product != "sensor" || !o.Proof || o.Left != 10 || o.TaktMillis != 60_000 ||
		o.Evidence != "chip" || len(o.ChipTypes) != 2 || string(o.StatementKey) != string(w.statements.PublicKey()) {
		t.Errorf("%+v", o)
	}
}

// What a product demands and what its profile does is told as one level.
func TestStatusTellsTheLevelOfProductAndProfile(t *testing.T) {
	w := newWorld(t)
	w.certified()
	ctx := t.Context()
	text, _ := profile.Preset("idevid-tpm")
	_, err := w.authorities.ImportProfile(ctx, "system", text)
	w.ok(err)
	for level, want := range map[string]string{"": "tpm", "listed": "listed+tpm", "tpm-firmware": "tpm-firmware"} {
		p, err := w.authorities.AddProduct(ctx, "system", device.Product{
			Name: "gateway " + level + "0", Profiles: []string{"idevid-tpm"}, IDevIDProfile: "idevid-tpm", LeastEvidence: level,
		})
		w.ok(err)
		names, err := w.Names(ctx)
		w.ok(err)
		if got := names.Evidence(p.ID); got != want {
			t.Errorf("%q and the profile's tpm: %q, want %q", level, got, want)
		}
	}
}

// A station asks the chip for its proof where the profile alone demands it, too.
func TestStatusAsksForTheProofThatAProfileDemands(t *testing.T) {
	w := newWorld(t)
	w.certified()
	text, _ := profile.Preset("idevid")
	_, err := w.authorities.ImportProfile(t.Context(), "system", append(text, "leastEvidence: chip\n"...))
	w.ok(err)
	order := terms()
	order.Product, order.SerialFrom, order.SerialTo = "gateway", "", ""
	w.opened(order)
	status, err := w.Status(t.Context(), w.station("b1"))
	w.ok(err)
	if o := status.Orders[0]; !o.Proof || o.Evidence != "chip" {
		t.Errorf("%+v", o)
	}
}

func TestNoncesAreOfOneOrderAndStation(t *testing.T) {
	w := newWorld(t)
	o := w.opened(terms())
	st := w.station("b1")
	n, err := w.DrawNonces(t.Context(), st, station.NoncesRequest{Order: "PO-1", Count: 3})
	w.ok(err)
	if len(n.Nonces) != 3 || n.Signature != nil || !n.ExpiresAt.Equal(w.clock.now().Add(10*time.Minute)) {
		t.Fatalf("%+v", n)
	}
	id, ok := factory.NonceBlockID(n.Nonces[2])
	if !ok {
		t.Fatal("no block")
	}
	b, err := w.store.NonceBlock(t.Context(), id)
	w.ok(err)
	ref, err := b.Check(n.Nonces[2], o.ID, st.ID, w.clock.now())
	w.ok(err)
	if ref.Block != id || ref.Index != 2 {
		t.Fatalf("%+v", ref)
	}
	flipped := append([]byte(nil), n.Nonces[2]...)
	flipped[31] ^= 1
	beyond := append([]byte(nil), n.Nonces[2]...)
	beyond[11] = 3
	for name, err := range map[string]error{
		"another order":   second(b.Check(n.Nonces[2], o.ID+1, st.ID, w.clock.now())),
		"another station": second(b.Check(n.Nonces[2], o.ID, st.ID+1, w.clock.now())),
		"flipped":         second(b.Check(flipped, o.ID, st.ID, w.clock.now())),
		"beyond":          second(b.Check(beyond, o.ID, st.ID, w.clock.now())),
		"short":           second(b.Check(n.Nonces[2][:31], o.ID, st.ID, w.clock.now())),
		"none":            second(b.Check(nil, o.ID, st.ID, w.clock.now())),
	} {
		if !fault.Has(err, fault.NonceInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = b.Check(n.Nonces[2], o.ID, st.ID, n.ExpiresAt)
	w.refused(err, fault.NonceExpired)
}

func second[T any](_ T, err error) error { return err }

func TestNoncesAreNoMoreThanTheOrderLeaves(t *testing.T) {
	w := newWorld(t)
	w.opened(terms())
	st := w.station("b1")
	n, err := w.DrawNonces(t.Context(), st, station.NoncesRequest{Order: "PO-1", Count: 256})
	w.ok(err)
	if len(n.Nonces) != 15 {
		t.Errorf("%d nonces for 10 units and 5 spares", len(n.Nonces))
	}
	for _, count := range []int{0, -1, 257} {
		_, err = w.DrawNonces(t.Context(), st, station.NoncesRequest{Order: "PO-1", Count: count})
		w.refused(err, fault.ParameterInvalid)
	}
	_, err = w.CloseOrder(t.Context(), w.planner, "PO-1", "")
	w.ok(err)
	w.refresh()
	_, err = w.DrawNonces(t.Context(), st, station.NoncesRequest{Order: "PO-1", Count: 1})
	w.refused(err, fault.OrderState)
}

func TestOfflineBlockIsSignedAndLastsAMonth(t *testing.T) {
	w := newWorld(t)
	big := terms()
	big.Quantity, big.SerialFrom, big.SerialTo = 100_000, "", ""
	w.opened(big)
	n, err := w.DrawNonces(t.Context(), w.station("b1"), station.NoncesRequest{Order: "PO-1", Count: 100_000, Offline: true})
	w.ok(err)
	if len(n.Nonces) != 100_000 || !n.ExpiresAt.Equal(w.clock.now().Add(30*24*time.Hour)) {
		t.Fatalf("%d nonces until %v", len(n.Nonces), n.ExpiresAt)
	}
	w.ok(statement.VerifyNonces(w.statements.PublicKey(), &n))
	_, err = w.DrawNonces(t.Context(), w.station("b1"), station.NoncesRequest{Order: "PO-1", Count: 100_001, Offline: true})
	w.refused(err, fault.ParameterInvalid)
}

func TestExpiredNonceBlocksArePruned(t *testing.T) {
	w := newWorld(t)
	o := w.opened(terms())
	st := w.station("b1")
	n, err := w.DrawNonces(t.Context(), st, station.NoncesRequest{Order: "PO-1", Count: 1})
	w.ok(err)
	id, _ := factory.NonceBlockID(n.Nonces[0])
	w.clock.add(time.Hour)
	w.ok(w.Sweep(t.Context()))
	b, err := w.store.NonceBlock(t.Context(), id)
	w.ok(err)
	_, err = b.Check(n.Nonces[0], o.ID, st.ID, w.clock.now())
	w.refused(err, fault.NonceExpired) // who is late hears that
	w.clock.add(24 * time.Hour)
	w.ok(w.Sweep(t.Context()))
	_, err = w.store.NonceBlock(t.Context(), id)
	w.refused(err, fault.NonceInvalid)
}

func stationNonces(order string) station.NoncesRequest {
	return station.NoncesRequest{Order: order, Count: 1}
}

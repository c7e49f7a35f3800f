package factory_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/birthmark/birthmark/internal/format/manifest"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// TestEntriesSayWhatTheRecordHolds derives the factory's rows anew from the
// entries that the service wrote.
func TestEntriesSayWhatTheRecordHolds(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	m := w.maker()
	_, err := w.importing(w.lead, m.file(w.clock.now(), m.chip("01"), m.chip("02"), manifest.Entry{UID: "03"}))
	w.ok(err)
	_, _, err = w.NewStationCode(ctx, w.lead, "b2")
	w.ok(err)
	_, err = w.SuspendStation(ctx, w.lead, "b2", "found open")
	w.ok(err)
	_, err = w.ResumeStation(ctx, w.lead, "b2", "")
	w.ok(err)
	_, err = w.RetireStation(ctx, w.lead, "p1", "sold")
	w.ok(err)

	w.opened(terms())
	_, err = w.AllotChips(ctx, w.planner, "PO-1", []string{"01", "02"})
	w.ok(err)
	_, err = w.WithdrawChip(ctx, w.planner, "", "02", "stolen")
	w.ok(err)
	_, err = w.AssignStations(ctx, w.lead, "PO-1", []string{"b2", "b1"})
	w.ok(err)
	w.refresh()
	_, err = w.DrawNonces(ctx, w.station("b1"), station.NoncesRequest{Order: "PO-1", Count: 2})
	w.ok(err)
	quantity, types := int64(20), []string{"SE050"}
	amendment := factory.Amendment{Number: "PO-1", Quantity: &quantity, ChipTypes: &types, Reason: "second source"}
	_, err = w.AmendOrder(ctx, w.planner, amendment)
	w.approve(err)
	_, err = w.AmendOrder(ctx, w.planner, amendment)
	w.ok(err)
	w.clock.add(time.Hour)
	_, err = w.CloseOrder(ctx, w.planner, "PO-1", "done")
	w.ok(err)
	_, err = w.OpenOrder(ctx, w.planner, "PO-1", "ten are missing")
	w.approve(err)
	_, err = w.OpenOrder(ctx, w.planner, "PO-1", "ten are missing")
	w.ok(err)
	second := terms()
	second.Number, second.ExternalRef = "PO-2", ""
	w.create(second)
	_, err = w.CancelOrder(ctx, w.planner, "PO-2", "")
	w.ok(err)
	w.Raise(factory.Alarm{Kind: factory.AlarmChipReused, Key: "01"})
	_, err = w.AcknowledgeAlarm(ctx, w.lead, w.alarmed(factory.AlarmChipReused)[0].ID)
	w.ok(err)
	_, _, err = w.SetWebhook(ctx, w.planner, factory.Webhook{Name: "mes", URL: "https://mes.example.com"})
	w.ok(err)
	_, err = w.WithdrawSigner(ctx, w.planner, "chipco", "rotated")
	w.ok(err)
	w.ok(w.Sweep(ctx))

	_, key, err := ed25519.GenerateKey(rand.Reader)
	w.ok(err)
	signer, err := ledger.NewSigner("ledger.example/acme", key, rand.Reader)
	w.ok(err)
	r, err := ledger.Verify(ctx, w.store, ledger.VerifyOptions{Verifiers: []note.Verifier{signer}, Now: w.clock.now})
	w.ok(err)
	if r.Entries < 30 {
		t.Errorf("%+v", r)
	}
}

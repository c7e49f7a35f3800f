package enroll_test

import (
	"crypto/rand"
	"crypto/x509"
	"path/filepath"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/proof"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/statement"
)

// works is the factory's own service beside the road, as in a server.
func (w *world) works() *factory.Service {
	w.t.Helper()
	approvals, err := access.New(access.Config{Store: w.store, Now: w.clock, Rand: rand.Reader, SecondOperator: []string{factory.ApprovalKind}})
	must(w.t, err)
	statements, err := statement.Open(w.t.Context(), statement.Config{
		Keys: w.keys, Secret: secret, Certificate: filepath.Join(w.t.TempDir(), "statement.pem"), Organization: "Acme", Now: w.clock, Rand: rand.Reader,
	})
	must(w.t, err)
	secrets, err := factory.NewSealer([32]byte{7})
	must(w.t, err)
	planes, err := factory.NewPlanes(w.store)
	must(w.t, err)
	s, err := factory.New(factory.Config{
		Store: w.store, Register: w.store, Authorities: w.plane, Approvals: approvals, Ledger: w.store, Planes: planes,
		Statements: statements, Now: w.clock, Rand: rand.Reader, Node: "first", Secrets: secrets,
	})
	must(w.t, err)
	return s
}

// The road and the factory's service together: what they write is what the
// ledger says, from the first code to a scrapped unit, for every way in which a
// unit can get its key without a manifest.
func TestWholeCycleVerifiesInTheLedger(t *testing.T) {
	w := newWorld(t)
	works, system := w.works(), access.System()
	ctx := t.Context()
	for _, p := range []device.Product{
		{Name: "sensor", KeyModel: device.KeyModelOnDevice, IDevIDProfile: "idevid", Profiles: []string{"idevid", "ldevid-cloud"}},
		{Name: "meter", KeyModel: device.KeyModelInjected, IDevIDProfile: "idevid", Profiles: []string{"idevid"}},
	} {
		_, err := w.plane.AddProduct(ctx, "system", p)
		must(t, err)
	}
	_, err := works.AddSite(ctx, system, "augsburg")
	must(t, err)
	_, code, err := works.AddStation(ctx, system, "line-7", "augsburg")
	must(t, err)
	enrolled, err := w.enroller.EnrollStation(ctx, code, newCSR(t, newKey(t), nil))
	must(t, err)
	s, err := w.enroller.Station(ctx, []*x509.Certificate{stationCert(t, enrolled)})
	must(t, err)
	for _, product := range []string{"sensor", "meter"} {
		_, _, err := works.CreateOrder(ctx, system, factory.OrderTerms{
			Number: "PO-" + product, Product: product, Site: "augsburg", Quantity: 3, Spares: 2, Stations: []string{"line-7"},
		})
		must(t, err)
		_, err = works.OpenOrder(ctx, system, "PO-"+product, "")
		must(t, err)
	}
	_, err = w.plane.Refresh(ctx)
	must(t, err)

	nonces, err := works.DrawNonces(ctx, s.Ref(), station.NoncesRequest{Order: "PO-sensor", Count: 4})
	must(t, err)
	key := newKey(t)
	ask := func(u *station.Unit) *enroll.UnitResponse {
		t.Helper()
		r, err := w.enroller.EnrollUnit(ctx, s, u)
		must(t, err)
		return r
	}
	r := ask(&station.Unit{Order: "PO-sensor", DeviceSerial: "SN-1", CSR: newCSR(t, key, nil), Nonce: nonces.Nonces[0], Reference: "MES-1"})
	confirm := &station.Confirm{
		Order: "PO-sensor", DeviceSerial: "SN-1", Certificate: r.Credential.DER,
		Signature: sign(t, key, proof.Confirm(r.ConfirmNonce[:], "SN-1", r.Credential.DER)), CycleMillis: 900, FirstPass: true,
	}
	must(t, works.Confirm(ctx, s.Ref(), confirm))
	again := ask(&station.Unit{Order: "PO-sensor", DeviceSerial: "SN-1", CSR: newCSR(t, key, nil)})
	if !again.Replayed || again.Unit.State != factory.UnitConfirmed {
		t.Errorf("a retry after the confirmation: %+v", again.Unit)
	}
	d, err := w.store.Device(ctx, access.Everything(), r.Credential.Device)
	must(t, err)
	if d.State != device.Provisioned {
		t.Errorf("the device is %s", d.State)
	}
	board := newKey(t)
	r = ask(&station.Unit{
		Order: "PO-sensor", DeviceSerial: "SN-1", CSR: newCSR(t, board, nil), Nonce: nonces.Nonces[1], Reference: "MES-1",
		Rework: &station.Rework{Reason: "board swapped"},
	})
	must(t, works.Confirm(ctx, s.Ref(), &station.Confirm{
		Order: "PO-sensor", DeviceSerial: "SN-1", Certificate: r.Credential.DER,
		Signature: sign(t, board, proof.Confirm(r.ConfirmNonce[:], "SN-1", r.Credential.DER)),
	}))
	ask(&station.Unit{Order: "PO-sensor", DeviceSerial: "SN-2", CSR: newCSR(t, newKey(t), nil)})
	must(t, works.Scrap(ctx, s.Ref(), &station.Scrap{Order: "PO-sensor", DeviceSerial: "SN-2", Reason: "dead"}))
	_, err = w.enroller.EnrollUnit(ctx, s, &station.Unit{Order: "PO-sensor", DeviceSerial: "SN-2", CSR: newCSR(t, newKey(t), nil)})
	refused(t, err, fault.DeviceState)

	ask(&station.Unit{Order: "PO-meter", DeviceSerial: "M-1", Password: "one-time password"})

	renewed, err := w.enroller.RenewStation(ctx, s, newCSR(t, newKey(t), nil))
	must(t, err)
	_, err = w.enroller.Station(ctx, []*x509.Certificate{stationCert(t, renewed)})
	must(t, err)
	_, code, err = works.NewStationCode(ctx, system, "line-7")
	must(t, err)
	_, err = w.enroller.EnrollStation(ctx, code, newCSR(t, newKey(t), nil))
	must(t, err)
	if _, err = works.SuspendStation(ctx, system, "line-7", "audit"); err != nil {
		t.Fatal(err)
	}
	_, err = w.plane.Refresh(ctx)
	must(t, err)
	refused(t, s.Check(ctx), fault.CredentialRevoked)
	w.verifies()
}

// verifies derives the register from the ledger's entries.
func (w *world) verifies() {
	w.t.Helper()
	_, public, err := note.GenerateKey(rand.Reader, "test")
	must(w.t, err)
	v, err := note.NewVerifier(public)
	must(w.t, err)
	_, err = ledger.Verify(w.t.Context(), w.store, ledger.VerifyOptions{Verifiers: []note.Verifier{v}, Now: w.clock})
	must(w.t, err)
}

package enroll_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"sync/atomic"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/format/proof"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// line is a world with a factory: a site with a station and an open order of a
// product whose chips prove themselves.
type line struct {
	*world
	site    int64
	station factory.Station
	session *enroll.StationSession
	order   factory.Order
	product device.Product
	nonces  atomic.Int64
}

func entry(w *world, kind ledger.Kind) ledger.Entry {
	return ledger.Entry{Kind: kind, At: w.clock(), Actor: "system", Body: ledger.JSON(struct{}{})}
}

// newLine makes a line whose product is as changed by edit.
func newLine(t testing.TB, edit func(*device.Product), profiles ...string) *line {
	t.Helper()
	l := &line{world: newWorld(t, profiles...)}
	l.setUp(edit)
	return l
}

func (l *line) setUp(edit func(*device.Product)) {
	t, ctx := l.t, l.t.Context()
	t.Helper()
	p := device.Product{
		Name: "sensor", Profiles: []string{"idevid", "ldevid-cloud"}, ChipTypes: []string{"ATECC608B"}, LeastEvidence: "chip",
		KeyModel: device.KeyModelOnDevice, IDevIDProfile: "idevid",
	}
	if edit != nil {
		edit(&p)
	}
	var err error
	l.product, err = l.plane.AddProduct(ctx, "system", p)
	must(t, err)
	l.site, err = l.store.AddSite(ctx, factory.Site{Name: "Augsburg", CreatedAt: l.clock()}, entry(l.world, ledger.SiteAdded))
	must(t, err)
	l.station, l.session = l.newStation("line-7", l.site)
	l.order = l.newOrder("PO-1", 100, 10, l.station.ID)
}

// newOrder makes an open order of the line's product and site.
func (l *line) newOrder(number string, quantity, spares int64, stations ...int64) factory.Order {
	l.t.Helper()
	return l.addOrder(factory.Order{
		Number: number, Product: l.product.ID, Site: l.site, State: factory.OrderOpen, Quantity: quantity, Spares: spares,
		Stations: stations, Grace: time.Hour, CreatedAt: l.clock(), OpenedAt: l.clock(),
	})
}

func (l *line) addOrder(o factory.Order) factory.Order {
	l.t.Helper()
	id, err := l.store.AddOrder(l.t.Context(), o, entry(l.world, ledger.OrderCreated))
	must(l.t, err)
	o, err = l.store.Order(l.t.Context(), access.Everything(), id)
	must(l.t, err)
	l.refresh()
	return o
}

func (l *line) refresh() {
	l.t.Helper()
	_, err := l.plane.Refresh(l.t.Context())
	must(l.t, err)
}

// code gives a station a new one-time code.
func (l *line) code(id int64, code string) {
	l.t.Helper()
	st, err := l.store.Station(l.t.Context(), access.Everything(), id)
	must(l.t, err)
	st.Code = factory.Code{Hash: device.HashSecret([]byte(code)), ExpiresAt: l.clock().Add(24 * time.Hour)}
	must(l.t, l.store.UpdateStation(l.t.Context(), st, entry(l.world, ledger.StationChanged)))
	l.refresh()
}

func (l *line) addStation(name string, site int64) factory.Station {
	l.t.Helper()
	id, err := l.store.AddStation(l.t.Context(), factory.Station{
		Name: name, Site: site, State: factory.StationActive, Version: 1, CreatedAt: l.clock(), ChangedAt: l.clock(),
	}, entry(l.world, ledger.StationAdded))
	must(l.t, err)
	l.refresh()
	st, err := l.store.Station(l.t.Context(), access.Everything(), id)
	must(l.t, err)
	return st
}

// newStation adds a station and enrolls it.
func (l *line) newStation(name string, site int64) (factory.Station, *enroll.StationSession) {
	l.t.Helper()
	st := l.addStation(name, site)
	l.code(st.ID, "code of "+name)
	r, err := l.enroller.EnrollStation(l.t.Context(), "code of "+name, newCSR(l.t, newKey(l.t), nil))
	must(l.t, err)
	return st, l.sessionOf(r)
}

func (l *line) sessionOf(r *enroll.StationResponse) *enroll.StationSession {
	l.t.Helper()
	s, err := l.enroller.Station(l.t.Context(), []*x509.Certificate{stationCert(l.t, r)})
	must(l.t, err)
	return s
}

func stationCert(t testing.TB, r *enroll.StationResponse) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(r.Credential.DER)
	must(t, err)
	return c
}

// move changes a station's state.
func (l *line) move(id int64, state factory.StationState) {
	l.t.Helper()
	st, err := l.store.Station(l.t.Context(), access.Everything(), id)
	must(l.t, err)
	st.State = state
	must(l.t, l.store.UpdateStation(l.t.Context(), st, entry(l.world, ledger.StationChanged)))
}

// terms changes an order.
func (l *line) terms(number string, edit func(*factory.Order)) {
	l.t.Helper()
	o, err := l.store.OrderByNumber(l.t.Context(), access.Everything(), number)
	must(l.t, err)
	edit(&o)
	must(l.t, l.store.UpdateOrder(l.t.Context(), o, entry(l.world, ledger.OrderChanged)))
}

// counts returns the account of an order.
func (l *line) counts(number string) factory.Counts {
	l.t.Helper()
	o, err := l.store.OrderByNumber(l.t.Context(), access.Everything(), number)
	must(l.t, err)
	return o.Counts
}

// chip is one on the reel, with its key.
type chip struct {
	factory.Chip
	key *ecdsa.PrivateKey
}

var manifests atomic.Int64

// newChip lists a chip with a key, changed by edit.
func (l *line) newChip(uid string, edit func(*chip)) *chip {
	l.t.Helper()
	c := l.preparedChip(uid, edit)
	l.list(c)
	return c
}

// preparedChip is a chip that is in no manifest yet.
func (l *line) preparedChip(uid string, edit func(*chip)) *chip {
	l.t.Helper()
	c := &chip{key: newKey(l.t)}
	spki, err := x509.MarshalPKIXPublicKey(c.key.Public())
	must(l.t, err)
	c.Chip = factory.Chip{
		ID: l.store.ChipID("microchip", uid), Vendor: "microchip", UID: uid, ChipType: "ATECC608B", Entry: 1,
		State: factory.ChipListed, Keys: []factory.ChipKey{{Slot: "0", SPKI: spki}},
	}
	if edit != nil {
		edit(c)
	}
	return c
}

// list imports chips as one manifest.
func (l *line) list(chips ...*chip) {
	l.t.Helper()
	ctx := l.t.Context()
	m := factory.Manifest{
		Name: "reel", Format: "plain", Digest: sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(manifests.Add(1)))),
		Importer: "system", ImportedAt: l.clock(),
	}
	m, err := l.store.BeginManifest(ctx, m, entry(l.world, ledger.ManifestStaged))
	must(l.t, err)
	staged := make([]factory.Chip, len(chips))
	for i, c := range chips {
		c.Manifest, c.Entry = m.ID, int64(i+1)
		staged[i] = c.Chip
		staged[i].Manifest = m.ID
	}
	for len(staged) > 0 {
		n := min(len(staged), 500)
		duplicates, err := l.store.StageChips(ctx, m.ID, staged[:n])
		must(l.t, err)
		if len(duplicates) > 0 {
			l.t.Fatalf("duplicates: %+v", duplicates)
		}
		staged = staged[n:]
	}
	m.Chips, m.Visible = int64(len(chips)), true
	must(l.t, l.store.PublishManifest(ctx, m, entry(l.world, ledger.ManifestImported)))
}

// draw returns nonces for a station and order.
func (l *line) draw(order, stationID int64, n int) [][]byte {
	l.t.Helper()
	b := factory.NonceBlock{Order: order, Station: stationID, Count: n, ExpiresAt: l.clock().Add(10 * time.Minute)}
	_, err := rand.Read(b.Key[:])
	must(l.t, err)
	b.ID, err = l.store.AddNonceBlock(l.t.Context(), b, entry(l.world, ledger.NoncesDrawn))
	must(l.t, err)
	all := make([][]byte, n)
	for i := range all {
		one := b.Nonce(i)
		all[i] = bytes.Clone(one[:])
	}
	return all
}

func (l *line) nonce() []byte { return l.draw(l.order.ID, l.station.ID, 1)[0] }

func sign(t testing.TB, key crypto.Signer, digest [32]byte) []byte {
	t.Helper()
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

// unit is a request with a chip's proof for a key that the device made.
func (l *line) unit(deviceSerial string, key *ecdsa.PrivateKey, c *chip, nonce []byte) *station.Unit {
	l.t.Helper()
	return l.unitOf(l.order.Number, deviceSerial, key, c, nonce)
}

func (l *line) unitOf(order, deviceSerial string, key *ecdsa.PrivateKey, c *chip, nonce []byte) *station.Unit {
	l.t.Helper()
	u := &station.Unit{ID: deviceSerial, Order: order, DeviceSerial: deviceSerial, CSR: newCSR(l.t, key, nil), Nonce: nonce}
	if c != nil {
		spki, err := x509.MarshalPKIXPublicKey(key.Public())
		must(l.t, err)
		u.Chip = &station.Chip{UID: c.UID}
		u.Proof = sign(l.t, c.key, proof.Chip(nonce, order, deviceSerial, spki))
	}
	return u
}

// held is a request for the chip's own key.
func (l *line) held(deviceSerial string, c *chip, nonce []byte) *station.Unit {
	l.t.Helper()
	return &station.Unit{
		ID: deviceSerial, Order: l.order.Number, DeviceSerial: deviceSerial, Nonce: nonce, Chip: &station.Chip{Vendor: "Microchip", UID: c.UID},
		Proof: sign(l.t, c.key, proof.Held(nonce, l.order.Number, deviceSerial, c.Keys[0].SPKI)),
	}
}

func (l *line) ask(u *station.Unit) (*enroll.UnitResponse, error) {
	return l.enroller.EnrollUnit(l.t.Context(), l.session, u)
}

// made asks for a unit and wants it.
func (l *line) made(u *station.Unit) *enroll.UnitResponse {
	l.t.Helper()
	r, err := l.ask(u)
	must(l.t, err)
	return r
}

// alarm waits for an alarm.
func (l *line) alarm(kind factory.AlarmKind) factory.Alarm {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 10*time.Second)
	defer cancel()
	select {
	case a := <-l.alarms:
		if a.Kind != kind {
			l.t.Errorf("alarm %s, want %s: %s", a.Kind, kind, a.Message)
		}
		return a
	case <-ctx.Done():
		l.t.Fatalf("no alarm %s", kind)
		return factory.Alarm{}
	}
}

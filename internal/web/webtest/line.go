package webtest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"strconv"
	"testing"

	"github.com/birthmark/birthmark/internal/format/proof"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// Line is a factory in a World: site "lodz" with the station "ST-1", and the
// product "board", whose chip of the type "ATECC608B" must prove itself.
type Line struct {
	*World
	chips int
}

// LineProduct is the product that a Line makes.
const LineProduct = "board"

// NewLine adds a factory to a World.
func NewLine(t testing.TB, w *World) *Line {
	t.Helper()
	l := &Line{World: w}
	_, err := w.Authority.AddProduct(context.Background(), "system", device.Product{
		Name: LineProduct, Profiles: []string{"idevid", "ldevid-cloud"}, ChipTypes: []string{"ATECC608B"}, LeastEvidence: "chip",
		KeyModel: device.KeyModelOnDevice, IDevIDProfile: "idevid",
	})
	must(t, err)
	_, err = w.Factory.AddSite(context.Background(), *w.Operator, "lodz")
	must(t, err)
	return l
}

// Code adds a station and returns its one-time code.
func (l *Line) Code(t testing.TB, name string) string {
	t.Helper()
	_, code, err := l.Factory.AddStation(context.Background(), *l.Operator, name, "lodz")
	must(t, err)
	l.Follow(t)
	return code
}

// Station adds a station and enrolls it.
func (l *Line) Station(t testing.TB, name string) *tls.Certificate {
	t.Helper()
	key := NewKey(t)
	r, err := l.Enroller.EnrollStation(context.Background(), l.Code(t, name), NewCSR(t, key, nil))
	must(t, err)
	l.Follow(t)
	leaf, err := x509.ParseCertificate(r.Credential.DER)
	must(t, err)
	return &tls.Certificate{Certificate: append([][]byte{r.Credential.DER}, r.Chain...), PrivateKey: key, Leaf: leaf}
}

// Order makes an order for these stations and opens it.
func (l *Line) Order(t testing.TB, number string, quantity, spares int64, stations ...string) factory.Order {
	t.Helper()
	ctx := context.Background()
	_, _, err := l.Factory.CreateOrder(ctx, *l.Operator, factory.OrderTerms{
		Number: number, Product: LineProduct, Site: "lodz", Quantity: quantity, Spares: spares, Stations: stations,
	})
	must(t, err)
	o, err := l.Factory.OpenOrder(ctx, *l.Operator, number, "")
	must(t, err)
	l.Follow(t)
	return o
}

// Chip is a chip on the reel, with its key.
type Chip struct {
	UID string
	Key *ecdsa.PrivateKey
}

// Chips imports a manifest that lists new chips.
func (l *Line) Chips(t testing.TB, n int) []*Chip {
	t.Helper()
	chips := make([]*Chip, n)
	var file bytes.Buffer
	for i := range chips {
		l.chips++
		chips[i] = &Chip{fmt.Sprintf("01%014x", l.chips), NewKey(t)}
		spki, err := x509.MarshalPKIXPublicKey(chips[i].Key.Public())
		must(t, err)
		fmt.Fprintf(&file, "{\"uid\":%q,\"chip_type\":\"ATECC608B\",\"vendor\":\"microchip\",\"spki\":%q}\n",
			chips[i].UID, base64.StdEncoding.EncodeToString(spki))
	}
	done, err := l.Factory.ImportManifest(context.Background(), *l.Operator, factory.ImportRequest{
		Name: "reel-" + strconv.Itoa(l.chips), Format: "ndjson", Spool: t.TempDir(), Body: &file,
	}, nil)
	if err != nil {
		t.Fatalf("%v: %v", err, done.Findings)
	}
	l.Follow(t)
	return chips
}

// Made is a unit as the device itself knows it.
type Made struct {
	station.Unit
	Key *ecdsa.PrivateKey
}

// Unit makes the request of a unit with its chip's proof.
func Unit(t testing.TB, order, deviceSerial string, nonce []byte, chip *Chip) *Made {
	t.Helper()
	m := &Made{Key: NewKey(t)}
	spki, err := x509.MarshalPKIXPublicKey(m.Key.Public())
	must(t, err)
	digest := proof.Chip(nonce, order, deviceSerial, spki)
	signature, err := ecdsa.SignASN1(rand.Reader, chip.Key, digest[:])
	must(t, err)
	m.Unit = station.Unit{
		ID: deviceSerial, Order: order, DeviceSerial: deviceSerial, CSR: NewCSR(t, m.Key, nil), Chip: &station.Chip{UID: chip.UID},
		Nonce: nonce, Proof: signature,
	}
	return m
}

// Confirm is what the unit returns once it holds the certificate.
func (m *Made) Confirm(t testing.TB, r *station.Result) *station.Confirm {
	t.Helper()
	digest := proof.Confirm(r.ConfirmNonce, m.DeviceSerial, r.Certificate)
	signature, err := ecdsa.SignASN1(rand.Reader, m.Key, digest[:])
	must(t, err)
	return &station.Confirm{
		ID: m.ID, Order: m.Order, DeviceSerial: m.DeviceSerial, Certificate: r.Certificate, Signature: signature, CycleMillis: 40, FirstPass: true,
	}
}

// Alarms returns the kinds of the alarms that are open.
func (l *Line) Alarms(t testing.TB) (kinds []factory.AlarmKind) {
	t.Helper()
	must(t, l.Factory.Flush(context.Background()))
	all, _, err := l.Store.Alarms(context.Background(), access.Everything(), factory.AlarmQuery{Page: factory.Page{Limit: 100}})
	must(t, err)
	for i := range all {
		kinds = append(kinds, all[i].Kind)
	}
	return kinds
}

package station_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// tpmFloor is a floor where "PO-T" is about gateways with TPMs of a trusted maker.
type tpmFloor struct {
	*floor
	maker *tpmtest.Maker
}

func newTPMFloor(t testing.TB, quantity int64) *tpmFloor {
	t.Helper()
	f := &tpmFloor{floor: newFloor(t)}
	f.station(t, "ST-1")
	f.station(t, "ST-2")
	product, err := f.Authority.AddProduct(t.Context(), "system", device.Product{
		Name: "gateway", Profiles: []string{"idevid-tpm"}, IDevIDProfile: "idevid-tpm", KeyModel: device.KeyModelOnDevice,
		LeastEvidence: "tpm-firmware", ChipTypes: []string{"tpm2.0"},
	})
	must(t, err)
	f.maker = tpmtest.NewMaker(t, "Test TPMs", tpmtest.MakerOptions{Now: f.Now()})
	f.trust(t)
	policy, err := json.Marshal(attest.PolicyFile{Bank: "sha256", EventLog: true, States: []attest.State{
		{Name: "release", PCRs: map[int]string{4: fmt.Sprintf("%x", released(tpmtest.New(t, f.maker, tpmtest.Options{})).Values(tpm.AlgSHA256, 4)[4])}},
	}})
	must(t, err)
	_, err = f.Attest.SetPolicy(t.Context(), *f.Operator, product.ID, policy)
	must(t, err)
	f.Follow(t)
	_, _, err = f.Factory.CreateOrder(t.Context(), *f.Operator, factory.OrderTerms{
		Number: "PO-T", Product: "gateway", Site: "lodz", Quantity: quantity, Stations: []string{"ST-1", "ST-2"},
	})
	must(t, err)
	_, err = f.Factory.OpenOrder(t.Context(), *f.Operator, "PO-T", "")
	must(t, err)
	f.Follow(t)
	return f
}

// trust imports a bundle that has the maker.
func (f *tpmFloor) trust(t testing.TB) {
	t.Helper()
	content, err := json.Marshal(tpmtest.Bundle(1, f.maker))
	must(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	digest := sha256.Sum256(content)
	b := attest.Bundle{Content: content}
	b.Signature, err = ecdsa.SignASN1(rand.Reader, key, digest[:])
	must(t, err)
	b.Signer, err = x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	text, err := json.Marshal(b)
	must(t, err)
	_, err = f.Attest.ImportRoots(t.Context(), *f.Operator, attest.RootsImport{Bundle: text})
	must(t, err)
}

// released puts a TPM into the state of the released firmware, with an event log of
// some length.
func released(x *tpmtest.TPM) *tpmtest.TPM {
	for i := range 200 {
		x.Extend(4, fmt.Appendf(nil, "event %d %s", i, strings.Repeat("x", 300)))
	}
	return x
}

// gatewayUnit is a unit with a TPM.
type gatewayUnit struct {
	*tpmtest.TPM
	ak, key      *tpmtest.Key
	deviceSerial string
}

func (f *tpmFloor) unit(t testing.TB, deviceSerial string) *gatewayUnit {
	t.Helper()
	x := released(tpmtest.New(t, f.maker, tpmtest.Options{}))
	return &gatewayUnit{x, x.NewAK(tpm.ECP256), x.NewSubject(tpm.ECP256), deviceSerial}
}

func (g *gatewayUnit) challenge() station.ChallengeRequest {
	return station.ChallengeRequest{ID: g.deviceSerial, Order: "PO-T", DeviceSerial: g.deviceSerial, Claim: g.Claim(g.ak)}
}

func (g *gatewayUnit) answer(t testing.TB, c *tpm.Challenge) station.Unit {
	t.Helper()
	a, err := g.Answer(g.ak, g.key, c)
	must(t, err)
	return station.Unit{ID: g.deviceSerial, Order: "PO-T", DeviceSerial: g.deviceSerial, TPM: &a, CSR: g.key.CSR(t, &x509.CertificateRequest{})}
}

// The road of units with TPMs: the order says what is demanded, challenges come in
// one stream, certificates for the answers in another.
func TestLineWithTPMs(t *testing.T) {
	f := newTPMFloor(t, 10)
	var status station.Status
	if code := f.call(t, "ST-1", http.MethodGet, station.StatusPath, nil, &status); code != "" {
		t.Fatal(code)
	}
	if len(status.Orders) != 1 || status.Orders[0].Evidence != "tpm-firmware" {
		t.Errorf("orders %+v", status.Orders)
	}
	const n = 5
	units := make([]*gatewayUnit, n)
	asked := make([]station.ChallengeRequest, n)
	for i := range units {
		units[i] = f.unit(t, serialOf(i))
		asked[i] = units[i].challenge()
	}
	challenges := send(t, f.floor, "ST-1", station.ChallengePath, asked...)
	answers := make([]station.Unit, n)
	for i, c := range challenges {
		if !c.OK || c.Challenge == nil || c.Challenge.Quote == nil || c.DeviceSerial != units[i].deviceSerial {
			t.Fatalf("challenge %+v", c)
		}
		answers[i] = units[i].answer(t, c.Challenge)
	}
	if size := len(answers[0].TPM.Quote.EventLog); size < 64<<10 {
		t.Fatalf("the event log has only %d octets", size)
	}
	answers[4].TPM.Quote = nil
	made := send(t, f.floor, "ST-1", station.UnitsPath, answers...)
	for i, r := range made {
		if i == 4 {
			if r.Code != fault.QuoteMissing.String() || r.Who == "" {
				t.Errorf("without a quote: %+v", r)
			}
			continue
		}
		if !r.OK || len(r.Certificate) == 0 || len(r.Chain) == 0 || len(r.ConfirmNonce) != 32 {
			t.Fatalf("unit %+v", r)
		}
	}
	again := send(t, f.floor, "ST-2", station.UnitsPath, answers[0])
	if !again[0].Replayed || !bytes.Equal(again[0].Certificate, made[0].Certificate) {
		t.Errorf("again: %+v", again)
	}
	if c := f.counts(t, "PO-T"); c.Issued != 4 {
		t.Errorf("counts %+v", c)
	}
	// What one line gets wrong ends nothing.
	wrong := units[0].challenge()
	wrong.ID, wrong.Order = "wrong", "PO-0"
	fresh := f.unit(t, "SN-FRESH")
	for _, r := range send(t, f.floor, "ST-1", station.ChallengePath, wrong, fresh.challenge()) {
		if r.OK != (r.ID == "SN-FRESH") || !r.OK && r.Code != fault.OrderUnknown.String() {
			t.Errorf("challenge %+v", r)
		}
	}
}

// Many units with TPMs at two stations at once, more than the order has.
func TestManyTPMsAtOnce(t *testing.T) {
	const quantity, n = 20, 32
	f := newTPMFloor(t, quantity)
	var mu sync.Mutex
	outcomes := map[string]int{}
	var wg sync.WaitGroup
	for i, as := range []string{"ST-1", "ST-2"} {
		units := make([]*gatewayUnit, n/2)
		asked := make([]station.ChallengeRequest, n/2)
		for j := range units {
			units[j] = f.unit(t, serialOf(i*n+j))
			asked[j] = units[j].challenge()
		}
		wg.Go(func() {
			answers := make([]station.Unit, len(units))
			for j, c := range send(t, f.floor, as, station.ChallengePath, asked...) {
				answers[j] = units[j].answer(t, c.Challenge)
			}
			for _, r := range send(t, f.floor, as, station.UnitsPath, answers...) {
				mu.Lock()
				outcomes[r.Code]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if outcomes[""] != quantity || outcomes[fault.OrderFull.String()] != n-quantity || f.counts(t, "PO-T").Issued != quantity {
		t.Errorf("outcomes %v, counts %+v", outcomes, f.counts(t, "PO-T"))
	}
}

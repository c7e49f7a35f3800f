package enroll_test

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"sync"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// onTPMLines runs a test on a line with two nodes, on each engine.
func onTPMLines(t *testing.T, test func(t *testing.T, l *tpmLine, second *world)) {
	onEachStore(t, func(t *testing.T, first, second *world) {
		l := &tpmLine{line: &line{world: first}, maker: tpmtest.NewMaker(t, "Test TPMs", tpmtest.MakerOptions{Now: first.clock()})}
		l.setUp(func(p *device.Product) { p.ChipTypes, p.LeastEvidence = []string{"tpm2.0"}, "tpm" })
		l.trust(tpmtest.Bundle(1, l.maker))
		test(t, l, second)
	})
}

// Two sites have one TPM before them, each for a device of its own: exactly one of
// them gets an identity, whichever node it asks.
func TestTwoSitesClaimOneTPM(t *testing.T) {
	onTPMLines(t, func(t *testing.T, l *tpmLine, second *world) {
		site, err := l.store.AddSite(t.Context(), factory.Site{Name: "Brno", CreatedAt: l.clock()}, entry(l.world, ledger.SiteAdded))
		must(t, err)
		st, session := l.newStation("line-brno", site)
		l.addOrder(factory.Order{
			Number: "PO-Brno", Product: l.product.ID, Site: site, State: factory.OrderOpen, Quantity: 100, Stations: []int64{st.ID},
			CreatedAt: l.clock(), OpenedAt: l.clock(),
		})
		const rounds = 10
		for i := range rounds {
			x := l.tpm(fmt.Sprintf("SN-A%d", i))
			if i%2 == 0 {
				l.listTPM(x, nil)
			}
			there := *x
			there.deviceSerial, there.key = fmt.Sprintf("SN-B%d", i), x.NewSubject(wire.ECP256)
			c, err := l.challengeOf(session, "PO-Brno", &there)
			must(t, err)
			a, b := l.answered(x, l.challenged(x)), l.answered(&there, c)
			b.Order = "PO-Brno"
			var outcomes tally
			var wg sync.WaitGroup
			wg.Go(func() { _, err := l.ask(a); outcomes.add(t, err) })
			wg.Go(func() { _, err := l.enroller.EnrollUnit(t.Context(), session, b); outcomes.add(t, err) })
			wg.Wait()
			if lost := outcomes.n[fault.TPMOfOther] + outcomes.n[fault.ChipUsed]; outcomes.n[0] != 1 || lost != 1 {
				t.Errorf("round %d: %v", i, outcomes.n)
			}
		}
		if here, there := l.counts("PO-1"), l.counts("PO-Brno"); here.Issued+there.Issued != rounds {
			t.Errorf("%d and %d units", here.Issued, there.Issued)
		}
	})
}

// 64 stations bring more units with TPMs than the order has, each answer twice at
// once, on two nodes. There are never more than ordered, a TPM is never two devices,
// and an answer that is repeated gets the same certificate.
func TestTPMsNeverMakeMoreThanOrdered(t *testing.T) {
	onTPMLines(t, func(t *testing.T, l *tpmLine, second *world) {
		const quantity, stations = 40, 64
		l.terms("PO-1", func(o *factory.Order) { o.Quantity, o.Spares = quantity, 0 })
		l.refresh()
		sessions := l.stations(stations)
		nodes := []*enroll.Enroller{l.enroller, second.enroller}
		units := make([]*station.Unit, stations)
		for i, s := range sessions {
			x := l.tpm(fmt.Sprintf("SN-%d", i))
			c, err := l.challengeOf(s, "PO-1", x)
			must(t, err)
			units[i] = l.answered(x, c)
		}
		var outcomes tally
		var mu sync.Mutex
		certificates := map[string][]byte{}
		var wg sync.WaitGroup
		for i, s := range sessions {
			for _, e := range nodes {
				there, err := e.Station(t.Context(), stationChain(t, s))
				must(t, err)
				wg.Go(func() {
					r, err := e.EnrollUnit(t.Context(), there, units[i])
					outcomes.add(t, err)
					if err != nil {
						return
					}
					mu.Lock()
					defer mu.Unlock()
					if before := certificates[units[i].DeviceSerial]; before != nil && !bytes.Equal(before, r.Credential.DER) {
						t.Errorf("%s has two certificates", units[i].DeviceSerial)
					}
					certificates[units[i].DeviceSerial] = r.Credential.DER
				})
			}
		}
		wg.Wait()
		n := l.counts("PO-1")
		if n.Issued != quantity || n.Live != quantity || len(certificates) != quantity {
			t.Errorf("counts %+v, %d certificates, outcomes %v", n, len(certificates), outcomes.n)
		}
		if outcomes.n[fault.OrderFull]+outcomes.n[0] != 2*stations {
			t.Errorf("outcomes %v", outcomes.n)
		}
		l.recount(n)
	})
}

func stationChain(t *testing.T, s *enroll.StationSession) []*x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(s.Credential().DER)
	must(t, err)
	return []*x509.Certificate{c}
}

// One challenge makes one certificate, however many keys are shown for it at once.
func TestOneChallengeMakesOneCertificate(t *testing.T) {
	f := newField(t, nil)
	d := f.newDevice("GW-1")
	first := f.first(d)
	c, err := f.challengeFor(d, "")
	must(t, err)
	requests := make([]enroll.Request, 32)
	for i := range requests {
		key := d.NewSubject(wire.ECP256)
		a, err := d.Answer(d.ak, key, c)
		must(t, err)
		requests[i] = enroll.Request{Operation: enroll.Enroll, Requester: d.who, TPM: &a, CSR: newCSR(t, key.Signer, nil)}
	}
	var outcomes tally
	var wg sync.WaitGroup
	for _, q := range requests {
		wg.Go(func() { _, err := f.enrolls(q); outcomes.add(t, err) })
	}
	wg.Wait()
	if outcomes.n[0] != 1 || outcomes.n[0]+outcomes.n[fault.TicketUsed] != len(requests) {
		t.Errorf("outcomes %v", outcomes.n)
	}
	row, err := f.store.Device(t.Context(), access.Everything(), first.Credential.Device)
	must(t, err)
	newest, err := f.store.Credential(t.Context(), access.Everything(), row.Current[device.LDevIDSlot("cloud")])
	must(t, err)
	if newest.Previous != first.Credential.ID {
		t.Errorf("more than one certificate: %+v", newest)
	}
}

// A wrong answer and the right one at once: whichever comes first, there is one try.
func TestWrongAndRightAnswerAtOnce(t *testing.T) {
	f := newField(t, nil)
	for i := range 20 {
		d := f.newDevice(fmt.Sprintf("GW-%d", i))
		right := f.request(d, "")
		wrong := right
		answer := *right.TPM
		answer.Secret = make([]byte, 32)
		wrong.TPM = &answer
		var outcomes tally
		var wg sync.WaitGroup
		wg.Go(func() { _, err := f.enrolls(right); outcomes.add(t, err) })
		wg.Go(func() { _, err := f.enrolls(wrong); outcomes.add(t, err) })
		wg.Wait()
		// A wrong answer that is late finds the secret spent on the certificate: it
		// asks for the same key and is answered.
		if n := outcomes.n; n[0] == 0 && n[fault.ActivationWrong] == 0 || n[fault.ActivationWrong]+n[fault.TicketUsed]+n[0] != 2 {
			t.Errorf("round %d: %v", i, n)
		}
	}
}

package enroll_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// stations adds n stations to the line's order.
func (l *line) stations(n int) []*enroll.StationSession {
	l.t.Helper()
	sessions := make([]*enroll.StationSession, n)
	ids := make([]int64, n)
	for i := range n {
		st, s := l.newStation(fmt.Sprintf("racer-%d", i), l.site)
		sessions[i], ids[i] = s, st.ID
	}
	l.terms("PO-1", func(o *factory.Order) { o.Stations = append(o.Stations, ids...) })
	l.refresh()
	return sessions
}

// tally counts outcomes by refusal; 0 is a unit.
type tally struct {
	mu sync.Mutex
	n  map[fault.Code]int
}

func (c *tally) add(t *testing.T, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[fault.Code]int{}
	}
	if err == nil {
		c.n[0]++
		return
	}
	f := fault.Of(err)
	if f.Code == fault.Unexpected {
		t.Errorf("an internal error: %v", f.Unwrap())
	}
	c.n[f.Code]++
}

func TestOneChipAtTwoStationsMakesOneUnit(t *testing.T) {
	l := newLine(t, nil)
	both := l.stations(2)
	const chips = 20
	for i := range chips {
		c := l.newChip(fmt.Sprintf("c%d", i), nil)
		var outcomes tally
		var wg sync.WaitGroup
		for j, s := range both {
			u := l.unit(fmt.Sprintf("SN-%d-%d", i, j), newKey(t), c, l.draw(l.order.ID, s.Station().ID, 1)[0])
			wg.Go(func() {
				_, err := l.enroller.EnrollUnit(t.Context(), s, u)
				outcomes.add(t, err)
			})
		}
		wg.Wait()
		if outcomes.n[0] != 1 || outcomes.n[fault.ChipUsed] != 1 {
			t.Errorf("chip %d: %v", i, outcomes.n)
		}
	}
	if n := l.counts("PO-1"); n.Issued != chips || n.Live != chips {
		t.Errorf("counts %+v", n)
	}
}

// 64 stations want far more units than the order has, each of them several times,
// while quantity and spares are amended, the order closes and opens, and units
// are reworked. At no time are there more than ordered.
func TestStationsNeverMakeMoreThanOrdered(t *testing.T) {
	l := newLine(t, func(p *device.Product) { p.LeastEvidence, p.ChipTypes = "none", nil })
	const quantity, spares = 30, 6
	l.terms("PO-1", func(o *factory.Order) { o.Quantity, o.Spares = quantity, spares })
	l.refresh()
	sessions := l.stations(64)
	var outcomes tally
	var mu sync.Mutex
	certificates := map[string][]byte{} // by serial and key
	var wg sync.WaitGroup
	for i, s := range sessions {
		// Two units each; every second station reworks its first.
		var units []*station.Unit
		for j := range 2 {
			u := l.unit(fmt.Sprintf("SN-%d-%d", i, j), newKey(t), nil, nil)
			units = append(units, u, u) // the second is a retry
		}
		if i%2 == 0 {
			u := l.unit(units[0].DeviceSerial, newKey(t), nil, nil)
			u.Rework = &station.Rework{Reason: "board"}
			units = append(units, u, u)
		}
		wg.Go(func() {
			for _, u := range units {
				r, err := l.enroller.EnrollUnit(t.Context(), s, u)
				outcomes.add(t, err)
				if err != nil {
					continue
				}
				mu.Lock()
				key := u.DeviceSerial + string(u.CSR)
				if before := certificates[key]; before != nil && !bytes.Equal(before, r.Credential.DER) {
					t.Errorf("%s got two certificates for one key", u.DeviceSerial)
				}
				certificates[key] = r.Credential.DER
				mu.Unlock()
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			state := factory.OrderOpen
			if rand.IntN(2) == 0 {
				state = factory.OrderClosed
			}
			l.terms("PO-1", func(o *factory.Order) { o.State = state })
			l.refresh()
			n := l.counts("PO-1")
			if n.Live > quantity || n.Issued > quantity+spares {
				t.Errorf("over the order: %+v", n)
			}
		}
		l.terms("PO-1", func(o *factory.Order) { o.State = factory.OrderOpen })
		l.refresh()
	})
	wg.Wait()
	l.fill(quantity + spares)
	n := l.counts("PO-1")
	if n.Live > quantity || n.Issued > quantity+spares || n.Live != n.Issued-n.Scrapped {
		t.Errorf("counts %+v, outcomes %v", n, outcomes.n)
	}
	l.recount(n)
	t.Logf("outcomes %v, counts %+v", outcomes.n, n)
}

// fill asks for more until the order is full.
func (l *line) fill(n int) {
	l.t.Helper()
	for i := range n {
		_, err := l.ask(l.unit(fmt.Sprintf("FILL-%d", i), newKey(l.t), nil, nil))
		if fault.Has(err, fault.OrderFull) || fault.Has(err, fault.SparesUsed) {
			return
		}
		must(l.t, err)
	}
	l.t.Error("the order never is full")
}

// recount compares an order's counts with its units.
func (l *line) recount(want factory.Counts) {
	l.t.Helper()
	units, _, err := l.store.Units(l.t.Context(), access.Everything(), factory.UnitQuery{Order: l.order.ID, Page: factory.Page{Limit: 1000}})
	must(l.t, err)
	live := map[device.ID]int{}
	var got factory.Counts
	for _, u := range units {
		got.Issued++
		if u.State == factory.UnitIssued || u.State == factory.UnitConfirmed {
			got.Live++
			live[u.Device]++
		} else {
			got.Scrapped++
		}
	}
	if got.Issued != want.Issued || got.Live != want.Live || got.Scrapped != want.Scrapped {
		l.t.Errorf("the units say %+v, the order %+v", got, want)
	}
	for id, n := range live {
		if n != 1 {
			l.t.Errorf("device %s has %d living units", id, n)
		}
	}
}

func TestUnitAtOnceGetsOneCertificate(t *testing.T) {
	l := newLine(t, nil)
	sessions := append(l.stations(3), l.session)
	c := l.newChip("a0", nil)
	key := newKey(t)
	var mu sync.Mutex
	answers := map[string]int{}
	var wg sync.WaitGroup
	for i := range 64 {
		s := sessions[i%len(sessions)]
		u := l.unit("SN-1", key, c, l.draw(l.order.ID, s.Station().ID, 1)[0])
		wg.Go(func() {
			r, err := l.enroller.EnrollUnit(t.Context(), s, u)
			if err != nil {
				t.Errorf("refused with %v", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			answers[string(r.Credential.DER)+string(r.ConfirmNonce[:])]++
		})
	}
	wg.Wait()
	if len(answers) != 1 {
		t.Errorf("%d answers to one request", len(answers))
	}
	if n := l.counts("PO-1"); n.Issued != 1 {
		t.Errorf("counts %+v", n)
	}
}

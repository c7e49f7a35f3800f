package factory_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// history is an order with a model of what must have become of it.
type history struct {
	*world
	random           *rand.Rand
	units            []*unit
	states           map[*unit]factory.UnitState
	quantity, spares int64
	open             bool
	shipped          int64
	sent             map[string]bool // device serials that were shipped
	next             int
}

func (h *history) count(states ...factory.UnitState) (n int64) {
	for _, s := range h.states {
		for _, want := range states {
			if s == want {
				n++
			}
		}
	}
	return n
}

func (h *history) live() int64 { return h.count(factory.UnitIssued, factory.UnitConfirmed) }

// any returns a random unit that was ever issued.
func (h *history) any() *unit {
	if len(h.units) == 0 {
		return nil
	}
	return h.units[h.random.IntN(len(h.units))]
}

// want checks an outcome: refused with one of these codes, or done if there are
// none.
func (h *history) want(what string, err error, codes ...fault.Code) bool {
	h.t.Helper()
	for _, c := range codes {
		if fault.Has(err, c) {
			return false
		}
	}
	if err != nil || len(codes) > 0 {
		h.t.Fatalf("%s: got %v, want %v; %d live, %d issued of %d and %d", what, err, codes, h.live(), len(h.units), h.quantity, h.spares)
	}
	return true
}

// refusals says why no unit may be issued now.
func (h *history) refusals(adds bool) []fault.Code {
	switch {
	case !h.open:
		return []fault.Code{fault.OrderState}
	case adds && h.live() >= h.quantity, int64(len(h.units)) >= h.quantity+h.spares:
		return []fault.Code{fault.OrderFull, fault.SparesUsed}
	}
	return nil
}

func (h *history) issueNew() {
	h.next++
	u, err := h.issue(made{order: "PO-1", serial: fmt.Sprintf("SN%04d", h.next)})
	if h.want("issue", err, h.refusals(true)...) {
		h.units = append(h.units, u)
		h.states[u] = factory.UnitIssued
	}
}

func (h *history) swap() {
	old := h.any()
	if old == nil || h.states[old] != factory.UnitIssued && h.states[old] != factory.UnitConfirmed {
		return
	}
	u, err := h.issue(made{order: "PO-1", serial: old.serial, replaces: old})
	if h.want("board swap", err, h.refusals(false)...) {
		h.units = append(h.units, u)
		h.states[old], h.states[u] = factory.UnitReplaced, factory.UnitIssued
	}
}

func (h *history) confirmAny() {
	u := h.any()
	if u == nil {
		return
	}
	err := h.Confirm(h.t.Context(), h.station("b1"), u.confirmation(h.t))
	if s := h.states[u]; s != factory.UnitIssued && s != factory.UnitConfirmed {
		h.want("confirm "+s.String(), err, fault.UnitState)
		return
	}
	h.want("confirm", err)
	h.states[u] = factory.UnitConfirmed
}

// scrapAny scraps the newest unit of a device.
func (h *history) scrapAny() {
	u := h.any()
	if u == nil {
		return
	}
	for _, other := range h.units {
		if other.serial == u.serial {
			u = other
		}
	}
	err := h.Scrap(h.t.Context(), h.station("b1"), &station.Scrap{Order: "PO-1", DeviceSerial: u.serial, Reason: "broken"})
	if s := h.states[u]; h.sent[u.serial] && (s == factory.UnitIssued || s == factory.UnitConfirmed) {
		h.want("scrap of what was shipped", err, fault.UnitState)
		return
	}
	h.want("scrap", err)
	if s := h.states[u]; s == factory.UnitIssued || s == factory.UnitConfirmed {
		h.states[u] = factory.UnitScrapped
	}
}

func (h *history) shipAny() {
	u := h.any()
	if u == nil || h.sent[u.serial] {
		return
	}
	for _, other := range h.units {
		if other.serial == u.serial {
			u = other
		}
	}
	n, _, err := h.Ship(h.t.Context(), h.planner, []string{u.serial})
	if h.states[u] != factory.UnitConfirmed {
		h.want("ship "+h.states[u].String(), err, fault.UnitState)
		return
	}
	h.want("ship", err)
	h.shipped += int64(n)
	h.sent[u.serial] = true
}

func (h *history) amend() {
	quantity, spares := 1+h.random.Int64N(12), h.random.Int64N(6)
	if quantity == h.quantity && spares == h.spares {
		return
	}
	a := factory.Amendment{Number: "PO-1", Quantity: &quantity, Spares: &spares, Reason: fmt.Sprint("amendment ", h.random.Int())}
	_, err := h.AmendOrder(h.t.Context(), h.planner, a)
	switch {
	case !h.open:
		h.want("amend", err, fault.OrderState)
		return
	case quantity < h.live() || quantity+spares < int64(len(h.units)):
		h.want("amend", err, fault.OrderTerms)
		return
	}
	h.approve(err)
	_, err = h.AmendOrder(h.t.Context(), h.planner, a)
	h.want("amend", err)
	h.quantity, h.spares = quantity, spares
}

func (h *history) toggle() {
	if h.open {
		_, err := h.CloseOrder(h.t.Context(), h.planner, "PO-1", "")
		h.want("close", err)
	} else {
		reason := fmt.Sprint("reopened ", h.random.Int())
		_, err := h.OpenOrder(h.t.Context(), h.planner, "PO-1", reason)
		h.approve(err)
		_, err = h.OpenOrder(h.t.Context(), h.planner, "PO-1", reason)
		h.want("open", err)
	}
	h.open = !h.open
	h.refresh()
}

// check compares the record with the model.
func (h *history) check(step int) {
	h.t.Helper()
	a := h.account("PO-1")
	live, issued := h.live(), int64(len(h.units))
	want := factory.Counts{
		Issued: issued, Live: live, Confirmed: h.count(factory.UnitConfirmed),
		Scrapped: h.count(factory.UnitScrapped, factory.UnitReplaced), Shipped: h.shipped,
	}
	if a.Order.Counts != want || a.Unaccounted != h.count(factory.UnitIssued) || a.SparesUsed != issued-live {
		h.t.Fatalf("step %d: the account is %+v, want %+v", step, a, want)
	}
	if live > a.Ordered || issued > a.Ordered+a.Spares {
		h.t.Fatalf("step %d: %d live and %d issued of %d and %d", step, live, issued, a.Ordered, a.Spares)
	}
	good := make(map[device.ID]int)
	for _, u := range h.units {
		c, err := h.store.Credential(h.t.Context(), access.Everything(), u.credential.ID)
		h.ok(err)
		ended := h.states[u] != factory.UnitIssued && h.states[u] != factory.UnitConfirmed
		if ended != (c.State == device.Revoked) {
			h.t.Fatalf("step %d: the certificate of a unit that is %s is %s", step, h.states[u], c.State)
		}
		if !ended {
			good[u.credential.Device]++
		}
		if good[u.credential.Device] > 1 {
			h.t.Fatalf("step %d: device %s has two identities", step, u.credential.Device)
		}
	}
}

func TestAccountHoldsThroughAnyHistory(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			o := terms()
			o.Quantity, o.Spares = 6, 3
			h := &history{
				world: newWorld(t), random: rand.New(rand.NewPCG(seed, 1)), states: map[*unit]factory.UnitState{}, sent: map[string]bool{},
				quantity: 6, spares: 3, open: true,
			}
			h.opened(o)
			acts := []func(){
				h.issueNew, h.issueNew, h.issueNew, h.swap, h.confirmAny, h.confirmAny, h.confirmAny, h.scrapAny, h.shipAny, h.amend, h.amend, h.toggle,
			}
			for step := range 120 {
				acts[h.random.IntN(len(acts))]()
				h.clock.add(time.Second)
				h.check(step)
			}
			if len(h.units) < 5 {
				t.Errorf("only %d units were issued", len(h.units))
			}
		})
	}
}

package factory_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

func TestRepeatedOrderIsTheSameOrder(t *testing.T) {
	w := newWorld(t)
	first := w.create(terms())
	again, created, err := w.CreateOrder(t.Context(), w.planner, terms())
	w.ok(err)
	if created || again.ID != first.ID {
		t.Fatalf("created %v, order %d and then %d", created, first.ID, again.ID)
	}
	byRef := terms()
	byRef.Number = ""
	again, created, err = w.CreateOrder(t.Context(), w.planner, byRef)
	w.ok(err)
	if created || again.ID != first.ID {
		t.Fatalf("by reference: created %v, order %d and then %d", created, first.ID, again.ID)
	}
	_, err = w.AssignStations(t.Context(), w.lead, "PO-1", []string{"b1", "b2"})
	w.ok(err)
	silent := terms()
	silent.Stations = nil
	_, created, err = w.CreateOrder(t.Context(), w.planner, silent)
	w.ok(err)
	if created {
		t.Fatal("a repetition that names no station made another order")
	}
}

func TestRepeatedOrderWithOtherTermsIsRefused(t *testing.T) {
	w := newWorld(t)
	w.create(terms())
	for name, change := range map[string]func(*factory.OrderTerms){
		"quantity":          func(o *factory.OrderTerms) { o.Quantity++ },
		"spares":            func(o *factory.OrderTerms) { o.Spares = 0 },
		"product":           func(o *factory.OrderTerms) { o.Product, o.ChipTypes = "gateway", nil },
		"site":              func(o *factory.OrderTerms) { o.Site, o.Stations = "penang", nil },
		"range":             func(o *factory.OrderTerms) { o.SerialTo = "SN0200" },
		"chip types":        func(o *factory.OrderTerms) { o.ChipTypes = []string{"SE050"} },
		"takt":              func(o *factory.OrderTerms) { o.Takt++ },
		"grace":             func(o *factory.OrderTerms) { o.Grace *= 2 },
		"stations":          func(o *factory.OrderTerms) { o.Stations = []string{"b2"} },
		"another reference": func(o *factory.OrderTerms) { o.ExternalRef = "ERP/2" },
		"another number":    func(o *factory.OrderTerms) { o.Number = "PO-2" },
	} {
		t.Run(name, func(t *testing.T) {
			other := terms()
			change(&other)
			_, created, err := w.CreateOrder(t.Context(), w.planner, other)
			if created || !fault.Has(err, fault.OrderExists) {
				t.Errorf("created %v, %v", created, err)
			}
		})
	}
}

func TestTermsThatCannotBeKeptAreRefused(t *testing.T) {
	w := newWorld(t)
	for name, row := range map[string]struct {
		change func(*factory.OrderTerms)
		code   fault.Code
	}{
		"nothing":              {func(o *factory.OrderTerms) { o.Quantity = 0 }, fault.OrderTerms},
		"less than nothing":    {func(o *factory.OrderTerms) { o.Quantity = -1 }, fault.OrderTerms},
		"negative spares":      {func(o *factory.OrderTerms) { o.Spares = -1 }, fault.OrderTerms},
		"too many":             {func(o *factory.OrderTerms) { o.Quantity = 1 << 62 }, fault.OrderTerms},
		"half a range":         {func(o *factory.OrderTerms) { o.SerialTo = "" }, fault.OrderTerms},
		"a range of lengths":   {func(o *factory.OrderTerms) { o.SerialTo = "SN00100" }, fault.OrderTerms},
		"a range backwards":    {func(o *factory.OrderTerms) { o.SerialFrom, o.SerialTo = o.SerialTo, o.SerialFrom }, fault.OrderTerms},
		"beside the pattern":   {func(o *factory.OrderTerms) { o.SerialFrom, o.SerialTo = "XX0001", "XX0009" }, fault.OrderTerms},
		"another chip type":    {func(o *factory.OrderTerms) { o.ChipTypes = []string{"TPM"} }, fault.OrderTerms},
		"a chip type twice":    {func(o *factory.OrderTerms) { o.ChipTypes = []string{"SE050", "SE050"} }, fault.OrderTerms},
		"no number":            {func(o *factory.OrderTerms) { o.Number = "../PO" }, fault.OrderTerms},
		"a reference":          {func(o *factory.OrderTerms) { o.ExternalRef = "a\nb" }, fault.OrderTerms},
		"an endless grace":     {func(o *factory.OrderTerms) { o.Grace = 1000 * time.Hour * 24 }, fault.OrderTerms},
		"a negative takt":      {func(o *factory.OrderTerms) { o.Takt = -1 }, fault.OrderTerms},
		"not made at stations": {func(o *factory.OrderTerms) { o.Product = "manual" }, fault.OrderTerms},
		"another site's":       {func(o *factory.OrderTerms) { o.Stations = []string{"p1"} }, fault.OrderTerms},
		"a station twice":      {func(o *factory.OrderTerms) { o.Stations = []string{"b1", "b1"} }, fault.OrderTerms},
		"no station":           {func(o *factory.OrderTerms) { o.Stations = []string{"b9"} }, fault.StationUnknown},
		"no product":           {func(o *factory.OrderTerms) { o.Product = "toaster" }, fault.ProductUnknown},
		"no site":              {func(o *factory.OrderTerms) { o.Site = "mars" }, fault.SiteUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			bad := terms()
			row.change(&bad)
			if _, _, err := w.CreateOrder(t.Context(), w.planner, bad); !fault.Has(err, row.code) {
				t.Errorf("got %v, want %v", err, row.code)
			}
		})
	}
	list, _, err := w.Orders(t.Context(), w.planner, factory.OrderQuery{})
	w.ok(err)
	if len(list) != 0 {
		t.Errorf("%d orders were stored", len(list))
	}
}

func TestOrderIsNumberedWhereNobodyDoes(t *testing.T) {
	w := newWorld(t)
	unnumbered := terms()
	unnumbered.Number = ""
	o := w.create(unnumbered)
	if !strings.HasPrefix(o.Number, "PO-20261122-") {
		t.Errorf("number %q", o.Number)
	}
}

func TestOrderOutsideTheScopeIsRefused(t *testing.T) {
	w := newWorld(t)
	sites, err := w.Sites(t.Context(), w.planner)
	w.ok(err)
	narrow := w.planner
	narrow.Scope = access.Limited(nil, []int64{sites[1].ID}, nil)
	_, _, err = w.CreateOrder(t.Context(), narrow, terms())
	w.refused(err, fault.SiteUnknown)
	w.create(terms())
	_, err = w.Order(t.Context(), narrow, "PO-1")
	w.refused(err, fault.OrderUnknown)
	_, err = w.OpenOrder(t.Context(), narrow, "PO-1", "")
	w.refused(err, fault.OrderUnknown)
	_, err = w.AddSite(t.Context(), narrow, "third")
	w.refused(err, fault.NotAllowed)
	_, _, err = w.AddStation(t.Context(), narrow, "b3", "brno")
	w.refused(err, fault.SiteUnknown)
}

func TestAmendmentNeedsASecondOperator(t *testing.T) {
	w := newWorld(t)
	w.opened(terms())
	quantity, spares := int64(20), int64(6)
	amendment := factory.Amendment{Number: "PO-1", Quantity: &quantity, Spares: &spares, Reason: "customer wants more"}
	_, err := w.AmendOrder(t.Context(), w.planner, amendment)
	w.refused(err, fault.ApprovalWaiting)
	_, err = w.AmendOrder(t.Context(), w.planner, amendment)
	w.refused(err, fault.ApprovalWaiting)
	o, err := w.Order(t.Context(), w.planner, "PO-1")
	w.ok(err)
	if o.Quantity != 10 {
		t.Fatalf("quantity %d before anybody approved", o.Quantity)
	}
	_, err = w.AmendOrder(t.Context(), w.planner, amendment)
	w.approve(err)

	more := int64(30)
	other := amendment
	other.Quantity = &more
	_, err = w.AmendOrder(t.Context(), w.planner, other)
	w.refused(err, fault.ApprovalWaiting) // exactly as approved, nothing else

	o, err = w.AmendOrder(t.Context(), w.planner, amendment)
	w.ok(err)
	if o.Quantity != 20 || o.Spares != 6 {
		t.Fatalf("quantity %d, spares %d", o.Quantity, o.Spares)
	}
	_, err = w.AmendOrder(t.Context(), w.planner, amendment)
	w.ok(err) // nothing left to change: not a new act
}

func TestApprovedAmendmentIsNotMadeOnOtherTerms(t *testing.T) {
	w := newWorld(t)
	w.opened(terms())
	twenty, thirty := int64(20), int64(30)
	first := factory.Amendment{Number: "PO-1", Quantity: &twenty, Reason: "more"}
	_, err := w.AmendOrder(t.Context(), w.planner, first)
	w.approve(err)
	second := factory.Amendment{Number: "PO-1", Quantity: &thirty, Reason: "much more"}
	_, err = w.AmendOrder(t.Context(), w.planner, second)
	w.approve(err)
	_, err = w.AmendOrder(t.Context(), w.planner, second)
	w.ok(err)
	_, err = w.AmendOrder(t.Context(), w.planner, first) // was approved as 10 to 20
	w.refused(err, fault.ApprovalWaiting)
	o, err := w.Order(t.Context(), w.planner, "PO-1")
	w.ok(err)
	if o.Quantity != 30 {
		t.Errorf("quantity %d", o.Quantity)
	}
}

// hasty approves every act, after another operator was faster.
type hasty struct{ first func() }

func (h hasty) Authorize(context.Context, access.Caller, string, any, string) error {
	h.first()
	return nil
}

func TestAmendmentThatComesSecondIsNotMade(t *testing.T) {
	w := newWorld(t)
	w.opened(terms())
	twenty, thirty := int64(20), int64(30)
	racing := w.serviceWith(hasty{func() {
		calm := w.serviceWith(hasty{func() {}})
		_, err := calm.AmendOrder(t.Context(), w.second, factory.Amendment{Number: "PO-1", Quantity: &thirty, Reason: "much more"})
		w.ok(err)
	}})
	_, err := racing.AmendOrder(t.Context(), w.planner, factory.Amendment{Number: "PO-1", Quantity: &twenty, Reason: "more"})
	w.refused(err, fault.OrderTerms)
	o, err := w.Order(t.Context(), w.planner, "PO-1")
	w.ok(err)
	if o.Quantity != 30 {
		t.Errorf("quantity %d", o.Quantity)
	}
}

func TestOrderThatIsClosedMeanwhileIsNotOpened(t *testing.T) {
	w := newWorld(t)
	w.create(terms())
	_, err := w.OpenOrder(t.Context(), w.planner, "PO-1", "")
	w.ok(err)
	_, err = w.CloseOrder(t.Context(), w.planner, "PO-1", "")
	w.ok(err)
	racing := w.serviceWith(hasty{func() {
		w.clock.add(time.Minute)
		calm := w.serviceWith(hasty{func() {}})
		_, err := calm.OpenOrder(t.Context(), w.second, "PO-1", "more")
		w.ok(err)
		_, err = calm.CloseOrder(t.Context(), w.second, "PO-1", "enough")
		w.ok(err)
	}})
	_, err = racing.OpenOrder(t.Context(), w.planner, "PO-1", "more")
	w.refused(err, fault.OrderState) // what was approved is the opening of the first closing
}

func TestAmendmentsThatAreRefusedAskNobody(t *testing.T) {
	w := newWorld(t)
	w.opened(terms())
	nothing := int64(0)
	types := []string{"TPM"}
	for name, a := range map[string]factory.Amendment{
		"no reason":         {Number: "PO-1", Spares: &nothing},
		"nothing to make":   {Number: "PO-1", Quantity: &nothing, Reason: "stop"},
		"a foreign chip":    {Number: "PO-1", ChipTypes: &types, Reason: "second source"},
		"an unknown number": {Number: "PO-9", Spares: &nothing, Reason: "stop"},
	} {
		if _, err := w.AmendOrder(t.Context(), w.planner, a); err == nil || fault.Has(err, fault.ApprovalWaiting) {
			t.Errorf("%s: %v", name, err)
		}
	}
	waiting, _, err := w.approvals.Approvals(t.Context(), access.Waiting, "", 10)
	w.ok(err)
	if len(waiting) != 0 {
		t.Errorf("%d acts wait", len(waiting))
	}
}

func TestOrderGoesFromPlannedToClosedAndBackWithASecondOperator(t *testing.T) {
	w := newWorld(t)
	w.create(terms())
	ctx := t.Context()
	_, err := w.CloseOrder(ctx, w.planner, "PO-1", "")
	w.refused(err, fault.OrderState) // never opened
	o, err := w.OpenOrder(ctx, w.planner, "PO-1", "")
	w.ok(err)
	if o.State != factory.OrderOpen || o.OpenedAt.IsZero() {
		t.Fatalf("%+v", o)
	}
	again, err := w.OpenOrder(ctx, w.planner, "PO-1", "")
	w.ok(err)
	if again.Version != o.Version {
		t.Error("opening an open order changed it")
	}
	o, err = w.CloseOrder(ctx, w.planner, "PO-1", "done")
	w.ok(err)
	if o.State != factory.OrderClosed || !o.ClosedAt.Equal(w.clock.now()) {
		t.Fatalf("%+v", o)
	}
	_, err = w.OpenOrder(ctx, w.planner, "PO-1", "")
	w.refused(err, fault.ParameterInvalid) // a reason is needed
	_, err = w.OpenOrder(ctx, w.planner, "PO-1", "ten are missing")
	w.approve(err)
	o, err = w.OpenOrder(ctx, w.planner, "PO-1", "ten are missing")
	w.ok(err)
	if o.State != factory.OrderOpen || !o.ClosedAt.IsZero() {
		t.Fatalf("%+v", o)
	}
	_, err = w.CloseOrder(ctx, w.planner, "PO-1", "done")
	w.ok(err)
	w.clock.add(time.Minute)
	_, err = w.OpenOrder(ctx, w.planner, "PO-1", "ten are missing")
	if err == nil {
		// The second closing was at the same second as the first, which the act
		// cannot tell apart; the approval was spent all the same.
		t.Fatal("an approval opened the order twice")
	}
	w.refused(err, fault.ApprovalWaiting)
}

func TestCanceledOrderStaysCanceled(t *testing.T) {
	w := newWorld(t)
	w.create(terms())
	o, err := w.CancelOrder(t.Context(), w.planner, "PO-1", "customer went away")
	w.ok(err)
	if o.State != factory.OrderCanceled {
		t.Fatalf("%+v", o)
	}
	_, err = w.CancelOrder(t.Context(), w.planner, "PO-1", "")
	w.ok(err)
	_, err = w.OpenOrder(t.Context(), w.planner, "PO-1", "")
	w.refused(err, fault.OrderState)
	_, err = w.AssignStations(t.Context(), w.planner, "PO-1", []string{"b2"})
	w.refused(err, fault.OrderState)
	spares := int64(1)
	_, err = w.AmendOrder(t.Context(), w.planner, factory.Amendment{Number: "PO-1", Spares: &spares, Reason: "more"})
	w.refused(err, fault.OrderState)
}

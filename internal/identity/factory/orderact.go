package factory

import (
	"context"
	"slices"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// ApprovalKind is the kind under which amendments and reopenings wait for a
// second operator: nobody approves them who could not ask for them.
const ApprovalKind = string(access.OrderManage)

// Amendment changes the terms of an order; what is nil stays.
type Amendment struct {
	Number    string
	Quantity  *int64
	Spares    *int64
	ChipTypes *[]string
	Reason    string
}

// limits are the terms that an amendment may change.
type limits struct {
	Quantity  int64    `json:"quantity"`
	Spares    int64    `json:"spares"`
	ChipTypes []string `json:"chip_types"`
}

func limitsOf(o *Order) limits { return limits{o.Quantity, o.Spares, notNil(o.ChipTypes)} }

func (l limits) equal(m limits) bool {
	return l.Quantity == m.Quantity && l.Spares == m.Spares && slices.Equal(l.ChipTypes, m.ChipTypes)
}

// amending is an amendment as it is approved: from these terms to those.
type amending struct {
	Act    string `json:"act"`
	Order  string `json:"order"`
	Before limits `json:"before"`
	After  limits `json:"after"`
	Reason string `json:"reason"`
}

// AmendOrder changes quantity, spares or chip types. It needs a second
// operator: fault.ApprovalWaiting until the same amendment is asked for again
// after it was approved.
func (s *Service) AmendOrder(ctx context.Context, by access.Caller, a Amendment) (Order, error) {
	if err := needReason(a.Reason); err != nil {
		return Order{}, err
	}
	o, err := s.store.OrderByNumber(ctx, by.Scope, a.Number)
	if err != nil {
		return Order{}, err
	}
	before := limitsOf(&o)
	if err := s.amend(ctx, &o, &a); err != nil {
		return Order{}, err
	}
	after := limitsOf(&o)
	if after.equal(before) {
		return o, nil
	}
	act := amending{"amend", o.Number, before, after, a.Reason}
	if err := s.approvals.Authorize(ctx, by, ApprovalKind, act, a.Reason); err != nil {
		return Order{}, err
	}
	return s.changeOrder(ctx, by, a.Number, "amended", a.Reason, func(o *Order) (bool, error) {
		if !limitsOf(o).equal(before) {
			return false, fault.New(fault.OrderTerms, "another amendment came first; ask anew")
		}
		return true, s.amend(ctx, o, &a)
	})
}

// amend makes the change in a row, checked.
func (s *Service) amend(ctx context.Context, o *Order, a *Amendment) error {
	if o.State == OrderClosed || o.State == OrderCanceled {
		return fault.New(fault.OrderState, o.Number, "is", o.State.String())
	}
	if a.Quantity != nil {
		o.Quantity = *a.Quantity
	}
	if a.Spares != nil {
		o.Spares = *a.Spares
	}
	if a.ChipTypes != nil {
		o.ChipTypes = *a.ChipTypes
	}
	product, err := s.productByID(ctx, o.Product)
	if err != nil {
		return err
	}
	if err := o.checkAmounts(); err != nil {
		return err
	}
	return o.checkChipTypes(&product)
}

// AssignStations says which stations may work on an order from now on.
func (s *Service) AssignStations(ctx context.Context, by access.Caller, number string, stations []string) (Order, error) {
	return s.changeOrder(ctx, by, number, "stations assigned", "", func(o *Order) (bool, error) {
		if o.State == OrderCanceled {
			return false, fault.New(fault.OrderState, o.Number, "is", o.State.String())
		}
		ids, err := s.stationIDs(ctx, o, stations)
		if err != nil || slices.Equal(ids, o.Stations) {
			return false, err
		}
		o.Stations = ids
		return true, nil
	})
}

// reopening is the opening of a closed order as it is approved.
type reopening struct {
	Act      string `json:"act"`
	Order    string `json:"order"`
	ClosedAt string `json:"closed_at"`
	Limits   limits `json:"limits"`
	Reason   string `json:"reason"`
}

// OpenOrder opens a planned order; a closed one with a second operator; a frozen
// one after it was reconciled, which the reason says.
func (s *Service) OpenOrder(ctx context.Context, by access.Caller, number, reason string) (Order, error) {
	if err := checkReason(reason); err != nil {
		return Order{}, err
	}
	o, err := s.store.OrderByNumber(ctx, by.Scope, number)
	if err != nil {
		return Order{}, err
	}
	if o.Frozen || o.State == OrderClosed {
		if err := needReason(reason); err != nil {
			return Order{}, err
		}
	}
	reopens, closedAt := o.State == OrderClosed, o.ClosedAt
	if reopens {
		act := reopening{"reopen", o.Number, text(o.ClosedAt), limitsOf(&o), reason}
		if err := s.approvals.Authorize(ctx, by, ApprovalKind, act, reason); err != nil {
			return Order{}, err
		}
	}
	return s.changeOrder(ctx, by, number, "opened", reason, func(o *Order) (bool, error) {
		if o.State == OrderClosed && !(reopens && o.ClosedAt.Equal(closedAt)) { // not the closing that was looked at
			return false, fault.New(fault.OrderState, o.Number, "is", o.State.String())
		}
		return s.open(o)
	})
}

func (s *Service) open(o *Order) (changed bool, err error) {
	switch o.State {
	case OrderOpen:
		changed, o.Frozen = o.Frozen, false
		return changed, nil
	case OrderPlanned, OrderClosed:
	default:
		return false, fault.New(fault.OrderState, o.Number, "is", o.State.String())
	}
	if o.OpenedAt.IsZero() {
		o.OpenedAt = moment(s.now())
	}
	o.State, o.Frozen, o.ClosedAt = OrderOpen, false, time.Time{}
	return true, nil
}

// lapseAtOnce is how many chips are given back in one transaction.
const lapseAtOnce = 500

// CloseOrder ends issuing under an order; chips allotted to it are given back
// and the grace for confirmations begins. Asked for again it goes on where it
// was cut off.
func (s *Service) CloseOrder(ctx context.Context, by access.Caller, number, reason string) (Order, error) {
	if err := checkReason(reason); err != nil {
		return Order{}, err
	}
	o, err := s.changeOrder(ctx, by, number, "closed", reason, func(o *Order) (bool, error) {
		switch o.State {
		case OrderClosed:
			return false, nil
		case OrderOpen:
			o.State, o.ClosedAt = OrderClosed, moment(s.now())
			return true, nil
		}
		return false, fault.New(fault.OrderState, o.Number, "is", o.State.String())
	})
	if err != nil {
		return Order{}, err
	}
	return o, s.lapse(ctx, by.Name, o.ID)
}

// lapse gives back the chips that are allotted to an order.
func (s *Service) lapse(ctx context.Context, actor string, order int64) error {
	for {
		n, err := s.store.LapseAllotted(ctx, order, lapseAtOnce, s.now(), func(chips []int64) []ledger.Entry {
			body := lapsedBody{Order: order, Chips: make([]string, len(chips))}
			for i, id := range chips {
				body.Chips[i] = chipName(id)
			}
			return []ledger.Entry{{Kind: ledger.ChipChanged, At: s.now(), Actor: actor, Body: ledger.JSON(body)}}
		})
		if err != nil || n < lapseAtOnce {
			return err
		}
	}
}

// CancelOrder ends an order under which nothing was issued.
func (s *Service) CancelOrder(ctx context.Context, by access.Caller, number, reason string) (Order, error) {
	if err := checkReason(reason); err != nil {
		return Order{}, err
	}
	o, err := s.changeOrder(ctx, by, number, "canceled", reason, func(o *Order) (bool, error) {
		switch {
		case o.State == OrderCanceled:
			return false, nil
		case o.State == OrderClosed || o.Counts.Issued > 0:
			return false, fault.New(fault.OrderState, o.Number, "has", o.Counts.Issued, "units and is", o.State.String()+"; close it")
		}
		o.State, o.ClosedAt = OrderCanceled, moment(s.now())
		return true, nil
	})
	if err != nil {
		return Order{}, err
	}
	if o, err = s.uncancel(ctx, by, o); err != nil {
		return Order{}, err
	}
	return o, s.lapse(ctx, by.Name, o.ID)
}

// uncancel closes an order instead of canceling it when a unit was stored between
// the look at its count and the change: from then on the count stands still.
func (s *Service) uncancel(ctx context.Context, by access.Caller, o Order) (Order, error) {
	now, err := s.store.Order(ctx, by.Scope, o.ID)
	if err != nil || now.Counts.Issued == 0 || now.State != OrderCanceled {
		return now, err
	}
	return s.changeOrder(ctx, by, o.Number, "closed", "a unit was issued while it was being canceled", func(o *Order) (bool, error) {
		o.State = OrderClosed
		return true, nil
	})
}

// changeOrder edits an order's terms or state; edit reports whether there is
// anything to write.
func (s *Service) changeOrder(ctx context.Context, by access.Caller, number, act, reason string, edit func(*Order) (bool, error)) (Order, error) {
	for range changeTries {
		o, err := s.store.OrderByNumber(ctx, by.Scope, number)
		if err != nil {
			return Order{}, err
		}
		changed, err := edit(&o)
		if err != nil || !changed {
			return o, err
		}
		after := o
		after.Version++
		err = s.store.UpdateOrder(ctx, o, s.orderEntry(by, ledger.OrderChanged, &after, act, reason))
		if err == nil {
			return s.store.Order(ctx, by.Scope, o.ID)
		}
		if !stale(err) {
			return Order{}, err
		}
	}
	return Order{}, fault.New(fault.IssuanceBusy)
}

// maxAllot is how many chips one call allots.
const maxAllot = 10_000

// AllotChips keeps listed chips for one order. It returns how many were not
// allotted to it before. All are looked at before the first is allotted; asked
// for again it goes on where it was cut off.
func (s *Service) AllotChips(ctx context.Context, by access.Caller, number string, uids []string) (int, error) {
	o, err := s.store.OrderByNumber(ctx, by.Scope, number)
	if err != nil {
		return 0, err
	}
	if len(uids) > maxAllot {
		return 0, fault.New(fault.ParameterInvalid, "more than", maxAllot, "chips at a time")
	}
	if o.State != OrderPlanned && o.State != OrderOpen {
		return 0, fault.New(fault.OrderState, o.Number, "is", o.State.String())
	}
	product, err := s.productByID(ctx, o.Product)
	if err != nil {
		return 0, err
	}
	var chips []Chip
	for _, uid := range uids {
		c, err := s.findChip(ctx, "", uid)
		if err != nil {
			return 0, err
		}
		if err := ChipFits(&o, &product, 0, &c); err != nil {
			return 0, err
		}
		if c.State == ChipListed {
			chips = append(chips, c)
		}
	}
	for i := range chips {
		if err := s.allot(ctx, by, &o, chips[i]); err != nil {
			return i, err
		}
	}
	return len(chips), nil
}

func (s *Service) allot(ctx context.Context, by access.Caller, o *Order, c Chip) error {
	c.State, c.Order = ChipAllotted, o.ID
	err := s.store.UpdateChip(ctx, c, ChipListed, ledger.Entry{
		Kind: ledger.ChipChanged, At: s.now(), Actor: by.Name, Body: chipEntryBody(&c, ""),
	})
	if stale(err) {
		return fault.Wrap(fault.ChipOtherOrder, err, c.UID, "was taken meanwhile")
	}
	return err
}

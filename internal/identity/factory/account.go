package factory

import (
	"context"
	"slices"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
)

// Account is where the identities of an order went, from its counters. Issued is
// Live and Scrapped, Live is Confirmed and Unaccounted. Shipped and Activated are
// of all ever: a unit that came back and was scrapped stays among them, so that
// NotShipped and NotActive are lower bounds. Differences names the devices.
type Account struct {
	Order       Order
	Ordered     int64
	Issued      int64 // all ever
	Live        int64
	Confirmed   int64
	Scrapped    int64 // ended, for any reason
	Spares      int64
	SparesUsed  int64
	SparesLeft  int64
	Shipped     int64
	Activated   int64
	Missing     int64 // ordered and not live
	Unaccounted int64 // issued, and neither confirmed nor ended
	NotShipped  int64 // confirmed and not shipped, at least
	NotActive   int64 // shipped and not activated, at least
}

// Difference names a column of the account whose devices can be listed.
type Difference string

// The differences.
const (
	DiffUnaccounted Difference = "unaccounted"
	DiffScrapped    Difference = "scrapped"
	DiffNotShipped  Difference = "not-shipped"
	DiffNotActive   Difference = "not-activated"
)

// AllDifferences returns the names of all differences.
func AllDifferences() []Difference {
	return []Difference{DiffUnaccounted, DiffScrapped, DiffNotShipped, DiffNotActive}
}

// has reports whether a unit is behind a difference.
func (d Difference) has(u *Unit) bool {
	live := u.State == UnitIssued || u.State == UnitConfirmed
	switch d {
	case DiffUnaccounted:
		return u.State == UnitIssued
	case DiffScrapped:
		return !live
	case DiffNotShipped:
		return u.State == UnitConfirmed && u.ShippedAt.IsZero()
	case DiffNotActive:
		return live && !u.ShippedAt.IsZero() && u.ActivatedAt.IsZero()
	}
	return false
}

// Account returns the account of an order.
func (s *Service) Account(ctx context.Context, by access.Caller, number string) (Account, error) {
	o, err := s.store.OrderByNumber(ctx, by.Scope, number)
	if err != nil {
		return Account{}, err
	}
	return accountOf(&o), nil
}

func accountOf(o *Order) Account {
	c := o.Counts
	return Account{
		Order: *o, Ordered: o.Quantity, Issued: c.Issued, Live: c.Live, Confirmed: c.Confirmed, Scrapped: c.Scrapped,
		Spares: o.Spares, SparesUsed: o.SparesUsed(), SparesLeft: max(0, o.Spares-o.SparesUsed()),
		Shipped: c.Shipped, Activated: c.Activated, Missing: max(0, o.Quantity-c.Live), Unaccounted: max(0, c.Live-c.Confirmed),
		NotShipped: max(0, c.Confirmed-c.Shipped), NotActive: max(0, c.Shipped-c.Activated),
	}
}

const (
	defaultPage = 100
	maxPage     = 1000
	// scanned is how many units one page of differences looks at; a page may be
	// shorter than asked for and still have a next one.
	scanned = 20 * maxPage
)

// Differences returns the units behind a column of the account, by page.
func (s *Service) Differences(ctx context.Context, by access.Caller, number string, d Difference, q Page) (page []Unit, next string, err error) {
	if !slices.Contains(AllDifferences(), d) {
		return nil, "", fault.New(fault.ParameterInvalid, "there is no difference", string(d))
	}
	o, err := s.store.OrderByNumber(ctx, by.Scope, number)
	if err != nil {
		return nil, "", err
	}
	limit := defaultPage
	if q.Limit > 0 {
		limit = min(q.Limit, maxPage)
	}
	uq := UnitQuery{Page: Page{After: q.After, Limit: limit}, Order: o.ID}
	if d == DiffUnaccounted {
		uq.State = UnitIssued
	}
	for seen := 0; seen < scanned; seen += limit {
		units, after, err := s.store.Units(ctx, by.Scope, uq)
		if err != nil {
			return nil, "", err
		}
		for i := range units {
			if d.has(&units[i]) {
				page = append(page, units[i])
			}
		}
		uq.After = after
		// Each part read fits in what is left of the page, so that the cursor is
		// never behind a unit that was left out.
		uq.Limit = limit - len(page)
		if after == "" || len(page) == limit {
			return page, after, nil
		}
	}
	return page, uq.After, nil
}

// Units returns a page of units.
func (s *Service) Units(ctx context.Context, by access.Caller, q UnitQuery) (page []Unit, next string, err error) {
	return s.store.Units(ctx, by.Scope, q)
}

// Unit returns the newest unit of a device serial in an order.
func (s *Service) Unit(ctx context.Context, by access.Caller, number, deviceSerial string) (Unit, error) {
	o, err := s.store.OrderByNumber(ctx, by.Scope, number)
	if err != nil {
		return Unit{}, err
	}
	return s.newestUnit(ctx, by.Scope, o.ID, deviceSerial)
}

// UnitByID returns the unit whose initial identity a credential is, or
// fault.UnitUnknown.
func (s *Service) UnitByID(ctx context.Context, by access.Caller, id device.CredentialID) (Unit, error) {
	return s.store.Unit(ctx, by.Scope, id)
}

// eachUnit hands all units of an order to do, in order of issuing.
func (s *Service) eachUnit(ctx context.Context, scope access.Scope, order int64, do func(*Unit) error) error {
	q := UnitQuery{Page: Page{Limit: maxPage}, Order: order}
	for {
		units, next, err := s.store.Units(ctx, scope, q)
		if err != nil {
			return err
		}
		for i := range units {
			if err := do(&units[i]); err != nil {
				return err
			}
		}
		if next == "" {
			return nil
		}
		q.After = next
	}
}

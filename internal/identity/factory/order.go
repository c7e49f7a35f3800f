package factory

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// Limits of an order's terms.
const (
	maxQuantity  = 10_000_000
	maxStations  = 256
	maxChipTypes = 32
	defaultGrace = 7 * 24 * time.Hour
	maxGrace     = 365 * 24 * time.Hour
	maxTakt      = 24 * time.Hour
)

// OrderTerms is what an operator says of an order, all in names.
type OrderTerms struct {
	Number      string // empty: we number it
	Product     string
	Site        string
	Quantity    int64
	Spares      int64
	Stations    []string
	ChipTypes   []string
	SerialFrom  string
	SerialTo    string
	ExternalRef string
	Takt        time.Duration
	Grace       time.Duration // 0: 7 days
}

// CreateOrder records a planned order. Repeated with the same number or
// external reference and the same terms it returns the order that is there;
// stations that a repetition does not name are not compared, since others assign
// them.
func (s *Service) CreateOrder(ctx context.Context, by access.Caller, t OrderTerms) (o Order, created bool, err error) {
	o, err = s.planned(ctx, by, &t)
	if err != nil {
		return Order{}, false, err
	}
	if there, err := s.repeated(ctx, by, &t, &o); !fault.Has(err, fault.OrderUnknown) {
		return there, false, err
	}
	if t.Number == "" {
		if o.Number, err = s.newNumber(); err != nil {
			return Order{}, false, err
		}
	}
	o.ID, err = s.store.AddOrder(ctx, o, s.orderEntry(by, ledger.OrderCreated, &o, "created", ""))
	if fault.Has(err, fault.OrderExists) { // somebody was faster
		if there, again := s.repeated(ctx, by, &t, &o); again == nil {
			return there, false, nil
		}
	}
	if err != nil {
		return Order{}, false, err
	}
	o, err = s.store.Order(ctx, by.Scope, o.ID)
	return o, true, err
}

// planned turns terms into a row, checked.
func (s *Service) planned(ctx context.Context, by access.Caller, t *OrderTerms) (Order, error) {
	product, err := s.productByName(ctx, by.Scope, t.Product)
	if err != nil {
		return Order{}, err
	}
	site, err := s.siteByName(ctx, by.Scope, t.Site)
	if err != nil {
		return Order{}, err
	}
	o := Order{
		Number: t.Number, Product: product.ID, Site: site.ID, State: OrderPlanned, Version: 1,
		Quantity: t.Quantity, Spares: t.Spares, ChipTypes: t.ChipTypes, SerialFrom: t.SerialFrom, SerialTo: t.SerialTo,
		ExternalRef: t.ExternalRef, Takt: t.Takt, Grace: t.Grace, CreatedAt: moment(s.now()),
	}
	if o.Grace == 0 {
		o.Grace = defaultGrace
	}
	if !by.Scope.Sees(o.Product, o.Site, 0) {
		return Order{}, fault.New(fault.NotAllowed, "the order is outside your scope")
	}
	if o.Stations, err = s.stationIDs(ctx, &o, t.Stations); err != nil {
		return Order{}, err
	}
	return o, o.check(&product)
}

// repeated returns the order that was created by the same request before:
// fault.OrderUnknown if there is none, fault.OrderExists if its terms differ.
func (s *Service) repeated(ctx context.Context, by access.Caller, t *OrderTerms, o *Order) (Order, error) {
	there, err := Order{}, error(fault.New(fault.OrderUnknown))
	if t.Number != "" {
		there, err = s.store.OrderByNumber(ctx, by.Scope, t.Number)
	}
	if fault.Has(err, fault.OrderUnknown) && t.ExternalRef != "" {
		there, err = s.store.OrderByReference(ctx, by.Scope, t.ExternalRef)
	}
	if err != nil {
		return Order{}, err
	}
	if t.Number != "" && there.Number != t.Number || !there.sameTerms(o, len(t.Stations) > 0) {
		return Order{}, fault.New(fault.OrderExists, there.Number)
	}
	return there, nil
}

func (o *Order) sameTerms(p *Order, stations bool) bool {
	return o.Product == p.Product && o.Site == p.Site && o.Quantity == p.Quantity && o.Spares == p.Spares &&
		o.SerialFrom == p.SerialFrom && o.SerialTo == p.SerialTo && o.ExternalRef == p.ExternalRef &&
		o.Takt == p.Takt && o.Grace == p.Grace && slices.Equal(o.ChipTypes, p.ChipTypes) &&
		(!stations || slices.Equal(slices.Sorted(slices.Values(o.Stations)), slices.Sorted(slices.Values(p.Stations))))
}

// newNumber numbers an order that came without a number.
func (s *Service) newNumber() (string, error) {
	secret, err := device.NewSecret(s.random)
	if err != nil {
		return "", err
	}
	return "PO-" + s.now().UTC().Format("20060102") + "-" + secret[:8], nil
}

func (s *Service) orderEntry(by access.Caller, kind ledger.Kind, o *Order, act, reason string) ledger.Entry {
	return ledger.Entry{Kind: kind, At: s.now(), Actor: by.Name, Body: orderEntryBody(o, act, reason)}
}

// stationIDs returns the numbers of stations that can work for an order.
func (s *Service) stationIDs(ctx context.Context, o *Order, names []string) ([]int64, error) {
	if len(names) > maxStations {
		return nil, fault.New(fault.OrderTerms, "more than", maxStations, "stations")
	}
	ids := make([]int64, 0, len(names))
	for _, name := range names {
		x, err := s.store.StationByName(ctx, access.Everything(), name)
		if err != nil {
			return nil, err
		}
		switch {
		case x.Site != o.Site:
			return nil, fault.New(fault.OrderTerms, "station", name, "is at another site")
		case x.State == StationRetired:
			return nil, fault.New(fault.StationState, name, "is retired")
		case slices.Contains(ids, x.ID):
			return nil, fault.New(fault.OrderTerms, "station", name, "is named twice")
		}
		ids = append(ids, x.ID)
	}
	return ids, nil
}

// check refuses terms that could not be kept.
func (o *Order) check(p *device.Product) error {
	if p.KeyModel == device.KeyModelNone || p.IDevIDProfile == "" {
		return fault.New(fault.OrderTerms, "units of", p.Name, "are not made at stations: it has no key model or no profile for their identity")
	}
	if o.Number != "" && !namePattern.MatchString(o.Number) {
		return fault.New(fault.OrderTerms, "the number has to be 1 to 64 of A-Z a-z 0-9 . _ -")
	}
	if !printable(o.ExternalRef, 128) {
		return fault.New(fault.OrderTerms, "the external reference is too long or does not print")
	}
	if o.Takt < 0 || o.Takt > maxTakt || o.Grace < 0 || o.Grace > maxGrace {
		return fault.New(fault.OrderTerms, "takt or grace")
	}
	if err := o.checkAmounts(); err != nil {
		return err
	}
	if err := o.checkChipTypes(p); err != nil {
		return err
	}
	return o.checkSerials(p)
}

func (o *Order) checkAmounts() error {
	switch {
	case o.Quantity < 1 || o.Quantity > maxQuantity:
		return fault.New(fault.OrderTerms, "the quantity has to be 1 to", maxQuantity)
	case o.Spares < 0 || o.Spares > maxQuantity:
		return fault.New(fault.OrderTerms, "the spares have to be 0 to", maxQuantity)
	case o.Quantity < o.Counts.Live:
		return fault.New(fault.OrderTerms, o.Counts.Live, "units live")
	case o.Quantity+o.Spares < o.Counts.Issued:
		return fault.New(fault.OrderTerms, o.Counts.Issued, "units were issued")
	}
	return nil
}

func (o *Order) checkChipTypes(p *device.Product) error {
	if len(o.ChipTypes) > maxChipTypes {
		return fault.New(fault.OrderTerms, "more than", maxChipTypes, "chip types")
	}
	for i, t := range o.ChipTypes {
		if !slices.Contains(p.ChipTypes, t) || slices.Contains(o.ChipTypes[:i], t) {
			return fault.New(fault.OrderTerms, "chip type", t, "is not one of the product's, or named twice")
		}
	}
	if NeedsChip(p) && len(ChipTypesFor(o, p)) == 0 {
		return fault.New(fault.OrderTerms, p.Name, "demands a chip and names no chip type")
	}
	return nil
}

func (o *Order) checkSerials(p *device.Product) error {
	if o.SerialFrom == "" && o.SerialTo == "" {
		return nil
	}
	if device.CheckSerial(o.SerialFrom) != nil || device.CheckSerial(o.SerialTo) != nil ||
		len(o.SerialFrom) != len(o.SerialTo) || o.SerialFrom > o.SerialTo {
		return fault.New(fault.OrderTerms, "the range of serial numbers needs two ends of equal length in order")
	}
	if p.SerialPattern == "" {
		return nil
	}
	re, err := regexp.Compile(`^(?:` + p.SerialPattern + `)$`)
	if err != nil || !re.MatchString(o.SerialFrom) || !re.MatchString(o.SerialTo) {
		return fault.New(fault.OrderTerms, "the ends of the range do not match the product's serial pattern")
	}
	return nil
}

func printable(s string, limit int) bool {
	return len(s) <= limit && !strings.ContainsFunc(s, func(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Cf) || r == utf8.RuneError })
}

// Order returns an order.
func (s *Service) Order(ctx context.Context, by access.Caller, number string) (Order, error) {
	return s.store.OrderByNumber(ctx, by.Scope, number)
}

// OrderByID returns the order with a number of ours.
func (s *Service) OrderByID(ctx context.Context, by access.Caller, id int64) (Order, error) {
	return s.store.Order(ctx, by.Scope, id)
}

// Orders returns a page of orders, newest first.
func (s *Service) Orders(ctx context.Context, by access.Caller, q OrderQuery) (page []Order, next string, err error) {
	return s.store.Orders(ctx, by.Scope, q)
}

package factory

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// StationRef is the station that calls, as its session knows it.
type StationRef struct {
	ID      int64
	Name    string
	Site    int64
	Version int64
}

// Actor returns the ledger's name of the station.
func (r StationRef) Actor() string { return "station:" + r.Name }

// plane returns the newest plane that this node has to know.
func (s *Service) plane(ctx context.Context) (*Plane, error) {
	snap, err := s.authorities.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	return s.planes.Plane(ctx, snap.Epoch)
}

// newestPlane is plane with what another node, or somebody here, changed a moment
// ago.
func (s *Service) newestPlane(ctx context.Context) (*Plane, error) {
	snap, err := s.authorities.Refresh(ctx)
	if err != nil {
		return nil, err
	}
	return s.planes.Plane(ctx, snap.Epoch)
}

// lineOrder returns the order that a station wants to work for. Its counts may be
// old. What an old plane refuses is looked at again in the newest. A station that
// asks for an order that is not its own raises an alarm.
func (s *Service) lineOrder(ctx context.Context, st StationRef, number string) (*Order, error) {
	p, err := s.plane(ctx)
	if err != nil {
		return nil, err
	}
	caller, o, err := s.mayWork(ctx, p, st, number)
	if err != nil {
		if p, err = s.newestPlane(ctx); err != nil {
			return nil, err
		}
		caller, o, err = s.mayWork(ctx, p, st, number)
	}
	if o != nil && (fault.Has(err, fault.StationNotAssigned) || fault.Has(err, fault.OrderUnknown)) {
		s.Raise(Alarm{
			Kind: AlarmStation, Key: caller.Name + "/" + o.Number, Station: caller.ID, Site: caller.Site,
			Message: fmt.Sprintf("station %s asked for order %s, to which it is not assigned", caller.Name, o.Number),
		})
	}
	return o, err
}

func (s *Service) mayWork(ctx context.Context, p *Plane, st StationRef, number string) (*Station, *Order, error) {
	caller, ok := p.Station(st.ID)
	if !ok {
		return nil, nil, fault.New(fault.StationCertificate)
	}
	o, ok := p.Order(number)
	if !ok { // closed, or never heard of
		closed, err := s.store.OrderByNumber(ctx, access.Everything(), number)
		if err != nil {
			return nil, nil, err
		}
		o = &closed
	}
	return caller, o, MayWork(caller, o)
}

// stationOrder is lineOrder with the counts of this moment.
func (s *Service) stationOrder(ctx context.Context, st StationRef, number string) (Order, error) {
	o, err := s.lineOrder(ctx, st, number)
	if err != nil {
		return Order{}, err
	}
	return s.store.Order(ctx, access.Everything(), o.ID)
}

// Status says what a station may do now.
func (s *Service) Status(ctx context.Context, st StationRef) (station.Status, error) {
	snap, err := s.authorities.Refresh(ctx)
	if err != nil {
		return station.Status{}, err
	}
	p, err := s.planes.Plane(ctx, snap.Epoch)
	if err != nil {
		return station.Status{}, err
	}
	caller, ok := p.Station(st.ID)
	if !ok {
		return station.Status{}, fault.New(fault.StationCertificate)
	}
	out := station.Status{Station: caller.Name, Now: s.now().UTC(), Orders: []station.Order{}}
	if site, ok := p.Site(caller.Site); ok {
		out.Site = site.Name
	}
	for _, planned := range p.OrdersOf(caller.ID) {
		o, err := s.store.Order(ctx, access.Everything(), planned.ID)
		if err != nil {
			return station.Status{}, err
		}
		product, err := s.productByID(ctx, o.Product)
		if err != nil {
			return station.Status{}, err
		}
		out.Orders = append(out.Orders, s.lineView(snap, &o, &product))
	}
	return out, nil
}

// lineView is an order as stations see it.
func (s *Service) lineView(snap *authority.Snapshot, o *Order, p *device.Product) station.Order {
	state := o.State.String()
	if o.Frozen {
		state = "frozen"
	}
	demanded := Demanded(snap, p)
	return station.Order{
		Number: o.Number, State: state, Product: p.Name, KeyModel: string(p.KeyModel), Proof: NeedsChip(p) || demanded == string(attest.ChipProof), Evidence: demanded, ChipTypes: ChipTypesFor(o, p),
		Quantity: o.Quantity, Spares: o.Spares, Issued: o.Counts.Issued, Live: o.Counts.Live, Confirmed: o.Counts.Confirmed,
		Scrapped: o.Counts.Scrapped, Left: o.Left(), SerialFrom: o.SerialFrom, SerialTo: o.SerialTo,
		TaktMillis: o.Takt.Milliseconds(), StatementKey: s.statements.PublicKey(),
	}
}

// Demanded says what level of evidence units of a product have to reach: what the
// product demands and what the profile of its initial identities does.
func Demanded(snap *authority.Snapshot, p *device.Product) string {
	profileLevel := ""
	if road, err := snap.Road(p.IDevIDProfile); err == nil {
		profileLevel = road.Profile.LeastEvidence
	}
	return attest.Demanded(p.LeastEvidence, profileLevel)
}

// newestUnit returns the newest unit of a device serial in an order, or
// fault.UnitUnknown.
func (s *Service) newestUnit(ctx context.Context, scope access.Scope, order int64, deviceSerial string) (Unit, error) {
	id := s.register.DeviceID(deviceSerial)
	list, _, err := s.store.Units(ctx, scope, UnitQuery{Page: Page{Limit: 1000}, Order: order, Device: id})
	if err != nil {
		return Unit{}, err
	}
	if len(list) == 0 || list[len(list)-1].DeviceSerial != deviceSerial {
		return Unit{}, fault.New(fault.UnitUnknown, deviceSerial)
	}
	return list[len(list)-1], nil
}

// Scrap ends a unit; its certificates are revoked in the same transaction. A
// station may scrap whatever the state of the order: a broken unit is broken.
// What left the factory is scrapped by an operator, or in repair.
func (s *Service) Scrap(ctx context.Context, st StationRef, x *station.Scrap) error {
	if err := needReason(x.Reason); err != nil {
		return err
	}
	o, err := s.lineOrder(ctx, st, x.Order)
	if err != nil {
		return err
	}
	u, err := s.newestUnit(ctx, access.Everything(), o.ID, x.DeviceSerial)
	if err != nil {
		return err
	}
	d, err := s.register.Device(ctx, access.Everything(), u.Device)
	if err != nil {
		return err
	}
	if living(&u) && (d.State == device.Shipped || d.State == device.Active) {
		return fault.New(fault.UnitState, x.DeviceSerial, "is", d.State.String())
	}
	return s.end(ctx, st.Actor(), &u, Ending{State: UnitScrapped, Reason: x.Reason, Station: st.ID})
}

// ScrapUnit ends a unit in the name of an operator.
func (s *Service) ScrapUnit(ctx context.Context, by access.Caller, number, deviceSerial, reason string) (Unit, error) {
	if err := needReason(reason); err != nil {
		return Unit{}, err
	}
	u, err := s.Unit(ctx, by, number, deviceSerial)
	if err != nil {
		return Unit{}, err
	}
	if err := s.end(ctx, by.Name, &u, Ending{State: UnitScrapped, Reason: reason}); err != nil {
		return Unit{}, err
	}
	return s.store.Unit(ctx, by.Scope, u.ID)
}

func living(u *Unit) bool { return u.State == UnitIssued || u.State == UnitConfirmed }

// reasonCessation is the CRL reason cessationOfOperation (RFC 5280, section
// 5.3.1): the device is no more, its key is not known to be lost.
const reasonCessation = 5

// end ends a unit that lives, and looks at the order's spares.
func (s *Service) end(ctx context.Context, actor string, u *Unit, e Ending) error {
	if !living(u) {
		return nil
	}
	d, err := s.register.Device(ctx, access.Everything(), u.Device)
	if err != nil {
		return err
	}
	next := device.Scrapped
	if e.State == UnitLapsed {
		next = device.Suspended
	}
	if d.State.MayBecome(next) {
		e.Device = next
	}
	e.ID, e.At, e.CRL = u.ID, moment(s.now()), reasonCessation
	body := &ledger.EndedUnit{
		Credential: int64(u.ID), Order: u.Order, Device: int64(u.Device), Station: e.Station, State: uint8(e.State), DeviceState: uint8(e.Device),
		Reason: digest(e.Reason),
	}
	err = s.store.EndUnit(ctx, e, ledger.Entry{Kind: ledger.UnitScrapped, At: s.now(), Actor: actor, Body: body})
	if err != nil {
		return err
	}
	if err := s.watchSpares(ctx, u.Order); err != nil {
		s.log.WarnContext(ctx, "the spares of an order could not be looked at", "order", u.Order, "error", err)
	}
	return nil
}

// Failed counts an attempt that failed at the line.
func (s *Service) Failed(ctx context.Context, st StationRef, f *station.Failed) error {
	code, err := parseCode(f.Code)
	if err != nil {
		return err
	}
	if f.DeviceSerial != "" && device.CheckSerial(f.DeviceSerial) != nil {
		f.DeviceSerial = "" // a label that cannot be read is a reason to fail
	}
	o, err := s.lineOrder(ctx, st, f.Order)
	if err != nil {
		return err
	}
	return s.store.Count(ctx, []Tally{s.failure(st, o, code, 1)}, ledger.Entry{
		Kind: ledger.UnitFailed, At: s.now(), Actor: st.Actor(),
		Body: ledger.JSON(failedBody{Order: o.ID, Station: st.ID, Product: o.Product, DeviceSerial: f.DeviceSerial, Code: code.String()}),
	})
}

func (s *Service) failure(st StationRef, o *Order, code fault.Code, n int64) Tally {
	return Tally{
		Order: o.ID, Station: st.ID, Site: o.Site, Product: o.Product, Day: dayOf(s.now()),
		Measure: MeasureFailed, Bucket: int64(code), N: n,
	}
}

// parseCode reads "BM-8092"; only codes that exist are counted.
func parseCode(text string) (fault.Code, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(text, "BM-"), 10, 16)
	code := fault.Code(n)
	if err != nil || text != code.String() || fault.Lookup(code).Code != code {
		return 0, fault.New(fault.ParameterInvalid, "there is no such code")
	}
	return code, nil
}

func dayOf(t time.Time) int64 { return t.Unix() / (24 * 60 * 60) }

// CheckChips says whether chips may be used for an order, without using them.
func (s *Service) CheckChips(ctx context.Context, st StationRef, q station.ChipsRequest) ([]station.ChipAnswer, error) {
	if len(q.UIDs) < 1 || len(q.UIDs) > 100 {
		return nil, fault.New(fault.ParameterInvalid, "1 to 100 chips at a time")
	}
	o, err := s.lineOrder(ctx, st, q.Order)
	if err != nil {
		return nil, err
	}
	product, err := s.productByID(ctx, o.Product)
	if err != nil {
		return nil, err
	}
	answers := make([]station.ChipAnswer, len(q.UIDs))
	for i, uid := range q.UIDs {
		c, err := s.findChip(ctx, "", uid)
		if err == nil {
			err = ChipFits(o, &product, 0, &c)
		}
		answers[i] = station.ChipAnswer{UID: uid, OK: err == nil}
		if err == nil {
			continue
		}
		refusal := fault.Of(err)
		if refusal.Kind == fault.Internal || refusal.Kind == fault.Unavailable {
			return nil, err
		}
		answers[i].Code, answers[i].Message = refusal.Code.String(), refusal.Message
	}
	return answers, nil
}

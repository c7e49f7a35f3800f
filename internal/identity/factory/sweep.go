package factory

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
)

const (
	leaseJob     = "factory"
	leaseSeconds = 60
	sweepPause   = 10 * time.Second
	sweepAtOnce  = 500
	// stagedLife is how long an import that was cut off may be continued.
	stagedLife = 24 * time.Hour
)

// Run writes what is pending and sweeps until the context ends. All nodes run it;
// one of them sweeps.
func (s *Service) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
			s.report(ctx, "alarms could not be written", s.Flush(ctx))
			continue
		case <-timer.C:
		}
		s.report(ctx, "alarms could not be written", s.Flush(ctx))
		_, mine, err := s.ledger.AcquireLease(ctx, leaseJob, s.node, leaseSeconds)
		if err == nil && mine {
			err = s.Sweep(ctx)
		}
		s.report(ctx, "the factory could not be swept", err)
		timer.Reset(sweepPause)
	}
}

func (s *Service) report(ctx context.Context, what string, err error) {
	if err != nil && ctx.Err() == nil {
		s.log.ErrorContext(ctx, what, "error", err, "cause", errors.Unwrap(err))
	}
}

// Flush writes the alarms and refusals that are pending in this process.
func (s *Service) Flush(ctx context.Context) error {
	return errors.Join(s.writeAlarms(ctx), s.writeRefusals(ctx))
}

// Sweep ends units that nobody confirmed in time, erases what is no longer
// needed, and looks at the spares of all open orders.
func (s *Service) Sweep(ctx context.Context) error {
	return errors.Join(
		s.lapseUnits(ctx), s.eraseKeys(ctx), s.pruneNonces(ctx), s.lapseChips(ctx), s.dropStaged(ctx), s.watchAllSpares(ctx),
		s.Flush(ctx),
	)
}

func (s *Service) eraseKeys(ctx context.Context) error {
	_, err := s.store.EraseWrappedKeys(ctx, s.now())
	return err
}

func (s *Service) pruneNonces(ctx context.Context) error {
	return s.store.PruneNonceBlocks(ctx, s.now().Add(-prunedAfter))
}

// lapseUnits revokes units of closed orders that were not confirmed by the end of
// the grace: nobody knows where they are.
func (s *Service) lapseUnits(ctx context.Context) error {
	for {
		units, err := s.store.Unconfirmed(ctx, s.now(), sweepAtOnce)
		if err != nil {
			return err
		}
		lapsed := make(map[int64]int64)
		for i := range units {
			err = s.end(ctx, "system", &units[i], Ending{State: UnitLapsed, Reason: "not confirmed by the end of the order's grace"})
			if err != nil {
				break
			}
			lapsed[units[i].Order]++
		}
		if alarmErr := s.alarmLapsed(ctx, lapsed); err == nil {
			err = alarmErr
		}
		if err != nil || len(units) < sweepAtOnce {
			return err
		}
	}
}

func (s *Service) alarmLapsed(ctx context.Context, lapsed map[int64]int64) error {
	for id, n := range lapsed {
		o, err := s.store.Order(ctx, access.Everything(), id)
		if err != nil {
			return err
		}
		s.Raise(Alarm{
			Kind: AlarmUnconfirmed, Key: o.Number, Order: o.ID, Product: o.Product, Site: o.Site, Count: n,
			Message: fmt.Sprintf("order %s: units were not confirmed by the end of the grace and are revoked; look for them", o.Number),
		})
	}
	return nil
}

// lapseChips gives back chips that were allotted to an order while it was being
// closed, or whose giving back was cut off. Only the newest closed orders can
// have such.
func (s *Service) lapseChips(ctx context.Context) error {
	for _, state := range []OrderState{OrderClosed, OrderCanceled} {
		orders, _, err := s.store.Orders(ctx, access.Everything(), OrderQuery{Page: Page{Limit: 100}, State: state})
		if err != nil {
			return err
		}
		for i := range orders {
			if s.now().Sub(orders[i].ClosedAt) > stagedLife {
				continue
			}
			if err := s.lapse(ctx, "system", orders[i].ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// dropStaged throws away imports that were cut off and not continued.
func (s *Service) dropStaged(ctx context.Context) error {
	manifests, _, err := s.store.Manifests(ctx, Page{Limit: 100})
	if err != nil {
		return err
	}
	for i := range manifests {
		m := &manifests[i]
		if m.Visible || s.now().Sub(m.ImportedAt) < stagedLife || !s.importing.begin(m.Digest) {
			continue
		}
		err := s.discard(ctx, "system", m, "not continued")
		s.importing.end(m.Digest)
		if err != nil && !fault.Has(err, fault.ManifestBusy) {
			return err
		}
	}
	return nil
}

// watchAllSpares looks at the spares of all open orders.
func (s *Service) watchAllSpares(ctx context.Context) error {
	p, err := s.store.Plane(ctx)
	if err != nil {
		return err
	}
	for i := range p.Orders {
		if o := &p.Orders[i]; o.State == OrderOpen && o.sparesShort() {
			if err := s.alarmSpares(ctx, o); err != nil {
				return err
			}
		}
	}
	return nil
}

// sparesShort reports whether 80 % of the spares are gone.
func (o *Order) sparesShort() bool {
	used := o.SparesUsed()
	return used > 0 && used*5 >= o.Spares*4
}

// watchSpares raises the alarm when an order's spares run out.
func (s *Service) watchSpares(ctx context.Context, order int64) error {
	o, err := s.store.Order(ctx, access.Everything(), order)
	if err != nil || !o.sparesShort() || o.State != OrderOpen {
		return err
	}
	return s.alarmSpares(ctx, &o)
}

func (s *Service) alarmSpares(ctx context.Context, o *Order) error {
	used := o.SparesUsed()
	if s.spares.told(o.ID, used) {
		return nil
	}
	today, err := s.store.Tallies(ctx, access.Everything(), TallyQuery{Order: o.ID, FromDay: dayOf(s.now()), ToDay: dayOf(s.now())})
	if err != nil {
		return err
	}
	var issued, ended int64
	for _, t := range today {
		switch t.Measure {
		case MeasureIssued:
			issued += t.N
		case MeasureScrapped:
			ended += t.N
		}
	}
	s.Raise(Alarm{
		Kind: AlarmSpares, Key: o.Number, Order: o.ID, Product: o.Product, Site: o.Site,
		Message: forecast(o, issued, ended),
	})
	return nil
}

// forecast says how far the spares will reach: for each unit still to make, the
// rate of today's failures takes another one, which may fail too.
func forecast(o *Order, issuedToday, endedToday int64) string {
	used := o.SparesUsed()
	left := max(0, o.Spares-used)
	head := fmt.Sprintf("order %s: %d of %d spares are used", o.Number, used, o.Spares)
	issued, ended := issuedToday, endedToday
	when := "today's"
	if issued == 0 {
		issued, ended, when = o.Counts.Issued, used, "the order's"
	}
	toMake := max(0, o.Quantity-o.Counts.Live)
	rate := float64(ended) / float64(max(issued, 1))
	if rate >= 1 {
		return fmt.Sprintf("%s; %d units are still to make and %s units all failed", head, toMake, when)
	}
	need := int64(float64(toMake)*rate/(1-rate) + 0.999)
	return fmt.Sprintf("%s; %d units are still to make, at %s failure rate of %.1f %% they need about %d spares, %d are left",
		head, toMake, when, 100*rate, need, left)
}

// sparesTold remembers how many used spares of an order were told of, so that an
// alarm that is open counts what happened and not how often somebody looked.
type sparesTold struct {
	mu   sync.Mutex
	used map[int64]int64 // by order
}

func (t *sparesTold) told(order, used int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.used == nil {
		t.used = make(map[int64]int64)
	}
	before, there := t.used[order]
	t.used[order] = used
	return there && before >= used
}

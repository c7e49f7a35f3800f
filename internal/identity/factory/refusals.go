package factory

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// maxPendingTallies bounds how many different counters wait to be written.
const maxPendingTallies = 10_000

// pendingTallies are refusals by the server that wait to be counted: each one
// alone would cost a transaction that a flood of bad requests could ask for.
type pendingTallies struct {
	mu      sync.Mutex
	waiting map[Tally]int64 // by the tally without its number
}

func (p *pendingTallies) add(t Tally) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := t.N
	t.N = 0
	if p.waiting == nil {
		p.waiting = make(map[Tally]int64)
	}
	if _, there := p.waiting[t]; there || len(p.waiting) < maxPendingTallies {
		p.waiting[t] += n
	}
}

// take returns at most limit counters.
func (p *pendingTallies) take(limit int) []Tally {
	p.mu.Lock()
	defer p.mu.Unlock()
	keys := slices.SortedFunc(maps.Keys(p.waiting), func(a, b Tally) int {
		return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.Station, b.Station), cmp.Compare(a.Day, b.Day), cmp.Compare(a.Bucket, b.Bucket))
	})
	keys = keys[:min(len(keys), limit)]
	for i, k := range keys {
		keys[i].N = p.waiting[k]
		delete(p.waiting, k)
	}
	return keys
}

// CountRefused counts a refusal of a unit by the server, by its code. It neither
// fails nor waits: Run writes it soon.
func (s *Service) CountRefused(ctx context.Context, st StationRef, orderNumber string, err error) {
	refusal := fault.Of(err)
	if refusal == nil || refusal.Kind == fault.Internal || refusal.Kind == fault.Unavailable {
		return
	}
	p, err := s.plane(ctx)
	if err != nil {
		return
	}
	o, ok := p.Order(orderNumber)
	if !ok {
		o = new(Order) // counted for the station alone
		o.Site = st.Site
	}
	s.refused.add(s.failure(st, o, refusal.Code, 1))
	s.rouse()
}

// tallyAtOnce is how many counters one transaction adds to.
const tallyAtOnce = 200

func (s *Service) writeRefusals(ctx context.Context) error {
	for {
		tallies := s.refused.take(tallyAtOnce)
		if len(tallies) == 0 {
			return nil
		}
		entries := make([]ledger.Entry, len(tallies))
		for i, t := range tallies {
			entries[i] = ledger.Entry{Kind: ledger.UnitFailed, At: s.now(), Actor: "system", Body: ledger.JSON(failedBody{
				Order: t.Order, Station: t.Station, Product: t.Product, Code: fault.Code(t.Bucket).String(), Count: t.N,
			})}
		}
		if err := s.store.Count(ctx, tallies, entries...); err != nil {
			for _, t := range tallies {
				s.refused.add(t)
			}
			return err
		}
	}
}

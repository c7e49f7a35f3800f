package queue

import (
	"context"
	"sync"

	"github.com/birthmark/birthmark/internal/edge/station/durable"
	"github.com/birthmark/birthmark/internal/fault"
)

// Send tells the server one item. A nil error means that it was taken. A fault
// that may be well later (no link, a suspended station) means that it has to wait;
// every other fault is the server's refusal, for good.
type Send func(ctx context.Context, item *Item) error

// Flushed is what a flush did.
type Flushed struct {
	Sent    int `json:"sent"`
	Refused int `json:"refused"`
	Left    int `json:"left"`
}

// group is how many items are on their way at once.
const group = 64

// Flush sends what waits, in order: items about different units may overtake
// each other, those about the same unit never. It ends when nothing waits, or at
// the first item that is not heard. While another process flushes it does
// nothing.
func (q *Queue) Flush(ctx context.Context, send Send) (Flushed, error) {
	var f Flushed
	if !q.flushing.TryLock() {
		return q.leave()
	}
	defer q.flushing.Unlock()
	if !durable.TryLock(q.turn) {
		return q.leave()
	}
	defer durable.Unlock(q.turn)
	for {
		numbers, items, err := q.next()
		if err != nil || len(items) == 0 {
			return f, err
		}
		errs := sendAll(ctx, items, send)
		var done []int64
		var refused []Refused
		var unheard error
		for i, err := range errs {
			switch {
			case err == nil:
				f.Sent++
			case ctx.Err() != nil || waits(fault.Of(err)):
				unheard = err
				continue
			default:
				r := fault.Of(err)
				refused = append(refused, Refused{Item: items[i], Code: r.Code.String(), Message: r.Message, Detail: r.Detail, Remedy: r.Remedy})
			}
			done = append(done, numbers[i])
		}
		f.Refused += len(refused)
		if err := q.keepRefused(refused); err != nil {
			return f, err
		}
		if len(done) > 0 {
			if err := q.finish(done); err != nil {
				return f, err
			}
		}
		if unheard != nil {
			f.Left, _ = q.Len() // what is unheard is the news
			return f, unheard
		}
	}
}

// waits tells what may be well later from a refusal for good. What a line lead can
// mend is no reason to forget a unit.
func waits(f *fault.Error) bool {
	switch f.Code {
	case fault.StationCertificate, fault.StationState, fault.StationNotAssigned, fault.OrderFrozen:
		return true
	}
	return f.Kind == fault.Unavailable || f.Kind == fault.Internal
}

func (q *Queue) leave() (Flushed, error) {
	n, err := q.Len()
	return Flushed{Left: n}, err
}

// next returns the first items that may be on their way at once.
func (q *Queue) next() (numbers []int64, items []Item, err error) {
	err = q.act(func() error {
		units := map[string]bool{}
		for _, p := range q.waiting[:min(group, len(q.waiting))] {
			if p.deviceSerial != "" && units[p.deviceSerial] {
				break
			}
			units[p.deviceSerial] = true
			item, err := q.read(p)
			if err != nil {
				return err
			}
			numbers, items = append(numbers, p.number), append(items, item)
		}
		return nil
	})
	return numbers, items, err
}

func sendAll(ctx context.Context, items []Item, send Send) []error {
	errs := make([]error, len(items))
	var sending sync.WaitGroup
	for i := range items {
		sending.Go(func() { errs[i] = send(ctx, &items[i]) })
	}
	sending.Wait()
	return errs
}

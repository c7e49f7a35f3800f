package station

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
)

// orderTime is how long what the server said of the orders is used. Its limits
// are kept by the server; here it is only for the product's key model.
const orderTime = time.Minute

// orders is what the server said of the station's orders.
type orders struct {
	link Link
	now  func() time.Time

	mu     sync.Mutex
	status *station.Status // guarded by mu
	at     time.Time       // guarded by mu
}

// find returns an order by number, or the only open one.
func (o *orders) find(ctx context.Context, number string) (*station.Order, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.status != nil && o.now().Sub(o.at) < orderTime {
		if order, err := pick(o.status, number); err == nil {
			return order, nil
		}
	}
	s, err := o.link.Status(ctx)
	if err != nil {
		return nil, err
	}
	o.status, o.at = s, o.now()
	order, err := pick(s, number)
	if err != nil && number != "" {
		// The server lists what can be worked on; asked for more it says why not.
		if _, refused := o.link.Nonces(ctx, &station.NoncesRequest{Order: number, Count: 1, Ahead: true}); refused != nil {
			return nil, refused
		}
	}
	return order, err
}

func pick(s *station.Status, number string) (*station.Order, error) {
	if number != "" {
		i := slices.IndexFunc(s.Orders, func(one station.Order) bool { return one.Number == number })
		if i < 0 {
			return nil, fault.New(fault.StationNotAssigned, "order", number)
		}
		return &s.Orders[i], nil
	}
	var open []*station.Order
	for i := range s.Orders {
		if s.Orders[i].State == "open" {
			open = append(open, &s.Orders[i])
		}
	}
	if len(open) != 1 {
		return nil, fault.New(fault.ParameterInvalid, "name the order:", len(open), "orders are open for this station")
	}
	return open[0], nil
}

// Order asks the server for an order as it is now.
func (l *Line) Order(ctx context.Context, number string) (*station.Order, error) {
	s, err := l.c.Link.Status(ctx)
	if err != nil {
		return nil, err
	}
	l.orders.mu.Lock()
	l.orders.status, l.orders.at = s, l.c.Now()
	l.orders.mu.Unlock()
	return pick(s, number)
}

// OrderOf returns an order as it is known here, asking the server only if it is
// not.
func (l *Line) OrderOf(ctx context.Context, number string) (*station.Order, error) {
	return l.orders.find(ctx, number)
}

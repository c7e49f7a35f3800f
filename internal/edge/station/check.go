package station

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/birthmark/birthmark/internal/edge/refusal"
	"github.com/birthmark/birthmark/internal/edge/station/link"
	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
)

// Finding is one line of the check before a shift.
type Finding struct {
	What   string `json:"what"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Code   string `json:"code,omitempty"`
	Remedy string `json:"remedy,omitempty"`
	Who    string `json:"who,omitempty"`
}

func bad(what string, err error) Finding {
	var o Outcome
	o.fail(err)
	detail := o.Message
	if o.Detail != "" {
		detail += ": " + o.Detail
	}
	return Finding{What: what, Detail: detail, Code: o.Code, Remedy: o.Remedy, Who: o.Who}
}

func good(what string, detail ...any) Finding {
	text := fmt.Sprintln(detail...)
	return Finding{What: what, OK: true, Detail: text[:len(text)-1]}
}

// CheckConfig says what the shift is about to do.
type CheckConfig struct {
	Home  *Home
	Link  *link.Client
	Now   func() time.Time
	Order string   // empty: the only open one
	Reel  []string // UIDs of the first chips of the reel, at most 100
	Queue int      // how many items wait
}

const (
	// clockLimit is how far the station's clock may be off: nonces live for minutes.
	clockLimit = time.Minute
	// certificateLimit is how much of the station's certificate must be left.
	certificateLimit = 3 * 24 * time.Hour
)

// Check says before the shift what would stop it: link, clock, the station's
// certificate, the order, and whether the reel's first chips are in a manifest.
func Check(ctx context.Context, c CheckConfig) []Finding {
	begin := c.Now()
	s, err := c.Link.Status(ctx)
	took := c.Now().Sub(begin)
	var all []Finding
	if err != nil {
		return append(all, bad("link", err), c.certificate())
	}
	all = append(all, good("link", "answer after", took.Round(time.Millisecond), "from", c.Home.Settings().Server), c.clock(s, begin.Add(took/2)), c.certificate())
	if c.Queue > 0 {
		all = append(all, good("queue", c.Queue, "confirmations and scraps wait and will be sent"))
	} else {
		all = append(all, good("queue", "empty"))
	}
	order, err := pick(s, c.Order)
	if err != nil {
		return append(all, bad("order", err))
	}
	all = append(all, checkOrder(order), checkLeft(order))
	if len(c.Reel) > 0 {
		all = append(all, c.reel(ctx, order.Number))
	}
	return all
}

func (c *CheckConfig) clock(s *station.Status, at time.Time) Finding {
	off := s.Now.Sub(at)
	if off.Abs() > clockLimit {
		return bad("clock", fault.New(fault.StationClock, off.Abs().Round(time.Second), "off the server's"))
	}
	return good("clock", off.Abs().Round(time.Millisecond), "off the server's")
}

func (c *CheckConfig) certificate() Finding {
	leaf := c.Home.Credential().Leaf
	left := leaf.NotAfter.Sub(c.Now())
	if left < certificateLimit {
		return bad("certificate", fault.New(fault.StationCertificate, "it ends", leaf.NotAfter.Format(time.RFC3339), "and did not renew itself"))
	}
	return good("certificate", "of", c.Home.Settings().Station, "ends", leaf.NotAfter.Format(time.RFC3339))
}

func checkOrder(o *station.Order) Finding {
	if o.State != "open" {
		return bad("order", fault.New(fault.OrderState, "order", o.Number, "is", refusal.Printable(o.State)))
	}
	return good("order", o.Number, "is open:", o.Product+",", o.KeyModel)
}

func checkLeft(o *station.Order) Finding {
	if o.Left <= 0 {
		code := fault.OrderFull
		if o.Live < o.Quantity {
			code = fault.SparesUsed
		}
		return bad("left", fault.New(code, "order", o.Number))
	}
	return good("left", o.Left, "of", o.Quantity, "with", o.Quantity+o.Spares-o.Issued, "certificates")
}

// reel asks for the first chips.
func (c *CheckConfig) reel(ctx context.Context, orderNumber string) Finding {
	answer, err := c.Link.Chips(ctx, &station.ChipsRequest{Order: orderNumber, UIDs: c.Reel})
	if err != nil {
		return bad("reel", err)
	}
	for _, uid := range c.Reel {
		i := slices.IndexFunc(answer.Chips, func(a station.ChipAnswer) bool { return a.UID == uid })
		switch {
		case i < 0:
			return bad("reel", fault.New(fault.StationLink, "the server did not say anything of chip", uid))
		case !answer.Chips[i].OK:
			code, ok := refusal.ParseCode(answer.Chips[i].Code)
			if !ok {
				code = fault.ChipUnknown
			}
			return bad("reel", fault.New(code, "chip", uid))
		}
	}
	return good("reel", len(c.Reel), "chips are listed for the order")
}

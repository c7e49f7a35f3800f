package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/web/rest"
)

type orderCmd struct {
	Create orderCreateCmd `cmd:"" help:"Create a production order and open it."`
	List   orderListCmd   `cmd:"" help:"List production orders."`
	Show   orderShowCmd   `cmd:"" help:"Show an order's account: where every identity went."`
	Units  orderUnitsCmd  `cmd:"" help:"List an order's units, or those behind a difference."`
	Scrap  orderScrapCmd  `cmd:"" help:"Scrap a unit; its certificates are revoked."`
	Amend  orderAmendCmd  `cmd:"" help:"Change quantity, spares or chip types; needs a second operator."`
	Assign orderAssignCmd `cmd:"" help:"Say which stations may work on an order."`
	Open   orderOpenCmd   `cmd:"" help:"Open a planned order; a closed one needs a second operator."`
	Close  orderCloseCmd  `cmd:"" help:"Close an order: nothing more is issued under it."`
	Cancel orderCancelCmd `cmd:"" help:"Cancel an order under which nothing was issued."`
	Allot  orderAllotCmd  `cmd:"" help:"Keep listed chips for an order."`
	Export orderExportCmd `cmd:"" help:"Write an order's account or manifest to a file."`
	Batch  orderBatchCmd  `cmd:"" help:"Batches of stations without a link."`
}

func orderPath(number string) string { return "/orders/" + url.PathEscape(number) }

type orderCreateCmd struct {
	remote      `embed:""`
	Number      string        `help:"Number, as people and labels show it; left out: we number it."`
	Product     string        `help:"Product." required:""`
	Site        string        `help:"Site where it is made." required:""`
	Quantity    int64         `help:"Units that may live at once." required:""`
	Spares      int64         `help:"Further units for those that fail."`
	Stations    []string      `help:"Stations that may work on it." sep:","`
	ChipType    []string      `help:"Chip types, fewer than the product's." sep:","`
	SerialFrom  string        `help:"First device serial of the range."`
	SerialTo    string        `help:"Last device serial of the range."`
	ExternalRef string        `help:"The ERP's number; asked for again with the same terms it is the same order."`
	Takt        time.Duration `help:"Target time per unit, for example 3s."`
	Grace       time.Duration `help:"How long after closing a unit may still be confirmed (default: 168h)."`
	Planned     bool          `help:"Leave it planned; open it later."`
}

// Run creates an order and opens it, unless it is only planned.
func (c *orderCreateCmd) Run(ctx context.Context, io *streams) error {
	return c.with(ctx, func(a *api) error {
		var o rest.Order
		if err := a.do(ctx, http.MethodPost, "/orders", c.terms(), &o); err != nil {
			return err
		}
		if !c.Planned && o.State == "planned" {
			if err := a.do(ctx, http.MethodPost, orderPath(o.Number)+"/opening", rest.Reason{}, &o); err != nil {
				return err
			}
		}
		if c.JSON {
			return printJSON(io.out, &o)
		}
		return printOrder(io)(&o)
	})
}

func (c *orderCreateCmd) terms() *rest.OrderTerms {
	return &rest.OrderTerms{
		Number: c.Number, Product: c.Product, Site: c.Site, Quantity: c.Quantity, Spares: c.Spares, Stations: c.Stations,
		ChipTypes: c.ChipType, SerialFrom: c.SerialFrom, SerialTo: c.SerialTo, ExternalRef: c.ExternalRef,
		TaktSeconds: c.Takt.Seconds(), GraceHours: c.Grace.Hours(),
	}
}

// printOrder says in one line what an order is now.
func printOrder(io *streams) func(*rest.Order) error {
	return func(o *rest.Order) error {
		fmt.Fprintf(io.out, "%s is %s: %s of %s at %s, %s spares, %s left to issue.\n",
			o.Number, o.State, number(o.Quantity), o.Product, o.Site, number(o.Spares), number(o.Left))
		if o.State != "closed" && o.State != "canceled" && len(o.Stations) == 0 {
			fmt.Fprintf(io.out, "  No station is assigned: birthmark order assign %s STATION ...\n", o.Number)
		}
		return nil
	}
}

type orderListCmd struct {
	remote      `embed:""`
	Product     string `help:"Only this product."`
	Site        string `help:"Only this site."`
	State       string `help:"Only this state: planned, open, closed, canceled."`
	ExternalRef string `help:"Only the one with this reference."`
	After       string `help:"Start after this cursor."`
	Limit       int    `help:"Most rows; 0 lists all." default:"100"`
}

// Run lists orders.
func (c *orderListCmd) Run(ctx context.Context, io *streams) error {
	q := query("product", c.Product, "site", c.Site, "state", c.State, "external_ref", c.ExternalRef, "after", c.After)
	header := []string{"NUMBER", "PRODUCT", "SITE", "STATE", "ORDERED", "ISSUED", "CONFIRMED", "SCRAPPED", "LEFT", "CREATED"}
	return listAll(ctx, &c.remote, io, "/orders", q, c.Limit, header, func(o *rest.Order) []string {
		return []string{
			o.Number, o.Product, o.Site, orderState(o), number(o.Quantity), number(o.Issued), number(o.Confirmed), number(o.Scrapped),
			number(o.Left), day(o.CreatedAt),
		}
	})
}

func orderState(o *rest.Order) string {
	if o.Frozen {
		return o.State + ", frozen"
	}
	return o.State
}

type orderUnitsCmd struct {
	remote     `embed:""`
	Number     string `arg:"" help:"Number of the order."`
	State      string `help:"Only this state: issued, confirmed, scrapped, replaced, lapsed."`
	Difference string `help:"Only those behind a difference of the account." enum:",unaccounted,scrapped,not-shipped,not-activated" default:""`
	After      string `help:"Start after this cursor."`
	Limit      int    `help:"Most rows; 0 lists all." default:"100"`
}

// Run lists units in the order in which they were issued.
func (c *orderUnitsCmd) Run(ctx context.Context, io *streams) error {
	q := query("state", c.State, "difference", c.Difference, "after", c.After)
	header := []string{"SERIAL", "STATE", "STATION", "ISSUED", "CONFIRMED", "SHIPPED", "ENDED", "REASON"}
	return listAll(ctx, &c.remote, io, orderPath(c.Number)+"/units", q, c.Limit, header, func(u *rest.Unit) []string {
		state := u.State
		if u.Spare {
			state += ", spare"
		}
		return []string{u.Serial, state, u.Station, day(u.IssuedAt), moment(u.ConfirmedAt), moment(u.ShippedAt), moment(u.EndedAt), u.Reason}
	})
}

type orderScrapCmd struct {
	remote `embed:""`
	Number string `arg:"" help:"Number of the order."`
	Serial string `arg:"" help:"Device serial of the unit."`
	Reason string `help:"Reason." required:""`
}

// Run scraps the newest unit of a device in an order.
func (c *orderScrapCmd) Run(ctx context.Context, io *streams) error {
	path := orderPath(c.Number) + "/units/" + url.PathEscape(c.Serial) + "/scrap"
	return call(ctx, &c.remote, io, http.MethodPost, path, rest.Reason{Reason: c.Reason}, func(u *rest.Unit) error {
		fmt.Fprintf(io.out, "%s is %s: %s.\n", u.Serial, u.State, u.Reason)
		return nil
	})
}

type orderAmendCmd struct {
	remote   `embed:""`
	Number   string    `arg:"" help:"Number of the order."`
	Quantity *int64    `help:"New quantity."`
	Spares   *int64    `help:"New spares."`
	ChipType *[]string `help:"New chip types; an empty one for the product's." sep:","`
	Reason   string    `help:"Reason." required:""`
}

// Run amends an order, or asks for a second operator's approval; once it is
// there, the same command does it.
func (c *orderAmendCmd) Run(ctx context.Context, io *streams) error {
	in := map[string]any{"reason": c.Reason}
	if c.Quantity != nil {
		in["quantity"] = *c.Quantity
	}
	if c.Spares != nil {
		in["spares"] = *c.Spares
	}
	if c.ChipType != nil {
		in["chip_types"] = withoutEmpty(*c.ChipType)
	}
	if len(in) == 1 {
		return fault.New(fault.ParameterInvalid, "name --quantity, --spares or --chip-type")
	}
	return secondOperator(call(ctx, &c.remote, io, http.MethodPatch, orderPath(c.Number), in, printOrder(io)))
}

// secondOperator says what to do where an act waits for another operator.
func secondOperator(err error) error {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Code != fault.ApprovalWaiting {
		return err
	}
	waits := *f
	id := strings.TrimPrefix(f.Detail, "approval ")
	waits.Remedy = "let another operator look at it: birthmark approval show " + id + ", birthmark approval approve " + id + "; then repeat this command as it is"
	return &waits
}

func withoutEmpty(all []string) []string {
	out := []string{}
	for _, s := range all {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}

type orderAssignCmd struct {
	remote  `embed:""`
	Number  string   `arg:"" help:"Number of the order."`
	Station []string `arg:"" optional:"" help:"All stations that may work on it from now on; none: nobody may."`
}

// Run assigns stations, in place of those that were.
func (c *orderAssignCmd) Run(ctx context.Context, io *streams) error {
	in := map[string]any{"stations": withoutEmpty(c.Station)}
	return call(ctx, &c.remote, io, http.MethodPut, orderPath(c.Number)+"/stations", in, func(o *rest.Order) error {
		fmt.Fprintf(io.out, "%s is worked on by %s.\n", o.Number, cmp.Or(strings.Join(o.Stations, ", "), "nobody"))
		return nil
	})
}

// orderActFlags are what every act on an order's state needs.
type orderActFlags struct {
	Number string `arg:"" help:"Number of the order."`
	Reason string `help:"Reason."`
}

func (f *orderActFlags) act(ctx context.Context, r *remote, io *streams, act string) error {
	return secondOperator(call(ctx, r, io, http.MethodPost, orderPath(f.Number)+"/"+act, rest.Reason{Reason: f.Reason}, printOrder(io)))
}

type orderOpenCmd struct {
	remote        `embed:""`
	orderActFlags `embed:""`
}

// Run opens an order.
func (c *orderOpenCmd) Run(ctx context.Context, io *streams) error {
	return c.act(ctx, &c.remote, io, "opening")
}

type orderCloseCmd struct {
	remote        `embed:""`
	orderActFlags `embed:""`
}

// Run closes an order.
func (c *orderCloseCmd) Run(ctx context.Context, io *streams) error {
	return c.act(ctx, &c.remote, io, "closing")
}

type orderCancelCmd struct {
	remote        `embed:""`
	orderActFlags `embed:""`
}

// Run cancels an order.
func (c *orderCancelCmd) Run(ctx context.Context, io *streams) error {
	return c.act(ctx, &c.remote, io, "cancellation")
}

type orderAllotCmd struct {
	remote `embed:""`
	Number string   `arg:"" help:"Number of the order."`
	UID    []string `help:"Chips." sep:","`
	List   string   `help:"File with one chip's UID a line (- for standard input)." placeholder:"FILE"`
}

// Run allots chips, 10,000 at a time.
func (c *orderAllotCmd) Run(ctx context.Context, io *streams) error {
	return c.with(ctx, func(a *api) error {
		var all rest.Allotted
		err := inParts(io, c.UID, c.List, 10_000, func(uids []string) error {
			var part rest.Allotted
			err := a.do(ctx, http.MethodPost, orderPath(c.Number)+"/chips", map[string]any{"uids": uids}, &part)
			all.Allotted += part.Allotted
			return err
		})
		if err != nil {
			return err
		}
		if c.JSON {
			return printJSON(io.out, &all)
		}
		fmt.Fprintf(io.out, "Allotted %s chips to %s.\n", number(int64(all.Allotted)), c.Number)
		return nil
	})
}

type orderExportCmd struct {
	remote `embed:""`
	Number string `arg:"" help:"Number of the order."`
	Format string `help:"csv or json: the account with every unit; manifest: the confirmed units, signed, for whoever gets the devices." enum:"csv,json,manifest" default:"csv"`
	Out    string `help:"File; left out: standard output." placeholder:"FILE" type:"path"`
}

// Run exports an order.
func (c *orderExportCmd) Run(ctx context.Context, io *streams) error {
	path := orderPath(c.Number) + "/manifest"
	if c.Format != "manifest" {
		path = orderPath(c.Number) + "/account?" + query("format", c.Format).Encode()
	}
	return c.with(ctx, func(a *api) error { return a.download(ctx, http.MethodGet, path, nil, c.Out, io) })
}

type orderBatchCmd struct {
	Issue orderBatchIssueCmd `cmd:"" help:"Answer a bundle that a station collected without a link."`
}

type orderBatchIssueCmd struct {
	remote `embed:""`
	Number string `arg:"" help:"Number of the order."`
	Bundle string `arg:"" help:"The station's bundle." type:"existingfile"`
	Out    string `help:"File for the reply, which goes back to the station." required:"" placeholder:"FILE" type:"path"`
}

// Run issues what a bundle asks for and writes the reply; each unit has its own
// outcome. The same bundle again gets the same certificates.
func (c *orderBatchIssueCmd) Run(ctx context.Context, io *streams) error {
	f, err := os.Open(c.Bundle)
	if err != nil {
		return fault.Wrap(fault.ParameterInvalid, err, c.Bundle, "cannot be read")
	}
	defer f.Close()
	return c.with(ctx, func(a *api) error {
		if err := a.download(ctx, http.MethodPost, orderPath(c.Number)+"/batches", f, c.Out, io); err != nil {
			return err
		}
		return c.print(io)
	})
}

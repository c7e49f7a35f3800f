package rest

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// Batches answers what stations collected without a link.
type Batches interface {
	// IssueBatch takes a signed bundle of an order and returns the signed reply,
	// both as files.
	IssueBatch(ctx context.Context, orderNumber string, bundle []byte) (reply []byte, err error)
}

// OrderTerms is what a caller says of a new order.
type OrderTerms struct {
	Number      string   `json:"number,omitempty" maxLength:"64" doc:"Absent: we number it"`
	Product     string   `json:"product" minLength:"1" maxLength:"64"`
	Site        string   `json:"site" minLength:"1" maxLength:"64"`
	Quantity    int64    `json:"quantity" minimum:"1" doc:"Units that may live at once"`
	Spares      int64    `json:"spares,omitempty" minimum:"0" doc:"Further units that may be issued for those that fail"`
	Stations    []string `json:"stations,omitempty" maxItems:"256"`
	ChipTypes   []string `json:"chip_types,omitempty" maxItems:"32" doc:"Narrows the product's"`
	SerialFrom  string   `json:"serial_from,omitempty" maxLength:"64" doc:"First device serial of the range"`
	SerialTo    string   `json:"serial_to,omitempty" maxLength:"64"`
	ExternalRef string   `json:"external_ref,omitempty" maxLength:"128" doc:"The ERP's number: the same reference with the same terms is the same order"`
	TaktSeconds float64  `json:"takt_seconds,omitempty" minimum:"0" doc:"Target time per unit of the whole order"`
	GraceHours  float64  `json:"grace_hours,omitempty" minimum:"0" doc:"How long after closing a unit may still be confirmed; absent: 168"`
}

// Order is an order as the API shows it.
type Order struct {
	OrderTerms
	State     string     `json:"state" enum:"planned,open,closed,canceled"`
	Frozen    bool       `json:"frozen,omitempty" doc:"Since a backup was restored; opening ends it"`
	Evidence  string     `json:"evidence" doc:"Level of evidence that units have to reach, of product and profile together"`
	Issued    int64      `json:"issued" doc:"Units ever issued"`
	Live      int64      `json:"live" doc:"Issued and not ended"`
	Confirmed int64      `json:"confirmed"`
	Scrapped  int64      `json:"scrapped" doc:"Ended, for any reason"`
	Shipped   int64      `json:"shipped"`
	Activated int64      `json:"activated"`
	Left      int64      `json:"left" doc:"Units that may still be issued"`
	CreatedAt time.Time  `json:"created_at"`
	OpenedAt  *time.Time `json:"opened_at,omitempty"`
	ClosedAt  *time.Time `json:"closed_at,omitempty"`
}

// Account is where the identities of an order went.
type Account struct {
	Ordered      int64 `json:"ordered"`
	Issued       int64 `json:"issued"`
	Live         int64 `json:"live"`
	Confirmed    int64 `json:"confirmed"`
	Scrapped     int64 `json:"scrapped"`
	Spares       int64 `json:"spares"`
	SparesUsed   int64 `json:"spares_used"`
	SparesLeft   int64 `json:"spares_left"`
	Shipped      int64 `json:"shipped"`
	Activated    int64 `json:"activated"`
	Missing      int64 `json:"missing" doc:"Ordered and not live"`
	Unaccounted  int64 `json:"unaccounted" doc:"Issued, neither confirmed nor ended"`
	NotShipped   int64 `json:"not_shipped" doc:"Confirmed and not shipped"`
	NotActivated int64 `json:"not_activated" doc:"Shipped and not activated"`
}

// OrderWithAccount is an order with its account.
type OrderWithAccount struct {
	Order
	Account Account `json:"account"`
}

func (a *API) orders() {
	read, manage := access.FactoryRead, access.OrderManage
	add(a, op{method: http.MethodGet, path: "/orders", action: read, summary: "List production orders, newest first"}, a.listOrders)
	add(a, op{method: http.MethodPost, path: "/orders", action: manage, summary: "Create a production order", status: http.StatusCreated}, a.createOrder)
	add(a, op{method: http.MethodGet, path: "/orders/{number}", action: read, summary: "Show a production order with its account"}, a.showOrder)
	add(a, op{method: http.MethodPatch, path: "/orders/{number}", action: manage, summary: "Amend quantity, spares or chip types; needs a second operator"}, a.amendOrder)
	add(a, op{method: http.MethodPut, path: "/orders/{number}/stations", action: access.StationManage, summary: "Say which stations may work on an order"}, a.assignStations)
	add(a, op{method: http.MethodPost, path: "/orders/{number}/opening", action: manage, summary: "Open an order; a closed one needs a second operator"}, a.moveOrder((*factory.Service).OpenOrder))
	add(a, op{method: http.MethodPost, path: "/orders/{number}/closing", action: manage, summary: "Close an order: nothing more is issued, the grace for confirmations begins"}, a.moveOrder((*factory.Service).CloseOrder))
	add(a, op{method: http.MethodPost, path: "/orders/{number}/cancellation", action: manage, summary: "Cancel an order under which nothing was issued"}, a.moveOrder((*factory.Service).CancelOrder))
	add(a, op{method: http.MethodPost, path: "/orders/{number}/chips", action: manage, summary: "Allot listed chips to an order"}, a.allotChips)
	add(a, op{method: http.MethodGet, path: "/orders/{number}/account", action: read, summary: "Export the account with every unit, as CSV or JSON"}, a.exportAccount)
	add(a, op{method: http.MethodGet, path: "/orders/{number}/manifest", action: read, summary: "Export the confirmed units as our signed manifest"}, a.exportManifest)
	add(a, op{
		method: http.MethodPost, path: "/orders/{number}/batches", action: access.StationManage, maxBody: maxBundle, stream: pieceTime,
		summary: "Issue a batch that a station collected without a link: its bundle in, the signed reply out",
	}, a.issueBatch)
}

// maxBundle is the largest bundle: a block of offline nonces, each with its
// request.
const maxBundle = 256 << 20

// OrderPath names an order in a path.
type OrderPath struct {
	Number string `path:"number" maxLength:"64"`
}

func (in *OrderTerms) terms() factory.OrderTerms {
	return factory.OrderTerms{
		Number: in.Number, Product: in.Product, Site: in.Site, Quantity: in.Quantity, Spares: in.Spares, Stations: in.Stations,
		ChipTypes: in.ChipTypes, SerialFrom: in.SerialFrom, SerialTo: in.SerialTo, ExternalRef: in.ExternalRef,
		Takt: time.Duration(in.TaktSeconds * float64(time.Second)), Grace: time.Duration(in.GraceHours * float64(time.Hour)),
	}
}

func showOrder(names *factory.Names, o *factory.Order) Order {
	out := Order{
		OrderTerms: OrderTerms{
			Number: o.Number, Product: names.Product(o.Product), Site: names.Site(o.Site), Quantity: o.Quantity, Spares: o.Spares,
			ChipTypes: o.ChipTypes, SerialFrom: o.SerialFrom, SerialTo: o.SerialTo, ExternalRef: o.ExternalRef,
			TaktSeconds: o.Takt.Seconds(), GraceHours: o.Grace.Hours(),
		},
		State: o.State.String(), Frozen: o.Frozen, Evidence: names.Evidence(o.Product), Issued: o.Counts.Issued, Live: o.Counts.Live, Confirmed: o.Counts.Confirmed,
		Scrapped: o.Counts.Scrapped, Shipped: o.Counts.Shipped, Activated: o.Counts.Activated, Left: o.Left(),
		CreatedAt: o.CreatedAt, OpenedAt: unlessZero(o.OpenedAt), ClosedAt: unlessZero(o.ClosedAt),
	}
	for _, id := range o.Stations {
		out.Stations = append(out.Stations, names.Station(id))
	}
	return out
}

// unlessZero leaves a time out that is not there.
func unlessZero(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (a *API) answerOrder(ctx context.Context, o *factory.Order, err error) (*one[Order], error) {
	if err != nil {
		return nil, err
	}
	names, err := a.cfg.Factory.Names(ctx)
	if err != nil {
		return nil, err
	}
	return &one[Order]{showOrder(names, o)}, nil
}

func (a *API) listOrders(ctx context.Context, c *access.Caller, in *struct {
	Page
	State   string `query:"state" doc:"planned, open, closed, canceled"`
	Product string `query:"product" maxLength:"64"`
	Site    string `query:"site" maxLength:"64"`
	Ref     string `query:"external_ref" maxLength:"128"`
},
) (*list[Order], error) {
	names, err := a.cfg.Factory.Names(ctx)
	if err != nil {
		return nil, err
	}
	q := factory.OrderQuery{Page: factory.Page{After: in.After, Limit: in.Limit}}
	if q.State, err = anyOr(in.State, factory.ParseOrderState); err != nil {
		return nil, err
	}
	if q.Product, q.Site, err = a.selected(ctx, c, in.Product, in.Site); err != nil {
		return nil, err
	}
	rows, next, err := a.cfg.Factory.Orders(ctx, *c, q)
	if err != nil {
		return nil, err
	}
	items := make([]Order, 0, len(rows))
	for i := range rows {
		if in.Ref != "" && rows[i].ExternalRef != in.Ref {
			continue
		}
		items = append(items, showOrder(names, &rows[i]))
	}
	return newList(items, next), nil
}

// anyOr parses a name; none is any.
func anyOr[T any](name string, parse func(string) (T, error)) (any T, err error) {
	if name == "" {
		return any, nil
	}
	return parse(name)
}

// selected finds the product and site that a list is narrowed to.
func (a *API) selected(ctx context.Context, c *access.Caller, product, site string) (productID, siteID int64, err error) {
	if product != "" {
		names, err := a.productNames(ctx, c)
		if err != nil {
			return 0, 0, err
		}
		if productID = names.id(product); productID == 0 {
			return 0, 0, fault.New(fault.ProductUnknown, product)
		}
	}
	if site == "" {
		return productID, 0, nil
	}
	sites, err := a.cfg.Factory.Sites(ctx, *c)
	if err != nil {
		return 0, 0, err
	}
	for _, s := range sites {
		if s.Name == site {
			return productID, s.ID, nil
		}
	}
	return 0, 0, fault.New(fault.SiteUnknown, site)
}

func (a *API) createOrder(ctx context.Context, c *access.Caller, in *one[OrderTerms]) (*one[Order], error) {
	o, _, err := a.cfg.Factory.CreateOrder(ctx, *c, in.Body.terms())
	return a.answerOrder(ctx, &o, err)
}

func (a *API) showOrder(ctx context.Context, c *access.Caller, in *OrderPath) (*one[OrderWithAccount], error) {
	account, err := a.cfg.Factory.Account(ctx, *c, in.Number)
	if err != nil {
		return nil, err
	}
	shown, err := a.answerOrder(ctx, &account.Order, nil)
	if err != nil {
		return nil, err
	}
	return &one[OrderWithAccount]{OrderWithAccount{Order: shown.Body, Account: Account{
		Ordered: account.Ordered, Issued: account.Issued, Live: account.Live, Confirmed: account.Confirmed, Scrapped: account.Scrapped,
		Spares: account.Spares, SparesUsed: account.SparesUsed, SparesLeft: account.SparesLeft, Shipped: account.Shipped,
		Activated: account.Activated, Missing: account.Missing, Unaccounted: account.Unaccounted,
		NotShipped: account.NotShipped, NotActivated: account.NotActive,
	}}}, nil
}

func (a *API) amendOrder(ctx context.Context, c *access.Caller, in *struct {
	OrderPath
	Body struct {
		Quantity  *int64    `json:"quantity,omitempty" minimum:"1"`
		Spares    *int64    `json:"spares,omitempty" minimum:"0"`
		ChipTypes *[]string `json:"chip_types,omitempty" maxItems:"32"`
		Reason    string    `json:"reason" minLength:"1" maxLength:"500"`
	}
},
) (*one[Order], error) {
	o, err := a.cfg.Factory.AmendOrder(ctx, *c, factory.Amendment{
		Number: in.Number, Quantity: in.Body.Quantity, Spares: in.Body.Spares, ChipTypes: in.Body.ChipTypes, Reason: in.Body.Reason,
	})
	return a.answerOrder(ctx, &o, err)
}

func (a *API) assignStations(ctx context.Context, c *access.Caller, in *struct {
	OrderPath
	Body struct {
		Stations []string `json:"stations" maxItems:"256"`
	}
},
) (*one[Order], error) {
	o, err := a.cfg.Factory.AssignStations(ctx, *c, in.Number, in.Body.Stations)
	return a.answerOrder(ctx, &o, err)
}

// orderAct is an act on an order, with a reason.
type orderAct struct {
	OrderPath
	Body Reason
}

// turning is an act that takes an order to another state.
type turning func(s *factory.Service, ctx context.Context, by access.Caller, number, reason string) (factory.Order, error)

func (a *API) moveOrder(move turning) func(context.Context, *access.Caller, *orderAct) (*one[Order], error) {
	return func(ctx context.Context, c *access.Caller, in *orderAct) (*one[Order], error) {
		o, err := move(a.cfg.Factory, ctx, *c, in.Number, in.Body.Reason)
		return a.answerOrder(ctx, &o, err)
	}
}

// Allotted says how many chips an order got.
type Allotted struct {
	Allotted int `json:"allotted" doc:"Chips that were not allotted to the order before"`
}

func (a *API) allotChips(ctx context.Context, c *access.Caller, in *struct {
	OrderPath
	Body struct {
		UIDs []string `json:"uids" minItems:"1" maxItems:"10000"`
	}
},
) (*one[Allotted], error) {
	n, err := a.cfg.Factory.AllotChips(ctx, *c, in.Number, in.Body.UIDs)
	return &one[Allotted]{Allotted{n}}, err
}

func (a *API) exportAccount(_ context.Context, c *access.Caller, in *struct {
	OrderPath
	Format string `query:"format" enum:"csv,json" default:"json"`
},
) (*huma.StreamResponse, error) {
	if in.Format == "csv" {
		return streamed("text/csv; charset=utf-8", func(ctx context.Context, w io.Writer) error {
			return a.cfg.Factory.ExportAccountCSV(ctx, *c, in.Number, w)
		}), nil
	}
	return streamed("application/json", func(ctx context.Context, w io.Writer) error {
		return a.cfg.Factory.ExportAccountJSON(ctx, *c, in.Number, w)
	}), nil
}

func (a *API) exportManifest(_ context.Context, c *access.Caller, in *OrderPath) (*huma.StreamResponse, error) {
	return streamed("application/vnd.birthmark.manifest", func(ctx context.Context, w io.Writer) error {
		return a.cfg.Factory.ExportManifest(ctx, *c, in.Number, w)
	}), nil
}

// issueBatch checks that the caller sees the order; whose bundle it is and what
// it may is judged by the bundle's own signature.
func (a *API) issueBatch(ctx context.Context, c *access.Caller, in *OrderPath) (*huma.StreamResponse, error) {
	o, err := a.cfg.Factory.Order(ctx, *c, in.Number)
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		answer(hc, "application/json", func(ctx context.Context, w io.Writer) error {
			bundle, err := readAll(hc.BodyReader())
			if err != nil {
				return err
			}
			reply, err := a.cfg.Batches.IssueBatch(ctx, o.Number, bundle)
			if err != nil {
				return err
			}
			_, err = w.Write(reply)
			return err
		})
	}}, nil
}

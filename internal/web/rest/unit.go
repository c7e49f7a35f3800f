package rest

import (
	"context"
	"encoding/base64"
	"net/http"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// Unit is one identity issued under an order.
type Unit struct {
	Serial      string     `json:"serial" doc:"Of its device"`
	Device      string     `json:"device"`
	State       string     `json:"state" enum:"issued,confirmed,scrapped,replaced,lapsed"`
	Station     string     `json:"station,omitempty"`
	Spare       bool       `json:"spare,omitempty" doc:"Followed another unit of the same device"`
	Reference   string     `json:"reference,omitempty" doc:"The MES's own name of it"`
	Evidence    string     `json:"evidence,omitempty"`
	Reason      string     `json:"reason,omitempty" doc:"Why it ended"`
	IssuedAt    time.Time  `json:"issued_at"`
	ConfirmedAt *time.Time `json:"confirmed_at,omitempty"`
	EndedAt     *time.Time `json:"ended_at,omitempty"`
	ShippedAt   *time.Time `json:"shipped_at,omitempty"`
	ActivatedAt *time.Time `json:"activated_at,omitempty"`
}

func (a *API) units() {
	read := access.FactoryRead
	add(a, op{method: http.MethodGet, path: "/orders/{number}/units", action: read, summary: "List the units of an order, or those behind a column of its account"}, a.listUnits)
	add(a, op{method: http.MethodGet, path: "/orders/{number}/units/{serial}", action: read, summary: "Show the newest unit of a device in an order"}, a.showUnit)
	add(a, op{method: http.MethodPost, path: "/orders/{number}/units/{serial}/scrap", action: access.OrderManage, summary: "Scrap a device's newest unit in an order: its certificates are revoked and it never lives again"}, a.scrapUnit)
	add(a, op{method: http.MethodPost, path: "/shipments", action: access.OrderManage, summary: "Note devices as shipped"}, a.ship)
	add(a, op{method: http.MethodPost, path: "/devices/{device}/components", action: access.DeviceManage, summary: "Link components to the system that they are built into"}, a.buildInto)
	add(a, op{method: http.MethodPost, path: "/certificates/check", action: access.CertificateRead, summary: "Look up a certificate that was seen somewhere; one of ours that no record names raises an alarm"}, a.checkCertificate)
}

func showUnit(names *factory.Names, u *factory.Unit) Unit {
	return Unit{
		Serial: u.DeviceSerial, Device: u.Device.String(), State: u.State.String(), Station: names.Station(u.Station), Spare: u.Spare,
		Reference: u.Reference, Evidence: u.Evidence, Reason: u.Reason, IssuedAt: u.IssuedAt, ConfirmedAt: unlessZero(u.ConfirmedAt),
		EndedAt: unlessZero(u.EndedAt), ShippedAt: unlessZero(u.ShippedAt), ActivatedAt: unlessZero(u.ActivatedAt),
	}
}

func (a *API) listUnits(ctx context.Context, c *access.Caller, in *struct {
	OrderPath
	Page
	State      string `query:"state" doc:"issued, confirmed, scrapped, replaced, lapsed"`
	Difference string `query:"difference" enum:"unaccounted,scrapped,not-shipped,not-activated" doc:"A column of the account, in place of a state"`
},
) (*list[Unit], error) {
	rows, next, err := a.unitRows(ctx, c, in.Number, in.State, factory.Difference(in.Difference), factory.Page{After: in.After, Limit: in.Limit})
	if err != nil {
		return nil, err
	}
	names, err := a.cfg.Factory.Names(ctx)
	if err != nil {
		return nil, err
	}
	items := make([]Unit, len(rows))
	for i := range rows {
		items[i] = showUnit(names, &rows[i])
	}
	return newList(items, next), nil
}

func (a *API) unitRows(ctx context.Context, c *access.Caller, number, stateName string, d factory.Difference, page factory.Page) ([]factory.Unit, string, error) {
	if d != "" && stateName != "" {
		return nil, "", fault.New(fault.ParameterInvalid, "state and difference exclude each other")
	}
	if d != "" {
		return a.cfg.Factory.Differences(ctx, *c, number, d, page)
	}
	state, err := anyOr(stateName, factory.ParseUnitState)
	if err != nil {
		return nil, "", err
	}
	o, err := a.cfg.Factory.Order(ctx, *c, number)
	if err != nil {
		return nil, "", err
	}
	return a.cfg.Factory.Units(ctx, *c, factory.UnitQuery{Page: page, Order: o.ID, State: state})
}

// UnitPath names a device's newest unit in an order.
type UnitPath struct {
	OrderPath
	Serial string `path:"serial" maxLength:"64" doc:"Device serial"`
}

func (a *API) showUnit(ctx context.Context, c *access.Caller, in *UnitPath) (*one[Unit], error) {
	u, err := a.cfg.Factory.Unit(ctx, *c, in.Number, in.Serial)
	return a.answerUnit(ctx, &u, err)
}

func (a *API) scrapUnit(ctx context.Context, c *access.Caller, in *struct {
	UnitPath
	Body Reason
},
) (*one[Unit], error) {
	u, err := a.cfg.Factory.ScrapUnit(ctx, *c, in.Number, in.Serial, in.Body.Reason)
	return a.answerUnit(ctx, &u, err)
}

func (a *API) answerUnit(ctx context.Context, u *factory.Unit, err error) (*one[Unit], error) {
	if err != nil {
		return nil, err
	}
	names, err := a.cfg.Factory.Names(ctx)
	if err != nil {
		return nil, err
	}
	return &one[Unit]{showUnit(names, u)}, nil
}

// Shipment says what was shipped.
type Shipment struct {
	Shipped int      `json:"shipped"`
	Refused []string `json:"refused,omitempty" doc:"Device serials that cannot be shipped; nothing of their piece of 500 was noted"`
	Code    string   `json:"code,omitempty" doc:"Why not"`
	Message string   `json:"message,omitempty"`
}

func (a *API) ship(ctx context.Context, c *access.Caller, in *struct {
	Body struct {
		Serials []string `json:"serials" minItems:"1" maxItems:"10000" doc:"Device serials"`
	}
},
) (*one[Shipment], error) {
	shipped, refused, err := a.cfg.Factory.Ship(ctx, *c, in.Body.Serials)
	out := Shipment{Shipped: shipped, Refused: refused}
	if err != nil && len(refused) == 0 {
		return nil, err
	}
	if err != nil {
		f := fault.Of(err)
		out.Code, out.Message = f.Code.String(), f.Message
	}
	return &one[Shipment]{out}, nil
}

func (a *API) buildInto(ctx context.Context, c *access.Caller, in *struct {
	DevicePath
	Body struct {
		Components []string `json:"components" minItems:"1" maxItems:"1000" doc:"Device serials"`
	}
},
) (*nothing, error) {
	return nil, a.cfg.Factory.BuildInto(ctx, *c, in.Device, in.Body.Components)
}

// CheckedCertificate is what is known of a certificate.
type CheckedCertificate struct {
	Ours        bool   `json:"ours" doc:"An authority of ours signed it"`
	Unaccounted bool   `json:"unaccounted" doc:"And no record names it"`
	Serial      string `json:"serial,omitempty"`
	State       string `json:"state,omitempty"`
}

func (a *API) checkCertificate(ctx context.Context, c *access.Caller, in *struct {
	Body struct {
		Certificate string `json:"certificate" maxLength:"65536" doc:"DER, base64"`
	}
},
) (*one[CheckedCertificate], error) {
	der, err := base64.StdEncoding.DecodeString(in.Body.Certificate)
	if err != nil {
		return nil, fault.New(fault.ParameterInvalid, "certificate is not base64")
	}
	found, err := a.cfg.Factory.CheckCertificate(ctx, *c, der)
	if err != nil {
		return nil, err
	}
	out := CheckedCertificate{Ours: found.Ours, Unaccounted: found.Unaccounted}
	if found.Credential.ID != 0 {
		out.Serial, out.State = hexSerial(found.Credential.CertSerial), found.Credential.State.String()
	}
	return &one[CheckedCertificate]{out}, nil
}

// notFound reports whether a row is not there for the caller.
func notFound(err error) bool {
	return err != nil && fault.Of(err).Kind == fault.NotFound
}

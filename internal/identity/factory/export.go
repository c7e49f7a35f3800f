package factory

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/format/manifest"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
)

// exportedUnit is a line of an exported account.
type exportedUnit struct {
	DeviceSerial string `json:"serial"`
	Device       string `json:"device"`
	State        string `json:"state"`
	Spare        bool   `json:"spare"`
	Station      string `json:"station"`
	Chip         string `json:"chip,omitempty"`
	Reference    string `json:"reference,omitempty"`
	Evidence     string `json:"evidence,omitempty"`
	IssuedAt     string `json:"issuedAt"`
	ConfirmedAt  string `json:"confirmedAt,omitempty"`
	ShippedAt    string `json:"shippedAt,omitempty"`
	ActivatedAt  string `json:"activatedAt,omitempty"`
	EndedAt      string `json:"endedAt,omitempty"`
	Reason       string `json:"reason,omitempty"`
}

func exported(u *Unit, n *Names) exportedUnit {
	x := exportedUnit{
		DeviceSerial: u.DeviceSerial, Device: u.Device.String(), State: u.State.String(), Spare: u.Spare, Station: n.Station(u.Station),
		Reference: u.Reference, Evidence: u.Evidence, IssuedAt: text(u.IssuedAt), ConfirmedAt: text(u.ConfirmedAt),
		ShippedAt: text(u.ShippedAt), ActivatedAt: text(u.ActivatedAt), EndedAt: text(u.EndedAt), Reason: u.Reason,
	}
	if u.Chip != 0 {
		x.Chip = chipName(u.Chip)
	}
	return x
}

var columns = []string{
	"serial", "device", "state", "spare", "station", "chip", "reference", "evidence",
	"issued_at", "confirmed_at", "shipped_at", "activated_at", "ended_at", "reason",
}

func (x *exportedUnit) cells() []string {
	return []string{
		x.DeviceSerial, x.Device, x.State, strconv.FormatBool(x.Spare), x.Station, x.Chip, cell(x.Reference), x.Evidence,
		x.IssuedAt, x.ConfirmedAt, x.ShippedAt, x.ActivatedAt, x.EndedAt, cell(x.Reason),
	}
}

// cell keeps free text from being a formula where a table is opened.
func cell(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}

// ExportAccountCSV writes the units of an order, one a line.
func (s *Service) ExportAccountCSV(ctx context.Context, by access.Caller, number string, w io.Writer) error {
	o, names, err := s.toExport(ctx, by, number)
	if err != nil {
		return err
	}
	out := csv.NewWriter(w)
	if err := out.Write(columns); err != nil {
		return err
	}
	err = s.eachUnit(ctx, by.Scope, o.ID, func(u *Unit) error {
		x := exported(u, names)
		return out.Write(x.cells())
	})
	out.Flush()
	if err == nil {
		err = out.Error()
	}
	return err
}

func (s *Service) toExport(ctx context.Context, by access.Caller, number string) (Order, *Names, error) {
	o, err := s.store.OrderByNumber(ctx, by.Scope, number)
	if err != nil {
		return Order{}, nil, err
	}
	names, err := s.Names(ctx)
	return o, names, err
}

// exportedAccount is the sum of an account exported as JSON.
type exportedAccount struct {
	Order       string `json:"order"`
	Product     string `json:"product"`
	Site        string `json:"site"`
	State       string `json:"state"`
	At          string `json:"at"`
	Ordered     int64  `json:"ordered"`
	Issued      int64  `json:"issued"`
	Live        int64  `json:"live"`
	Confirmed   int64  `json:"confirmed"`
	Scrapped    int64  `json:"scrapped"`
	Spares      int64  `json:"spares"`
	SparesUsed  int64  `json:"sparesUsed"`
	SparesLeft  int64  `json:"sparesLeft"`
	Shipped     int64  `json:"shipped"`
	Activated   int64  `json:"activated"`
	Missing     int64  `json:"missing"`
	Unaccounted int64  `json:"unaccounted"`
	NotShipped  int64  `json:"notShipped"`
	NotActive   int64  `json:"notActivated"`
}

// ExportAccountJSON writes the units and then the account of an order as one
// object. What was not shipped or not activated is counted unit by unit.
func (s *Service) ExportAccountJSON(ctx context.Context, by access.Caller, number string, w io.Writer) error {
	o, names, err := s.toExport(ctx, by, number)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	out.WriteString(`{"units":[`)
	separator := "\n"
	a := accountOf(&o)
	a.NotShipped, a.NotActive = 0, 0
	err = s.eachUnit(ctx, by.Scope, o.ID, func(u *Unit) error {
		if DiffNotShipped.has(u) {
			a.NotShipped++
		}
		if DiffNotActive.has(u) {
			a.NotActive++
		}
		line, err := json.Marshal(exported(u, names))
		out.WriteString(separator)
		out.Write(line)
		separator = ",\n"
		return err
	})
	if err != nil {
		return err
	}
	tail, err := json.Marshal(exportedAccount{
		Order: o.Number, Product: names.Product(o.Product), Site: names.Site(o.Site), State: o.State.String(), At: text(s.now()),
		Ordered: a.Ordered, Issued: a.Issued, Live: a.Live, Confirmed: a.Confirmed, Scrapped: a.Scrapped,
		Spares: a.Spares, SparesUsed: a.SparesUsed, SparesLeft: a.SparesLeft, Shipped: a.Shipped, Activated: a.Activated,
		Missing: a.Missing, Unaccounted: a.Unaccounted, NotShipped: a.NotShipped, NotActive: a.NotActive,
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\n],\"account\":%s}\n", tail)
	return out.Flush()
}

// identitySlot is the slot under which an exported device's key is listed.
const identitySlot = "idevid"

// ExportManifest writes the confirmed units of an order as a birthmark-manifest
// signed with our statement key: for whoever receives the devices, each is a chip
// with its serial as UID, the product as chip type and the key of its identity.
func (s *Service) ExportManifest(ctx context.Context, by access.Caller, number string, w io.Writer) error {
	o, names, err := s.toExport(ctx, by, number)
	if err != nil {
		return err
	}
	snap, err := s.authorities.Snapshot(ctx)
	if err != nil {
		return err
	}
	maker := snap.Installation.Organization
	out, err := manifest.NewWriter(w, manifest.Header{
		Maker: maker, Created: s.now().UTC().Truncate(time.Second), Vendor: vendorName(maker), ChipType: names.Product(o.Product),
		Product: names.Product(o.Product), Order: o.Number,
	}, s.statements.Certificate(), s.statements.Key())
	if err != nil {
		return err
	}
	err = s.eachUnit(ctx, by.Scope, o.ID, func(u *Unit) error {
		if u.State != UnitConfirmed {
			return nil
		}
		c, err := s.register.Credential(ctx, by.Scope, u.ID)
		if err != nil {
			return err
		}
		if c.State == device.Revoked || c.State == device.Held {
			return nil
		}
		key, err := identityKey(&c)
		if err != nil {
			return err
		}
		if m, ok := snap.AuthorityByID(c.Authority); ok {
			key.Chain = append(key.Chain, m.Chain...)
		}
		return out.Write(&manifest.Entry{UID: strings.ToLower(u.DeviceSerial), DeviceSerial: u.DeviceSerial, Keys: []manifest.Key{key}})
	})
	if err != nil {
		return err
	}
	return out.Close()
}

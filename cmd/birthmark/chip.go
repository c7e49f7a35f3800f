package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/birthmark/birthmark/internal/web/rest"
)

type chipCmd struct {
	Show     chipShowCmd     `cmd:"" help:"Show a chip."`
	List     chipListCmd     `cmd:"" help:"List chips of a manifest, order or state."`
	Withdraw chipWithdrawCmd `cmd:"" help:"Keep a chip from being used."`
}

// chipFlags name a chip.
type chipFlags struct {
	UID    string `arg:"" help:"UID, as the manifest writes it."`
	Vendor string `help:"Maker, where two have the UID."`
}

func (f *chipFlags) path(act string) string {
	path := "/chips/" + url.PathEscape(f.UID) + act
	if q := query("vendor", f.Vendor).Encode(); q != "" {
		path += "?" + q
	}
	return path
}

type chipShowCmd struct {
	remote    `embed:""`
	chipFlags `embed:""`
}

// Run shows a chip.
func (c *chipShowCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodGet, c.path(""), nil, func(x *rest.Chip) error {
		fmt.Fprintf(io.out, "%s  %s %s  %s\n", x.UID, x.Vendor, x.Type, x.State)
		var keys []string
		for _, k := range x.Keys {
			keys = append(keys, k.Slot)
		}
		return printFields(io.out, [][2]string{
			{"manifest", fmt.Sprintf("%d, entry %d", x.Manifest, x.Entry)},
			{"keys", strings.Join(keys, ", ")},
			{"order", x.Order},
			{"device", x.Device},
		})
	})
}

type chipListCmd struct {
	remote   `embed:""`
	Manifest string `help:"Only of this manifest, by number."`
	Order    string `help:"Only those allotted to this order."`
	State    string `help:"Only this state: listed, not provable, allotted, used, withdrawn."`
	After    string `help:"Start after this cursor."`
	Limit    int    `help:"Most rows; 0 lists all." default:"100"`
}

// Run lists chips.
func (c *chipListCmd) Run(ctx context.Context, io *streams) error {
	q := query("manifest", c.Manifest, "order", c.Order, "state", c.State, "after", c.After)
	header := []string{"UID", "VENDOR", "TYPE", "STATE", "MANIFEST", "ENTRY", "ORDER", "DEVICE"}
	return listAll(ctx, &c.remote, io, "/chips", q, c.Limit, header, func(x *rest.Chip) []string {
		return []string{x.UID, x.Vendor, x.Type, x.State, fmt.Sprint(x.Manifest), fmt.Sprint(x.Entry), x.Order, x.Device}
	})
}

type chipWithdrawCmd struct {
	remote    `embed:""`
	chipFlags `embed:""`
	Reason    string `help:"Reason." required:""`
}

// Run withdraws a chip.
func (c *chipWithdrawCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodPost, c.path("/withdrawal"), rest.Reason{Reason: c.Reason}, func(x *rest.Chip) error {
		fmt.Fprintf(io.out, "%s is %s.\n", x.UID, x.State)
		return nil
	})
}

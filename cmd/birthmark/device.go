package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/web/rest"
)

type deviceCmd struct {
	Add    deviceAddCmd    `cmd:"" help:"Register devices; prints each one's one-time secret."`
	List   deviceListCmd   `cmd:"" help:"List devices."`
	Show   deviceShowCmd   `cmd:"" help:"Show a device and its certificates."`
	Label  deviceLabelCmd  `cmd:"" help:"Set or remove labels."`
	Move   deviceMoveCmd   `cmd:"" help:"Move a device to another state."`
	Secret deviceSecretCmd `cmd:"" help:"Make a new one-time secret."`

	Ship      deviceShipCmd      `cmd:"" help:"Note devices as shipped."`
	BuildInto deviceBuildIntoCmd `cmd:"" help:"Link components to the system that they are built into."`
}

type deviceAddCmd struct {
	remote        `embed:""`
	Product       string            `help:"Product." required:""`
	Serial        []string          `help:"Serial numbers." sep:","`
	File          string            `help:"File with one serial number a line (- for standard input)."`
	Region        string            `help:"Region."`
	Label         map[string]string `help:"Labels, key=value."`
	WithoutSecret bool              `help:"Make no one-time secret."`
}

// Run registers devices, 2,000 at a time.
func (c *deviceAddCmd) Run(ctx context.Context, io *streams) error {
	serials := slices.Clone(c.Serial)
	if c.File != "" {
		text, err := fileText(io, c.File)
		if err != nil {
			return err
		}
		lines := bufio.NewScanner(bytes.NewReader(text))
		for lines.Scan() {
			if s := strings.TrimSpace(lines.Text()); s != "" && !strings.HasPrefix(s, "#") {
				serials = append(serials, s)
			}
		}
		if err := lines.Err(); err != nil {
			return err
		}
	}
	if len(serials) == 0 {
		return fault.New(fault.ParameterInvalid, "name --serial or --file")
	}
	return c.with(ctx, func(a *api) error {
		var all []rest.AddedDevice
		for part := range slices.Chunk(serials, 2000) {
			in := map[string]any{}
			devices := make([]rest.NewDevice, len(part))
			for i, s := range part {
				devices[i] = rest.NewDevice{Serial: s, Product: c.Product, Region: c.Region, Labels: c.Label, WithoutSecret: c.WithoutSecret}
			}
			in["devices"] = devices
			var out listing[rest.AddedDevice]
			if err := a.do(ctx, http.MethodPost, "/devices", in, &out); err != nil {
				return err
			}
			all = append(all, out.Items...)
		}
		return c.print(io, all)
	})
}

func (c *deviceAddCmd) print(io *streams, all []rest.AddedDevice) error {
	if c.JSON && len(all) == 1 {
		return printJSON(io.out, all[0])
	}
	if c.JSON {
		return printJSON(io.out, all)
	}
	if len(all) == 1 {
		fmt.Fprintf(io.out, "Registered %s (%s).\n", all[0].Serial, all[0].ID)
		if all[0].Secret != "" {
			fmt.Fprintf(io.out, "One-time secret, shown once: %s\n", all[0].Secret)
		}
		return nil
	}
	w := csv.NewWriter(io.out)
	if err := w.Write([]string{"serial", "id", "secret"}); err != nil {
		return err
	}
	for _, d := range all {
		if err := w.Write([]string{d.Serial, d.ID, d.Secret}); err != nil {
			return err
		}
	}
	w.Flush()
	return w.Error()
}

type deviceListCmd struct {
	remote  `embed:""`
	Product string `help:"Only this product."`
	State   string `help:"Only this state."`
	Label   string `help:"Only with this label, key=value."`
	After   string `help:"Start after this cursor."`
	Limit   int    `help:"Most rows; 0 lists all." default:"100"`
}

// Run lists devices.
func (c *deviceListCmd) Run(ctx context.Context, io *streams) error {
	return listAll(ctx, &c.remote, io, "/devices", query("product", c.Product, "state", c.State, "label", c.Label, "after", c.After), c.Limit,
		[]string{"SERIAL", "ID", "PRODUCT", "STATE", "SECRET", "REGISTERED"},
		func(d *rest.Device) []string {
			return []string{d.Serial, d.ID, d.Product, d.State, d.OneTime, day(d.RegisteredAt)}
		})
}

// query makes query parameters of pairs, without the empty ones.
func query(pairs ...string) url.Values {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
	return v
}

func day(t time.Time) string { return t.Local().Format("2006-01-02 15:04") }

type deviceShowCmd struct {
	remote `embed:""`
	Device string `arg:"" optional:"" help:"Serial or id."`
	Serial string `help:"Serial, instead of the argument."`
}

// shownDevice is a device with its certificates.
type shownDevice struct {
	rest.Device
	Certificates []rest.Certificate `json:"certificates"`
}

// Run shows a device and its certificates, newest first.
func (c *deviceShowCmd) Run(ctx context.Context, io *streams) error {
	name := c.Device
	if name == "" {
		name = c.Serial
	}
	if name == "" {
		return fault.New(fault.ParameterInvalid, "name a device by serial or id")
	}
	return c.with(ctx, func(a *api) error {
		var d shownDevice
		if err := a.do(ctx, http.MethodGet, "/devices/"+url.PathEscape(name), nil, &d.Device); err != nil {
			return err
		}
		var certificates listing[rest.Certificate]
		if err := a.do(ctx, http.MethodGet, "/certificates?"+query("device", d.ID).Encode(), nil, &certificates); err != nil {
			return err
		}
		d.Certificates = certificates.Items
		if c.JSON {
			return printJSON(io.out, d)
		}
		return d.print(io)
	})
}

func (d *shownDevice) print(io *streams) error {
	fmt.Fprintf(io.out, "%s  %s  %s\n  id          %s\n  registered  %s\n  secret      %s\n", d.Serial, d.Product, d.State, d.ID, day(d.RegisteredAt), d.OneTime)
	if d.Region != "" {
		fmt.Fprintf(io.out, "  region      %s\n", d.Region)
	}
	for _, k := range slices.Sorted(maps.Keys(d.Labels)) {
		fmt.Fprintf(io.out, "  label       %s=%s\n", k, d.Labels[k])
	}
	if len(d.Certificates) == 0 {
		fmt.Fprintln(io.out, "  no certificates")
		return nil
	}
	fmt.Fprintln(io.out)
	rows := make([][]string, len(d.Certificates))
	for i := range d.Certificates {
		rows[i] = certificateRow(&d.Certificates[i])
	}
	if err := printTable(io.out, certificateHeader, rows); err != nil {
		return err
	}
	if len(d.Evidence) > 0 {
		fmt.Fprintln(io.out, "\nProven of the hardware:")
	}
	for i := range d.Evidence {
		printProof(io, &d.Evidence[i])
	}
	return nil
}

type deviceLabelCmd struct {
	remote `embed:""`
	Device string            `arg:"" help:"Serial or id."`
	Label  map[string]string `arg:"" help:"key=value; an empty value removes the key."`
}

// Run sets or removes labels.
func (c *deviceLabelCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodPatch, "/devices/"+url.PathEscape(c.Device), map[string]any{"labels": c.Label}, func(d *rest.Device) error {
		fmt.Fprintf(io.out, "%s has %d labels.\n", d.Serial, len(d.Labels))
		return nil
	})
}

type deviceMoveCmd struct {
	remote `embed:""`
	Device string `arg:"" help:"Serial or id."`
	State  string `arg:"" help:"New state, for example suspended, active, scrapped."`
}

// Run moves a device to another state.
func (c *deviceMoveCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodPost, "/devices/"+url.PathEscape(c.Device)+"/state", map[string]string{"state": c.State}, func(d *rest.Device) error {
		fmt.Fprintf(io.out, "%s is %s.\n", d.Serial, d.State)
		return nil
	})
}

type deviceSecretCmd struct {
	remote `embed:""`
	Device string `arg:"" help:"Serial or id."`
}

// Run makes a new one-time secret; the old one is dead.
func (c *deviceSecretCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodPost, "/devices/"+url.PathEscape(c.Device)+"/secret", nil, func(d *rest.AddedDevice) error {
		fmt.Fprintf(io.out, "One-time secret of %s, shown once: %s\n", d.Serial, d.Secret)
		return nil
	})
}

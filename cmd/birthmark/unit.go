package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/web/rest"
)

type deviceShipCmd struct {
	remote `embed:""`
	Serial []string `help:"Serial numbers." sep:","`
	List   string   `help:"File with one serial number a line (- for standard input)." placeholder:"FILE"`
}

// Run notes devices as shipped, 10,000 at a time.
func (c *deviceShipCmd) Run(ctx context.Context, io *streams) error {
	return c.with(ctx, func(a *api) error {
		var all rest.Shipment
		err := inParts(io, c.Serial, c.List, 10_000, func(part []string) error {
			var out rest.Shipment
			if err := a.do(ctx, http.MethodPost, "/shipments", map[string]any{"serials": part}, &out); err != nil {
				return err
			}
			all.Shipped += out.Shipped
			all.Refused, all.Code, all.Message = out.Refused, out.Code, out.Message
			if len(out.Refused) > 0 {
				return errSilent
			}
			return nil
		})
		if err != nil && len(all.Refused) == 0 {
			return err
		}
		if c.JSON {
			if printed := printJSON(io.out, &all); printed != nil {
				return printed
			}
			return err
		}
		fmt.Fprintf(io.out, "Noted %s devices as shipped.\n", number(int64(all.Shipped)))
		if len(all.Refused) == 0 {
			return nil
		}
		return notShipped(&all)
	})
}

// notShipped names the devices that cannot be shipped.
func notShipped(s *rest.Shipment) error {
	const most = 20
	names := strings.Join(s.Refused[:min(len(s.Refused), most)], ", ")
	if more := len(s.Refused) - most; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	f := fault.New(fault.UnitState)
	for _, e := range fault.All() {
		if e.Code.String() == s.Code {
			f = fault.New(e.Code)
		}
	}
	f.Detail = "nothing of their part was noted; cannot be shipped: " + names
	return f
}

type deviceBuildIntoCmd struct {
	remote    `embed:""`
	System    string   `arg:"" help:"Serial of the system."`
	Component []string `arg:"" optional:"" help:"Serials of the devices that are built into it."`
	List      string   `help:"File with one serial number a line (- for standard input)." placeholder:"FILE"`
}

// Run links components to the system that they are built into.
func (c *deviceBuildIntoCmd) Run(ctx context.Context, io *streams) error {
	return c.with(ctx, func(a *api) error {
		built := 0
		err := inParts(io, c.Component, c.List, 500, func(part []string) error {
			built += len(part)
			return a.do(ctx, http.MethodPost, "/devices/"+url.PathEscape(c.System)+"/components", map[string]any{"components": part}, nil)
		})
		if err != nil {
			return err
		}
		if c.JSON {
			return printJSON(io.out, map[string]any{"system": c.System, "components": built})
		}
		fmt.Fprintf(io.out, "Built %s devices into %s.\n", number(int64(built)), c.System)
		return nil
	})
}

type certificateCheckCmd struct {
	remote `embed:""`
	File   string `arg:"" help:"A certificate that was seen somewhere, PEM or DER (- for standard input)."`
}

// Run looks a certificate up; one of ours that no record names raises an alarm
// and is refused.
func (c *certificateCheckCmd) Run(ctx context.Context, io *streams) error {
	text, err := fileText(io, c.File)
	if err != nil {
		return err
	}
	der, err := certificateDER(text)
	if err != nil {
		return err
	}
	in := map[string][]byte{"certificate": der}
	return call(ctx, &c.remote, io, http.MethodPost, "/certificates/check", in, func(x *rest.CheckedCertificate) error {
		switch {
		case x.Unaccounted:
			fmt.Fprintln(io.out, "An authority of ours signed it, and no record names it. An alarm was raised.")
			return errSilent
		case !x.Ours:
			fmt.Fprintln(io.out, "No authority of ours signed it.")
			return errSilent
		}
		fmt.Fprintf(io.out, "%s is %s.\n", x.Serial, x.State)
		return nil
	})
}

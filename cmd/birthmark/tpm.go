package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/birthmark/birthmark/internal/web/rest"
)

type tpmCmd struct {
	Roots  tpmRootsCmd  `cmd:"" help:"Whose TPMs are genuine: signed bundles of makers' roots."`
	Policy tpmPolicyCmd `cmd:"" help:"Which firmware states a product's TPMs may be in."`
	Show   tpmShowCmd   `cmd:"" help:"Show the TPM of a device as its last evidence showed it."`
	Accept tpmAcceptCmd `cmd:"" help:"Accept that a device's TPM was cleared: its counters begin anew."`
}

type tpmPolicyCmd struct {
	Set  tpmPolicySetCmd  `cmd:"" help:"Set the firmware policy of a product; it counts from the next challenge on."`
	Show tpmPolicyShowCmd `cmd:"" help:"Print the firmware policy of a product."`
	List tpmPolicyListCmd `cmd:"" help:"List firmware policies."`
	End  tpmPolicyEndCmd  `cmd:"" help:"End the firmware policy of a product: no quote is asked for any more."`
}

func policyPath(product string) string { return "/tpm/policies/" + url.PathEscape(product) }

type tpmPolicySetCmd struct {
	remote  `embed:""`
	Product string `help:"Product." required:""`
	File    string `arg:"" help:"The policy, JSON (- for standard input)."`
}

// Run sets a policy.
func (c *tpmPolicySetCmd) Run(ctx context.Context, io *streams) error {
	text, err := fileText(io, c.File)
	if err != nil {
		return err
	}
	return call(ctx, &c.remote, io, http.MethodPut, policyPath(c.Product), map[string]string{"policy": string(text)}, func(p *rest.TPMPolicy) error {
		fmt.Fprintf(io.out, "The firmware policy of %s is version %d.\n", p.Product, p.Version)
		return nil
	})
}

type tpmPolicyShowCmd struct {
	remote  `embed:""`
	Product string `help:"Product." required:""`
}

// Run prints the policy as it was set.
func (c *tpmPolicyShowCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodGet, policyPath(c.Product), nil, func(p *rest.TPMPolicy) error {
		_, err := fmt.Fprint(io.out, p.Policy)
		return err
	})
}

type tpmPolicyListCmd struct {
	remote `embed:""`
}

// Run lists policies.
func (c *tpmPolicyListCmd) Run(ctx context.Context, io *streams) error {
	return listAll(ctx, &c.remote, io, "/tpm/policies", url.Values{}, 0, []string{"PRODUCT", "VERSION", "SET", "BY", "SHA256"},
		func(p *rest.TPMPolicy) []string {
			return []string{p.Product, fmt.Sprint(p.Version), day(p.SetAt), p.Author, p.Digest}
		})
}

type tpmPolicyEndCmd struct {
	remote  `embed:""`
	Product string `help:"Product." required:""`
}

// Run ends a policy.
func (c *tpmPolicyEndCmd) Run(ctx context.Context, io *streams) error {
	return c.with(ctx, func(a *api) error {
		if err := a.do(ctx, http.MethodDelete, policyPath(c.Product), nil, nil); err != nil {
			return err
		}
		fmt.Fprintf(io.out, "%s has no firmware policy any more.\n", c.Product)
		return nil
	})
}

// deviceFlag names a device.
type deviceFlag struct {
	Device string `help:"Device, by serial or id." required:"" placeholder:"SERIAL"`
}

func (f *deviceFlag) path() string { return "/devices/" + url.PathEscape(f.Device) }

type tpmShowCmd struct {
	remote     `embed:""`
	deviceFlag `embed:""`
}

// Run shows a device's TPM.
func (c *tpmShowCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodGet, c.path()+"/tpm", nil, printTPM(io))
}

// dotted writes a firmware version as its maker does; the API has it as 16
// hexadecimal digits, as deny lists do.
func dotted(version string) string {
	v, err := strconv.ParseUint(version, 16, 64)
	if err != nil {
		return version
	}
	return fmt.Sprintf("%d.%d.%d.%d", v>>48, v>>32&0xFFFF, v>>16&0xFFFF, v&0xFFFF)
}

func printTPM(io *streams) func(*rest.TPM) error {
	return func(t *rest.TPM) error {
		fmt.Fprintf(io.out, "%s  %s %s\n", t.Serial, cmp.Or(t.Vendor, "TPM"), t.Model)
		masked := ""
		if !t.Plain {
			masked = " (masked by the TPM for one attestation key)"
		}
		return printFields(io.out, [][2]string{
			{"endorsement key", t.EK},
			{"chip", cmp.Or(t.Chip, "in no manifest")},
			{"resets", fmt.Sprintf("%d, restarts %d%s", t.ResetCount, t.RestartCount, masked)},
			{"clock", (time.Duration(t.Clock) * time.Millisecond).String()},
			{"firmware", dotted(t.Firmware) + masked},
			{"seen", day(t.SeenAt)},
		})
	}
}

type tpmAcceptCmd struct {
	remote     `embed:""`
	deviceFlag `embed:""`
	Reason     string `help:"Reason." required:""`
}

// Run lets a TPM that was cleared enroll again.
func (c *tpmAcceptCmd) Run(ctx context.Context, io *streams) error {
	in := rest.Reason{Reason: c.Reason}
	return call(ctx, &c.remote, io, http.MethodPost, c.path()+"/tpm/reset", in, func(t *rest.TPM) error {
		fmt.Fprintf(io.out, "%s: the counters of its TPM begin anew with the next enrollment.\n", t.Serial)
		return nil
	})
}

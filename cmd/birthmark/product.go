package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/birthmark/birthmark/internal/web/rest"
)

type productCmd struct {
	Add    productAddCmd    `cmd:"" help:"Add a product."`
	Change productChangeCmd `cmd:"" aliases:"set" help:"Change a product."`
	List   productListCmd   `cmd:"" help:"List products."`
}

// productFields are what an operator says of a product.
type productFields struct {
	Name          string   `help:"Name." required:""`
	Description   string   `help:"Description."`
	PartNumber    []string `help:"Part numbers."`
	Profile       []string `help:"Profiles under which its devices may enroll; the first is the default (default: ldevid-cloud, idevid)."`
	LeastEvidence string   `help:"Least level of evidence that is accepted: none, listed, chip, tpm, tpm-genuine, tpm-listed or tpm-firmware; see birthmark evidence table."`
	ChipType      []string `help:"Chips it may be built with, as manifests name them; several where there is a second source."`
	KeyModel      string   `help:"How the key of the initial identity gets into a unit: on-device, pre-provisioned, adopted or injected; left out: not made at stations." enum:",on-device,pre-provisioned,adopted,injected" default:""`
	IDevIDProfile string   `name:"idevid-profile" help:"Profile of the initial identity that stations ask for."`
	SerialPattern string   `help:"Regular expression (RE2) that a whole device serial must match."`
	ExternalRef   string   `help:"The maker's own number for it, for example in the ERP."`
}

func (f *productFields) body() rest.Product {
	return rest.Product{
		Name: f.Name, Description: f.Description, PartNumbers: f.PartNumber, Profiles: f.Profile, LeastEvidence: f.LeastEvidence,
		ChipTypes: f.ChipType, KeyModel: f.KeyModel, IDevIDProfile: f.IDevIDProfile, SerialPattern: f.SerialPattern, ExternalRef: f.ExternalRef,
	}
}

type productAddCmd struct {
	remote        `embed:""`
	productFields `embed:""`
}

// Run adds a product.
func (c *productAddCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodPost, "/products", c.body(), func(p *rest.Product) error {
		fmt.Fprintf(io.out, "Added %s; its devices enroll under %s.\n", p.Name, strings.Join(p.Profiles, ", "))
		return nil
	})
}

type productChangeCmd struct {
	remote        `embed:""`
	productFields `embed:""`
}

// Run replaces a product's fields.
func (c *productChangeCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodPut, "/products/"+url.PathEscape(c.Name), c.body(), func(p *rest.Product) error {
		fmt.Fprintf(io.out, "Changed %s.\n", p.Name)
		return nil
	})
}

type productListCmd struct {
	remote `embed:""`
}

// Run lists products.
func (c *productListCmd) Run(ctx context.Context, io *streams) error {
	return listAll(ctx, &c.remote, io, "/products", url.Values{}, 0, []string{"NAME", "PROFILES", "DESCRIPTION", "KEYS", "EVIDENCE", "CHIPS"},
		func(p *rest.Product) []string {
			return []string{p.Name, strings.Join(p.Profiles, ","), p.Description, p.KeyModel, p.LeastEvidence, strings.Join(p.ChipTypes, ",")}
		})
}

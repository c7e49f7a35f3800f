package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/web/rest"
)

type authorityCmd struct {
	List   authorityListCmd   `cmd:"" help:"List authorities."`
	Show   authorityShowCmd   `cmd:"" help:"Show an authority."`
	Bundle authorityBundleCmd `cmd:"" help:"Print the certificates of all authorities as PEM, root last."`
	Create authorityCreateCmd `cmd:"" help:"Make an issuing authority with the root's key."`
	Sign   authoritySignCmd   `cmd:"" help:"Sign the request of an issuing authority whose key is elsewhere."`
	Import authorityImportCmd `cmd:"" help:"Import an authority that exists already."`
	Retire authorityRetireCmd `cmd:"" help:"Retire an authority: it issues no more, its status goes on."`
	Revoke authorityRevokeCmd `cmd:"" help:"Revoke an issuing authority with the root's key."`
	CRL    authorityCRLCmd    `cmd:"" name:"crl" help:"Sign the root's CRL and renew its OCSP responder."`
}

type authorityListCmd struct {
	remote `embed:""`
}

// Run lists authorities.
func (c *authorityListCmd) Run(ctx context.Context, io *streams) error {
	return listAll(ctx, &c.remote, io, "/authorities", url.Values{}, 0, []string{"NAME", "KIND", "STATE", "PARENT", "SUBJECT", "NOT AFTER"},
		func(a *rest.Authority) []string {
			end := ""
			if a.NotAfter != nil {
				end = day(*a.NotAfter)
			}
			return []string{a.Name, a.Kind, a.State, a.Parent, a.Subject, end}
		})
}

type authorityShowCmd struct {
	remote `embed:""`
	Name   string `help:"Name of the authority." required:""`
}

func printAuthority(io *streams, done string) func(*rest.Authority) error {
	return func(a *rest.Authority) error {
		fmt.Fprintf(io.out, "%s%s: %s, %s, %s\n", done, a.Name, a.Kind, a.State, a.Subject)
		return nil
	}
}

// Run shows an authority.
func (c *authorityShowCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodGet, "/authorities/"+url.PathEscape(c.Name), nil, func(a *rest.Authority) error {
		if err := printAuthority(io, "")(a); err != nil {
			return err
		}
		fmt.Fprint(io.out, a.PEM)
		return nil
	})
}

type authorityBundleCmd struct {
	remote `embed:""`
	Name   string `help:"Only this authority."`
}

// Run prints PEM.
func (c *authorityBundleCmd) Run(ctx context.Context, io *streams) error {
	return c.with(ctx, func(a *api) error {
		var all listing[rest.Authority]
		if err := a.do(ctx, http.MethodGet, "/authorities", nil, &all); err != nil {
			return err
		}
		var issuing, roots bytes.Buffer
		for _, one := range all.Items {
			switch {
			case c.Name != "" && one.Name != c.Name, one.PEM == "":
			case c.Name == "" && one.State != "active" && one.State != "retired":
			case one.Kind == "root":
				roots.WriteString(one.PEM)
			default:
				issuing.WriteString(one.PEM)
			}
		}
		if issuing.Len()+roots.Len() == 0 {
			return fault.New(fault.AuthorityUnknown, c.Name)
		}
		issuing.Write(roots.Bytes())
		_, err := io.out.Write(issuing.Bytes())
		return err
	})
}

// rootFlags are what an act of a root needs.
type rootFlags struct {
	Root               string `help:"Name of the root." default:"root"`
	RootPassphraseFile string `help:"File with the passphrase of the root's key (- for standard input)." required:"" placeholder:"FILE"`
}

// body starts a request with the root's passphrase.
func (f *rootFlags) body(io *streams) (map[string]any, error) {
	text, err := fileText(io, f.RootPassphraseFile)
	if err != nil {
		return nil, err
	}
	return map[string]any{"root": f.Root, "root_passphrase": string(bytes.TrimRight(text, "\r\n"))}, nil
}

type authorityCreateCmd struct {
	remote     `embed:""`
	rootFlags  `embed:""`
	Name       string `help:"Name of the new authority." required:""`
	CommonName string `help:"Common name in its certificate."`
	KeyType    string `help:"Key type." default:"p256"`
	CRLShards  int    `name:"crl-shards" help:"Number of CRL shards." default:"1"`
}

// Run makes an issuing authority.
func (c *authorityCreateCmd) Run(ctx context.Context, io *streams) error {
	in, err := c.body(io)
	if err != nil {
		return err
	}
	in["name"], in["common_name"], in["key_type"], in["crl_shards"] = c.Name, c.CommonName, c.KeyType, c.CRLShards
	return call(ctx, &c.remote, io, http.MethodPost, "/authorities", in, printAuthority(io, "Made "))
}

type authoritySignCmd struct {
	remote     `embed:""`
	rootFlags  `embed:""`
	Name       string `help:"Name of the authority." required:""`
	CommonName string `help:"Common name in its certificate."`
	CSR        string `name:"csr" help:"PKCS #10 file (PEM or base64)." required:"" placeholder:"FILE"`
}

// Run signs an authority's request and prints its certificate.
func (c *authoritySignCmd) Run(ctx context.Context, io *streams) error {
	in, err := c.body(io)
	if err != nil {
		return err
	}
	csr, err := fileText(io, c.CSR)
	if err != nil {
		return err
	}
	in["name"], in["common_name"], in["csr"] = c.Name, c.CommonName, string(csr)
	return call(ctx, &c.remote, io, http.MethodPost, "/authorities", in, func(a *rest.Authority) error {
		_, err := fmt.Fprint(io.out, a.PEM)
		return err
	})
}

type authorityImportCmd struct {
	remote      `embed:""`
	Name        string `help:"Name it gets here." required:""`
	Certificate string `help:"PEM file with its certificate." required:"" placeholder:"PEM"`
	Key         string `help:"PEM file with its key (PKCS #8, unencrypted). Without it the authority only vouches for what devices present." placeholder:"PEM"`
}

// Run imports an authority.
func (c *authorityImportCmd) Run(ctx context.Context, io *streams) error {
	certificate, err := fileText(io, c.Certificate)
	if err != nil {
		return err
	}
	in := map[string]string{"name": c.Name, "certificate": string(certificate)}
	if c.Key != "" {
		key, err := fileText(io, c.Key)
		if err != nil {
			return err
		}
		in["key"] = string(key)
	}
	return call(ctx, &c.remote, io, http.MethodPost, "/authorities/import", in, printAuthority(io, "Imported "))
}

type authorityRetireCmd struct {
	remote `embed:""`
	Name   string `help:"Name of the authority." required:""`
}

// Run retires an authority.
func (c *authorityRetireCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodPost, "/authorities/"+url.PathEscape(c.Name)+"/retirement", nil, printAuthority(io, "Retired "))
}

type authorityRevokeCmd struct {
	remote    `embed:""`
	rootFlags `embed:""`
	Name      string `help:"Name of the issuing authority." required:""`
	Reason    string `help:"RFC 5280 reason." default:"cACompromise"`
}

// Run revokes an issuing authority and signs the root's CRL that says so.
func (c *authorityRevokeCmd) Run(ctx context.Context, io *streams) error {
	in, err := c.body(io)
	if err != nil {
		return err
	}
	in["reason"] = c.Reason
	return call(ctx, &c.remote, io, http.MethodPost, "/authorities/"+url.PathEscape(c.Name)+"/revocation", in, printAuthority(io, "Revoked "))
}

type authorityCRLCmd struct {
	remote    `embed:""`
	rootFlags `embed:""`
}

// Run signs the root's CRL.
func (c *authorityCRLCmd) Run(ctx context.Context, io *streams) error {
	in, err := c.body(io)
	if err != nil {
		return err
	}
	return call(ctx, &c.remote, io, http.MethodPost, "/authorities/"+url.PathEscape(c.Root)+"/crl", in, printAuthority(io, "Signed the CRL of "))
}

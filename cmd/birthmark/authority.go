package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

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

	CSR       authorityCSRCmd       `cmd:"" name:"csr" help:"Make an issuing authority's key and print the request for a root elsewhere."`
	ImportCRL authorityImportCRLCmd `cmd:"" name:"import-crl" help:"Publish the CRL that a root elsewhere has signed."`
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
		return printHardware(io, a.Hardware)
	}
}

// Run shows an authority.
func (c *authorityShowCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodGet, "/authorities/"+url.PathEscape(c.Name), nil, func(a *rest.Authority) error {
		if err := printAuthority(io, "")(a); err != nil {
			return err
		}
		if a.Key != "" {
			fmt.Fprintf(io.out, "  key  %s\n", a.Key)
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

// hsmFlags say for the record what holds an authority's key.
type hsmFlags struct {
	HSMModel       string `name:"hsm-model" help:"Maker and model of the HSM that holds the key, for the record."`
	HSMCertificate string `name:"hsm-certificate" help:"Number of the HSM's validation, for example \"FIPS 140-3 #4718\"."`
	HSMLevel       string `name:"hsm-level" help:"Level of that validation, for example 3 or EAL4+."`
}

// hardware is nil when nothing is said.
func (f *hsmFlags) hardware() *rest.Hardware {
	if *f == (hsmFlags{}) {
		return nil
	}
	return &rest.Hardware{Model: f.HSMModel, Certificate: f.HSMCertificate, Level: f.HSMLevel}
}

func printHardware(io *streams, h *rest.Hardware) error {
	if h == nil {
		return nil
	}
	return printFields(io.out, [][2]string{{"hsm", h.Model}, {"validation", h.Certificate}, {"level", h.Level}})
}

// rootFlags are what an act of a root needs.
type rootFlags struct {
	Root               string `help:"Name of the root." default:"root"`
	RootPassphraseFile string `help:"File with the passphrase of the root's key (- for standard input); a root in the signer needs none." placeholder:"FILE"`
}

// body starts a request with the root's passphrase.
func (f *rootFlags) body(io *streams) (map[string]any, error) {
	in := map[string]any{"root": f.Root}
	if f.RootPassphraseFile == "" {
		return in, nil
	}
	text, err := fileText(io, f.RootPassphraseFile)
	if err != nil {
		return nil, err
	}
	in["root_passphrase"] = string(bytes.TrimRight(text, "\r\n"))
	return in, nil
}

type authorityCreateCmd struct {
	remote     `embed:""`
	rootFlags  `embed:""`
	Name       string `help:"Name of the new authority." required:""`
	CommonName string `help:"Common name in its certificate."`
	KeyType    string `help:"Key type; left out: p256, or what the signer's key is."`
	Key        string `help:"Key that birthmark-signer holds; left out: a new file in the data folder." placeholder:"signer:NAME"`
	CRLShards  int    `name:"crl-shards" help:"Number of CRL shards." default:"1"`
	hsmFlags   `embed:""`
}

// Run makes an issuing authority.
func (c *authorityCreateCmd) Run(ctx context.Context, io *streams) error {
	in, err := c.body(io)
	if err != nil {
		return err
	}
	in["name"], in["common_name"], in["key_type"], in["key"], in["crl_shards"] = c.Name, c.CommonName, c.KeyType, c.Key, c.CRLShards
	if h := c.hardware(); h != nil {
		in["hardware"] = h
	}
	return call(ctx, &c.remote, io, http.MethodPost, "/authorities", in, func(a *rest.Authority) error {
		if err := printAuthority(io, "Made ")(a); err != nil || c.Key == "" {
			return err
		}
		name := strings.TrimPrefix(c.Key, "signer:")
		_, err := fmt.Fprintf(io.out, `
The signer signs for it once the key is bound to this certificate:
  birthmark authority bundle --name %s > %[1]s.pem
  birthmark-signer key bind %s --certificate %[1]s.pem
`, c.Name, name)
		return err
	})
}

type authoritySignCmd struct {
	remote     `embed:""`
	rootFlags  `embed:""`
	Name       string `help:"Name of the authority." required:""`
	CommonName string `help:"Common name in its certificate."`
	CSR        string `name:"csr" help:"PKCS #10 file (PEM or base64)." required:"" placeholder:"FILE"`
	hsmFlags   `embed:""`
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
	if h := c.hardware(); h != nil {
		in["hardware"] = h
	}
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
	hsmFlags    `embed:""`
}

// Run imports an authority.
func (c *authorityImportCmd) Run(ctx context.Context, io *streams) error {
	certificate, err := fileText(io, c.Certificate)
	if err != nil {
		return err
	}
	in := map[string]any{"name": c.Name, "certificate": string(certificate)}
	if h := c.hardware(); h != nil {
		in["hardware"] = h
	}
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

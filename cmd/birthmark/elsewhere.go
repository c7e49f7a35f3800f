package main

import (
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"

	"github.com/birthmark/birthmark/internal/web/rest"
)

type authorityCSRCmd struct {
	remote     `embed:""`
	Name       string `help:"Name of the new authority." required:""`
	CommonName string `help:"Common name that the request asks for; the root decides."`
	KeyType    string `help:"Key type (default: p256, or what the signer's key is)."`
	Key        string `help:"Key that birthmark-signer has (signer:NAME). Without it one is made in a file." placeholder:"URI"`
	CRLShards  int    `name:"crl-shards" help:"Number of CRL shards." default:"1"`
	hsmFlags   `embed:""`
}

// Run makes a key whose certificate a root elsewhere will sign, and prints the
// request for it.
func (c *authorityCSRCmd) Run(ctx context.Context, io *streams) error {
	in := map[string]any{"name": c.Name, "crl_shards": c.CRLShards}
	for name, value := range map[string]string{"common_name": c.CommonName, "key_type": c.KeyType, "key": c.Key} {
		if value != "" {
			in[name] = value
		}
	}
	if h := c.hardware(); h != nil {
		in["hardware"] = h
	}
	return call(ctx, &c.remote, io, http.MethodPost, "/authorities/requests", in, func(r *rest.AuthorityRequest) error {
		_, err := fmt.Fprint(io.out, r.CSR)
		return err
	})
}

type authorityImportCRLCmd struct {
	remote `embed:""`
	Name   string `help:"Name of the root." required:""`
	CRL    string `name:"crl" help:"File with its CRL (PEM or DER)." required:"" placeholder:"FILE"`
}

// Run publishes a CRL that a root elsewhere has signed.
func (c *authorityImportCRLCmd) Run(ctx context.Context, io *streams) error {
	text, err := fileText(io, c.CRL)
	if err != nil {
		return err
	}
	if block, _ := pem.Decode(text); block == nil {
		text = pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: text})
	}
	return call(ctx, &c.remote, io, http.MethodPost, "/authorities/"+url.PathEscape(c.Name)+"/crl/import",
		map[string]string{"crl": string(text)}, printAuthority(io, "Published the CRL of "))
}

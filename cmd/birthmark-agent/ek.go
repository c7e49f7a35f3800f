package main

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/birthmark/birthmark/cmd/internal/program"
	"github.com/birthmark/birthmark/internal/fault"
	format "github.com/birthmark/birthmark/internal/format/tpm"
)

type ekCmd struct {
	tpmFlags `embed:""`

	List bool `help:"Print a line for a list of endorsement keys (birthmark manifest import --format tpm-ek)."`
	JSON bool `help:"Print JSON."`
}

// endorsement is what the list of a maker, or of a buyer who measured each TPM
// himself, says of an endorsement key.
type endorsement struct {
	EKPublic      []byte   `json:"ekPub"` // DER SubjectPublicKeyInfo
	EKCertificate []byte   `json:"ekCert,omitempty"`
	Chain         [][]byte `json:"chain,omitempty"`
}

// Run shows the endorsement key.
func (c *ekCmd) Run(ctx context.Context, io *streams) error {
	t, err := c.open(ctx)
	if err != nil {
		return err
	}
	e, err := t.Endorsement(ctx)
	if err != nil {
		return err
	}
	p, err := format.ParsePublic(e.Public)
	if err != nil {
		return err
	}
	line := endorsement{EKPublic: p.SPKI, EKCertificate: e.Certificate, Chain: e.Chain}
	if c.List {
		return program.PrintLine(io.out, line)
	}
	digest := sha256.Sum256(p.SPKI)
	if c.JSON {
		return program.PrintJSON(io.out, map[string]any{
			"template": e.Template, "uid": fmt.Sprintf("%x", digest), "ekPub": line.EKPublic, "ekCert": line.EKCertificate, "chain": line.Chain,
		})
	}
	vouched := "certified by its maker"
	if len(e.Certificate) == 0 {
		vouched = fault.New(fault.EKNotListed).Remedy + ": it has no certificate"
	}
	_, err = fmt.Fprintf(io.out, "endorsement key %x, template %s\n  %s\n", digest, e.Template, vouched)
	return err
}

package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"time"

	"github.com/birthmark/birthmark/internal/web/rest"
)

type ledgerCmd struct {
	Show   ledgerShowCmd   `cmd:"" help:"Show how far the ledger is, and its newest checkpoint."`
	Entry  ledgerEntryCmd  `cmd:"" help:"Show an entry with its proof."`
	Verify ledgerVerifyCmd `cmd:"" help:"Derive the register anew from the ledger and compare."`
}

type ledgerShowCmd struct {
	remote `embed:""`
}

// Run shows the ledger's state.
func (c *ledgerShowCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodGet, "/ledger", nil, func(l *rest.LedgerState) error {
		fmt.Fprintf(io.out, "%d entries, %d under the newest checkpoint\nverifier key  %s\n\n%s", l.Size, l.Checkpoint, l.VerifierKey, l.Note)
		return nil
	})
}

type ledgerEntryCmd struct {
	remote `embed:""`
	Index  int64 `arg:"" help:"Number of the entry."`
}

// Run shows an entry.
func (c *ledgerEntryCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodGet, fmt.Sprint("/ledger/entries/", c.Index), nil, func(l *rest.LedgerLeaf) error {
		fmt.Fprintf(io.out, "%s\n", l.Entry)
		if l.Actor != "" {
			fmt.Fprintf(io.out, "actor: %s\n", l.Actor)
		}
		fmt.Fprintf(io.out, "under the checkpoint of %d entries by %d hashes\n", l.Size, len(l.Proof))
		return nil
	})
}

type ledgerVerifyCmd struct {
	remote     `embed:""`
	Checkpoint string `help:"Signed checkpoint seen before, from a witness; shows whether the end was cut off." placeholder:"FILE"`
}

// Run verifies; exit 1 and the first bad entry if it does not hold.
func (c *ledgerVerifyCmd) Run(ctx context.Context, io *streams) error {
	in := map[string]string{}
	if c.Checkpoint != "" {
		note, err := fileText(io, c.Checkpoint)
		if err != nil {
			return err
		}
		in["checkpoint"] = base64.StdEncoding.EncodeToString(note)
	}
	begin := time.Now()
	return call(ctx, &c.remote, io, http.MethodPost, "/ledger/verification", in, func(v *rest.Verification) error {
		r := &v.Report
		fmt.Fprintf(io.out, "The record holds: %d entries, %d certificates, %d devices, %d revocations, %d serial leases, %d CRLs, %d units, %d records of the control plane (%s).\nThe newest checkpoint covers %d entries.\n",
			r.Entries, r.Certificates, r.Devices, r.Revocations, r.Leases, r.CRLs, r.Units, r.Records, time.Since(begin).Round(time.Millisecond), r.Checkpoint)
		return nil
	})
}

type clockCmd struct {
	Accept clockAcceptCmd `cmd:"" help:"Take the clock as it is now for right, so that issuing goes on."`
}

type clockAcceptCmd struct {
	remote `embed:""`
}

// Run accepts the clock.
func (c *clockAcceptCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodPost, "/system/clock", nil, func(s *rest.SystemState) error {
		fmt.Fprintf(io.out, "The clock is accepted; issuing: %s.\n", s.Issuing)
		return nil
	})
}

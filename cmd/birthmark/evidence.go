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

type evidenceCmd struct {
	Table evidenceTableCmd `cmd:"" help:"What each kind of evidence proves, and the levels that may be demanded. Needs no data folder."`
	Show  evidenceShowCmd  `cmd:"" help:"What the hardware showed for a certificate, or for a device's current ones."`
}

type evidenceTableCmd struct {
	JSON bool `help:"Print JSON."`
}

// Run prints the table that this program was built with.
func (c *evidenceTableCmd) Run(_ context.Context, io *streams) error {
	t := rest.NewEvidenceTable()
	if c.JSON {
		return printJSON(io.out, t)
	}
	kinds := make([][]string, len(t.Kinds))
	for i, k := range t.Kinds {
		kinds[i] = []string{k.Kind, listed(k.Proves), listed(k.May), k.Words}
	}
	if err := printTable(io.out, []string{"KIND", "PROVES", "MAY PROVE", "IN WORDS"}, kinds); err != nil {
		return err
	}
	fmt.Fprintln(io.out)
	levels := make([][]string, len(t.Levels))
	for i, l := range t.Levels {
		levels[i] = []string{l.Level, listed(l.Demands), strings.Join(reaching(&t, l.Level), ", ")}
	}
	return printTable(io.out, []string{"LEVEL", "DEMANDS", "REACHED BY"}, levels)
}

// listed joins names; none is a dash.
func listed(names []string) string {
	if len(names) == 0 {
		return "-"
	}
	return strings.Join(names, ", ")
}

// reaching returns the kinds of evidence that may reach a level.
func reaching(t *rest.EvidenceTable, level string) []string {
	var kinds []string
	for _, k := range t.Kinds {
		for _, l := range k.Suffices {
			if l == level {
				kinds = append(kinds, k.Kind)
			}
		}
	}
	return kinds
}

type evidenceShowCmd struct {
	remote      `embed:""`
	Certificate string `help:"Certificate serial, hexadecimal." placeholder:"HEX"`
	Device      string `help:"Device, by serial or id: for its current certificates." placeholder:"SERIAL"`
}

// Run shows evidence: in words, or all that was kept as JSON.
func (c *evidenceShowCmd) Run(ctx context.Context, io *streams) error {
	switch {
	case (c.Certificate == "") == (c.Device == ""):
		return fault.New(fault.ParameterInvalid, "name either --certificate or --device")
	case c.Certificate != "":
		return call(ctx, &c.remote, io, http.MethodGet, "/certificates/"+url.PathEscape(c.Certificate)+"/evidence", nil, func(e *rest.Evidence) error {
			printProof(io, &e.Proof)
			return nil
		})
	}
	return call(ctx, &c.remote, io, http.MethodGet, "/devices/"+url.PathEscape(c.Device)+"/evidence", nil, func(l *listing[rest.Evidence]) error {
		if len(l.Items) == 0 {
			fmt.Fprintln(io.out, "The device has no certificates.")
		}
		for i := range l.Items {
			printProof(io, &l.Items[i].Proof)
		}
		return nil
	})
}

// printProof says in words what was proven for a certificate.
func printProof(io *streams, p *rest.Proof) {
	fmt.Fprintf(io.out, "%s  %s  %s  %s\n", p.Slot, p.Certificate, p.Kind, day(p.At))
	for _, w := range p.Words {
		fmt.Fprintf(io.out, "  %s\n", w)
	}
}

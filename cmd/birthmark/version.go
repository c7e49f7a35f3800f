package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/birthmark/birthmark/cmd/internal/program"
	"github.com/birthmark/birthmark/internal/fault"
)

// version is set by the release build.
var version = "development"

type versionCmd struct {
	JSON bool `help:"Print JSON."`
}

// Run prints what this binary was built from.
func (c *versionCmd) Run(io *streams) error {
	return program.PrintBuild(io.out, "birthmark", version, c.JSON)
}

type explainCmd struct {
	Code string `arg:"" help:"Code of a refusal, such as BM-2014."`
	JSON bool   `help:"Print JSON."`
}

// Run prints the entry of the table of refusals.
func (c *explainCmd) Run(io *streams) error {
	n, err := strconv.ParseUint(strings.TrimPrefix(strings.ToUpper(c.Code), "BM-"), 10, 16)
	if err != nil {
		return fault.New(fault.ParameterInvalid, c.Code, "is not a code such as BM-2014")
	}
	e := fault.Lookup(fault.Code(n))
	if e.Code != fault.Code(n) {
		return fault.New(fault.ParameterInvalid, "there is no code", strings.ToUpper(c.Code))
	}
	if c.JSON {
		return printJSON(io.out, map[string]string{"code": e.Code.String(), "kind": e.Kind.String(), "message": e.Message, "remedy": e.Remedy})
	}
	fmt.Fprintf(io.out, "%s (%s)\n  %s\n  %s\n", e.Code, e.Kind, e.Message, e.Remedy)
	return nil
}

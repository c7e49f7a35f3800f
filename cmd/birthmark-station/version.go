package main

import "github.com/birthmark/birthmark/cmd/internal/program"

// version is set by the release build.
var version = "development"

type versionCmd struct {
	JSON bool `help:"Print JSON."`
}

// Run prints what this binary was built from.
func (c *versionCmd) Run(io *streams) error {
	b := program.ThisBuild(version)
	if c.JSON {
		return program.PrintJSON(io.out, b)
	}
	return b.Print(io.out, "birthmark-station")
}

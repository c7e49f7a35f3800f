package main

import "github.com/birthmark/birthmark/cmd/internal/program"

// version is set by the release build.
var version = "development"

type versionCmd struct {
	JSON bool `help:"Print JSON."`
}

// Run prints what this binary was built from.
func (c *versionCmd) Run(io *streams) error {
	return program.PrintBuild(io.out, "birthmark-station", version, c.JSON)
}

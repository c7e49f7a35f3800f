package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the release build.
var version = "development"

type versionCmd struct {
	JSON bool `help:"Print JSON."`
}

// Run prints what this binary was built from.
func (c *versionCmd) Run(io *streams) error {
	info, _ := debug.ReadBuildInfo()
	v := struct {
		Version   string   `json:"version"`
		Go        string   `json:"go"`
		System    string   `json:"system"`
		Revision  string   `json:"revision,omitempty"`
		Libraries []string `json:"libraries"`
	}{Version: version, Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH}
	if info != nil {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v.Revision = s.Value
			}
		}
		for _, d := range info.Deps {
			v.Libraries = append(v.Libraries, d.Path+" "+d.Version)
		}
	}
	if c.JSON {
		return printJSON(io.out, v)
	}
	fmt.Fprintf(io.out, "birthmark-station %s (%s, %s)\n", v.Version, v.Go, v.System)
	return nil
}

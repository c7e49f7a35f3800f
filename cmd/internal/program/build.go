package program

import (
	"crypto/fips140"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
)

// Build is what a binary was made from.
type Build struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	System   string `json:"system"` // linux/amd64
	Revision string `json:"revision,omitempty"`
	// FIPS140 is what Go's cryptography does about FIPS 140-3: off, on, or only,
	// which refuses what is not approved; the module's version behind it.
	FIPS140   string   `json:"fips140"`
	Libraries []string `json:"libraries"`
}

// ThisBuild returns what the running binary was made from.
func ThisBuild(version string) Build {
	b := Build{Version: version, Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH, FIPS140: fipsMode()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			b.Revision = s.Value
		}
	}
	for _, d := range info.Deps {
		b.Libraries = append(b.Libraries, d.Path+" "+d.Version)
	}
	return b
}

func fipsMode() string {
	switch {
	case fips140.Enforced():
		return "only " + fips140.Version()
	case fips140.Enabled():
		return "on " + fips140.Version()
	}
	return "off"
}

// Print writes one line about the build of the named program.
func (b Build) Print(w io.Writer, name string) error {
	_, err := fmt.Fprintf(w, "%s %s (%s, %s)\n", name, b.Version, b.Go, b.System)
	return err
}

// PrintBuild writes what the running binary of the named program was made from, as
// one line or as JSON.
func PrintBuild(w io.Writer, name, version string, asJSON bool) error {
	b := ThisBuild(version)
	if asJSON {
		return PrintJSON(w, b)
	}
	return b.Print(w, name)
}

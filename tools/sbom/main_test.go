package main

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"runtime/debug"
	"strings"
	"testing"
)

var sample = &debug.BuildInfo{
	GoVersion: "go1.26.8",
	Main:      debug.Module{Path: "github.com/birthmark/birthmark", Version: "(devel)"},
	Deps: []*debug.Module{
		{Path: "example.com/a", Version: "v1.0.0", Sum: "h1:aaaa="},
		{Path: "example.com/b", Version: "v2.0.0", Replace: &debug.Module{Path: "example.com/fork", Version: "v2.0.1"}},
	},
	Settings: []debug.BuildSetting{{Key: "CGO_ENABLED", Value: "0"}},
}

func TestListsEveryModuleOnce(t *testing.T) {
	bom := describe(sample, "v1.2.3", [32]byte{1})
	var refs []string
	for _, one := range bom.Components {
		refs = append(refs, one.Ref)
	}
	const want = "pkg:golang/std@1.26.8 pkg:golang/example.com/a@v1.0.0 pkg:golang/example.com/fork@v2.0.1"
	if got := strings.Join(refs, " "); got != want {
		t.Errorf("components %s\nwant       %s", got, want)
	}
	if got := strings.Join(bom.Dependencies[0].DependsOn, " "); got != want {
		t.Errorf("dependencies %s", got)
	}
	// The pattern of the CycloneDX 1.6 schema.
	pattern := regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	if !pattern.MatchString(bom.SerialNumber) {
		t.Errorf("serial number %s", bom.SerialNumber)
	}
}

func TestSameBinarySameBytes(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var one, two bytes.Buffer
	if err := run(self, "v1", &one); err != nil {
		t.Fatal(err)
	}
	if err := run(self, "v1", &two); err != nil {
		t.Fatal(err)
	}
	if !json.Valid(one.Bytes()) || !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Errorf("two runs differ, or are no JSON:\n%s\n%s", &one, &two)
	}
}

func TestRefusesWhatIsNoGoBinary(t *testing.T) {
	if err := run("main.go", "v1", &bytes.Buffer{}); err == nil {
		t.Error("a text file was accepted")
	}
}

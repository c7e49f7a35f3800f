package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/birthmark/birthmark/internal/needs"
)

// TestCeremonyInHardware holds a rehearsal with a real birthmark-signer and
// SoftHSM2.
func TestCeremonyInHardware(t *testing.T) {
	needs.OpenSSL(t)
	needs.Command(t, "softhsm2-util")
	needs.Command(t, "cc")
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), needs.Command(t, "go"), "build", "-tags", "pkcs11", "-o", filepath.Join(dir, "birthmark-signer"), "../birthmark-signer")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/softhsm", RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", dir+string(os.PathListSeparator)+e.Getenv("PATH"))
			return scriptSetup(e)
		},
	})
}

// TestCeremonyRunbook types in what docs/operate/ceremony.md says, in order.
func TestCeremonyRunbook(t *testing.T) {
	needs.Unix(t)
	text, err := os.ReadFile("../../docs/operate/ceremony.md")
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	commands, inside := 0, false
	for line := range strings.Lines(string(text)) {
		switch {
		case strings.HasPrefix(line, "```"):
			inside = !inside && strings.HasPrefix(line, "```sh")
		case inside:
			commands++
			script.WriteString("exec " + strings.ReplaceAll(line, `"`, `'`))
		}
	}
	if commands < 20 {
		t.Fatalf("the runbook has %d commands", commands)
	}
	file := filepath.Join(t.TempDir(), "runbook.txt")
	if err := os.WriteFile(file, []byte(script.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{Files: []string{file}, Setup: scriptSetup})
}

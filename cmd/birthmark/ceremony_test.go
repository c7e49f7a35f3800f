package main

import (
	"os"
	"os/exec"
	"path/filepath"
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

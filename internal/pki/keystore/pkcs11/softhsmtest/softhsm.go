// Package softhsmtest gives tests a token in software: SoftHSM with a folder of
// its own, and OpenSC's pkcs11-tool as a second program that uses it.
package softhsmtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/birthmark/birthmark/internal/needs"
)

// PIN and the security officer's PIN of every token here.
const (
	PIN   = "1234-test"
	SOPIN = "5678-test"
)

// HSM is SoftHSM with its tokens in a temporary folder.
type HSM struct {
	t      testing.TB
	Module string // path of the PKCS #11 library
	Config string // of SOFTHSM2_CONF
	Tokens string // folder
}

// paths of the library on the usual systems.
var paths = []string{
	"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib64/pkcs11/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so",
}

// New returns an HSM with one token of this label, and sets SOFTHSM2_CONF for
// this process.
func New(t testing.TB, label string) *HSM {
	t.Helper()
	needs.Command(t, "softhsm2-util")
	h := &HSM{t: t}
	for _, path := range paths {
		if _, err := os.Stat(path); err == nil {
			h.Module = path
			break
		}
	}
	needs.Need(t, "libsofthsm2.so", h.Module != "")
	dir := t.TempDir()
	h.Tokens, h.Config = filepath.Join(dir, "tokens"), filepath.Join(dir, "softhsm2.conf")
	if err := os.Mkdir(h.Tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	text := "directories.tokendir = " + h.Tokens + "\nobjectstore.backend = file\nlog.level = ERROR\n"
	if err := os.WriteFile(h.Config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", h.Config)
	h.Init(label)
	return h
}

// Init makes another token.
func (h *HSM) Init(label string) {
	h.t.Helper()
	h.run(needs.Command(h.t, "softhsm2-util"), "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", SOPIN)
}

// Tool runs pkcs11-tool, logged in to a token, and returns what it wrote.
func (h *HSM) Tool(token string, args ...string) string {
	h.t.Helper()
	return h.run(needs.Command(h.t, "pkcs11-tool"), append([]string{"--module", h.Module, "--token-label", token, "--login", "--pin", PIN}, args...)...)
}

func (h *HSM) run(program string, args ...string) string {
	h.t.Helper()
	cmd := exec.CommandContext(h.t.Context(), program, args...)
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+h.Config)
	text, err := cmd.CombinedOutput()
	if err != nil {
		h.t.Fatalf("%s %v: %v\n%s", filepath.Base(program), args, err, text)
	}
	return string(text)
}

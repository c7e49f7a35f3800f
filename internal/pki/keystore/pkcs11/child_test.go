//go:build !pkcs11

package pkcs11_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/needs"
	"github.com/birthmark/birthmark/internal/pki/keystore/pkcs11"
)

// TestWithPKCS11 runs this package's tests in a build that has PKCS #11.
func TestWithPKCS11(t *testing.T) {
	needs.Time(t)
	needs.Command(t, "cc")
	needs.Command(t, "softhsm2-util")
	cmd := exec.CommandContext(t.Context(), needs.Command(t, "go"), "test", "-tags", "pkcs11", "-count=1", ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
}

func TestABuildWithoutExplainsItself(t *testing.T) {
	if _, err := pkcs11.Open(pkcs11.Config{}); !fault.Has(err, fault.BuiltWithout) {
		t.Error(err)
	}
	if _, err := pkcs11.Tokens("x"); !fault.Has(err, fault.BuiltWithout) {
		t.Error(err)
	}
}

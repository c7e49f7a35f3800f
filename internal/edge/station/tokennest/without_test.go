//go:build !pkcs11 || !cgo

package tokennest_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/birthmark/birthmark/internal/edge/station/tokennest"
	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/needs"
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
	if _, err := tokennest.New(tokennest.Config{}); !fault.Has(err, fault.BuiltWithout) {
		t.Errorf("%v", err)
	}
}

//go:build !pkcs11 || !cgo

package tokennest_test

import (
	"testing"

	"github.com/birthmark/birthmark/internal/edge/station/tokennest"
	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/needs"
)

// TestWithPKCS11 runs this package's tests in a build that has PKCS #11.
func TestWithPKCS11(t *testing.T) { needs.PKCS11Build(t) }

func TestABuildWithoutExplainsItself(t *testing.T) {
	if _, err := tokennest.New(tokennest.Config{}); !fault.Has(err, fault.BuiltWithout) {
		t.Errorf("%v", err)
	}
}

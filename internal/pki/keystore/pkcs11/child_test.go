//go:build !pkcs11

package pkcs11_test

import (
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/needs"
	"github.com/birthmark/birthmark/internal/pki/keystore/pkcs11"
)

// TestWithPKCS11 runs this package's tests in a build that has PKCS #11.
func TestWithPKCS11(t *testing.T) { needs.PKCS11Build(t) }

func TestABuildWithoutExplainsItself(t *testing.T) {
	if _, err := pkcs11.Open(pkcs11.Config{}); !fault.Has(err, fault.BuiltWithout) {
		t.Error(err)
	}
	if _, err := pkcs11.Tokens("x"); !fault.Has(err, fault.BuiltWithout) {
		t.Error(err)
	}
}

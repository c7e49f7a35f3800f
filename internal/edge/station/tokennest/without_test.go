//go:build !pkcs11 || !cgo

package tokennest_test

import (
	"testing"

	"github.com/birthmark/birthmark/internal/edge/station/tokennest"
	"github.com/birthmark/birthmark/internal/fault"
)

func TestABuildWithoutExplainsItself(t *testing.T) {
	if _, err := tokennest.New(tokennest.Config{}); !fault.Has(err, fault.BuiltWithout) {
		t.Errorf("%v", err)
	}
}

package main

import (
	"testing"

	"github.com/birthmark/birthmark/internal/needs"
)

// TestFIPSScripts runs the core road with GODEBUG=fips140=only: what FIPS 140-3
// does not approve fails in Go's cryptography, and must not be needed.
func TestFIPSScripts(t *testing.T) {
	needs.OpenSSL(t)
	needs.Curl(t)
	runScripts(t, "testdata/fips")
}

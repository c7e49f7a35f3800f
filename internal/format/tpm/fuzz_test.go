package tpm_test

import (
	"path/filepath"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/tpm"
)

// FuzzStructures feeds the readers of public areas, attestations and signatures:
// refusals have one code, and what is read go-tpm writes again to the same octets.
func FuzzStructures(f *testing.F) {
	files, err := filepath.Glob("testdata/swtpm/*")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		b := recorded(f, filepath.Base(file))
		if filepath.Ext(file) == ".pub" {
			b = b[2:]
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, err := range []error{errOf(tpm.ParsePublic(b)), errOf(tpm.ParseAttest(b)), errOf(tpm.ParseSignature(b))} {
			if err != nil && !fault.Has(err, fault.AttestMalformed) {
				t.Fatal(err)
			}
		}
		againWithGoTPM(t, b)
	})
}

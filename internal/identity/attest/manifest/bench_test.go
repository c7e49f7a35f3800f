package manifest_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/birthmark/birthmark/internal/identity/attest/manifest"
	"github.com/birthmark/birthmark/internal/identity/attest/manifest/manifesttest"
)

// BenchmarkImport reports the time that one entry takes on all cores together;
// multiplied by a million it is an import without the store.
func BenchmarkImport(b *testing.B) {
	m := maker(b)
	for _, bench := range []struct {
		format manifest.Format
		write  func(*manifesttest.Maker, io.Writer, int64, int64) error
	}{
		{manifest.Microchip, (*manifesttest.Maker).WriteMicrochip},
		{manifest.Birthmark, (*manifesttest.Maker).Write},
		{manifest.CSV, (*manifesttest.Maker).WriteCSV},
	} {
		b.Run(string(bench.format), func(b *testing.B) {
			const n = 5000
			var file bytes.Buffer
			if err := bench.write(m, &file, 0, n); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(file.Len()))
			b.ReportAllocs()
			for b.Loop() {
				_, err := manifest.Import(b.Context(), bytes.NewReader(file.Bytes()), options(m, bench.format),
					func([]manifest.Chip) error { return nil }, nil)
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/entry")
		})
	}
}

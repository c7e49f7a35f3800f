//go:build unix

package store

import (
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

var benchChips = flag.Int("chips", 100_000, "chips that the benchmark of staging imports")

// madeUpChip has a key that is like a real one in length.
func madeUpChip(n int64) factory.Chip {
	spki := make([]byte, 91)
	for i := 0; i < 64; i += 32 {
		sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte{byte(i)}, uint64(n)))
		copy(spki[27+i:], sum[:])
	}
	return factory.Chip{
		Vendor: "microchip", UID: fmt.Sprintf("0123%014xee", n), ChipType: "ATECC608B-TNGTLS", Entry: n + 1, State: factory.ChipListed,
		Keys: []factory.ChipKey{{Slot: "0", SPKI: spki}},
	}
}

func beginBench(tb testing.TB, s *Store) factory.Manifest {
	m, err := s.BeginManifest(tb.Context(), factory.Manifest{Name: "bench", Digest: sha256.Sum256([]byte(time.Now().String()))},
		ledger.Entry{Kind: ledger.ManifestStaged, Actor: "system", Body: ledger.JSON(map[string]int{})})
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// BenchmarkImport stages and publishes a manifest. Custom metrics: CPU
// microseconds of the process for each chip, in both steps, and the longest
// single call of StageChips.
func BenchmarkImport(b *testing.B) {
	s := openBench(b)
	next := int64(0)
	for b.Loop() {
		m := beginBench(b, s)
		start, cpu := time.Now(), cpuTime()
		longest := time.Duration(0)
		for staged := 0; staged < *benchChips; staged += maxStage {
			var chips []factory.Chip
			for range min(maxStage, *benchChips-staged) {
				chips = append(chips, madeUpChip(next))
				next++
			}
			call := time.Now()
			if duplicates, err := s.StageChips(b.Context(), m.ID, chips); err != nil || len(duplicates) > 0 {
				b.Fatal(duplicates, err)
			}
			longest = max(longest, time.Since(call))
		}
		n := float64(*benchChips)
		b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/n, "stage-cpu-us/chip")
		b.ReportMetric(float64(longest.Microseconds())/1000, "longest-stage-ms")
		cpu = cpuTime()
		m.Chips = int64(*benchChips)
		if err := s.PublishManifest(b.Context(), m, ledger.Entry{Kind: ledger.ManifestImported, Actor: "system", Body: ledger.JSON(map[string]int{})}); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/n, "publish-cpu-us/chip")
		b.ReportMetric(n/time.Since(start).Seconds(), "chips/s")
	}
}

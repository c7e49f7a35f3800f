//go:build unix

package store

import (
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
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
	next := time.Now().UnixMicro() << 8 // chips that no earlier run has
	for b.Loop() {
		began := next
		m := beginBench(b, s)
		start, cpu := time.Now(), cpuTime()
		longest := time.Duration(0)
		for staged := 0; staged < *benchChips; staged += maxStage {
			var chips []factory.Chip
			for range min(maxStage, *benchChips-staged) {
				c := madeUpChip(next)
				next++
				c.Entry = next - began
				chips = append(chips, c)
			}
			call := time.Now()
			if duplicates, err := s.StageChips(b.Context(), m.ID, chips); err != nil || len(duplicates) > 0 {
				b.Fatal(len(duplicates), err)
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

// BenchmarkIssuingBeside measures how long STORE takes for paced callers,
// first alone and then while a manifest is imported. It needs a new database.
func BenchmarkIssuingBeside(b *testing.B) {
	s := openBench(b)
	is := newIssuer(b, s)
	first := is.serial.Load()
	is.addRows(b, first, maxLease, false)
	is.renew(b)
	paced := func(stop func(n int) bool) time.Duration {
		var mu sync.Mutex
		var took []time.Duration
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				for range time.Tick(40 * time.Millisecond) {
					mu.Lock()
					n := len(took)
					i := is.next(is.serial.Add(1) - 1)
					mu.Unlock()
					if stop(n) {
						return
					}
					start := time.Now()
					if _, err := s.StoreIssuance(b.Context(), i); err != nil {
						b.Error(err)
						return
					}
					mu.Lock()
					took = append(took, time.Since(start))
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		slices.Sort(took)
		return took[len(took)*99/100]
	}
	alone := paced(func(n int) bool { return n >= 1000 })
	var done atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		defer done.Store(true)
		if _, err := importAll(b.Context(), s, int64(*benchChips)); err != nil {
			b.Error(err)
		}
	})
	beside := paced(func(int) bool { return done.Load() })
	wg.Wait()
	b.ReportMetric(float64(alone.Microseconds())/1000, "alone-p99-ms")
	b.ReportMetric(float64(beside.Microseconds())/1000, "beside-p99-ms")
	b.ReportMetric(0, "ns/op")
}

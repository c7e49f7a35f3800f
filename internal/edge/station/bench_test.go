package station_test

import (
	"sync"
	"sync/atomic"
	"testing"

	edge "github.com/birthmark/birthmark/internal/edge/station"
	"github.com/birthmark/birthmark/internal/edge/station/sim"
	"github.com/birthmark/birthmark/internal/format/station"
)

// BenchmarkUnit is a whole unit in 64 nests against the server of stationtest,
// which costs more than the station.
func BenchmarkUnit(b *testing.B) {
	r := newRig(b, rigConfig{order: station.Order{Quantity: 1 << 40}, chips: 0, line: edge.Config{Ahead: 256}})
	for i := range b.N {
		chip, err := sim.NewChip(seed, i)
		if err != nil {
			b.Fatal(err)
		}
		r.server.AddChip(chip.UID, chip.SPKI)
	}
	b.ResetTimer()
	var next atomic.Int64
	var nests sync.WaitGroup
	for range 64 {
		nests.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if o := r.line.Do(b.Context(), edge.Job{}); o.Result != edge.Pass {
					b.Errorf("%+v", o)
				}
			}
		})
	}
	nests.Wait()
}

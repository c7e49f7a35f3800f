package enroll_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// BenchmarkEnrollUnit makes units with a chip's proof, 64 at a time: all of the
// road but the wire. Chips, nonces, requests and proofs are made before.
func BenchmarkEnrollUnit(b *testing.B) {
	l := newLine(b, nil)
	l.terms("PO-1", func(o *factory.Order) { o.Quantity = 1_000_000 })
	l.refresh()
	units := make([]*station.Unit, b.N)
	chips := make([]*chip, b.N)
	for i := range chips {
		chips[i] = l.preparedChip(fmt.Sprintf("c%d", i), nil)
	}
	l.list(chips...)
	for from := 0; from < b.N; from += 4096 {
		n := min(4096, b.N-from)
		for i, nonce := range l.draw(l.order.ID, l.station.ID, n) {
			units[from+i] = l.unit(fmt.Sprintf("SN-%d", from+i), newKey(b), chips[from+i], nonce)
		}
	}
	var next atomic.Int64
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := l.ask(units[next.Add(1)-1]); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "units/s")
}

package station_test

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/web/webtest"
)

// BenchmarkUnits is a stream of units with chip proofs, and their confirmations,
// through TLS into the record. The units' own signing is not measured.
func BenchmarkUnits(b *testing.B) {
	f := newFloor(b)
	f.station(b, "ST-1")
	f.Order(b, "PO-1", 1_000_000, 0, "ST-1")
	const batch = 2000
	made := 0
	var issuing, confirming time.Duration
	for b.Loop() {
		b.StopTimer()
		var nonces [][]byte
		for len(nonces) < batch {
			nonces = append(nonces, f.nonces(b, "ST-1", "PO-1", station.MaxNonces)...)
		}
		chips := f.Chips(b, batch)
		units := make(map[string]*webtest.Made, batch)
		var body bytes.Buffer
		for i := range batch {
			u := webtest.Unit(b, "PO-1", serialOf(made), nonces[i], chips[i])
			units[u.ID] = u
			must(b, json.NewEncoder(&body).Encode(&u.Unit))
			made++
		}
		b.StartTimer()
		start := time.Now()
		issued := f.lines(b, "ST-1", station.UnitsPath, &body)
		issuing += time.Since(start)
		b.StopTimer()
		body.Reset()
		for i := range issued {
			if !issued[i].OK {
				b.Fatalf("%+v", issued[i])
			}
			must(b, json.NewEncoder(&body).Encode(units[issued[i].ID].Confirm(b, &issued[i])))
		}
		b.StartTimer()
		start = time.Now()
		for _, r := range f.lines(b, "ST-1", station.ConfirmPath, &body) {
			if !r.OK {
				b.Fatalf("%+v", r)
			}
		}
		confirming += time.Since(start)
	}
	b.ReportMetric(float64(made)/issuing.Seconds(), "units/s")
	b.ReportMetric(float64(made)/confirming.Seconds(), "confirmations/s")
}

//go:build unix

package store

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// bench is a line at which a benchmark makes units.
type benchLine struct {
	*issuer
	order, station int64
	chips          []int64
	block          int64
	nonces         int
	epoch          int64
}

func newBenchLine(b *testing.B, s *Store, chips int) *benchLine {
	l := &benchLine{issuer: newIssuer(b, s)}
	ctx := b.Context()
	entry := ledger.Entry{Kind: ledger.NodeStarted, At: l.at, Actor: "system", Body: ledger.JSON(struct{}{})}
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	name := fmt.Sprint("bench-", l.lease.First)
	product, err := s.AddProduct(ctx, device.Product{Name: name, CreatedAt: l.at}, entry)
	must(err)
	site, err := s.AddSite(ctx, factory.Site{Name: name, CreatedAt: l.at}, entry)
	must(err)
	l.station, err = s.AddStation(ctx, factory.Station{Name: name, Site: site, State: factory.StationActive, Version: 1}, entry)
	must(err)
	l.order, err = s.AddOrder(ctx, factory.Order{Number: name, Product: product, Site: site, State: factory.OrderOpen, Quantity: 1 << 40}, entry)
	must(err)
	m, err := s.BeginManifest(ctx, factory.Manifest{Name: name, Format: "csv", Digest: digestOf(int64(l.lease.First)), ImportedAt: l.at}, entry)
	must(err)
	for from := 0; from < chips; from += 500 {
		var some []factory.Chip
		for i := from; i < min(from+500, chips); i++ {
			key := digestOf(int64(l.lease.First)<<24 + int64(i))
			uid := fmt.Sprintf("%s-%08d", name, i)
			id := s.ChipID("acme", uid)
			some = append(some, factory.Chip{
				ID: id, Vendor: "acme", UID: uid, ChipType: "A1", Manifest: m.ID, Entry: int64(i + 1), State: factory.ChipListed,
				Keys: []factory.ChipKey{{Slot: "0", SPKI: append(make([]byte, 59), key[:]...)}},
			})
			l.chips = append(l.chips, id)
		}
		_, err := s.StageChips(ctx, m.ID, some)
		must(err)
	}
	m.Chips = int64(chips)
	must(s.PublishManifest(ctx, m, entry))
	c, err := s.Control(ctx)
	must(err)
	l.epoch = c.Epoch
	l.drawNonces(b)
	return l
}

// nonceRun is how many nonces the stations of a benchmark draw at a time.
const nonceRun = 256

func (l *benchLine) drawNonces(b *testing.B) {
	id, err := l.s.AddNonceBlock(b.Context(), factory.NonceBlock{Order: l.order, Station: l.station, Count: nonceRun, ExpiresAt: l.at.AddDate(1, 0, 0)})
	if err != nil {
		b.Fatal(err)
	}
	l.block, l.nonces = id, 0
}

func (l *benchLine) unit(b *testing.B, n int64) device.Issuance {
	if l.nonces == nonceRun {
		l.drawNonces(b)
	}
	i := l.next(n)
	d := device.Device{
		ID: i.Credential.Device, DeviceSerial: deviceSerial(n), Product: 1, State: device.Registered, Version: 2, RegisteredAt: l.at, ChangedAt: l.at,
	}
	i.Change, i.ControlEpoch = nil, l.epoch
	i.Unit = &device.UnitIssue{
		Order: l.order, Station: l.station, New: &d, Chip: l.chips[len(l.chips)-1], Nonce: device.NonceRef{Block: l.block, Index: l.nonces},
		ConfirmNonce: digestOf(n), Evidence: "chip", IssueTime: l.at.Sub(l.at.Add(-1_000_000 - 3000*(1+(1<<(n%9))))),
	}
	l.chips = l.chips[:len(l.chips)-1]
	l.nonces++
	e := i.Entries[0]
	registered := ledger.Entry{Kind: ledger.DeviceRegistered, At: l.at, Actor: e.Actor, Body: &ledger.Registered{
		Device: int64(d.ID), DeviceSerial: d.DeviceSerial, Product: 1, Version: 1, State: 1,
	}}
	issued := ledger.Entry{Kind: ledger.UnitIssued, At: l.at, Actor: e.Actor, Body: &ledger.IssuedUnit{
		Credential: int64(i.Credential.ID), Order: l.order, Device: int64(d.ID), Station: l.station, Chip: i.Unit.Chip, Evidence: "chip",
		NonceBlock: l.block, NonceIndex: int64(i.Unit.Nonce.Index), ConfirmNonce: i.Unit.ConfirmNonce,
	}}
	i.Entries = []ledger.Entry{registered, e, issued}
	return i
}

// BenchmarkUnits measures STORE for the units of a line and for their
// confirmations, with so many at a time.
func BenchmarkUnits(b *testing.B) {
	s := openBench(b)
	is := newIssuer(b, s)
	for from := int64(0); from < int64(*benchRows); from += 50000 {
		is.renew(b)
		is.addRows(b, from+1<<40, min(50000, int64(*benchRows)-from), true)
	}
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			l := newBenchLine(b, s, max(b.N, int(*benchRows)))
			first := l.serial.Load() + 1<<42
			var work []device.Issuance
			var confirm []factory.Confirmation
			for n := range int64(b.N) {
				if n > 0 && n%maxLease == 0 {
					l.renew(b)
				}
				i := l.unit(b, first+n)
				work = append(work, i)
				confirm = append(confirm, factory.Confirmation{
					ID: i.Credential.ID, Device: i.Credential.Device, Order: l.order, At: l.at, CycleTime: i.Unit.IssueTime * 1000, FirstPass: true,
				})
			}
			b.ReportAllocs()
			b.ResetTimer()
			measure(b, callers, "issue", func(n int) error {
				_, err := s.StoreIssuance(b.Context(), work[n])
				return err
			})
			measure(b, callers, "confirm", func(n int) error {
				c := confirm[n]
				return s.ConfirmUnit(b.Context(), c, ledger.Entry{Kind: ledger.UnitConfirmed, At: c.At, Actor: "station:line", Body: &ledger.ConfirmedUnit{
					Credential: int64(c.ID), Order: c.Order, Device: int64(c.Device), FirstPass: true, CycleTime: 4000,
				}})
			})
		})
	}
}

// measure calls do for each n by so many callers and reports what one took.
func measure(b *testing.B, callers int, name string, do func(n int) error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	before, begun := cpuTime(), b.Elapsed()
	for range callers {
		wg.Go(func() {
			for {
				n := int(next.Add(1) - 1)
				if n >= b.N {
					return
				}
				if err := do(n); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64((cpuTime()-before).Microseconds())/float64(b.N), name+"-cpu-us")
	b.ReportMetric(float64(b.N)/(b.Elapsed()-begun).Seconds(), name+"/s")
}

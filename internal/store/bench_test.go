//go:build unix

package store

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

var (
	benchRows = flag.Int("rows", 20000, "devices (each with a certificate) that are stored before a benchmark")
	benchDSN  = flag.String("dsn", "", "database of the benchmarks; empty: SQLite in a temporary folder")
)

// issuer makes issuances for devices of a benchmark's database.
type issuer struct {
	s      *Store
	lease  device.SerialLease
	used   atomic.Int64
	serial atomic.Int64
	der    []byte
	at     time.Time
}

func deviceSerial(n int64) string { return fmt.Sprintf("BENCH-%09d", n) }

func digestOf(n int64) (d [32]byte) {
	binary.BigEndian.PutUint64(d[:], uint64(n))
	return sha256.Sum256(d[:8])
}

func openBench(tb testing.TB) *Store {
	dsn := *benchDSN
	if dsn == "" {
		folder := tb.TempDir()
		if base := os.Getenv("BIRTHMARK_BENCH_FOLDER"); base != "" {
			folder = base
		}
		dsn = "sqlite:" + filepath.Join(folder, "birthmark.db")
	}
	s, err := Open(tb.Context(), Config{DSN: dsn, Node: "bench"})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

// addRows stores n devices, the first half of which has a certificate.
func (is *issuer) addRows(tb testing.TB, from, n int64, issued bool) {
	sql := "INSERT INTO device (" + deviceColumns + ") VALUES (" + placeholders(18) + ")"
	for start := from; start < from+n; start += 1000 {
		err := is.s.write(tb.Context(), func(t *tx) error {
			for i := start; i < min(start+1000, from+n); i++ {
				d := device.Device{
					ID: is.s.DeviceID(deviceSerial(i)), DeviceSerial: deviceSerial(i), Product: 1, State: device.Registered, Version: 1,
					Secret: device.Secret{Set: true, Hash: digestOf(-i)}, RegisteredAt: is.at, ChangedAt: is.at,
				}
				if issued {
					d.State = device.Active
				}
				if _, err := t.exec(tb.Context(), sql, deviceValues(&d)...); err != nil {
					return err
				}
				if !issued {
					continue
				}
				c := is.next(i).Credential
				if _, err := t.exec(tb.Context(), insertCredential, credentialValues(&c)...); err != nil {
					return err
				}
				if _, err := t.exec(tb.Context(), insertKey, is.s.spkiRow(&c.SPKIDigest), int64(c.ID)); err != nil {
					return err
				}
			}
			return nil
		}, ledger.Entry{Kind: ledger.DeviceRegistered, At: is.at, Actor: "system", Body: ledger.JSON(map[string]int64{"count": n})})
		if err != nil {
			tb.Fatal(err)
		}
	}
}

func newIssuer(tb testing.TB, s *Store) *issuer {
	is := &issuer{s: s, der: make([]byte, 620), at: time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)}
	rand.Read(is.der)
	is.renew(tb)
	is.serial.Store(int64(is.lease.First)) // devices that no earlier run has
	return is
}

func (is *issuer) renew(tb testing.TB) {
	l, err := is.s.LeaseSerials(tb.Context(), "bench", maxLease, is.at)
	if err != nil {
		tb.Fatal(err)
	}
	is.lease = l
	is.used.Store(0)
}

type issuedBody struct{ serial, der [32]byte }

func (b issuedBody) AppendJSON(dst []byte) []byte {
	return fmt.Appendf(dst, `{"serial":"%x","der_sha256":"%x","device":"0011223344556677","profile":3,"authority":1,"not_after":"9999-12-31T23:59:59Z"}`, b.serial[:17], b.der)
}

// next returns an issuance for the device n; not for use by several goroutines
// at the end of a lease.
func (is *issuer) next(n int64) device.Issuance {
	id := is.lease.First + device.CredentialID(is.used.Add(1)-1)
	spki := digestOf(int64(id))
	return device.Issuance{
		Lease: is.lease.LeaseRef, ControlEpoch: 1,
		Credential: device.Credential{
			ID: id, CertSerial: is.s.CertSerial(is.lease, id), Authority: 1, Profile: 3, Kind: "idevid", Device: is.s.DeviceID(deviceSerial(n)),
			Product: 1, State: device.Issued, KeyKind: device.KeySoftware, NotBefore: is.at, NotAfter: is.at.AddDate(20, 0, 0),
			SPKIDigest: spki, Idempotency: spki, IssuedAt: is.at, DER: is.der,
		},
		Change: &device.Change{
			ID: is.s.DeviceID(deviceSerial(n)), Version: 1, From: device.Registered, State: device.Active, Slot: device.IDevIDSlot, SpendSPKI: &spki,
		},
		Entries: []ledger.Entry{{Kind: ledger.CertificateIssued, At: is.at, Actor: "device:0011223344556677", Body: issuedBody{}}},
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkStoreIssuance measures STORE with so many callers at a time. Custom
// metric: CPU microseconds of the process for each.
func BenchmarkStoreIssuance(b *testing.B) {
	s := openBench(b)
	is := newIssuer(b, s)
	if *benchRows > 0 {
		for from := int64(0); from < int64(*benchRows); from += 50000 {
			is.renew(b)
			is.addRows(b, from+1<<40, min(50000, int64(*benchRows)-from), true)
		}
	}
	for _, callers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			var work []device.Issuance
			first := is.serial.Load()
			is.serial.Add(int64(b.N))
			is.addRows(b, first, int64(b.N), false)
			for n := range int64(b.N) {
				if n%maxLease == 0 {
					is.renew(b)
				}
				work = append(work, is.next(first+n))
			}
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			before := cpuTime()
			for range callers {
				wg.Go(func() {
					for {
						n := next.Add(1) - 1
						if n >= int64(len(work)) {
							return
						}
						if _, err := s.StoreIssuance(b.Context(), work[n]); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64((cpuTime()-before).Microseconds())/float64(b.N), "cpu-us/op")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "issued/s")
		})
	}
}

// BenchmarkRead measures the look-ups of the hot path, at random.
func BenchmarkRead(b *testing.B) {
	s := openBench(b)
	is := newIssuer(b, s)
	is.addRows(b, 0, min(int64(*benchRows), maxLease), true)
	rows := min(int64(*benchRows), maxLease)
	for name, read := range map[string]func(n int64) error{
		"device": func(n int64) error {
			_, err := s.Device(b.Context(), access.Everything(), s.DeviceID(deviceSerial(n)))
			return err
		},
		"serial": func(n int64) error {
			_, err := s.CredentialBySerial(b.Context(), access.Everything(), s.CertSerial(is.lease, is.lease.First+device.CredentialID(n)))
			return err
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			before, n := cpuTime(), int64(0)
			for b.Loop() {
				if err := read(n * 7919 % rows); err != nil {
					b.Fatal(err)
				}
				n++
			}
			b.ReportMetric(float64((cpuTime()-before).Nanoseconds())/1000/float64(n), "cpu-us/op")
		})
	}
}

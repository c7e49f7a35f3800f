//go:build unix

package status_test

import (
	"context"
	"encoding/binary"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/status"
)

// million is a store with a million revocations that keeps no CRL but the last.
type million struct {
	status.Store
	last status.CRL
}

const millionEntries = 1_000_000

func (m *million) Revocations(_ context.Context, authority int64, shard int, after device.CredentialID, limit int) ([]status.Revocation, error) {
	var page []status.Revocation
	for id := after + 1; id <= millionEntries && len(page) < limit; id++ {
		certSerial := make([]byte, 17)
		certSerial[0] = 0x40
		binary.BigEndian.PutUint64(certSerial[9:], uint64(id))
		page = append(page, status.Revocation{
			Credential: id, CertSerial: certSerial, Authority: authority, Shard: shard,
			At: time.Unix(1795341600, 0).UTC(), Reason: 1, NotAfter: time.Unix(253402300799, 0).UTC(),
		})
	}
	return page, nil
}

func (m *million) SaveCRL(_ context.Context, c status.CRL, _ ledger.Lease, _ ...ledger.Entry) error {
	m.last = c
	return nil
}

func (m *million) CurrentCRLNumber(ctx context.Context, authority int64, shard int) (status.CRL, error) {
	if m.last.Number == 0 || m.last.Authority != authority {
		return m.Store.CurrentCRLNumber(ctx, authority, shard)
	}
	return m.last, nil
}

// BenchmarkCRLRefreshMillion refreshes a list of a million entries after one
// more revocation. The store is left out: writing 37 MB is the database's.
func BenchmarkCRLRefreshMillion(b *testing.B) {
	w := newWorld(b)
	w.Service = w.over(b, &million{Store: w.store})
	var keeper status.Keeper
	noError(b, w.StepWith(b.Context(), &keeper))
	id := int64(millionEntries)
	before := cpu(b)
	for b.Loop() {
		id++
		w.clock.add(time.Second)
		snap, err := w.authorities.Snapshot(b.Context())
		noError(b, err)
		m, err := snap.Authority("issuing")
		noError(b, err)
		w.Revoked(&ledger.Revoked{
			Credential: id, CertSerial: binary.BigEndian.AppendUint64([]byte{0x41}, uint64(id)), Authority: m.ID,
			Reason: 1, RevokedAt: w.clock.now(), NotAfter: w.clock.now().AddDate(20, 0, 0),
		})
		noError(b, w.StepWith(b.Context(), &keeper))
	}
	b.ReportMetric((cpu(b)-before).Seconds()/float64(b.N), "cpu-s/op")
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.Sys)/1e6, "MB-from-system")
}

// cpu returns the processor time of this process.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	noError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

package ledger

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
)

// memory is a database in memory, with the promises of Store, Rows and Source.
type memory struct {
	mu          sync.Mutex
	batches     []Batch
	size        int64
	tiles       map[[2]int64][]byte
	checkpoints []Checkpoint
	private     map[int64]*Private
	leases      map[string]Lease
	fence       int64
	saves       int
	reads       int

	// fail, when set, is asked before each operation by its name; an operation
	// whose name ends in "-after" has been done by then.
	fail func(op string) error

	credentials map[int64]CredentialRow
	devices     map[int64]DeviceRow
	revocations []RevocationRow
	serials     map[int64]LeaseRow
	crls        []CRLRow
	units       map[int64]UnitRow
	orders      map[int64]OrderRow
	records     []RecordRow
	evidence    map[int64]EvidenceRow
	tpms        map[int64]TPMRow
}

func newMemory() *memory {
	return &memory{
		tiles: map[[2]int64][]byte{}, private: map[int64]*Private{}, leases: map[string]Lease{},
		credentials: map[int64]CredentialRow{}, devices: map[int64]DeviceRow{}, serials: map[int64]LeaseRow{},
		units: map[int64]UnitRow{}, orders: map[int64]OrderRow{},
		evidence: map[int64]EvidenceRow{}, tpms: map[int64]TPMRow{},
	}
}

func (m *memory) asked(op string) error {
	m.reads++
	if m.fail == nil {
		return nil
	}
	return m.fail(op)
}

func (m *memory) append(classes Class, leaves ...[]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.batches = append(m.batches, Batch{First: m.size, Classes: classes, Leaves: leaves})
	m.size += int64(len(leaves))
}

func (m *memory) LedgerSize(context.Context) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.size, m.asked("size")
}

func (m *memory) LedgerBatches(_ context.Context, from int64, mask Class, limit int) ([]Batch, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.asked("batches"); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(m.batches, func(b Batch) bool { return from < b.First+int64(len(b.Leaves)) })
	var out []Batch
	for ; i >= 0 && i < len(m.batches); i++ {
		b := m.batches[i]
		if len(out) > 0 && len(b.Leaves) > limit {
			break
		}
		limit -= len(b.Leaves)
		if b.Classes&mask == 0 {
			b.Leaves = make([][]byte, len(b.Leaves))
		}
		out = append(out, b)
	}
	return out, nil
}

func (m *memory) LedgerPrivate(_ context.Context, index int64) (*Private, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.private[index], m.asked("private")
}

func (m *memory) Tile(_ context.Context, level int, n int64) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.asked("tile"); err != nil {
		return nil, err
	}
	row, ok := m.tiles[[2]int64{int64(level), n}]
	if !ok {
		return nil, fault.New(fault.EntryUnknown)
	}
	return row, nil
}

func (m *memory) SaveTiles(_ context.Context, tiles []Tile, c Checkpoint, lease Lease) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.asked("save"); err != nil {
		return err
	}
	if m.leases[lease.Job].Fence != lease.Fence {
		return fault.New(fault.NodeFenced)
	}
	for _, t := range tiles {
		m.tiles[[2]int64{int64(t.Level), t.N}] = slices.Clone(t.Hashes)
	}
	m.checkpoints = append(m.checkpoints, c)
	m.saves++
	return m.asked("save-after")
}

func (m *memory) LatestCheckpoint(context.Context) (Checkpoint, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.asked("checkpoint"); err != nil || len(m.checkpoints) == 0 {
		return Checkpoint{}, err
	}
	return m.checkpoints[len(m.checkpoints)-1], nil
}

func (m *memory) AcquireLease(_ context.Context, job, node string, _ int) (Lease, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.asked("lease"); err != nil {
		return Lease{}, false, err
	}
	l, ok := m.leases[job]
	if ok && l.Node != node {
		return Lease{}, false, nil
	}
	if !ok {
		m.fence++
		l = Lease{Job: job, Node: node, Fence: m.fence}
		m.leases[job] = l
	}
	return l, true, nil
}

// expire ends all leases, as time would.
func (m *memory) expire() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.leases)
}

func pageOf[R any](rows map[int64]R, after int64, limit int) []R {
	ids := make([]int64, 0, len(rows))
	for id := range rows {
		if id > after {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	var page []R
	for _, id := range ids[:min(limit, len(ids))] {
		page = append(page, rows[id])
	}
	return page
}

func (m *memory) CredentialRows(_ context.Context, after int64, limit int) ([]CredentialRow, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return pageOf(m.credentials, after, limit), m.asked("credentials")
}

func (m *memory) DeviceRows(_ context.Context, after int64, limit int) ([]DeviceRow, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return pageOf(m.devices, after, limit), m.asked("devices")
}

func (m *memory) LeaseRows(_ context.Context, after int64, limit int) ([]LeaseRow, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return pageOf(m.serials, after, limit), m.asked("leases")
}

func (m *memory) RevocationRows(_ context.Context, after RevocationRow, limit int) ([]RevocationRow, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	order := func(a, b RevocationRow) int {
		return cmp.Or(cmp.Compare(a.Authority, b.Authority), cmp.Compare(a.Shard, b.Shard), cmp.Compare(a.Credential, b.Credential))
	}
	rows := slices.SortedFunc(slices.Values(m.revocations), order)
	rows = slices.DeleteFunc(rows, func(r RevocationRow) bool { return order(r, after) <= 0 })
	return rows[:min(limit, len(rows))], m.asked("revocations")
}

func (m *memory) CRLRows(context.Context) ([]CRLRow, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.crls), m.asked("crls")
}

func (m *memory) UnitRows(_ context.Context, after int64, limit int) ([]UnitRow, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return pageOf(m.units, after, limit), m.asked("units")
}

func (m *memory) OrderRows(_ context.Context, after int64, limit int) ([]OrderRow, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return pageOf(m.orders, after, limit), m.asked("orders")
}

func (m *memory) EvidenceRows(_ context.Context, after int64, limit int) ([]EvidenceRow, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return pageOf(m.evidence, after, limit), m.asked("evidence")
}

func (m *memory) TPMRows(_ context.Context, after int64, limit int) ([]TPMRow, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return pageOf(m.tpms, after, limit), m.asked("tpms")
}

func (m *memory) RecordRows(context.Context) ([]RecordRow, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.records), m.asked("records")
}

var errInjected = errors.New("injected")

const testOrigin = "ledger.example/acme"

// newTestSigner returns a checkpoint key that depends on the name alone.
func newTestSigner(t testing.TB, name string) Signer {
	t.Helper()
	var seed [ed25519.SeedSize]byte
	copy(seed[:], name)
	s, err := NewSigner(name, ed25519.NewKeyFromSeed(seed[:]), nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// fill appends n leaves in batches of random sizes.
func fill(m *memory, r *rand.Rand, n int64) {
	for n > 0 {
		size := min(n, 1+r.Int64N(70))
		var leaves [][]byte
		for range size {
			leaves = append(leaves, fmt.Appendf(nil, "leaf %d %d", m.size+int64(len(leaves)), r.Uint64()))
		}
		m.append(ClassIssuance, leaves...)
		n -= size
	}
}

// leafHashes returns the hashes of all leaves.
func (m *memory) leafHashes() []Hash {
	var hs []Hash
	for _, b := range m.batches {
		for _, l := range b.Leaves {
			hs = append(hs, LeafHash(l))
		}
	}
	return hs
}

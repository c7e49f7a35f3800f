package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// maxLease bounds a block of serials, so that closing it reads few rows.
const maxLease = 65536

// leasedBody is the ledger's account of a block. The seed stays secret while
// serials of the block may still be signed; its hash binds it.
type leasedBody struct {
	Node       string `json:"node"`
	Fence      int64  `json:"fence"`
	First      int64  `json:"first"`
	Count      int64  `json:"count"`
	SeedSHA256 string `json:"seed_sha256"`
}

// closedBody names what became of a block: [from, to] ranges of ids that have
// no certificate and never will.
type closedBody struct {
	Node      string     `json:"node"`
	First     int64      `json:"first"`
	Count     int64      `json:"count"`
	Abandoned [][2]int64 `json:"abandoned"`
}

type nodeBody struct {
	Node  string `json:"node"`
	Fence int64  `json:"fence"`
}

func systemEntry(k ledger.Kind, at time.Time, body any) ledger.Entry {
	return ledger.Entry{Kind: k, At: at, Actor: "system", Body: ledger.JSON(body)}
}

// LeaseSerials records and returns a new block of serials for node.
func (s *Store) LeaseSerials(ctx context.Context, node string, count int, at time.Time) (device.SerialLease, error) {
	if count < 1 || count > maxLease {
		return device.SerialLease{}, fmt.Errorf("a block of %d serials", count)
	}
	l := device.SerialLease{Node: node, Count: count}
	if _, err := io.ReadFull(s.cfg.Rand, l.Seed[:]); err != nil {
		return device.SerialLease{}, fmt.Errorf("seed of a block of serials: %w", err)
	}
	err := s.write(ctx, func(t *tx) error {
		fence, err := s.lockNode(ctx, t, node)
		if err != nil {
			return err
		}
		var end int64
		if err := t.row(ctx, "UPDATE serial_head SET next_id = next_id + $1 WHERE id = 1 RETURNING next_id", count).Scan(&end); err != nil {
			return err
		}
		l.ID, l.Fence, l.First = end-int64(count), fence, device.CredentialID(end-int64(count))
		_, err = t.exec(ctx, `INSERT INTO serial_lease (id, node, fence, size, seed, leased_at, closed_at)
VALUES ($1, $2, $3, $4, $5, $6, 0)`, l.ID, node, fence, count, l.Seed[:], at)
		seed := sha256.Sum256(l.Seed[:])
		t.record(systemEntry(ledger.SerialsLeased, at, leasedBody{node, fence, l.ID, int64(count), hex.EncodeToString(seed[:])}))
		return err
	})
	return l, err
}

// lockNode holds the node's row and returns its fence. A former run of this
// node, which the newer one fenced, gets nothing.
func (s *Store) lockNode(ctx context.Context, t *tx, node string) (fence int64, err error) {
	err = t.row(ctx, `INSERT INTO node (name, fence) VALUES ($1, 1)
ON CONFLICT (name) DO UPDATE SET fence = node.fence RETURNING fence`, node).Scan(&fence)
	if own := s.fence.Load(); err == nil && node == s.cfg.Node && own != 0 && own != fence {
		err = fault.New(fault.NodeFenced)
	}
	return fence, err
}

// CloseLease ends a block; its ids without certificate are abandoned from then
// on. Closing twice does nothing.
func (s *Store) CloseLease(ctx context.Context, ref device.LeaseRef, at time.Time) error {
	return s.write(ctx, func(t *tx) error {
		var b closedBody
		// A group that checked the lease holds its row until it is committed, so
		// the credentials counted below are all that there will ever be.
		err := t.row(ctx, `UPDATE serial_lease SET closed_at = $1 WHERE id = $2 AND fence = $3 AND closed_at = 0
RETURNING node, id, size`, at, ref.ID, ref.Fence).Scan(&b.Node, &b.First, &b.Count)
		if noRows(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if b.Abandoned, err = gaps(ctx, t, b.First, b.Count); err != nil {
			return err
		}
		t.record(systemEntry(ledger.SerialsClosed, at, b))
		return nil
	})
}

// gaps returns the ranges of ids in a block that no credential has.
func gaps(ctx context.Context, q querier, first, count int64) ([][2]int64, error) {
	free := [][2]int64{}
	next := first
	upTo := func(id int64) {
		if id > next {
			free = append(free, [2]int64{next, id - 1})
		}
		next = id + 1
	}
	err := each(q.query(ctx, "SELECT id FROM credential WHERE id >= $1 AND id < $2 ORDER BY id", first, first+count))(func(r row) error {
		var id int64
		if err := r.Scan(&id); err != nil {
			return err
		}
		upTo(id)
		return nil
	})
	upTo(first + count)
	return free, err
}

// FenceNode makes this run of node the only one: it raises the node's fence and
// closes all open blocks that a former run left.
func (s *Store) FenceNode(ctx context.Context, node string, at time.Time) error {
	var fence int64
	var open []device.LeaseRef
	err := s.write(ctx, func(t *tx) error {
		open = nil
		err := t.row(ctx, `INSERT INTO node (name, fence) VALUES ($1, 1)
ON CONFLICT (name) DO UPDATE SET fence = node.fence + 1 RETURNING fence`, node).Scan(&fence)
		if err != nil {
			return err
		}
		t.record(systemEntry(ledger.NodeStarted, at, nodeBody{node, fence}))
		// Index serial_lease_open.
		return each(t.query(ctx, "SELECT id, fence FROM serial_lease WHERE node = $1 AND closed_at = 0 ORDER BY id", node))(func(r row) error {
			var ref device.LeaseRef
			if err := r.Scan(&ref.ID, &ref.Fence); err != nil {
				return err
			}
			open = append(open, ref)
			return nil
		})
	})
	if err != nil {
		return err
	}
	if node == s.cfg.Node {
		s.fence.Store(fence)
	}
	for _, ref := range slices.Backward(open) {
		if err := s.CloseLease(ctx, ref, at); err != nil {
			return err
		}
	}
	return nil
}

// AcquireLease takes or renews the right to run a job that must run once in the
// whole installation. A newer run of the same node takes over at once, under a
// new fence.
func (s *Store) AcquireLease(ctx context.Context, job, node string, ttlSeconds int) (ledger.Lease, bool, error) {
	l := ledger.Lease{Job: job, Node: node}
	now := s.cfg.Now()
	var run int64
	if node == s.cfg.Node {
		run = s.fence.Load()
	}
	ok := true
	err := s.write(ctx, func(t *tx) error {
		err := t.row(ctx, `INSERT INTO lease (job, node, run, fence, expires_at) VALUES ($1, $2, $3, 1, $4)
ON CONFLICT (job) DO UPDATE SET
  fence = lease.fence + CASE WHEN lease.node = excluded.node AND lease.run = excluded.run AND lease.expires_at > $5 THEN 0 ELSE 1 END,
  node = excluded.node, run = excluded.run, expires_at = excluded.expires_at
WHERE lease.expires_at <= $5 OR lease.node = excluded.node AND lease.run <= excluded.run
RETURNING fence`, job, node, run, now.Add(time.Duration(ttlSeconds)*time.Second), now).Scan(&l.Fence)
		ok = err == nil
		if noRows(err) {
			return nil
		}
		return err
	})
	return l, ok, err
}

// holdLease locks a job's row and refuses a fence that has been passed on.
func holdLease(ctx context.Context, t *tx, l ledger.Lease) error {
	n, err := t.exec(ctx, "UPDATE lease SET fence = fence WHERE job = $1 AND fence = $2", l.Job, l.Fence)
	if err == nil && n == 0 {
		err = fault.New(fault.NodeFenced)
	}
	return err
}

package store

import (
	"context"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// LedgerSize returns the number of leaves that are committed.
func (s *Store) LedgerSize(ctx context.Context) (size int64, err error) {
	err = s.read.row(ctx, "SELECT size FROM ledger_head WHERE id = 1").Scan(&size)
	return size, err
}

// LedgerBatches returns committed batches from the one that holds index from,
// in order, at most limit leaves (at least one batch). The leaves of batches
// that have no class in common with mask are not read: their elements are nil.
func (s *Store) LedgerBatches(ctx context.Context, from int64, mask ledger.Class, limit int) ([]ledger.Batch, error) {
	var batches []ledger.Batch
	total, full := int64(0), false
	// The batch that holds from is at or before it; those that start before
	// from+limit are at most limit leaves and one batch.
	err := each(s.read.query(ctx, `SELECT id, size, classes, CASE WHEN (classes & $1) <> 0 THEN leaves END FROM ledger_batch
WHERE id >= COALESCE((SELECT max(id) FROM ledger_batch WHERE id <= $2), 0) AND id < $2 + $3 ORDER BY id`,
		int64(mask), from, max(limit, 1)))(func(r row) error {
		var b ledger.Batch
		var size, classes int64
		var raw []byte
		if err := r.Scan(&b.First, &size, &classes, &raw); err != nil {
			return err
		}
		full = full || len(batches) > 0 && total+size > int64(limit)
		if full || b.First+size <= from {
			return nil
		}
		b.Classes = ledger.Class(classes)
		if b.Classes&mask == 0 {
			b.Leaves = make([][]byte, size)
		} else {
			var err error
			if b.Leaves, err = splitLeaves(raw, size); err != nil {
				return err
			}
		}
		total += size
		batches = append(batches, b)
		return nil
	})
	return batches, err
}

// LedgerPrivate returns what is kept beside a leaf, nil if it was erased or
// never was.
func (s *Store) LedgerPrivate(ctx context.Context, index int64) (*ledger.Private, error) {
	var p ledger.Private
	err := s.read.row(ctx, "SELECT salt, value FROM ledger_private WHERE id = $1", index).Scan(fixed(p.Salt[:]), &p.Value)
	if noRows(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &p, nil
}

// Tile returns a tile's hashes, or fault.EntryUnknown.
func (s *Store) Tile(ctx context.Context, level int, n int64) (hashes []byte, err error) {
	err = s.read.row(ctx, "SELECT hashes FROM ledger_tile WHERE level = $1 AND n = $2", level, n).Scan(&hashes)
	if noRows(err) {
		err = fault.New(fault.EntryUnknown)
	}
	return hashes, err
}

// keptCheckpoints is how many former checkpoints stay; consistency is proven
// from tiles, not from them.
const keptCheckpoints = 256

// SaveTiles writes tiles and the checkpoint over them in one transaction, if
// the lease's fence was not passed on.
func (s *Store) SaveTiles(ctx context.Context, tiles []ledger.Tile, c ledger.Checkpoint, lease ledger.Lease) error {
	return s.write(ctx, func(t *tx) error {
		if err := holdLease(ctx, t, lease); err != nil {
			return err
		}
		for _, tile := range tiles {
			if _, err := t.exec(ctx, `INSERT INTO ledger_tile (level, n, hashes) VALUES ($1, $2, $3)
ON CONFLICT (level, n) DO UPDATE SET hashes = excluded.hashes`, tile.Level, tile.N, tile.Hashes); err != nil {
				return err
			}
		}
		if len(c.Note) == 0 {
			return nil
		}
		if _, err := t.exec(ctx, `INSERT INTO checkpoint (id, root, note, made_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (id) DO UPDATE SET root = excluded.root, note = excluded.note, made_at = excluded.made_at`, c.Size, c.Root[:], c.Note, c.At); err != nil {
			return err
		}
		_, err := t.exec(ctx, "DELETE FROM checkpoint WHERE id IN (SELECT id FROM checkpoint ORDER BY id DESC LIMIT 8 OFFSET $1)", keptCheckpoints)
		return err
	})
}

// LatestCheckpoint returns the newest signed checkpoint; a zero Checkpoint if
// there is none.
func (s *Store) LatestCheckpoint(ctx context.Context) (ledger.Checkpoint, error) {
	var c ledger.Checkpoint
	err := s.read.row(ctx, "SELECT id, root, note, made_at FROM checkpoint ORDER BY id DESC LIMIT 1").Scan(&c.Size, fixed(c.Root[:]), &c.Note, &c.At)
	if noRows(err) {
		return ledger.Checkpoint{}, nil
	}
	return c, err
}

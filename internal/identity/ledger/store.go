package ledger

import "context"

// Store is what the sequencer, the feed and Verify need of the database.
type Store interface {
	// LedgerSize returns the number of leaves that are committed. Indexes
	// 0..size-1 exist without gaps, in commit order on all nodes.
	LedgerSize(ctx context.Context) (int64, error)
	// LedgerBatches returns committed batches from the one that holds index
	// from, in order, at most limit leaves (at least one batch). Batches whose
	// classes have nothing in common with mask come without Leaves' data
	// (Leaves has the right length, elements nil).
	LedgerBatches(ctx context.Context, from int64, mask Class, limit int) ([]Batch, error)
	// LedgerPrivate returns what is kept beside a leaf, nil if it was erased or
	// never was.
	LedgerPrivate(ctx context.Context, index int64) (*Private, error)
	// Tile returns a tile's hashes (32 bytes each) or fault.EntryUnknown.
	Tile(ctx context.Context, level int, n int64) ([]byte, error)
	// SaveTiles writes tiles (full, or the current right edge) and the
	// checkpoint over them in one transaction, if fence still holds the lease.
	SaveTiles(ctx context.Context, tiles []Tile, c Checkpoint, lease Lease) error
	// LatestCheckpoint returns the newest signed checkpoint; a zero Checkpoint
	// if there is none.
	LatestCheckpoint(ctx context.Context) (Checkpoint, error)
	// AcquireLease takes or renews the right to run a job that must run once in
	// the whole installation; ok is false while another node holds it.
	AcquireLease(ctx context.Context, job, node string, ttlSeconds int) (l Lease, ok bool, err error)
}

// Tile is a row of consecutive hashes of the tree (C2SP tlog-tiles, height 8).
type Tile struct {
	Level  int
	N      int64
	Hashes []byte // 32 bytes each, at most 256
}

// Checkpoint is a signed tree head as C2SP tlog-checkpoint writes it.
type Checkpoint struct {
	Size int64
	Root [32]byte
	Note []byte // the signed note
	At   int64  // unix seconds
}

// Lease is the right to run a single-runner job. Every write of the job names
// the fence; a fence that has been passed on writes nothing.
type Lease struct {
	Job   string
	Node  string
	Fence int64
}

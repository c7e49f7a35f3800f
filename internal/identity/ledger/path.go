package ledger

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/birthmark/birthmark/internal/fault"
)

// TilePath names a tile of hashes as C2SP tlog-tiles does:
// tile/<L>/<N>[.p/<W>]. Width 256 is a full tile.
type TilePath struct {
	Level int
	N     int64
	Width int
}

const (
	tilePrefix = "tile/"
	// tlog's own paths name the height, which C2SP fixes at 8 and leaves out.
	tlogPrefix = "tile/8/"
)

// String returns the path below the log's prefix.
func (p TilePath) String() string {
	t := tlog.Tile{H: tileHeight, L: p.Level, N: p.N, W: p.Width}
	return tilePrefix + strings.TrimPrefix(t.Path(), tlogPrefix)
}

// ParseTilePath reads a path below the log's prefix, in its one spelling.
func ParseTilePath(path string) (TilePath, error) {
	rest, ok := strings.CutPrefix(path, tilePrefix)
	if !ok {
		return TilePath{}, fault.New(fault.EntryUnknown)
	}
	t, err := tlog.ParseTilePath(tlogPrefix + rest)
	if err != nil || t.L < 0 || t.L > 63 || t.N < 0 {
		return TilePath{}, fault.Wrap(fault.EntryUnknown, err)
	}
	return TilePath{t.L, t.N, t.W}, nil
}

// ReadTile returns the octets to serve at a path. What it returned once never
// changes, since every stored tile is part of a signed checkpoint.
func ReadTile(ctx context.Context, s Tiles, p TilePath) ([]byte, error) {
	row, err := s.Tile(ctx, p.Level, p.N)
	if err != nil {
		return nil, err
	}
	if p.Width < 1 || len(row) < p.Width*hashSize {
		return nil, fault.New(fault.EntryUnknown, p.String())
	}
	return row[:p.Width*hashSize], nil
}

// Leaf returns one leaf.
func Leaf(ctx context.Context, s Store, index int64) ([]byte, error) {
	unknown := fault.New(fault.EntryUnknown, index)
	size, err := s.LedgerSize(ctx)
	if err != nil {
		return nil, err
	}
	if index < 0 || index >= size {
		return nil, unknown
	}
	batches, err := s.LedgerBatches(ctx, index, ^Class(0), 1)
	if err != nil {
		return nil, err
	}
	for _, b := range batches {
		if i := index - b.First; i >= 0 && i < int64(len(b.Leaves)) {
			return b.Leaves[i], nil
		}
	}
	return nil, fault.New(fault.LedgerBroken, fmt.Sprintf("entry %d is missing", index))
}

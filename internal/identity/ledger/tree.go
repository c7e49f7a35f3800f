package ledger

import (
	"context"
	"crypto/sha256"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/birthmark/birthmark/internal/fault"
)

// Hash is a node of the tree, as RFC 6962 computes it.
type Hash = tlog.Hash

const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	hashSize   = sha256.Size
)

// leafHasher hashes leaves without allocating.
type leafHasher struct{ buf []byte }

// hash returns SHA-256(0x00 || leaf) (RFC 6962, section 2.1).
func (h *leafHasher) hash(leaf []byte) Hash {
	h.buf = append(append(h.buf[:0], 0), leaf...)
	return sha256.Sum256(h.buf)
}

// LeafHash returns the hash of a leaf in the tree.
func LeafHash(leaf []byte) Hash { return tlog.RecordHash(leaf) }

// edge is the right edge of the tree: at each level the hashes of the tile that
// is not full yet. It is all that is needed to grow the tree, at most 8 KB a
// level.
type edge struct {
	size   int64
	levels [][]byte
}

// add appends a leaf's hash. Each tile that becomes full is given to full,
// which may keep the hashes.
func (e *edge) add(h Hash, full func(Tile) error) error {
	e.size++
	for level := 0; ; level++ {
		if level == len(e.levels) {
			e.levels = append(e.levels, nil)
		}
		row := e.levels[level]
		if row == nil {
			row = make([]byte, 0, tileWidth*hashSize)
		}
		row = append(row, h[:]...)
		e.levels[level] = row
		if len(row) < tileWidth*hashSize {
			return nil
		}
		n := e.size>>(tileHeight*(level+1)) - 1
		if err := full(Tile{Level: level, N: n, Hashes: row}); err != nil {
			return err
		}
		h = subtree(row)
		e.levels[level] = nil
	}
}

// subtree returns the root of a power of two of hashes.
func subtree(row []byte) Hash {
	if len(row) == hashSize {
		return Hash(row)
	}
	half := len(row) / 2
	return tlog.NodeHash(subtree(row[:half]), subtree(row[half:]))
}

// root returns the tree's root. The hashes of each level are split into the
// largest full subtrees; folding them from the right is RFC 6962's definition.
func (e *edge) root() Hash {
	if e.size == 0 {
		return sha256.Sum256(nil)
	}
	var h Hash
	have := false
	for _, row := range e.levels {
		count := len(row) / hashSize
		for width := 1; count > 0; width <<= 1 {
			if count&width == 0 {
				continue
			}
			count -= width
			left := subtree(row[count*hashSize : (count+width)*hashSize])
			if have {
				left = tlog.NodeHash(left, h)
			}
			h, have = left, true
		}
	}
	return h
}

// tiles returns copies of the tiles that are not full.
func (e *edge) tiles() []Tile {
	var ts []Tile
	for level, row := range e.levels {
		if len(row) > 0 {
			ts = append(ts, Tile{Level: level, N: e.size >> (tileHeight * (level + 1)), Hashes: append([]byte(nil), row...)})
		}
	}
	return ts
}

// Tiles is the part of the store that holds the tree.
type Tiles interface {
	// Tile returns a tile's hashes (32 bytes each) or fault.EntryUnknown.
	Tile(ctx context.Context, level int, n int64) ([]byte, error)
}

// loadEdge reads the edge of the tree of this size.
func loadEdge(ctx context.Context, s Tiles, size int64) (*edge, error) {
	e := &edge{size: size}
	for level := 0; size>>(tileHeight*level) > 0; level++ {
		count := size >> (tileHeight * level)
		n, width := count>>tileHeight, int(count%tileWidth)
		e.levels = append(e.levels, nil)
		if width == 0 {
			continue
		}
		row, err := s.Tile(ctx, level, n)
		if fault.Has(err, fault.EntryUnknown) || err == nil && len(row) < width*hashSize {
			return nil, fault.Wrap(fault.LedgerBroken, err, fmt.Sprintf("tile %s is missing", TilePath{level, n, width}))
		}
		if err != nil {
			return nil, err
		}
		e.levels[level] = append([]byte(nil), row[:width*hashSize]...)
	}
	return e, nil
}

// treeReader reads nodes of the tree from tiles, as tlog's proofs want them.
func treeReader(ctx context.Context, s Tiles) tlog.HashReader {
	type key struct {
		level int
		n     int64
	}
	cache := make(map[key][]byte)
	return tlog.HashReaderFunc(func(indexes []int64) ([]Hash, error) {
		hashes := make([]Hash, 0, len(indexes))
		for _, i := range indexes {
			t := tlog.TileForIndex(tileHeight, i)
			k := key{t.L, t.N}
			row, ok := cache[k]
			if !ok || len(row) < t.W*hashSize {
				var err error
				if row, err = s.Tile(ctx, t.L, t.N); err != nil {
					return nil, err
				}
				if len(row) < t.W*hashSize {
					return nil, fault.New(fault.EntryUnknown)
				}
				cache[k] = row
			}
			h, err := tlog.HashFromTile(t, row, i)
			if err != nil {
				return nil, err
			}
			hashes = append(hashes, h)
		}
		return hashes, nil
	})
}

// RootAt returns the root of the tree of the first size leaves, which must have
// been hashed already.
func RootAt(ctx context.Context, s Tiles, size int64) (Hash, error) {
	return tlog.TreeHash(size, treeReader(ctx, s))
}

// InclusionProof proves that the leaf with this index is in the tree of this
// size: tlog.CheckRecord, or any RFC 6962 verifier, checks it.
func InclusionProof(ctx context.Context, s Tiles, index, size int64) (tlog.RecordProof, error) {
	if index < 0 || index >= size {
		return nil, fault.New(fault.EntryUnknown, index)
	}
	return tlog.ProveRecord(size, index, treeReader(ctx, s))
}

// ConsistencyProof proves that the tree of size older is a prefix of the tree of
// size newer: tlog.CheckTree checks it.
func ConsistencyProof(ctx context.Context, s Tiles, older, newer int64) (tlog.TreeProof, error) {
	if older < 0 || older > newer {
		return nil, fault.New(fault.EntryUnknown, older)
	}
	if older == 0 {
		return nil, nil // every tree begins with the empty one
	}
	return tlog.ProveTree(newer, older, treeReader(ctx, s))
}

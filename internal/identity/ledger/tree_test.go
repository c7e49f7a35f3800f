package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"github.com/birthmark/birthmark/internal/fault"
)

// The eight leaves and the roots of the trees over the first of them, with
// which Certificate Transparency's reference implementation tests RFC 6962.
var (
	rfc6962Leaves = []string{
		"", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
	}
	rfc6962Roots = []string{
		"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
		"fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
		"aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
		"d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
		"4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
		"76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
		"ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
		"5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
	}
)

func TestTreeHasTheRootsOfRFC6962(t *testing.T) {
	var e edge
	empty := sha256.Sum256(nil)
	if e.root() != Hash(empty) {
		t.Errorf("empty tree: %x", e.root())
	}
	var h leafHasher
	for i, text := range rfc6962Leaves {
		leaf, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.add(h.hash(leaf), func(Tile) error { return nil }); err != nil {
			t.Fatal(err)
		}
		root := e.root()
		if got := hex.EncodeToString(root[:]); got != rfc6962Roots[i] {
			t.Errorf("%d leaves: root %s, want %s", i+1, got, rfc6962Roots[i])
		}
	}
}

// treeOf is a store that holds the tiles of a tree, and all of its hashes as
// tlog stores them.
type treeOf struct {
	*memory
	stored []Hash
	edge   edge
}

func growTree(t *rapid.T, size int64) *treeOf {
	tree := &treeOf{memory: newMemory()}
	reader := tlog.HashReaderFunc(func(is []int64) (hs []Hash, err error) {
		for _, i := range is {
			hs = append(hs, tree.stored[i])
		}
		return hs, nil
	})
	for i := range size {
		leaf := fmt.Appendf(nil, "leaf %d", i)
		hs, err := tlog.StoredHashes(i, leaf, reader)
		if err != nil {
			t.Fatal(err)
		}
		tree.stored = append(tree.stored, hs...)
		if err := tree.edge.add(LeafHash(leaf), tree.keep); err != nil {
			t.Fatal(err)
		}
	}
	for _, tile := range tree.edge.tiles() {
		if err := tree.keep(tile); err != nil {
			t.Fatal(err)
		}
	}
	want, err := tlog.TreeHash(size, reader)
	if err != nil {
		t.Fatal(err)
	}
	if got := tree.edge.root(); got != want {
		t.Fatalf("size %d: root %s, want %s", size, got, want)
	}
	tree.checkTiles(t, size, reader)
	return tree
}

func (o *treeOf) keep(t Tile) error {
	o.tiles[[2]int64{int64(t.Level), t.N}] = t.Hashes
	return nil
}

// checkTiles compares the tiles with those that tlog would publish.
func (o *treeOf) checkTiles(t *rapid.T, size int64, reader tlog.HashReader) {
	want := tlog.NewTiles(tileHeight, 0, size)
	if len(want) != len(o.tiles) {
		t.Fatalf("size %d: %d tiles, want %d", size, len(o.tiles), len(want))
	}
	for _, w := range want {
		data, err := tlog.ReadTileData(w, reader)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ReadTile(context.Background(), o, TilePath{w.L, w.N, w.W})
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("size %d: tile %s differs (%v)", size, w.Path(), err)
		}
	}
}

func sizes() *rapid.Generator[int64] {
	return rapid.OneOf(rapid.Int64Range(1, 40), rapid.SampledFrom([]int64{255, 256, 257, 511, 512, 513, 65535, 65536, 65537}), rapid.Int64Range(1, 3000))
}

func TestProofsHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		size := sizes().Draw(t, "size")
		tree := growTree(t, size)
		root := tree.edge.root()

		index := rapid.Int64Range(0, size-1).Draw(t, "index")
		leaf := LeafHash(fmt.Appendf(nil, "leaf %d", index))
		inclusion, err := InclusionProof(ctx, tree, index, size)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckRecord(inclusion, size, root, index, leaf); err != nil {
			t.Errorf("leaf %d of %d: %v", index, size, err)
		}
		if tlog.CheckRecord(inclusion, size, root, index, LeafHash([]byte("other"))) == nil {
			t.Errorf("another leaf is proved at %d of %d", index, size)
		}

		older := rapid.Int64Range(1, size).Draw(t, "older")
		oldRoot, err := RootAt(ctx, tree, older)
		if err != nil {
			t.Fatal(err)
		}
		consistency, err := ConsistencyProof(ctx, tree, older, size)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckTree(consistency, size, root, older, oldRoot); err != nil {
			t.Errorf("%d is a prefix of %d: %v", older, size, err)
		}
		if tlog.CheckTree(consistency, size, root, older, Hash{1}) == nil {
			t.Errorf("another tree is proved a prefix of %d", size)
		}

		loaded, err := loadEdge(ctx, tree, older)
		if err != nil {
			t.Fatal(err)
		}
		if loaded.root() != oldRoot {
			t.Errorf("the edge loaded at %d has another root", older)
		}
	})
}

func TestProofsOutsideTheTreeAreRefused(t *testing.T) {
	ctx := t.Context()
	m := newMemory()
	for _, c := range []struct{ index, size int64 }{{0, 0}, {-1, 5}, {5, 5}, {0, 1}} {
		if _, err := InclusionProof(ctx, m, c.index, c.size); c.size != 1 && !fault.Has(err, fault.EntryUnknown) {
			t.Errorf("inclusion of %d in %d: %v", c.index, c.size, err)
		}
	}
	if _, err := InclusionProof(ctx, m, 1, 2); !fault.Has(err, fault.EntryUnknown) {
		t.Errorf("a tree that is not stored: %v", err)
	}
	if _, err := ConsistencyProof(ctx, m, 3, 2); !fault.Has(err, fault.EntryUnknown) {
		t.Errorf("consistency of 3 with 2: %v", err)
	}
	if _, err := ConsistencyProof(ctx, m, 2, 3); !fault.Has(err, fault.EntryUnknown) {
		t.Errorf("a tree that is not stored: %v", err)
	}
}

func TestTilePaths(t *testing.T) {
	for _, c := range []struct {
		path string
		want TilePath
	}{
		{"tile/0/000", TilePath{0, 0, 256}},
		{"tile/0/000.p/1", TilePath{0, 0, 1}},
		{"tile/3/x001/x234/067", TilePath{3, 1234067, 256}},
		{"tile/63/x001/234.p/255", TilePath{63, 1234, 255}},
	} {
		got, err := ParseTilePath(c.path)
		if err != nil || got != c.want || got.String() != c.path {
			t.Errorf("%s: %v %v, written %s", c.path, got, err, got)
		}
	}
	for _, path := range []string{
		"", "tile", "tile/", "tile/0", "tile/0/", "tile/0/0", "tile/00/000", "tile/64/000", "tile/-1/000", "tile/data/000", "tile/entries/000",
		"tile/8/0/000", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/01", "tile/0/x000/001", "tile/0/x001/1", "tile/0/001/001", "/tile/0/000",
		"tile/0/000/", "tile/0/000.p", "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
	} {
		if got, err := ParseTilePath(path); !fault.Has(err, fault.EntryUnknown) {
			t.Errorf("%q was read as %+v (%v)", path, got, err)
		}
	}
}

func FuzzParseTilePath(f *testing.F) {
	for _, s := range []string{"tile/0/000", "tile/1/x001/234.p/7", "tile/8/0/000", "tile/data/000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		p, err := ParseTilePath(path)
		if err == nil && p.String() != path {
			t.Errorf("%q is written %q", path, p)
		}
		if err == nil && (p.Level < 0 || p.Level > 63 || p.N < 0 || p.Width < 1 || p.Width > 256) {
			t.Errorf("%q gives %+v", path, p)
		}
	})
}

func BenchmarkHashLeaf(b *testing.B) {
	leaf := make([]byte, 850)
	var e edge
	var h leafHasher
	b.ReportAllocs()
	for b.Loop() {
		_ = e.add(h.hash(leaf), func(Tile) error { return nil })
	}
}

package ledger

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/birthmark/birthmark/internal/fault"
)

// Source is what Verify reads: the ledger and the register.
type Source interface {
	LedgerSize(ctx context.Context) (int64, error)
	LedgerBatches(ctx context.Context, from int64, mask Class, limit int) ([]Batch, error)
	LedgerPrivate(ctx context.Context, index int64) (*Private, error)
	LatestCheckpoint(ctx context.Context) (Checkpoint, error)
	Tiles
	Rows
}

// VerifyOptions are what Verify needs besides the database.
type VerifyOptions struct {
	// Verifiers are the keys of this ledger's checkpoints.
	Verifiers []note.Verifier
	// Outside are signed checkpoints that were kept outside the database: they
	// show when its end was cut off, or all of it replaced.
	Outside [][]byte
	Now     func() time.Time
	// Progress, if set, is called about once in a thousand entries or rows.
	Progress func(Progress)
	// InMemory is how many credentials and devices are looked at in one pass
	// over the ledger; default 2.5 million, about 500 MB at most.
	InMemory int64
}

// Progress says how far Verify is.
type Progress struct {
	Pass, Passes int // from 1
	Stage        string
	Done, Total  int64 // Total is 0 where it is not known
}

// Report is what Verify looked at when all of it held.
type Report struct {
	Entries      int64
	Certificates int64
	Devices      int64
	Revocations  int64
	Leases       int64
	CRLs         int64
	Units        int64
	Evidence     int64
	TPMs         int64
	Records      int64   // of the control plane
	Moving       int64   // rows that changed faster than they could be compared
	Checkpoint   int64   // entries under the newest signed checkpoint
	Root         Hash    // of all entries
	Outside      []int64 // sizes of the outside checkpoints that hold
}

const (
	verifyPage     = 4096
	verifyInMemory = 2_500_000
)

// Verify derives the register anew from the entries and compares: entries with
// tiles, tiles with checkpoints, rows with entries. It may run while the server
// works. The first thing that does not hold is returned as fault.LedgerBroken,
// or fault.LedgerRolledBack where entries that were signed for are gone; the
// detail names it and says what differs.
func Verify(ctx context.Context, src Source, o VerifyOptions) (Report, error) {
	if len(o.Verifiers) == 0 || o.Now == nil {
		return Report{}, errors.New("verify: the checkpoints' keys and a clock are required")
	}
	if o.InMemory <= 0 {
		o.InMemory = verifyInMemory
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	v := &verification{src: src, o: o}
	if err := v.begin(ctx); err != nil {
		return v.report, err
	}
	passes := max(1, (v.size+o.InMemory-1)/o.InMemory)
	seed := maphash.MakeSeed()
	for pass := range passes {
		v.register = newRegister(seed, uint64(pass), uint64(passes))
		v.progress = Progress{Pass: int(pass) + 1, Passes: int(passes)}
		if err := v.pass(ctx); err != nil {
			return v.report, err
		}
	}
	return v.report, nil
}

type verification struct {
	src      Source
	o        VerifyOptions
	report   Report
	progress Progress
	size     int64 // entries when Verify began
	signed   Checkpoint
	heads    []head // in order of size
	register *register
	tree     edge
	row      []byte // stored hashes of the leaves at the tree's edge
	hasher   leafHasher
	orders   map[int64]*orderState // accounts of the passes so far
}

// head is a signed tree head that the entries must have.
type head struct {
	Checkpoint
	outside bool
}

// begin reads the checkpoints.
func (v *verification) begin(ctx context.Context) error {
	for _, signed := range v.o.Outside {
		c, err := OpenCheckpoint(signed, v.o.Verifiers...)
		if err != nil {
			return err
		}
		v.heads = append(v.heads, head{c, true})
		v.report.Outside = append(v.report.Outside, c.Size)
	}
	var err error
	if v.signed, err = v.src.LatestCheckpoint(ctx); err != nil {
		return err
	}
	if v.signed.Note != nil || v.signed.Size != 0 {
		c, err := OpenCheckpoint(v.signed.Note, v.o.Verifiers...)
		if err != nil || c.Size != v.signed.Size || c.Root != v.signed.Root {
			return fault.Wrap(fault.LedgerBroken, err, fmt.Sprintf("the stored checkpoint of size %d is not what was signed", v.signed.Size))
		}
		v.heads = append(v.heads, head{c, false})
	}
	if v.size, err = v.src.LedgerSize(ctx); err != nil {
		return err
	}
	for _, h := range v.heads {
		if h.Size > v.size {
			return fault.New(fault.LedgerRolledBack, fmt.Sprintf("%s covers %d entries, %d are left", h, h.Size, v.size))
		}
	}
	slices.SortFunc(v.heads, func(a, b head) int { return cmp.Compare(a.Size, b.Size) })
	v.report.Checkpoint, v.report.Entries = v.signed.Size, v.size
	return nil
}

// String names the checkpoint in findings.
func (h head) String() string {
	if h.outside {
		return fmt.Sprintf("the checkpoint of size %d from outside", h.Size)
	}
	return fmt.Sprintf("the newest checkpoint, of size %d,", h.Size)
}

func (v *verification) first() bool { return v.progress.Pass == 1 }

func (v *verification) pass(ctx context.Context) error {
	v.progress.Stage, v.progress.Total, v.progress.Done = "entries", v.size, 0
	if v.first() {
		if err := v.compareHeads(); err != nil { // of the empty tree
			return err
		}
	}
	if err := v.entries(ctx, v.size); err != nil {
		return err
	}
	if v.first() {
		if err := v.end(ctx); err != nil {
			return err
		}
	}
	if err := v.unique(); err != nil {
		return err
	}
	v.progress.Total = 0
	return v.rows(ctx)
}

// unique finds the first certificate whose serial was given before, or whose
// public key another device has.
func (v *verification) unique() error {
	first, err := int64(math.MaxInt64), error(nil)
	for earlier, later := range v.register.serials.shared() {
		if later.leaf() < first {
			first, err = later.leaf(), broken("its certificate serial is that of entry %d", earlier.leaf())
		}
	}
	for earlier, later := range v.register.keys.shared() {
		if later.leaf() < first && !later.sameDevice(earlier) {
			first, err = later.leaf(), broken("its public key is that of entry %d, of another device", earlier.leaf())
		}
	}
	v.register.serials, v.register.keys = claims{}, claims{}
	if err != nil {
		return v.badEntry(first, CertificateIssued, err)
	}
	return nil
}

func (v *verification) tick(done int64) {
	v.progress.Done += done
	v.o.Progress(v.progress)
}

// entries folds entries up to size, in the first pass with everything that can
// be said of an entry alone, and of the tree.
func (v *verification) entries(ctx context.Context, size int64) error {
	for v.register.size < size {
		from := v.register.size
		batches, err := v.src.LedgerBatches(ctx, from, ^Class(0), verifyPage)
		if err != nil {
			return err
		}
		for leaf, err := range leavesFrom(batches, from) {
			if err != nil {
				return err
			}
			if err := v.entry(ctx, leaf); err != nil {
				return err
			}
			if v.register.size == size {
				break
			}
		}
		if v.first() {
			if err := checkClasses(batches, from); err != nil {
				return err
			}
		}
		v.tick(v.register.size - from)
	}
	return nil
}

func (v *verification) entry(ctx context.Context, leaf []byte) error {
	index := v.register.size
	if v.first() && index < v.size {
		if err := v.hash(ctx, index, leaf); err != nil {
			return err
		}
	}
	p, err := Decode(leaf)
	if err != nil {
		return v.badEntry(index, kindOf(leaf), err)
	}
	if v.first() && index < v.size && p.Commitment != [32]byte{} {
		beside, err := v.src.LedgerPrivate(ctx, index)
		if err != nil {
			return err
		}
		if beside != nil && beside.Commitment() != p.Commitment {
			return v.badEntry(index, p.Kind, errors.New("the name kept beside it is not the one that acted"))
		}
	}
	if err := v.register.fold(&p); err != nil {
		return v.badEntry(index, p.Kind, err)
	}
	return nil
}

// hash adds a leaf to the tree and compares its hash with the stored one before
// anyone believes what the entry says, so that an edited entry is named itself
// and not the first that contradicts it.
func (v *verification) hash(ctx context.Context, index int64, leaf []byte) error {
	h := v.hasher.hash(leaf)
	if index < v.signed.Size {
		if err := v.compareLeaf(ctx, index, h); err != nil {
			return err
		}
	}
	if err := v.tree.add(h, func(t Tile) error { return v.fullTile(ctx, t) }); err != nil {
		return err
	}
	if v.tree.size == v.signed.Size {
		for _, t := range v.tree.tiles() {
			if err := v.compareTile(ctx, t); err != nil {
				return err
			}
		}
	}
	return v.compareHeads()
}

func (v *verification) compareLeaf(ctx context.Context, index int64, h Hash) error {
	n, i := index>>tileHeight, int(index%tileWidth)
	if i == 0 {
		row, err := v.src.Tile(ctx, 0, n)
		if err != nil && !fault.Has(err, fault.EntryUnknown) {
			return err
		}
		v.row = row
	}
	if at := i * hashSize; len(v.row) < at+hashSize || Hash(v.row[at:at+hashSize]) != h {
		return fault.New(fault.LedgerBroken, fmt.Sprintf("entry %d is not what was hashed into tile %s", index, TilePath{0, n, tileWidth}))
	}
	return nil
}

func (v *verification) badEntry(index int64, kind Kind, err error) error {
	return fault.Wrap(fault.LedgerBroken, err, fmt.Sprintf("entry %d (%s): %v", index, kind, err))
}

// checkClasses refuses batches that would be hidden from their followers.
func checkClasses(batches []Batch, from int64) error {
	for _, b := range batches {
		if b.First < from {
			continue
		}
		var classes Class
		for _, leaf := range b.Leaves {
			classes |= ClassOf(kindOf(leaf))
		}
		if classes != b.Classes {
			return fault.New(fault.LedgerBroken, fmt.Sprintf("the batch of entry %d is marked with classes %b, its entries have %b", b.First, b.Classes, classes))
		}
	}
	return nil
}

// compareHeads compares the tree with the signed heads of its size.
func (v *verification) compareHeads() error {
	for len(v.heads) > 0 && v.heads[0].Size == v.tree.size {
		h := v.heads[0]
		v.heads = v.heads[1:]
		if h.Root == v.tree.root() {
			continue
		}
		code := fault.LedgerBroken
		if h.outside {
			code = fault.LedgerRolledBack
		}
		return fault.New(code, fmt.Sprintf("%s has another root: one of the first %d entries was changed", h, h.Size))
	}
	return nil
}

// fullTile compares a tile that the entries make with the stored one.
func (v *verification) fullTile(ctx context.Context, t Tile) error {
	if (t.N+1)<<(tileHeight*(t.Level+1)) > v.signed.Size {
		return nil // not hashed when Verify began
	}
	return v.compareTile(ctx, t)
}

func (v *verification) compareTile(ctx context.Context, t Tile) error {
	width := len(t.Hashes) / hashSize
	stored, err := v.src.Tile(ctx, t.Level, t.N)
	if err != nil && !fault.Has(err, fault.EntryUnknown) {
		return err
	}
	for at := 0; at < len(t.Hashes); at += hashSize {
		if len(stored) >= at+hashSize && bytes.Equal(stored[at:at+hashSize], t.Hashes[at:at+hashSize]) {
			continue
		}
		return fault.New(fault.LedgerBroken, fmt.Sprintf("tile %s does not follow from the entries, at hash %d", TilePath{t.Level, t.N, width}, at/hashSize))
	}
	if len(stored) == len(t.Hashes) {
		return nil
	}
	// Wider than the checkpoint: a newer one was signed meanwhile.
	newest, err := v.src.LatestCheckpoint(ctx)
	if err != nil {
		return err
	}
	if newest.Size == v.signed.Size {
		return fault.New(fault.LedgerBroken, fmt.Sprintf("tile %s has more hashes than there are entries", TilePath{t.Level, t.N, width}))
	}
	return nil
}

// end looks behind the last entry.
func (v *verification) end(ctx context.Context) error {
	v.report.Root = v.tree.root()
	if v.signed.Size == 0 {
		if err := v.neverSigned(ctx); err != nil {
			return err
		}
	}
	batches, err := v.src.LedgerBatches(ctx, v.size, ^Class(0), 1)
	if err != nil || len(batches) == 0 {
		return err
	}
	size, err := v.src.LedgerSize(ctx)
	if err == nil && size <= v.size {
		err = fault.New(fault.LedgerBroken, fmt.Sprintf("entry %d is there, but the ledger is said to end before it", v.size))
	}
	return err
}

// neverSigned refuses tiles that no checkpoint covers.
func (v *verification) neverSigned(ctx context.Context) error {
	if _, err := v.src.Tile(ctx, 0, 0); !fault.Has(err, fault.EntryUnknown) {
		if err != nil {
			return err
		}
		if newest, err := v.src.LatestCheckpoint(ctx); err != nil || newest.Size > 0 {
			return err
		}
		return fault.New(fault.LedgerBroken, "there are hashed entries, but no checkpoint")
	}
	return nil
}

// catchUp folds what was committed meanwhile.
func (v *verification) catchUp(ctx context.Context) error {
	size, err := v.src.LedgerSize(ctx)
	if err != nil {
		return err
	}
	return v.entries(ctx, size)
}

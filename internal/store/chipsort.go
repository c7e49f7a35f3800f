package store

import (
	"cmp"
	"context"
	"math"
	"slices"
	"unsafe"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// How a staged manifest is sorted in: what is held in memory at a time, and what
// one transaction writes.
const (
	sortedAtOnce = 48 << 20 // octets of parts
	chipsInTx    = 500
	keysInTx     = 2000
)

// sorter sorts a staged manifest into chip and chip_key: all chips first, so that
// a key in the tables always has its chip there. It goes over the parts once for
// each range of ids, and inserts what falls into it in order.
type sorter struct {
	s        *Store
	manifest int64
	count    int64 // of keys
}

// idRange is a part of all ids; to is included.
type idRange struct{ from, to int64 }

func (r idRange) has(id int64) bool { return id >= r.from && id <= r.to }

// ranges cuts all ids into n ranges. Ids are hashes, so that each has as many.
func ranges(n int64) []idRange {
	all := make([]idRange, n)
	width := math.MaxInt64/n + 1
	for i := range n {
		all[i] = idRange{i * width, i*width + width - 1}
	}
	all[n-1].to = math.MaxInt64
	return all
}

type sortedChip struct {
	id     int64
	record []byte
}

type sortedKey struct{ id, chip int64 }

func (s *Store) sortIn(ctx context.Context, m *manifestRow) error {
	var octets int64
	if err := s.read.row(ctx, "SELECT CAST(COALESCE(SUM(LENGTH(chips)), 0) AS BIGINT) FROM chip_part WHERE manifest = $1", m.ID).Scan(&octets); err != nil {
		return err
	}
	o := sorter{s: s, manifest: m.ID}
	for _, r := range ranges(octets/sortedAtOnce + 1) {
		if err := o.sortChips(ctx, r); err != nil {
			return err
		}
	}
	for _, r := range ranges(o.count*int64(unsafe.Sizeof(sortedKey{}))/sortedAtOnce + 1) {
		if err := o.sortKeys(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

func (o *sorter) sortChips(ctx context.Context, r idRange) error {
	var chips []sortedChip
	o.count = 0
	err := o.s.eachPart(ctx, o.manifest, 0, func(part []byte) error {
		return storedFault(eachInPart(part, func(p *partChip) {
			o.count += int64(len(p.keys))
			if r.has(p.id) { // a copy, so that a part does not stay for a few of its chips
				chips = append(chips, sortedChip{p.id, slices.Clone(p.record)})
			}
		}))
	})
	slices.SortFunc(chips, func(a, b sortedChip) int { return cmp.Compare(a.id, b.id) })
	for some := range slices.Chunk(chips, chipsInTx) {
		if err == nil {
			err = o.write(ctx, func(t *tx) error { return o.insertChips(ctx, t, some) })
		}
	}
	return err
}

func (o *sorter) sortKeys(ctx context.Context, r idRange) error {
	var keys []sortedKey
	err := o.s.eachPart(ctx, o.manifest, 0, func(part []byte) error {
		return storedFault(eachInPart(part, func(p *partChip) {
			for _, k := range p.keys {
				if r.has(k) {
					keys = append(keys, sortedKey{k, p.id})
				}
			}
		}))
	})
	slices.SortFunc(keys, func(a, b sortedKey) int { return cmp.Compare(a.id, b.id) })
	for some := range slices.Chunk(keys, keysInTx) {
		if err == nil {
			err = o.write(ctx, func(t *tx) error { return o.insertKeys(ctx, t, some) })
		}
	}
	return err
}

// write is a transaction that holds the manifest while it is staged.
func (o *sorter) write(ctx context.Context, fn func(t *tx) error) error {
	return o.s.write(ctx, func(t *tx) error {
		if err := holdManifest(ctx, t, o.manifest, manifestStaged); err != nil {
			return err
		}
		return fn(t)
	})
}

// holdManifest locks a manifest's row, if it still is in a state.
func holdManifest(ctx context.Context, t *tx, manifest, state int64) error {
	n, err := t.exec(ctx, "UPDATE manifest SET visible = visible WHERE id = $1 AND visible = $2", manifest, state)
	if err == nil && n == 0 {
		err = fault.New(fault.ManifestUnknown)
	}
	return err
}

const (
	chipColumnCount = 11
	keysInStatement = 100
)

var (
	insertChips = "INSERT INTO chip (" + chipColumns + ") VALUES " + valuesText(chipColumnCount, insertedAtOnce) + " ON CONFLICT (id) DO NOTHING"
	insertChip1 = "INSERT INTO chip (" + chipColumns + ") VALUES " + valuesText(chipColumnCount, 1) + " ON CONFLICT (id) DO NOTHING"
	insertKeys  = "INSERT INTO chip_key (id, chip) VALUES " + valuesText(2, keysInStatement) + " ON CONFLICT (id) DO NOTHING"
	insertKey1  = "INSERT INTO chip_key (id, chip) VALUES " + valuesText(2, 1) + " ON CONFLICT (id) DO NOTHING"
)

func (o *sorter) insertChips(ctx context.Context, t *tx, some []sortedChip) error {
	args := make([]any, 0, chipColumnCount*len(some))
	for _, c := range some {
		var err error
		if args, err = recordValues(args, c.id, o.manifest, c.record); err != nil {
			return storedFault(err)
		}
	}
	n, err := insertMany(ctx, t, insertChips, insertChip1, chipColumnCount, insertedAtOnce, args)
	if err != nil || n == int64(len(some)) {
		return err
	}
	ids := make([]int64, len(some))
	for i := range some {
		ids[i] = some[i].id
	}
	return o.refuseTaken(ctx, t, selectTakenChips, ids)
}

func (o *sorter) insertKeys(ctx context.Context, t *tx, some []sortedKey) error {
	args, ids := make([]any, 0, 2*len(some)), make([]int64, 0, len(some))
	for _, k := range some {
		args, ids = append(args, k.id, k.chip), append(ids, k.id)
	}
	n, err := insertMany(ctx, t, insertKeys, insertKey1, 2, keysInStatement, args)
	if err != nil || n == int64(len(some)) {
		return err
	}
	return o.refuseTaken(ctx, t, selectTakenKeys, ids)
}

// insertMany inserts rows by a statement for atOnce of them and one for a single
// row, and returns how many went in.
func insertMany(ctx context.Context, t *tx, many, single string, columns, atOnce int, args []any) (int64, error) {
	total := int64(0)
	for len(args) > 0 {
		text, size := single, columns
		if len(args) >= columns*atOnce {
			text, size = many, columns*atOnce
		}
		n, err := t.exec(ctx, text, args[:size]...)
		if err != nil {
			return 0, err
		}
		total += n
		args = args[size:]
	}
	return total, nil
}

// refuseTaken looks why rows did not go in: an earlier attempt put them there, or
// another manifest has them, which is fault.ManifestDuplicate.
func (o *sorter) refuseTaken(ctx context.Context, t *tx, text string, ids []int64) error {
	for some := range slices.Chunk(ids, idsAtOnce) {
		err := each(t.query(ctx, text, padded(some)...))(func(r row) error {
			var d factory.Duplicate
			var id int64
			if err := r.Scan(&id, &d.Manifest, &d.UID); err != nil {
				return err
			}
			if d.Manifest != o.manifest {
				return fault.New(fault.ManifestDuplicate, d.UID, "is in manifest", d.Manifest)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// DiscardManifest removes what was staged, in small transactions; the entries
// come with the last. fault.ManifestBusy when it is visible.
func (s *Store) DiscardManifest(ctx context.Context, id int64, entries ...ledger.Entry) error {
	m, err := readManifest(ctx, s.read, id)
	if err != nil {
		return err
	}
	err = s.write(ctx, func(t *tx) error {
		// An id above zero in staged says that there may be rows to remove.
		n, err := t.exec(ctx, "UPDATE manifest SET visible = $2, staged = CASE WHEN staged = 0 THEN 1 ELSE staged END WHERE id = $1 AND visible = $3",
			id, manifestVoid, manifestStaged)
		if err == nil && n == 0 && m.state != manifestVoid {
			err = fault.New(fault.ManifestBusy)
		}
		return err
	})
	if err != nil {
		return err
	}
	s.staging.forget(id)
	return s.clearVoid(ctx, id, entries...)
}

// finishCleaning ends what was interrupted after a manifest was discarded or
// published. Indexes: manifest_open, and the primary key of chip_part.
func (s *Store) finishCleaning(ctx context.Context) error {
	var void []int64
	err := each(s.read.query(ctx, "SELECT id FROM manifest WHERE visible = 2 AND visible <> 1 AND staged <> 0 ORDER BY id"))(func(r row) error {
		var id int64
		err := r.Scan(&id)
		void = append(void, id)
		return err
	})
	for _, id := range void {
		if err == nil {
			err = s.clearVoid(ctx, id)
		}
	}
	for id := int64(0); err == nil; {
		err = s.read.row(ctx, "SELECT manifest FROM chip_part WHERE manifest > $1 ORDER BY manifest LIMIT 1", id).Scan(&id)
		if noRows(err) {
			return nil
		}
		var m *manifestRow
		if err == nil {
			m, err = readManifest(ctx, s.read, id)
		}
		if err == nil && m.state == manifestVisible {
			err = s.dropStaged(ctx, id)
		}
	}
	return err
}

// clearVoid removes the rows of a discarded manifest, part after part, and notes
// that none is left.
func (s *Store) clearVoid(ctx context.Context, id int64, entries ...ledger.Entry) error {
	for more := true; more; {
		var err error
		if more, err = s.clearPart(ctx, id); err != nil {
			return err
		}
	}
	return s.writeIfNeeded(ctx, func(t *tx) error {
		n, err := t.exec(ctx, "UPDATE manifest SET staged = 0, chips = 0 WHERE id = $1 AND visible = $2 AND staged <> 0", id, manifestVoid)
		if err == nil && n == 0 {
			err = errNothing
		}
		return err
	}, entries...)
}

// clearPart removes a part, with what of it is in the tables.
func (s *Store) clearPart(ctx context.Context, manifest int64) (more bool, err error) {
	err = s.writeIfNeeded(ctx, func(t *tx) error {
		if err := holdManifest(ctx, t, manifest, manifestVoid); err != nil {
			return err
		}
		var part int64
		var raw []byte
		err := t.row(ctx, "SELECT part, chips FROM chip_part WHERE manifest = $1 ORDER BY part LIMIT 1", manifest).Scan(&part, &raw)
		if more = !noRows(err); !more {
			return errNothing
		}
		if err == nil {
			err = clearChips(ctx, t, manifest, raw)
		}
		if err == nil {
			_, err = t.exec(ctx, "DELETE FROM chip_part WHERE manifest = $1 AND part = $2", manifest, part)
		}
		return err
	})
	return more && err == nil, err
}

// clearChips removes the chips of a part with their keys; where a row belongs to
// another manifest, so do the keys.
func clearChips(ctx context.Context, t *tx, manifest int64, part []byte) error {
	var first error
	err := eachInPart(part, func(p *partChip) {
		for _, k := range p.keys {
			if first == nil {
				_, first = t.exec(ctx, "DELETE FROM chip_key WHERE id = $1 AND chip = $2 AND EXISTS (SELECT 1 FROM chip c WHERE c.id = $2 AND c.manifest = $3)",
					k, p.id, manifest)
			}
		}
		if first == nil {
			_, first = t.exec(ctx, "DELETE FROM chip WHERE id = $1 AND manifest = $2", p.id, manifest)
		}
	})
	return cmp.Or(first, storedFault(err))
}

// partsInTx is how many parts one transaction removes.
const partsInTx = 16

// dropStaged removes the parts of a published manifest.
func (s *Store) dropStaged(ctx context.Context, manifest int64) error {
	for more := true; more; {
		err := s.writeIfNeeded(ctx, func(t *tx) error {
			n, err := t.exec(ctx, `DELETE FROM chip_part WHERE manifest = $1
AND part IN (SELECT part FROM chip_part WHERE manifest = $1 ORDER BY part LIMIT $2)`, manifest, partsInTx)
			if more = n > 0; err == nil && !more {
				err = errNothing
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

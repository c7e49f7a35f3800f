package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// Staging is in two steps, because a chip's row and its key's row belong to
// places that are random: put there as they come, each would cost two pages, and
// the disk would be the issuing's no more. So a call of StageChips leaves one
// row, and the ids that are staged are held in memory to know what comes twice;
// publishing sorts all in, in order (chipsort.go), and there the primary keys
// have the last word, also over what another node staged.

// maxStage is how many chips one call stages.
const maxStage = 500

// staging is what this process knows of the manifests that are being staged.
type staging struct {
	mu      sync.Mutex
	sets    map[int64]*stagedSet // guarded by mu
	vendors map[string]struct{}  // guarded by mu; those that are stored
}

// stagedSet is the chips and keys of one manifest, up to an entry.
type stagedSet struct {
	last  int64
	chips map[int64]struct{}
	keys  map[int64]struct{}
}

// forget drops what is known of a manifest that is staged no longer.
func (g *staging) forget(manifest int64) {
	g.mu.Lock()
	delete(g.sets, manifest)
	g.mu.Unlock()
}

// stagedCall is one call of StageChips.
type stagedCall struct {
	s        *Store
	manifest int64
	chips    []factory.Chip
	index    []int     // in the caller's chips
	keys     [][]int64 // of each chip
}

// StageChips adds invisible chips of a staged manifest, at most 500 a call, in
// the order of their entries; entries that are staged already are left out, so
// that an import that was interrupted is repeated from its start.
func (s *Store) StageChips(ctx context.Context, manifest int64, chips []factory.Chip) ([]factory.Duplicate, error) {
	if len(chips) > maxStage {
		return nil, fault.New(fault.ParameterInvalid, "more than", maxStage, "chips at once")
	}
	s.staging.mu.Lock()
	defer s.staging.mu.Unlock()
	m, err := readManifest(ctx, s.read, manifest)
	if err == nil && m.state != manifestStaged {
		err = fault.New(fault.ManifestUnknown)
	}
	if err != nil {
		return nil, err
	}
	c, err := s.newCall(m, chips)
	if err != nil || len(c.chips) == 0 {
		return nil, err
	}
	if err := s.knowStaged(ctx, m); err != nil {
		return nil, err
	}
	duplicates, err := c.duplicates(ctx)
	if err != nil || len(duplicates) > 0 {
		return duplicates, err
	}
	return nil, c.store(ctx, m)
}

// newCall leaves out what is staged and computes the ids of the rest.
func (s *Store) newCall(m *manifestRow, chips []factory.Chip) (*stagedCall, error) {
	c := &stagedCall{s: s, manifest: m.ID}
	last := m.staged
	for i := range chips {
		x := chips[i]
		if x.Entry <= m.staged && len(c.chips) == 0 {
			continue
		}
		if x.Entry <= last {
			return nil, fault.New(fault.ParameterInvalid, "entry", x.Entry, "of the manifest does not follow", last)
		}
		last = x.Entry
		x.ID = s.ChipID(x.Vendor, x.UID)
		keys := make([]int64, 0, len(x.Keys))
		for k := range x.Keys {
			digest := sha256.Sum256(x.Keys[k].SPKI)
			if row := s.spkiRow(&digest); !slices.Contains(keys, row) { // a chip may show one key in two slots
				keys = append(keys, row)
			}
		}
		c.chips, c.index, c.keys = append(c.chips, x), append(c.index, i), append(c.keys, keys)
	}
	return c, nil
}

// knowStaged reads the ids of what is staged and not known yet: after a start of
// the process, or when another node staged some of it.
func (s *Store) knowStaged(ctx context.Context, m *manifestRow) error {
	open := map[int64]int64{m.ID: m.staged}
	// Index manifest_open.
	err := each(s.read.query(ctx, "SELECT id, staged FROM manifest WHERE visible = 0 AND visible <> 1 ORDER BY id"))(func(r row) error {
		var id, staged int64
		err := r.Scan(&id, &staged)
		if id != m.ID {
			open[id] = staged
		}
		return err
	})
	if err != nil {
		return err
	}
	maps.DeleteFunc(s.staging.sets, func(id int64, _ *stagedSet) bool { _, ok := open[id]; return !ok })
	for id, staged := range open {
		set := s.staging.sets[id]
		if set == nil || set.last > staged {
			set = &stagedSet{chips: make(map[int64]struct{}), keys: make(map[int64]struct{})}
		}
		if set.last < staged {
			if err := s.readStaged(ctx, id, set); err != nil {
				return err
			}
			set.last = staged
		}
		if s.staging.sets == nil {
			s.staging.sets = make(map[int64]*stagedSet)
		}
		s.staging.sets[id] = set
	}
	return nil
}

// partsAtOnce is how many parts one query reads: a reader that stays long keeps
// SQLite from recycling its log.
const partsAtOnce = 16

// eachPart calls fn for the parts of a manifest that begin after an entry.
func (s *Store) eachPart(ctx context.Context, manifest, after int64, fn func(part []byte) error) error {
	for more := true; more; {
		more = false
		n := 0
		err := each(s.read.query(ctx, "SELECT part, chips FROM chip_part WHERE manifest = $1 AND part > $2 ORDER BY part LIMIT $3",
			manifest, after, partsAtOnce))(func(r row) error {
			var part []byte
			if err := r.Scan(&after, &part); err != nil {
				return err
			}
			n++
			more = n == partsAtOnce
			return fn(part)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) readStaged(ctx context.Context, manifest int64, set *stagedSet) error {
	return s.eachPart(ctx, manifest, set.last, func(part []byte) error {
		return storedFault(eachInPart(part, func(p *partChip) {
			set.chips[p.id] = struct{}{}
			for _, k := range p.keys {
				set.keys[k] = struct{}{}
			}
		}))
	})
}

// storedFault names damage in what was stored.
func storedFault(err error) error {
	if err == nil {
		return nil
	}
	return fault.Wrap(fault.SchemaCorrupt, err)
}

// duplicates returns what is listed already: in the call itself, in a manifest
// that is staged, or in the tables.
func (c *stagedCall) duplicates(ctx context.Context) ([]factory.Duplicate, error) {
	var found []factory.Duplicate
	chips, keys := make(map[int64]int, len(c.chips)), make(map[int64]int, len(c.chips))
	for i := range c.chips {
		if before, twice := chips[c.chips[i].ID]; twice {
			found = append(found, factory.Duplicate{Index: c.index[i], Manifest: c.manifest, UID: c.chips[before].UID})
		}
		chips[c.chips[i].ID] = i
		for _, k := range c.keys[i] {
			if before, twice := keys[k]; twice {
				found = append(found, factory.Duplicate{Index: c.index[i], Key: true, Manifest: c.manifest, UID: c.chips[before].UID})
			}
			keys[k] = i
		}
	}
	for id, set := range c.s.staging.sets {
		some, err := c.staged(ctx, id, set)
		if err != nil {
			return nil, err
		}
		found = append(found, some...)
	}
	stored, err := c.s.storedDuplicates(ctx, chips, keys)
	for _, d := range stored {
		d.Index = c.index[d.Index]
		found = append(found, d)
	}
	slices.SortStableFunc(found, func(a, b factory.Duplicate) int { return cmp.Compare(a.Index, b.Index) })
	return found, err
}

// staged returns what a staged manifest has already. Only when there is some are
// its parts read, for the UIDs.
func (c *stagedCall) staged(ctx context.Context, manifest int64, set *stagedSet) ([]factory.Duplicate, error) {
	chips, keys := make(map[int64]int), make(map[int64]int)
	for i := range c.chips {
		if _, ok := set.chips[c.chips[i].ID]; ok {
			chips[c.chips[i].ID] = c.index[i]
		}
		for _, k := range c.keys[i] {
			if _, ok := set.keys[k]; ok {
				keys[k] = c.index[i]
			}
		}
	}
	if len(chips)+len(keys) == 0 {
		return nil, nil
	}
	var found []factory.Duplicate
	err := c.s.eachPart(ctx, manifest, 0, func(part []byte) error {
		return storedFault(eachInPart(part, func(p *partChip) {
			if i, ok := chips[p.id]; ok {
				found = append(found, factory.Duplicate{Index: i, Manifest: manifest, UID: recordUID(p.record)})
			}
			for _, k := range p.keys {
				if i, ok := keys[k]; ok {
					found = append(found, factory.Duplicate{Index: i, Key: true, Manifest: manifest, UID: recordUID(p.record)})
				}
			}
		}))
	})
	return found, err
}

// idsAtOnce is how many ids one look-up names.
const idsAtOnce = 100

// idsList is "$1, ..., $100".
var idsList = placeholders(idsAtOnce)

var (
	selectTakenChips = "SELECT id, manifest, uid FROM chip WHERE id IN (" + idsList + ")"
	selectTakenKeys  = "SELECT k.id, c.manifest, c.uid FROM chip_key k JOIN chip c ON c.id = k.chip WHERE k.id IN (" + idsList + ")"
)

// storedDuplicates returns which of some chips and keys are in the tables. The
// maps name their indexes.
func (s *Store) storedDuplicates(ctx context.Context, chips, keys map[int64]int) ([]factory.Duplicate, error) {
	var found []factory.Duplicate
	for _, look := range []struct {
		text string
		ids  map[int64]int
		key  bool
	}{{selectTakenChips, chips, false}, {selectTakenKeys, keys, true}} {
		ids := slices.Sorted(maps.Keys(look.ids))
		for some := range slices.Chunk(ids, idsAtOnce) {
			err := each(s.read.query(ctx, look.text, padded(some)...))(func(r row) error {
				var id int64
				d := factory.Duplicate{Key: look.key}
				err := r.Scan(&id, &d.Manifest, &d.UID)
				d.Index = look.ids[id]
				found = append(found, d)
				return err
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

// padded repeats the last id so that the look-up has one text.
func padded(ids []int64) []any {
	args := make([]any, idsAtOnce)
	for i := range args {
		args[i] = ids[min(i, len(ids)-1)]
	}
	return args
}

// store writes the call as one part, if nobody else has staged since.
func (c *stagedCall) store(ctx context.Context, m *manifestRow) error {
	var part []byte
	vendors := make(map[string]struct{})
	for i := range c.chips {
		part = appendPart(part, &c.chips[i], c.keys[i])
		if _, known := c.s.staging.vendors[c.chips[i].Vendor]; !known {
			vendors[c.chips[i].Vendor] = struct{}{}
		}
	}
	last := c.chips[len(c.chips)-1].Entry
	err := c.s.write(ctx, func(t *tx) error {
		n, err := t.exec(ctx, "UPDATE manifest SET staged = $3, chips = chips + $4 WHERE id = $1 AND staged = $2 AND visible = 0",
			c.manifest, m.staged, last, len(c.chips))
		if err == nil && n == 0 {
			err = fault.New(fault.ManifestBusy)
		}
		for v := range vendors {
			if err == nil {
				_, err = t.exec(ctx, "INSERT INTO chip_vendor (name) VALUES ($1) ON CONFLICT DO NOTHING", v)
			}
		}
		if err == nil {
			_, err = t.exec(ctx, "INSERT INTO chip_part (manifest, part, chips) VALUES ($1, $2, $3)", c.manifest, c.chips[0].Entry, part)
		}
		return err
	})
	if err != nil {
		return err
	}
	c.remember(last, vendors)
	return nil
}

func (c *stagedCall) remember(last int64, vendors map[string]struct{}) {
	g := &c.s.staging
	set := g.sets[c.manifest]
	set.last = last
	for i := range c.chips {
		set.chips[c.chips[i].ID] = struct{}{}
		for _, k := range c.keys[i] {
			set.keys[k] = struct{}{}
		}
	}
	if g.vendors == nil {
		g.vendors = make(map[string]struct{})
	}
	maps.Copy(g.vendors, vendors)
}

// valuesText is n times a list of columns' placeholders.
func valuesText(columns, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		for c := range columns {
			b.WriteByte("(,"[min(c, 1)])
			b.WriteByte('$')
			b.WriteString(strconv.Itoa(i*columns + c + 1))
		}
		b.WriteByte(')')
	}
	return b.String()
}

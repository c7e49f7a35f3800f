package store

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// chipColumns are what scanChip reads.
const chipColumns = "id, vendor, uid, chip_type, manifest, entry, product, state, order_id, device, keys"

func scanChip(r row, c *factory.Chip) error {
	var keys []byte
	err := r.Scan(&c.ID, &c.Vendor, &c.UID, &c.ChipType, &c.Manifest, &c.Entry, &c.Product, &c.State, &c.Order, &c.Device, &keys)
	if err != nil {
		return err
	}
	if c.Keys, err = parseKeys(keys); err != nil {
		err = fault.Wrap(fault.SchemaCorrupt, err)
	}
	return err
}

// visibleChip leaves out the chips of manifests that are not published. Reading
// the manifest's row costs little: there are few, and they stay in memory.
const visibleChip = " AND EXISTS (SELECT 1 FROM manifest m WHERE m.id = chip.manifest AND m.visible = 1)"

const (
	selectChip      = "SELECT " + chipColumns + " FROM chip WHERE id = $1" + visibleChip
	selectChipByKey = "SELECT " + chipColumns + " FROM chip WHERE id = (SELECT chip FROM chip_key WHERE id = $1)" + visibleChip
)

// ChipID returns the id of a chip, listed or not.
func (s *Store) ChipID(vendor, uid string) int64 {
	h := hmac.New(sha256.New, s.keys.hash[:16])
	io.WriteString(h, "chip\x00"+vendor+"\x00"+uid) //nolint:errcheck // a hash does not fail
	return rowNumber(h.Sum(nil))
}

// Chip returns a chip of a published manifest, or fault.ChipUnknown. It may show
// what is not durable yet: a unit that is decided on it is stored behind it.
func (s *Store) Chip(ctx context.Context, id int64) (c factory.Chip, err error) {
	err = s.engine.look(ctx, func(q querier) error {
		c, err = readChip(ctx, q, selectChip, id)
		return err
	})
	return c, err
}

func (s *Store) chip(ctx context.Context, text string, id int64) (factory.Chip, error) {
	return readChip(ctx, s.read, text, id)
}

func readChip(ctx context.Context, q querier, text string, id int64) (factory.Chip, error) {
	var c factory.Chip
	err := scanChip(q.row(ctx, text, id), &c)
	if noRows(err) {
		return factory.Chip{}, fault.New(fault.ChipUnknown)
	}
	return c, err
}

// ChipByKey returns the chip that lists a public key, by the SHA-256 of its
// SubjectPublicKeyInfo, or fault.ChipUnknown.
func (s *Store) ChipByKey(ctx context.Context, spkiDigest [32]byte) (factory.Chip, error) {
	c, err := s.chip(ctx, selectChipByKey, s.spkiRow(&spkiDigest))
	if err == nil && !slices.ContainsFunc(c.Keys, func(k factory.ChipKey) bool { return sha256.Sum256(k.SPKI) == spkiDigest }) {
		return factory.Chip{}, fault.New(fault.ChipUnknown)
	}
	return c, err
}

// FindChips returns the visible chips with this UID, of any vendor that ever was
// in a manifest. Like Chip it may show what is not durable yet.
func (s *Store) FindChips(ctx context.Context, uid string) (found []factory.Chip, err error) {
	err = s.engine.look(ctx, func(q querier) error {
		found, err = s.findChips(ctx, q, uid)
		return err
	})
	return found, err
}

func (s *Store) findChips(ctx context.Context, q querier, uid string) ([]factory.Chip, error) {
	var vendors []string
	err := each(q.query(ctx, "SELECT name FROM chip_vendor"))(func(r row) error {
		var name string
		err := r.Scan(&name)
		vendors = append(vendors, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(vendors)
	var found []factory.Chip
	for _, vendor := range vendors {
		c, err := readChip(ctx, q, selectChip, s.ChipID(vendor, strings.ToLower(uid)))
		if fault.Has(err, fault.ChipUnknown) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = append(found, c)
	}
	return found, nil
}

// chipWalk is a list of chips: the condition that an index serves, with the first
// arguments, and then those that leave rows out.
type chipWalk struct {
	index   string
	indexed int
	filter  string
	args    []any
	skips   bool // filter may leave out many rows in a row
}

func newChipWalk(q *factory.ChipQuery, after int64) *chipWalk {
	w := &chipWalk{args: []any{after}, skips: q.State != 0 || q.Manifest == 0}
	switch {
	case q.Order != 0: // index chip_order; a chip names its order while it is allotted
		w.index = " AND order_id = $2 AND order_id <> 0 AND state = $3"
		w.args = append(w.args, q.Order, int64(factory.ChipAllotted))
	case q.Manifest != 0: // index chip_manifest
		w.index = " AND manifest = $2"
		w.args = append(w.args, q.Manifest)
	}
	w.indexed = len(w.args)
	w.filter = visibleChip
	if q.State != 0 {
		w.where("state = ", int64(q.State))
	}
	if q.Order != 0 && q.Manifest != 0 {
		w.where("manifest = ", q.Manifest)
	}
	return w
}

func (w *chipWalk) where(condition string, arg int64) {
	w.args = append(w.args, arg)
	w.filter += fmt.Sprintf(" AND %s$%d", condition, len(w.args))
}

// Chips returns a page of visible chips in order of id. Indexes: the primary key,
// chip_manifest and chip_order. A page that finds too little among the rows that
// it may examine ends early.
func (s *Store) Chips(ctx context.Context, q factory.ChipQuery) ([]factory.Chip, string, error) {
	after, err := parseCursor(q.After)
	if err != nil {
		return nil, "", err
	}
	w, limit := newChipWalk(&q, after), pageSize(q.Limit)
	var bound int64
	if w.skips {
		err := s.read.row(ctx, fmt.Sprintf("SELECT id FROM chip WHERE id > $1%s ORDER BY id LIMIT 1 OFFSET %d", w.index, indexWindow-1),
			w.args[:w.indexed]...).Scan(&bound)
		if err != nil && !noRows(err) {
			return nil, "", err
		}
	}
	if bound != 0 {
		w.where("id <= ", bound)
	}
	w.args = append(w.args, limit)
	var list []factory.Chip
	err = each(s.read.query(ctx, fmt.Sprintf("SELECT %s FROM chip WHERE id > $1%s%s ORDER BY id LIMIT $%d", chipColumns, w.index, w.filter, len(w.args)),
		w.args...))(func(r row) error {
		var c factory.Chip
		err := scanChip(r, &c)
		list = append(list, c)
		return err
	})
	if err == nil && len(list) == limit {
		bound = list[limit-1].ID
	}
	return list, cursor(bound), err
}

// UpdateChip writes state, order and device if the row's state is still from;
// device.ErrStale otherwise, fault.ChipUnknown if there is no such chip.
func (s *Store) UpdateChip(ctx context.Context, c factory.Chip, from factory.ChipState, entries ...ledger.Entry) error {
	return s.write(ctx, func(t *tx) error {
		n, err := t.exec(ctx, "UPDATE chip SET state = $3, order_id = $4, device = $5 WHERE id = $1 AND state = $2"+visibleChip,
			c.ID, from, c.State, c.Order, c.Device)
		if err != nil || n == 1 {
			return err
		}
		var one int64
		err = t.row(ctx, "SELECT 1 FROM chip WHERE id = $1"+visibleChip, c.ID).Scan(&one)
		if noRows(err) {
			return fault.New(fault.ChipUnknown)
		}
		if err == nil {
			err = device.ErrStale
		}
		return err
	}, entries...)
}

// LapseAllotted gives back chips that are allotted to an order, at most limit in
// one transaction, and returns how many; the entries are those for these chips.
// Index chip_order.
func (s *Store) LapseAllotted(ctx context.Context, order int64, limit int, _ time.Time, entries func(chips []int64) []ledger.Entry) (int, error) {
	var ids []int64
	err := s.writeIfNeeded(ctx, func(t *tx) error {
		ids = ids[:0]
		err := each(t.query(ctx, "SELECT id FROM chip WHERE order_id = $1 AND order_id <> 0 AND state = $2 ORDER BY id LIMIT $3",
			order, int64(factory.ChipAllotted), min(pageSize(limit), maxLapse)))(func(r row) error {
			var id int64
			err := r.Scan(&id)
			ids = append(ids, id)
			return err
		})
		if err != nil {
			return err
		}
		n := 0
		for _, id := range ids {
			changed, err := t.exec(ctx, "UPDATE chip SET state = $3, order_id = 0 WHERE id = $1 AND order_id = $2 AND state = $4",
				id, order, int64(factory.ChipListed), int64(factory.ChipAllotted))
			if err != nil {
				return err
			}
			if changed == 1 { // another transaction may have used it just now
				ids[n] = id
				n++
			}
		}
		if ids = ids[:n]; n == 0 {
			return errNothing
		}
		t.record(entries(ids)...)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return len(ids), nil
}

// maxLapse is how many chips one transaction gives back.
const maxLapse = 500

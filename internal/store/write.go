package store

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// tx is a write transaction. Rows are locked in one order everywhere, so that
// nodes do not wait for each other in circles: control, approval, lease,
// spki_key, device, credential, everything else, authority_counter, then (by
// write itself) tally and ledger_head.
type tx struct {
	querier
	entries []ledger.Entry
	tallies map[tallyKey]int64
}

// write runs fn in a write transaction, appends the entries (and those that fn
// adds with record) to the ledger as one batch, commits and wakes the
// followers. When fn returns an error nothing is written and the error is
// returned as it is. fn may run twice (deadlock on PostgreSQL), so it must not
// change anything but the database and variables that it sets anew.
//
//	err := s.write(ctx, func(t *tx) error {
//		if err := t.bumpControl(ctx); err != nil { // control plane only, first
//			return err
//		}
//		n, err := t.exec(ctx, "UPDATE product SET ... WHERE id = $1", id)
//		...
//		t.tallyDevice(&d, +1)
//		return nil
//	}, entries...)
func (s *Store) write(ctx context.Context, fn func(*tx) error, entries ...ledger.Entry) error {
	if err := s.mayWrite(); err != nil {
		return err
	}
	for attempt := 0; ; attempt++ {
		err := s.writeOnce(ctx, fn, entries)
		if attempt < 5 && errors.Is(err, errTryAgain) {
			continue
		}
		if errors.Is(err, errTryAgain) {
			return fault.Wrap(fault.StoreUnavailable, err)
		}
		return err
	}
}

// errTryAgain marks a transaction that lost against another and may be repeated.
var errTryAgain = errors.New("the transaction lost against another")

// Writable says why nothing is written now, nil if something is: a sync failed,
// the clock is off, or the store was opened for reading.
func (s *Store) Writable() error { return s.mayWrite() }

func (s *Store) mayWrite() error {
	switch {
	case s.broken.Load():
		return fault.New(fault.StoreBroken)
	case s.skewed.Load():
		return fault.New(fault.ClockSkew)
	case s.cfg.ReadOnly:
		return fault.New(fault.DataFolderState, "opened for reading only")
	}
	return nil
}

func (s *Store) writeOnce(ctx context.Context, fn func(*tx) error, entries []ledger.Entry) error {
	wt, err := s.engine.begin(ctx)
	if err != nil {
		return s.failed(err)
	}
	t := &tx{querier: wt, entries: slices.Clone(entries)}
	err = fn(t)
	if err == nil {
		err = s.finish(ctx, t)
	}
	if err != nil {
		wt.rollback()
		return s.failed(err)
	}
	if err := wt.commit(ctx); err != nil {
		return s.failed(err)
	}
	s.committed()
	return nil
}

// failed remembers that a sync failed: whatever the disk says later, what it
// holds is not known any more.
func (s *Store) failed(err error) error {
	if fault.Has(err, fault.StoreBroken) && !s.broken.Swap(true) {
		s.cfg.Logger.Error("the database could not be written; nothing more is written until a restart", "error", errors.Unwrap(err))
	}
	return err
}

// committed tells the followers here and elsewhere.
func (s *Store) committed() {
	s.feed.wake()
	s.engine.hint()
}

// record adds entries that are known only inside the transaction.
func (t *tx) record(entries ...ledger.Entry) { t.entries = append(t.entries, entries...) }

// bumpControl raises the control epoch and holds it until the commit: what was
// decided under the old one is refused from then on. Call it first.
func (t *tx) bumpControl(ctx context.Context) error {
	_, err := t.exec(ctx, "UPDATE control SET epoch = epoch + 1 WHERE id = 1")
	return err
}

// tallyKind says what a maintained total counts.
type tallyKind int64

const (
	devicesByState     tallyKind = iota + 1 // bucket: device.State
	credentialsByState                      // bucket: device.CredentialState; only credentials with a device
	liveByExpiryDay                         // bucket: unix day of NotAfter; issued or confirmed, with a device
)

type tallyKey struct {
	kind                 tallyKind
	bucket               int64
	product, site, owner int64
}

// tally adds delta to a maintained total when the transaction ends.
func (t *tx) tally(kind tallyKind, bucket, product, site, owner, delta int64) {
	if t.tallies == nil {
		t.tallies = make(map[tallyKey]int64)
	}
	t.tallies[tallyKey{kind, bucket, product, site, owner}] += delta
}

// tallyCredential counts a credential in (+1) or out (-1) as it is.
func (t *tx) tallyCredential(c *device.Credential, delta int64) {
	if c.Device == 0 {
		return
	}
	t.tally(credentialsByState, int64(c.State), c.Product, c.Site, c.Owner, delta)
	if c.State == device.Issued || c.State == device.Confirmed {
		t.tally(liveByExpiryDay, unixDay(c.NotAfter.Unix()), c.Product, c.Site, c.Owner, delta)
	}
}

// tallyDevice counts a device in (+1) or out (-1) as it is.
func (t *tx) tallyDevice(d *device.Device, delta int64) {
	t.tally(devicesByState, int64(d.State), d.Product, d.Site, d.Owner, delta)
}

func unixDay(seconds int64) int64 {
	day := seconds / 86400
	if seconds < 0 && seconds%86400 != 0 {
		day--
	}
	return day
}

// sortedTallies returns the totals that change, in the order in which rows are
// locked.
func sortedTallies(m map[tallyKey]int64) []tallyKey {
	ks := slices.Collect(maps.Keys(m))
	ks = slices.DeleteFunc(ks, func(k tallyKey) bool { return m[k] == 0 })
	slices.SortFunc(ks, func(a, b tallyKey) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.bucket, b.bucket),
			cmp.Compare(a.product, b.product), cmp.Compare(a.site, b.site), cmp.Compare(a.owner, b.owner))
	})
	return ks
}

const upsertTally = `INSERT INTO tally (kind, bucket, product, site, owner, total) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (kind, bucket, product, site, owner) DO UPDATE SET total = tally.total + excluded.total`

// finish writes what every transaction ends with.
func (s *Store) finish(ctx context.Context, t *tx) error {
	for _, k := range sortedTallies(t.tallies) {
		if _, err := t.exec(ctx, upsertTally, k.kind, k.bucket, k.product, k.site, k.owner, t.tallies[k]); err != nil {
			return err
		}
	}
	if len(t.entries) == 0 {
		return nil
	}
	b, err := s.encodeBatch(t.entries)
	if err != nil {
		return err
	}
	return b.append(ctx, t.querier)
}

// batch is the ledger's share of a transaction, encoded.
type batch struct {
	size    int64
	classes ledger.Class
	leaves  []byte // each with its length before it
	beside  []besideLeaf
}

// besideLeaf is the erasable text of the leaf at offset in its batch.
type besideLeaf struct {
	offset int64
	*ledger.Private
}

func (s *Store) encodeBatch(entries []ledger.Entry) (*batch, error) {
	var b batch
	b.leaves = make([]byte, 0, 400*len(entries))
	for i := range entries {
		if err := b.add(&entries[i], s); err != nil {
			return nil, err
		}
	}
	return &b, nil
}

// lengthRoom is how many octets a leaf's length takes, filled in after encoding.
const lengthRoom = 4

const maxLeaf = 16 << 20

func (b *batch) add(e *ledger.Entry, s *Store) error {
	start := len(b.leaves)
	leaf, beside, err := e.Encode(append(b.leaves, make([]byte, lengthRoom)...), s.cfg.Rand)
	if err != nil {
		return err
	}
	n := len(leaf) - start - lengthRoom
	if n > maxLeaf {
		return fmt.Errorf("a ledger entry of %d octets", n)
	}
	binary.BigEndian.PutUint32(leaf[start:], uint32(n))
	b.leaves = leaf
	if beside != nil {
		b.beside = append(b.beside, besideLeaf{b.size, beside})
	}
	b.classes |= ledger.ClassOf(e.Kind)
	b.size++
	return nil
}

// append numbers the batch; its transaction holds the head from here on.
func (b *batch) append(ctx context.Context, q querier) error {
	var end int64
	if err := q.row(ctx, "UPDATE ledger_head SET size = size + $1 WHERE id = 1 RETURNING size", b.size).Scan(&end); err != nil {
		return err
	}
	first := end - b.size
	if t, ok := q.(interface{ appended(int64, []byte) }); ok {
		t.appended(first, b.leaves)
	}
	if _, err := q.exec(ctx, "INSERT INTO ledger_batch (id, size, classes, leaves) VALUES ($1, $2, $3, $4)", first, b.size, int64(b.classes), b.leaves); err != nil {
		return err
	}
	for _, p := range b.beside {
		if _, err := q.exec(ctx, "INSERT INTO ledger_private (id, salt, value) VALUES ($1, $2, $3)", first+p.offset, p.Salt[:], p.Value); err != nil {
			return err
		}
	}
	return nil
}

// splitLeaves cuts the leaves of a batch apart.
func splitLeaves(raw []byte, size int64) ([][]byte, error) {
	leaves := make([][]byte, 0, size)
	for len(raw) >= lengthRoom {
		n := int64(binary.BigEndian.Uint32(raw))
		if n > int64(len(raw)-lengthRoom) {
			break
		}
		leaves = append(leaves, raw[lengthRoom:lengthRoom+n:lengthRoom+n])
		raw = raw[lengthRoom+n:]
	}
	if len(raw) != 0 || int64(len(leaves)) != size {
		return nil, fault.New(fault.LedgerBroken, "a stored batch does not hold its leaves")
	}
	return leaves, nil
}

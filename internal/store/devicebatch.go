package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"iter"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// DeviceChunk is at most 2,000 devices of a staged registration, with the
// ledger's entries for them.
type DeviceChunk struct {
	Devices []device.Device
	Entries []ledger.Entry
}

// batchTotal is what a batch adds to one maintained total.
type batchTotal struct {
	State, Product, Site, Owner, Count int64
}

// What becomes of a batch, in its column visible.
const (
	batchStaged = iota
	batchVisible
	batchVoid // its rows are being deleted
)

// stagedBatch is the row of a batch.
type stagedBatch struct {
	id     int64
	staged int64
	digest [32]byte
	totals []batchTotal
	state  int64
}

// AddDevicesStaged registers any number of devices, all or none, in bounded
// memory and short transactions: each chunk is staged unseen, and one last step
// with the entries done makes all of them visible. It returns how many there
// are. name makes the registration repeatable: a call that was interrupted goes
// on where it stopped when it is repeated with the same chunks, and one that was
// done does nothing; other devices under the same name are
// fault.IdempotencyChanged. The serials of a batch that is not complete are
// taken; after fault.DeviceExists, or to give up, call DiscardBatch.
func (s *Store) AddDevicesStaged(ctx context.Context, scope access.Scope, name string, chunks iter.Seq2[DeviceChunk, error], done ...ledger.Entry) (int64, error) {
	b, err := s.openBatch(ctx, name)
	if err != nil {
		return 0, err
	}
	var seen int64
	digest := sha256.Sum256([]byte(name))
	for chunk, err := range chunks {
		if err != nil {
			return 0, err
		}
		if err := checkNew(scope, chunk.Devices); err != nil {
			return 0, err
		}
		seen += int64(len(chunk.Devices))
		digest = chainDigest(digest, chunk.Devices)
		switch {
		case seen < b.staged:
			continue
		case seen == b.staged && digest != b.digest, seen-int64(len(chunk.Devices)) < b.staged && seen > b.staged:
			return 0, fault.New(fault.IdempotencyChanged, name)
		case seen == b.staged || len(chunk.Devices) == 0:
			continue
		}
		if err := s.stage(ctx, b, digest, chunk); err != nil {
			return 0, err
		}
	}
	if seen < b.staged {
		return 0, fault.New(fault.IdempotencyChanged, name)
	}
	return seen, s.showBatch(ctx, b, done)
}

func (s *Store) openBatch(ctx context.Context, name string) (*stagedBatch, error) {
	var b *stagedBatch
	err := s.write(ctx, func(t *tx) error {
		if err := holdControl(ctx, t); err != nil {
			return err
		}
		b = new(stagedBatch)
		err := t.row(ctx, "SELECT id, staged, digest, totals, visible FROM device_batch WHERE name = $1", name).
			Scan(&b.id, &b.staged, fixed(b.digest[:]), fromJSON(&b.totals), &b.state)
		if err == nil && b.state == batchVoid {
			return fault.New(fault.IdempotencyChanged, name)
		}
		if !noRows(err) {
			return err
		}
		if b.id, err = nextID(ctx, t, "device_batch"); err != nil {
			return err
		}
		_, err = t.exec(ctx, "INSERT INTO device_batch (id, name, staged, digest, totals, visible) VALUES ($1, $2, 0, $3, '[]', 0)", b.id, name, b.digest[:])
		return err
	})
	return b, err
}

// stage writes a chunk and how far the batch is, in one transaction.
func (s *Store) stage(ctx context.Context, b *stagedBatch, digest [32]byte, chunk DeviceChunk) error {
	if b.state != batchStaged {
		return fault.New(fault.IdempotencyChanged)
	}
	staged, totals := b.staged+int64(len(chunk.Devices)), addTotals(b.totals, chunk.Devices)
	err := s.write(ctx, func(t *tx) error {
		if err := insertDevices(ctx, t, chunk.Devices, b.id); err != nil {
			return err
		}
		n, err := t.exec(ctx, "UPDATE device_batch SET staged = $3, digest = $4, totals = $5 WHERE id = $1 AND staged = $2 AND visible = 0",
			b.id, b.staged, staged, digest[:], toJSON(totals))
		if err == nil && n == 0 { // another call is at work under this name
			err = fault.New(fault.IdempotencyChanged)
		}
		return err
	}, chunk.Entries...)
	if fault.Has(err, fault.DeviceExists) {
		return s.firstTaken(ctx, chunk.Devices, err)
	}
	b.staged, b.digest, b.totals = staged, digest, totals
	return err
}

func (s *Store) showBatch(ctx context.Context, b *stagedBatch, done []ledger.Entry) error {
	return s.writeIfNeeded(ctx, func(t *tx) error {
		n, err := t.exec(ctx, "UPDATE device_batch SET visible = 1 WHERE id = $1 AND visible = 0", b.id)
		if err != nil {
			return err
		}
		if n == 0 {
			return errNothing
		}
		for _, c := range b.totals {
			t.tally(devicesByState, c.State, c.Product, c.Site, c.Owner, c.Count)
		}
		return nil
	}, done...)
}

// DiscardBatch gives up a staged registration that was not completed, with an
// entry for each of its devices. One that is complete stays.
func (s *Store) DiscardBatch(ctx context.Context, name, actor string) error {
	var id int64
	err := s.write(ctx, func(t *tx) error {
		return t.row(ctx, "UPDATE device_batch SET visible = $2 WHERE name = $1 AND visible <> $3 RETURNING id", name, batchVoid, batchVisible).Scan(&id)
	})
	if noRows(err) {
		return nil
	}
	for more := true; err == nil && more; {
		more, err = s.discardSome(ctx, id, actor)
	}
	if err != nil {
		return err
	}
	return s.write(ctx, func(t *tx) error {
		_, err := t.exec(ctx, "DELETE FROM device_batch WHERE id = $1 AND visible = $2", id, batchVoid)
		return err
	})
}

func (s *Store) discardSome(ctx context.Context, batch int64, actor string) (more bool, err error) {
	const atOnce = 500
	now := s.cfg.Now()
	err = s.write(ctx, func(t *tx) error {
		var ids []int64
		// Index device_staged.
		err := each(t.query(ctx, "SELECT id FROM device WHERE batch = $1 AND batch <> 0 LIMIT $2", batch, atOnce))(func(r row) error {
			var id int64
			err := r.Scan(&id)
			ids = append(ids, id)
			return err
		})
		for _, id := range ids {
			if err == nil {
				_, err = t.exec(ctx, "DELETE FROM device WHERE id = $1", id)
			}
			t.record(ledger.Entry{Kind: ledger.DeviceDiscarded, At: now, Actor: actor, Body: &ledger.Discarded{Device: id}})
		}
		more = len(ids) == atOnce
		return err
	})
	return more, err
}

// chainDigest binds the devices of a chunk to all before it.
func chainDigest(before [32]byte, devices []device.Device) (digest [32]byte) {
	h := sha256.New()
	h.Write(before[:])
	var buf []byte
	for i := range devices {
		buf = buf[:0]
		for _, v := range deviceValues(&devices[i]) {
			switch v := v.(type) {
			case int64:
				buf = binary.BigEndian.AppendUint64(buf, uint64(v))
			case string:
				buf = append(binary.BigEndian.AppendUint32(buf, uint32(len(v))), v...)
			case []byte:
				buf = append(binary.BigEndian.AppendUint32(buf, uint32(len(v))), v...)
			}
		}
		h.Write(buf)
	}
	h.Sum(digest[:0])
	return digest
}

func addTotals(totals []batchTotal, devices []device.Device) []batchTotal {
	counts := make(map[batchTotal]int64)
	for _, t := range totals {
		n := t.Count
		t.Count = 0
		counts[t] += n
	}
	for i := range devices {
		d := &devices[i]
		counts[batchTotal{State: int64(d.State), Product: d.Product, Site: d.Site, Owner: d.Owner}]++
	}
	sum := make([]batchTotal, 0, len(counts))
	for t, n := range counts {
		t.Count = n
		sum = append(sum, t)
	}
	return sum
}

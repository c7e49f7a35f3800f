package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// Restoration is what Restore asks of its caller.
type Restoration struct {
	// File gets each file of the backup; nil drops them. Files are shown after
	// the whole backup was found good, and before it counts.
	File func(name string, content io.Reader) error
	// Entries names the ledger's entries for the restored backup.
	Entries func(BackupInfo) []ledger.Entry
}

// serialGap is how many credential ids a restore leaves out: the life that went
// on after the backup may have used them.
const serialGap = 65536

// Restore fills an empty database from a backup. It reads the backup twice: the
// first time to see that all of it is as it was written, so that a damaged one
// changes nothing. Then rows go in, and the last transaction makes the database
// an installation again, with what a second life needs: a higher restore epoch,
// no one-time secret, code, nonce or challenge that still works, no open block of
// serials, no job lease, and production orders that are frozen until someone has
// counted.
// After an interruption the same call begins anew.
func (s *Store) Restore(ctx context.Context, r io.ReadSeeker, o Restoration) (BackupInfo, error) {
	if _, err := s.Installation(ctx); err == nil {
		return BackupInfo{}, fault.New(fault.DataFolderState, "only an empty one takes a backup")
	} else if !fault.Has(err, fault.DataFolderState) {
		return BackupInfo{}, err
	}
	info, err := VerifyBackup(r)
	if err != nil {
		return info, err
	}
	if err := s.fitsSchema(&info); err != nil {
		return info, err
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return info, err
	}
	l := loader{s: s, ctx: ctx, file: o.File}
	if err := l.wipe(); err != nil {
		return info, err
	}
	if info, err = readBackup(r, backupVisitor{header: func(*BackupInfo) error { return nil }, row: l.row, file: l.extra}); err != nil {
		return info, err
	}
	if err := l.flush(); err != nil {
		return info, err
	}
	if l.installation == nil {
		return info, fault.Wrap(fault.BackupInvalid, fmt.Errorf("%w: no installation", errBackup))
	}
	if err := s.loadKeys(ctx); err != nil {
		return info, err
	}
	return info, s.secondLife(ctx, &l, info, o)
}

func (s *Store) fitsSchema(info *BackupInfo) error {
	steps, err := migrations(s.dialect())
	if err != nil {
		return err
	}
	switch {
	case info.Schema > len(steps):
		return fault.New(fault.SchemaNewer, "schema", info.Schema)
	case info.Schema < len(steps):
		return fault.New(fault.SchemaOlder, "restore it with the version that made it, then upgrade")
	}
	return nil
}

// loader puts the rows of a backup into the database, some thousand at a time.
type loader struct {
	s    *Store
	ctx  context.Context // of the one call that the loader lives in
	file func(name string, content io.Reader) error

	form         *tableForm // of the rows that wait
	waiting      []any      // their values, row after row
	rows         int
	bytes        int
	installation []any
}

// wipe empties what an interrupted restore, or opening, left.
func (l *loader) wipe() error {
	all := slices.Clone(leftOut)
	for _, f := range tableForms {
		all = append(all, f.name)
	}
	for _, table := range all {
		err := l.s.write(l.ctx, func(t *tx) error {
			_, err := t.exec(l.ctx, "DELETE FROM "+table)
			return err
		})
		if err != nil {
			return err
		}
	}
	l.s.ticketKey.Store(nil)
	return nil
}

func (l *loader) row(f *tableForm, row []any) error {
	if f.name == "installation" {
		l.installation = append([]any(nil), row...)
		return nil
	}
	if l.form != f || l.rows == maxAdd || l.bytes > 4<<20 {
		if err := l.flush(); err != nil {
			return err
		}
		l.form = f
	}
	if f.name == "lease" { // the right to run a job does not live twice
		row[f.index("expires_at")] = int64(0)
	}
	for _, v := range row {
		if b, ok := v.([]byte); ok {
			l.bytes += len(b)
		}
	}
	l.waiting = append(l.waiting, row...)
	l.rows++
	return nil
}

func (l *loader) extra(name string, content io.Reader) error {
	if l.file == nil {
		return nil
	}
	return l.file(name, content)
}

// flush inserts the rows that wait, in one transaction.
func (l *loader) flush() error {
	if l.rows == 0 {
		return nil
	}
	columns := l.form.list()
	err := l.s.write(l.ctx, func(t *tx) error {
		for values := l.waiting; len(values) > 0; {
			n := min(len(values)/len(columns), insertedAtOnce)
			if _, err := t.exec(l.ctx, insertText(l.form.name, columns, n), values[:n*len(columns)]...); err != nil {
				return err
			}
			values = values[n*len(columns):]
		}
		return nil
	})
	l.waiting, l.rows, l.bytes = l.waiting[:0], 0, 0
	return err
}

// insertText is the statement that inserts n rows.
func insertText(table string, columns []column, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "INSERT INTO %s (%s) VALUES ", table, names(columns))
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		for c := range columns {
			b.WriteByte("(,"[min(c, 1)])
			b.WriteByte('$')
			b.WriteString(strconv.Itoa(i*len(columns) + c + 1))
		}
		b.WriteByte(')')
	}
	return b.String()
}

// secondLife ends what the former life had open and, in the last transaction,
// makes the database an installation.
func (s *Store) secondLife(ctx context.Context, l *loader, info BackupInfo, o Restoration) error {
	var entries []ledger.Entry
	if o.Entries != nil {
		entries = o.Entries(info)
	}
	if len(entries) == 0 {
		return errors.New("a restore is an act: it needs its ledger entry")
	}
	if err := s.closeLeases(ctx); err != nil {
		return err
	}
	if err := s.killSecrets(ctx, entries[0].Actor); err != nil {
		return err
	}
	form, _ := formOf("installation")
	columns := form.list()
	return s.write(ctx, func(t *tx) error {
		if err := t.bumpControl(ctx); err != nil {
			return err
		}
		if _, err := t.exec(ctx, "UPDATE serial_head SET next_id = next_id + $1 WHERE id = 1", serialGap); err != nil {
			return err
		}
		if _, err := t.exec(ctx, insertText("installation", columns, 1), l.installation...); err != nil {
			return err
		}
		if err := s.stopLines(ctx, t); err != nil {
			return err
		}
		_, err := t.exec(ctx, "UPDATE installation SET restore_epoch = restore_epoch + 1 WHERE id = 1")
		return err
	}, entries...)
}

// stopLines ends what stations could go on with: the life that went on after the
// backup may have filled the orders, used the nonces and spent the codes.
func (s *Store) stopLines(ctx context.Context, t *tx) error {
	now := s.cfg.Now()
	for _, stop := range []struct {
		text string
		args []any
	}{
		{"UPDATE production_order SET frozen = 1, terms = terms + 1 WHERE state IN ($1, $2)", []any{int64(factory.OrderPlanned), int64(factory.OrderOpen)}},
		{"UPDATE nonce_block SET expires_at = $1 WHERE expires_at > $1", []any{now}},
		{`UPDATE station SET code_hash = NULL, code_expires_at = 0, version = version + 1, changed_at = $1
WHERE code_hash IS NOT NULL AND code_spent_at = 0`, []any{now}},
	} {
		if _, err := t.exec(ctx, stop.text, stop.args...); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) closeLeases(ctx context.Context) error {
	var open []device.LeaseRef
	err := each(s.read.query(ctx, "SELECT id, fence FROM serial_lease WHERE closed_at = 0 ORDER BY id"))(func(r row) error {
		var ref device.LeaseRef
		err := r.Scan(&ref.ID, &ref.Fence)
		open = append(open, ref)
		return err
	})
	for _, ref := range open {
		if err == nil {
			err = s.CloseLease(ctx, ref, s.cfg.Now())
		}
	}
	return err
}

// killSecrets takes from all devices the one-time secrets that were not spent:
// in the life that went on after the backup they may have been. Each is a change
// of its device, with its entry.
func (s *Store) killSecrets(ctx context.Context, actor string) error {
	const atOnce = 500
	now := s.cfg.Now()
	for after := device.ID(0); ; {
		var found int
		last := after
		err := s.write(ctx, func(t *tx) error {
			var devices []device.Device
			err := each(t.query(ctx, "SELECT "+deviceColumns+` FROM device
WHERE id > $1 AND secret_hash IS NOT NULL AND secret_spent_at = 0 ORDER BY id LIMIT $2`, int64(after), atOnce))(func(r row) error {
				var d device.Device
				err := scanDevice(r, &d)
				devices = append(devices, d)
				return err
			})
			if err != nil {
				return err
			}
			found = len(devices)
			for i := range devices {
				d := &devices[i]
				last = d.ID
				if _, err := t.exec(ctx, "UPDATE device SET secret_hash = NULL, version = version + 1, changed_at = $2 WHERE id = $1", int64(d.ID), now); err != nil {
					return err
				}
				t.record(ledger.Entry{Kind: ledger.DeviceChanged, At: now, Actor: actor, Body: &ledger.Changed{
					Device: int64(d.ID), Version: d.Version + 1, State: uint8(d.State), Site: d.Site, Owner: d.Owner,
					Region: d.Region, Labels: ledger.LabelsDigest(d.Labels),
				}})
			}
			return nil
		})
		if err != nil || found < atOnce {
			return err
		}
		after = last
	}
}

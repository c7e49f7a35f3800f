package store

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// BackupInfo says what a backup holds.
type BackupInfo struct {
	Installation string    `json:"installation"` // hexadecimal
	Organization string    `json:"organization"`
	Schema       int       `json:"schema"` // number of the last migration
	LedgerSize   int64     `json:"ledger_size"`
	MadeAt       time.Time `json:"made_at"`

	Digest [32]byte         `json:"-"` // SHA-256 of the file up to its last 32 octets, which are this digest
	Bytes  int64            `json:"-"`
	Rows   map[string]int64 `json:"-"` // by table
	Files  []string         `json:"-"` // the other sections
}

// BackupFile is a file of the caller's that goes into a backup.
type BackupFile struct {
	Name    string
	Content io.Reader
}

const (
	headerSection = "header"
	tablePrefix   = "table/"
	filePrefix    = "file/"
)

// Backup writes everything that the database holds at one moment to w, in a
// form that either engine restores, and then the files. The server may go on
// working. made, if not nil, names the ledger's entries for the finished backup.
func (s *Store) Backup(ctx context.Context, w io.Writer, files []BackupFile, made func(BackupInfo) []ledger.Entry) (BackupInfo, error) {
	b, err := newBackupWriter(w)
	if err != nil {
		return BackupInfo{}, err
	}
	info := BackupInfo{MadeAt: s.cfg.Now().UTC(), Rows: make(map[string]int64)}
	err = s.engine.snapshot(ctx, func(q querier) error {
		if err := s.writeHeader(ctx, q, b, &info); err != nil {
			return err
		}
		for i := range tableForms {
			if err := writeTable(ctx, q, b, &tableForms[i], &info); err != nil {
				return fmt.Errorf("back up %s: %w", tableForms[i].name, err)
			}
		}
		return nil
	})
	if err != nil {
		return BackupInfo{}, err
	}
	for _, f := range files {
		if err := b.open(filePrefix + f.Name); err != nil {
			return BackupInfo{}, err
		}
		if _, err := io.Copy(b, f.Content); err != nil {
			return BackupInfo{}, err
		}
		if err := b.close(); err != nil {
			return BackupInfo{}, err
		}
		info.Files = append(info.Files, f.Name)
	}
	if info.Digest, err = b.finish(); err != nil {
		return BackupInfo{}, err
	}
	info.Bytes = b.bytes
	if made != nil {
		err = s.write(ctx, func(*tx) error { return nil }, made(info)...)
	}
	return info, err
}

func (s *Store) writeHeader(ctx context.Context, q querier, b *backupWriter, info *BackupInfo) error {
	i, err := readInstallation(ctx, q)
	if err != nil {
		return err
	}
	info.Installation, info.Organization = fmt.Sprintf("%x", i.ID), i.Organization
	if err := q.row(ctx, "SELECT size FROM ledger_head WHERE id = 1").Scan(&info.LedgerSize); err != nil {
		return err
	}
	if err := q.row(ctx, "SELECT MAX(number) FROM schema_info").Scan(&info.Schema); err != nil {
		return err
	}
	if err := b.open(headerSection); err != nil {
		return err
	}
	if err := json.NewEncoder(b).Encode(info); err != nil {
		return err
	}
	return b.close()
}

func writeTable(ctx context.Context, q querier, b *backupWriter, f *tableForm, info *BackupInfo) error {
	if err := b.open(tablePrefix + f.name); err != nil {
		return err
	}
	info.Rows[f.name] = 0
	columns := f.list()
	text := "SELECT " + names(columns) + " FROM " + f.name
	if f.order != "" {
		text += " ORDER BY " + f.order
	}
	var err error
	line := newRowScanner(columns)
	var encoded, scratch []byte
	err = each(q.query(ctx, text))(func(r row) error {
		if err := r.Scan(line.targets...); err != nil {
			return err
		}
		if encoded, scratch, err = appendRow(encoded[:0], scratch, line.values()); err != nil {
			return err
		}
		info.Rows[f.name]++
		if info.Rows[f.name]%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		_, err := b.Write(encoded)
		return err
	})
	if err != nil {
		return err
	}
	return b.close()
}

// rowScanner reads rows of a table into places of the columns' types.
type rowScanner struct {
	targets []any
	row     []any
}

func newRowScanner(columns []column) *rowScanner {
	l := &rowScanner{row: make([]any, len(columns))}
	for _, c := range columns {
		switch c.tag {
		case valueInt:
			l.targets = append(l.targets, new(int64))
		case valueText:
			l.targets = append(l.targets, new(string))
		default:
			l.targets = append(l.targets, new([]byte))
		}
	}
	return l
}

func (l *rowScanner) values() []any {
	for i, t := range l.targets {
		switch t := t.(type) {
		case *int64:
			l.row[i] = *t
		case *string:
			l.row[i] = *t
		case *[]byte:
			l.row[i] = nil
			if *t != nil {
				l.row[i] = *t
			}
		}
	}
	return l.row
}

// backupVisitor is shown what a backup holds, in order.
type backupVisitor struct {
	header func(*BackupInfo) error
	row    func(f *tableForm, row []any) error
	file   func(name string, content io.Reader) error
}

// VerifyBackup reads a backup to its end; fault.BackupInvalid says that a bit of
// it is not as it was written or that its end is missing.
func VerifyBackup(r io.Reader) (BackupInfo, error) {
	return readBackup(r, backupVisitor{
		header: func(*BackupInfo) error { return nil },
		row:    func(*tableForm, []any) error { return nil },
		file:   func(string, io.Reader) error { return nil },
	})
}

func readBackup(r io.Reader, v backupVisitor) (BackupInfo, error) {
	info := BackupInfo{Rows: make(map[string]int64)}
	b, err := newBackupReader(r)
	if err != nil {
		return info, fault.Wrap(fault.BackupInvalid, err)
	}
	for section := 0; ; section++ {
		name, err := b.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = readSection(b, name, section, &info, v)
		}
		if errors.Is(err, errBackup) {
			return info, fault.Wrap(fault.BackupInvalid, err)
		}
		if err != nil {
			return info, err
		}
	}
	if len(info.Rows) != len(tableForms) {
		return info, fault.Wrap(fault.BackupInvalid, fmt.Errorf("%w: tables are missing", errBackup))
	}
	info.Digest, info.Bytes = b.digest, b.bytes+int64(len(b.digest))
	return info, nil
}

func readSection(b *backupReader, name string, section int, info *BackupInfo, v backupVisitor) error {
	if (section == 0) != (name == headerSection) {
		return fmt.Errorf("%w: order of sections", errBackup)
	}
	if section == 0 {
		raw, err := io.ReadAll(io.LimitReader(b, 1<<20))
		if err != nil {
			return err
		}
		if err := json.Unmarshal(raw, info); err != nil || !b.ended {
			return fmt.Errorf("%w: header", errBackup)
		}
		return v.header(info)
	}
	if table, ok := strings.CutPrefix(name, tablePrefix); ok {
		return readTable(b, table, info, v)
	}
	file, ok := strings.CutPrefix(name, filePrefix)
	if !ok || slices.Contains(info.Files, file) {
		return fmt.Errorf("%w: section %q", errBackup, name)
	}
	info.Files = append(info.Files, file)
	if err := v.file(file, b); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, b)
	return err
}

func readTable(b *backupReader, table string, info *BackupInfo, v backupVisitor) error {
	f, ok := formOf(table)
	if _, twice := info.Rows[table]; !ok || twice {
		return fmt.Errorf("%w: table %q", errBackup, table)
	}
	info.Rows[table] = 0
	columns := f.list()
	rows := rowReader{r: bufio.NewReaderSize(b, backupChunk)}
	row := make([]any, len(columns))
	for {
		err := rows.next(row)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for i, c := range columns {
			if !fits(row[i], c.tag) {
				return fmt.Errorf("%w: type of %s.%s", errBackup, table, c.name)
			}
		}
		info.Rows[table]++
		if err := v.row(f, row); err != nil {
			return err
		}
	}
}

func fits(v any, tag byte) bool {
	switch v.(type) {
	case int64:
		return tag == valueInt
	case string:
		return tag == valueText
	}
	return tag == valueBlob
}

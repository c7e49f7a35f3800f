package store

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
)

// The migrations come in pairs with equal names. They are append-only: a file
// that was released is never edited, and its checksum is kept in the database.
//
//go:embed migrations
var migrationFiles embed.FS

// migration is one step of the schema.
type migration struct {
	name     string
	number   int64
	text     string
	checksum string
	// oldest is the schema number of the oldest program that may still run on
	// the database once this step was taken ("-- oldest: N" in the first line;
	// otherwise none that lacks this step).
	oldest int64
}

// migrations reads the steps for a dialect, in order.
func migrations(dialect string) ([]migration, error) {
	folder := path.Join("migrations", dialect)
	files, err := fs.ReadDir(migrationFiles, folder)
	if err != nil {
		return nil, err
	}
	var ms []migration
	for i, f := range files {
		raw, err := migrationFiles.ReadFile(path.Join(folder, f.Name()))
		if err != nil {
			return nil, err
		}
		m, err := parseMigration(f.Name(), string(raw))
		if err != nil {
			return nil, err
		}
		if m.number != int64(i+1) {
			return nil, fmt.Errorf("migration %s is not number %d", f.Name(), i+1)
		}
		ms = append(ms, m)
	}
	return ms, nil
}

func parseMigration(name, text string) (migration, error) {
	sum := sha256.Sum256([]byte(text))
	m := migration{name: strings.TrimSuffix(name, ".sql"), text: text, checksum: hex.EncodeToString(sum[:])}
	digits, _, _ := strings.Cut(name, "_")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return m, fmt.Errorf("migration %s has no number: %w", name, err)
	}
	m.number = n
	line, _, _ := strings.Cut(text, "\n")
	oldest, ok := strings.CutPrefix(line, "-- oldest: ")
	if !ok {
		m.oldest = n
		return m, nil
	}
	m.oldest, err = strconv.ParseInt(strings.TrimSpace(oldest), 10, 64)
	if err != nil {
		return m, fmt.Errorf("migration %s: %w", name, err)
	}
	return m, nil
}

const createSchemaInfo = `CREATE TABLE IF NOT EXISTS schema_info (
  number BIGINT PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, oldest BIGINT NOT NULL, applied_at BIGINT NOT NULL)`

// migrate takes the steps that the database has not seen, each in a transaction
// of its own, one node at a time.
func (s *Store) migrate(ctx context.Context) error {
	steps, err := migrations(s.dialect())
	if err != nil {
		return err
	}
	return s.engine.migrate(ctx, func(q scripter) error { return s.migrateWith(ctx, q, steps) })
}

func (s *Store) dialect() string {
	if strings.HasPrefix(s.cfg.DSN, "sqlite:") {
		return "sqlite"
	}
	return "postgres"
}

func (s *Store) migrateWith(ctx context.Context, q scripter, steps []migration) error {
	if !s.cfg.ReadOnly {
		if err := q.script(ctx, createSchemaInfo); err != nil {
			return err
		}
	}
	done, err := s.appliedSteps(ctx, q, steps)
	if err != nil {
		return err
	}
	if s.cfg.ReadOnly && done < int64(len(steps)) {
		return fault.New(fault.SchemaOlder, "start the server once to upgrade")
	}
	for _, m := range steps[min(done, int64(len(steps))):] {
		if err := s.applyStep(ctx, q, m); err != nil {
			return fmt.Errorf("migration %s: %w", m.name, err)
		}
	}
	return nil
}

// appliedSteps returns how many steps the database has taken, and refuses one
// that this program would not understand.
func (s *Store) appliedSteps(ctx context.Context, q querier, steps []migration) (done int64, err error) {
	err = each(q.query(ctx, "SELECT number, name, checksum, oldest FROM schema_info ORDER BY number"))(func(r row) error {
		var m migration
		if err := r.Scan(&m.number, &m.name, &m.checksum, &m.oldest); err != nil {
			return err
		}
		if m.oldest > int64(len(steps)) {
			return fault.New(fault.SchemaNewer, "schema", m.number, "needs at least a program of schema", m.oldest)
		}
		if m.number != done+1 {
			return fault.New(fault.SchemaCorrupt, "migrations are missing before", m.name)
		}
		done = m.number
		if done <= int64(len(steps)) && steps[done-1].checksum != m.checksum {
			return fault.New(fault.SchemaCorrupt, "migration", m.name, "is not the one of this program")
		}
		return nil
	})
	return done, err
}

func (s *Store) applyStep(ctx context.Context, q scripter, m migration) error {
	if err := q.script(ctx, "BEGIN"); err != nil {
		return err
	}
	err := q.script(ctx, m.text)
	if err == nil {
		_, err = q.exec(ctx, "INSERT INTO schema_info (number, name, checksum, oldest, applied_at) VALUES ($1, $2, $3, $4, $5)",
			m.number, m.name, m.checksum, m.oldest, s.cfg.Now())
	}
	if err != nil {
		_ = q.script(ctx, "ROLLBACK")
		return err
	}
	return q.script(ctx, "COMMIT")
}

//go:build unix

package store

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/needs"
)

// columns lists table, column, kind and whether it may be NULL.
func columns(t *testing.T, s *Store, sql string) []string {
	t.Helper()
	var all []string
	err := each(s.read.query(t.Context(), sql))(func(r row) error {
		var table, column, kind string
		var null int64
		err := r.Scan(&table, &column, &kind, &null)
		kind = map[string]string{"INTEGER": "number", "BIGINT": "number", "bigint": "number", "TEXT": "text", "text": "text", "BLOB": "bytes", "bytea": "bytes"}[kind]
		all = append(all, table+"."+column+" "+kind+" "+map[int64]string{0: "", 1: "or NULL"}[null])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

func TestBothSchemasAreOne(t *testing.T) {
	dsn := emptySchema(t, needs.Postgres(t))
	lite := mustOpen(t, Config{DSN: "sqlite:" + filepath.Join(t.TempDir(), "birthmark.db")})
	pg := mustOpen(t, Config{DSN: dsn})
	there := columns(t, pg, `SELECT table_name::text, column_name::text, data_type::text, CASE is_nullable WHEN 'YES' THEN 1 ELSE 0 END::bigint
FROM information_schema.columns WHERE table_schema = current_schema()`)
	// A rowid table's INTEGER PRIMARY KEY is never NULL, whatever it says.
	here := columns(t, lite, `SELECT m.name, c.name, c.type, CASE WHEN c."notnull" = 1 OR c.pk > 0 THEN 0 ELSE 1 END
FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'`)
	if d := cmp.Diff(here, there); d != "" {
		t.Errorf("SQLite (-) and PostgreSQL (+) differ:\n%s", d)
	}
	if len(here) < 80 {
		t.Errorf("only %d columns were compared", len(here))
	}
}

func TestMigrationsComeInPairs(t *testing.T) {
	lite, err := migrations("sqlite")
	if err != nil {
		t.Fatal(err)
	}
	pg, err := migrations("postgres")
	if err != nil {
		t.Fatal(err)
	}
	names := func(ms []migration) (all []string) {
		for _, m := range ms {
			all = append(all, m.name)
			if m.oldest < 1 || m.oldest > m.number {
				t.Errorf("%s may be run by programs from %d on", m.name, m.oldest)
			}
		}
		return all
	}
	if d := cmp.Diff(names(lite), names(pg)); d != "" {
		t.Error(d)
	}
}

func TestParseMigration(t *testing.T) {
	for text, want := range map[string]int64{"-- oldest: 2\nSELECT 1": 2, "SELECT 1": 7, "-- oldest: x\n": -1} {
		m, err := parseMigration("0007_x.sql", text)
		if (err != nil) != (want < 0) || err == nil && (m.oldest != want || m.number != 7 || m.name != "0007_x") {
			t.Errorf("%q: %+v, %v", text, m, err)
		}
	}
	if _, err := parseMigration("x.sql", ""); err == nil {
		t.Error("a migration without number")
	}
}

// steps are migrations of a later program: the second fails in its middle.
func steps(t *testing.T, s *Store) []migration {
	ms, err := migrations(s.dialect())
	if err != nil {
		t.Fatal(err)
	}
	n := int64(len(ms))
	return append(ms,
		migration{name: "next", number: n + 1, checksum: "a", oldest: n, text: "CREATE TABLE next_one (id BIGINT PRIMARY KEY); INSERT INTO next_one VALUES (1);"},
		migration{name: "broken", number: n + 2, checksum: "b", oldest: n, text: "CREATE TABLE next_two (id BIGINT PRIMARY KEY); INSERT INTO next_none VALUES (1);"})
}

func TestAMigrationIsWholeOrNotThere(t *testing.T) {
	onBoth(t, func(t *testing.T, cfg Config) {
		s := mustOpen(t, cfg)
		later := steps(t, s)
		run := func(ms []migration) error {
			return s.engine.migrate(t.Context(), func(q scripter) error { return s.migrateWith(t.Context(), q, ms) })
		}
		if err := run(later); err == nil || !strings.Contains(err.Error(), "broken") {
			t.Fatalf("%v", err)
		}
		if n := s.count(t, "SELECT count(*) FROM next_one"); n != 1 {
			t.Errorf("%d rows of the first step", n)
		}
		var n int64
		if err := s.read.row(t.Context(), "SELECT count(*) FROM next_two").Scan(&n); err == nil {
			t.Error("half of a step was taken")
		}
		// Mended, it goes on where it stopped.
		later[len(later)-1].text = "CREATE TABLE next_two (id BIGINT PRIMARY KEY);"
		if err := errors.Join(run(later), run(later)); err != nil {
			t.Fatal(err)
		}
		if n := s.count(t, "SELECT count(*) FROM next_two"); n != 0 {
			t.Error(n)
		}
		// This program, older by two steps, is named as one that may still run.
		old := mustOpen(t, cfg)
		if err := old.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestNodesMigrateOneAtATime(t *testing.T) {
	dsn := emptySchema(t, needs.Postgres(t))
	errs := make(chan error, 4)
	for range cap(errs) {
		go func() {
			s, err := Open(context.Background(), Config{DSN: dsn})
			if err == nil {
				err = s.Close()
			}
			errs <- err
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestAnOlderSchemaIsNotReadOnly(t *testing.T) {
	onBoth(t, func(t *testing.T, cfg Config) {
		s := mustOpen(t, cfg)
		s.cfg.ReadOnly = true
		later := steps(t, s)
		err := s.engine.migrate(t.Context(), func(q scripter) error { return s.migrateWith(t.Context(), q, later) })
		refused(t, err, fault.SchemaOlder)
	})
}

package store

import (
	"context"
	"path/filepath"
	"slices"
	"testing"
)

func TestBackupKnowsEveryTable(t *testing.T) {
	s, err := Open(t.Context(), Config{DSN: "sqlite:" + filepath.Join(t.TempDir(), "birthmark.db"), Node: "one"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	tables := columnsOf(t.Context(), t, s, "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'schema_info'")
	var known []string
	for _, f := range tableForms {
		known = append(known, f.name)
		have := columnsOf(t.Context(), t, s, "SELECT name || CASE type WHEN 'TEXT' THEN ':t' WHEN 'BLOB' THEN ':b' ELSE '' END FROM pragma_table_info('"+f.name+"')")
		want := fieldsOf(f.columns)
		if !slices.Equal(have, want) {
			t.Errorf("%s has columns %v, backups keep %v", f.name, have, want)
		}
	}
	known = append(known, leftOut...)
	slices.Sort(known)
	if !slices.Equal(known, tables) {
		t.Errorf("the schema has %v, backups keep %v", tables, known)
	}
}

func columnsOf(ctx context.Context, t *testing.T, s *Store, sql string) []string {
	t.Helper()
	var all []string
	err := each(s.read.query(ctx, sql))(func(r row) error {
		var name string
		err := r.Scan(&name)
		all = append(all, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

func fieldsOf(columns string) []string {
	f := splitColumns(columns)
	slices.Sort(f)
	return f
}

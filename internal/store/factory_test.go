package store_test

import (
	"path/filepath"
	"testing"

	"github.com/birthmark/birthmark/internal/needs"
	"github.com/birthmark/birthmark/internal/store"
	"github.com/birthmark/birthmark/internal/store/storetest"
)

func TestFactoryOnSQLite(t *testing.T) {
	t.Parallel()
	storetest.Factory(t, func(t *testing.T) *store.Store {
		return open(t, "sqlite:"+filepath.Join(t.TempDir(), "birthmark.db"))
	})
}

func TestFactoryOnPostgres(t *testing.T) {
	dsn := needs.Postgres(t)
	t.Parallel()
	storetest.Factory(t, func(t *testing.T) *store.Store { return open(t, ownSchema(t, dsn)) })
}

func TestTwoNodesImportTheSameChips(t *testing.T) {
	dsn := needs.Postgres(t)
	t.Parallel()
	storetest.TwoImports(t, func(t *testing.T) (one, two *store.Store) {
		schema := ownSchema(t, dsn)
		return open(t, schema), open(t, schema)
	})
}

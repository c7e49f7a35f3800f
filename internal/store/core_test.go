package store_test

import (
	"path/filepath"
	"testing"

	"github.com/birthmark/birthmark/internal/needs"
	"github.com/birthmark/birthmark/internal/store"
	"github.com/birthmark/birthmark/internal/store/storetest"
)

func TestCoreOnSQLite(t *testing.T) {
	t.Parallel()
	storetest.Core(t, func(t *testing.T) *store.Store {
		return open(t, "sqlite:"+filepath.Join(t.TempDir(), "birthmark.db"))
	})
}

func TestCoreOnPostgres(t *testing.T) {
	dsn := needs.Postgres(t)
	t.Parallel()
	storetest.Core(t, func(t *testing.T) *store.Store { return open(t, ownSchema(t, dsn)) })
}

func TestTwoNodesOnOneDatabase(t *testing.T) {
	dsn := ownSchema(t, needs.Postgres(t))
	t.Parallel()
	one, two := open(t, dsn), open(t, dsn)
	changed := two.Changed()
	storetest.Concurrent(t, one, two)
	<-changed
}

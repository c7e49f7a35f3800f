package store_test

import (
	"path/filepath"
	"testing"

	"github.com/birthmark/birthmark/internal/needs"
	"github.com/birthmark/birthmark/internal/store"
	"github.com/birthmark/birthmark/internal/store/storetest"
)

func TestAttestOnSQLite(t *testing.T) {
	t.Parallel()
	storetest.Attest(t, func(t *testing.T) *store.Store {
		return open(t, "sqlite:"+filepath.Join(t.TempDir(), "birthmark.db"))
	})
}

func TestAttestOnPostgres(t *testing.T) {
	dsn := needs.Postgres(t)
	t.Parallel()
	storetest.Attest(t, func(t *testing.T) *store.Store { return open(t, ownSchema(t, dsn)) })
}

func TestEvidenceMeetsAtTwoNodes(t *testing.T) {
	dsn := ownSchema(t, needs.Postgres(t))
	t.Parallel()
	storetest.EvidenceMeets(t, open(t, dsn), open(t, dsn))
}

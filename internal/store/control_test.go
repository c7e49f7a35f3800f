package store_test

import (
	"context"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/birthmark/birthmark/internal/needs"
	"github.com/birthmark/birthmark/internal/store"
	"github.com/birthmark/birthmark/internal/store/storetest"
)

func open(t *testing.T, dsn string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{DSN: dsn, Node: "one"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestControlOnSQLite(t *testing.T) {
	t.Parallel()
	storetest.Control(t, func(t *testing.T) *store.Store {
		return open(t, "sqlite:"+filepath.Join(t.TempDir(), "birthmark.db"))
	})
}

func TestControlOnPostgres(t *testing.T) {
	dsn := needs.Postgres(t)
	t.Parallel()
	storetest.Control(t, func(t *testing.T) *store.Store { return open(t, ownSchema(t, dsn)) })
}

func TestMoveBetweenDatabases(t *testing.T) {
	dsn := needs.Postgres(t)
	t.Parallel()
	lite := func(t *testing.T) *store.Store {
		return open(t, "sqlite:"+filepath.Join(t.TempDir(), "birthmark.db"))
	}
	postgres := func(t *testing.T) *store.Store { return open(t, ownSchema(t, dsn)) }
	t.Run("SQLite to PostgreSQL", func(t *testing.T) { storetest.Move(t, lite, postgres) })
	t.Run("PostgreSQL to SQLite", func(t *testing.T) { storetest.Move(t, postgres, lite) })
}

// ownSchema is the connection string of an empty schema, dropped with the test.
func ownSchema(t *testing.T, dsn string) string {
	t.Helper()
	name := "control_" + strings.ToLower(strings.ReplaceAll(time.Now().Format("150405.000000000"), ".", "_"))
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = q.Encode()
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		c, err := pgx.Connect(ctx, dsn)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close(ctx)
		if _, err := c.Exec(ctx, "DROP SCHEMA IF EXISTS "+name+" CASCADE"); err != nil {
			t.Error(err)
		}
	})
	return u.String()
}

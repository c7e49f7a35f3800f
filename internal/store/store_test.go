package store

import (
	"path/filepath"
	"testing"

	"github.com/birthmark/birthmark/internal/identity/ledger"
)

func TestWriteAppendsItsEntries(t *testing.T) {
	s, err := Open(t.Context(), Config{DSN: "sqlite:" + filepath.Join(t.TempDir(), "birthmark.db"), Node: "one"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	changed := s.Changed()
	err = s.write(t.Context(), func(tx *tx) error { return tx.bumpControl(t.Context()) },
		ledger.Entry{Kind: ledger.LabelSet, Actor: "operator:ann", Body: ledger.JSON(map[string]string{"name": "a"})})
	if err != nil {
		t.Fatal(err)
	}
	<-changed
	var size int64
	if err := s.read.row(t.Context(), "SELECT size FROM ledger_head").Scan(&size); err != nil || size != 1 {
		t.Fatalf("size %d, %v", size, err)
	}
}

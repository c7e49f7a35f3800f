package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/needs"
)

func TestTokenIsNotForEverybody(t *testing.T) {
	needs.Unix(t)
	path := filepath.Join(t.TempDir(), "token")
	made, err := readToken(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := readToken(path)
	if err != nil || again != made {
		t.Errorf("got %q, %v", again, err)
	}
	if err := os.Chmod(path, 0o604); err != nil {
		t.Fatal(err)
	}
	if _, err := readToken(path); !fault.Has(err, fault.ParameterInvalid) {
		t.Errorf("a token that everybody reads: %v", err)
	}
}

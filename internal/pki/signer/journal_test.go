package signer_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/signer"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func openJournal(t *testing.T, dir string, segment int64) *signer.Journal {
	t.Helper()
	j, err := signer.OpenJournal(signer.JournalConfig{Dir: dir, Segment: segment})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func read(t *testing.T, dir string) (all []signer.Record) {
	t.Helper()
	if err := signer.ReadJournal(dir, func(r *signer.Record) error { all = append(all, *r); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

// groups writes groups of three records and returns the file and where each
// group ends.
func groups(t *testing.T, dir string, n int) (path string, ends []int) {
	t.Helper()
	j := openJournal(t, dir, 0)
	path = filepath.Join(dir, "00000001.journal")
	for i := range n {
		var records []signer.Record
		for k := range 3 {
			records = append(records, signer.Record{Key: "k", Kind: signer.Leaf, Number: []byte{byte(3*i + k + 1)}, Outcome: signer.Signing})
		}
		if err := j.Append(noon, records...); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, int(info.Size()))
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return path, ends
}

// Wherever power goes while the last group is being written, all groups before
// it are there, and the journal goes on.
func TestATornEndIsRepaired(t *testing.T) {
	dir := t.TempDir()
	path, ends := groups(t, dir, 4)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := ends[2]; cut < ends[3]; cut++ {
		for _, zeros := range []bool{false, true} {
			data := bytes.Clone(whole[:cut])
			if zeros { // the file had grown already
				data = append(data, make([]byte, ends[3]-cut)...)
			}
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			j := openJournal(t, dir, 0)
			if err := j.Append(noon, signer.Record{Key: "after", Outcome: signer.Signing}); err != nil {
				t.Fatal(err)
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			all := read(t, dir)
			if len(all) < 10 || len(all) > 12 || all[len(all)-1].Key != "after" || all[8].Number[0] != 9 {
				t.Fatalf("cut at %d: %d records", cut, len(all))
			}
		}
	}
	torn, err := filepath.Glob(path + ".torn-*")
	if err != nil || len(torn) == 0 {
		t.Errorf("what was torn off is not kept: %v", err)
	}
}

// A change of any octet before the last group is found, and nothing is signed.
func TestAnEditIsFound(t *testing.T) {
	dir := t.TempDir()
	path, ends := groups(t, dir, 4)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const head = 27 + 32
	for at := head; at < ends[1]; at++ {
		data := bytes.Clone(whole)
		data[at] ^= 0x40
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if j, err := signer.OpenJournal(signer.JournalConfig{Dir: dir}); !fault.Has(err, fault.SignerJournal) {
			t.Fatalf("octet %d was changed: %v", at, err)
		} else if j != nil {
			t.Fatal("it opened")
		}
		if err := signer.ReadJournal(dir, func(*signer.Record) error { return nil }); !fault.Has(err, fault.SignerJournal) {
			t.Fatalf("octet %d was changed, and verify says %v", at, err)
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := len(read(t, dir)); got != 12 {
		t.Errorf("%d records", got)
	}
}

func TestTheChainGoesOnAcrossFiles(t *testing.T) {
	dir := t.TempDir()
	j := openJournal(t, dir, 2048)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for k := range 25 {
				if err := j.Append(noon, signer.Record{Key: fmt.Sprintf("%d-%d", i, k), Outcome: signer.Signing}); err != nil {
					t.Error(err)
				}
				j.Note(noon, signer.Record{Key: "note", Outcome: signer.Refused})
			}
		})
	}
	all.Wait()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	seen, notes := map[string]int{}, 0
	for _, r := range read(t, dir) {
		if r.Outcome == signer.Signing {
			seen[r.Key]++
		} else {
			notes++
		}
	}
	if len(seen) != 200 || notes != 50 {
		t.Errorf("%d records and %d notes; want 200 and the 50 of one second", len(seen), notes)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.journal"))
	if err != nil || len(files) < 5 {
		t.Fatalf("%d files", len(files))
	}
	// A file that is missing in the middle breaks the chain.
	if err := os.Remove(files[2]); err != nil {
		t.Fatal(err)
	}
	if err := signer.ReadJournal(dir, func(*signer.Record) error { return nil }); !fault.Has(err, fault.SignerJournal) {
		t.Errorf("a file is missing: %v", err)
	}
}

func TestTwoSignersDoNotShareAJournal(t *testing.T) {
	dir := t.TempDir()
	openJournal(t, dir, 0)
	if _, err := signer.OpenJournal(signer.JournalConfig{Dir: dir}); !fault.Has(err, fault.SignerJournal) {
		t.Error(err)
	}
}

// What cannot be journaled is not signed.
func TestWithoutAJournalNothingIsSigned(t *testing.T) {
	a := newAuthority(t, "Issuing CA", nil)
	b := &backend{key: a.key.PrivateKey}
	w := newWorld(t, a.keyConfig("issuing", func(c *signer.KeyConfig) { c.Backend = b }))
	w.signs("before", "issuing", a.tbs(leaf(1)))
	if err := w.journal.Close(); err != nil {
		t.Fatal(err)
	}
	w.refuses("after", "issuing", a.tbs(leaf(2)), fault.SignerJournal)
	if b.calls.Load() != 1 {
		t.Error("it was signed")
	}
}

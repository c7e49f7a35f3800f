package server_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/birthmark/birthmark/internal/web/server"
)

// disk fails while it is full.
type disk struct {
	mu   sync.Mutex
	full bool
	text strings.Builder
	hits int
}

func (d *disk) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hits++
	if d.full {
		return 0, errors.New("no space left")
	}
	return d.text.Write(b)
}

func TestLogWriterLosesNothing(t *testing.T) {
	d := new(disk)
	w := server.NewLogWriter(d)
	var writers sync.WaitGroup
	for i := range 8 {
		writers.Go(func() {
			for j := range 1000 {
				fmt.Fprintf(w, "line %d %d %s\n", i, j, strings.Repeat("x", 100))
			}
		})
	}
	writers.Wait()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(d.text.String(), "\n"), "\n")
	if len(lines) != 8000 {
		t.Fatalf("%d lines", len(lines))
	}
	next := [8]int{}
	for _, l := range lines {
		var i, j int
		if _, err := fmt.Sscanf(l, "line %d %d ", &i, &j); err != nil || j != next[i] {
			t.Fatalf("%q, want line %d: %v", l, next[i], err)
		}
		next[i]++
	}
	if d.hits > 100 {
		t.Errorf("%d system calls", d.hits)
	}
}

func TestLogWriterWritesSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := new(disk)
		w := server.NewLogWriter(d)
		for range 2 {
			before := d.text.Len()
			fmt.Fprintln(w, "line")
			time.Sleep(251 * time.Millisecond) // of the bubble's clock
			synctest.Wait()
			if d.text.Len() == before {
				t.Fatal("nothing was written")
			}
		}
	})
}

func TestLogWriterRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{full: true}
		w := server.NewLogWriter(d)
		fmt.Fprintln(w, "lost")
		time.Sleep(time.Second)
		synctest.Wait()
		d.mu.Lock()
		d.full = false
		d.mu.Unlock()
		fmt.Fprintln(w, "kept 1")
		time.Sleep(time.Second)
		synctest.Wait()
		d.mu.Lock()
		d.full = true
		d.mu.Unlock()
		// So much that it is written before the time is up, in vain.
		for range 2000 {
			fmt.Fprintln(w, strings.Repeat("y", 100))
		}
		d.mu.Lock()
		d.full = false
		d.mu.Unlock()
		fmt.Fprintln(w, "kept 2")
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if got := d.text.String(); !strings.HasPrefix(got, "kept 1\n") || !strings.HasSuffix(got, "kept 2\n") {
			t.Fatalf("got %.100q", got)
		}
	})
}

package remote_test

import (
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/keystore/remote"
)

// One key's hardware hangs, with many calls on their way and more behind them.
// Whoever signs with another key notices nothing, and nobody's connection ends
// before its time.
func TestAHungKeyHoldsUpNoOther(t *testing.T) {
	w := newWorld(t)
	w.start()
	client := w.client(func(c *remote.Config) { c.Timeout = 2 * time.Minute })
	hang := make(chan struct{})
	w.hang.Store(&hang)
	var hung sync.WaitGroup
	defer hung.Wait()
	for range 40 {
		tbs := certificateTBS(t, w)
		hung.Go(func() {
			if _, err := client.Sign(t.Context(), "issuing", tbs); err != nil {
				t.Error(err)
			}
		})
	}
	for w.signed.Load() < 5 { // of two frames
		runtime.Gosched()
	}
	for range 20 {
		if _, err := client.Sign(t.Context(), "other", certificateTBS(t, w)); err != nil {
			t.Error(err)
			break
		}
	}
	w.hang.Store(nil)
	close(hang)
}

// A signer that takes everything and answers nothing is left after a while; the
// next call finds another.
func TestASilentSignerIsLeft(t *testing.T) {
	w := newWorld(t)
	w.start()
	client := w.client(func(c *remote.Config) { c.Timeout = 300 * time.Millisecond })
	hang := make(chan struct{})
	w.hang.Store(&hang)
	for range 2 {
		if _, err := client.Sign(t.Context(), "issuing", certificateTBS(t, w)); !fault.Has(err, fault.SignerUnreachable) {
			t.Error(err)
		}
	}
	w.hang.Store(nil)
	// What hung goes on hanging; a new connection knows nothing of it.
	if _, err := client.Sign(t.Context(), "issuing", certificateTBS(t, w)); err != nil {
		t.Error(err)
	}
	close(hang)
}

package store

import (
	"os"
	"sync"

	"github.com/birthmark/birthmark/internal/fault"
)

// walSync makes commits durable. The writer commits without a sync and goes on;
// who committed waits here until a sync of the log that began later has ended.
// Those who wait meanwhile share the next sync. The log is written in order, so
// whatever is durable, all before it is too.
type walSync struct {
	path string

	mu        sync.Mutex
	changed   sync.Cond
	file      *os.File // guarded by mu; the log, once there is one
	committed int64    // guarded by mu; commits so far
	synced    int64    // guarded by mu; commits that a sync covers
	syncing   bool     // guarded by mu
	err       error    // guarded by mu; the sync that failed; none is tried after it
}

func newWALSync(path string) *walSync {
	w := &walSync{path: path + "-wal"}
	w.changed.L = &w.mu
	return w
}

// note counts a commit. The caller holds the writing token.
func (w *walSync) note() {
	w.mu.Lock()
	w.committed++
	w.mu.Unlock()
}

// wait returns once all that is committed now is durable, or the error of the
// sync that failed. When it is this caller who syncs, begins is called as the
// sync begins.
func (w *walSync) wait(begins func()) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for want := w.committed; w.synced < want && w.err == nil; {
		if w.syncing {
			w.changed.Wait()
			continue
		}
		w.sync(begins)
	}
	return w.err
}

// settle is wait for a reader, who has seen what may not be durable yet. When a
// sync has failed nothing is written any more, but what is there is shown.
func (w *walSync) settle() { _ = w.wait(func() {}) }

// sync runs one sync without holding mu while it lasts.
func (w *walSync) sync(begins func()) {
	covers := w.committed
	w.syncing = true
	file := w.file
	w.mu.Unlock()
	begins()
	var err error
	if file == nil {
		file, err = os.OpenFile(w.path, os.O_RDWR, 0)
	}
	if err == nil {
		err = syncData(file)
	}
	w.mu.Lock()
	w.file, w.syncing = file, false
	if err == nil {
		w.synced = covers
	} else {
		w.err = fault.Wrap(fault.StoreBroken, err)
	}
	w.changed.Broadcast()
}

func (w *walSync) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return nil
	}
	return w.file.Close()
}

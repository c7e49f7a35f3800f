package store

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
)

// gatherer reads the devices of all who ask at the same time in one read
// transaction. In WAL mode the first look after a commit drops a connection's
// pages, so that each read alone pays for the inner pages of the tree and for
// the locks of a transaction.
type gatherer struct {
	s       *Store
	crowded atomic.Bool // the newest read was for more than one

	mu      sync.Mutex
	waiting []*wanted // guarded by mu
	led     bool      // guarded by mu; somebody reads or is about to
}

// wanted is one device that somebody waits for.
type wanted struct {
	id     device.ID
	device device.Device
	err    error
	turn   chan bool // true: read for all who wait; false: it is read
}

// maxGather bounds a read transaction.
const maxGather = 128

func (g *gatherer) read(ctx context.Context, id device.ID) (device.Device, error) {
	if err := ctx.Err(); err != nil {
		return device.Device{}, context.Cause(ctx)
	}
	w := &wanted{id: id}
	g.mu.Lock()
	g.waiting = append(g.waiting, w)
	lead := !g.led
	if lead {
		g.led = true
	} else {
		w.turn = make(chan bool, 1)
	}
	g.mu.Unlock()
	if lead {
		// Who is ready to run goes first: they may ask for a device too.
		if g.crowded.Load() {
			runtime.Gosched()
		}
	} else if lead = <-w.turn; !lead {
		return w.device, w.err
	}
	g.readAll(w)
	return w.device, w.err
}

// readAll reads for all who wait, own among them, and passes the lead on.
func (g *gatherer) readAll(own *wanted) {
	g.mu.Lock()
	all := g.waiting
	if len(all) > maxGather {
		all = all[:maxGather:maxGather]
	}
	g.waiting = g.waiting[len(all):]
	g.mu.Unlock()
	g.crowded.Store(len(all) > 1)

	g.load(all)
	for _, w := range all {
		if w != own {
			w.turn <- false
		}
	}

	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		g.led = false
		return
	}
	g.waiting[0].turn <- true
}

// load does not end with the context of whoever leads: others wait too.
func (g *gatherer) load(all []*wanted) {
	ids := make([]int64, len(all))
	for i, w := range all {
		ids[i] = int64(w.id)
	}
	found, err := g.s.engine.devices(context.Background(), ids)
	for _, w := range all {
		if d, ok := found[w.id]; ok {
			w.device = d
		} else if w.err = err; err == nil {
			w.err = fault.New(fault.DeviceUnknown)
		}
	}
}

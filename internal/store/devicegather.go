package store

import (
	"context"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
)

// maxGather bounds a read transaction.
const maxGather = 128

// wanted is one device that somebody waits for. The devices of all who ask at the
// same time are read in one transaction: in WAL mode the first look after a commit
// drops a connection's pages, so that each read alone pays for the inner pages of
// the tree and for the locks of a transaction.
type wanted struct {
	id     device.ID
	device device.Device
	err    error
}

func (s *Store) gatheredDevice(ctx context.Context, id device.ID) (device.Device, error) {
	w := &wanted{id: id}
	if err := s.gather.submit(ctx, w); err != nil {
		return device.Device{}, err
	}
	return w.device, w.err
}

// readWanted does not end with the context of whoever leads: others wait too.
func (s *Store) readWanted(all []*wanted, _ func()) {
	ids := make([]int64, len(all))
	for i, w := range all {
		ids[i] = int64(w.id)
	}
	found, err := s.engine.devices(context.Background(), ids)
	for _, w := range all {
		if d, ok := found[w.id]; ok {
			w.device = d
		} else if w.err = err; err == nil {
			w.err = fault.New(fault.DeviceUnknown)
		}
	}
}

package enroll

import (
	"context"
	"sync"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// maxBlocks bounds how many nonce blocks are remembered.
const maxBlocks = 4096

// blocks remembers what never changes in a nonce block, so that each is read
// once. Which nonces were used is for STORE to know.
type blocks struct {
	mu    sync.Mutex
	known map[int64]*factory.NonceBlock // guarded by mu
}

func (b *blocks) get(id int64) *factory.NonceBlock {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.known[id]
}

func (b *blocks) put(one *factory.NonceBlock) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known == nil || len(b.known) >= maxBlocks {
		b.known = make(map[int64]*factory.NonceBlock)
	}
	b.known[one.ID] = one
}

// checkNonce says which nonce of which block this is. It must be one that the
// station drew for the order.
func (e *Enroller) checkNonce(ctx context.Context, nonce []byte, order, station int64) (device.NonceRef, error) {
	id, ok := factory.NonceBlockID(nonce)
	if !ok {
		return device.NonceRef{}, fault.New(fault.NonceInvalid)
	}
	b := e.blocks.get(id)
	if b == nil {
		read, err := e.line.Store.NonceBlock(ctx, id)
		if err != nil {
			return device.NonceRef{}, err
		}
		read.Used = nil
		b = &read
		e.blocks.put(b)
	}
	return b.Check(nonce, order, station, e.now())
}

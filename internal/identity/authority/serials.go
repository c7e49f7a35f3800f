package authority

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
)

// SerialStore records blocks of certificate serials. device.Store has it.
type SerialStore interface {
	LeaseSerials(ctx context.Context, node string, count int, at time.Time) (device.SerialLease, error)
	CloseLease(ctx context.Context, ref device.LeaseRef, at time.Time) error
	FenceNode(ctx context.Context, node string, at time.Time) error
	CertSerial(l device.SerialLease, id device.CredentialID) []byte
}

// lingering is how long a used-up block stays open for issuances that are still
// on their way to STORE.
const lingering = 10 * time.Minute

// Serials hands out certificate serials from leased blocks, each exactly once.
// The next block is leased in the background before the current one is used up.
type Serials struct {
	store SerialStore
	node  string
	count int
	now   func() time.Time

	mu      sync.Mutex
	fenced  bool // blocks of a former run of this node are closed
	closed  bool
	current block
	next    block
	spent   []spentBlock
	fetch   *fetch // the lease that is on its way
	done    sync.WaitGroup
}

// block is a lease and how many of its serials are left.
type block struct {
	lease device.SerialLease
	left  int
}

type spentBlock struct {
	ref device.LeaseRef
	at  time.Time
}

// fetch is one call for a new block; err is set before ready is closed.
type fetch struct {
	ready chan struct{}
	err   error
}

// SerialsConfig names what Serials needs.
type SerialsConfig struct {
	Store SerialStore
	Node  string
	Count int // size of a block: 4,096 for a server, 64 for one command
	Now   func() time.Time
}

// NewSerials returns a leaser; it leases nothing before the first Next.
func NewSerials(c SerialsConfig) (*Serials, error) {
	if c.Store == nil || c.Now == nil || c.Node == "" || c.Count < 1 {
		return nil, errors.New("serials: Store, Node, Count and Now are needed")
	}
	return &Serials{store: c.Store, node: c.Node, count: c.Count, now: c.Now}, nil
}

// Fence closes the blocks that a former run of this node left open. Next does
// it too, before its first block.
func (s *Serials) Fence(ctx context.Context) error {
	s.mu.Lock()
	fenced := s.fenced
	s.mu.Unlock()
	if fenced {
		return nil
	}
	if err := s.store.FenceNode(ctx, s.node, s.now()); err != nil {
		return err
	}
	s.mu.Lock()
	s.fenced = true
	s.mu.Unlock()
	return nil
}

// Next returns a serial that was never returned before, with the number and the
// block it belongs to.
func (s *Serials) Next(ctx context.Context) (device.LeaseRef, device.CredentialID, []byte, error) {
	for {
		lease, id, wait, err := s.take()
		if err != nil {
			return device.LeaseRef{}, 0, nil, err
		}
		if wait == nil {
			return lease.LeaseRef, id, s.store.CertSerial(lease, id), nil
		}
		select {
		case <-wait.ready:
		case <-ctx.Done():
			return device.LeaseRef{}, 0, nil, fault.Wrap(fault.SerialsExhausted, context.Cause(ctx))
		}
		if wait.err != nil {
			return device.LeaseRef{}, 0, nil, wait.err
		}
	}
}

// take returns the next serial, or the fetch to wait for.
func (s *Serials) take() (device.SerialLease, device.CredentialID, *fetch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return device.SerialLease{}, 0, nil, fault.New(fault.ShuttingDown)
	}
	if s.current.left == 0 && s.next.left > 0 {
		s.retire()
		s.current, s.next = s.next, block{}
	}
	if s.current.left <= s.count/4 && s.next.left == 0 && s.fetch == nil {
		s.lease()
	}
	if s.current.left == 0 {
		return device.SerialLease{}, 0, s.fetch, nil
	}
	id := s.current.lease.First + device.CredentialID(s.current.lease.Count-s.current.left)
	s.current.left--
	return s.current.lease, id, nil, nil
}

// retire keeps the used-up block to be closed later. The caller holds mu.
func (s *Serials) retire() {
	if s.current.lease.ID != 0 {
		s.spent = append(s.spent, spentBlock{ref: s.current.lease.LeaseRef, at: s.now()})
	}
}

// lease gets the next block in the background. The caller holds mu.
func (s *Serials) lease() {
	f := &fetch{ready: make(chan struct{})}
	s.fetch = f
	s.done.Go(func() {
		// The block outlives the request that happened to need it.
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		lease, err := s.newBlock(ctx)
		s.mu.Lock()
		if err == nil {
			s.next = block{lease: lease, left: lease.Count}
		} else {
			f.err = exhausted(err)
		}
		s.fetch = nil
		spent := s.lingered()
		s.mu.Unlock()
		close(f.ready)
		for _, b := range spent {
			// A block that cannot be closed now is closed by the next start.
			_ = s.store.CloseLease(ctx, b.ref, s.now())
		}
	})
}

func (s *Serials) newBlock(ctx context.Context) (device.SerialLease, error) {
	if err := s.Fence(ctx); err != nil {
		return device.SerialLease{}, err
	}
	return s.store.LeaseSerials(ctx, s.node, s.count, s.now())
}

// exhausted says why there are no serials: the store's own refusal, if it has
// one.
func exhausted(err error) error {
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Kind == fault.Unavailable {
		return f
	}
	return fault.Wrap(fault.SerialsExhausted, err)
}

// lingered takes the blocks that were used up long enough ago. The caller holds
// mu.
func (s *Serials) lingered() []spentBlock {
	now := s.now()
	n := 0
	for n < len(s.spent) && now.Sub(s.spent[n].at) >= lingering {
		n++
	}
	old := s.spent[:n:n]
	s.spent = s.spent[n:]
	return old
}

// Close ends all blocks, so that their unused serials count as abandoned. Call
// it when nothing is being issued any more.
func (s *Serials) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.done.Wait()
	s.mu.Lock()
	s.retire()
	s.current, s.next = s.next, block{}
	s.retire()
	s.current = block{}
	spent := s.spent
	s.spent = nil
	s.mu.Unlock()
	var all error
	for _, b := range spent {
		all = errors.Join(all, s.store.CloseLease(ctx, b.ref, s.now()))
	}
	return all
}

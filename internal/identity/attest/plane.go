package attest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
)

// PolicyOf returns the newest policy of a product; false where it has none.
func (p *Plane) PolicyOf(product int64) (Policy, bool) {
	i := slices.IndexFunc(p.Policies, func(o Policy) bool { return o.Product == product })
	if i < 0 || len(p.Policies[i].Content) == 0 {
		return Policy{}, false
	}
	return p.Policies[i], true
}

// RootsNamed returns the newest version of a bundle.
func (p *Plane) RootsNamed(name string) (Roots, bool) {
	i := slices.IndexFunc(p.Roots, func(o Roots) bool { return o.Name == name })
	if i < 0 {
		return Roots{}, false
	}
	return p.Roots[i], true
}

// PlaneReader reads this package's part of the control plane. Store has it.
type PlaneReader interface {
	AttestPlane(ctx context.Context) (Plane, error)
}

// Planes is the newest plane that this process has read, in the form in which it
// is used: parsed, compiled.
type Planes[T any] struct {
	reader  PlaneReader
	compile func(Plane) (T, error)
	current atomic.Pointer[compiled[T]]
	loading sync.Mutex
}

type compiled[T any] struct {
	epoch int64
	form  T
}

// NewPlanes returns a Planes whose planes go through compile, once for each epoch.
func NewPlanes[T any](r PlaneReader, compile func(Plane) (T, error)) (*Planes[T], error) {
	if r == nil || compile == nil {
		return nil, errors.New("attest: the planes' reader and compile are needed")
	}
	return &Planes[T]{reader: r, compile: compile}, nil
}

// At returns the plane of this epoch or a newer one; when there is one in the
// process it costs a pointer read. Epochs are those of authority.Snapshot: a
// decision made with a plane that is newer than the snapshot is refused by STORE as
// stale.
func (p *Planes[T]) At(ctx context.Context, epoch int64) (T, error) {
	if now := p.current.Load(); now != nil && now.epoch >= epoch {
		return now.form, nil
	}
	p.loading.Lock()
	defer p.loading.Unlock()
	if now := p.current.Load(); now != nil && now.epoch >= epoch {
		return now.form, nil
	}
	read, err := p.reader.AttestPlane(ctx)
	if err != nil {
		var none T
		return none, err
	}
	form, err := p.compile(read)
	if err != nil {
		var none T
		return none, err
	}
	p.current.Store(&compiled[T]{read.Epoch, form})
	return form, nil
}

package chain

import (
	"container/list"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"sync"
)

// Config says how much a Verifier remembers.
type Config struct {
	Issuers int // signatures on authorities' certificates; 0 means 1,024
	Leaves  int // signatures on leaves; 0 remembers none, so each call checks one signature
}

// Verifier verifies as Verify does and remembers which signatures were good, so
// that the next leaf of the same authority costs one signature check. Validity,
// status and all other rules are checked anew each time. It is safe for
// concurrent use and bounded: only signatures of paths that were accepted get
// in, so strangers cannot push others out.
type Verifier struct {
	mu      sync.Mutex
	issuers *recent[edge, struct{}] // guarded by mu
	leaves  *recent[edge, struct{}] // guarded by mu; nil: not kept
	nodes   *recent[digest, *node]  // guarded by mu; presented authorities
}

// NewVerifier returns an empty Verifier.
func NewVerifier(c Config) (*Verifier, error) {
	if c.Issuers < 0 || c.Leaves < 0 {
		return nil, errors.New("chain verifier: a negative size")
	}
	if c.Issuers == 0 {
		c.Issuers = 1024
	}
	v := &Verifier{issuers: newRecent[edge, struct{}](c.Issuers), nodes: newRecent[digest, *node](c.Issuers)}
	if c.Leaves > 0 {
		v.leaves = newRecent[edge, struct{}](c.Leaves)
	}
	return v, nil
}

// Verify is the package's Verify with the Verifier's memory.
func (v *Verifier) Verify(ctx context.Context, leaf *x509.Certificate, o Options) (*Path, error) {
	return verify(ctx, leaf, o, v)
}

// verified reports whether a signature is remembered as good.
func (v *Verifier) verified(e edge) bool {
	if v == nil {
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.issuers.get(e); ok {
		return true
	}
	if v.leaves == nil {
		return false
	}
	_, ok := v.leaves.get(e)
	return ok
}

// node returns what is known of a presented certificate.
func (v *Verifier) node(c *x509.Certificate) *node {
	if v == nil {
		return newNode(c)
	}
	id := digest(sha256.Sum256(c.Raw))
	v.mu.Lock()
	n, ok := v.nodes.get(id)
	v.mu.Unlock()
	if ok {
		return n
	}
	return newNode(c)
}

// remember notes the signatures and authorities of a good path, leaf first.
func (v *Verifier) remember(path []*node) {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range len(path) - 1 {
		e := edge{path[i+1].keyID, path[i].id}
		switch {
		case i > 0:
			v.issuers.put(e, struct{}{})
			v.nodes.put(path[i].id, path[i])
		case v.leaves != nil:
			v.leaves.put(e, struct{}{})
		}
	}
}

// recent is a map that forgets what was used longest ago.
type recent[K comparable, V any] struct {
	max   int
	order *list.List // of pair[K, V], most recent first
	items map[K]*list.Element
}

type pair[K comparable, V any] struct {
	key   K
	value V
}

func newRecent[K comparable, V any](most int) *recent[K, V] {
	return &recent[K, V]{max: most, order: list.New(), items: map[K]*list.Element{}}
}

func (r *recent[K, V]) get(k K) (V, bool) {
	e, ok := r.items[k]
	if !ok {
		var none V
		return none, false
	}
	r.order.MoveToFront(e)
	return e.Value.(pair[K, V]).value, true
}

func (r *recent[K, V]) put(k K, v V) {
	if e, ok := r.items[k]; ok {
		r.order.MoveToFront(e)
		return
	}
	r.items[k] = r.order.PushFront(pair[K, V]{k, v})
	for r.order.Len() > r.max {
		last := r.order.Back()
		delete(r.items, last.Value.(pair[K, V]).key)
		r.order.Remove(last)
	}
}

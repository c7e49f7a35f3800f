package attest_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/birthmark/birthmark/internal/identity/attest"
)

// planeReader counts how often the record is read.
type planeReader struct {
	mu    sync.Mutex
	epoch int64
	reads int
	err   error
}

func (r *planeReader) AttestPlane(context.Context) (attest.Plane, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads++
	return attest.Plane{
		Epoch:    r.epoch,
		Roots:    []attest.Roots{{Name: "a", Version: 3}, {Name: "b", Version: 1}},
		Policies: []attest.Policy{{Product: 4, Version: 2, Content: []byte("{}")}, {Product: 5, Version: 9}},
	}, r.err
}

func TestPlaneIsCompiledOncePerEpoch(t *testing.T) {
	r := &planeReader{epoch: 5}
	compiled, broken := 0, errors.New("does not compile")
	var refuse error
	planes, err := attest.NewPlanes(r, func(p attest.Plane) (*attest.Plane, error) {
		compiled++ // one at a time
		return &p, refuse
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if p, err := planes.At(t.Context(), 5); err != nil || p.Epoch != 5 {
				t.Errorf("%v, %v", p, err)
			}
		})
	}
	wg.Wait()
	if _, err := planes.At(t.Context(), 4); err != nil || r.reads != 1 || compiled != 1 {
		t.Errorf("%d reads of one epoch, %d times compiled, %v", r.reads, compiled, err)
	}
	r.epoch, refuse = 6, broken
	if p, err := planes.At(t.Context(), 6); !errors.Is(err, broken) || p != nil {
		t.Errorf("what does not compile: %v, %v", p, err)
	}
	refuse = nil
	if p, err := planes.At(t.Context(), 6); err != nil || p.Epoch != 6 || r.reads != 3 {
		t.Errorf("a newer epoch: %d reads, %v", r.reads, err)
	}
	r.err = errors.New("the database is down")
	if _, err := planes.At(t.Context(), 7); err == nil {
		t.Error("an old plane for a newer epoch")
	}
	if p, err := planes.At(t.Context(), 6); err != nil || p.Epoch != 6 {
		t.Errorf("an epoch that is here: %v", err)
	}
	if _, err := attest.NewPlanes[int](nil, nil); err == nil {
		t.Error("planes of nothing")
	}
}

func TestPlaneFindsWhatItHolds(t *testing.T) {
	p, err := (&planeReader{}).AttestPlane(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if x, ok := p.RootsNamed("a"); !ok || x.Version != 3 {
		t.Errorf("roots %+v", x)
	}
	if _, ok := p.RootsNamed("c"); ok {
		t.Error("roots that are not there")
	}
	if x, ok := p.PolicyOf(4); !ok || x.Version != 2 {
		t.Errorf("policy %+v", x)
	}
	for _, product := range []int64{5, 6} { // ended, never set
		if x, ok := p.PolicyOf(product); ok {
			t.Errorf("policy %+v", x)
		}
	}
}

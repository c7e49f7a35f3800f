package factory_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/birthmark/birthmark/internal/identity/factory"
)

// planeReader counts how often the record is read.
type planeReader struct {
	mu    sync.Mutex
	epoch int64
	reads int
	err   error
}

func (r *planeReader) Plane(context.Context) (factory.Plane, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads++
	return factory.Plane{
		Epoch:    r.epoch,
		Sites:    []factory.Site{{ID: 1, Name: "brno"}},
		Stations: []factory.Station{{ID: 3, Name: "b1", Credential: 17}, {ID: 4, Name: "b2"}},
		Orders:   []factory.Order{{ID: 7, Number: "PO-1", Stations: []int64{3}}, {ID: 8, Number: "PO-2", Stations: []int64{3, 4}}},
	}, r.err
}

func TestPlaneIsReadOncePerEpoch(t *testing.T) {
	r := &planeReader{epoch: 5}
	planes, err := factory.NewPlanes(r)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if p, err := planes.Plane(t.Context(), 5); err != nil || p.Epoch != 5 {
				t.Errorf("%v, %v", p, err)
			}
		})
	}
	wg.Wait()
	if r.reads != 1 {
		t.Errorf("%d reads of one epoch", r.reads)
	}
	if _, err := planes.Plane(t.Context(), 4); err != nil || r.reads != 1 {
		t.Errorf("an older epoch: %d reads, %v", r.reads, err)
	}
	r.epoch = 6
	if p, err := planes.Plane(t.Context(), 6); err != nil || p.Epoch != 6 || r.reads != 2 {
		t.Errorf("a newer epoch: %d reads, %v", r.reads, err)
	}
	r.err = errors.New("the database is down")
	if _, err := planes.Plane(t.Context(), 7); err == nil {
		t.Error("an old plane for a newer epoch")
	}
}

func TestPlaneFindsWhatItHolds(t *testing.T) {
	planes, err := factory.NewPlanes(&planeReader{epoch: 1})
	if err != nil {
		t.Fatal(err)
	}
	p, err := planes.Plane(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if x, ok := p.StationByCredential(17); !ok || x.ID != 3 {
		t.Error("a station by its certificate")
	}
	if _, ok := p.StationByCredential(0); ok {
		t.Error("a station without certificate was found by none")
	}
	if o, ok := p.Order("PO-2"); !ok || o.ID != 8 {
		t.Error("an order by its number")
	}
	if _, ok := p.Order("PO-3"); ok {
		t.Error("an order that is not there")
	}
	if x, ok := p.Site(1); !ok || x.Name != "brno" {
		t.Error("a site")
	}
	if list := p.OrdersOf(3); len(list) != 2 || list[0].ID != 7 {
		t.Errorf("the orders of a station: %v", list)
	}
	if list := p.OrdersOf(4); len(list) != 1 || list[0].ID != 8 {
		t.Errorf("the orders of a station: %v", list)
	}
}

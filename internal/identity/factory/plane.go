package factory

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/birthmark/birthmark/internal/identity/device"
)

// index is what makes a plane's lookups cheap.
type index struct {
	sites        map[int64]*Site
	stations     map[int64]*Station
	byCredential map[device.CredentialID]*Station
	byName       map[string]*Station
	orders       map[int64]*Order
	byNumber     map[string]*Order
	patterns     sync.Map // text -> *regexp.Regexp
}

// Indexed returns the plane with its lookups. The plane must not change any
// more.
func Indexed(p Plane) *Plane {
	x := &index{
		sites: make(map[int64]*Site, len(p.Sites)), stations: make(map[int64]*Station, len(p.Stations)),
		byCredential: make(map[device.CredentialID]*Station, len(p.Stations)), byName: make(map[string]*Station, len(p.Stations)),
		orders: make(map[int64]*Order, len(p.Orders)), byNumber: make(map[string]*Order, len(p.Orders)),
	}
	for i := range p.Sites {
		x.sites[p.Sites[i].ID] = &p.Sites[i]
	}
	for i := range p.Stations {
		st := &p.Stations[i]
		x.stations[st.ID], x.byName[st.Name] = st, st
		if st.Credential != 0 {
			x.byCredential[st.Credential] = st
		}
	}
	for i := range p.Orders {
		x.orders[p.Orders[i].ID], x.byNumber[p.Orders[i].Number] = &p.Orders[i], &p.Orders[i]
	}
	p.index = x
	return &p
}

// Site returns a site.
func (p *Plane) Site(id int64) (*Site, bool) {
	x, ok := p.index.sites[id]
	return x, ok
}

// Station returns a station.
func (p *Plane) Station(id int64) (*Station, bool) {
	x, ok := p.index.stations[id]
	return x, ok
}

// StationByName returns the station with a name.
func (p *Plane) StationByName(name string) (*Station, bool) {
	x, ok := p.index.byName[name]
	return x, ok
}

// StationByCredential returns the station whose current certificate this is.
func (p *Plane) StationByCredential(id device.CredentialID) (*Station, bool) {
	x, ok := p.index.byCredential[id]
	return x, ok && id != 0
}

// Order returns a planned or open order by its number.
func (p *Plane) Order(number string) (*Order, bool) {
	x, ok := p.index.byNumber[number]
	return x, ok
}

// OrderByID returns a planned or open order.
func (p *Plane) OrderByID(id int64) (*Order, bool) {
	x, ok := p.index.orders[id]
	return x, ok
}

// OrdersOf returns the planned and open orders that a station is assigned to, in
// the order in which they were made.
func (p *Plane) OrdersOf(stationID int64) []*Order {
	var found []*Order
	for i := range p.Orders {
		if slices.Contains(p.Orders[i].Stations, stationID) {
			found = append(found, &p.Orders[i])
		}
	}
	return found
}

// pattern returns a compiled serial pattern that a whole device serial must
// match.
func (p *Plane) pattern(text string) (*regexp.Regexp, error) {
	if re, ok := p.index.patterns.Load(text); ok {
		return re.(*regexp.Regexp), nil
	}
	re, err := regexp.Compile(`^(?:` + text + `)$`)
	if err != nil {
		return nil, err
	}
	p.index.patterns.Store(text, re)
	return re, nil
}

// PlaneReader reads the factory's part of the control plane. Store has it.
type PlaneReader interface {
	Plane(ctx context.Context) (Plane, error)
}

// Planes is the newest plane that this process has read.
type Planes struct {
	reader  PlaneReader
	current atomic.Pointer[Plane]
	loading sync.Mutex
}

// NewPlanes returns a Planes.
func NewPlanes(r PlaneReader) (*Planes, error) {
	if r == nil {
		return nil, errors.New("factory: the planes' reader is needed")
	}
	return &Planes{reader: r}, nil
}

// Plane returns a plane of this epoch or a newer one; when there is one in the
// process it costs a pointer read. Epochs are those of authority.Snapshot: who
// gets a newer plane than the snapshot refreshes the snapshot, or lets STORE
// refuse the decision as stale.
func (p *Planes) Plane(ctx context.Context, epoch int64) (*Plane, error) {
	if now := p.current.Load(); now != nil && now.Epoch >= epoch {
		return now, nil
	}
	p.loading.Lock()
	defer p.loading.Unlock()
	if now := p.current.Load(); now != nil && now.Epoch >= epoch {
		return now, nil
	}
	read, err := p.reader.Plane(ctx)
	if err != nil {
		return nil, err
	}
	now := Indexed(read)
	p.current.Store(now)
	return now, nil
}

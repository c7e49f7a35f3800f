package factory

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// namePattern keeps names to what is safe in file names, URLs, CSV cells and log
// lines.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

const maxReason = 500

func checkName(what, name string) error {
	if !namePattern.MatchString(name) {
		return fault.New(fault.ParameterInvalid, "the", what, "has to be 1 to 64 of A-Z a-z 0-9 . _ - and begin with a letter or digit")
	}
	return nil
}

func checkReason(reason string) error {
	if !printable(reason, maxReason) {
		return fault.New(fault.ParameterInvalid, "the reason is too long or has control characters")
	}
	return nil
}

func needReason(reason string) error {
	if strings.TrimSpace(reason) == "" {
		return fault.New(fault.ParameterInvalid, "a reason is needed")
	}
	return checkReason(reason)
}

// moment is a time as rows and entries hold it.
func moment(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// changeTries bounds how often a change is redone when others change the same
// row meanwhile.
const changeTries = 8

// AddSite adds a factory. Only a caller who sees all sites may.
func (s *Service) AddSite(ctx context.Context, by access.Caller, name string) (Site, error) {
	if err := checkName("site's name", name); err != nil {
		return Site{}, err
	}
	if len(by.Scope.Sites()) > 0 || by.Scope.SeesNothing() {
		return Site{}, fault.New(fault.NotAllowed, "a new site is outside your scope")
	}
	x := Site{Name: name, CreatedAt: moment(s.now())}
	id, err := s.store.AddSite(ctx, x, ledger.Entry{Kind: ledger.SiteAdded, At: s.now(), Actor: by.Name, Body: ledger.JSON(siteBody{Name: name})})
	x.ID = id
	return x, err
}

// Sites returns the sites in the caller's scope.
func (s *Service) Sites(ctx context.Context, by access.Caller) ([]Site, error) {
	return s.store.Sites(ctx, by.Scope)
}

func (s *Service) siteByName(ctx context.Context, scope access.Scope, name string) (Site, error) {
	all, err := s.store.Sites(ctx, scope)
	if err != nil {
		return Site{}, err
	}
	for _, x := range all {
		if x.Name == name {
			return x, nil
		}
	}
	return Site{}, fault.New(fault.SiteUnknown, name)
}

func (s *Service) productByName(ctx context.Context, scope access.Scope, name string) (device.Product, error) {
	all, err := s.register.Products(ctx, scope)
	if err != nil {
		return device.Product{}, err
	}
	for _, p := range all {
		if p.Name == name {
			return p, nil
		}
	}
	return device.Product{}, fault.New(fault.ProductUnknown, name)
}

// productByID returns a product from the control plane as this process knows it.
func (s *Service) productByID(ctx context.Context, id int64) (device.Product, error) {
	snap, err := s.authorities.Snapshot(ctx)
	if err != nil {
		return device.Product{}, err
	}
	if p, ok := snap.Product(id); ok {
		return p, nil
	}
	if snap, err = s.authorities.Refresh(ctx); err != nil {
		return device.Product{}, err
	}
	if p, ok := snap.Product(id); ok {
		return p, nil
	}
	return device.Product{}, fault.New(fault.ProductUnknown)
}

// Names are the names behind the numbers in the factory's rows.
type Names struct {
	sites, stations, products map[int64]string
	evidence                  map[int64]string // by product
}

// Site returns the name of a site, "" if there is none.
func (n *Names) Site(id int64) string { return n.sites[id] }

// Station returns the name of a station, "" if there is none.
func (n *Names) Station(id int64) string { return n.stations[id] }

// Product returns the name of a product, "" if there is none.
func (n *Names) Product(id int64) string { return n.products[id] }

// Evidence returns the level of evidence that units of a product have to reach,
// see Demanded.
func (n *Names) Evidence(product int64) string { return n.evidence[product] }

// Names returns the names of all sites, stations and products, for whoever shows
// rows that the caller may see.
func (s *Service) Names(ctx context.Context) (*Names, error) {
	everything := access.Everything()
	sites, err := s.store.Sites(ctx, everything)
	if err != nil {
		return nil, err
	}
	stations, err := s.store.Stations(ctx, everything)
	if err != nil {
		return nil, err
	}
	products, err := s.register.Products(ctx, everything)
	if err != nil {
		return nil, err
	}
	snap, err := s.authorities.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	n := &Names{sites: map[int64]string{}, stations: map[int64]string{}, products: map[int64]string{}, evidence: map[int64]string{}}
	for _, x := range sites {
		n.sites[x.ID] = x.Name
	}
	for _, x := range stations {
		n.stations[x.ID] = x.Name
	}
	for _, p := range products {
		n.products[p.ID], n.evidence[p.ID] = p.Name, Demanded(snap, &p)
	}
	return n, nil
}

// stale reports whether a change has to be decided anew.
func stale(err error) bool { return errors.Is(err, device.ErrStale) }

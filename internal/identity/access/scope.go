package access

import "slices"

// Scope limits what a caller sees and changes to some products, sites and
// owners. The store enforces it in SQL: what is out of scope does not exist.
// The zero value sees nothing.
type Scope struct {
	everything bool
	products   []int64
	sites      []int64
	owners     []int64
}

// Everything is the scope of an administrator and of the product's own parts.
func Everything() Scope { return Scope{everything: true} }

// Limited returns a scope that sees a row when each list that is not empty
// holds the row's product, site and owner. With three empty lists it sees
// nothing.
func Limited(products, sites, owners []int64) Scope {
	return Scope{products: slices.Clone(products), sites: slices.Clone(sites), owners: slices.Clone(owners)}
}

// SeesEverything reports whether no limit applies.
func (s Scope) SeesEverything() bool { return s.everything }

// SeesNothing reports whether no row can be in scope.
func (s Scope) SeesNothing() bool {
	return !s.everything && len(s.products) == 0 && len(s.sites) == 0 && len(s.owners) == 0
}

// Products, Sites and Owners return the limits; empty means any, unless
// SeesNothing.
func (s Scope) Products() []int64 { return s.products }

// Sites returns the ids of the sites in scope.
func (s Scope) Sites() []int64 { return s.sites }

// Owners returns the ids of the owners in scope.
func (s Scope) Owners() []int64 { return s.owners }

// Sees reports whether a row with these ids is in scope.
func (s Scope) Sees(product, site, owner int64) bool {
	if s.everything {
		return true
	}
	in := func(ids []int64, id int64) bool { return len(ids) == 0 || slices.Contains(ids, id) }
	return !s.SeesNothing() && in(s.products, product) && in(s.sites, site) && in(s.owners, owner)
}

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

// Products returns the ids of the products in scope; empty means any, unless
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

// Contains reports whether every row that inner sees is seen by s too. A caller
// grants only scopes that its own contains.
func (s Scope) Contains(inner Scope) bool {
	if s.everything || inner.SeesNothing() {
		return true
	}
	if inner.everything || s.SeesNothing() {
		return false
	}
	return within(inner.products, s.products) && within(inner.sites, s.sites) && within(inner.owners, s.owners)
}

// within reports whether the limit inner is at least as strict as outer; an
// empty list is no limit.
func within(inner, outer []int64) bool {
	if len(outer) == 0 {
		return true
	}
	return len(inner) > 0 && !slices.ContainsFunc(inner, func(id int64) bool { return !slices.Contains(outer, id) })
}

// Intersect returns the scope that sees a row only when both do.
func (s Scope) Intersect(o Scope) Scope {
	switch {
	case s.everything:
		return o
	case o.everything:
		return s
	case s.SeesNothing() || o.SeesNothing():
		return Scope{}
	}
	products, okP := common(s.products, o.products)
	sites, okS := common(s.sites, o.sites)
	owners, okO := common(s.owners, o.owners)
	if !okP || !okS || !okO {
		return Scope{}
	}
	return Scope{products: products, sites: sites, owners: owners}
}

// common returns what two limits both allow; ok is false when that is nothing.
func common(a, b []int64) (both []int64, ok bool) {
	switch {
	case len(a) == 0:
		return b, true
	case len(b) == 0:
		return a, true
	}
	for _, id := range a {
		if slices.Contains(b, id) {
			both = append(both, id)
		}
	}
	return both, len(both) > 0
}

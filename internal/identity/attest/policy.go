package attest

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// attempts is how often an act is decided anew because another came first.
const attempts = 5

// SetPolicy sets the firmware policy of a product (see PolicyFile); empty content
// ends it. The same content again changes nothing.
func (s *Service) SetPolicy(ctx context.Context, by access.Caller, product int64, content []byte) (Policy, error) {
	if len(content) > 0 {
		if err := s.checkPolicy(content); err != nil {
			return Policy{}, err
		}
	}
	if err := s.inScope(ctx, by, product); err != nil {
		return Policy{}, err
	}
	for range attempts {
		plane, err := s.store.AttestPlane(ctx)
		if err != nil {
			return Policy{}, err
		}
		p := Policy{Product: product, Version: 1, Content: content, Digest: sha256.Sum256(content), Author: by.Name, SetAt: moment(s.now())}
		if i := slices.IndexFunc(plane.Policies, func(o Policy) bool { return o.Product == product }); i >= 0 {
			if plane.Policies[i].Digest == p.Digest {
				return plane.Policies[i], nil
			}
			p.Version = plane.Policies[i].Version + 1
		} else if len(content) == 0 {
			return Policy{}, fault.New(fault.PolicyUnknown)
		}
		p, err = s.store.SetPolicy(ctx, p, s.entry(ledger.TPMPolicySet, by.Name, policyEntryBody(&p)))
		if !errors.Is(err, device.ErrStale) {
			return p, err
		}
	}
	return Policy{}, fault.New(fault.IssuanceBusy)
}

// Policies returns the newest policy of each product that the caller sees and that
// has one.
func (s *Service) Policies(ctx context.Context, by access.Caller) ([]Policy, error) {
	plane, err := s.store.AttestPlane(ctx)
	if err != nil {
		return nil, err
	}
	visible, err := s.products.Products(ctx, by.Scope)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(plane.Policies, func(p Policy) bool {
		return len(p.Content) == 0 || !slices.ContainsFunc(visible, func(x device.Product) bool { return x.ID == p.Product })
	}), nil
}

// PolicyOf returns the policy of a product, or fault.PolicyUnknown.
func (s *Service) PolicyOf(ctx context.Context, by access.Caller, product int64) (Policy, error) {
	if err := s.inScope(ctx, by, product); err != nil {
		return Policy{}, err
	}
	plane, err := s.store.AttestPlane(ctx)
	if err != nil {
		return Policy{}, err
	}
	p, ok := plane.PolicyOf(product)
	if !ok {
		return Policy{}, fault.New(fault.PolicyUnknown)
	}
	return p, nil
}

// inScope refuses a product that is not there for the caller.
func (s *Service) inScope(ctx context.Context, by access.Caller, product int64) error {
	visible, err := s.products.Products(ctx, by.Scope)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(visible, func(x device.Product) bool { return x.ID == product }) {
		return fault.New(fault.ProductUnknown)
	}
	return nil
}

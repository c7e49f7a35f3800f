package enroll

import (
	"context"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// Authorities implements Service. Without a label, or under a label whose
// profile cannot issue now, all authorities that devices may have to trust are
// named.
func (e *Enroller) Authorities(ctx context.Context, label string) ([][]byte, int, error) {
	plane, err := e.authorities.Snapshot(ctx)
	if err != nil {
		return nil, 0, err
	}
	wrap := 0
	var first *authority.Member
	if label != "" {
		l, ok := plane.Label(label)
		if !ok {
			return nil, 0, fault.New(fault.LabelUnknown)
		}
		wrap = l.Wrap
		if road, err := plane.Road(l.Profile); err == nil {
			first = road.Authority
		}
	}
	var certs [][]byte
	add := func(der []byte) {
		for _, have := range certs {
			if string(have) == string(der) {
				return
			}
		}
		if der != nil {
			certs = append(certs, der)
		}
	}
	if first != nil {
		for _, der := range first.Chain {
			add(der)
		}
		add(first.Root)
		return certs, wrap, nil
	}
	var roots [][]byte
	for _, m := range plane.Trusted() {
		if m.Parent == 0 {
			roots = append(roots, m.Certificate)
			continue
		}
		add(m.Certificate)
	}
	for _, der := range roots {
		add(der)
	}
	if len(certs) == 0 {
		return nil, 0, fault.New(fault.AuthorityUnknown)
	}
	return certs, wrap, nil
}

// Attributes implements Service. Without a label the requester's product
// decides; a requester who is not known gets what a default profile wants.
func (e *Enroller) Attributes(ctx context.Context, label string, who Requester) ([]byte, int, error) {
	plane, err := e.authorities.Snapshot(ctx)
	if err != nil {
		return nil, 0, err
	}
	p, wrap, err := e.attributesProfile(ctx, plane, label, who)
	if err != nil {
		return nil, 0, err
	}
	der, err := csrAttributes(p)
	return der, wrap, err
}

func (e *Enroller) attributesProfile(ctx context.Context, plane *authority.Snapshot, label string, who Requester) (*profile.Profile, int, error) {
	if label != "" {
		l, ok := plane.Label(label)
		if !ok {
			return nil, 0, fault.New(fault.LabelUnknown)
		}
		road, err := plane.Road(l.Profile)
		if err != nil {
			return nil, 0, err
		}
		return road.Profile, l.Wrap, nil
	}
	if q, err := e.authenticate(ctx, plane, &Request{Operation: Enroll, Requester: who}); err == nil {
		d := &decision{requester: q}
		if err := e.chooseProfile(plane, &Request{Operation: Enroll}, d); err != nil {
			return nil, 0, err
		}
		return d.road.Profile, 0, nil
	}
	for _, road := range plane.Roads() {
		if road.Err() == nil && road.Profile.Kind == profile.KindLDevID {
			return road.Profile, 0, nil
		}
	}
	return nil, 0, fault.New(fault.ProfileUnknown)
}

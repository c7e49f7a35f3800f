package chain

import (
	"crypto/x509"
)

const anyPolicy = "\x55\x1d\x20\x00" // 2.5.29.32.0, DER content

// policyState runs RFC 5280's policy processing, as RFC 9618 bounds it, for a
// caller who accepts any policy. Then only one question is left: is there still
// a policy that holds along the whole path? So one level of the policy graph is
// enough: each valid policy with those expected in the next certificate.
type policyState struct {
	level                           map[string][]string // nil when no policy is left
	explicit, mapping, inhibitedAny int                 // certificates until the rule begins
}

// policiesHold takes the path from the leaf up, without the anchor.
func policiesHold(path []*node, b *budget) (bool, error) {
	n := len(path)
	p := policyState{
		level:    map[string][]string{anyPolicy: {anyPolicy}},
		explicit: n + 1, mapping: n + 1, inhibitedAny: n + 1,
	}
	for i := n - 1; i >= 0; i-- {
		c, last := path[i].cert, i == 0
		if err := b.spend(costStep + len(c.Policies) + len(c.PolicyMappings) + len(p.level)); err != nil {
			return false, err
		}
		selfIssued := path[i].selfIssued()
		p.descend(c, !last && selfIssued)
		if !last {
			if !p.translate(c) {
				return false, nil
			}
			p.tighten(c, selfIssued)
		}
	}
	leaf := path[0].cert
	if p.explicit > 0 {
		p.explicit--
	}
	if leaf.RequireExplicitPolicyZero {
		p.explicit = 0
	}
	return p.explicit > 0 || len(p.level) > 0, nil
}

// descend is section 6.1.3 (d) and (e): which policies survive this certificate.
func (p *policyState) descend(c *x509.Certificate, exempt bool) {
	expected := map[string]bool{}
	for _, set := range p.level {
		for _, policy := range set {
			expected[policy] = true
		}
	}
	next := map[string][]string{}
	any := false
	for _, policy := range c.Policies {
		id := policyKey(policy)
		if id == anyPolicy {
			any = true
			continue
		}
		// anyPolicy cannot be mapped, so it is expected only where it is valid.
		if expected[id] || expected[anyPolicy] {
			next[id] = []string{id}
		}
	}
	if any && (p.inhibitedAny > 0 || exempt) {
		for id := range expected {
			if next[id] == nil {
				next[id] = []string{id}
			}
		}
	}
	p.level = next
}

// translate is section 6.1.4 (a) and (b). It reports false for a mapping to or
// from anyPolicy.
func (p *policyState) translate(c *x509.Certificate) bool {
	mapped := map[string][]string{}
	for _, m := range c.PolicyMappings {
		from, to := policyKey(m.IssuerDomainPolicy), policyKey(m.SubjectDomainPolicy)
		if from == anyPolicy || to == anyPolicy {
			return false
		}
		if p.mapping > 0 {
			mapped[from] = append(mapped[from], to)
		} else {
			delete(p.level, from)
		}
	}
	for from, to := range mapped {
		if p.level[from] != nil || p.level[anyPolicy] != nil {
			p.level[from] = to
		}
	}
	return true
}

// tighten is section 6.1.4 (h) to (j).
func (p *policyState) tighten(c *x509.Certificate, selfIssued bool) {
	if !selfIssued {
		p.explicit = max(p.explicit-1, 0)
		p.mapping = max(p.mapping-1, 0)
		p.inhibitedAny = max(p.inhibitedAny-1, 0)
	}
	limit := func(counter *int, value int, zero bool) {
		if value > 0 || zero {
			*counter = min(*counter, value)
		}
	}
	limit(&p.explicit, c.RequireExplicitPolicy, c.RequireExplicitPolicyZero)
	limit(&p.mapping, c.InhibitPolicyMapping, c.InhibitPolicyMappingZero)
	limit(&p.inhibitedAny, c.InhibitAnyPolicy, c.InhibitAnyPolicyZero)
}

// policyKey is the DER content of an OID.
func policyKey(o x509.OID) string {
	b, err := o.MarshalBinary()
	if err != nil {
		return ""
	}
	return string(b)
}

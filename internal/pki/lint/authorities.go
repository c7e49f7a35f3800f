package lint

import (
	"math/bits"
	"slices"
	"strings"

	"github.com/birthmark/birthmark/internal/pki/profile"
)

// authorityRules look at what only authorities have: basicConstraints,
// nameConstraints and policies.
var authorityRules = []rule{
	{"basic_critical", Error, "RFC 5280, section 4.2.1.9", func(c *certificate) string {
		if e := c.extension(oidBasicConstraints); c.isCA() && !e.critical {
			return "basicConstraints of an authority must be critical"
		}
		return ""
	}},
	{"basic_default", Error, "ITU-T X.690, section 11.5", func(c *certificate) string {
		if c.basic != nil && c.basic.explicitFalse {
			return "basicConstraints says that this is no authority; the default is left out"
		}
		return ""
	}},
	{"path_length_leaf", Error, "RFC 5280, section 4.2.1.9", func(c *certificate) string {
		if c.basic != nil && c.basic.hasPathLen && !c.basic.ca {
			return "only an authority has a path length"
		}
		return ""
	}},
	{"path_length_negative", Error, "RFC 5280, section 4.2.1.9", func(c *certificate) string {
		if c.basic != nil && c.basic.hasPathLen && c.basic.pathLen < 0 {
			return "the path length is negative"
		}
		return ""
	}},
	{"path_length_usage", Error, "RFC 5280, section 4.2.1.9", func(c *certificate) string {
		if c.basic != nil && c.basic.hasPathLen && (c.usage == nil || c.usage.bits&(1<<5) == 0) {
			return "a path length needs keyCertSign"
		}
		return ""
	}},
	{"constraints_leaf", Error, "RFC 5280, section 4.2.1.10", func(c *certificate) string {
		if c.extension(oidNameConstraints) != nil && !c.isCA() {
			return "only an authority has name constraints"
		}
		return ""
	}},
	{"constraints_empty", Error, "RFC 5280, section 4.2.1.10", func(c *certificate) string {
		if n := c.constraints; n != nil && len(n.permitted)+len(n.excluded) == 0 {
			return "the name constraints name nothing"
		}
		return ""
	}},
	{"constraints_bounds", Error, "RFC 5280, section 4.2.1.10", func(c *certificate) string {
		for _, t := range c.subtrees() {
			if t.bounded {
				return "minimum and maximum of name constraints must be left out"
			}
		}
		return ""
	}},
	{"constraints_ip", Error, "RFC 5280, section 4.2.1.10", func(c *certificate) string {
		for _, t := range c.subtrees() {
			if t.base.tag == choiceIP && !addressRange(t.base.value) {
				return "a range of addresses in name constraints is not an address and a mask"
			}
		}
		return ""
	}},
	{"constraints_dns", Error, "RFC 5280, section 4.2.1.10", func(c *certificate) string {
		for _, t := range c.subtrees() {
			if v := string(t.base.value); t.base.tag == choiceDNS && v != "" && !profile.DNSName(v) {
				return "the domain " + strings.ToValidUTF8(v, "?") + " in name constraints is not a DNS name without a leading dot"
			}
		}
		return ""
	}},
	{"constraints_kind", Warning, "RFC 5280, section 4.2.1.10", func(c *certificate) string {
		for _, t := range c.subtrees() {
			switch t.base.tag {
			case choiceX400, choiceEDI, choiceID:
				return "name constraints have a kind of name that nobody checks"
			}
		}
		return ""
	}},
	{"policies_empty", Error, "RFC 5280, section 4.2.1.4", func(c *certificate) string {
		if c.extension(oidPolicies) != nil && len(c.policies) == 0 {
			return "certificatePolicies is there and empty"
		}
		return ""
	}},
	{"policies_twice", Error, "RFC 5280, section 4.2.1.4", func(c *certificate) string {
		for i, p := range c.policies {
			if slices.Contains(c.policies[:i], p) {
				return "certificatePolicies names " + p + " twice"
			}
		}
		return ""
	}},
	{"policies_any_leaf", Notice, "RFC 5280, section 4.2.1.4", func(c *certificate) string {
		if !c.isCA() && slices.Contains(c.policies, oidAnyPolicy) {
			return "anyPolicy says nothing about this certificate"
		}
		return ""
	}},
	authorityOnly("policy_mappings_leaf", oidPolicyMappings, "RFC 5280, section 4.2.1.5"),
	authorityOnly("policy_constraints_leaf", oidPolicyConstraints, "RFC 5280, section 4.2.1.11"),
	authorityOnly("inhibit_any_policy_leaf", oidInhibitAnyPolicy, "RFC 5280, section 4.2.1.14"),
}

func authorityOnly(id, oid, source string) rule {
	return rule{id, Error, source, func(c *certificate) string {
		if c.extension(oid) != nil && !c.isCA() {
			return "extension " + oid + " is for authorities alone"
		}
		return ""
	}}
}

func (c *certificate) subtrees() []subtree {
	if c.constraints == nil {
		return nil
	}
	return slices.Concat(c.constraints.permitted, c.constraints.excluded)
}

// addressRange reports whether v is an address and a mask of as many octets,
// whose ones come first.
func addressRange(v []byte) bool {
	if len(v) != 8 && len(v) != 32 {
		return false
	}
	mask := v[len(v)/2:]
	ended := false
	for _, b := range mask {
		ones := bits.LeadingZeros8(^b)
		if bits.OnesCount8(b) != ones || ended && b != 0 {
			return false
		}
		ended = ended || ones < 8
	}
	return true
}

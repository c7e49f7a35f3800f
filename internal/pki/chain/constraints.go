package chain

import (
	"bytes"
	"crypto/x509"
	"net/netip"
	"net/url"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// constraints is a nameConstraints extension (RFC 5280, section 4.2.1.10),
// sorted by kind of name.
type constraints struct {
	permitted [kinds][]subtree
	excluded  [kinds][]subtree
	critical  bool
	foreign   string // a kind that cannot be compared here, or nothing
}

// subtree is one base name; which field counts depends on the kind.
type subtree struct {
	text     string // dns, email, uri: lower case, except a mailbox's local part
	ip, mask []byte
	rdns     []string
}

// kindNames are for faults.
var kindNames = [kinds]string{
	"other name", "e-mail address", "DNS name", "X.400 address", "directory name",
	"EDI party name", "URI", "IP address", "registered ID",
}

func readNameConstraints(in cryptobyte.String, critical bool) (*constraints, string) {
	const unreadable = "nameConstraints cannot be read"
	c := &constraints{critical: critical}
	var list, permitted, excluded cryptobyte.String
	var some, others bool
	if !in.ReadASN1(&list, cbasn1.SEQUENCE) || !in.Empty() ||
		!list.ReadOptionalASN1(&permitted, &some, cbasn1.Tag(0).ContextSpecific().Constructed()) ||
		!list.ReadOptionalASN1(&excluded, &others, cbasn1.Tag(1).ContextSpecific().Constructed()) ||
		!list.Empty() || !some && !others {
		return c, unreadable
	}
	if !c.readSubtrees(permitted, &c.permitted) || !c.readSubtrees(excluded, &c.excluded) {
		return c, unreadable
	}
	return c, ""
}

func (c *constraints) readSubtrees(in cryptobyte.String, to *[kinds][]subtree) bool {
	for !in.Empty() {
		var entry cryptobyte.String
		if !in.ReadASN1(&entry, cbasn1.SEQUENCE) {
			return false
		}
		name, ok := readGeneralName(&entry)
		if !ok {
			return false
		}
		t, ok := readSubtree(name)
		if !ok {
			return false
		}
		// RFC 5280: minimum is 0, which DER leaves out, and maximum is absent.
		if !entry.Empty() || !canCompare(name.kind) {
			c.foreign = kindNames[name.kind]
		}
		to[name.kind] = append(to[name.kind], t)
	}
	return true
}

func canCompare(kind int) bool {
	switch kind {
	case kindEmail, kindDNS, kindDirectory, kindURI, kindIP:
		return true
	}
	return false
}

func readSubtree(n generalName) (subtree, bool) {
	switch n.kind {
	case kindDNS, kindURI:
		text := strings.ToLower(string(n.value))
		return subtree{text: text}, text == "" || plainDomain(strings.TrimPrefix(text, "."))
	case kindEmail:
		local, domain, full := cutMailbox(string(n.value))
		if full {
			return subtree{text: local + "@" + domain}, plainLocal(local) && plainDomain(domain)
		}
		text := strings.ToLower(string(n.value))
		return subtree{text: text}, text == "" || plainDomain(strings.TrimPrefix(text, "."))
	case kindIP:
		half := len(n.value) / 2
		return subtree{ip: n.value[:half], mask: n.value[half:]}, half == 4 && len(n.value) == 8 || half == 16 && len(n.value) == 32
	case kindDirectory:
		whole, rdns, _ := canonicalName(n.value)
		return subtree{rdns: rdns}, whole == "" || rdns != nil
	}
	return subtree{}, true
}

// admits says why a certificate below is outside these constraints, or nothing.
// It works on the alternative names, the subject and the e-mail addresses in
// the subject, which count where no alternative name carries one.
func (c *constraints) admits(n *node, b *budget) (why string, err error) {
	mailboxes := 0
	for _, name := range n.sans {
		if name.kind == kindEmail {
			mailboxes++
		}
		if why, err := c.admitsName(name, b); why != "" || err != nil {
			return why, err
		}
	}
	if len(n.rdns) > 0 && len(c.permitted[kindDirectory])+len(c.excluded[kindDirectory]) > 0 {
		subject := candidate{kind: kindDirectory, rdns: n.rdns, shown: n.cert.Subject.String()}
		if why, err := c.judge(subject, b); why != "" || err != nil {
			return why, err
		}
	}
	if mailboxes > 0 {
		return "", nil
	}
	for _, address := range n.emails {
		if why, err := c.admitsName(generalName{kindEmail, []byte(address)}, b); why != "" || err != nil {
			return why, err
		}
	}
	return "", nil
}

// candidate is a name brought into the form in which it is compared.
type candidate struct {
	kind   int
	domain string // dns: the name; uri: the host; email: the domain
	local  string // email: the local part
	ip     []byte
	rdns   []string
	shown  string
}

func (c *constraints) admitsName(name generalName, b *budget) (why string, err error) {
	if len(c.permitted[name.kind]) == 0 && len(c.excluded[name.kind]) == 0 {
		return "", nil
	}
	got, ok := readCandidate(name)
	if !ok {
		return kindNames[name.kind] + " " + quote(string(name.value)) + " cannot be compared with name constraints", nil
	}
	return c.judge(got, b)
}

func (c *constraints) judge(got candidate, b *budget) (why string, err error) {
	permitted, excluded := c.permitted[got.kind], c.excluded[got.kind]
	if err := b.spend(1 + len(excluded)*(1+len(got.rdns))); err != nil {
		return "", err
	}
	for i := range excluded {
		if excluded[i].contains(got) || excluded[i].overlapsWildcard(got) {
			return kindNames[got.kind] + " " + quote(got.shown) + " is excluded", nil
		}
	}
	if len(permitted) == 0 {
		return "", nil
	}
	for i := range permitted {
		if err := b.spend(1 + len(got.rdns)); err != nil {
			return "", err
		}
		if permitted[i].contains(got) {
			return "", nil
		}
	}
	return kindNames[got.kind] + " " + quote(got.shown) + " is not permitted", nil
}

// readCandidate returns false for a name that has no defined comparison, such as
// a URI without a host, when a constraint asks for one.
func readCandidate(n generalName) (candidate, bool) {
	text := string(n.value)
	c := candidate{kind: n.kind, shown: text}
	switch n.kind {
	case kindDNS:
		c.domain = strings.ToLower(text)
		return c, plainDomain(c.domain)
	case kindEmail:
		var full bool
		c.local, c.domain, full = cutMailbox(text)
		return c, full && plainLocal(c.local) && plainDomain(c.domain)
	case kindURI:
		u, err := url.Parse(text)
		if err != nil {
			return c, false
		}
		c.domain = strings.ToLower(u.Hostname())
		_, err = netip.ParseAddr(c.domain)
		return c, err != nil && plainDomain(c.domain)
	case kindIP:
		c.ip = n.value
		addr, ok := netip.AddrFromSlice(n.value)
		c.shown = addr.String()
		return c, ok
	case kindDirectory:
		whole, rdns, _ := canonicalName(n.value)
		c.rdns, c.shown = rdns, "in the alternative names"
		return c, whole == "" || rdns != nil
	}
	return c, false
}

func (t *subtree) contains(c candidate) bool {
	switch c.kind {
	case kindDNS:
		return domainWithin(c.domain, t.text)
	case kindEmail:
		if local, domain, full := cutMailbox(t.text); full {
			return local == c.local && domain == c.domain
		}
		return hostWithin(c.domain, t.text)
	case kindURI:
		return hostWithin(c.domain, t.text)
	case kindIP:
		return ipWithin(c.ip, t.ip, t.mask)
	case kindDirectory:
		return rdnsWithin(c.rdns, t.rdns)
	}
	return false
}

// overlapsWildcard reports whether a wildcard name would also be good for a
// name in the subtree.
func (t *subtree) overlapsWildcard(c candidate) bool {
	base, wildcard := strings.CutPrefix(c.domain, "*.")
	if c.kind != kindDNS || !wildcard {
		return false
	}
	_, parent, _ := strings.Cut(t.text, ".")
	return parent == base
}

// domainWithin: a DNS constraint holds the domain and everything below it. With
// a leading period, which RFC 5280 does not know but CAs use, only what is below.
func domainWithin(domain, constraint string) bool {
	if constraint == "" || domain == constraint {
		return true
	}
	if constraint[0] == '.' {
		return len(domain) > len(constraint) && strings.HasSuffix(domain, constraint)
	}
	return strings.HasSuffix(domain, constraint) && domain[len(domain)-len(constraint)-1] == '.'
}

// hostWithin: in constraints on URIs and mailboxes a name is that very host, and
// a leading period means every host below.
func hostWithin(host, constraint string) bool {
	if strings.HasPrefix(constraint, ".") {
		return domainWithin(host, constraint)
	}
	return constraint == "" || host == constraint
}

func ipWithin(ip, base, mask []byte) bool {
	if len(ip) != len(base) {
		return false
	}
	masked := make([]byte, len(ip))
	network := make([]byte, len(ip))
	for i := range ip {
		masked[i], network[i] = ip[i]&mask[i], base[i]&mask[i]
	}
	return bytes.Equal(masked, network)
}

func rdnsWithin(name, constraint []string) bool {
	if len(name) < len(constraint) {
		return false
	}
	for i := range constraint {
		if name[i] != constraint[i] {
			return false
		}
	}
	return true
}

// cutMailbox splits an address at its last @ and makes the domain lower case.
func cutMailbox(s string) (local, domain string, full bool) {
	i := strings.LastIndexByte(s, '@')
	if i < 0 {
		return "", "", false
	}
	return s[:i], strings.ToLower(s[i+1:]), true
}

// plainLocal refuses quoted local parts, which have several spellings.
func plainLocal(s string) bool { return s != "" && !strings.ContainsAny(s, `"\`) }

// plainDomain accepts what can be compared label by label: visible ASCII, no
// empty label, no period at the end.
func plainDomain(s string) bool {
	label := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.' && label == 0, c <= ' ', c >= 0x7f, c == '@':
			return false
		case c == '.':
			label = 0
		default:
			label++
		}
	}
	return label > 0
}

// hostMatches reports whether the leaf carries the name. The common name does
// not count.
func hostMatches(c *x509.Certificate, host string) bool { return c.VerifyHostname(host) == nil }

package lint

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
)

// localNames are domains that mean nothing outside one network (RFC 6761, RFC
// 6762, RFC 8375 and the ICANN resolution on internal).
var localNames = []string{"localhost", "local", "internal", "home.arpa", "lan", "home", "corp", "intranet", "test", "invalid", "onion", "localdomain"}

// StatusURL refuses an address that must not go into certificates, with
// fault.StatusURL: they carry it for decades, and whoever checks them is
// somewhere else. A quickstart may use addresses of its own machine.
func StatusURL(text string, quickstart bool) error {
	refuse := func(why ...any) error { return fault.New(fault.StatusURL, why...) }
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return refuse("it is not an absolute URL")
	case u.Scheme == "https":
		return refuse("OCSP and CRLs are fetched over http: checking an https server would need them first (RFC 5280, section 8)")
	case u.Scheme != "http":
		return refuse("the scheme must be http")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(text, "#"):
		return refuse("it must have no user, query or fragment")
	case len(text) > 200:
		return refuse("it is longer than 200 octets; every certificate carries it three times")
	case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '%' || r == '\\' }):
		return refuse("it must be plain ASCII without escapes")
	case strings.Contains(u.Path, "//") || strings.Contains(u.Path, "/../") || strings.HasSuffix(u.Path, "/.."):
		return refuse("its path is not in its shortest form")
	}
	if quickstart {
		return nil
	}
	return publicHost(strings.TrimSuffix(strings.ToLower(u.Hostname()), "."), refuse)
}

func publicHost(host string, refuse func(...any) error) error {
	if addr, err := netip.ParseAddr(host); err == nil {
		if why := localAddress(addr.Unmap()); why != "" {
			return refuse(host, "is", why)
		}
		return nil
	}
	labels := strings.Split(host, ".")
	last := labels[len(labels)-1]
	switch {
	case !hostName(labels):
		return refuse(host, "is not a DNS name")
	case slices.Contains(localNames, last) || slices.ContainsFunc(localNames, func(l string) bool { return strings.HasSuffix(host, "."+l) }):
		return refuse(host, "is a name of a local network")
	case len(labels) < 2:
		return refuse(host, "has no dot, so it means something else in each network")
	case strings.Trim(last, "0123456789") == "":
		return refuse(host, "is not a DNS name")
	}
	return nil
}

func hostName(labels []string) bool {
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
			return false
		}
		if strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return true
}

// special are ranges that netip has no method for: shared address space,
// documentation, benchmarking, IETF assignments, 6to4 relays and reserved.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("192.88.99.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("100::/64"),
	netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("fec0::/10"),
}

func localAddress(a netip.Addr) string {
	switch {
	case a.IsLoopback():
		return "a loopback address"
	case a.IsPrivate():
		return "a private address"
	case a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() || a.Zone() != "":
		return "a link-local address"
	case a.IsUnspecified() || a.IsMulticast() || a.IsInterfaceLocalMulticast():
		return "no address of a host"
	case slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(a) }):
		return "an address with a special meaning"
	}
	return ""
}

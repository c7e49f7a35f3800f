package profile

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

func (c *Config) checkSubject(p *Profile) error {
	fields, err := checkName("subject", c.Subject)
	p.Subject = fields
	return err
}

func checkName(path string, configs []NameConfig) ([]NameField, error) {
	if len(configs) > 20 {
		return nil, wrong(path, "at most 20 attributes")
	}
	var fields []NameField
	for i, f := range configs {
		here := at(path, i)
		a, ok := AttributeByName(f.Attribute)
		if !ok {
			return nil, wrong(here+".attribute", "%q is neither a known attribute nor an OID", f.Attribute)
		}
		v, err := checkValue(here, f.ValueConfig)
		if err != nil {
			return nil, err
		}
		if v.From == FromHosts {
			return nil, wrong(here+".from", "hosts go into the alternative name")
		}
		if v.From == "" {
			if problem := a.Refuses(v.Fixed); problem != "" {
				return nil, wrong(here+".value", "%s", problem)
			}
		}
		fields = append(fields, NameField{Attribute: a, Value: v})
	}
	return fields, nil
}

func checkValue(path string, c ValueConfig) (Value, error) {
	v := Value{Fixed: c.Value, From: c.From, Or: c.Or, Prefix: c.Prefix, Suffix: c.Suffix, Optional: c.Optional, Length: c.Length}
	switch {
	case (c.Value == "") == (c.From == ""):
		return v, wrong(path, "give either value or from")
	case c.From != "" && !slices.Contains(Sources(), c.From):
		return v, wrong(path+".from", "must be one of %v", Sources())
	case c.Or != "" && (c.From == "" || c.From == FromHosts):
		return v, wrong(path+".or", "needs a from that is a single value")
	case c.Or != "" && (c.Or == c.From || c.Or == FromHosts || !slices.Contains(Sources(), c.Or)):
		return v, wrong(path+".or", "must be another one of %v", Sources())
	case c.From == "" && (c.Prefix != "" || c.Suffix != "" || c.Optional || c.Length != 0):
		return v, wrong(path, "a fixed value has no prefix, suffix, length or optional")
	case c.From == FromHosts && (c.Prefix != "" || c.Suffix != "" || c.Length != 0):
		return v, wrong(path, "hosts have no prefix, suffix or length")
	case c.Length < 0 || c.Length > 256:
		return v, wrong(path+".length", "1 to 256 octets")
	}
	for _, s := range []string{c.Value, c.Prefix, c.Suffix} {
		if len(s) > 256 || !Text(s) {
			return v, wrong(path, "text has at most 256 octets and no control characters")
		}
	}
	return v, nil
}

// Text reports whether s is valid UTF-8 without control characters.
func Text(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError })
}

// Refuses says why the attribute cannot have this value, or nothing.
func (a Attribute) Refuses(s string) string {
	switch {
	case s == "":
		return a.Name + " must not be empty"
	case !Text(s):
		return a.Name + " has characters that a name cannot hold"
	case a.Max > 0 && utf8.RuneCountInString(s) > a.Max:
		return a.Name + " is too long"
	case a.Name == "countryName" && (len(s) != 2 || strings.ToUpper(s) != s || !Printable(s)):
		return a.Name + " must be two capital letters (ISO 3166)"
	case a.Form == FormPrintable && !Printable(s):
		return a.Name + " has characters that a PrintableString cannot hold"
	case a.Form == FormIA5 && !ascii(s):
		return a.Name + " has characters outside ASCII"
	}
	return ""
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func (c *Config) checkAltNames(p *Profile) error {
	if len(c.SubjectAltName) > 20 {
		return wrong("subjectAltName", "at most 20 entries")
	}
	for i, n := range c.SubjectAltName {
		a, err := checkAltName(at("subjectAltName", i), n)
		if err != nil {
			return err
		}
		p.AltNames = append(p.AltNames, a)
	}
	if p.Kind == KindTLSServer && len(p.AltNames) == 0 {
		return wrong("subjectAltName", "a TLS server needs an alternative name")
	}
	return nil
}

func checkAltName(path string, c AltNameConfig) (AltName, error) {
	n := AltName{Type: c.Type, Hex: c.Hex}
	if !slices.Contains(AltNameTypes(), c.Type) {
		return n, wrong(path+".type", "must be one of %v", AltNameTypes())
	}
	if err := n.setOID(path, c); err != nil {
		return n, err
	}
	if c.Hex && c.Type != AltHardwareModuleName {
		return n, wrong(path+".hex", "only a hardwareModuleName is hexadecimal")
	}
	if c.Type == AltDirectoryName {
		if c.ValueConfig != (ValueConfig{}) || len(c.Directory) == 0 {
			return n, wrong(path, "a directoryName has directory and nothing else")
		}
		fields, err := checkName(path+".directory", c.Directory)
		n.Directory = fields
		return n, err
	}
	if len(c.Directory) > 0 {
		return n, wrong(path+".directory", "only a directoryName has it")
	}
	v, err := checkValue(path, c.ValueConfig)
	if err != nil {
		return n, err
	}
	n.Value = v
	if v.From == FromHosts && c.Type != AltDNS && c.Type != AltIP {
		return n, wrong(path+".from", "hosts are DNS names and IP addresses")
	}
	if v.From == "" {
		if problem := n.Refuses(v.Fixed); problem != "" {
			return n, wrong(path+".value", "%s", problem)
		}
	}
	return n, nil
}

func (n *AltName) setOID(path string, c AltNameConfig) error {
	for _, o := range []struct {
		field, text string
		of          AltNameType
	}{
		{"hardwareType", c.HardwareType, AltHardwareModuleName},
		{"assigner", c.Assigner, AltPermanentIdentifier},
	} {
		if o.text == "" {
			continue
		}
		parsed, err := x509.ParseOID(o.text)
		if err != nil || c.Type != o.of {
			return wrong(path+"."+o.field, "must be an OID, and only a %s has it", o.of)
		}
		n.OID, n.HasOID = parsed, true
	}
	return nil
}

// Refuses says why an alternative name of this type cannot have this value, or
// nothing.
func (n *AltName) Refuses(s string) string {
	switch n.Type {
	case AltDNS:
		if !DNSName(s) {
			return "not a DNS name"
		}
	case AltIP:
		if a, err := netip.ParseAddr(s); err != nil || a.Zone() != "" {
			return "not an IP address"
		}
	case AltURI:
		if !URI(s) {
			return "not an absolute URI"
		}
	case AltEmail:
		if !Email(s) {
			return "not a mail address"
		}
	case AltHardwareModuleName:
		if b, err := hex.DecodeString(s); n.Hex && (err != nil || len(b) == 0) {
			return "not hexadecimal"
		}
		if s == "" || len(s) > 256 || !Text(s) {
			return "not a hardware serial of 1 to 256 octets"
		}
	case AltPermanentIdentifier:
		if s == "" || len(s) > 256 || !Text(s) {
			return "not an identifier of 1 to 256 octets"
		}
	}
	return ""
}

// DNSName reports whether s is a host name of letters, digits and dashes in
// lower or upper case (RFC 1034, section 3.5); the first label may be a star.
func DNSName(s string) bool {
	s = strings.TrimPrefix(s, "*.")
	if s == "" || len(s) > 253 {
		return false
	}
	for l := range strings.SplitSeq(s, ".") {
		if !dnsLabel(l) {
			return false
		}
	}
	// Four numbers are an address, not a name.
	_, err := netip.ParseAddr(s)
	return err != nil
}

func dnsLabel(l string) bool {
	if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
		return false
	}
	for i := range len(l) {
		c := l[i]
		if c != '-' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			return false
		}
	}
	return true
}

// URI reports whether s is an absolute URI in ASCII, a scheme and something
// after it (RFC 3986).
func URI(s string) bool {
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok || scheme == "" || rest == "" || len(s) > 1024 || scheme[0]|0x20 < 'a' || scheme[0]|0x20 > 'z' {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || strings.IndexByte("\"<>\\^`{|}", s[i]) >= 0 {
			return false
		}
	}
	for i := range len(scheme) {
		c := scheme[i]
		if c != '+' && c != '-' && c != '.' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			return false
		}
	}
	return true
}

// Email reports whether s is a plain ASCII mail address, a local part and a
// domain (RFC 5280, section 4.2.1.6).
func Email(s string) bool {
	local, domain, ok := strings.Cut(s, "@")
	if !ok || local == "" || len(local) > 64 || len(s) > 255 || !DNSName(domain) || strings.HasPrefix(domain, "*") {
		return false
	}
	for i := range len(local) {
		c := local[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte("()<>[]:;@\\,\"", c) >= 0 {
			return false
		}
	}
	return true
}

func (c *Config) checkConstraints(p *Profile) error {
	if c.NameConstraints == nil {
		return nil
	}
	if p.Kind == KindRoot {
		return wrong("nameConstraints", "a trust anchor's constraints are not checked; put them into the issuing authority")
	}
	permitted, err := checkNameSet("nameConstraints.permitted", c.NameConstraints.Permitted)
	if err != nil {
		return err
	}
	excluded, err := checkNameSet("nameConstraints.excluded", c.NameConstraints.Excluded)
	if err != nil {
		return err
	}
	if permitted.Empty() && excluded.Empty() {
		return wrong("nameConstraints", "names nothing")
	}
	p.NameConstraints = &NameConstraints{Permitted: permitted, Excluded: excluded}
	return nil
}

func checkNameSet(path string, c NameSetConfig) (NameSet, error) {
	s := NameSet{DNS: slices.Clone(c.DNS), Email: slices.Clone(c.Email), URI: slices.Clone(c.URI)}
	host := func(name string) bool { return DNSName(name) && !strings.HasPrefix(name, "*") }
	for i, d := range s.DNS {
		if !host(d) {
			return s, wrong(at(path+".dns", i), "not a domain")
		}
	}
	for i, d := range s.URI {
		if !host(strings.TrimPrefix(d, ".")) {
			return s, wrong(at(path+".uri", i), "not a domain")
		}
	}
	for i, d := range s.Email {
		if !host(strings.TrimPrefix(d, ".")) && !Email(d) {
			return s, wrong(at(path+".email", i), "neither a mail address nor a domain")
		}
	}
	for i, text := range c.IP {
		prefix, err := netip.ParsePrefix(text)
		if err != nil || prefix.Masked() != prefix {
			return s, wrong(at(path+".ip", i), "not an address range such as 10.0.0.0/8")
		}
		s.IP = append(s.IP, prefix)
	}
	return s, nil
}

// standardArcs hold extensions that the product writes itself or never.
var standardArcs = []string{"2.5.29.", "1.3.6.1.5.5.7.1.", "1.3.6.1.5.5.7.48.1."}

func (c *Config) checkExtensions(p *Profile) error {
	if len(c.Extensions) > 20 {
		return wrong("extensions", "at most 20 extensions")
	}
	for i, e := range c.Extensions {
		path := at("extensions", i)
		o, err := x509.ParseOID(e.OID)
		if err != nil {
			return wrong(path+".oid", "is not an OID")
		}
		if slices.ContainsFunc(standardArcs, func(arc string) bool { return strings.HasPrefix(e.OID, arc) }) {
			return wrong(path+".oid", "has its own place in a profile, or none")
		}
		if slices.ContainsFunc(p.Extensions, func(x Extension) bool { return x.OID.Equal(o) }) {
			return wrong(path+".oid", "stands there twice")
		}
		der, err := hex.DecodeString(e.Hex)
		if err != nil || len(der) > 4096 {
			return wrong(path+".hex", "not hexadecimal, or over 4096 octets")
		}
		if rest, err := asn1.Unmarshal(der, &asn1.RawValue{}); err != nil || len(rest) > 0 {
			return wrong(path+".hex", "not one DER element")
		}
		p.Extensions = append(p.Extensions, Extension{OID: o, Value: der})
	}
	return nil
}

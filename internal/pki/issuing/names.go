package issuing

import (
	"crypto/x509"
	"encoding/hex"
	"net/netip"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// attribute is one attribute of a name, compiled.
type attribute struct {
	field *profile.NameField
	oid   []byte // element
	rdn   []byte // whole RelativeDistinguishedName of a fixed value
}

func compileName(fields []profile.NameField) ([]attribute, error) {
	var compiled []attribute
	for i := range fields {
		f := &fields[i]
		oid, err := oidElement(f.Attribute.OID)
		if err != nil {
			return nil, err
		}
		a := attribute{field: f, oid: oid}
		if f.Value.From == "" {
			a.rdn = appendRDN(nil, &a, f.Value.Fixed)
		}
		compiled = append(compiled, a)
	}
	return compiled, nil
}

func oidElement(o x509.OID) ([]byte, error) {
	content, err := o.MarshalBinary()
	if err != nil {
		return nil, err
	}
	return appendTLV(nil, tagOID, content), nil
}

// text returns what a field is filled with; false: it is left out.
func text(v *profile.Value, values *profile.Values) (string, bool, error) {
	if v.From == "" {
		return v.Fixed, true, nil
	}
	s := values.Get(v.From)
	if s == "" && v.Or != "" {
		s = values.Get(v.Or)
	}
	if s == "" {
		if v.Optional {
			return "", false, nil
		}
		return "", false, fault.New(fault.ProfileValue, v.From, "is missing")
	}
	if v.Prefix != "" || v.Suffix != "" {
		s = v.Prefix + s + v.Suffix
	}
	if v.Length != 0 && len(s) != v.Length {
		return "", false, fault.New(fault.ProfileValue, v.From, "must have", v.Length, "octets")
	}
	return s, true, nil
}

// appendName appends a distinguished name.
func appendName(dst []byte, name []attribute, values *profile.Values, fixed bool) ([]byte, error) {
	start := len(dst)
	for i := range name {
		a := &name[i]
		if a.rdn != nil {
			dst = append(dst, a.rdn...)
			continue
		}
		s, ok, err := text(&a.field.Value, values)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		if why := a.field.Attribute.Refuses(s); why != "" {
			return nil, fault.New(fault.ProfileValue, why)
		}
		if fixed && a.field.Attribute.Form == profile.FormDirectory && !profile.Printable(s) {
			// One letter outside PrintableString would change the tag.
			return nil, fault.New(fault.ProfileValue, a.field.Attribute.Name, "has characters that a PrintableString cannot hold")
		}
		dst = appendRDN(dst, a, s)
	}
	return wrap(dst, start, tagSequence), nil
}

func appendRDN(dst []byte, a *attribute, s string) []byte {
	str := headerLen(len(s)) + len(s)
	pair := len(a.oid) + str
	dst = appendHeader(dst, tagSet, headerLen(pair)+pair)
	dst = appendHeader(dst, tagSequence, pair)
	dst = append(dst, a.oid...)
	return appendTLV(dst, stringTag(a.field.Attribute.Form, s), s)
}

func stringTag(form profile.StringForm, s string) byte {
	switch {
	case form == profile.FormIA5:
		return tagIA5
	case form == profile.FormUTF8:
		return tagUTF8
	case form == profile.FormPrintable || profile.Printable(s):
		return tagPrintable
	}
	return tagUTF8
}

// altName is one entry of the alternative name, compiled.
type altName struct {
	entry     *profile.AltName
	oid       []byte // element: hwType or assigner
	directory []attribute
}

func compileAltNames(entries []profile.AltName) ([]altName, error) {
	var compiled []altName
	for i := range entries {
		n := altName{entry: &entries[i]}
		var err error
		if n.entry.HasOID {
			if n.oid, err = oidElement(n.entry.OID); err != nil {
				return nil, err
			}
		}
		if n.directory, err = compileName(n.entry.Directory); err != nil {
			return nil, err
		}
		compiled = append(compiled, n)
	}
	return compiled, nil
}

// OIDs of other-names, as elements.
var (
	oidHardwareModuleName  = []byte{tagOID, 8, 0x2b, 6, 1, 5, 5, 7, 8, 4}
	oidPermanentIdentifier = []byte{tagOID, 8, 0x2b, 6, 1, 5, 5, 7, 8, 3}
)

// appendAltNames appends GeneralNames, or nothing when no entry has a value.
func (c *Compiled) appendAltNames(dst []byte, values *profile.Values) ([]byte, error) {
	if len(c.altNames) == 0 {
		return dst, nil
	}
	start := len(dst)
	var err error
	for i := range c.altNames {
		n := &c.altNames[i]
		if n.entry.Value.From == profile.FromHosts {
			dst, err = appendHosts(dst, n.entry, values)
		} else {
			dst, err = c.appendAltName(dst, n, values)
		}
		if err != nil {
			return nil, err
		}
	}
	if len(dst) == start {
		if c.profile.Kind == profile.KindTLSServer {
			return nil, fault.New(fault.ProfileValue, "a TLS server needs at least one host")
		}
		return dst, nil
	}
	return wrap(dst, start, tagSequence), nil
}

// appendHosts appends those hosts that an entry is for: names or addresses.
func appendHosts(dst []byte, n *profile.AltName, values *profile.Values) ([]byte, error) {
	found := false
	for _, host := range values.Hosts {
		addr, err := netip.ParseAddr(host)
		if (err == nil) != (n.Type == profile.AltIP) {
			continue
		}
		found = true
		if why := n.Refuses(host); why != "" {
			return nil, fault.New(fault.ProfileValue, "host", host, "is", why)
		}
		if err == nil {
			dst = appendTLV(dst, implicit(7), addr.Unmap().AsSlice())
		} else {
			dst = appendTLV(dst, implicit(2), host)
		}
	}
	if !found && !n.Value.Optional {
		return nil, fault.New(fault.ProfileValue, "a host is missing for", n.Type)
	}
	return dst, nil
}

func (c *Compiled) appendAltName(dst []byte, n *altName, values *profile.Values) ([]byte, error) {
	if n.entry.Type == profile.AltDirectoryName {
		start := len(dst)
		dst, err := appendName(dst, n.directory, values, c.profile.FixedLength)
		if err != nil {
			return nil, err
		}
		return wrap(dst, start, explicit(4)), nil
	}
	s, ok, err := text(&n.entry.Value, values)
	if err != nil || !ok {
		return dst, err
	}
	if why := n.entry.Refuses(s); why != "" {
		return nil, fault.New(fault.ProfileValue, n.entry.Type, "is", why)
	}
	switch n.entry.Type {
	case profile.AltDNS:
		return appendTLV(dst, implicit(2), s), nil
	case profile.AltEmail:
		return appendTLV(dst, implicit(1), s), nil
	case profile.AltURI:
		return appendTLV(dst, implicit(6), s), nil
	case profile.AltIP:
		return appendTLV(dst, implicit(7), netip.MustParseAddr(s).Unmap().AsSlice()), nil
	case profile.AltPermanentIdentifier:
		return appendPermanentIdentifier(dst, n.oid, s), nil
	}
	return c.appendHardwareModuleName(dst, n, s, values)
}

// appendPermanentIdentifier appends the other-name of RFC 4043.
func appendPermanentIdentifier(dst, assigner []byte, s string) []byte {
	start := len(dst)
	dst = append(dst, oidPermanentIdentifier...)
	inner := len(dst)
	dst = appendTLV(dst, tagUTF8, s)
	dst = append(dst, assigner...)
	dst = wrap(dst, inner, tagSequence)
	dst = wrap(dst, inner, explicit(0))
	return wrap(dst, start, explicit(0))
}

// appendHardwareModuleName appends the other-name of RFC 4108, section 5.
func (c *Compiled) appendHardwareModuleName(dst []byte, n *altName, s string, values *profile.Values) ([]byte, error) {
	hwType, err := c.hardwareType(n, values)
	if err != nil {
		return nil, err
	}
	start := len(dst)
	dst = append(dst, oidHardwareModuleName...)
	inner := len(dst)
	dst = append(dst, hwType...)
	if n.entry.Hex {
		octets, err := hex.DecodeString(s)
		if err != nil {
			return nil, fault.New(fault.ProfileValue, "hardwareSerial is not hexadecimal")
		}
		dst = appendTLV(dst, tagOctetString, octets)
	} else {
		dst = appendTLV(dst, tagOctetString, s)
	}
	dst = wrap(dst, inner, tagSequence)
	dst = wrap(dst, inner, explicit(0))
	return wrap(dst, start, explicit(0)), nil
}

// hardwareType returns the OID element of a hardwareModuleName. A type of the
// register goes before the profile's.
func (c *Compiled) hardwareType(n *altName, values *profile.Values) ([]byte, error) {
	if values.HardwareType == "" || c.profile.FixedLength {
		if n.oid == nil {
			return nil, fault.New(fault.ProfileValue, "hardwareType is missing")
		}
		return n.oid, nil
	}
	o, err := x509.ParseOID(values.HardwareType)
	if err != nil {
		return nil, fault.New(fault.ProfileValue, "hardwareType is not an OID")
	}
	return oidElement(o)
}

// Subject returns the DER of the name that these values give, as re-enrollment
// compares it.
func (c *Compiled) Subject(v profile.Values) ([]byte, error) {
	return appendName(nil, c.name, &v, c.profile.FixedLength)
}

// SAN returns the DER of the alternative names that these values give, or nil
// when there are none.
func (c *Compiled) SAN(v profile.Values) ([]byte, error) {
	return c.appendAltNames(nil, &v)
}

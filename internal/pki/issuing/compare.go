package issuing

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/pki/profile"
)

// mismatch names the first field of a certificate that is not what was meant.
type mismatch string

func (m mismatch) Error() string { return "issuing: signed " + string(m) + " is not what was meant" }

// compare takes a certificate apart and holds every field against profile,
// issuer and input. It decodes values instead of encoding them a second time, so
// that a fault in an encoder, in memory or in a signer shows here.
func (c *Compiled) compare(der []byte, l *layout, in *Input) error {
	tbsElement, _, _, rest, err := open(der)
	if err != nil || len(rest) > 0 {
		return mismatch("certificate")
	}
	element := cryptobyte.String(tbsElement)
	var tbs, version, certSerial, alg, issuer, subject, spki cryptobyte.String
	if !element.ReadASN1(&tbs, asn1.SEQUENCE) {
		return mismatch("certificate")
	}
	if !tbs.ReadASN1Element(&version, asn1.Tag(0).Constructed().ContextSpecific()) || !bytes.Equal(version, version3) {
		return mismatch("version")
	}
	if !tbs.ReadASN1(&certSerial, asn1.INTEGER) || !bytes.Equal(certSerial, in.CertSerial) {
		return mismatch("serial number")
	}
	if !tbs.ReadASN1Element(&alg, asn1.SEQUENCE) || !bytes.Equal(alg, c.authority.id) {
		return mismatch("algorithm")
	}
	if !tbs.ReadASN1Element(&issuer, asn1.SEQUENCE) {
		return mismatch("issuer")
	}
	if err := compareValidity(&tbs, in); err != nil {
		return err
	}
	if !tbs.ReadASN1Element(&subject, asn1.SEQUENCE) {
		return mismatch("subject")
	}
	empty, err := compareName(subject, c.name, &in.Values)
	if err != nil {
		return err
	}
	want := c.authority.subject
	if c.authority.certificate == nil {
		want = subject
	}
	if !bytes.Equal(issuer, want) {
		return mismatch("issuer")
	}
	if !tbs.ReadASN1Element(&spki, asn1.SEQUENCE) || !bytes.Equal(spki, in.SPKI) {
		return mismatch("public key")
	}
	return c.compareExtensions(tbs, l, in, empty)
}

func compareValidity(tbs *cryptobyte.String, in *Input) error {
	var validity cryptobyte.String
	if !tbs.ReadASN1(&validity, asn1.SEQUENCE) {
		return mismatch("validity")
	}
	notBefore, err := readTime(&validity)
	if err != nil || !notBefore.Equal(in.NotBefore) {
		return mismatch("notBefore")
	}
	notAfter, err := readTime(&validity)
	if err != nil || !notAfter.Equal(in.NotAfter) || !validity.Empty() {
		return mismatch("notAfter")
	}
	return nil
}

// compareName reads a name and reports whether it is empty.
func compareName(element cryptobyte.String, name []attribute, values *profile.Values) (empty bool, err error) {
	var rdns cryptobyte.String
	if !element.ReadASN1(&rdns, asn1.SEQUENCE) || !element.Empty() {
		return false, mismatch("name")
	}
	empty = rdns.Empty()
	for i := range name {
		a := &name[i]
		want, ok, err := text(&a.field.Value, values)
		if err != nil {
			return false, err
		}
		if !ok {
			continue
		}
		var set, pair, oid, value cryptobyte.String
		var tag asn1.Tag
		if !rdns.ReadASN1(&set, asn1.SET) || !set.ReadASN1(&pair, asn1.SEQUENCE) || !set.Empty() ||
			!pair.ReadASN1Element(&oid, asn1.OBJECT_IDENTIFIER) || !bytes.Equal(oid, a.oid) ||
			!pair.ReadAnyASN1(&value, &tag) || !pair.Empty() ||
			byte(tag) != stringTag(a.field.Attribute.Form, want) || string(value) != want {
			return false, mismatch(a.field.Attribute.Name)
		}
	}
	if !rdns.Empty() {
		return false, mismatch("name")
	}
	return empty, nil
}

func (c *Compiled) compareExtensions(tbs cryptobyte.String, l *layout, in *Input, nameless bool) error {
	var outer, list cryptobyte.String
	if !tbs.ReadASN1(&outer, asn1.Tag(3).Constructed().ContextSpecific()) || !tbs.Empty() ||
		!outer.ReadASN1(&list, asn1.SEQUENCE) || !outer.Empty() {
		return mismatch("extensions")
	}
	for i := range l.intent {
		want := &l.intent[i]
		if want.hole == holeAltName && !c.hasAltNames(&in.Values) {
			continue
		}
		oid, critical, value, ok := readExtension(&list)
		if !ok || !bytes.Equal(oid, want.oid) {
			return mismatch(fmt.Sprintf("extension %d", i))
		}
		meant := want.critical
		var same bool
		switch want.hole {
		case holeNone:
			same = bytes.Equal(value, want.value)
		case holeSubjectKey:
			id := subjectKeyID(in.SPKI)
			same = len(value) == 22 && value[0] == tagOctetString && value[1] == 20 && bytes.Equal(value[2:], id[:])
		case holeShard:
			same = bytes.Equal(value, c.points[Shard(in.CertSerial, c.profile.CRLShards)])
		case holeAltName:
			meant = nameless
			same = c.sameAltNames(value, &in.Values)
		}
		if !same || critical != meant {
			return mismatch(fmt.Sprintf("extension %d", i))
		}
	}
	if !list.Empty() {
		return mismatch("list of extensions")
	}
	return nil
}

// readExtension reads one Extension; oid is the element, value the content of
// the OCTET STRING.
func readExtension(list *cryptobyte.String) (oid []byte, critical bool, value []byte, ok bool) {
	var ext, o, flag, v cryptobyte.String
	var present bool
	if !list.ReadASN1(&ext, asn1.SEQUENCE) || !ext.ReadASN1Element(&o, asn1.OBJECT_IDENTIFIER) ||
		!ext.ReadOptionalASN1(&flag, &present, asn1.BOOLEAN) ||
		!ext.ReadASN1(&v, asn1.OCTET_STRING) || !ext.Empty() {
		return nil, false, nil, false
	}
	if present && (len(flag) != 1 || flag[0] != 0xff) {
		return nil, false, nil, false
	}
	return o, present, v, true
}

// hasAltNames reports whether any entry of the alternative name has a value.
func (c *Compiled) hasAltNames(values *profile.Values) bool {
	for i := range c.altNames {
		n := c.altNames[i].entry
		switch {
		case n.Type == profile.AltDirectoryName:
			return true
		case n.Value.From == profile.FromHosts:
			for _, host := range values.Hosts {
				if isAddress(host) == (n.Type == profile.AltIP) {
					return true
				}
			}
		default:
			if _, ok, err := text(&n.Value, values); ok && err == nil {
				return true
			}
		}
	}
	return false
}

func isAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// sameAltNames reads GeneralNames and compares them with the values.
func (c *Compiled) sameAltNames(value []byte, values *profile.Values) bool {
	in := cryptobyte.String(value)
	var names cryptobyte.String
	if !in.ReadASN1(&names, asn1.SEQUENCE) || !in.Empty() {
		return false
	}
	for i := range c.altNames {
		n := &c.altNames[i]
		if n.entry.Value.From == profile.FromHosts {
			for _, host := range values.Hosts {
				if isAddress(host) == (n.entry.Type == profile.AltIP) && !sameGeneralName(&names, n.entry.Type, host) {
					return false
				}
			}
			continue
		}
		if !c.sameAltName(&names, n, values) {
			return false
		}
	}
	return names.Empty()
}

func (c *Compiled) sameAltName(names *cryptobyte.String, n *altName, values *profile.Values) bool {
	if n.entry.Type == profile.AltDirectoryName {
		var name cryptobyte.String
		if !names.ReadASN1(&name, asn1.Tag(4).Constructed().ContextSpecific()) {
			return false
		}
		_, err := compareName(name, n.directory, values)
		return err == nil
	}
	want, ok, err := text(&n.entry.Value, values)
	if err != nil {
		return false
	}
	if !ok {
		return true
	}
	switch n.entry.Type {
	case profile.AltHardwareModuleName, profile.AltPermanentIdentifier:
		return c.sameOtherName(names, n, want, values)
	}
	return sameGeneralName(names, n.entry.Type, want)
}

func sameGeneralName(names *cryptobyte.String, t profile.AltNameType, want string) bool {
	var content cryptobyte.String
	var tag asn1.Tag
	if !names.ReadAnyASN1(&content, &tag) {
		return false
	}
	switch tag {
	case asn1.Tag(1).ContextSpecific():
		return t == profile.AltEmail && string(content) == want
	case asn1.Tag(2).ContextSpecific():
		return t == profile.AltDNS && string(content) == want
	case asn1.Tag(6).ContextSpecific():
		return t == profile.AltURI && string(content) == want
	case asn1.Tag(7).ContextSpecific():
		addr, err := netip.ParseAddr(want)
		got, ok := netip.AddrFromSlice(content)
		return t == profile.AltIP && err == nil && ok && got == addr.Unmap()
	}
	return false
}

func (c *Compiled) sameOtherName(names *cryptobyte.String, n *altName, want string, values *profile.Values) bool {
	var other, oid, outer, seq, first, second cryptobyte.String
	tag0 := asn1.Tag(0).Constructed().ContextSpecific()
	if !names.ReadASN1(&other, tag0) || !other.ReadASN1Element(&oid, asn1.OBJECT_IDENTIFIER) ||
		!other.ReadASN1(&outer, tag0) || !other.Empty() ||
		!outer.ReadASN1(&seq, asn1.SEQUENCE) || !outer.Empty() {
		return false
	}
	if n.entry.Type == profile.AltPermanentIdentifier {
		return bytes.Equal(oid, oidPermanentIdentifier) && seq.ReadASN1(&first, asn1.UTF8String) &&
			string(first) == want && bytes.Equal(seq, n.oid)
	}
	hwType, err := c.hardwareType(n, values)
	if err != nil || !bytes.Equal(oid, oidHardwareModuleName) ||
		!seq.ReadASN1Element(&first, asn1.OBJECT_IDENTIFIER) || !bytes.Equal(first, hwType) ||
		!seq.ReadASN1(&second, asn1.OCTET_STRING) || !seq.Empty() {
		return false
	}
	if n.entry.Hex {
		octets, err := hex.DecodeString(want)
		return err == nil && bytes.Equal(octets, second)
	}
	return string(second) == want
}

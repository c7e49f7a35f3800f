package request

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
)

func TestSubjectStrings(t *testing.T) {
	const organization, country, street, unknown = "\x55\x04\x0a", "\x55\x04\x06", "\x55\x04\x09", "\x2a\x03\x04"
	const domain, email = "\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x19", "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x01"
	for i, c := range []struct {
		oid   string
		tag   asn1.Tag
		value string
		ok    bool
	}{
		{oidCommonName, asn1.UTF8String, "Gerät 42 (日本)", true},
		{oidCommonName, asn1.PrintableString, "device-42.A:b", true},
		{oidCommonName, asn1.UTF8String, strings.Repeat("ä", 64), true},
		{oidCommonName, asn1.UTF8String, strings.Repeat("a", 65), false},
		{oidCommonName, asn1.UTF8String, "", false},
		{oidCommonName, asn1.PrintableString, "a@b", false},
		{oidCommonName, asn1.PrintableString, "a*", false},
		{oidCommonName, asn1.IA5String, "device", false},
		{oidCommonName, asn1.T61String, "device", false},
		{oidCommonName, asn1.Tag(30), "\x00d", false},
		{oidCommonName, asn1.Tag(28), "\x00\x00\x00d", false},
		{oidCommonName, asn1.INTEGER, "\x05", false},
		{oidCommonName, asn1.OCTET_STRING, "device", false},
		{oidCommonName, asn1.SEQUENCE, "", false},
		{oidCommonName, asn1.UTF8String, "a\x00b", false},
		{oidCommonName, asn1.UTF8String, "a\nb", false},
		{oidCommonName, asn1.UTF8String, "a\tb", false},
		{oidCommonName, asn1.UTF8String, "a\x7fb", false},
		{oidCommonName, asn1.UTF8String, "a\u0085b", false},
		{oidCommonName, asn1.UTF8String, "a\u00adb", false}, // soft hyphen
		{oidCommonName, asn1.UTF8String, "a\u00a0b", false}, // no-break space
		{oidCommonName, asn1.UTF8String, "a\u200bb", false}, // zero width space
		{oidCommonName, asn1.UTF8String, "a\u200db", false}, // zero width joiner
		{oidCommonName, asn1.UTF8String, "a\u202eb", false}, // right-to-left override
		{oidCommonName, asn1.UTF8String, "a\u2066b", false}, // left-to-right isolate
		{oidCommonName, asn1.UTF8String, "a\u2028b", false}, // line separator
		{oidCommonName, asn1.UTF8String, "a\u3164b", false}, // Hangul filler
		{oidCommonName, asn1.UTF8String, "a\ufe0fb", false}, // variation selector
		{oidCommonName, asn1.UTF8String, "a\ufeffb", false}, // byte order mark
		{oidCommonName, asn1.UTF8String, "a\ue000b", false}, // private use
		{oidCommonName, asn1.UTF8String, "a\U000e0041b", false},
		{oidCommonName, asn1.UTF8String, "a\xc0\xafb", false},     // overlong
		{oidCommonName, asn1.UTF8String, "a\xed\xa0\x80b", false}, // surrogate
		{oidCommonName, asn1.UTF8String, "a\xff", false},
		{oidCommonName, asn1.UTF8String, "a+b", false},
		{oidCommonName, asn1.UTF8String, "a/b", false},
		{oidCommonName, asn1.PrintableString, "a/b", false},
		{oidCommonName, asn1.UTF8String, "a#b", false},
		{oidCommonName, asn1.UTF8String, " a", false},
		{oidCommonName, asn1.UTF8String, "a ", false},
		{oidSerialNumber, asn1.PrintableString, "SN-1", true},
		{oidSerialNumber, asn1.UTF8String, "SN_1", true},
		{oidSerialNumber, asn1.PrintableString, "SN/1", false},
		{oidUserID, asn1.UTF8String, "a#", false},
		{organization, asn1.UTF8String, "Maskinfabrik A/S + Sønner #1", true},
		{organization, asn1.UTF8String, "a\u202eb", false},
		{country, asn1.PrintableString, "DE", true},
		{country, asn1.PrintableString, "DEU", false},
		{country, asn1.PrintableString, "D", false},
		{country, asn1.UTF8String, "DE", false},
		{street, asn1.UTF8String, strings.Repeat("a", 128), true},
		{street, asn1.UTF8String, strings.Repeat("a", 129), false},
		{domain, asn1.IA5String, "example", true},
		{domain, asn1.UTF8String, "example", false},
		{email, asn1.IA5String, "a@example.com", true},
		{email, asn1.IA5String, "a@ex\x80mple.com", false},
		{email, asn1.UTF8String, "a@example.com", false},
		{unknown, asn1.IA5String, "x", true},
		{unknown, asn1.NULL, "", false},
		{unknown, asn1.UTF8String, strings.Repeat("a", 256), false},
	} {
		_, ok := checkName(name(nameAttribute(c.oid, c.tag, c.value)))
		if ok != c.ok {
			t.Errorf("%d: tag %d, %q of %x: passes %v", i, c.tag, c.value, c.oid, ok)
		}
	}
}

func TestSubjectStructure(t *testing.T) {
	cn := utf8Attribute(oidCommonName, "a")
	sn := utf8Attribute(oidSerialNumber, "b")
	unit := func(s string) []byte { return utf8Attribute("\x55\x04\x0b", s) }
	var units [][]byte
	for i := range maxNameAttributes {
		units = append(units, unit(fmt.Sprint(i)))
	}
	long := name(slicesRepeat(unit(strings.Repeat("a", 60)), 14)...)
	for what, c := range map[string]struct {
		subject []byte
		ok      bool
	}{
		"empty":               {name(), true},
		"two parts":           {name(cn, sn), true},
		"a multi-valued part": {element(asn1.SEQUENCE, element(asn1.SET, cn, sn)), true},
		"out of order":        {element(asn1.SEQUENCE, element(asn1.SET, sn, cn)), false},
		"the same twice":      {element(asn1.SEQUENCE, element(asn1.SET, cn, cn)), false},
		"an empty part":       {element(asn1.SEQUENCE, element(asn1.SET)), false},
		"two common names":    {name(cn, sn, cn), false},
		"two serial numbers":  {name(sn, sn), false},
		"two units":           {name(unit("a"), unit("b")), true},
		"32 attributes":       {name(units...), true},
		"33 attributes":       {name(append(units, unit("x"))...), false},
		"1024 octets":         {long, true},
		"more than that":      {name(slicesRepeat(unit(strings.Repeat("a", 60)), 15)...), false},
		"a part not a SET":    {element(asn1.SEQUENCE, cn), false},
		"three in a pair":     {name(element(asn1.SEQUENCE, oidElement(oidCommonName), element(asn1.UTF8String, []byte("a")), []byte{5, 0})), false},
		"no value":            {name(element(asn1.SEQUENCE, oidElement(oidCommonName))), false},
		"no type":             {name(element(asn1.SEQUENCE, element(asn1.UTF8String, []byte("a")))), false},
		"length not minimal":  {[]byte("\x30\x0e\x31\x0c\x30\x0a\x06\x03\x55\x04\x03\x0c\x81\x01ab"[:16]), false},
	} {
		err := checkSubject(c.subject)
		if c.ok && err != nil || !c.ok && !fault.Has(err, fault.SubjectRefused) {
			t.Errorf("%s (%d octets): %v", what, len(c.subject), err)
		}
	}
}

func slicesRepeat(b []byte, n int) [][]byte {
	var all [][]byte
	for range n {
		all = append(all, b)
	}
	return all
}

func TestMatterSubject(t *testing.T) {
	vid := func(s string) []byte { return utf8Attribute(oidMatterVID, s) }
	pid := func(s string) []byte { return utf8Attribute(oidMatterPID, s) }
	cn := func(s string) []byte { return utf8Attribute(oidCommonName, s) }
	for what, c := range map[string]struct {
		subject []byte
		ok      bool
	}{
		"attributes":           {name(cn("dac"), vid("FFF1"), pid("8001")), true},
		"common name":          {name(cn("ACME DAC 5CDA9899 Mvid:FFF1 Mpid:00B1")), true},
		"both, agreeing":       {name(cn("x Mvid:FFF1 Mpid:00B1"), vid("FFF1"), pid("00B1")), true},
		"vendor disagrees":     {name(cn("x Mvid:FFF1"), vid("FFF2")), false},
		"product disagrees":    {name(vid("FFF1"), pid("8001"), cn("Mvid:FFF1 Mpid:8002")), false},
		"lower case":           {name(vid("fff1")), false},
		"lower case product":   {name(vid("FFF1"), pid("800a")), false},
		"lower case in name":   {name(cn("x Mvid:fff1")), false},
		"three digits":         {name(vid("FFF")), false},
		"five digits":          {name(vid("0FFF1")), false},
		"three digits in name": {name(cn("Mpid:00B")), false},
		"twice in the name":    {name(cn("Mvid:FFF1 Mvid:FFF2")), false},
		"two vendor ids":       {name(vid("FFF1"), vid("FFF1")), false},
		"not hexadecimal":      {name(pid("80G1")), false},
	} {
		if _, ok := checkName(c.subject); ok != c.ok {
			t.Errorf("%s: passes %v", what, ok)
		}
	}
}

func TestSubjectAlternativeNames(t *testing.T) {
	dns := func(s string) []byte { return element(tagDNS, []byte(s)) }
	uri := func(s string) []byte { return element(tagURI, []byte(s)) }
	upn := element(tagOtherName, oidElement("\x2a\x03"),
		element(asn1.Tag(0).ContextSpecific().Constructed(), element(asn1.UTF8String, []byte("a@b"))))
	for what, c := range map[string]struct {
		names []byte
		ok    bool
	}{
		"dns":                    {dns("a-1.example.com"), true},
		"dns, one label":         {dns("localhost"), true},
		"dns, wildcard":          {dns("*.example.com"), true},
		"dns, underscore":        {dns("_device.example"), true},
		"dns, 253":               {dns(strings.Repeat("a.", 126) + "a"), true},
		"dns, 254":               {dns(strings.Repeat("a.", 126) + "ab"), false},
		"dns, label of 64":       {dns(strings.Repeat("a", 64) + ".example"), false},
		"dns, empty":             {dns(""), false},
		"dns, NUL":               {dns("a.example\x00.evil"), false},
		"dns, not ASCII":         {dns("ä.example"), false},
		"dns, space":             {dns("a b.example"), false},
		"dns, empty label":       {dns("a..example"), false},
		"dns, leading dot":       {dns(".example"), false},
		"dns, trailing dot":      {dns("a.example."), false},
		"dns, only a wildcard":   {dns("*."), false},
		"dns, wildcard inside":   {dns("a.*.example"), false},
		"dns, hyphen":            {dns("-a.example"), false},
		"dns, slash":             {dns("a/b"), false},
		"dns, constructed":       {element(tagDNS|0x20, []byte("a")), false},
		"email":                  {element(tagEmail, []byte("a@example.com")), true},
		"email, no at":           {element(tagEmail, []byte("example.com")), false},
		"email, not ASCII":       {element(tagEmail, []byte("ä@example.com")), false},
		"email, newline":         {element(tagEmail, []byte("a@b\nBcc: c@d")), false},
		"ip 4":                   {element(tagIP, make([]byte, 4)), true},
		"ip 16":                  {element(tagIP, make([]byte, 16)), true},
		"ip 5":                   {element(tagIP, make([]byte, 5)), false},
		"ip 8":                   {element(tagIP, make([]byte, 8)), false},
		"ip, empty":              {element(tagIP), false},
		"uri, urn":               {uri("urn:dev:mac:0024befffe804ff1"), true},
		"uri, https":             {uri("https://device.example:8443/x?y"), true},
		"uri, IPv6":              {uri("coaps://[2001:db8::1]/"), true},
		"uri, relative":          {uri("/device"), false},
		"uri, empty":             {uri(""), false},
		"uri, password":          {uri("https://a:b@example.com/"), false},
		"uri, space":             {uri("urn:a b"), false},
		"uri, NUL":               {uri("urn:a\x00"), false},
		"uri, odd host":          {uri("https://exa$mple/"), false},
		"uri, long":              {uri("urn:" + strings.Repeat("a", maxURI)), false},
		"directory name":         {element(tagDirectory, name(utf8Attribute(oidCommonName, "a"))), true},
		"directory name, NUL":    {element(tagDirectory, name(utf8Attribute(oidCommonName, "a\x00"))), false},
		"directory name, broken": {element(tagDirectory, []byte{5, 0}), false},
		"other name":             {upn, true},
		"other name, no type":    {element(tagOtherName, []byte{5, 0}), false},
		"other name, no value":   {element(tagOtherName, oidElement("\x2a\x03")), false},
		"other name, empty":      {element(tagOtherName, oidElement("\x2a\x03"), []byte{0xa0, 0}), false},
		"registered id":          {element(tagRegisteredID, []byte("\x2a\x03")), true},
		"registered id, empty":   {element(tagRegisteredID), false},
		"X.400":                  {element(asn1.Tag(3).ContextSpecific().Constructed(), []byte{0x30, 0}), false},
		"EDI":                    {element(asn1.Tag(5).ContextSpecific().Constructed(), []byte{0x30, 0}), false},
		"not a GeneralName":      {[]byte{5, 0}, false},
		"32 names":               {bytes.Repeat(dns("a"), MaxNames), true},
		"33 names":               {bytes.Repeat(dns("a"), MaxNames+1), false},
		"no names":               {nil, false},
	} {
		der := element(asn1.SEQUENCE, c.names)
		err := checkSAN(der)
		if c.ok && err != nil || !c.ok && !fault.Has(err, fault.ExtensionRefused) {
			t.Errorf("%s: %v", what, err)
		}
		if err := checkSAN(append(der, 0)); !fault.Has(err, fault.ExtensionRefused) {
			t.Errorf("%s with a tail: %v", what, err)
		}
	}
}

func TestRefusalsDoNotRepeatTheRequest(t *testing.T) {
	const mark = "ATTACKER"
	for _, der := range [][]byte{
		draft{subject: name(utf8Attribute(oidCommonName, mark+"/"))}.sign(t, p256Key(t)),
		draft{attributes: altNames(element(tagDNS, []byte(mark+"\x00")))}.sign(t, p256Key(t)),
		draft{attributes: attribute(oidChallengePassword, element(asn1.INTEGER, []byte(mark)))}.sign(t, p256Key(t)),
	} {
		_, err := Parse(der)
		if err == nil || strings.Contains(err.Error(), mark) {
			t.Errorf("%v", err)
		}
	}
}

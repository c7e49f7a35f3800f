package lint

import (
	"bytes"
	"encoding/asn1"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
)

// tlv returns one element with a length of up to 65535 octets.
func tlv(tag byte, content ...[]byte) []byte {
	body := bytes.Join(content, nil)
	switch n := len(body); {
	case n < 0x80:
		return append([]byte{tag, byte(n)}, body...)
	case n < 0x100:
		return append([]byte{tag, 0x81, byte(n)}, body...)
	default:
		return append([]byte{tag, 0x82, byte(n >> 8), byte(n)}, body...)
	}
}

func seq(content ...[]byte) []byte { return tlv(0x30, content...) }

func str(tag byte, s string) []byte { return tlv(tag, []byte(s)) }

func oid(s string) []byte {
	var o asn1.ObjectIdentifier
	for part := range strings.SplitSeq(s, ".") {
		n := 0
		for _, c := range part {
			n = 10*n + int(c-'0')
		}
		o = append(o, n)
	}
	der, err := asn1.Marshal(o)
	if err != nil {
		panic(err)
	}
	return der
}

// rdn returns a RelativeDistinguishedName of one attribute.
func rdn(id string, tag byte, value string) []byte { return tlv(0x31, pair(id, tag, value)) }

func pair(id string, tag byte, value string) []byte { return seq(oid(id), str(tag, value)) }

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// ext is one extension of a certificate under construction.
type ext struct {
	id       string
	critical []byte // BOOLEAN, or nothing
	value    []byte
}

var isTrue, isFalse = []byte{1, 1, 0xff}, []byte{1, 1, 0}

// parts is a certificate under construction; tests change what they want to see
// found.
type parts struct {
	version             []byte
	serial              []byte
	inner, outer        []byte
	issuer, subject     []byte
	notBefore, notAfter []byte
	spki                []byte
	uniqueIDs           []byte
	exts                []ext
	noExts              bool
	signature           []byte
	tail, behind        []byte // inside and behind the outer SEQUENCE
}

func (p *parts) der() []byte {
	var list [][]byte
	for _, e := range p.exts {
		list = append(list, seq(oid(e.id), e.critical, tlv(4, e.value)))
	}
	extensions := tlv(0xa3, seq(list...))
	if p.noExts {
		extensions = nil
	}
	tbs := seq(p.version, tlv(2, p.serial), p.inner, p.issuer, seq(p.notBefore, p.notAfter), p.subject, p.spki, p.uniqueIDs, extensions)
	return append(seq(tbs, p.outer, tlv(3, p.signature), p.tail), p.behind...)
}

// set replaces the value of an extension, or adds it.
func (p *parts) set(id string, value []byte) *ext {
	for i := range p.exts {
		if p.exts[i].id == id {
			p.exts[i].value = value
			return &p.exts[i]
		}
	}
	p.exts = append(p.exts, ext{id: id, value: value})
	return &p.exts[len(p.exts)-1]
}

func (p *parts) drop(id string) {
	p.exts = slices.DeleteFunc(p.exts, func(e ext) bool { return e.id == id })
}

func (p *parts) get(id string) *ext {
	i := slices.IndexFunc(p.exts, func(e ext) bool { return e.id == id })
	return &p.exts[i]
}

func uri(s string) []byte { return str(0x86, s) }

func point(names ...[]byte) []byte {
	return seq(seq(tlv(0xa0, tlv(0xa0, names...))))
}

const (
	printable = 0x13
	utf8Tag   = 0x0c
	ia5       = 0x16
	bmp       = 0x1e
	utcTime   = 0x17
	longTime  = 0x18
)

// A point of P-256: the generator.
const generator = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"

var ecdsaSHA256 = seq(oid("1.2.840.10045.4.3.2"))

func ecKey(curve, bits string) []byte {
	return seq(seq(oid(oidEC), oid(curve)), tlv(3, []byte{0}, unhex(bits)))
}

func rsaKey(params []byte, bits, exponent int) []byte {
	modulus := bytes.Repeat([]byte{0xff}, bits/8)
	return seq(seq(oid(oidRSA), params), tlv(3, []byte{0}, seq(tlv(2, append([]byte{0}, modulus...)), tlv(2, []byte{byte(exponent >> 16), byte(exponent >> 8), byte(exponent)}))))
}

var null = []byte{5, 0}

// leaf returns a device's certificate that nothing is to be said about.
func leaf() *parts {
	return &parts{
		version: tlv(0xa0, []byte{2, 1, 2}), serial: unhex("40112233445566778899aabbccddeeff"),
		inner: ecdsaSHA256, outer: ecdsaSHA256,
		issuer:    seq(rdn("2.5.4.10", printable, "Acme"), rdn("2.5.4.3", printable, "Issuing")),
		subject:   seq(rdn("2.5.4.3", printable, "SN-1")),
		notBefore: str(utcTime, "260901120000Z"), notAfter: str(utcTime, "270901115959Z"),
		spki: ecKey(oidP256, generator),
		exts: []ext{
			{oidKeyUsage, isTrue, unhex("03020780")},
			{oidExtendedUsage, nil, seq(oid(oidClientAuth))},
			{oidSubjectKeyID, nil, tlv(4, bytes.Repeat([]byte{1}, 20))},
			{oidAuthorityKeyID, nil, seq(tlv(0x80, bytes.Repeat([]byte{2}, 20)))},
			{oidAuthorityInfo, nil, seq(seq(oid(oidAccessOCSP), uri("http://pki.example.com/ocsp")))},
			{oidSubjectAltName, nil, seq(str(0x82, "sn1.example.com"))},
			{oidCRLPoints, nil, point(uri("http://pki.example.com/0.crl"))},
		},
		signature: append([]byte{0}, seq([]byte{2, 1, 1, 2, 1, 1})...),
	}
}

// authority returns an issuing authority's certificate that nothing is to be
// said about.
func authority() *parts {
	p := leaf()
	p.issuer = seq(rdn("2.5.4.3", printable, "Root"))
	p.subject = seq(rdn("2.5.4.3", printable, "Issuing"))
	p.drop(oidExtendedUsage)
	p.drop(oidSubjectAltName)
	p.get(oidKeyUsage).value = unhex("03020106")
	p.exts = append(p.exts, ext{oidBasicConstraints, isTrue, seq(isTrue, []byte{2, 1, 0})})
	return p
}

// responder returns an OCSP responder's certificate that nothing is to be said
// about.
func responder() *parts {
	p := leaf()
	p.get(oidExtendedUsage).value = seq(oid(oidOCSPSigning))
	p.set(oidNoCheck, null)
	return p
}

func TestGoodCertificatesHaveNoFindings(t *testing.T) {
	for name, p := range map[string]*parts{"leaf": leaf(), "authority": authority(), "responder": responder()} {
		for _, f := range Certificate(p.der()) {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

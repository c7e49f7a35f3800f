package chain_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/chain"
)

// trial is one leaf to be judged.
type trial struct {
	name          string
	leaf          entity
	anchors       []entity
	intermediates []entity
	change        func(*chain.Options)
	want          fault.Code // 0: accepted
	length        int        // certificates of the path, if accepted and not 0
	// openssl says where OpenSSL differs, and why; empty: it must agree.
	openssl string
}

func (c *trial) options() chain.Options {
	o := chain.Options{Anchors: pool(c.anchors...), Intermediates: pool(c.intermediates...), At: now}
	if c.change != nil {
		c.change(&o)
	}
	return o
}

func (c *trial) run(t *testing.T) {
	t.Helper()
	p, err := chain.Verify(t.Context(), c.leaf.Certificate, c.options())
	check(t, p, err, c.want)
	if c.want == 0 && c.length != 0 && p != nil && len(p.Certificates) != c.length {
		t.Errorf("the path has %d certificates, want %d", len(p.Certificates), c.length)
	}
}

func check(t *testing.T, p *chain.Path, err error, want fault.Code) {
	t.Helper()
	switch {
	case want == 0 && err != nil:
		t.Errorf("refused: %v", err)
	case want != 0 && err == nil:
		t.Errorf("accepted, want %v (%s)", want, fault.Lookup(want).Message)
	case want != 0 && !fault.Has(err, want):
		t.Errorf("got %v, want %v (%s)", err, want, fault.Lookup(want).Message)
	}
	if (p == nil) != (err != nil) {
		t.Errorf("path %v with error %v", p, err)
	}
}

func at(when time.Time) func(*chain.Options) { return func(o *chain.Options) { o.At = when } }
func purpose(u chain.Usage) func(*chain.Options) {
	return func(o *chain.Options) { o.Usage = u }
}
func host(h string) func(*chain.Options) { return func(o *chain.Options) { o.Host = h } }

func TestVerify(t *testing.T) {
	for _, c := range trials(t) {
		t.Run(c.name, c.run)
	}
}

// trials breaks one rule at a time.
func trials(t testing.TB) []trial {
	r := root(t, "Root", p256(t))
	i := r.ca(t, "Issuing")
	l := i.leaf(t, "device")
	ts := []trial{
		{name: "a plain path", leaf: l, anchors: []entity{r}, intermediates: []entity{i}, length: 3},
		{name: "an intermediate as anchor", leaf: l, anchors: []entity{i}, length: 2, openssl: "wants -partial_chain"},
		{name: "no intermediate", leaf: l, anchors: []entity{r}, want: fault.ChainUntrusted},
		{name: "no anchor", leaf: l, intermediates: []entity{i, r}, want: fault.ChainUntrusted},
		{name: "the anchor itself", leaf: r, anchors: []entity{r}, length: 1},
		{name: "the anchor also among the intermediates", leaf: l, anchors: []entity{r}, intermediates: []entity{r, i}, length: 3},
		{name: "another root of the same name", leaf: l, anchors: []entity{root(t, "Root", p256(t))}, intermediates: []entity{i}, want: fault.ChainUntrusted},
		{name: "another root of the same name beside the right one", leaf: l, anchors: []entity{root(t, "Root", p256(t)), r}, intermediates: []entity{i}},
	}
	ts = append(ts, signatureTrials(t, r)...)
	ts = append(ts, validityTrials(t, r)...)
	ts = append(ts, authorityTrials(t, r)...)
	ts = append(ts, usageTrials(t, r)...)
	ts = append(ts, extensionTrials(t, r)...)
	ts = append(ts, formTrials(t, r)...)
	ts = append(ts, hostTrials(t, r)...)
	ts = append(ts, rolloverTrials(t)...)
	ts = append(ts, nameTrials(t, r)...)
	return append(ts, policyTrials(t, r)...)
}

func signatureTrials(t testing.TB, r entity) []trial {
	i := r.ca(t, "Issuing")
	l := i.leaf(t, "device")
	flipped := append([]byte(nil), l.Raw...)
	flipped[len(flipped)-1] ^= 1
	altered := append([]byte(nil), i.Raw...)
	altered[len(altered)-1] ^= 1
	large := ecdsaRoot(t, elliptic.P384())
	huge := ecdsaRoot(t, elliptic.P521())
	weakCurve := ecdsaRoot(t, elliptic.P224())
	weak := root(t, "Short RSA", rsa1024())
	long := root(t, "RSA", rsa2048())
	edRoot := root(t, "Ed25519", ed(t))
	sha1leaf := i.forge(t, l, func(b *body) { b.Algorithm.Algorithm = ecdsaWithSHA1 })
	weakLeaf := certify(t, &i, rsa1024(), base("short key"))
	none := certify(t, &r, p256(t), asCA("None"), noIdentifiers)
	noneLeaf := certify(t, &none, p256(t), base("device"), noIdentifiers)
	odd := func(name string, n *big.Int, e int) trial {
		signer := entity{asCA(name), rsa2048()}
		raw, err := x509.CreateCertificate(rand.Reader, asCA(name), r.Certificate, &rsa.PublicKey{N: n, E: e}, r.key)
		if err != nil {
			t.Fatal(err)
		}
		return trial{
			name: name, leaf: signer.leaf(t, "device"), anchors: []entity{r}, intermediates: []entity{{Certificate: parse(t, raw)}},
			want: fault.ChainWeak, openssl: "sees a wrong signature",
		}
	}
	modulus := rsa2048().Public().(*rsa.PublicKey).N
	long8k := new(big.Int).Add(new(big.Int).Lsh(modulus, 8200-2048), big.NewInt(1))
	dsaCA := r.forge(t, i, func(b *body) { b.SPKI.FullBytes = dsaKey(t) })
	p224 := certify(t, &i, weakCurve.key, base("P-224 leaf"))
	return []trial{
		odd("an RSA key with exponent 3", modulus, 3), odd("an RSA key of 8,200 bits", long8k, 65537),
		{name: "a DSA leaf", leaf: i.forge(t, l, func(b *body) { b.SPKI.FullBytes = dsaKey(t) }), anchors: []entity{r}, intermediates: []entity{i}, want: fault.ChainWeak, openssl: "does not look at the key of a leaf"},
		{name: "a DSA issuer", leaf: l, anchors: []entity{r}, intermediates: []entity{dsaCA}, want: fault.ChainWeak},
		{name: "a P-224 leaf", leaf: p224, anchors: []entity{r}, intermediates: []entity{i}, want: fault.ChainWeak, openssl: "accepts P-224"},
		{name: "a changed leaf", leaf: entity{parse(t, flipped), l.key}, anchors: []entity{r}, intermediates: []entity{i}, want: fault.ChainSignature},
		{name: "a changed intermediate", leaf: l, anchors: []entity{r}, intermediates: []entity{{parse(t, altered), i.key}}, want: fault.ChainSignature},
		{name: "P-384", leaf: large.leaf(t, "device"), anchors: []entity{large}},
		{name: "P-521", leaf: huge.leaf(t, "device"), anchors: []entity{huge}},
		{name: "RSA", leaf: long.leaf(t, "device"), anchors: []entity{long}},
		{name: "Ed25519", leaf: edRoot.leaf(t, "device"), anchors: []entity{edRoot}},
		{name: "P-224", leaf: weakCurve.leaf(t, "device"), anchors: []entity{weakCurve}, want: fault.ChainWeak, openssl: "accepts P-224"},
		{name: "RSA of 1024 bits", leaf: weak.leaf(t, "device"), anchors: []entity{weak}, want: fault.ChainWeak, openssl: "has no limit at -auth_level 0"},
		{name: "RSA of 1024 bits allowed", leaf: weak.leaf(t, "device"), anchors: []entity{weak}, change: func(o *chain.Options) { o.MinRSABits = 1024 }},
		{name: "a leaf with 1024 bits", leaf: weakLeaf, anchors: []entity{r}, intermediates: []entity{i}, want: fault.ChainWeak, openssl: "has no limit at -auth_level 0"},
		{name: "SHA-1", leaf: sha1leaf, anchors: []entity{r}, intermediates: []entity{i}, want: fault.ChainWeak, openssl: "has no limit at -auth_level 0"},
		{name: "without key identifiers", leaf: noneLeaf, anchors: []entity{r}, intermediates: []entity{none}},
		{name: "signed by another of the same name, without identifiers", leaf: noneLeaf, anchors: []entity{r}, intermediates: []entity{r.ca(t, "None", noIdentifiers)}, want: fault.ChainSignature},
	}
}

// dsaKey is a SubjectPublicKeyInfo that a parser takes and nobody should use.
func dsaKey(t testing.TB) []byte {
	seven := []byte{2, 1, 7}
	return tlv(0x30, tlv(0x30, der(t, asn1.ObjectIdentifier{1, 2, 840, 10040, 4, 1}), tlv(0x30, seven, seven, seven)), tlv(3, []byte{0}, seven))
}

func ecdsaRoot(t testing.TB, c elliptic.Curve) entity {
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return root(t, c.Params().Name, k)
}

func validityTrials(t testing.TB, r entity) []trial {
	from, to := now.AddDate(0, -1, 0), now.AddDate(0, 1, 0)
	i := r.ca(t, "Issuing")
	l := i.leaf(t, "device", valid(from, to))
	forever := i.leaf(t, "forever", valid(from, time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)))
	old := r.ca(t, "Old", valid(now.AddDate(-2, 0, 0), now.AddDate(0, 0, -1)))
	oldRoot := root(t, "Old root", p256(t), valid(now.AddDate(-2, 0, 0), now.AddDate(0, 0, -1)))
	young := r.ca(t, "Young", valid(now.AddDate(0, 0, 1), now.AddDate(1, 0, 0)))
	grace := func(d time.Duration, when time.Time) func(*chain.Options) {
		return func(o *chain.Options) { o.AcceptExpired, o.At = d, when }
	}
	one := func(name string, leaf entity, change func(*chain.Options), want fault.Code, mids ...entity) trial {
		return trial{name: name, leaf: leaf, anchors: []entity{r}, intermediates: append(mids, i), change: change, want: want}
	}
	expiredRoot := one("an expired root", oldRoot.leaf(t, "x"), nil, fault.ChainExpired)
	expiredRoot.anchors = []entity{oldRoot}
	inGrace := one("expired within the grace", l, grace(48*time.Hour, to.Add(47*time.Hour)), 0)
	inGrace.openssl = "has no grace"
	last, within := one("at notAfter", l, at(to), 0), one("within the last second", l, at(to.Add(999*time.Millisecond)), 0)
	last.openssl, within.openssl = "ends a second earlier", "ends a second earlier"
	return []trial{
		one("at notBefore", l, at(from), 0),
		one("a second before notBefore", l, at(from.Add(-time.Second)), fault.ChainNotYetValid),
		last, within,
		one("a second after notAfter", l, at(to.Add(time.Second)), fault.ChainExpired),
		inGrace,
		one("expired beyond the grace", l, grace(48*time.Hour, to.Add(48*time.Hour+time.Second)), fault.ChainExpired),
		one("without expiry", forever, nil, 0),
		one("an expired issuer", old.leaf(t, "x"), nil, fault.ChainExpired, old),
		one("the grace is not for issuers", old.leaf(t, "x"), grace(1000*time.Hour, now), fault.ChainExpired, old),
		one("an issuer not valid yet", young.leaf(t, "x"), nil, fault.ChainNotYetValid, young),
		expiredRoot,
	}
}

func authorityTrials(t testing.TB, r entity) []trial {
	i := r.ca(t, "Issuing")
	device := i.leaf(t, "device")
	unsigned := certify(t, &r, p256(t), base("No basic constraints"), usage(x509.KeyUsageCertSign))
	noBC := r.forge(t, r.ca(t, "No BC"), func(b *body) { dropExtension(b, 19); dropExtension(b, 15) })
	noUsage := r.ca(t, "No certSign", usage(x509.KeyUsageCRLSign))
	unrestricted := r.ca(t, "No keyUsage", usage(0))
	zero := r.ca(t, "Zero", pathLen(0))
	belowZero := zero.ca(t, "Below zero")
	leafRoot := certify(t, nil, p256(t), base("Leaf anchor"), notCA)
	v1 := root(t, "V1", p256(t))
	v1 = v1.forge(t, v1, func(b *body) { b.Version, b.Extensions = 0, nil })
	sixth, six := ladder(t, r, 4)
	seventh, seven := ladder(t, r, 5)
	one := func(name string, leaf entity, want fault.Code, mids ...entity) trial {
		return trial{name: name, leaf: leaf, anchors: []entity{r}, intermediates: mids, want: want}
	}
	trusted := func(name string, anchor, leaf entity, want fault.Code, openssl string) trial {
		return trial{name: name, leaf: leaf, anchors: []entity{anchor}, want: want, openssl: openssl}
	}
	tooLong := one("a path of seven", seventh, fault.ChainLimit, seven...)
	tooLong.openssl = "counts otherwise"
	wide := one("a path of seven when allowed", seventh, 0, seven...)
	wide.change = func(o *chain.Options) { o.MaxChain = 7 }
	certSignLeaf := one("keyCertSign without CA in the leaf", certify(t, &i, p256(t), base("odd"), usage(x509.KeyUsageCertSign)), fault.CertificateInvalid, i)
	certSignLeaf.openssl = "is lenient without -x509_strict"
	return []trial{
		one("issued by a device", device.leaf(t, "x"), fault.ChainNotCA, device, i),
		one("issued without basicConstraints", noBC.leaf(t, "x"), fault.ChainNotCA, noBC),
		one("keyCertSign without CA in the issuer", unsigned.leaf(t, "x"), fault.CertificateInvalid, unsigned),
		one("issued without keyCertSign", noUsage.leaf(t, "x"), fault.ChainNotCA, noUsage),
		one("issued without keyUsage", unrestricted.leaf(t, "x"), 0, unrestricted),
		one("path length 0 kept", zero.leaf(t, "x"), 0, zero),
		one("path length 0 broken", belowZero.leaf(t, "x"), fault.ChainPathLength, belowZero, zero),
		one("path length 0 and a CA at the end", belowZero, 0, zero),
		one("a path of six", sixth, 0, six...),
		tooLong, wide, certSignLeaf,
		trusted("a device as anchor of itself", leafRoot, leafRoot, 0, ""),
		trusted("a device as anchor of another", leafRoot, leafRoot.leaf(t, "x"), fault.ChainNotCA, ""),
		trusted("a non-CA certificate below as anchor", device, device.leaf(t, "x"), fault.ChainNotCA, ""),
		trusted("the same name as a device anchor, other key", leafRoot, root(t, "Leaf anchor", p256(t)), fault.ChainUntrusted, ""),
		trusted("the same name and key as a device anchor, other certificate", leafRoot, certify(t, nil, leafRoot.key, base("Leaf anchor"), notCA), fault.ChainNotCA, ""),
		trusted("a version 1 root", v1, v1.leaf(t, "x", noIdentifiers), fault.ChainNotCA, "takes version 1 roots"),
	}
}

// ladder makes n authorities below r, each under the one before, and a leaf.
func ladder(t testing.TB, r entity, n int) (leaf entity, mids []entity) {
	by := r
	for k := range n {
		by = by.ca(t, fmt.Sprintf("Step %d", k))
		mids = append(mids, by)
	}
	return by.leaf(t, "device"), mids
}

func dropExtension(b *body, arc int) {
	kept := b.Extensions[:0:0]
	for _, e := range b.Extensions {
		if !e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, arc}) {
			kept = append(kept, e)
		}
	}
	b.Extensions = kept
}

func usageTrials(t testing.TB, r entity) []trial {
	const client, server, any = x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageAny
	i := r.ca(t, "Issuing")
	forServers := r.ca(t, "For servers", eku(server))
	forBoth := r.ca(t, "For both", eku(server, client))
	forAny := r.ca(t, "For any", eku(any))
	clientRoot := root(t, "For clients", p256(t), eku(client))
	one := func(name string, leaf entity, u chain.Usage, want fault.Code, mids ...entity) trial {
		return trial{name: name, leaf: leaf, anchors: []entity{r}, intermediates: mids, change: purpose(u), want: want}
	}
	under := func(name string, u chain.Usage, want fault.Code) trial {
		c := one(name, clientRoot.leaf(t, "x"), u, want)
		c.anchors = []entity{clientRoot}
		return c
	}
	ocsp := one("an OCSP responder that is not named so", i.leaf(t, "x"), chain.UsageOCSP, fault.ChainUsage, i)
	anyOCSP := one("any usage is not OCSP signing", i.leaf(t, "x", eku(any)), chain.UsageOCSP, fault.ChainUsage, i)
	anyClient := one("any usage for clients", i.leaf(t, "x", eku(any)), chain.UsageClient, 0, i)
	ocsp.openssl, anyOCSP.openssl = "does not ask in -purpose", "does not ask in -purpose"
	anyIssuer := one("an authority for any usage", forAny.leaf(t, "x", eku(client)), chain.UsageClient, 0, forAny)
	anyClient.openssl, anyIssuer.openssl = "knows no anyExtendedKeyUsage in -purpose", "knows no anyExtendedKeyUsage in -purpose"
	agreement := one("a client that may only agree on keys", i.leaf(t, "x", usage(x509.KeyUsageKeyAgreement)), chain.UsageClient, 0, i)
	empty := one("an empty extKeyUsage", i.leaf(t, "x", ext(asn1.ObjectIdentifier{2, 5, 29, 37}, false, tlv(0x30))), chain.UsageClient, fault.CertificateInvalid, i)
	noBits := one("a keyUsage without bits", i.leaf(t, "x", usage(0), ext(asn1.ObjectIdentifier{2, 5, 29, 15}, true, []byte{3, 1, 0})), chain.UsageClient, fault.ChainUsage, i)
	return []trial{
		one("no extKeyUsage", i.leaf(t, "x"), chain.UsageClient, 0, i),
		one("client for client", i.leaf(t, "x", eku(client)), chain.UsageClient, 0, i),
		one("server for client", i.leaf(t, "x", eku(server)), chain.UsageClient, fault.ChainUsage, i),
		one("client for server", i.leaf(t, "x", eku(client)), chain.UsageServer, fault.ChainUsage, i),
		one("client for any", i.leaf(t, "x", eku(client)), chain.UsageAny, 0, i),
		one("an unknown usage for client", i.leaf(t, "x", ext(asn1.ObjectIdentifier{2, 5, 29, 37}, false, der(t, []asn1.ObjectIdentifier{{1, 2, 3, 4}}))), chain.UsageClient, fault.ChainUsage, i),
		one("an authority for servers", forServers.leaf(t, "x", eku(client)), chain.UsageClient, fault.ChainUsage, forServers),
		one("an authority for servers, leaf without", forServers.leaf(t, "x"), chain.UsageClient, fault.ChainUsage, forServers),
		one("an authority for both", forBoth.leaf(t, "x", eku(client)), chain.UsageClient, 0, forBoth),
		under("a root for clients", chain.UsageClient, 0),
		under("a root for clients and a server", chain.UsageServer, fault.ChainUsage),
		one("a client that may not sign", i.leaf(t, "x", usage(x509.KeyUsageKeyEncipherment)), chain.UsageClient, fault.ChainUsage, i),
		one("a server that only decrypts", i.leaf(t, "x", usage(x509.KeyUsageKeyEncipherment)), chain.UsageServer, 0, i),
		one("an OCSP responder", i.leaf(t, "x", eku(x509.ExtKeyUsageOCSPSigning)), chain.UsageOCSP, 0, i),
		one("a usage nobody knows", i.leaf(t, "x"), "teapot", fault.ChainUsage, i),
		ocsp, anyOCSP, anyClient, anyIssuer, agreement, empty, noBits,
	}
}

var private = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}

func extensionTrials(t testing.TB, r entity) []trial {
	i := r.ca(t, "Issuing")
	odd := r.ca(t, "Odd", ext(private, true, []byte{5, 0}))
	oddRoot := root(t, "Odd root", p256(t), ext(private, true, []byte{5, 0}))
	hardware := tlv(0x30, tlv(0xa0, der(t, asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 4}), tlv(0xa0, tlv(0x30, der(t, private), tlv(0x04, []byte("SN1"))))))
	one := func(name string, leaf entity, want fault.Code, mids ...entity) trial {
		return trial{name: name, leaf: leaf, anchors: []entity{r, oddRoot}, intermediates: mids, want: want}
	}
	anchor := one("unknown critical in the anchor", oddRoot.leaf(t, "x"), fault.ChainCritical)
	anchor.openssl = "does not look at the extensions of roots"
	bcJunk := one("leftovers in basicConstraints", r.ca(t, "x", func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid = false, false
	}, ext(asn1.ObjectIdentifier{2, 5, 29, 19}, true, tlv(0x30, []byte{1, 1, 0xff}, []byte{5, 0}))), fault.CertificateInvalid)
	sanJunk := one("an empty subjectAltName", i.leaf(t, "x", ext(asn1.ObjectIdentifier{2, 5, 29, 17}, false, tlv(0x30))), fault.CertificateInvalid, i)
	sanJunk.openssl = "is lenient without -x509_strict"
	return []trial{
		one("unknown but not critical", i.leaf(t, "x", ext(private, false, []byte{5, 0})), 0, i),
		one("unknown and critical", i.leaf(t, "x", ext(private, true, []byte{5, 0})), fault.ChainCritical, i),
		one("unknown and critical in an issuer", odd.leaf(t, "x"), fault.ChainCritical, odd),
		one("critical hardwareModuleName", i.leaf(t, "x", ext(asn1.ObjectIdentifier{2, 5, 29, 17}, true, hardware)), 0, i),
		anchor, bcJunk, sanJunk,
	}
}

func formTrials(t testing.TB, r entity) []trial {
	i := r.ca(t, "Issuing")
	l := i.leaf(t, "device")
	change := func(name string, c func(*body), want fault.Code) trial {
		return trial{
			name: name, leaf: i.forge(t, l, c), anchors: []entity{r}, intermediates: []entity{i},
			want: want, openssl: "is lenient without -x509_strict",
		}
	}
	number := func(b ...byte) func(*body) {
		return func(c *body) { c.Serial = asn1.RawValue{FullBytes: tlv(2, b)} }
	}
	long := make([]byte, 21)
	long[0] = 1
	v1 := change("version 1", func(b *body) { b.Version, b.Extensions = 0, nil }, 0)
	v1.openssl = ""
	twenty := change("a serial number of 20 bytes", number(long[:20]...), 0)
	twenty.openssl = ""
	badRoot := root(t, "Serial zero", p256(t))
	badRoot = badRoot.forge(t, badRoot, number(0))
	nameless := root(t, "", p256(t))
	bySomeone := trial{name: "an issuer without name", leaf: nameless.leaf(t, "x"), anchors: []entity{nameless}, want: fault.CertificateInvalid, openssl: "is lenient without -x509_strict"}
	sub := i.ca(t, "Sub", dns("a.test"))
	critical := func(b *body) {
		b.Subject = asn1.RawValue{FullBytes: tlv(0x30)}
		for k := range b.Extensions {
			b.Extensions[k].Critical = b.Extensions[k].Critical || b.Extensions[k].Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17})
		}
	}
	device := i.leaf(t, "device", dns("a.test"))
	forged := func(name string, c entity, change func(*body), want fault.Code) trial {
		return trial{name: name, leaf: i.forge(t, c, change), anchors: []entity{r}, intermediates: []entity{i}, want: want, openssl: "is lenient without -x509_strict"}
	}
	anchor := trial{name: "an anchor with serial number 0", leaf: badRoot.leaf(t, "x"), anchors: []entity{badRoot}}
	return []trial{
		v1, twenty, anchor, bySomeone,
		forged("a CA without name", sub, critical, fault.CertificateInvalid),
		forged("a device with critical alternative names only", device, critical, 0),
		forged("a device with alternative names only", device, func(b *body) { b.Subject = asn1.RawValue{FullBytes: tlv(0x30)} }, fault.CertificateInvalid),
		forged("unique identifiers in version 1", device, func(b *body) {
			b.Version, b.Extensions = 0, nil
			b.SPKI.FullBytes = append(append([]byte(nil), b.SPKI.FullBytes...), tlv(0x81, []byte{0, 1})...)
		}, fault.CertificateInvalid),
		change("serial number 0", number(0), fault.CertificateInvalid),
		change("a serial number of 21 bytes", number(long...), fault.CertificateInvalid),
		change("extensions in version 1", func(b *body) { b.Version = 0 }, fault.CertificateInvalid),
		change("extensions in version 2", func(b *body) { b.Version = 1 }, fault.CertificateInvalid),
		change("no names at all", func(b *body) { b.Subject = asn1.RawValue{FullBytes: tlv(0x30)} }, fault.CertificateInvalid),
		change("leftovers after the extensions", func(b *body) {
			b.SPKI.FullBytes = append(append([]byte(nil), b.SPKI.FullBytes...), tlv(0xa1, []byte{5, 0})...)
		}, fault.CertificateInvalid),
	}
}

func hostTrials(t testing.TB, r entity) []trial {
	l := r.leaf(t, "cn.example.com", dns("a.example.com", "*.b.example.com"), ips("192.0.2.1", "2001:db8::1"))
	one := func(h string, want fault.Code) trial {
		return trial{name: "host " + h, leaf: l, anchors: []entity{r}, change: host(h), want: want}
	}
	return []trial{
		one("a.example.com", 0),
		one("A.EXAMPLE.com", 0),
		one("b.example.com", fault.ChainHost),
		one("x.b.example.com", 0),
		one("x.y.b.example.com", fault.ChainHost),
		one("cn.example.com", fault.ChainHost),
		one("192.0.2.1", 0),
		one("[2001:db8::1]", 0),
		one("192.0.2.2", fault.ChainHost),
	}
}

func rolloverTrials(t testing.TB) []trial {
	oldKey, newKey := p256(t), p256(t)
	oldRoot, newRoot := root(t, "Root", oldKey), root(t, "Root", newKey)
	oldWithNew := certify(t, &newRoot, oldKey, asCA("Root"))
	newWithOld := certify(t, &oldRoot, newKey, asCA("Root"))
	oldIssuing, newIssuing := oldRoot.ca(t, "Old issuing"), newRoot.ca(t, "New issuing")
	oldLeaf, newLeaf := oldIssuing.leaf(t, "old"), newIssuing.leaf(t, "new")
	mids := []entity{oldIssuing, newIssuing, oldWithNew, newWithOld}

	a, b := root(t, "A", p256(t)), root(t, "B", p256(t))
	shared := p256(t)
	underA, underB := certify(t, &a, shared, asCA("Shared")), certify(t, &b, shared, asCA("Shared"))
	stale := certify(t, &a, shared, asCA("Shared"), valid(now.AddDate(-2, 0, 0), now.AddDate(-1, 0, 0)))
	leaf := underA.leaf(t, "device")

	strict := root(t, "Strict", p256(t), pathLen(1))
	first := strict.ca(t, "Rolling")
	second := certify(t, &first, p256(t), asCA("Rolling")) // self-issued, not counted
	below := second.leaf(t, "device")
	const oneTry = "does not try a second issuer"
	const noIdentifier = "takes self-issued without identifiers for self-signed"
	return []trial{
		{name: "old leaf, new root", leaf: oldLeaf, anchors: []entity{newRoot}, intermediates: mids, length: 4, openssl: noIdentifier},
		{name: "new leaf, old root", leaf: newLeaf, anchors: []entity{oldRoot}, intermediates: mids, length: 4, openssl: noIdentifier},
		{name: "new leaf, both roots", leaf: newLeaf, anchors: []entity{oldRoot, newRoot}, intermediates: mids, length: 3},
		{name: "cross-signed, first root", leaf: leaf, anchors: []entity{a}, intermediates: []entity{underB, underA}, openssl: oneTry},
		{name: "cross-signed, second root", leaf: leaf, anchors: []entity{b}, intermediates: []entity{underA, underB}, openssl: oneTry},
		{name: "the first path is expired", leaf: leaf, anchors: []entity{a, b}, intermediates: []entity{stale, underB}},
		{name: "only the expired path", leaf: leaf, anchors: []entity{a}, intermediates: []entity{stale, underB}, want: fault.ChainExpired},
		{name: "self-issued does not count", leaf: below, anchors: []entity{strict}, intermediates: []entity{first, second}, openssl: noIdentifier},
	}
}

func nameTrials(t testing.TB, r entity) []trial {
	ipNet := func(s string) *net.IPNet {
		_, n, err := net.ParseCIDR(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	permit := r.ca(t, "Permit", func(c *x509.Certificate) {
		c.PermittedDNSDomainsCritical = true
		c.PermittedDNSDomains = []string{"example.com", ".sub.test"}
		c.PermittedIPRanges = []*net.IPNet{ipNet("192.0.2.0/24"), ipNet("2001:db8::/32")}
		c.PermittedEmailAddresses = []string{"example.com", ".mail.test", "Joe@one.test"}
		c.PermittedURIDomains = []string{"example.com", ".uri.test"}
	})
	exclude := r.ca(t, "Exclude", func(c *x509.Certificate) {
		c.PermittedDNSDomainsCritical = true
		c.ExcludedDNSDomains = []string{"example.com", "host.wild.test"}
		c.ExcludedIPRanges = []*net.IPNet{ipNet("192.0.2.0/24")}
		c.ExcludedEmailAddresses = []string{"example.com", ".mail.test", "Joe@one.test"}
		c.ExcludedURIDomains = []string{"example.com", ".uri.test"}
	})
	var ts []trial
	add := func(by entity, name string, o option, want fault.Code, openssl string) {
		ts = append(ts, trial{
			name: "names: " + by.Subject.CommonName + " " + name, leaf: by.leaf(t, "x", o), anchors: []entity{r},
			intermediates: []entity{by}, want: want, openssl: openssl,
		})
	}
	both := func(name string, o option, within bool, openssl ...string) {
		in, out := fault.Code(0), fault.ChainName
		if !within {
			in, out = out, in
		}
		why := ""
		if len(openssl) > 0 {
			why = openssl[0]
		}
		add(permit, name, o, in, why)
		add(exclude, name, o, out, why)
	}
	both("dns equal", dns("Example.com"), true)
	both("dns below", dns("a.b.example.com"), true)
	both("dns beside", dns("badexample.com"), false)
	both("wildcard below", dns("*.example.com"), true)
	both("ip within", ips("192.0.2.77"), true)
	both("ip beside", ips("192.0.3.1"), false)
	both("mail at host", emails("any@EXAMPLE.com"), true)
	both("mail below host", emails("any@sub.example.com"), false)
	both("mail below period", emails("any@x.mail.test"), true)
	both("mail at period", emails("any@mail.test"), false)
	both("mailbox", emails("Joe@one.test"), true)
	both("mailbox of other case", emails("joe@one.test"), false)
	both("uri host", uris("https://user@example.com:8443/x"), true, "knows no user information in URIs")
	both("uri host alone", uris("https://example.com/x"), true)
	both("uri below host", uris("https://a.example.com/"), false)
	both("uri below period", uris("urn://a.uri.test/x"), true)
	for _, by := range []entity{permit, exclude} {
		add(by, "uri without host", uris("urn:uuid:1234"), fault.ChainName, "")
		add(by, "uri with an address", uris("https://192.0.2.1/"), fault.ChainName, "compares addresses as text")
		add(by, "quoted mailbox", emails(`"Joe"@one.test`), fault.ChainName, "compares as text")
	}
	add(permit, "dns at the period", dns("sub.test"), fault.ChainName, "")
	add(permit, "dns below the period", dns("a.sub.test"), 0, "")
	add(permit, "ipv6", ips("2001:db8::5"), 0, "")
	add(permit, "ipv6 beside", ips("2001:db9::5"), fault.ChainName, "")
	add(permit, "one of two", dns("example.com", "example.org"), fault.ChainName, "")
	add(permit, "no names", func(*x509.Certificate) {}, 0, "")
	add(exclude, "a wildcard over an excluded host", dns("*.wild.test"), fault.ChainName, "does not expand wildcards")
	add(exclude, "a deeper name beside the excluded host", dns("other.wild.test"), 0, "")
	email := subject(pkix.Name{CommonName: "x", ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}, Value: asn1.RawValue{Tag: asn1.TagIA5String, Bytes: []byte("any@example.com")}}}})
	add(permit, "mail in the subject", email, 0, "")
	add(exclude, "mail in the subject", email, fault.ChainName, "")
	return append(ts, directoryTrials(t, r)...)
}

// constrain makes a nameConstraints extension of raw GeneralNames.
func constrain(critical bool, permitted, excluded [][]byte) option {
	part := func(tag byte, names [][]byte) []byte {
		if names == nil {
			return nil
		}
		var list [][]byte
		for _, n := range names {
			list = append(list, tlv(0x30, n))
		}
		return tlv(tag, list...)
	}
	return ext(asn1.ObjectIdentifier{2, 5, 29, 30}, critical, tlv(0x30, part(0xa0, permitted), part(0xa1, excluded)))
}

func directoryTrials(t testing.TB, r entity) []trial {
	acme := pkix.Name{Organization: []string{"Acme"}}
	dn := func(n pkix.Name) []byte { return tlv(0xa4, der(t, n.ToRDNSequence())) }
	permit := r.ca(t, "Permit DN", constrain(true, [][]byte{dn(acme)}, nil))
	exclude := r.ca(t, "Exclude DN", constrain(true, nil, [][]byte{dn(acme)}))
	member := pkix.Name{Organization: []string{"Acme"}, CommonName: "x"}
	shouting := pkix.Name{Organization: []string{" ACME  "}, CommonName: "x"}
	other := pkix.Name{Organization: []string{"Acme Two"}, CommonName: "x"}
	altName := ext(asn1.ObjectIdentifier{2, 5, 29, 17}, false, tlv(0x30, dn(member)))
	otherName := tlv(0xa0, der(t, private), tlv(0xa0, []byte{5, 0}))
	hardware := r.ca(t, "Foreign", constrain(true, nil, [][]byte{otherName}))
	relaxed := r.ca(t, "Foreign, not critical", constrain(false, nil, [][]byte{otherName}))
	twice := permit.ca(t, "Narrow", subject(pkix.Name{Organization: []string{"Acme"}, CommonName: "Narrow"}),
		func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"example.com"} })
	outside := permit.ca(t, "Outside")
	one := func(name string, by entity, o option, want fault.Code) trial {
		return trial{name: "names: " + name, leaf: by.leaf(t, "x", o), anchors: []entity{r}, intermediates: []entity{by, permit}, want: want}
	}
	relaxedBad := one("an uncomparable name, constrained without critical", relaxed, ext(asn1.ObjectIdentifier{2, 5, 29, 17}, false, tlv(0x30, otherName)), fault.ChainName)
	relaxedBad.openssl = "compares other names"
	foreign := one("an uncomparable kind, critical", hardware, dns("example.com"), fault.ChainCritical)
	foreign.openssl = "looks at the names below only"
	nothing := func(*x509.Certificate) {}
	narrow := r.ca(t, "Rolling", func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"example.com"} })
	next := narrow.ca(t, "Rolling", dns("other.test"))
	rolled := one("a self-issued authority outside", next, dns("example.com"), 0)
	rolled.intermediates = []entity{narrow, next}
	rolled.openssl = "takes self-issued without identifiers for self-signed"
	itself := one("a self-issued leaf outside", narrow, all(named("Rolling"), dns("other.test")), fault.ChainName)
	inLeaf := one("in a certificate that is no CA", permit, all(subject(member), func(c *x509.Certificate) {
		c.PermittedDNSDomains = []string{"example.com"}
	}), fault.CertificateInvalid)
	inLeaf.openssl = "is lenient without -x509_strict"
	minimum := r.ca(t, "Minimum", ext(asn1.ObjectIdentifier{2, 5, 29, 30}, true, tlv(0x30, tlv(0xa1, tlv(0x30, tlv(0x82, []byte("a.test")), tlv(0x80, []byte{1}))))))
	withMinimum := one("a minimum distance", minimum, dns("b.test"), fault.ChainCritical)
	return []trial{
		one("subject within", permit, subject(member), 0),
		one("subject within but for case and spaces", permit, subject(shouting), 0),
		one("subject beside", permit, subject(other), fault.ChainName),
		one("subject excluded", exclude, subject(member), fault.ChainName),
		one("subject excluded but for case and spaces", exclude, subject(shouting), fault.ChainName),
		one("subject not excluded", exclude, subject(other), 0),
		one("alternative name excluded", exclude, altName, fault.ChainName),
		one("both constraints kept", twice, all(subject(member), dns("a.example.com")), 0),
		one("the upper constraint broken", twice, all(subject(other), dns("a.example.com")), fault.ChainName),
		one("the lower constraint broken", twice, all(subject(member), dns("example.org")), fault.ChainName),
		one("an authority outside", outside, subject(member), fault.ChainName),
		one("an uncomparable kind, not critical", relaxed, nothing, 0),
		foreign, relaxedBad, inLeaf, withMinimum, rolled, itself,
	}
}

func policyTrials(t testing.TB, r entity) []trial {
	p := func(ids ...string) option {
		return func(c *x509.Certificate) {
			for _, id := range ids {
				o, err := x509.ParseOID(id)
				if err != nil {
					t.Fatal(err)
				}
				c.Policies = append(c.Policies, o)
			}
		}
	}
	const one, two, any = "1.2.3.1", "1.2.3.2", "2.5.29.32.0"
	require := ext(asn1.ObjectIdentifier{2, 5, 29, 36}, true, tlv(0x30, tlv(0x80, []byte{0})))
	requireNoMapping := ext(asn1.ObjectIdentifier{2, 5, 29, 36}, true, tlv(0x30, tlv(0x80, []byte{0}), tlv(0x81, []byte{0})))
	inhibit := ext(asn1.ObjectIdentifier{2, 5, 29, 54}, true, []byte{2, 1, 0})
	mapped := ext(asn1.ObjectIdentifier{2, 5, 29, 33}, true, tlv(0x30, tlv(0x30, oid(t, one), oid(t, two))))
	mapAny := ext(asn1.ObjectIdentifier{2, 5, 29, 33}, true, tlv(0x30, tlv(0x30, oid(t, one), oid(t, any))))
	requireLater := ext(asn1.ObjectIdentifier{2, 5, 29, 36}, true, tlv(0x30, tlv(0x80, []byte{2})))
	row := func(name string, want fault.Code, leaf option, steps ...option) trial {
		by, mids := r, []entity(nil)
		for k, s := range steps {
			by = by.ca(t, fmt.Sprintf("%s %d", name, k), s)
			mids = append(mids, by)
		}
		return trial{name: "policies: " + name, leaf: by.leaf(t, "x", leaf), anchors: []entity{r}, intermediates: mids, want: want, openssl: policyNote(want)}
	}
	none := func(*x509.Certificate) {}
	selfIssued := row("required two below, a self-issued one between", 0, none, all(named("R"), requireLater), named("R"))
	selfIssued.openssl = "takes self-issued without identifiers for self-signed"
	return []trial{
		row("required and kept", 0, p(one), all(p(one), require)),
		row("required, missing in the leaf", fault.ChainPolicy, none, all(p(one), require)),
		row("required, another in the leaf", fault.ChainPolicy, p(two), all(p(one), require)),
		row("required, any in the issuer", 0, p(two), all(p(any), require)),
		row("required, any in the leaf", 0, p(any), all(p(one), require)),
		row("not required", 0, none, p(one)),
		row("any inhibited in the leaf", fault.ChainPolicy, p(any), all(p(one), require, inhibit)),
		row("any inhibited below", fault.ChainPolicy, p(one), all(p(one), require, inhibit), p(any)),
		row("mapped", 0, p(two), all(p(one), require, mapped)),
		row("mapped, the old one in the leaf", fault.ChainPolicy, p(one), all(p(one), require, mapped)),
		row("mapping forbidden above, the old one in the leaf", fault.ChainPolicy, p(one), all(p(one), requireNoMapping), all(p(one), mapped)),
		row("mapped to any", fault.ChainPolicy, p(one), all(p(one), mapAny)),
		row("required two below", fault.ChainPolicy, none, requireLater, none),
		selfIssued,
		row("required by the leaf itself", fault.ChainPolicy, require, p(one)),
		row("mapping forbidden above", fault.ChainPolicy, p(two), all(p(one), requireNoMapping), all(p(one), mapped)),
	}
}

func policyNote(want fault.Code) string {
	if want == 0 {
		return ""
	}
	return "checks policies only with -policy_check"
}

func oid(t testing.TB, s string) []byte {
	o, err := x509.ParseOID(s)
	if err != nil {
		t.Fatal(err)
	}
	b, err := o.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return tlv(6, b)
}

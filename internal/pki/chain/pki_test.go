package chain_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/pki/chain"
)

// now is the moment at which the tests' certificates are judged.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// entity is a certificate with its private key.
type entity struct {
	*x509.Certificate
	key crypto.Signer
}

func p256(t testing.TB) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func ed(t testing.TB) crypto.Signer {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// rsa2048 is one key for all tests, because making one takes long.
var rsa2048 = sync.OnceValue(func() crypto.Signer {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

var rsa1024 = sync.OnceValue(func() crypto.Signer {
	k, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		panic(err)
	}
	return k
})

// option changes what is about to be certified.
type option func(*x509.Certificate)

func all(os ...option) option {
	return func(c *x509.Certificate) {
		for _, o := range os {
			o(c)
		}
	}
}

func subject(n pkix.Name) option {
	return func(c *x509.Certificate) { c.Subject = n }
}

func named(cn string) option { return subject(pkix.Name{CommonName: cn}) }

func valid(from, to time.Time) option {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = from, to }
}

func pathLen(n int) option {
	return func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = n, n == 0 }
}

func eku(us ...x509.ExtKeyUsage) option {
	return func(c *x509.Certificate) { c.ExtKeyUsage = us }
}
func usage(u x509.KeyUsage) option { return func(c *x509.Certificate) { c.KeyUsage = u } }
func dns(names ...string) option {
	return func(c *x509.Certificate) { c.DNSNames = names }
}

func ips(names ...string) option {
	return func(c *x509.Certificate) {
		for _, n := range names {
			ip := net.ParseIP(n)
			if v4 := ip.To4(); v4 != nil {
				ip = v4
			}
			c.IPAddresses = append(c.IPAddresses, ip)
		}
	}
}

func emails(names ...string) option {
	return func(c *x509.Certificate) { c.EmailAddresses = names }
}

func uris(names ...string) option {
	return func(c *x509.Certificate) {
		for _, n := range names {
			u, err := url.Parse(n)
			if err != nil {
				panic(err)
			}
			c.URIs = append(c.URIs, u)
		}
	}
}

func notCA(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage = false, true, x509.KeyUsageDigitalSignature
}
func noIdentifiers(c *x509.Certificate) { c.SubjectKeyId, c.AuthorityKeyId = nil, nil }
func ext(oid asn1.ObjectIdentifier, critical bool, value []byte) option {
	return func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: oid, Critical: critical, Value: value})
	}
}

func der(t testing.TB, v any) []byte {
	t.Helper()
	b, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// tlv is one DER element.
func tlv(tag byte, parts ...[]byte) []byte {
	var body []byte
	for _, p := range parts {
		body = append(body, p...)
	}
	b := []byte{tag}
	switch n := len(body); {
	case n < 0x80:
		b = append(b, byte(n))
	case n < 0x100:
		b = append(b, 0x81, byte(n))
	default:
		b = append(b, 0x82, byte(n>>8), byte(n))
	}
	return append(b, body...)
}

var lastSerial struct {
	sync.Mutex
	n int64
}

func base(cn string) *x509.Certificate {
	lastSerial.Lock()
	defer lastSerial.Unlock()
	lastSerial.n++
	return &x509.Certificate{
		SerialNumber: big.NewInt(lastSerial.n), Subject: pkix.Name{CommonName: cn},
		NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(1, 0, 0),
	}
}

// root makes a self-signed CA.
func root(t testing.TB, cn string, key crypto.Signer, os ...option) entity {
	t.Helper()
	return certify(t, nil, key, asCA(cn), os...)
}

// ca makes an authority below by.
func (by entity) ca(t testing.TB, cn string, os ...option) entity {
	t.Helper()
	return certify(t, &by, p256(t), asCA(cn), os...)
}

// leaf makes an end entity below by.
func (by entity) leaf(t testing.TB, cn string, os ...option) entity {
	t.Helper()
	c := base(cn)
	c.KeyUsage = x509.KeyUsageDigitalSignature
	return certify(t, &by, p256(t), c, os...)
}

func asCA(cn string) *x509.Certificate {
	c := base(cn)
	c.IsCA, c.BasicConstraintsValid = true, true
	c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	return c
}

// certify signs c for key; by nil means with the same key.
func certify(t testing.TB, by *entity, key crypto.Signer, c *x509.Certificate, os ...option) entity {
	t.Helper()
	id := sha1.Sum(der(t, spki(t, key))) //nolint:gosec // an identifier
	c.SubjectKeyId = id[:]
	all(os...)(c)
	parent, signer := c, key
	if by != nil {
		parent, signer = by.Certificate, by.key
	}
	if c.SubjectKeyId == nil && by != nil { // without identifiers
		p := *parent
		p.SubjectKeyId = nil
		parent = &p
	}
	raw, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return entity{parse(t, raw), key}
}

func spki(t testing.TB, key crypto.Signer) asn1.RawValue {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return asn1.RawValue{FullBytes: b}
}

func parse(t testing.TB, raw []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// body is a TBSCertificate for what the library refuses to make.
type body struct {
	Raw        asn1.RawContent
	Version    int `asn1:"optional,explicit,default:0,tag:0"`
	Serial     asn1.RawValue
	Algorithm  pkix.AlgorithmIdentifier
	Issuer     asn1.RawValue
	Validity   asn1.RawValue
	Subject    asn1.RawValue
	SPKI       asn1.RawValue
	Extensions []pkix.Extension `asn1:"optional,explicit,tag:3"`
}

// forge takes a certificate apart, changes it and signs it again with by's
// P-256 key, with SHA-1 if the algorithm says so.
func (by entity) forge(t testing.TB, c entity, change func(*body)) entity {
	t.Helper()
	var b body
	if _, err := asn1.Unmarshal(c.RawTBSCertificate, &b); err != nil {
		t.Fatal(err)
	}
	b.Raw = nil
	change(&b)
	return entity{parse(t, by.seal(t, der(t, b), b.Algorithm)), c.key}
}

var ecdsaWithSHA1 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1}

func (by entity) seal(t testing.TB, tbs []byte, algorithm pkix.AlgorithmIdentifier) []byte {
	t.Helper()
	full := sha256.Sum256(tbs)
	hash, opts := full[:], crypto.SHA256
	if algorithm.Algorithm.Equal(ecdsaWithSHA1) {
		short := sha1.Sum(tbs) //nolint:gosec // to be refused
		hash, opts = short[:], crypto.SHA1
	}
	signature, err := by.key.Sign(rand.Reader, hash, opts)
	if err != nil {
		t.Fatal(err)
	}
	return der(t, struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: tbs}, algorithm, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
}

// crl signs a CRL.
func (by entity) crl(t testing.TB, number int64, change func(*x509.RevocationList), revoked ...x509.RevocationListEntry) *x509.RevocationList {
	t.Helper()
	l := &x509.RevocationList{
		Number: big.NewInt(number), ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(time.Hour),
		RevokedCertificateEntries: revoked,
	}
	if change != nil {
		change(l)
	}
	raw, err := x509.CreateRevocationList(rand.Reader, l, by.Certificate, by.key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseRevocationList(raw)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func entry(c entity, reason int) x509.RevocationListEntry {
	return x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: now.Add(-2 * time.Hour), ReasonCode: reason}
}

func pool(es ...entity) *chain.Pool {
	p := chain.NewPool()
	for _, e := range es {
		p.Add(e.Certificate)
	}
	return p
}

func pemOf(kind string, ders ...[]byte) []byte {
	var b []byte
	for _, d := range ders {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: d})...)
	}
	return b
}

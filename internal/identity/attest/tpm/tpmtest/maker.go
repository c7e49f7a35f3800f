package tpmtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/identity/attest"
)

// Authority is a CA of a maker.
type Authority struct {
	*x509.Certificate
	Key crypto.Signer
}

// Maker is a TPM maker: a root and the CA below it that certifies EKs.
type Maker struct {
	Name   string
	Root   Authority
	Issuer Authority
	Now    time.Time // certificates are valid from a year before it, for thirty years
}

// MakerOptions says what maker to make; the zero value is one with P-256 keys.
type MakerOptions struct {
	RSA bool      // RSA-3072 root, RSA-2048 issuing CA
	Now time.Time // zero: 2026-11-22
	// EditRoot and EditIssuer change the CA certificates before they are signed.
	EditRoot, EditIssuer func(*x509.Certificate)
}

// NewMaker makes a maker.
func NewMaker(tb testing.TB, name string, o MakerOptions) *Maker {
	tb.Helper()
	if o.Now.IsZero() {
		o.Now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	}
	m := &Maker{Name: name, Now: o.Now}
	rootKey, issuerKey := caKey(tb, o.RSA, 3072), caKey(tb, o.RSA, 2048)
	m.Root = m.authority(tb, name+" Root", rootKey, Authority{}, o.EditRoot)
	m.Issuer = m.authority(tb, name+" EK Issuing CA", issuerKey, m.Root, o.EditIssuer)
	return m
}

func caKey(tb testing.TB, isRSA bool, bits int) crypto.Signer {
	tb.Helper()
	if isRSA {
		return RSA(tb, bits)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// authority makes a CA; below the zero Authority it is a root.
func (m *Maker) authority(tb testing.TB, name string, key crypto.Signer, by Authority, edit func(*x509.Certificate)) Authority {
	tb.Helper()
	c := &x509.Certificate{
		SerialNumber: number(tb), Subject: pkix.Name{CommonName: name, Organization: []string{m.Name}},
		NotBefore: m.Now.AddDate(-1, 0, 0), NotAfter: m.Now.AddDate(29, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if edit != nil {
		edit(c)
	}
	parent := by.Certificate
	if parent == nil {
		parent, by.Key = c, key
	}
	return Authority{sign(tb, c, parent, key.Public(), by.Key), key}
}

func sign(tb testing.TB, c, parent *x509.Certificate, key crypto.PublicKey, by crypto.Signer) *x509.Certificate {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key, by)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}

func number(tb testing.TB) *big.Int {
	tb.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		tb.Fatal(err)
	}
	return n.Add(n, big.NewInt(1))
}

// Certificate is an EK certificate before it is signed: the fields of crypto/x509
// and the names, which are written into a critical subjectAltName after Edit has
// seen them.
type Certificate struct {
	x509.Certificate
	Names   []Name // tpmManufacturer, tpmModel, tpmVersion
	OneSet  bool   // all names in one RDN, as some makers do
	Lenient bool   // the subjectAltName is not critical
	By      *Authority
}

// Name is an attribute below 2.23.133.2.
type Name struct {
	Arc   int // 1 manufacturer, 2 model, 3 version
	Value string
}

// Object identifiers of the TCG.
var (
	OIDEKCertificate = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	OIDSubjectAlt    = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// Certify returns an EK certificate: DER.
func (m *Maker) Certify(tb testing.TB, ek crypto.PublicKey, o Options) []byte {
	tb.Helper()
	or := func(s, otherwise string) string {
		if s == "" {
			return otherwise
		}
		return s
	}
	c := &Certificate{
		Certificate: x509.Certificate{
			SerialNumber: number(tb), NotBefore: m.Now.AddDate(0, -6, 0), NotAfter: m.Now.AddDate(10, 0, 0),
			BasicConstraintsValid: true, KeyUsage: x509.KeyUsageKeyAgreement,
			UnknownExtKeyUsage: []asn1.ObjectIdentifier{OIDEKCertificate},
		},
		Names: []Name{{1, or(o.Vendor, "id:54455354")}, {2, or(o.Model, "TEST")}, {3, or(o.Version, "id:00010002")}},
		By:    &m.Issuer,
	}
	if _, ok := ek.(*rsa.PublicKey); ok {
		c.KeyUsage = x509.KeyUsageKeyEncipherment
	}
	if o.Edit != nil {
		o.Edit(c)
	}
	if c.Names != nil {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: OIDSubjectAlt, Critical: !c.Lenient, Value: SAN(tb, c.OneSet, c.Names...)})
	}
	return sign(tb, &c.Certificate, c.By.Certificate, ek, c.By.Key).Raw
}

// SAN returns the value of a subjectAltName with one directoryName.
func SAN(tb testing.TB, oneSet bool, names ...Name) []byte {
	tb.Helper()
	var rdns pkix.RDNSequence
	for i, n := range names {
		attribute := pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 23, 133, 2, n.Arc}, Value: n.Value}
		if oneSet && i > 0 {
			rdns[0] = append(rdns[0], attribute)
			continue
		}
		rdns = append(rdns, pkix.RelativeDistinguishedNameSET{attribute})
	}
	name, err := asn1.Marshal(rdns)
	if err != nil {
		tb.Fatal(err)
	}
	directory, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: name})
	if err != nil {
		tb.Fatal(err)
	}
	san, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: directory})
	if err != nil {
		tb.Fatal(err)
	}
	return san
}

// Trusted returns the maker as a bundle names it.
func (m *Maker) Trusted() attest.Maker {
	return attest.Maker{Name: m.Name, Roots: [][]byte{m.Root.Raw}, Intermediates: [][]byte{m.Issuer.Raw}}
}

// Bundle returns a bundle of makers.
func Bundle(version int64, makers ...*Maker) *attest.RootsFile {
	f := &attest.RootsFile{Name: "tpm-makers", Version: version, IssuedAt: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)}
	for _, m := range makers {
		f.Makers = append(f.Makers, m.Trusted())
	}
	return f
}

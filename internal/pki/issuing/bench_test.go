package issuing

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"math/big"
	"testing"
	"time"

	"filippo.io/bigmod"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/pki/profile"
)

// scalarCheck checks P-256 signatures with the private scalar, as file keys do:
// R' = ((e + r*d)/s)*G must have r as its x coordinate.
type scalarCheck struct {
	order *bigmod.Modulus
	d     *bigmod.Nat
}

func newScalarCheck(t testing.TB, key softKey) *scalarCheck {
	t.Helper()
	k, ok := key.Signer.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatal("not an ECDSA key")
	}
	order, err := bigmod.NewModulus(k.Params().N.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	scalar, err := k.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	d, err := bigmod.NewNat().SetBytes(scalar, order)
	if err != nil {
		t.Fatal(err)
	}
	return &scalarCheck{order, d}
}

var errCheck = errors.New("signature does not hold")

func (c *scalarCheck) CheckSignature(message, signature []byte) error {
	in := cryptobyte.String(signature)
	var seq, rb, sb cryptobyte.String
	if !in.ReadASN1(&seq, asn1.SEQUENCE) || !in.Empty() || !seq.ReadASN1(&rb, asn1.INTEGER) || !seq.ReadASN1(&sb, asn1.INTEGER) || !seq.Empty() {
		return errCheck
	}
	digest := sha256.Sum256(message)
	e, err := bigmod.NewNat().SetOverflowingBytes(digest[:], c.order)
	if err != nil {
		return err
	}
	r, err := scalar(rb, c.order)
	if err != nil {
		return err
	}
	s, err := scalar(sb, c.order)
	if err != nil {
		return err
	}
	// s is public, so that variable time does no harm.
	inverted := new(big.Int).ModInverse(new(big.Int).SetBytes(s.Bytes(c.order)), elliptic.P256().Params().N)
	inverse, err := scalar(inverted.Bytes(), c.order)
	if err != nil {
		return err
	}
	k := bigmod.NewNat().ExpandFor(c.order).Add(r, c.order)
	k.Mul(c.d, c.order).Add(e, c.order).Mul(inverse, c.order)
	point, err := ecdh.P256().NewPrivateKey(k.Bytes(c.order))
	if err != nil {
		return err
	}
	x, err := bigmod.NewNat().SetOverflowingBytes(point.PublicKey().Bytes()[1:33], c.order)
	if err != nil || x.Equal(r) != 1 {
		return errCheck
	}
	return nil
}

func scalar(b []byte, m *bigmod.Modulus) (*bigmod.Nat, error) {
	b = bytes.TrimLeft(b, "\x00")
	if len(b) > 32 {
		return nil, errCheck
	}
	full := make([]byte, 32)
	copy(full[32-len(b):], b)
	n, err := bigmod.NewNat().SetBytes(full, m)
	if err != nil || n.IsZero() == 1 {
		return nil, errCheck
	}
	return n, nil
}

func benchInput(b *testing.B) (*Issuer, *Compiled, Input) {
	iss := testIssuer(b, profile.P256)
	c := compiled(b, preset(b, "idevid"), iss)
	return iss, c, input(b, c, sampleKey(b, profile.P256))
}

// BenchmarkCreateCertificate is what the others are measured against.
func BenchmarkCreateCertificate(b *testing.B) {
	iss, c, in := benchInput(b)
	parent := parseCertificate(b, iss.Certificate)
	template := parseCertificate(b, issue(b, c, in))
	// The same extensions, written by crypto/x509 from fields where it can.
	template.ExtraExtensions = nil
	for _, e := range template.Extensions {
		if e.Id.String() == "2.5.29.17" {
			template.ExtraExtensions = append(template.ExtraExtensions, e)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := x509.CreateCertificate(rand.Reader, template, parent, template.PublicKey, iss.Key); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIssueVerified(b *testing.B) {
	_, c, in := benchInput(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Issue(in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIssueSelfChecked(b *testing.B) {
	iss, c, in := benchInput(b)
	iss.Check = newScalarCheck(b, iss.Key.(softKey))
	c = compiled(b, c.profile, iss)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Issue(in); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFill is issuing without its cryptography.
func BenchmarkFill(b *testing.B) {
	_, c, in := benchInput(b)
	l, err := c.layoutFor(in.SPKI)
	if err != nil {
		b.Fatal(err)
	}
	der := issue(b, c, in)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.tbs(l, &in); err != nil {
			b.Fatal(err)
		}
		if err := c.compare(der, l, &in); err != nil {
			b.Fatal(err)
		}
	}
}

func manyEntries(n int) [][]byte {
	var chunks [][]byte
	var chunk []byte
	certSerial := make([]byte, 16)
	for i := range n {
		sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i)))
		copy(certSerial, sum[:])
		certSerial[0] = certSerial[0]&0x3f | 0x40
		chunk = AppendCRLEntry(chunk, certSerial, testNow.Add(-time.Duration(i)*time.Second), i%5)
		if len(chunk) > 64<<10 {
			chunks = append(chunks, chunk)
			chunk = nil
		}
	}
	return append(chunks, chunk)
}

func BenchmarkSignCRLMillion(b *testing.B) {
	iss := testIssuer(b, profile.P256)
	entries := manyEntries(1_000_000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := SignCRL(iss, CRL{Number: 7, ThisUpdate: testNow, NextUpdate: testNow.Add(time.Hour)}, entries); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOCSP(b *testing.B) {
	iss := testIssuer(b, profile.P256)
	c := compiled(b, preset(b, "ocsp-responder"), iss)
	key := testKey(b, profile.P256)
	der := issue(b, c, input(b, c, mustSPKI(b, key.Public())))
	r, err := NewOCSPResponder(OCSPResponderConfig{Certificate: der, Key: key, Check: newScalarCheck(b, key)})
	if err != nil {
		b.Fatal(err)
	}
	parent := parseCertificate(b, iss.Certificate)
	id, err := CertID(crypto.SHA1, parent.RawSubject, parent.RawSubjectPublicKeyInfo, testSerial())
	if err != nil {
		b.Fatal(err)
	}
	answers := []OCSPAnswer{{CertID: id, ThisUpdate: testNow, NextUpdate: testNow.Add(time.Hour)}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Sign(testNow, answers, nil); err != nil {
			b.Fatal(err)
		}
	}
}

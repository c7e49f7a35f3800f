package signer_test

import (
	"crypto"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// request returns the CertificationRequestInfo of a key.
func request(t testing.TB, key *recorder) []byte {
	t.Helper()
	if _, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "Issuing CA"}}, key); err != nil {
		t.Fatal(err)
	}
	return key.tbs
}

// ocspAnswer returns a ResponseData of a responder about a certificate of an
// issuer.
func ocspAnswer(t testing.TB, responder, issuer *x509.Certificate, from, to time.Time) []byte {
	t.Helper()
	bits := func(c *x509.Certificate) []byte {
		in := cryptobyte.String(c.RawSubjectPublicKeyInfo)
		var outer, out cryptobyte.String
		if !in.ReadASN1(&outer, asn1.SEQUENCE) || !outer.SkipASN1(asn1.SEQUENCE) || !outer.ReadASN1(&out, asn1.BIT_STRING) {
			t.Fatal("not a key")
		}
		return out[1:]
	}
	hash := func(b []byte) []byte { sum := sha1.Sum(b); return sum[:] }
	explicit := func(n uint8) asn1.Tag { return asn1.Tag(n).ContextSpecific().Constructed() }
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(explicit(2), func(b *cryptobyte.Builder) { b.AddASN1OctetString(hash(bits(responder))) })
		b.AddASN1GeneralizedTime(from)
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddBytes([]byte{6, 5, 0x2b, 0x0e, 3, 2, 0x1a, 5, 0})
					})
					b.AddASN1OctetString(hash(issuer.RawSubject))
					b.AddASN1OctetString(hash(bits(issuer)))
					b.AddASN1Int64(77)
				})
				b.AddASN1(asn1.Tag(0).ContextSpecific(), func(*cryptobyte.Builder) {})
				b.AddASN1GeneralizedTime(from)
				if !to.IsZero() {
					b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { b.AddASN1GeneralizedTime(to) })
				}
			})
		})
	})
	return b.BytesOrPanic()
}

var _ crypto.MessageSigner = (*messages)(nil)

// messages makes sure that recorder has the method that crypto/x509 looks for.
type messages struct{ *recorder }

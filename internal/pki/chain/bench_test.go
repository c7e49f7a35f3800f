package chain_test

import (
	"crypto/x509"
	"testing"

	"github.com/birthmark/birthmark/internal/pki/chain"
)

// BenchmarkVerify compares a leaf under a known issuing CA (root, issuing, leaf,
// all P-256) with the library, which checks all signatures each time.
func BenchmarkVerify(b *testing.B) {
	r := root(b, "Root", p256(b))
	i := r.ca(b, "Issuing")
	l := i.leaf(b, "device", eku(x509.ExtKeyUsageClientAuth))
	o := chain.Options{Anchors: pool(r), Intermediates: pool(i), At: now, Usage: chain.UsageClient}
	verifier := func(b *testing.B, c chain.Config) *chain.Verifier {
		v, err := chain.NewVerifier(c)
		if err != nil {
			b.Fatal(err)
		}
		return v
	}
	b.Run("remembered issuer", func(b *testing.B) {
		v := verifier(b, chain.Config{})
		b.ReportAllocs()
		for b.Loop() {
			if _, err := v.Verify(b.Context(), l.Certificate, o); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("remembered issuer, presented", func(b *testing.B) {
		v, o := verifier(b, chain.Config{}), o
		o.Intermediates, o.Presented = nil, []*x509.Certificate{i.Certificate}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := v.Verify(b.Context(), l.Certificate, o); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("remembered leaf", func(b *testing.B) {
		v := verifier(b, chain.Config{Leaves: 16})
		b.ReportAllocs()
		for b.Loop() {
			if _, err := v.Verify(b.Context(), l.Certificate, o); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("nothing remembered", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := chain.Verify(b.Context(), l.Certificate, o); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("library", func(b *testing.B) {
		roots, mids := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(r.Certificate)
		mids.AddCert(i.Certificate)
		so := x509.VerifyOptions{Roots: roots, Intermediates: mids, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := l.Verify(so); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("one signature", func(b *testing.B) {
		for b.Loop() {
			if err := l.CheckSignatureFrom(i.Certificate); err != nil {
				b.Fatal(err)
			}
		}
	})
}

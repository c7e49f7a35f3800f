package chain_test

import (
	"crypto/x509"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/chain"
)

func FuzzParseCertificates(f *testing.F) {
	r := root(f, "Root", p256(f))
	f.Add(r.Raw)
	f.Add(pemOf("CERTIFICATE", r.Raw, r.Raw))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----"))
	f.Fuzz(func(t *testing.T, b []byte) {
		certs, err := chain.ParseCertificates(b)
		if (err == nil) != (len(certs) > 0) || err != nil && !fault.Has(err, fault.CertificateInvalid) {
			t.Fatalf("%d certificates, %v", len(certs), err)
		}
		for _, c := range certs {
			again, err := chain.ParseCertificates(c.Raw)
			if err != nil || len(again) != 1 || !again[0].Equal(c) {
				t.Fatalf("not the same when read again: %v", err)
			}
		}
	})
}

func FuzzParseCRLs(f *testing.F) {
	r := root(f, "Root", p256(f))
	l := r.leaf(f, "device")
	f.Add(r.crl(f, 1, nil, entry(l, 1)).Raw)
	f.Add(r.crl(f, 2, all2(deltaOf(1), idp(point("http://x.test/1"), userOnly, someOnly)), entry(l, 8)).Raw)
	f.Add(pemOf("X509 CRL", r.crl(f, 1, nil).Raw))
	f.Fuzz(func(t *testing.T, b []byte) {
		ls, err := chain.ParseCRLs(b)
		if (err == nil) != (len(ls) > 0) || err != nil && !fault.Has(err, fault.CRLInvalid) {
			t.Fatalf("%d CRLs, %v", len(ls), err)
		}
		s, err := chain.NewCRLs(ls, now).Status(t.Context(), l.Certificate, r.Certificate)
		// Only what the issuer signed can say anything; the fuzzer has no key but
		// may replay the seeds of its own run.
		if err != nil || s.State == chain.Good && len(ls) == 0 {
			t.Fatalf("%v %v", s, err)
		}
	})
}

// FuzzVerify changes bytes of a leaf or of its issuer. Whatever comes out must
// be judged without a panic, and no changed certificate may pass.
func FuzzVerify(f *testing.F) {
	r := root(f, "Root", p256(f))
	i := r.ca(f, "Issuing", func(c *x509.Certificate) { c.ExcludedDNSDomains = []string{"excluded.test"} })
	l := i.leaf(f, "device", dns("a.test"), uris("https://a.test/"), emails("a@b.test"), ips("192.0.2.1"))
	f.Add(l.Raw, i.Raw)
	for _, c := range trials(f) {
		if len(c.intermediates) > 0 {
			f.Add(c.leaf.Raw, c.intermediates[0].Raw)
		}
	}
	f.Fuzz(func(t *testing.T, leaf, issuer []byte) {
		a, err := x509.ParseCertificate(leaf)
		if err != nil {
			return
		}
		b, err := x509.ParseCertificate(issuer)
		if err != nil {
			return
		}
		o := chain.Options{Anchors: pool(r), Intermediates: chain.NewPool(b), At: now, Usage: chain.UsageClient}
		_, err = chain.Verify(t.Context(), a, o)
		if err == nil && !a.Equal(l.Certificate) && !a.Equal(i.Certificate) && !a.Equal(r.Certificate) {
			t.Fatalf("accepted %x", leaf)
		}
		// As anchors they are trusted for themselves, so more rules are reached.
		o.Anchors, o.Usage = chain.NewPool(b, a), chain.UsageAny
		_, _ = chain.Verify(t.Context(), a, o)
		o.Anchors = chain.NewPool(b)
		if q, err := chain.Verify(t.Context(), a, o); err == nil && len(q.Certificates) > 1 && a.CheckSignatureFrom(b) != nil {
			t.Fatalf("accepted a signature that does not verify: %x", leaf)
		}
	})
}

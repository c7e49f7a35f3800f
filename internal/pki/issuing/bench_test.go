package issuing

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"path/filepath"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// fileKey stores a key in a file and returns it together with its self-check,
// as the server has it.
func fileKey(t testing.TB, key softKey) (keystore.Key, SelfChecker) {
	t.Helper()
	store, err := keystore.Open(keystore.Config{Dir: filepath.Join(t.TempDir(), "keys"), Rand: rand.Reader, Iterations: 1000})
	if err != nil {
		t.Fatal(err)
	}
	k, err := store.Import(t.Context(), "file:test", key.Signer, keystore.NewPassphrase(rand.Reader))
	if err != nil {
		t.Fatal(err)
	}
	check, ok := keystore.AsSelfChecker(k)
	if !ok {
		return k, nil // under FIPS 140
	}
	return k, check
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
	iss.Key, iss.Check = fileKey(b, testKey(b, profile.P256))
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

// BenchmarkIssueParallel shows what all cores together make.
func BenchmarkIssueParallel(b *testing.B) {
	iss, c, in := benchInput(b)
	iss.Key, iss.Check = fileKey(b, testKey(b, profile.P256))
	c = compiled(b, c.profile, iss)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := c.Issue(in); err != nil {
				b.Error(err)
			}
		}
	})
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
	file, check := fileKey(b, key)
	r, err := NewOCSPResponder(OCSPResponderConfig{Certificate: der, Key: file, Check: check})
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

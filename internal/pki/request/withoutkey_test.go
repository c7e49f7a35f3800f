package request

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
)

// keyless builds a request whose key and signature are none, with attributes.
func keyless(t *testing.T, attributes func(*cryptobyte.Builder)) []byte {
	t.Helper()
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1Int64(0)
			b.AddASN1(asn1.SEQUENCE, func(*cryptobyte.Builder) {})
			b.AddASN1(asn1.SEQUENCE, func(*cryptobyte.Builder) {}) // no key at all
			b.AddASN1(asn1.Tag(0).ContextSpecific().Constructed(), attributes)
		})
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier([]int{1, 2, 3}) })
		b.AddASN1BitString([]byte{1})
	})
	der, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func octetAttribute(oid []int, values ...[]byte) func(*cryptobyte.Builder) {
	return func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oid)
			b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) {
				for _, v := range values {
					b.AddASN1OctetString(v)
				}
			})
		})
	}
}

var (
	asymmetric = []int{1, 2, 840, 113549, 1, 9, 16, 2, 54}
	symmetric  = []int{1, 2, 840, 113549, 1, 9, 16, 2, 37}
)

func TestParseWithoutKey(t *testing.T) {
	r, err := ParseWithoutKey(keyless(t, octetAttribute(asymmetric, []byte{1, 2, 3})))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(r.DecryptKey, []byte{1, 2, 3}) || r.SharedKey || r.SPKI != nil || r.PublicKey != nil {
		t.Errorf("read %+v", r)
	}
	if r, err = ParseWithoutKey(keyless(t, octetAttribute(symmetric, []byte{1}))); err != nil || !r.SharedKey || r.DecryptKey != nil {
		t.Errorf("read %+v, %v", r, err)
	}
	if r, err = ParseWithoutKey(keyless(t, func(*cryptobyte.Builder) {})); err != nil || r.SharedKey || r.DecryptKey != nil {
		t.Errorf("read %+v, %v", r, err)
	}
	for name, der := range map[string][]byte{
		"two identifiers":  keyless(t, octetAttribute(asymmetric, []byte{1}, []byte{2})),
		"no identifier":    keyless(t, octetAttribute(asymmetric)),
		"empty identifier": keyless(t, octetAttribute(asymmetric, nil)),
		"long identifier":  keyless(t, octetAttribute(asymmetric, make([]byte, 65))),
		"attribute twice": keyless(t, func(b *cryptobyte.Builder) {
			octetAttribute(asymmetric, []byte{1})(b)
			octetAttribute(asymmetric, []byte{1})(b)
		}),
		"octets after the end":  append(keyless(t, func(*cryptobyte.Builder) {}), 0),
		"nothing":               nil,
		"larger than a request": make([]byte, MaxSize+1),
	} {
		if _, err := ParseWithoutKey(der); fault.Of(err) == nil || fault.Of(err).Kind != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What Parse takes, ParseWithoutKey takes too, and reads the same names.
func TestParseWithoutKeyReadsNamesAsParse(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "SN-1"}, DNSNames: []string{"a.example"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := Parse(der)
	if err != nil {
		t.Fatal(err)
	}
	part, err := ParseWithoutKey(der)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(whole.Subject, part.Subject) || !bytes.Equal(whole.SAN, part.SAN) {
		t.Errorf("subjects %x and %x", whole.Subject, part.Subject)
	}
}

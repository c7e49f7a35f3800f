package tpm_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
)

// resigned is a certificate of the maker's issuing CA whose content was edited as
// octets, for what crypto/x509 does not write.
func resigned(t *testing.T, m *tpmtest.Maker, der []byte, edit func(content *contentOf)) []byte {
	t.Helper()
	var c struct {
		Content   contentOf
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &c); err != nil {
		t.Fatal(err)
	}
	c.Content.Raw = nil
	edit(&c.Content)
	content, err := asn1.Marshal(c.Content)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(content)
	signature, err := ecdsa.SignASN1(rand.Reader, m.Issuer.Key.(*ecdsa.PrivateKey), digest[:])
	if err != nil {
		t.Fatal(err)
	}
	c.Content.Raw = content
	c.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	out, err := asn1.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

type contentOf struct {
	Raw        asn1.RawContent
	Version    int `asn1:"optional,explicit,default:0,tag:0"`
	Number     asn1.RawValue
	Algorithm  pkix.AlgorithmIdentifier
	Issuer     asn1.RawValue
	Validity   asn1.RawValue
	Subject    asn1.RawValue
	SPKI       spkiOf
	Extensions []pkix.Extension `asn1:"optional,explicit,tag:3"`
}

type spkiOf struct {
	Algorithm asn1.RawValue
	Key       asn1.BitString
}

// Object identifiers of keys (RFC 4055) and the parameters that Infineon writes:
// pSourceAlgorithm with the label TCPA.
var (
	oaepTCPA = []byte{
		0x30, 0x22, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x07, 0x30, 0x15, 0xa2, 0x13, 0x30, 0x11,
		0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x09, 0x04, 0x04, 'T', 'C', 'P', 'A',
	}
	oaepBare = []byte{0x30, 0x0b, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x07}
	pss      = []byte{0x30, 0x0b, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a}
)

// TestKeysForOAEP: an RSA key that is certified for RSAES-OAEP alone is the same key,
// with the same digest; crypto/x509 does not read it.
func TestKeysForOAEP(t *testing.T) {
	m := tpmtest.NewMaker(t, "Acme Chips", tpmtest.MakerOptions{})
	b := benchOf(t, m, tpmtest.New(t, m, tpmtest.Options{EK: "L-1"}))
	plain := b.found(t)
	for name, algorithm := range map[string][]byte{"with a label": oaepTCPA, "bare": oaepBare} {
		c := b.claim()
		c.EKCertificate = resigned(t, m, c.EKCertificate, func(x *contentOf) { x.SPKI.Algorithm = asn1.RawValue{FullBytes: algorithm} })
		x, err := b.check(c)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !x.Genuine || x.EK != plain.EK || x.EKForm != "L-1" {
			t.Errorf("%s: %+v", name, x)
		}
		area, err := wire.EKOf(c.EKCertificate)
		if err != nil || string(area) != string(plain.EKPublic) {
			t.Errorf("%s: EKOf: %x, %v", name, area, err)
		}
	}
	refuse := func(name string, edit func(*contentOf)) {
		t.Helper()
		c := b.claim()
		c.EKCertificate = resigned(t, m, c.EKCertificate, edit)
		if _, err := b.check(c); !fault.Has(err, fault.EKCertificate) {
			t.Errorf("%s: %v", name, err)
		}
	}
	refuse("a key that signs with PSS", func(x *contentOf) { x.SPKI.Algorithm = asn1.RawValue{FullBytes: pss} })
	refuse("OAEP around another key", func(x *contentOf) {
		x.SPKI.Algorithm = asn1.RawValue{FullBytes: oaepBare}
		x.SPKI.Key = asn1.BitString{Bytes: []byte{4, 1, 2}, BitLength: 24}
	})
	refuse("OAEP with something behind the key", func(x *contentOf) {
		x.SPKI.Algorithm = asn1.RawValue{FullBytes: oaepBare}
		x.SPKI.Key.Bytes = append(x.SPKI.Key.Bytes, 0)
		x.SPKI.Key.BitLength += 8
	})
	refuse("a negative number", func(x *contentOf) { x.Number = asn1.RawValue{FullBytes: []byte{2, 1, 0x81}} })
	refuse("two subjectAltNames", func(x *contentOf) {
		for _, e := range x.Extensions {
			if e.Id.Equal(tpmtest.OIDSubjectAlt) {
				x.Extensions = append(x.Extensions, e)
				return
			}
		}
	})
}

// TestUsagesMayBeLeftOut: the profile of EK certificates asks for keyUsage and leaves
// extKeyUsage to the maker; older chips have the one or the other. One of them must
// say what the key is for, and neither may say something else.
func TestUsagesMayBeLeftOut(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		name string
		edit func(*tpmtest.Certificate)
		want fault.Code
	}{
		{"no extKeyUsage", func(c *tpmtest.Certificate) { c.UnknownExtKeyUsage = nil }, 0},
		{"no keyUsage", func(c *tpmtest.Certificate) { c.KeyUsage = 0 }, 0},
		{"any extKeyUsage", func(c *tpmtest.Certificate) {
			c.UnknownExtKeyUsage, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
		}, fault.EKCertificate},
		{"neither", func(c *tpmtest.Certificate) { c.UnknownExtKeyUsage, c.KeyUsage = nil, 0 }, fault.EKCertificate},
		{"no extKeyUsage, and keyUsage of the other kind of key", func(c *tpmtest.Certificate) {
			c.UnknownExtKeyUsage, c.KeyUsage = nil, x509.KeyUsageKeyEncipherment
		}, fault.EKCertificate},
		{"no extKeyUsage, and signatures", func(c *tpmtest.Certificate) {
			c.UnknownExtKeyUsage, c.KeyUsage = nil, c.KeyUsage|x509.KeyUsageDigitalSignature
		}, fault.EKCertificate},
	} {
		claim := b.claim()
		claim.EKCertificate = b.maker.Certify(t, b.chip.EK.Signer.Public(), tpmtest.Options{Edit: c.edit})
		_, err := b.check(claim)
		if c.want == 0 && err != nil || c.want != 0 && !fault.Has(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

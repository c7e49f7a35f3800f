package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"
)

// TestOnlyTheCertificatesOfTheWayAreClaimed gives a leaf's intermediates in
// disorder, with others and with the root among them.
func TestOnlyTheCertificatesOfTheWayAreClaimed(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	certify := func(name, issuer string) []byte {
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		}, &x509.Certificate{Subject: pkix.Name{CommonName: issuer}}, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	leaf, low, high, root, other := certify("leaf", "low"), certify("low", "high"), certify("high", "root"), certify("root", "root"), certify("other", "root")
	got := path(leaf, [][]byte{other, root, high, []byte("no certificate"), low})
	if len(got) != 2 || !bytes.Equal(got[0], low) || !bytes.Equal(got[1], high) {
		t.Errorf("%d certificates", len(got))
	}
	// Two that name each other have an end.
	if got := path(leaf, [][]byte{certify("low", "high"), certify("high", "low")}); len(got) != maxChain {
		t.Errorf("%d certificates in a circle", len(got))
	}
	if got := path([]byte("x"), [][]byte{low}); got != nil {
		t.Errorf("%d certificates above none", len(got))
	}
}

func FuzzCertificates(f *testing.F) {
	f.Add([]byte{0x30, 0x03, 0x02, 0x01, 0x01, 0x00, 0x00})
	f.Fuzz(func(t *testing.T, text []byte) {
		n := 0
		for _, one := range certificates(text) {
			n += len(one)
		}
		if n > len(text) {
			t.Errorf("%d octets of %d", n, len(text))
		}
	})
}

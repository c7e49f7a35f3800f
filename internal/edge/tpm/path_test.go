package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
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

// TestARSAKeyForOAEPAloneIsTheSameKey changes the key's algorithm in a certificate.
func TestARSAKeyForOAEPAloneIsTheSameKey(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	want, err := certificateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	plain, oaep := []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0}, []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 7, 5, 0}
	if bytes.Count(der, plain) != 1 {
		t.Fatal("the certificate has another form")
	}
	got, err := certificateKey(bytes.Replace(der, plain, oaep, 1))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("another key, %v", err)
	}
	if _, err := certificateKey(der[:len(der)-1]); err == nil {
		t.Error("half a certificate has a key")
	}
}

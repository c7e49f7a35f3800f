package signer

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"
)

// FuzzParse holds what the parser makes of bytes against crypto/x509, which must
// not see a CA or another issuer where it sees none.
func FuzzParse(f *testing.F) {
	seed := []byte{
		0x30, 0x2c, 0xa0, 3, 2, 1, 2, 2, 1, 7, 0x30, 0, 0x30, 0, 0x30, 0x1e,
		0x17, 0x0d, '2', '6', '0', '1', '0', '1', '0', '0', '0', '0', '0', '0', 'Z',
		0x17, 0x0d, '2', '7', '0', '1', '0', '1', '0', '0', '0', '0', '0', '0', 'Z',
	}
	f.Add(seed)
	for _, real := range realBytes(f) {
		f.Add(real)
	}
	f.Add([]byte{0x30, 3, 2, 1, 1})
	f.Add([]byte{0x30, 3, 2, 1, 0})
	f.Add([]byte{0x30, 4, 0xa2, 2, 4, 0})
	f.Fuzz(func(t *testing.T, tbs []byte) {
		got, err := parse(tbs)
		streamed, _, _, streamErr := readStream(bytes.NewReader(tbs), crypto.SHA256, nil)
		if err == nil && got.kind == CRL && (streamErr != nil || streamed.entries != got.entries || !bytes.Equal(streamed.number, got.number)) {
			t.Errorf("a CRL is another one in a stream: %v", streamErr)
		}
		if err != nil || !got.kind.certificate() {
			return
		}
		// SEQUENCE { tbs, algorithm, BIT STRING 00 }
		body := append(append(append([]byte(nil), tbs...), got.algorithm...), 3, 2, 0, 0)
		der := append([]byte{0x30, 0x83, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
		if len(body) < 1<<16 {
			der = append([]byte{0x30, 0x82, byte(len(body) >> 8), byte(len(body))}, body...)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		switch {
		case cert.IsCA != (got.kind == CA) && cert.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) == 0:
			t.Errorf("x509 says CA %t, the signer %s", cert.IsCA, got.kind)
		case !bytes.Equal(cert.RawIssuer, got.issuer), !bytes.Equal(cert.RawSubject, got.subject):
			t.Error("names differ")
		case !cert.NotBefore.Equal(got.from), !cert.NotAfter.Equal(got.to):
			t.Error("times differ")
		}
	})
}

// realBytes are to-be-signed bytes as crypto/x509 makes them.
func realBytes(f testing.TB) [][]byte {
	f.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	form := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "CA"}, BasicConstraintsValid: true, IsCA: true, NotBefore: now, NotAfter: now.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, DNSNames: []string{"a.example"},
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, key.Public(), key)
	if err != nil {
		f.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		f.Fatal(err)
	}
	list := &x509.RevocationList{
		Number: big.NewInt(9), ThisUpdate: now, NextUpdate: now.AddDate(0, 0, 1),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(5), RevocationTime: now, ReasonCode: 1}},
	}
	if der, err = x509.CreateRevocationList(rand.Reader, list, cert, key); err != nil {
		f.Fatal(err)
	}
	parsed, err := x509.ParseRevocationList(der)
	if err != nil {
		f.Fatal(err)
	}
	if der, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: form.Subject}, key); err != nil {
		f.Fatal(err)
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		f.Fatal(err)
	}
	return [][]byte{cert.RawTBSCertificate, parsed.RawTBSRevocationList, request.RawTBSCertificateRequest}
}

func FuzzRecord(f *testing.F) {
	var c chain
	r := Record{At: time.UnixMilli(1), Key: "k", Number: []byte{1}, Outcome: Signing}
	f.Add(r.appendTo(nil, &c))
	f.Fuzz(func(t *testing.T, data []byte) {
		body, _, _, _, ok := cut(data)
		if !ok {
			return
		}
		r, ok := parseRecord(body)
		if !ok {
			return
		}
		var c chain
		again := r.appendTo(nil, &c)
		if !bytes.Equal(again[5:len(again)-hashSize], body) {
			t.Error("a record has two forms")
		}
	})
}

func TestNumbersCompareAsIntegers(t *testing.T) {
	for _, one := range []struct {
		a, b []byte
		want int
	}{
		{[]byte{1}, nil, 1},
		{[]byte{0, 0x80}, []byte{0x7f}, 1},
		{[]byte{1, 0}, []byte{0, 0xff}, 1},
		{[]byte{2}, []byte{2}, 0},
		{[]byte{2}, []byte{3}, -1},
	} {
		if got := compareNumbers(one.a, one.b); (got > 0) != (one.want > 0) || (got < 0) != (one.want < 0) {
			t.Errorf("%x and %x: %d", one.a, one.b, got)
		}
	}
}

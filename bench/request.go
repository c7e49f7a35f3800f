package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/store"
)

// wrongEvery is how often a request carries a wrong secret: one in a hundred.
const wrongEvery = 100

// pool holds an enrollment request for each device of a range, made before the
// clock runs: a device enrolls once, with a key that nobody had before.
type pool struct {
	first    int // device number of the first request
	requests [][]byte
}

// extend makes requests up to device number last, on all cores.
func (p *pool) extend(last int) error {
	from := len(p.requests)
	n := last - p.first + 1
	if n <= from {
		return nil
	}
	p.requests = append(p.requests, make([][]byte, n-from)...)
	workers := runtime.GOMAXPROCS(0)
	errs := make([]error, workers)
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for i := from + w; i < n && errs[w] == nil; i += workers {
				p.requests[i], errs[w] = enrollment(p.first + i)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// forget drops requests before device number first.
func (p *pool) forget(first int) {
	for i := range min(first-p.first, len(p.requests)) {
		p.requests[i] = nil
	}
}

func (p *pool) request(number int) []byte { return p.requests[number-p.first] }

func (p *pool) last() int { return p.first + len(p.requests) - 1 }

// wrong reports whether the device's request carries a wrong secret.
func wrong(number int) bool { return number%wrongEvery == wrongEvery-1 }

// enrollment is the whole HTTP request of a seeded device.
func enrollment(number int) ([]byte, error) {
	csr, err := newCSR()
	if err != nil {
		return nil, err
	}
	deviceSerial := store.SeedSerial(number)
	secret := store.SeedSecret(deviceSerial)
	if wrong(number) {
		secret = "0123456789abcdef0123456789abcdef"
	}
	basic := base64.StdEncoding.EncodeToString([]byte(deviceSerial + ":" + secret))
	head := fmt.Sprintf("POST /.well-known/est/simpleenroll HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic %s\r\n"+
		"Content-Type: application/pkcs10\r\nContent-Length: %d\r\n\r\n", basic, base64.StdEncoding.EncodedLen(len(csr)))
	return base64.StdEncoding.AppendEncode([]byte(head), csr), nil
}

// newCSR makes a PKCS #10 request without a name for a fresh P-256 key.
func newCSR() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Uint64(0)
		b.AddASN1(asn1.SEQUENCE, func(*cryptobyte.Builder) {})
		b.AddBytes(spki)
		b.AddASN1(asn1.Tag(0).ContextSpecific().Constructed(), func(*cryptobyte.Builder) {})
	})
	info, err := b.Bytes()
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(info)
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		return nil, err
	}
	var whole cryptobyte.Builder
	whole.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(info)
		b.AddBytes(ecdsaWithSHA256)
		b.AddASN1BitString(signature)
	})
	return whole.Bytes()
}

// ecdsaWithSHA256 is the AlgorithmIdentifier of RFC 5758, section 3.2.
var ecdsaWithSHA256 = []byte{0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02}

// keyOf returns the SubjectPublicKeyInfo that a request asks a certificate for.
func keyOf(request []byte) ([]byte, error) {
	_, body, ok := bytes.Cut(request, []byte("\r\n\r\n"))
	if !ok {
		return nil, errors.New("the request has no body")
	}
	der, err := base64.StdEncoding.AppendDecode(nil, body)
	if err != nil {
		return nil, err
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, err
	}
	return csr.RawSubjectPublicKeyInfo, nil
}

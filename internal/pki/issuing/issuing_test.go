package issuing

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/pki/profile"
)

// softKey signs in memory.
type softKey struct{ crypto.Signer }

func (k softKey) SignMessage(random io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	return crypto.SignMessage(k.Signer, random, message, opts)
}

var keyCache struct {
	sync.Mutex
	keys map[profile.KeyType]softKey
}

// testKey returns a key of a type, the same one in the whole test process,
// since large RSA keys take seconds.
func testKey(t testing.TB, kt profile.KeyType) softKey {
	t.Helper()
	keyCache.Lock()
	defer keyCache.Unlock()
	if k, ok := keyCache.keys[kt]; ok {
		return k
	}
	var k crypto.Signer
	var err error
	switch kt {
	case profile.P256:
		k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case profile.P384:
		k, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case profile.Ed25519:
		_, k, err = ed25519.GenerateKey(rand.Reader)
	case profile.RSA2048:
		k, err = rsa.GenerateKey(rand.Reader, 2048)
	case profile.RSA3072:
		k, err = rsa.GenerateKey(rand.Reader, 3072)
	case profile.RSA4096:
		k, err = rsa.GenerateKey(rand.Reader, 4096)
	}
	if err != nil {
		t.Fatal(err)
	}
	if keyCache.keys == nil {
		keyCache.keys = make(map[profile.KeyType]softKey)
	}
	keyCache.keys[kt] = softKey{k}
	return softKey{k}
}

func preset(t testing.TB, name string) *profile.Profile {
	t.Helper()
	text, ok := profile.Preset(name)
	if !ok {
		t.Fatalf("no preset %s", name)
	}
	return parse(t, string(text))
}

func parse(t testing.TB, text string) *profile.Profile {
	t.Helper()
	p, err := profile.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var testNow = time.Date(2026, 9, 1, 12, 34, 56, 0, time.UTC)

const testURL = "http://pki.example.com"

// testRoot returns a root with a key of a type.
func testRoot(t testing.TB, kt profile.KeyType) *Issuer {
	t.Helper()
	p := preset(t, "root")
	key := testKey(t, kt)
	in := Input{CertSerial: []byte{1}, Values: profile.Values{CommonName: "Test Root", Organization: "Acme"}}
	in.NotBefore, in.NotAfter = SelfValidity(p, testNow)
	der, err := SelfSign(p, key, in)
	if err != nil {
		t.Fatal(err)
	}
	return &Issuer{Name: "root", Certificate: der, Key: key, StatusURL: testURL}
}

// testIssuer returns an issuing authority with a key of a type, under a root.
func testIssuer(t testing.TB, kt profile.KeyType) *Issuer {
	t.Helper()
	root := testRoot(t, profile.P384)
	c := compiled(t, preset(t, "issuing"), root)
	key := testKey(t, kt)
	in := input(t, c, mustSPKI(t, key.Public()))
	in.Values = profile.Values{CommonName: "Test Issuing", Organization: "Acme"}
	return &Issuer{Name: "issuing", Certificate: issue(t, c, in), Key: key, StatusURL: testURL}
}

func compiled(t testing.TB, p *profile.Profile, iss *Issuer) *Compiled {
	t.Helper()
	c, err := New(p, iss)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func issue(t testing.TB, c *Compiled, in Input) []byte {
	t.Helper()
	der, err := c.Issue(in)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func mustSPKI(t testing.TB, public crypto.PublicKey) []byte {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return spki
}

// input returns an input with sample values.
func input(t testing.TB, c *Compiled, spki []byte) Input {
	t.Helper()
	in := Input{CertSerial: testSerial(), Values: SampleValues(c.profile), SPKI: spki}
	var err error
	if c.authority.certificate == nil {
		in.NotBefore, in.NotAfter = SelfValidity(c.profile, testNow)
	} else if in.NotBefore, in.NotAfter, err = c.Validity(testNow); err != nil {
		t.Fatal(err)
	}
	return in
}

func testSerial() []byte {
	s := make([]byte, 16)
	_, _ = rand.Read(s)
	s[0] = s[0]&0x7f | 0x40
	return s
}

func sampleKey(t testing.TB, kt profile.KeyType) []byte {
	t.Helper()
	spki, err := SampleKey(kt)
	if err != nil {
		t.Fatal(err)
	}
	return spki
}

func parseCertificate(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

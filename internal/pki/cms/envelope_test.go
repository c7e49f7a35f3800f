package cms

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/needs"
)

// recipient is a self-signed certificate with a key to receive with.
func recipient(t *testing.T, key crypto.Signer, usage x509.KeyUsage) *x509.Certificate {
	t.Helper()
	signer := key
	if _, ok := key.(*rsa.PrivateKey); ok { // quicker, and nobody looks at the signature
		signer = newKey(t, elliptic.P256())
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(0x1234567890), Subject: pkix.Name{CommonName: "recipient"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: usage,
	}, &x509.Certificate{Subject: pkix.Name{CommonName: "issuer", Organization: []string{"Acme"}}, KeyUsage: x509.KeyUsageCertSign}, key.Public(), signer)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert
}

func newKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	must(t, err)
	return key
}

func newRSA(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	must(t, err)
	return key
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// OpenSSL reads what is sealed, for each kind of recipient and cipher and for
// contents around a block's length.
func TestSealOpensWithOpenSSL(t *testing.T) {
	openssl := needs.OpenSSL(t)
	keys := map[string]crypto.Signer{
		"rsa2048": newRSA(t, 2048), "p256": newKey(t, elliptic.P256()), "p384": newKey(t, elliptic.P384()),
	}
	for name, key := range keys {
		for _, how := range []struct {
			name   string
			cipher Cipher
		}{{"cbc", CBC}, {"gcm", GCM}} {
			t.Run(name+"/"+how.name, func(t *testing.T) {
				dir := t.TempDir()
				file := func(name string, content []byte) string {
					path := filepath.Join(dir, name)
					must(t, os.WriteFile(path, content, 0o600))
					return path
				}
				cert := recipient(t, key, 0)
				private, err := x509.MarshalPKCS8PrivateKey(key)
				must(t, err)
				keyFile := file("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
				certFile := file("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
				for _, size := range []int{1, 15, 16, 17, 138, 2400} {
					content := bytes.Repeat([]byte{0x30, 0x82, 0xff}, size)[:size]
					sealed, err := Seal(Data, content, cert, how.cipher, rand.Reader)
					must(t, err)
					if size > 16 && bytes.Contains(sealed, content) {
						t.Fatal("the content is in the open")
					}
					out := filepath.Join(dir, "out")
					text, err := exec.CommandContext(t.Context(), openssl, "cms", "-decrypt", "-binary", "-inform", "DER",
						"-in", file("sealed.der", sealed), "-inkey", keyFile, "-recip", certFile, "-out", out).CombinedOutput()
					if err != nil {
						t.Fatalf("openssl: %v\n%s", err, text)
					}
					got, err := os.ReadFile(out)
					must(t, err)
					if !bytes.Equal(got, content) {
						t.Errorf("openssl reads %x", got)
					}
				}
			})
		}
	}
}

func TestSealTellsOpenSSLItsForm(t *testing.T) {
	openssl := needs.OpenSSL(t)
	rsaCert, ecCert := recipient(t, newRSA(t, 2048), 0), recipient(t, newKey(t, elliptic.P256()), 0)
	for name, tt := range map[string]struct {
		kind   ContentType
		to     *x509.Certificate
		cipher Cipher
		want   []string
	}{
		"rsa": {Data, rsaCert, CBC, []string{"pkcs7-envelopedData", "rsaesOaep", "sha256", "aes-256-cbc", "version: 0"}},
		"ec":  {KeyPackage, ecCert, CBC, []string{"pkcs7-envelopedData", "dhSinglePass-stdDH-sha256kdf-scheme", "aes-256-cbc", "2.16.840.1.101.2.1.2.78.5"}},
		"gcm": {Data, ecCert, GCM, []string{"authEnvelopedData", "aes-256-gcm", "id-aes256-wrap"}},
	} {
		t.Run(name, func(t *testing.T) {
			sealed, err := Seal(tt.kind, []byte("content"), tt.to, tt.cipher, rand.Reader)
			must(t, err)
			cmd := exec.CommandContext(t.Context(), openssl, "cms", "-cmsout", "-print", "-noout", "-inform", "DER")
			cmd.Stdin = bytes.NewReader(sealed)
			text, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			for _, want := range tt.want {
				if !strings.Contains(strings.ToLower(string(text)), strings.ToLower(want)) {
					t.Errorf("openssl does not see %s in\n%s", want, text)
				}
			}
		})
	}
}

func TestSealRefusesRecipients(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	for name, cert := range map[string]*x509.Certificate{
		"RSA that signs":    recipient(t, newRSA(t, 2048), x509.KeyUsageDigitalSignature),
		"RSA that agrees":   recipient(t, newRSA(t, 2048), x509.KeyUsageKeyAgreement),
		"RSA-1024":          recipient(t, weakRSA(t), 0),
		"EC that signs":     recipient(t, newKey(t, elliptic.P256()), x509.KeyUsageDigitalSignature),
		"EC that enciphers": recipient(t, newKey(t, elliptic.P256()), x509.KeyUsageKeyEncipherment),
		"P-224":             recipient(t, newKey(t, elliptic.P224()), 0),
		"P-521":             recipient(t, newKey(t, elliptic.P521()), 0),
		"Ed25519":           recipient(t, ed, 0),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Seal(Data, []byte("x"), cert, CBC, rand.Reader); !fault.Has(err, fault.RecipientInvalid) {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := Seal(KeyPackage, []byte("x"), recipient(t, newKey(t, elliptic.P256()), x509.KeyUsageKeyAgreement), GCM, rand.Reader); err == nil {
		t.Error("AuthEnvelopedData of a key package has no authenticated attributes")
	}
}

func weakRSA(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	block, _ := pem.Decode([]byte(rsa1024))
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	must(t, err)
	return key
}

// TestWrapKey has the vector of RFC 3394, section 4.6.
func TestWrapKey(t *testing.T) {
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		must(t, err)
		return b
	}
	got, err := wrapKey(unhex("000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F"),
		unhex("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F"))
	must(t, err)
	if want := "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21"; hex.EncodeToString(got) != want {
		t.Errorf("got %x, want %s", got, want)
	}
}

// rsa1024 is too short a key, which this version of Go does not make any more.
const rsa1024 = `-----BEGIN RSA PRIVATE KEY-----
MIICXAIBAAKBgQCz7sqr9LfyVT7M4l8kBSs2FJ+Uk6VfffNUshVZOf8Fpy7R6Rf/
cOGFxNK5/JT/ZYdh4EZS2VgEX1U7thjWEnS/rLkjrp777r5KW9py141vdVFjtxr8
nVziQpyF/J3tlACx7jek+MH9vj00cCLyNzZIu+q7Pwg/0L3ZHoVIefVf9QIDAQAB
AoGAQ1g/0QZiBrhzLdoYQ/IPT0l+xOxR/CC2/1878E5trd75/iThD4FfV2LogCYS
WljUyARaLc4dTF2mGBg6yXzU5vuPRkLsWhIRpKhHlPS4wub/IgR+LVpd/meENzeQ
PKcTmR/UKnOOlmXCcZzkSObEJcedwdCClhbuOhPsYSldecECQQDnfVFgf/bDgP3Z
HphJJ0j5l70tWeon43JX7xZDOGlgq7qEUj1kv1BlhAYajq0NJrKNNo1UUvFcf2pu
L7l04wpxAkEAxvv+MxV7Lo+wPm8cWyMkAykyceo3A0CXXKDnogYySmTsBdj7anY7
X//VQ756YU/W2akcruRJMEmm02rZN2lHxQJBAOAcWyRpvqUXxKrnC9gGyIebd/Lo
EeH8OT8YoR0DCEIm/7QLSpS3A0bEwoQDjVYmGMbOAZWZl0JNuORkH9Ah3oECQHgO
EAfYPRMRpJ92wGAIarDxiTsLuhdfQDOl7Ttni64xB+pbSQ2puhcorw6JfSL7XcDD
dMfceoAE3/+M5vO0tJUCQAvX965jxRoPBQC2s5QgFPTg+BNKaObIbw9/Y3UAwrl7
MVMnLKWyT2PI9SBvRGsV/C9L/LuQvfIPRKGIvl6/zU0=
-----END RSA PRIVATE KEY-----
`

// A key package is signed by who made the key, and then sealed (RFC 7030, section
// 4.4.2); OpenSSL takes both covers off.
func TestSignOpensWithOpenSSL(t *testing.T) {
	openssl := needs.OpenSSL(t)
	dir := t.TempDir()
	file := func(name, kind string, content []byte) string {
		if kind != "" {
			content = pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content})
		}
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, content, 0o600))
		return path
	}
	run := func(args ...string) []byte {
		t.Helper()
		out := filepath.Join(dir, "out")
		if text, err := exec.CommandContext(t.Context(), openssl, append(args, "-out", out)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, text)
		}
		content, err := os.ReadFile(out)
		must(t, err)
		return content
	}
	maker, holder := newKey(t, elliptic.P256()), newKey(t, elliptic.P384())
	makerCert, holderCert := recipient(t, maker, x509.KeyUsageDigitalSignature), recipient(t, holder, x509.KeyUsageKeyAgreement)
	content := []byte("a key package")
	sign := func(message []byte) ([]byte, error) {
		digest := sha256.Sum256(message)
		return ecdsa.SignASN1(rand.Reader, maker, digest[:])
	}
	signed, err := Sign(KeyPackage, content, makerCert.Raw, sign)
	must(t, err)
	sealed, err := Seal(SignedData, signed, holderCert, CBC, rand.Reader)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(holder)
	must(t, err)
	opened := run("cms", "-decrypt", "-binary", "-inform", "DER", "-in", file("sealed", "", sealed),
		"-inkey", file("key.pem", "PRIVATE KEY", private), "-recip", file("cert.pem", "CERTIFICATE", holderCert.Raw))
	if !bytes.Equal(opened, signed) {
		t.Fatal("the envelope holds something else")
	}
	message := func(signedData []byte) string {
		der, err := wrapContent(oidSignedData, func(b *cryptobyte.Builder) {
			value := cryptobyte.String(signedData)
			var inner cryptobyte.String
			if !value.ReadASN1(&inner, asn1.SEQUENCE) || !value.Empty() {
				t.Error("not one SignedData")
			}
			b.AddBytes(inner)
		})
		must(t, err)
		return file("message", "", der)
	}
	verify := []string{"cms", "-verify", "-binary", "-inform", "DER", "-noverify", "-certfile", file("maker.pem", "CERTIFICATE", makerCert.Raw)}
	if got := run(append(verify, "-in", message(opened))...); !bytes.Equal(got, content) {
		t.Errorf("openssl verifies %q", got)
	}
	changed := bytes.Replace(signed, content, []byte("a key pachage"), 1)
	if exec.CommandContext(t.Context(), openssl, append(verify, "-in", message(changed))...).Run() == nil {
		t.Error("a changed content verifies")
	}
	if _, err := Sign(KeyPackage, content, recipient(t, newRSA(t, 2048), 0).Raw, sign); err == nil {
		t.Error("an RSA certificate for an ECDSA signature")
	}
}

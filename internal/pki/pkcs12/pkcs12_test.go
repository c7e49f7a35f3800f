package pkcs12

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/needs"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// issued returns a key with a certificate and its issuer's.
func issued(t *testing.T, private any, public any) (key, leaf, issuer []byte) {
	t.Helper()
	ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	parent := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "issuing"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
	}
	issuer, err = x509.CreateCertificate(rand.Reader, parent, parent, ca.Public(), ca)
	must(t, err)
	leaf, err = x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "device"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
	}, parent, public, ca)
	must(t, err)
	key, err = x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	return key, leaf, issuer
}

const password = "Correct-horse:12"

func TestSealOpensWithOpenSSL(t *testing.T) {
	openssl := needs.OpenSSL(t)
	ec, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	for name, pair := range map[string][2]any{"p384": {ec, ec.Public()}, "rsa2048": {rs, rs.Public()}} {
		t.Run(name, func(t *testing.T) {
			key, leaf, issuer := issued(t, pair[0], pair[1])
			file, err := Seal(key, leaf, [][]byte{issuer}, password, rand.Reader)
			must(t, err)
			path := filepath.Join(t.TempDir(), "device.p12")
			must(t, os.WriteFile(path, file, 0o600))
			text, err := exec.CommandContext(t.Context(), openssl, "pkcs12", "-in", path, "-passin", "pass:"+password, "-nodes").CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			found := map[string]int{}
			for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
				for what, want := range map[string][]byte{"key": key, "leaf": leaf, "issuer": issuer} {
					if bytes.Equal(block.Bytes, want) {
						found[what]++
					}
				}
			}
			if found["key"] != 1 || found["leaf"] != 1 || found["issuer"] != 1 {
				t.Errorf("openssl finds %v in\n%s", found, text)
			}
			if exec.CommandContext(t.Context(), openssl, "pkcs12", "-in", path, "-passin", "pass:Correct-horse:13", "-nodes").Run() == nil {
				t.Error("another password opens it")
			}
			if !Opens(file, password) || Opens(file, "Correct-horse:13") {
				t.Error("Opens is wrong about the password")
			}
		})
	}
}

func TestSealRefusesPasswords(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	key, leaf, issuer := issued(t, ec, ec.Public())
	for _, bad := range []string{"", "elevenchars", "Grüße-an-alle!", "with\ttabulator", strings.Repeat("x", MaxPassword+1)} {
		if _, err := Seal(key, leaf, [][]byte{issuer}, bad, rand.Reader); !fault.Has(err, fault.ParameterInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := Seal(key, leaf, nil, "twelve chars", rand.Reader); err != nil {
		t.Error(err)
	}
}

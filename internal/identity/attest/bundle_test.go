package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/needs"
)

func TestBundleIsRefused(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := SignBundle([]byte(`{"name":"makers"}`), key, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	otherSPKI, err := x509.MarshalPKIXPublicKey(other.Public())
	if err != nil {
		t.Fatal(err)
	}
	edit := func(change func(b *Bundle)) []byte {
		var b Bundle
		if err := json.Unmarshal(text, &b); err != nil {
			t.Fatal(err)
		}
		change(&b)
		out, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for name, c := range map[string]struct {
		text []byte
		want fault.Code
	}{
		"content edited":       {edit(func(b *Bundle) { b.Content[3] ^= 1 }), fault.RootsSigner},
		"content longer":       {edit(func(b *Bundle) { b.Content = append(b.Content, ' ') }), fault.RootsSigner},
		"signature edited":     {edit(func(b *Bundle) { b.Signature[3] ^= 1 }), fault.RootsSigner},
		"signature cut":        {edit(func(b *Bundle) { b.Signature = b.Signature[1:] }), fault.RootsSigner},
		"another signer":       {edit(func(b *Bundle) { b.Signer = otherSPKI }), fault.RootsSigner},
		"no content":           {edit(func(b *Bundle) { b.Content = nil }), fault.RootsInvalid},
		"no signature":         {edit(func(b *Bundle) { b.Signature = nil }), fault.RootsInvalid},
		"no signer":            {edit(func(b *Bundle) { b.Signer = nil }), fault.RootsInvalid},
		"signer no key":        {edit(func(b *Bundle) { b.Signer = []byte("key") }), fault.RootsInvalid},
		"signer with more":     {edit(func(b *Bundle) { b.Signer = append(b.Signer, 0) }), fault.RootsInvalid},
		"an unknown member":    {bytes.Replace(text, []byte("{"), []byte(`{"more":1,`), 1), fault.RootsInvalid},
		"something follows":    {append(bytes.Clone(text), "{}"...), fault.RootsInvalid},
		"cut":                  {text[:len(text)-3], fault.RootsInvalid},
		"no base64":            {[]byte(`{"content":"*","signature":"AA==","signer":"AA=="}`), fault.RootsInvalid},
		"the content alone":    {[]byte(`{"name":"makers"}`), fault.RootsInvalid},
		"nothing":              {nil, fault.RootsInvalid},
		"more than is ever so": {append(bytes.Clone(text), strings.Repeat(" ", maxBundle)...), fault.RootsInvalid},
	} {
		if b, err := ParseBundle(c.text); !fault.Has(err, c.want) {
			t.Errorf("%s: %+v, %v", name, b, err)
		}
	}
}

// TestBundleMadeByAShell follows the comment of Bundle.
func TestBundleMadeByAShell(t *testing.T) {
	needs.Command(t, "openssl")
	shell := needs.Command(t, "sh")
	for algorithm, sign := range map[string]string{
		"-algorithm EC -pkeyopt ec_paramgen_curve:P-256": "openssl dgst -sha256 -sign key.pem -out sig roots.json",
		"-algorithm EC -pkeyopt ec_paramgen_curve:P-384": "openssl dgst -sha384 -sign key.pem -out sig roots.json",
		"-algorithm ED25519":                             "openssl pkeyutl -sign -rawin -inkey key.pem -in roots.json -out sig",
	} {
		t.Run(algorithm, func(t *testing.T) {
			folder := t.TempDir()
			content := []byte("{\"name\": \"makers\"}\n")
			if err := os.WriteFile(filepath.Join(folder, "roots.json"), content, 0o600); err != nil {
				t.Fatal(err)
			}
			script := "set -e\nopenssl genpkey " + algorithm + " -out key.pem\n" + sign + `
openssl pkey -in key.pem -pubout -outform DER -out key.der
printf '{"content":"%s","signature":"%s","signer":"%s"}\n' \
  "$(base64 -w0 roots.json)" "$(base64 -w0 sig)" "$(base64 -w0 key.der)" > roots.bundle
`
			c := exec.CommandContext(t.Context(), shell, "-c", script)
			c.Dir = folder
			if out, err := c.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			text, err := os.ReadFile(filepath.Join(folder, "roots.bundle"))
			if err != nil {
				t.Fatal(err)
			}
			b, err := ParseBundle(text)
			if err != nil || !bytes.Equal(b.Content, content) {
				t.Errorf("%+v, %v", b, err)
			}
		})
	}
}

func FuzzParseBundle(f *testing.F) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	text, err := SignBundle([]byte("{}"), key, rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"content":"AA==","signature":"AA==","signer":"AA=="}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := ParseBundle(text)
		if (err == nil) == (b == nil) && err == nil {
			t.Error("no bundle and no error")
		}
		if err != nil {
			return
		}
		var again Bundle
		if json.Unmarshal(text, &again) != nil || again.verify() != nil {
			t.Errorf("accepted %q", text)
		}
	})
}

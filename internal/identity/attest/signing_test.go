package attest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
)

func TestSignedBundleIsRead(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	content := []byte(`{"name":"x"}`)
	for _, key := range []crypto.Signer{p256, p384, ed} {
		text, err := SignBundle(content, key, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		b, err := ParseBundle(text)
		if err != nil || !bytes.Equal(b.Content, content) {
			t.Errorf("%T: %+v, %v", key, b, err)
		}
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{p521, weak} {
		if text, err := SignBundle(content, key, rand.Reader); !fault.Has(err, fault.RootsInvalid) {
			t.Errorf("%T: %s, %v", key, text, err)
		}
	}
}

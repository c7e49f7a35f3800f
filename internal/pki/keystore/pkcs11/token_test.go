//go:build pkcs11

package pkcs11_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/keystore/pkcs11"
	"github.com/birthmark/birthmark/internal/pki/keystore/pkcs11/softhsmtest"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

const label = "birthmark"

func pin(text string) func() ([]byte, error) {
	return func() ([]byte, error) { return []byte(text), nil }
}

func config(h *softhsmtest.HSM) pkcs11.Config {
	return pkcs11.Config{Module: h.Module, Token: label, PIN: pin(softhsmtest.PIN), Now: time.Now}
}

func open(t *testing.T, c pkcs11.Config) *pkcs11.Token {
	t.Helper()
	token, err := pkcs11.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(token.Close)
	return token
}

func digest(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

func verifies(t *testing.T, k *pkcs11.Key) {
	t.Helper()
	d := digest("birthmark")
	signature, err := k.Sign(t.Context(), d, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	switch public := k.Public().(type) {
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(public, d, signature) {
			t.Error("the signature does not verify")
		}
	case *rsa.PublicKey:
		if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, d, signature); err != nil {
			t.Error(err)
		}
	}
}

func TestKeysOfEachTypeSign(t *testing.T) {
	token := open(t, config(softhsmtest.New(t, label)))
	for i, kind := range []profile.KeyType{profile.P256, profile.P384, profile.RSA2048, profile.RSA3072} {
		k, err := token.Create(t.Context(), string(kind), []byte{byte(i + 1)}, kind)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := profile.KeyTypeOf(k.Public()); err != nil || got != kind {
			t.Errorf("%s, %v", got, err)
		}
		verifies(t, k)
		if _, err := token.Create(t.Context(), string(kind), []byte{99}, kind); !fault.Has(err, fault.KeyExists) {
			t.Errorf("twice: %v", err)
		}
	}
	if _, err := token.Create(t.Context(), "ed", []byte{9}, profile.Ed25519); !fault.Has(err, fault.KeyAlgorithm) {
		t.Error(err)
	}
	keys, err := token.Keys(t.Context())
	if err != nil || len(keys) != 4 {
		t.Fatal(len(keys), err)
	}
	for _, k := range keys {
		if !k.Signs || k.Extractable || !k.Local || !k.HasPublic || string(k.Type) != k.Label {
			t.Errorf("%+v", k)
		}
	}
}

// A key that pkcs11-tool made signs for us, and pkcs11-tool signs with ours.
func TestAnotherProgramUsesTheSameKeys(t *testing.T) {
	h := softhsmtest.New(t, label)
	h.Tool(label, "--keypairgen", "--key-type", "EC:prime256v1", "--label", "theirs", "--id", "0a0b")
	token := open(t, config(h))
	theirs, err := token.Key(t.Context(), "theirs", []byte{0x0a, 0x0b})
	if err != nil {
		t.Fatal(err)
	}
	verifies(t, theirs)

	ours, err := token.Create(t.Context(), "ours", []byte{7}, profile.P256)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	in, out := filepath.Join(dir, "digest"), filepath.Join(dir, "signature")
	d := digest("theirs with ours")
	if err := os.WriteFile(in, d, 0o600); err != nil {
		t.Fatal(err)
	}
	h.Tool(label, "--sign", "--mechanism", "ECDSA", "--signature-format", "openssl", "--id", "07", "--input-file", in, "--output-file", out)
	signature, err := os.ReadFile(out)
	if err != nil || !ecdsa.VerifyASN1(ours.Public().(*ecdsa.PublicKey), d, signature) {
		t.Errorf("%v, %x", err, signature)
	}
}

func TestWhatIsWrongIsSaidInPlainWords(t *testing.T) {
	h := softhsmtest.New(t, label)
	h.Init("other")
	for _, id := range []string{"01", "02"} {
		h.Tool(label, "--keypairgen", "--key-type", "EC:prime256v1", "--label", "twice", "--id", id)
	}
	h.Tool(label, "--keypairgen", "--key-type", "EC:secp521r1", "--label", "curve", "--id", "03")
	h.Tool(label, "--keypairgen", "--key-type", "EC:prime256v1", "--label", "half", "--id", "05")
	h.Tool(label, "--delete-object", "--type", "pubkey", "--id", "05")
	token := open(t, config(h))

	opened := func(edit func(*pkcs11.Config)) error {
		c := config(h)
		edit(&c)
		_, err := pkcs11.Open(c)
		return err
	}
	key := func(label string, id ...byte) error {
		_, err := token.Key(t.Context(), label, id)
		return err
	}
	text := filepath.Join(t.TempDir(), "module.so")
	if err := os.WriteFile(text, []byte("not a library"), 0o600); err != nil {
		t.Fatal(err)
	}
	foreign := foreignLibrary(t, h.Module)
	for _, one := range []struct {
		what string
		err  error
		code fault.Code
		says string
	}{
		{"no module", opened(func(c *pkcs11.Config) { c.Module = "/nowhere/module.so" }), fault.TokenModule, "is not there"},
		{"a folder", opened(func(c *pkcs11.Config) { c.Module = t.TempDir() }), fault.TokenModule, "is no file"},
		{"a text", opened(func(c *pkcs11.Config) { c.Module = text }), fault.TokenModule, "is no shared library"},
		{"another processor's", opened(func(c *pkcs11.Config) { c.Module = foreign }), fault.TokenModule, "another kind of processor"},
		{"another library", opened(func(c *pkcs11.Config) { c.Module = otherLibrary(t) }), fault.TokenModule, "no PKCS #11 module"},
		{"another label", opened(func(c *pkcs11.Config) { c.Token = "production" }), fault.TokenMissing, "there are: birthmark, other"},
		{"no key", key("missing"), fault.TokenKey, "no private key"},
		{"two keys", key("twice"), fault.TokenKey, "name its id"},
		{"another curve", key("curve"), fault.KeyAlgorithm, "neither P-256 nor P-384"},
		{"no public key", key("half"), fault.TokenKey, "no public key"},
		{"another id", key("twice", 9), fault.TokenKey, "no private key"},
		{"the right id", key("twice", 2), 0, ""},
	} {
		if one.code == 0 {
			if one.err != nil {
				t.Errorf("%s: %v", one.what, one.err)
			}
			continue
		}
		if f := fault.Of(one.err); f == nil || f.Code != one.code || !strings.Contains(f.Detail, one.says) {
			t.Errorf("%s: %v, want %s with %q", one.what, one.err, one.code, one.says)
		}
	}
}

// foreignLibrary is a copy of a library that claims another processor.
func foreignLibrary(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[18], data[19] = 0xf3, 0 // e_machine: RISC-V
	out := filepath.Join(t.TempDir(), "foreign.so")
	if err := os.WriteFile(out, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

// otherLibrary is a library that has nothing to do with PKCS #11.
func otherLibrary(t *testing.T) string {
	t.Helper()
	for _, pattern := range []string{"/lib/*/libz.so.1*", "/usr/lib/*/libz.so.1*", "/lib64/libz.so.1*", "/lib/*/libm.so.6", "/lib64/libm.so.6"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[0]
		}
	}
	t.Fatal("no other library")
	return ""
}

// A wrong PIN is tried once, whoever asks how often, until somebody says so.
func TestAWrongPINIsNotTriedInALoop(t *testing.T) {
	h := softhsmtest.New(t, label)
	var asked atomic.Int64
	wrong := true
	c := config(h)
	c.PIN = func() ([]byte, error) {
		asked.Add(1)
		if wrong {
			return []byte("0000"), nil
		}
		return []byte(softhsmtest.PIN), nil
	}
	token := open(t, c)
	for range 20 {
		if _, err := token.Key(t.Context(), "k", nil); !fault.Has(err, fault.TokenPIN) {
			t.Fatal(err)
		}
	}
	if asked.Load() != 1 {
		t.Errorf("the PIN was tried %d times", asked.Load())
	}
	wrong = false
	if _, err := token.Key(t.Context(), "k", nil); !fault.Has(err, fault.TokenPIN) {
		t.Error("it tried again by itself:", err)
	}
	token.Retry()
	if _, err := token.Create(t.Context(), "k", []byte{1}, profile.P256); err != nil {
		t.Error(err)
	}
}

// The token's folder is moved away and back, as a smart card is drawn and put
// back, while signatures are asked for.
func TestATokenThatWasDrawnSignsAgain(t *testing.T) {
	h := softhsmtest.New(t, label)
	token := open(t, config(h))
	k, err := token.Create(t.Context(), "k", []byte{1}, profile.P256)
	if err != nil {
		t.Fatal(err)
	}
	away := h.Tokens + "-away"
	if err := os.Rename(h.Tokens, away); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(h.Tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	missed := false
	for !missed && time.Now().Before(deadline) {
		_, err := k.Sign(t.Context(), digest("away"), crypto.SHA256)
		if err != nil {
			missed = true
			if f := fault.Of(err); f.Kind != fault.Unavailable && f.Kind != fault.NotFound {
				t.Errorf("while it is away: %v", err)
			}
		}
	}
	if !missed {
		t.Error("it signs without the token")
	}
	if err := os.Remove(h.Tokens); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(away, h.Tokens); err != nil {
		t.Fatal(err)
	}
	for {
		_, err := k.Sign(t.Context(), digest("back"), crypto.SHA256)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the token is back and does not sign: %v", err)
		}
	}
	verifies(t, k)
}

func TestManySignAtOnce(t *testing.T) {
	h := softhsmtest.New(t, label)
	c := config(h)
	c.Sessions = 3
	token := open(t, c)
	k, err := token.Create(t.Context(), "k", []byte{1}, profile.P256)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for j := range 20 {
				d := digest(string(rune(i)) + "/" + string(rune(j)))
				signature, err := k.Sign(context.Background(), d, crypto.SHA256)
				if err != nil || !ecdsa.VerifyASN1(k.Public().(*ecdsa.PublicKey), d, signature) {
					t.Errorf("%v", err)
				}
			}
		})
	}
	all.Wait()
}

func TestTheKeyIsTheOneOfItsCertificateRequest(t *testing.T) {
	h := softhsmtest.New(t, label)
	h.Tool(label, "--keypairgen", "--key-type", "rsa:2048", "--label", "rsa", "--id", "01")
	token := open(t, config(h))
	k, err := token.Key(t.Context(), "rsa", nil)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "public.der")
	h.Tool(label, "--read-object", "--type", "pubkey", "--id", "01", "--output-file", out)
	theirs, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil || !bytes.Equal(ours, theirs) {
		t.Errorf("%v\n%s%s", err, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: ours}), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: theirs}))
	}
}

func TestTokensAreListed(t *testing.T) {
	h := softhsmtest.New(t, label)
	all, err := pkcs11.Tokens(h.Module)
	if err != nil || !slices.ContainsFunc(all, func(i pkcs11.TokenInfo) bool { return i.Label == label && i.Initialized }) {
		t.Errorf("%+v, %v", all, err)
	}
}

package keystore

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/needs"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

var testPassphrase = Secret("correct horse battery staple")

// openTest returns an empty store that does not spend the tests' time on key
// derivation.
func openTest(t testing.TB) *Store {
	t.Helper()
	s, err := Open(Config{Dir: filepath.Join(t.TempDir(), "keys"), Rand: rand.Reader, Iterations: minIterations})
	if err != nil {
		t.Fatal(err)
	}
	s.iterations = 10
	return s
}

func create(t testing.TB, s *Store, uri string, kind profile.KeyType) Key {
	t.Helper()
	k, err := s.Create(t.Context(), uri, kind, testPassphrase)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (s *Store) path(uri string) string {
	return filepath.Join(s.dir, strings.TrimPrefix(uri, schemeFile)+suffix)
}

func samePublic(a, b crypto.PublicKey) bool {
	return a.(interface{ Equal(crypto.PublicKey) bool }).Equal(b)
}

// verify checks a signature made with the key's own hash.
func verify(k Key, message, signature []byte) bool {
	switch pub := k.Public().(type) {
	case *ecdsa.PublicKey:
		if pub.Curve == elliptic.P384() {
			d := sha512.Sum384(message)
			return ecdsa.VerifyASN1(pub, d[:], signature)
		}
		d := sha256.Sum256(message)
		return ecdsa.VerifyASN1(pub, d[:], signature)
	case ed25519.PublicKey:
		return ed25519.Verify(pub, message, signature)
	case *rsa.PublicKey:
		d := sha256.Sum256(message)
		return rsa.VerifyPKCS1v15(pub, crypto.SHA256, d[:], signature) == nil
	}
	return false
}

func TestCreateThenLoad(t *testing.T) {
	s := openTest(t)
	for _, kind := range profile.KeyTypes() {
		if testing.Short() && (kind == profile.RSA3072 || kind == profile.RSA4096) {
			continue
		}
		uri := "file:key-" + string(kind)
		made := create(t, s, uri, kind)
		loaded, err := s.Load(t.Context(), uri, testPassphrase)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if !samePublic(made.Public(), loaded.Public()) {
			t.Errorf("%s: another key was loaded", kind)
		}
		for _, k := range []Key{made, loaded} {
			if k.URI() != uri || k.Type() != kind {
				t.Errorf("%s: is %s of type %s", kind, k.URI(), k.Type())
			}
			message := []byte("to be signed")
			signature, err := k.SignMessage(nil, message, nil)
			if err != nil || !verify(k, message, signature) {
				t.Errorf("%s: signature does not verify: %v", kind, err)
			}
		}
	}
}

func TestSignatureOptions(t *testing.T) {
	s := openTest(t)
	p256, ed, rsaKey := create(t, s, "file:a", profile.P256), create(t, s, "file:b", profile.Ed25519), create(t, s, "file:c", profile.RSA2048)
	message := []byte("to be signed")
	digest := sha512.Sum512(message)

	signature, err := p256.SignMessage(rand.Reader, message, crypto.SHA512)
	if err != nil || !ecdsa.VerifyASN1(p256.Public().(*ecdsa.PublicKey), digest[:], signature) {
		t.Errorf("P-256 with SHA-512: %v", err)
	}
	pss := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA512}
	signature, err = rsaKey.SignMessage(rand.Reader, message, pss)
	if err != nil || rsa.VerifyPSS(rsaKey.Public().(*rsa.PublicKey), crypto.SHA512, digest[:], signature, pss) != nil {
		t.Errorf("RSA-PSS with SHA-512: %v", err)
	}
	if signature, err = ed.SignMessage(nil, message, crypto.Hash(0)); err != nil || !verify(ed, message, signature) {
		t.Errorf("Ed25519: %v", err)
	}
	for name, c := range map[string]struct {
		key  Key
		hash crypto.Hash
	}{
		"P-256 with SHA-1":     {p256, crypto.SHA1},
		"P-256 without a hash": {p256, 0},
		"RSA with MD5":         {rsaKey, crypto.MD5},
		"RSA without a hash":   {rsaKey, 0},
		"Ed25519 prehashed":    {ed, crypto.SHA512},
	} {
		if _, err := c.key.SignMessage(rand.Reader, message, c.hash); err == nil {
			t.Errorf("%s: a message was signed", name)
		}
		if _, err := c.key.Sign(rand.Reader, digest[:], c.hash); err == nil {
			t.Errorf("%s: a digest was signed", name)
		}
	}
}

// TestSignaturesAreHedged: equal messages must not have equal ECDSA signatures.
func TestSignaturesAreHedged(t *testing.T) {
	k := create(t, openTest(t), "file:a", profile.P256)
	a, errA := k.SignMessage(nil, []byte("x"), nil)
	b, errB := k.SignMessage(nil, []byte("x"), nil)
	if errA != nil || errB != nil || bytes.Equal(a, b) {
		t.Errorf("two signatures are equal: %v, %v", errA, errB)
	}
}

func TestCreateNeverOverwrites(t *testing.T) {
	s := openTest(t)
	create(t, s, "file:root", profile.P256)
	before, err := os.ReadFile(s.path("file:root"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), "file:root", profile.P256, Secret("other")); !fault.Has(err, fault.KeyExists) {
		t.Errorf("Create: %v", err)
	}
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(t.Context(), "file:root", other, Secret("other")); !fault.Has(err, fault.KeyExists) {
		t.Errorf("Import: %v", err)
	}
	// Even past the first look: the link itself refuses.
	if err := s.add("root", []byte("x")); !fault.Has(err, fault.KeyExists) {
		t.Errorf("add: %v", err)
	}
	after, err := os.ReadFile(s.path("file:root"))
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file was changed: %v", err)
	}
}

func TestCreateInParallelMakesOneKey(t *testing.T) {
	s := openTest(t)
	var made, refused atomic.Int32
	var winner atomic.Value
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			k, err := s.Create(t.Context(), "file:root", profile.P256, testPassphrase)
			switch {
			case err == nil:
				made.Add(1)
				winner.Store(k)
			case fault.Has(err, fault.KeyExists):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 || refused.Load() != 7 {
		t.Fatalf("%d made, %d refused", made.Load(), refused.Load())
	}
	k, err := s.Load(t.Context(), "file:root", testPassphrase)
	if err != nil || !samePublic(k.Public(), winner.Load().(Key).Public()) {
		t.Errorf("another key was loaded: %v", err)
	}
	onlyFiles(t, s, "root.key")
}

// onlyFiles checks what is in the folder, temporary files included.
func onlyFiles(t *testing.T, s *Store, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("the folder has %q, want %q", got, want)
	}
}

func TestKeyURIs(t *testing.T) {
	s := openTest(t)
	for uri, ok := range map[string]bool{
		"file:root":                         true,
		"file:acme-Issuing_2.p256":          true,
		"file:0":                            true,
		"file:com":                          true,
		"file:common":                       true,
		"file:" + strings.Repeat("a", 64):   true,
		"file:" + strings.Repeat("a", 65):   false,
		"file:":                             false,
		"file:../root":                      false,
		"file:..":                           false,
		"file:.root":                        false,
		"file:-root":                        false,
		"file:root.":                        false,
		"file:a/b":                          false,
		"file:a\\b":                         false,
		"file:/etc/passwd":                  false,
		"file://root":                       false,
		"file:a b":                          false,
		"file:a\x00":                        false,
		"file:ä":                            false,
		"file:C:root":                       false,
		"file:con":                          false,
		"file:NUL.txt":                      false,
		"file:lpt1":                         false,
		"root":                              false,
		"":                                  false,
		":":                                 false,
		"FILE:root":                         false,
		"tpm:0x81000001":                    false,
		"signer:pkcs11:token=a;object=root": false,
	} {
		_, err := s.Load(t.Context(), uri, testPassphrase)
		if ok && !fault.Has(err, fault.KeyUnknown) || !ok && !fault.Has(err, fault.KeyURI) {
			t.Errorf("Load %q: %v", uri, err)
		}
		if ok {
			continue
		}
		if _, err := s.Create(t.Context(), uri, profile.P256, testPassphrase); !fault.Has(err, fault.KeyURI) {
			t.Errorf("Create %q: %v", uri, err)
		}
		if err := s.ChangePassphrase(t.Context(), uri, testPassphrase, testPassphrase); !fault.Has(err, fault.KeyURI) {
			t.Errorf("ChangePassphrase %q: %v", uri, err)
		}
	}
	if _, err := s.Load(t.Context(), "tpm:0x81000001", nil); !strings.Contains(err.Error(), "tpm") {
		t.Errorf("the refusal does not name the scheme: %v", err)
	}
	onlyFiles(t, s)
}

func TestImportRefuses(t *testing.T) {
	s := openTest(t)
	key521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{
		"P-521":       key521,
		"RSA-1024":    small,
		"another Key": create(t, s, "file:key", profile.P256),
		"nothing":     nil,
	} {
		if _, err := s.Import(t.Context(), "file:new", key, testPassphrase); !fault.Has(err, fault.KeyAlgorithm) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Create(t.Context(), "file:new", "p521", testPassphrase); !fault.Has(err, fault.KeyAlgorithm) {
		t.Errorf("Create P-521: %v", err)
	}
	for _, empty := range []Secret{nil, {}} {
		if _, err := s.Create(t.Context(), "file:new", profile.P256, empty); !fault.Has(err, fault.PassphraseWrong) {
			t.Errorf("no passphrase: %v", err)
		}
	}
	onlyFiles(t, s, "key.key")
}

func TestListNamesKeysOnly(t *testing.T) {
	s := openTest(t)
	for _, uri := range []string{"file:issuing-2", "file:root", "file:issuing-1"} {
		create(t, s, uri, profile.P256)
	}
	for _, name := range []string{".new-0011223344556677", "notes.txt", "bad name.key", ".key"} {
		if err := os.WriteFile(filepath.Join(s.dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(s.dir, "folder.key"), 0o700); err != nil {
		t.Fatal(err)
	}
	got, err := s.List(t.Context())
	if want := []string{"file:issuing-1", "file:issuing-2", "file:root"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestChangePassphrase(t *testing.T) {
	s := openTest(t)
	made := create(t, s, "file:root", profile.Ed25519)
	next := NewPassphrase(rand.Reader)
	if err := s.ChangePassphrase(t.Context(), "file:root", Secret("wrong"), next); !fault.Has(err, fault.PassphraseWrong) {
		t.Errorf("with a wrong passphrase: %v", err)
	}
	if err := s.ChangePassphrase(t.Context(), "file:root", testPassphrase, nil); !fault.Has(err, fault.PassphraseWrong) {
		t.Errorf("to an empty passphrase: %v", err)
	}
	if _, err := s.Load(t.Context(), "file:root", testPassphrase); err != nil {
		t.Fatalf("the old passphrase was lost: %v", err)
	}
	if err := s.ChangePassphrase(t.Context(), "file:root", testPassphrase, next); err != nil {
		t.Fatal(err)
	}
	k, err := s.Load(t.Context(), "file:root", next)
	if err != nil || !samePublic(k.Public(), made.Public()) {
		t.Errorf("with the new passphrase: %v", err)
	}
	if _, err := s.Load(t.Context(), "file:root", testPassphrase); !fault.Has(err, fault.PassphraseWrong) {
		t.Errorf("with the old passphrase: %v", err)
	}
	if err := s.ChangePassphrase(t.Context(), "file:other", next, next); !fault.Has(err, fault.KeyUnknown) {
		t.Errorf("no such key: %v", err)
	}
	onlyFiles(t, s, "root.key")
}

func TestFilesOfOthersAreRefused(t *testing.T) {
	needs.Unix(t)
	s := openTest(t)
	create(t, s, "file:root", profile.P256)
	path := s.path("file:root")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o602, 0o644, 0o700, 0o400} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := s.Load(t.Context(), "file:root", testPassphrase)
		if ok := mode&0o077 == 0; ok && err != nil || !ok && !fault.Has(err, fault.KeyUnavailable) {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if err := os.Chmod(s.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Dir: s.dir, Rand: rand.Reader}); !fault.Has(err, fault.KeyUnavailable) {
		t.Errorf("folder open to everyone: %v", err)
	}
}

func TestLinksAreNotFollowed(t *testing.T) {
	needs.Unix(t)
	s := openTest(t)
	create(t, s, "file:root", profile.P256)
	outside := filepath.Join(t.TempDir(), "outside.key")
	if err := os.Rename(s.path("file:root"), outside); err != nil {
		t.Fatal(err)
	}
	create(t, s, "file:other", profile.P256)
	for name, target := range map[string]string{"root": outside, "inside": "other.key", "dangling": "nothing"} {
		if err := os.Symlink(target, s.path("file:"+name)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Load(t.Context(), "file:"+name, testPassphrase); !fault.Has(err, fault.KeyUnavailable) || !strings.Contains(err.Error(), "is a link") {
			t.Errorf("Load through %s: %v", name, err)
		}
		if _, err := s.Create(t.Context(), "file:"+name, profile.P256, testPassphrase); !fault.Has(err, fault.KeyExists) {
			t.Errorf("Create through %s: %v", name, err)
		}
	}
	got, err := s.List(t.Context())
	if err != nil || !slices.Equal(got, []string{"file:other"}) {
		t.Errorf("List: %q, %v", got, err)
	}
}

func TestFileThatDisappeared(t *testing.T) {
	s := openTest(t)
	k := create(t, s, "file:root", profile.P256)
	if err := os.Remove(s.path("file:root")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(t.Context(), "file:root", testPassphrase); !fault.Has(err, fault.KeyUnknown) {
		t.Errorf("%v", err)
	}
	if sig, err := k.SignMessage(nil, []byte("x"), nil); err != nil || !verify(k, []byte("x"), sig) {
		t.Errorf("the loaded key stopped working: %v", err)
	}
	if err := os.RemoveAll(s.dir); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(t.Context(), "file:root", testPassphrase); !fault.Has(err, fault.KeyUnavailable) {
		t.Errorf("without the folder: %v", err)
	}
	if _, err := s.List(t.Context()); !fault.Has(err, fault.KeyUnavailable) {
		t.Errorf("List without the folder: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]Config{
		"no folder":           {Rand: rand.Reader},
		"no randomness":       {Dir: t.TempDir()},
		"too few iterations":  {Dir: t.TempDir(), Rand: rand.Reader, Iterations: minIterations - 1},
		"too many iterations": {Dir: t.TempDir(), Rand: rand.Reader, Iterations: maxIterations + 1},
		"a file":              {Dir: file, Rand: rand.Reader},
	} {
		if _, err := Open(c); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	s, err := Open(Config{Dir: t.TempDir(), Rand: rand.Reader})
	if err != nil || s.iterations != DefaultIterations {
		t.Errorf("%v", err)
	}
}

func TestNothingIsWrittenWithoutRandomness(t *testing.T) {
	s := openTest(t)
	for n := range 3 {
		s.rand = iotest.TimeoutReader(bytes.NewReader(make([]byte, 16*n)))
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Import(t.Context(), "file:root", key, testPassphrase); err == nil {
			t.Errorf("%d octets were enough", 16*n)
		}
		onlyFiles(t, s)
	}
}

func TestCanceledCallsDoNothing(t *testing.T) {
	s := openTest(t)
	create(t, s, "file:root", profile.P256)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, createErr := s.Create(ctx, "file:new", profile.P256, testPassphrase)
	_, loadErr := s.Load(ctx, "file:root", testPassphrase)
	_, listErr := s.List(ctx)
	changeErr := s.ChangePassphrase(ctx, "file:root", testPassphrase, Secret("new"))
	for _, err := range []error{createErr, loadErr, listErr, changeErr} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
	onlyFiles(t, s, "root.key")
}

func TestNewKeyRefusesAnotherPublicKey(t *testing.T) {
	a, b := p256(t), p256(t)
	a.PublicKey = b.PublicKey
	if _, err := newKey("file:a", a); err == nil {
		t.Error("private and public key do not belong together, and nobody noticed")
	}
	if _, err := ecdh.P256().NewPrivateKey(make([]byte, 32)); err == nil {
		t.Error("crypto/ecdh takes 0 for a private key")
	}
}

func p256(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

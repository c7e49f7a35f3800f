package keystore

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/needs"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

func fileOf(t testing.TB, s *Store, uri string) []byte {
	t.Helper()
	content, err := os.ReadFile(s.path(uri))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestWrongPassphrase(t *testing.T) {
	s := openTest(t)
	for _, kind := range []profile.KeyType{profile.P256, profile.Ed25519} {
		create(t, s, "file:"+string(kind), kind)
		content := fileOf(t, s, "file:"+string(kind))
		// One wrong passphrase in 256 leaves a valid padding. (PBKDF2 does not
		// tell NUL octets at the end from none.)
		for i := range 1000 {
			p := append(bytes.Clone(testPassphrase), byte(i), 1+byte(i>>8))
			if _, err := decode(content, p); !fault.Has(err, fault.PassphraseWrong) {
				t.Fatalf("%s: %v", kind, err)
			}
		}
		if _, err := decode(content, nil); !fault.Has(err, fault.PassphraseWrong) {
			t.Errorf("%s, no passphrase: %v", kind, err)
		}
	}
}

func TestTruncatedFile(t *testing.T) {
	s := openTest(t)
	made := create(t, s, "file:key", profile.Ed25519)
	content := fileOf(t, s, "file:key")
	for n := range content {
		k, err := decode(content[:n], testPassphrase)
		switch {
		case err == nil && !samePublic(k.Public(), made.Public()):
			t.Fatalf("cut to %d octets: another key", n)
		case err == nil && n < len(content)-2:
			t.Errorf("cut to %d octets: loaded", n)
		case err != nil && !fault.Has(err, fault.PassphraseWrong):
			t.Errorf("cut to %d octets: %v", n, err)
		}
	}
}

// TestChangedFile changes every octet of a file: it must be refused, or still be
// the same key.
func TestChangedFile(t *testing.T) {
	s := openTest(t)
	for kind, step := range map[profile.KeyType]int{profile.P256: 1, profile.Ed25519: 1, profile.P384: 1, profile.RSA2048: 9} {
		uri := "file:" + string(kind)
		made := create(t, s, uri, kind)
		content := fileOf(t, s, uri)
		same := 0
		for i := 0; i < len(content); i += step {
			for _, mask := range []byte{0x01, 0x04, 0x20, 0x80} {
				changed := bytes.Clone(content)
				changed[i] ^= mask
				k, err := decode(changed, testPassphrase)
				switch {
				case err == nil && !samePublic(k.Public(), made.Public()):
					t.Fatalf("%s, octet %d: another key", kind, i)
				case err == nil:
					same++
				case fault.Of(err).Code == fault.Unexpected:
					t.Fatalf("%s, octet %d: %v", kind, i, err)
				}
			}
		}
		if same > len(content)/10 {
			t.Errorf("%s: %d changes went unnoticed", kind, same)
		}
	}
}

// TestChangedCiphertext changes the DER below the armor, the iteration count
// included, and every bit of it.
func TestChangedCiphertext(t *testing.T) {
	s := openTest(t)
	made := create(t, s, "file:key", profile.Ed25519)
	block, rest := pem.Decode(fileOf(t, s, "file:key"))
	for i := range block.Bytes {
		for bit := range 8 {
			changed := bytes.Clone(block.Bytes)
			changed[i] ^= 1 << bit
			content := append(pem.EncodeToMemory(&pem.Block{Type: blockEncrypted, Bytes: changed}), rest...)
			if k, err := decode(content, testPassphrase); err == nil && !samePublic(k.Public(), made.Public()) {
				t.Fatalf("octet %d, bit %d: another key", i, bit)
			}
		}
	}
}

func TestKeyOfAnotherFile(t *testing.T) {
	s := openTest(t)
	create(t, s, "file:a", profile.P256)
	create(t, s, "file:b", profile.P256)
	_, publicA := pem.Decode(fileOf(t, s, "file:a"))
	privateB, _ := pem.Decode(fileOf(t, s, "file:b"))
	mixed := append(pem.EncodeToMemory(privateB), publicA...)
	if _, err := decode(mixed, testPassphrase); !fault.Has(err, fault.PassphraseWrong) {
		t.Errorf("%v", err)
	}
}

func TestMalformedFiles(t *testing.T) {
	s := openTest(t)
	create(t, s, "file:key", profile.Ed25519)
	content := string(fileOf(t, s, "file:key"))
	private, public, _ := strings.Cut(content, "-----BEGIN PUBLIC KEY")
	public = "-----BEGIN PUBLIC KEY" + public
	der, err := x509.MarshalPKCS8PrivateKey(ed25519.NewKeyFromSeed(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	open := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	for name, c := range map[string]struct {
		text string
		ok   bool
	}{
		"as written":            {content, true},
		"blank lines":           {"\n" + private + "\n\r\n" + public + "\n", true},
		"nothing":               {"", false},
		"no public key":         {private, false}, // an Ed25519 seed proves nothing
		"no private key":        {public, false},
		"the other order":       {public + private, false},
		"two public keys":       {content + public, false},
		"text in front":         {"hello\n" + content, false},
		"text between":          {private + "hello\n" + public, false},
		"text behind":           {content + "hello", false},
		"headers":               {strings.Replace(content, "-----\n", "-----\nProc-Type: 4,ENCRYPTED\n\n", 1), false},
		"an open private key":   {open + public, false},
		"label of the old kind": {strings.ReplaceAll(content, "ENCRYPTED PRIVATE", "EC PRIVATE"), false},
	} {
		_, err := decode([]byte(c.text), testPassphrase)
		if c.ok && err != nil || !c.ok && !fault.Has(err, fault.PassphraseWrong) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.WriteFile(s.path("file:huge"), bytes.Repeat([]byte("\n"), maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(t.Context(), "file:huge", testPassphrase); !fault.Has(err, fault.PassphraseWrong) {
		t.Errorf("huge file: %v", err)
	}
}

// TestWorkIsBounded: a file may not make us compute for minutes or fill memory.
func TestWorkIsBounded(t *testing.T) {
	for name, e := range map[string]encrypted{
		"PBKDF2, iterations":   {kdf: []byte(oidPBKDF2), kdfParams: []byte("\x04\x01s\x02\x04\x7f\xff\xff\xff")},
		"PBKDF2, zero":         {kdf: []byte(oidPBKDF2), kdfParams: []byte("\x04\x01s\x02\x01\x00")},
		"PBKDF2, negative":     {kdf: []byte(oidPBKDF2), kdfParams: []byte("\x04\x01s\x02\x01\xff")},
		"PBKDF2, key size":     {kdf: []byte(oidPBKDF2), kdfParams: []byte("\x04\x01s\x02\x01\x01\x02\x04\x7f\xff\xff\xff")},
		"PBKDF2, unknown hash": {kdf: []byte(oidPBKDF2), kdfParams: []byte("\x04\x01s\x02\x01\x01\x30\x03\x06\x01\x2a")},
		"scrypt, N":            {kdf: []byte(oidScrypt), kdfParams: []byte("\x04\x01s\x02\x04\x40\x00\x00\x00\x02\x01\x01\x02\x01\x01")},
		"scrypt, r":            {kdf: []byte(oidScrypt), kdfParams: []byte("\x04\x01s\x02\x02\x40\x00\x02\x03\x10\x00\x00\x02\x01\x01")},
		"scrypt, p":            {kdf: []byte(oidScrypt), kdfParams: []byte("\x04\x01s\x02\x02\x40\x00\x02\x01\x08\x02\x02\x40\x00")},
		"scrypt, N = 1":        {kdf: []byte(oidScrypt), kdfParams: []byte("\x04\x01s\x02\x01\x01\x02\x01\x08\x02\x01\x01")},
		"another function":     {kdf: []byte("\x2a"), kdfParams: nil},
	} {
		e.keySize = 32
		if _, err := e.derive(testPassphrase); !fault.Has(err, fault.PassphraseWrong) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestOpenSSLOpensOurFiles(t *testing.T) {
	openssl := needs.OpenSSL(t)
	s := openTest(t)
	s.iterations = DefaultIterations
	for _, kind := range []profile.KeyType{profile.P256, profile.P384, profile.Ed25519, profile.RSA2048} {
		uri := "file:" + string(kind)
		k := create(t, s, uri, kind)
		out := run(t, openssl, "pkey", "-in", s.path(uri), "-passin", "pass:"+string(testPassphrase), "-pubout")
		block, _ := pem.Decode([]byte(out))
		want, err := x509.MarshalPKIXPublicKey(k.Public())
		if err != nil || block == nil || !bytes.Equal(block.Bytes, want) {
			t.Errorf("%s: openssl reads %s, %v", kind, out, err)
		}
		if exec.CommandContext(t.Context(), openssl, "pkey", "-in", s.path(uri), "-passin", "pass:wrong", "-noout").Run() == nil {
			t.Errorf("%s: openssl opens it with another passphrase", kind)
		}
	}
}

func TestFilesOfOpenSSLAreRead(t *testing.T) {
	openssl := needs.OpenSSL(t)
	s := openTest(t)
	algorithms := map[string]string{
		"p256":    "EC -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:named_curve",
		"ed25519": "ED25519",
		"rsa2048": "RSA -pkeyopt rsa_keygen_bits:2048",
	}
	schemes := map[string]string{
		"default": "-v2 aes-256-cbc",
		"scrypt":  "-scrypt",
		"sha512":  "-v2 aes-128-cbc -v2prf hmacWithSHA512",
		"sha1":    "-v2 aes-192-cbc -v2prf hmacWithSHA1",
	}
	for kind, algorithm := range algorithms {
		open := filepath.Join(t.TempDir(), kind)
		run(t, openssl, append(strings.Fields("genpkey -out "+open+" -algorithm"), strings.Fields(algorithm)...)...)
		want, err := ParsePrivateKey(readAll(t, open), nil)
		if err != nil {
			t.Fatal(err)
		}
		for scheme, options := range schemes {
			uri := "file:" + kind + "-" + scheme
			run(t, openssl, append(strings.Fields("pkcs8 -topk8 -in "+open+" -out "+s.path(uri)+" "+options),
				"-passout", "pass:"+string(testPassphrase))...)
			if err := os.Chmod(s.path(uri), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := ParsePrivateKey(fileOf(t, s, uri), testPassphrase)
			if err != nil || !samePublic(got.Public(), want.Public()) {
				t.Errorf("%s: %v", uri, err)
			}
			loaded, err := s.Load(t.Context(), uri, testPassphrase)
			switch {
			case kind == "ed25519":
				if !fault.Has(err, fault.PassphraseWrong) {
					t.Errorf("%s: loaded, though it cannot prove itself: %v", uri, err)
				}
			case err != nil || !samePublic(loaded.Public(), want.Public()):
				t.Errorf("%s: %v", uri, err)
			}
		}
		if _, err := s.Import(t.Context(), "file:imported-"+kind, want, testPassphrase); err != nil {
			t.Errorf("import %s: %v", kind, err)
		}
	}
}

// TestChangedFileOfOpenSSL: without a public key behind, the key inside must
// notice.
func TestChangedFileOfOpenSSL(t *testing.T) {
	s := openTest(t)
	made := create(t, s, "file:key", profile.P256)
	block, _ := pem.Decode(fileOf(t, s, "file:key"))
	for i := range block.Bytes {
		changed := bytes.Clone(block.Bytes)
		changed[i] ^= 0x10
		k, err := decode(pem.EncodeToMemory(&pem.Block{Type: blockEncrypted, Bytes: changed}), testPassphrase)
		if err == nil && !samePublic(k.Public(), made.Public()) {
			t.Fatalf("octet %d: another key", i)
		}
	}
}

func readAll(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestParsePrivateKey(t *testing.T) {
	key := p256(t)
	block := func(kind string, der []byte, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	sec1, err := x509.MarshalECPrivateKey(key)
	pkcs8, err8 := x509.MarshalPKCS8PrivateKey(key)
	params := block("EC PARAMETERS", []byte{6, 1, 42}, nil)
	for name, c := range map[string]struct {
		text string
		want fault.Code
	}{
		"PKCS #8":               {block("PRIVATE KEY", pkcs8, err8), 0},
		"SEC 1":                 {params + block("EC PRIVATE KEY", sec1, err), 0},
		"nothing":               {"", fault.PassphraseWrong},
		"parameters only":       {params, fault.PassphraseWrong},
		"cut short":             {block("EC PRIVATE KEY", sec1[:50], nil), fault.PassphraseWrong},
		"wrong label":           {block("RSA PRIVATE KEY", sec1, nil), fault.PassphraseWrong},
		"encrypted the old way": {strings.Replace(block("EC PRIVATE KEY", sec1, nil), "-----\n", "-----\nDEK-Info: AES-128-CBC,00\n\n", 1), fault.PassphraseWrong},
	} {
		got, err := ParsePrivateKey([]byte(c.text), nil)
		if c.want == 0 && (err != nil || !key.Equal(got.(*ecdsa.PrivateKey))) || c.want != 0 && !fault.Has(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	s := openTest(f)
	passphrase := Secret("x")
	keys := map[string]crypto.PublicKey{}
	for _, kind := range []profile.KeyType{profile.P256, profile.Ed25519} {
		k, err := s.Create(f.Context(), "file:"+string(kind), kind, passphrase)
		if err != nil {
			f.Fatal(err)
		}
		content := fileOf(f, s, "file:"+string(kind))
		keys[string(kind)] = k.Public()
		f.Add(content)
		block, _ := pem.Decode(content)
		f.Add(pem.EncodeToMemory(block))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		if len(content) > maxFile {
			return
		}
		if block, _ := pem.Decode(content); block != nil {
			if e, ok := parseEncrypted(block.Bytes); ok && !cheap(e) {
				return
			}
		}
		k, err := decode(content, passphrase)
		if err != nil {
			if fault.Of(err).Code == fault.Unexpected {
				t.Fatal(err)
			}
			return
		}
		if _, err := newKey("file:x", k); err != nil {
			t.Fatal(err)
		}
		again, err := s.encode(k, passphrase)
		if err != nil {
			t.Fatal(err)
		}
		k2, err := decode(again, passphrase)
		if err != nil || !samePublic(k.Public(), k2.Public()) {
			t.Fatalf("written again: %v", err)
		}
	})
}

// cheap reports whether a derivation is worth the fuzzer's time: PBKDF2 with few
// iterations.
func cheap(e encrypted) bool {
	var salt cryptobyte.String
	var iterations int64
	params := e.kdfParams
	return string(e.kdf) == oidPBKDF2 && params.ReadASN1(&salt, asn1.OCTET_STRING) &&
		params.ReadASN1Integer(&iterations) && iterations <= 10*minIterations
}

func BenchmarkLoad(b *testing.B) {
	s, err := Open(Config{Dir: b.TempDir(), Rand: rand.Reader})
	if err != nil {
		b.Fatal(err)
	}
	create(b, s, "file:key", profile.P256)
	for b.Loop() {
		if _, err := s.Load(b.Context(), "file:key", testPassphrase); err != nil {
			b.Fatal(err)
		}
	}
}

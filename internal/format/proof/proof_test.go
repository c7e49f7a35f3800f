package proof_test

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
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/proof"
	"github.com/birthmark/birthmark/internal/needs"
)

var update = flag.Bool("update", false, "make new vectors")

const vectorFile = "testdata/vectors.json"

// vector is one statement with its signature; octets are hexadecimal.
type vector struct {
	Name        string `json:"name"`
	Statement   string `json:"statement"` // chip, held or confirm
	Nonce       string `json:"nonce"`
	Order       string `json:"order,omitempty"`
	Serial      string `json:"serial"`
	SPKI        string `json:"spki,omitempty"`        // SubjectPublicKeyInfo of the key that the statement is about
	Certificate string `json:"certificate,omitempty"` // of a confirmation
	Octets      string `json:"octets"`                // the framed fields
	Digest      string `json:"digest"`                // SHA-256 of octets: what is signed
	Signer      string `json:"signer"`                // SubjectPublicKeyInfo of the key that signs
	Signature   string `json:"signature"`
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	must(t, err)
	return b
}

// framed writes the fields as the protocol's description says, not as the package
// does it.
func framed(fields ...[]byte) []byte {
	var out []byte
	for _, f := range fields {
		out = append(out, byte(len(f)/256), byte(len(f)%256))
		out = append(out, f...)
	}
	return out
}

func (v *vector) octets(t testing.TB) []byte {
	t.Helper()
	nonce, spki := unhex(t, v.Nonce), sha256.Sum256(unhex(t, v.SPKI))
	switch v.Statement {
	case "chip":
		return framed([]byte("birthmark chip proof v1"), nonce, []byte(v.Order), []byte(v.Serial), spki[:])
	case "held":
		return framed([]byte("birthmark key held v1"), nonce, []byte(v.Order), []byte(v.Serial), spki[:])
	case "confirm":
		cert := sha256.Sum256(unhex(t, v.Certificate))
		return framed([]byte("birthmark confirm v1"), nonce, []byte(v.Serial), cert[:])
	}
	t.Fatalf("statement %q", v.Statement)
	return nil
}

func (v *vector) digest(t testing.TB) [32]byte {
	t.Helper()
	switch v.Statement {
	case "chip":
		return proof.Chip(unhex(t, v.Nonce), v.Order, v.Serial, unhex(t, v.SPKI))
	case "held":
		return proof.Held(unhex(t, v.Nonce), v.Order, v.Serial, unhex(t, v.SPKI))
	}
	return proof.Confirm(unhex(t, v.Nonce), v.Serial, unhex(t, v.Certificate))
}

func vectors(t testing.TB) []vector {
	t.Helper()
	text, err := os.ReadFile(vectorFile)
	must(t, err)
	var all []vector
	must(t, json.Unmarshal(text, &all))
	if len(all) < 5 {
		t.Fatalf("only %d vectors", len(all))
	}
	return all
}

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			if got := hex.EncodeToString(v.octets(t)); got != v.Octets {
				t.Errorf("octets %s, want %s", got, v.Octets)
			}
			d := v.digest(t)
			if got := hex.EncodeToString(d[:]); got != v.Digest {
				t.Errorf("digest %s, want %s", got, v.Digest)
			}
			must(t, proof.Verify(unhex(t, v.Signer), d, unhex(t, v.Signature), fault.ChipProof))
		})
	}
}

// OpenSSL finds the vectors' signatures good: somebody else's implementation of
// the same text would too.
func TestVectorsVerifyWithOpenSSL(t *testing.T) {
	openssl := needs.OpenSSL(t)
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			dir := t.TempDir()
			file := func(name string, content []byte) string {
				path := filepath.Join(dir, name)
				must(t, os.WriteFile(path, content, 0o600))
				return path
			}
			key := file("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: unhex(t, v.Signer)}))
			signature := file("signature", unhex(t, v.Signature))
			verify := func(octets, digest []byte) error {
				args := []string{"dgst", "-sha256", "-verify", key, "-signature", signature, file("octets", octets)}
				if pub, err := x509.ParsePKIXPublicKey(unhex(t, v.Signer)); err == nil {
					if _, ok := pub.(ed25519.PublicKey); ok { // signs the digest's octets
						args = []string{"pkeyutl", "-verify", "-pubin", "-inkey", key, "-rawin", "-in", file("digest", digest), "-sigfile", signature}
					}
				}
				return exec.CommandContext(t.Context(), openssl, args...).Run()
			}
			octets, digest := unhex(t, v.Octets), unhex(t, v.Digest)
			if err := verify(octets, digest); err != nil {
				t.Errorf("openssl does not verify it: %v", err)
			}
			octets[len(octets)-1] ^= 1
			digest[0] ^= 1
			if verify(octets, digest) == nil {
				t.Error("openssl verifies anything")
			}
		})
	}
}

// writeVectors makes vectors with new keys.
func writeVectors(t *testing.T) {
	t.Helper()
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	spkiOf := func(k crypto.Signer) string {
		der, err := x509.MarshalPKIXPublicKey(k.Public())
		must(t, err)
		return hex.EncodeToString(der)
	}
	device, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	nonce := make([]byte, 32)
	for i := range nonce {
		nonce[i] = byte(i)
	}
	n, cert := hex.EncodeToString(nonce), hex.EncodeToString(bytes.Repeat([]byte{0x30, 0x82, 0x01, 0x0a}, 8))
	all := []struct {
		vector
		key crypto.Signer
	}{
		{vector{Name: "chip proof, P-256", Statement: "chip", Nonce: n, Order: "PO-1", Serial: "SN-0001", SPKI: spkiOf(device)}, p256},
		{vector{Name: "chip proof, P-384", Statement: "chip", Nonce: n, Order: "PO-1", Serial: "SN-0001", SPKI: spkiOf(device)}, p384},
		{vector{Name: "chip proof, Ed25519", Statement: "chip", Nonce: n, Order: "4500012345", Serial: "A", SPKI: spkiOf(device)}, ed},
		{vector{Name: "chip proof, RSA-2048", Statement: "chip", Nonce: n, Order: "Werk Süd/7", Serial: "SN:0001.x_y-z", SPKI: spkiOf(device)}, rsaKey},
		{vector{Name: "key held, P-256", Statement: "held", Nonce: n, Order: "PO-1", Serial: "SN-0001", SPKI: spkiOf(p256)}, p256},
		{vector{Name: "confirmation, P-256", Statement: "confirm", Nonce: n, Serial: "SN-0001", Certificate: cert}, device},
	}
	out := make([]vector, 0, len(all))
	for _, one := range all {
		v := one.vector
		d := v.digest(t)
		v.Octets, v.Digest, v.Signer = hex.EncodeToString(v.octets(t)), hex.EncodeToString(d[:]), spkiOf(one.key)
		options := crypto.SignerOpts(crypto.SHA256)
		if _, ok := one.key.(ed25519.PrivateKey); ok {
			options = crypto.Hash(0)
		}
		signature, err := one.key.Sign(rand.Reader, d[:], options)
		must(t, err)
		v.Signature = hex.EncodeToString(signature)
		out = append(out, v)
	}
	text, err := json.MarshalIndent(out, "", "  ")
	must(t, err)
	must(t, os.MkdirAll(filepath.Dir(vectorFile), 0o755))
	must(t, os.WriteFile(vectorFile, append(text, '\n'), 0o644))
}

// statement is what a proof is about.
type statement struct {
	nonce         []byte
	order, serial string
	spki          []byte
}

func (s statement) chip() [32]byte { return proof.Chip(s.nonce, s.order, s.serial, s.spki) }

// No change of nonce, order, serial or key, not even one that moves octets from
// one field to the next, keeps a proof valid, nor does another chip's key or
// another kind of statement.
func TestNoMutationKeepsAProof(t *testing.T) {
	chip, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	spki, err := x509.MarshalPKIXPublicKey(chip.Public())
	must(t, err)
	otherSPKI, err := x509.MarshalPKIXPublicKey(other.Public())
	must(t, err)
	rapid.Check(t, func(t *rapid.T) {
		s := statement{
			nonce: rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "nonce"), order: rapid.String().Draw(t, "order"),
			serial: rapid.String().Draw(t, "serial"), spki: rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "spki"),
		}
		d := s.chip()
		signature, err := ecdsa.SignASN1(rand.Reader, chip, d[:])
		if err != nil || proof.Verify(spki, d, signature, fault.ChipProof) != nil {
			t.Fatal("the proof itself does not hold")
		}
		m := s.mutated(t)
		if m.chip() == d {
			t.Fatalf("%+v and %+v are the same statement", s, m)
		}
		for name, wrong := range map[string]error{
			"mutated":       proof.Verify(spki, m.chip(), signature, fault.ChipProof),
			"another chip":  proof.Verify(otherSPKI, d, signature, fault.ChipProof),
			"another use":   proof.Verify(spki, proof.Held(s.nonce, s.order, s.serial, s.spki), signature, fault.ChipProof),
			"confirmation":  proof.Verify(spki, proof.Confirm(s.nonce, s.serial, s.spki), signature, fault.ChipProof),
			"cut signature": proof.Verify(spki, d, signature[:len(signature)-1], fault.ChipProof),
		} {
			if !fault.Has(wrong, fault.ChipProof) {
				t.Fatalf("%s: %v", name, wrong)
			}
		}
	})
}

// mutated returns another statement that resembles s.
func (s statement) mutated(t *rapid.T) statement {
	m := s
	flip := func(b []byte) []byte {
		b = bytes.Clone(b)
		i := rapid.IntRange(0, len(b)-1).Draw(t, "octet")
		b[i] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
		return b
	}
	switch kind := rapid.IntRange(0, 7).Draw(t, "mutation"); {
	case kind == 0 && len(s.nonce) > 0:
		m.nonce = flip(s.nonce)
	case kind == 1 && s.order != "":
		m.order = string(flip([]byte(s.order)))
	case kind == 2 && s.serial != "":
		m.serial = string(flip([]byte(s.serial)))
	case kind == 3 && s.serial != "": // the border between order and serial moves
		m.order, m.serial = s.order+s.serial[:1], s.serial[1:]
	case kind == 4 && s.order != "":
		m.nonce, m.order = append(bytes.Clone(s.nonce), s.order[0]), s.order[1:]
	case kind == 5:
		m.nonce = append(bytes.Clone(s.nonce), 0)
	case kind == 6:
		m.serial += "\x00"
	default:
		m.spki = flip(s.spki)
	}
	return m
}

func TestVerifyRefusesKeysItDoesNotKnow(t *testing.T) {
	for _, spki := range [][]byte{nil, {0x30, 0x00}, bytes.Repeat([]byte{0xff}, 91)} {
		if err := proof.Verify(spki, [32]byte{}, []byte{0x30}, fault.ReadBackWrong); !fault.Has(err, fault.ReadBackWrong) {
			t.Errorf("%x: %v", spki, err)
		}
	}
}

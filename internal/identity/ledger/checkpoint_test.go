package ledger

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"io"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/birthmark/birthmark/internal/fault"
)

func TestCheckpointIsTheNoteOfC2SP(t *testing.T) {
	s := newTestSigner(t, testOrigin)
	root := LeafHash([]byte("x"))
	c, err := signCheckpoint(s, 20852163, root, 7)
	if err != nil {
		t.Fatal(err)
	}
	want := testOrigin + "\n20852163\n" + root.String() + "\n\n— " + testOrigin + " "
	if !strings.HasPrefix(string(c.Note), want) {
		t.Errorf("note:\n%s\nwant it to begin:\n%s", c.Note, want)
	}
	// A verifier that knows the public key's text alone must accept it.
	key := s.(*noteSigner).key.Public().(ed25519.PublicKey)
	text, err := VerifierKey(testOrigin, key)
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open(c.Note, note.VerifierList(v)); err != nil {
		t.Error(err)
	}
	got, err := OpenCheckpoint(c.Note, v)
	if err != nil || got.Size != c.Size || got.Root != c.Root {
		t.Errorf("read back %+v, %v", got, err)
	}
}

func TestOpenCheckpointRefuses(t *testing.T) {
	s := newTestSigner(t, testOrigin)
	sign := func(text string) []byte {
		n, err := note.Sign(&note.Note{Text: text}, s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	root := LeafHash(nil).String()
	good := sign(testOrigin + "\n7\n" + root + "\n")
	if _, err := OpenCheckpoint(good, s); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCheckpoint(sign(testOrigin+"\n7\n"+root+"\nextension\n"), s); err != nil {
		t.Errorf("an extension line: %v", err)
	}
	flipped := []byte(strings.Replace(string(good), "\n7\n", "\n8\n", 1))
	for name, text := range map[string][]byte{
		"nothing":           nil,
		"other size":        flipped,
		"cut off":           good[:len(good)-1],
		"other origin":      sign("elsewhere\n7\n" + root + "\n"),
		"no root":           sign(testOrigin + "\n7\n"),
		"leading zero":      sign(testOrigin + "\n07\n" + root + "\n"),
		"negative":          sign(testOrigin + "\n-7\n" + root + "\n"),
		"too large":         sign(testOrigin + "\n9223372036854775808\n" + root + "\n"),
		"short root":        sign(testOrigin + "\n7\nAAAA\n"),
		"root not base64":   sign(testOrigin + "\n7\n" + root[:43] + "!\n"),
		"root with padding": sign(testOrigin + "\n7\n" + root[:42] + "9=\n"),
	} {
		if c, err := OpenCheckpoint(text, s); !fault.Has(err, fault.CheckpointBad) {
			t.Errorf("%s: read as %+v, %v", name, c, err)
		}
	}
	if _, err := OpenCheckpoint(good, newTestSigner(t, "another")); !fault.Has(err, fault.CheckpointBad) {
		t.Errorf("a signature by another key: %v", err)
	}
}

func FuzzParseCheckpoint(f *testing.F) {
	f.Add(testOrigin + "\n7\n" + LeafHash(nil).String() + "\n")
	f.Add("a\n0\n" + LeafHash(nil).String() + "\nmore\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, origin, err := parseCheckpoint(text)
		if err != nil {
			return
		}
		if again := checkpointText(origin, c.Size, c.Root); !strings.HasPrefix(text, again) {
			t.Errorf("%q was read and is written %q", text, again)
		}
	})
}

// faulty signs everything with the same wrong signature.
type faulty struct{ ed25519.PrivateKey }

func (faulty) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return make([]byte, 64), nil
}

func TestSignerReleasesNoFaultySignature(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSigner(testOrigin, faulty{key}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signCheckpoint(s, 1, Hash{}, 1); err == nil {
		t.Error("a wrong signature was released")
	}
}

func TestSignerWantsEd25519(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewSigner(testOrigin, key, rand.Reader); err == nil {
		t.Error("a P-256 key was taken")
	}
}

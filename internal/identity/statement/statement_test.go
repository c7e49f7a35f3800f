package statement_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/manifest"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/statement"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

var now = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

func config(t *testing.T, folder string) statement.Config {
	t.Helper()
	keys, err := keystore.Open(keystore.Config{Dir: filepath.Join(folder, "keys"), Rand: rand.Reader, Iterations: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return statement.Config{
		Keys: keys, Secret: keystore.Secret("a passphrase"), Certificate: filepath.Join(folder, "statement.pem"),
		Organization: "Acme", Now: func() time.Time { return now }, Rand: rand.Reader,
	}
}

func open(t *testing.T, c statement.Config) *statement.Signer {
	t.Helper()
	s, err := statement.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestKeyAndCertificateAreMadeOnce(t *testing.T) {
	c := config(t, t.TempDir())
	first, second := open(t, c), open(t, c)
	if !bytes.Equal(first.PublicKey(), second.PublicKey()) || !bytes.Equal(first.Certificate(), second.Certificate()) {
		t.Fatal("the second opening found another key or certificate")
	}
	cert, err := x509.ParseCertificate(first.Certificate())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(cert.RawSubjectPublicKeyInfo, first.PublicKey()) || cert.IsCA || cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) != nil {
		t.Fatal("the certificate is not the key's own, or could sign others")
	}
}

func TestCertificateOfAnotherKeyIsRefused(t *testing.T) {
	c, other := config(t, t.TempDir()), config(t, t.TempDir())
	open(t, c)
	open(t, other)
	text, err := os.ReadFile(other.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"another key's": text, "no certificate": []byte("hello")} {
		if err := os.WriteFile(c.Certificate, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := statement.Open(t.Context(), c); !fault.Has(err, fault.KeyUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNoncesAreSignedWhole(t *testing.T) {
	s := open(t, config(t, t.TempDir()))
	good := station.Nonces{Order: "PO-1", Station: "s1", Nonces: [][]byte{make([]byte, 32), bytes.Repeat([]byte{1}, 32)}, ExpiresAt: now}
	if err := s.SignNonces(t.Context(), &good); err != nil {
		t.Fatal(err)
	}
	if err := statement.VerifyNonces(s.PublicKey(), &good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*station.Nonces){
		"order":     func(n *station.Nonces) { n.Order = "PO-2" },
		"station":   func(n *station.Nonces) { n.Station = "s2" },
		"a nonce":   func(n *station.Nonces) { n.Nonces = [][]byte{n.Nonces[0], make([]byte, 32)} },
		"fewer":     func(n *station.Nonces) { n.Nonces = n.Nonces[:1] },
		"expiry":    func(n *station.Nonces) { n.ExpiresAt = now.Add(time.Second) },
		"signature": func(n *station.Nonces) { n.Signature = n.Signature[:len(n.Signature)-1] },
		"none":      func(n *station.Nonces) { n.Signature = nil },
	} {
		bad := good
		change(&bad)
		if err := statement.VerifyNonces(s.PublicKey(), &bad); !fault.Has(err, fault.BundleSignature) {
			t.Errorf("%s changed: %v", name, err)
		}
	}
	other := open(t, config(t, t.TempDir()))
	if err := statement.VerifyNonces(other.PublicKey(), &good); !fault.Has(err, fault.BundleSignature) {
		t.Errorf("another server's key: %v", err)
	}
}

func TestReplyIsSignedWhole(t *testing.T) {
	s := open(t, config(t, t.TempDir()))
	good := station.Reply{Station: "s1", Order: "PO-1", Bundle: make([]byte, 32), Results: []station.Result{{ID: "1", OK: true}}}
	if err := s.SignReply(t.Context(), &good); err != nil {
		t.Fatal(err)
	}
	if err := statement.VerifyReply(s.PublicKey(), &good); err != nil {
		t.Fatal(err)
	}
	good.Results = []station.Result{{ID: "1", OK: false}}
	if err := statement.VerifyReply(s.PublicKey(), &good); !fault.Has(err, fault.BundleSignature) {
		t.Errorf("an outcome changed: %v", err)
	}
}

func TestManifestsAreSignedWithTheStatementKey(t *testing.T) {
	s := open(t, config(t, t.TempDir()))
	var file bytes.Buffer
	w, err := manifest.NewWriter(&file, manifest.Header{Maker: "Acme", Created: now, Vendor: "acme", ChipType: "sensor"}, s.Certificate(), s.Key())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(&manifest.Entry{UID: "sn1", Keys: []manifest.Key{{Slot: "idevid", SPKI: s.PublicKey()}}}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := manifest.NewReader(&file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); err != io.EOF || !bytes.Equal(r.Signer().Raw, s.Certificate()) {
		t.Fatalf("the end: %v", err)
	}
}

func TestOnlyP256KeysSign(t *testing.T) {
	c := config(t, t.TempDir())
	key, err := c.Keys.Create(t.Context(), "file:other", profile.Ed25519, c.Secret)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := statement.New(key, nil, rand.Reader); err == nil {
		t.Fatal("an Ed25519 key was taken")
	}
}

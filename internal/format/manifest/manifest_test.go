package manifest_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/manifest"
	"github.com/birthmark/birthmark/internal/needs"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files")

var created = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

type signer struct {
	key  crypto.Signer
	cert []byte
}

// signers returns one signer for each algorithm, the same in each run.
func signers(t testing.TB) map[string]signer {
	t.Helper()
	all := make(map[string]signer)
	for name, curve := range map[string]elliptic.Curve{manifest.ES256: elliptic.P256(), manifest.ES384: elliptic.P384()} {
		key, err := ecdsa.ParseRawPrivateKey(curve, bytes.Repeat([]byte{7}, curve.Params().BitSize/8))
		if err != nil {
			t.Fatal(err)
		}
		all[name] = signer{key, certificate(t, key)}
	}
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	all[manifest.EdDSA] = signer{key, certificate(t, key)}
	return all
}

func certificate(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Example Provisioning"},
		NotBefore: created, NotAfter: created.AddDate(10, 0, 0),
	}
	der, err := x509.CreateCertificate(nil, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// write returns a file with these entries.
func write(t interface {
	Helper()
	Fatal(...any)
}, s signer, h manifest.Header, entries []manifest.Entry,
) []byte {
	t.Helper()
	var file bytes.Buffer
	w, err := manifest.NewWriter(&file, h, s.cert, s.key)
	if err != nil {
		t.Fatal(err)
	}
	for i := range entries {
		if err := w.Write(&entries[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

func read(file []byte) (manifest.Header, []manifest.Entry, error) {
	r, err := manifest.NewReader(bytes.NewReader(file))
	if err != nil {
		return manifest.Header{}, nil, err
	}
	var entries []manifest.Entry
	for {
		e, err := r.Read()
		if errors.Is(err, io.EOF) {
			return r.Header(), entries, nil
		}
		if err != nil {
			return r.Header(), entries, err
		}
		entries = append(entries, *e)
	}
}

func header() manifest.Header {
	return manifest.Header{
		Maker: "Example Provisioning", Created: created, Vendor: "acme", ChipType: "AC-1", Product: "sensor", Order: "PO-1",
	}
}

// example is the file that docs/protocols/manifest.md explains.
func example(t testing.TB) []byte {
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{9}, 32))
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	h := header()
	h.Count = 2
	return write(t, signers(t)[manifest.ES256], h, []manifest.Entry{
		{UID: "0123ab0001", DeviceSerial: "SN-1", Keys: []manifest.Key{{Slot: "0", SPKI: spki}}},
		{UID: "0123ab0002", ChipType: "AC-2"},
	})
}

func TestExampleStaysTheSame(t *testing.T) {
	got, name := example(t), filepath.Join("testdata", "example.ndjson")
	if *update {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, entries, err := read(want); err != nil || len(entries) != 2 {
		t.Errorf("%d entries, %v", len(entries), err)
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	all := signers(t)
	for algorithm, s := range all {
		t.Run(algorithm, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				text := rapid.StringN(0, 20, 120)
				entry := rapid.Custom(func(t *rapid.T) manifest.Entry {
					e := manifest.Entry{
						UID: rapid.StringMatching(`[0-9a-f]{1,40}`).Draw(t, "uid"), DeviceSerial: text.Draw(t, "serial"),
						Vendor: text.Draw(t, "vendor"), ChipType: text.Draw(t, "chip type"),
					}
					octets := rapid.SliceOfN(rapid.Byte(), 1, 100)
					for range rapid.IntRange(0, 3).Draw(t, "keys") {
						k := manifest.Key{Slot: rapid.StringMatching(`[0-9a-z]{1,8}`).Draw(t, "slot"), SPKI: octets.Draw(t, "spki")}
						for range rapid.IntRange(0, 2).Draw(t, "chain") {
							k.Chain = append(k.Chain, octets.Draw(t, "certificate"))
						}
						e.Keys = append(e.Keys, k)
					}
					return e
				})
				entries := rapid.SliceOfN(entry, 0, 8).Draw(t, "entries")
				h := header()
				if rapid.Bool().Draw(t, "announced") {
					h.Count = int64(len(entries))
				}
				got, back, err := read(write(t, s, h, entries))
				if err != nil {
					t.Fatal(err)
				}
				h.Format, h.Version, h.Algorithm, h.Signer = manifest.Format, manifest.Version, algorithm, s.cert
				if diff := cmp.Diff(h, got); diff != "" {
					t.Fatalf("header (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(entries, back, cmp.Comparer(func(a, b string) bool { return valid(a) == valid(b) })); len(entries) > 0 && diff != "" {
					t.Fatalf("entries (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// valid is what JSON makes of text that is not UTF-8.
func valid(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

func TestAnyFlippedBitIsRefused(t *testing.T) {
	for algorithm, s := range signers(t) {
		file := write(t, s, header(), []manifest.Entry{{UID: "1", Keys: []manifest.Key{{Slot: "0", SPKI: []byte{1}}}}})
		for i := range file {
			for bit := range 8 {
				broken := bytes.Clone(file)
				broken[i] ^= 1 << bit
				if h, _, err := read(broken); err == nil && bytes.Equal(h.Signer, s.cert) {
					t.Fatalf("%s: octet %d, %q to %q, is not seen", algorithm, i, file[i], broken[i])
				}
			}
		}
	}
}

func TestLinesMovedBetweenFilesAreRefused(t *testing.T) {
	s := signers(t)[manifest.ES256]
	one := bytes.SplitAfter(write(t, s, header(), []manifest.Entry{{UID: "1"}, {UID: "2"}}), []byte("\n"))
	two := bytes.SplitAfter(write(t, s, header(), []manifest.Entry{{UID: "1"}, {UID: "3"}}), []byte("\n"))
	join := func(lines ...[]byte) []byte { return bytes.Join(lines, nil) }
	for name, test := range map[string]struct {
		file []byte
		code fault.Code
	}{
		"trailer of another file": {join(one[0], one[1], one[2], two[3]), fault.ManifestSignature},
		"line of another file":    {join(one[0], one[1], two[2], one[3]), fault.ManifestSignature},
		"lines swapped":           {join(one[0], one[2], one[1], one[3]), fault.ManifestSignature},
		"line left out":           {join(one[0], one[1], one[3]), fault.ManifestFormat},
		"line added":              {join(one[0], one[1], one[2], one[2], one[3]), fault.ManifestFormat},
		"two trailers":            {join(one[0], one[1], one[2], one[3], one[3]), fault.ManifestFormat},
		"no trailer":              {join(one[0], one[1], one[2]), fault.ManifestFormat},
		"no line feed":            {bytes.TrimSuffix(join(one...), []byte("\n")), fault.ManifestFormat},
		"trailer alone":           {one[3], fault.ManifestFormat},
		"nothing":                 {nil, fault.ManifestFormat},
		"endless line":            {bytes.Repeat([]byte("a"), manifest.MaxLine+1), fault.ManifestLimit},
		"unknown member":          {join(one[0], []byte("{\"uid\":\"1\",\"kyes\":[]}\n")), fault.ManifestEntry},
		"no uid":                  {join(one[0], []byte("{\"serial\":\"1\"}\n")), fault.ManifestEntry},
		"key without slot":        {join(one[0], []byte("{\"uid\":\"1\",\"keys\":[{\"spki\":\"AAAA\"}]}\n")), fault.ManifestEntry},
		"two values in a line":    {join(one[0], []byte("{\"uid\":\"1\"}{\"uid\":\"2\"}\n")), fault.ManifestEntry},
	} {
		if _, _, err := read(test.file); !fault.Has(err, test.code) {
			t.Errorf("%s: %v, want %s", name, err, test.code)
		}
	}
}

func TestHeadersThatAreNotOursAreRefused(t *testing.T) {
	s := signers(t)
	first := bytes.SplitAfter(write(t, s[manifest.ES256], header(), nil), []byte("\n"))[0]
	for name, change := range map[string]func(map[string]any){
		"format":          func(h map[string]any) { h["format"] = "other" },
		"version":         func(h map[string]any) { h["version"] = 2 },
		"no maker":        func(h map[string]any) { delete(h, "maker") },
		"no time":         func(h map[string]any) { delete(h, "created") },
		"algorithm":       func(h map[string]any) { h["algorithm"] = "none" },
		"other algorithm": func(h map[string]any) { h["algorithm"] = manifest.ES384 },
		"certificate":     func(h map[string]any) { h["signer"] = "AAAA" },
		"unknown member":  func(h map[string]any) { h["x"] = 1 },
		"count":           func(h map[string]any) { h["count"] = -1 },
		"long text":       func(h map[string]any) { h["maker"] = strings.Repeat("x", 200) },
	} {
		var h map[string]any
		if err := json.Unmarshal(first, &h); err != nil {
			t.Fatal(err)
		}
		change(h)
		line, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := manifest.NewReader(bytes.NewReader(append(line, '\n'))); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestWriterRefusesWhatAReaderWould(t *testing.T) {
	all := signers(t)
	if _, err := manifest.NewWriter(io.Discard, header(), all[manifest.ES384].cert, all[manifest.ES256].key); err == nil {
		t.Error("a certificate of another key is accepted")
	}
	if _, err := manifest.NewWriter(io.Discard, manifest.Header{}, all[manifest.ES256].cert, all[manifest.ES256].key); err == nil {
		t.Error("a header without maker is accepted")
	}
	h := header()
	h.Count = 2
	w, err := manifest.NewWriter(io.Discard, h, all[manifest.ES256].cert, all[manifest.ES256].key)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(&manifest.Entry{}); err == nil {
		t.Error("a chip without uid is accepted")
	}
	if err := w.Close(); err == nil {
		t.Error("a file with fewer chips than announced is signed")
	}
	if err := w.Write(&manifest.Entry{UID: "1"}); err == nil {
		t.Error("a chip is written behind the signature")
	}
}

// TestOpenSSLVerifiesOurSignature checks the signature as somebody without our
// code would.
func TestOpenSSLVerifiesOurSignature(t *testing.T) {
	openssl := needs.OpenSSL(t)
	for algorithm, s := range signers(t) {
		if algorithm == manifest.EdDSA {
			continue // openssl pkeyutl reads Ed25519 messages from files only since 3.0
		}
		file := write(t, s, header(), []manifest.Entry{{UID: "1"}, {UID: "2"}})
		lines := bytes.SplitAfter(file, []byte("\n"))
		var last struct {
			Trailer struct {
				Count     int
				Digest    string
				Signature []byte
			}
		}
		if err := json.Unmarshal(lines[3], &last); err != nil {
			t.Fatal(err)
		}
		spki, err := x509.MarshalPKIXPublicKey(s.key.Public())
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		put(t, dir, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
		put(t, dir, "signature", last.Trailer.Signature)
		put(t, dir, "message", fmt.Appendf(nil, "birthmark manifest v1\n%x\n%d\n", sha256.Sum256(bytes.Join(lines[:3], nil)), last.Trailer.Count))
		hash := map[string]string{manifest.ES256: "-sha256", manifest.ES384: "-sha384"}[algorithm]
		cmd := exec.CommandContext(t.Context(), openssl, "dgst", hash, "-verify", "key.pem", "-signature", "signature", "message")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", algorithm, err, out)
		}
	}
}

func put(t *testing.T, dir, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestWriterOfTheManual runs the shell script in docs/protocols/manifest.md and
// reads what it writes.
func TestWriterOfTheManual(t *testing.T) {
	needs.OpenSSL(t)
	shell := needs.Command(t, "sh")
	manual, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "protocols", "manifest.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, script, found := strings.Cut(string(manual), "```sh\n#!/bin/sh")
	if !found {
		t.Fatal("the manual has no script")
	}
	script, _, _ = strings.Cut(script, "```")
	s, dir := signers(t)[manifest.ES256], t.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(s.key)
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, "write.sh", []byte("#!/bin/sh"+script))
	put(t, dir, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	put(t, dir, "cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.cert}))
	cmd := exec.CommandContext(t.Context(), shell, "write.sh", "key.pem", "cert.pem", "Example", "acme", "AC-1")
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	spki := base64.StdEncoding.EncodeToString([]byte("a key"))
	cmd.Stdin = strings.NewReader("0123ab01 " + spki + "\n0123ab02 " + spki + "\n")
	file, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	h, entries, err := read(file)
	if err != nil {
		t.Fatalf("%v in\n%s", err, file)
	}
	if len(entries) != 2 || h.Vendor != "acme" || entries[1].UID != "0123ab02" || string(entries[1].Keys[0].SPKI) != "a key" {
		t.Errorf("header %+v, entries %+v", h, entries)
	}
}

func FuzzReader(f *testing.F) {
	file := example(f)
	signed := file[:bytes.LastIndex(file, []byte(`{"trailer"`))]
	f.Add(file)
	f.Add(file[:len(file)/2])
	f.Add([]byte("{\"trailer\":{}}\n"))
	key := signers(f)[manifest.ES256]
	f.Fuzz(func(t *testing.T, data []byte) {
		h, entries, err := read(data)
		if err != nil {
			if bytes.Equal(data, file) {
				t.Fatal(err)
			}
			return
		}
		// Only who has the key signs other chips. (Anyone can turn a signature's s
		// into n-s.)
		if bytes.Equal(h.Signer, key.cert) && !bytes.HasPrefix(data, signed) {
			t.Fatalf("a forged file with %d entries is accepted", len(entries))
		}
	})
}

package tpm_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/tpm"
)

// recorded returns a file of testdata/swtpm; see record.sh there.
func recorded(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "swtpm", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// recordedPublic returns a recorded TPM2B_PUBLIC without its size.
func recordedPublic(t testing.TB, name string) []byte {
	t.Helper()
	b, err := tpm.Unsized(recorded(t, name+".pub"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parsePublic(t testing.TB, b []byte) *tpm.Public {
	t.Helper()
	p, err := tpm.ParsePublic(b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func parseAttest(t testing.TB, name string) *tpm.Attest {
	t.Helper()
	a, err := tpm.ParseAttest(recorded(t, name+".attest"))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func parseSignature(t testing.TB, name string) *tpm.Signature {
	t.Helper()
	s, err := tpm.ParseSignature(recorded(t, name+".sig"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func certificate(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(recorded(t, name+".crt"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// kinds are the attestation keys that were recorded.
var kinds = []struct {
	name   string
	scheme tpm.Scheme
	typ    tpm.Alg
	curve  tpm.Curve
}{
	{"rsassa", tpm.Scheme{Alg: tpm.AlgRSASSA, Hash: tpm.AlgSHA256}, tpm.AlgRSA, 0},
	{"rsapss", tpm.Scheme{Alg: tpm.AlgRSAPSS, Hash: tpm.AlgSHA256}, tpm.AlgRSA, 0},
	{"ecdsa", tpm.Scheme{Alg: tpm.AlgECDSA, Hash: tpm.AlgSHA256}, tpm.AlgECC, tpm.P256},
	{"ecdsa384", tpm.Scheme{Alg: tpm.AlgECDSA, Hash: tpm.AlgSHA384}, tpm.AlgECC, tpm.P384},
	{"sha1", tpm.Scheme{Alg: tpm.AlgRSASSA, Hash: tpm.AlgSHA1}, tpm.AlgRSA, 0},
}

func TestAttestationKeysAreReadAsTheTPMMadeThem(t *testing.T) {
	want := tpm.FixedTPM | tpm.FixedParent | tpm.SensitiveDataOrigin | tpm.UserWithAuth | tpm.Restricted | tpm.Sign
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			p := parsePublic(t, recordedPublic(t, "ak-"+k.name))
			if p.Type != k.typ || p.Scheme != k.scheme || p.Curve != k.curve {
				t.Errorf("type %v, scheme %v, curve %v", p.Type, p.Scheme, p.Curve)
			}
			if p.Attributes&^tpm.NoDA != want {
				t.Errorf("attributes %#x", uint32(p.Attributes))
			}
			if p.Symmetric.Alg != tpm.AlgNull || p.KDF.Alg != tpm.AlgNull {
				t.Errorf("symmetric %v, key derivation %v", p.Symmetric, p.KDF)
			}
			if name := recorded(t, "ak-"+k.name+".name"); !bytes.Equal(p.Name(), name) {
				t.Errorf("name %x, the TPM says %x", p.Name(), name)
			}
			spki, err := x509.ParsePKIXPublicKey(p.SPKI)
			if err != nil || !p.Key.(interface{ Equal(crypto.PublicKey) bool }).Equal(spki) {
				t.Errorf("the SubjectPublicKeyInfo is of another key: %v", err)
			}
		})
	}
}

func TestCertifyIsReadAndVerified(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			ak := parsePublic(t, recordedPublic(t, "ak-"+k.name))
			subject := parsePublic(t, recordedPublic(t, "subject-"+k.name))
			a, s := parseAttest(t, "certify-"+k.name), parseSignature(t, "certify-"+k.name)
			if a.Magic != tpm.Magic || a.Type != tpm.TypeCertify || a.Certify == nil || a.Quote != nil || a.Other != nil {
				t.Fatalf("not an attestation of a key: %+v", a)
			}
			if !bytes.Equal(a.Certify.Name, subject.Name()) || !bytes.Equal(a.Certify.Name, recorded(t, "subject-"+k.name+".name")) {
				t.Errorf("certified %x, not %x", a.Certify.Name, subject.Name())
			}
			if s.Scheme != k.scheme || !s.Verifies(ak.Key, a.Raw) {
				t.Errorf("signature with %v does not verify", s.Scheme)
			}
			for i := range a.Raw {
				changed := bytes.Clone(a.Raw)
				changed[i] ^= 1
				if s.Verifies(ak.Key, changed) {
					t.Fatalf("signature verifies with octet %d changed", i)
				}
			}
			if s.Verifies(subject.Key, a.Raw) {
				t.Error("signature verifies under another key")
			}
		})
	}
}

func TestQuoteIsReadAndVerified(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			ak := parsePublic(t, recordedPublic(t, "ak-"+k.name))
			a, s := parseAttest(t, "quote-"+k.name), parseSignature(t, "quote-"+k.name)
			if a.Magic != tpm.Magic || a.Type != tpm.TypeQuote || a.Quote == nil || a.Certify != nil {
				t.Fatalf("not a quote: %+v", a)
			}
			if want := []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}; !bytes.Equal(a.ExtraData, want) {
				t.Errorf("nonce %x", a.ExtraData)
			}
			if q := a.Quote.Selections; len(q) != 1 || q[0].Bank != tpm.AlgSHA256 || !slices.Equal(q[0].PCRs, []int{0, 1, 7, 23}) {
				t.Errorf("selections %+v", q)
			}
			// Registers that nobody extended hold zeros.
			h := k.scheme.Hash.Hash().New()
			h.Write(make([]byte, 4*32))
			if !bytes.Equal(a.Quote.Digest, h.Sum(nil)) {
				t.Errorf("digest %x", a.Quote.Digest)
			}
			if !s.Verifies(ak.Key, a.Raw) {
				t.Error("signature does not verify")
			}
		})
	}
}

func TestOtherAttestationsAreReadAndNotLookedInto(t *testing.T) {
	a := parseAttest(t, "time")
	if a.Magic != tpm.Magic || a.Type != 0x8019 || a.Certify != nil || a.Quote != nil || len(a.Other) == 0 {
		t.Errorf("%+v", a)
	}
	forged := bytes.Clone(recorded(t, "certify-ecdsa.attest"))
	forged[0] ^= 0xFF
	if a, err := tpm.ParseAttest(forged); err != nil || a.Magic == tpm.Magic {
		t.Errorf("a wrong magic is for the verifier to refuse, not for the reader: %v", err)
	}
}

func TestEKsAreRebuiltOctetForOctet(t *testing.T) {
	for _, name := range []string{"L-1", "L-2", "H-3", "H-4", "H-6"} {
		t.Run(name, func(t *testing.T) {
			sent := recordedPublic(t, "ek-"+name)
			p := parsePublic(t, sent)
			var fits []string
			for _, template := range tpm.EKTemplates() {
				built, err := tpm.EKPublic(template, p.Key)
				if template.Fits(p.Key) != (err == nil) {
					t.Errorf("%s fits: %v, but: %v", template.Name, template.Fits(p.Key), err)
				}
				if bytes.Equal(built, sent) {
					fits = append(fits, template.Name)
				}
			}
			if !slices.Equal(fits, []string{name}) {
				t.Errorf("rebuilt from %v, want %s alone", fits, name)
			}
		})
	}
}

func TestEKCertificatesAreOfTheRebuiltKeys(t *testing.T) {
	// The keys of a template follow from the TPM's seed: those that swtpm_setup
	// certified are those that tpm2_createek made again.
	for _, name := range []string{"L-1", "H-3"} {
		cert := certificate(t, "ek-"+name)
		if p := parsePublic(t, recordedPublic(t, "ek-"+name)); !bytes.Equal(p.SPKI, cert.RawSubjectPublicKeyInfo) {
			t.Errorf("%s: certificate of another key", name)
		}
	}
}

func TestEKOfACertificate(t *testing.T) {
	for _, name := range []string{"ek-L-1", "ek-H-3"} {
		got, err := tpm.EKOf(recorded(t, name+".crt"))
		if err != nil || !bytes.Equal(got, recordedPublic(t, name)) {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
	if _, err := tpm.EKOf([]byte("certificate")); !fault.Has(err, fault.EKCertificate) {
		t.Errorf("%v", err)
	}
}

func TestNamesOfRecordedEKCertificates(t *testing.T) {
	for _, name := range []string{"ek-L-1", "ek-H-3"} {
		names, err := tpm.ParseEKNames(san(t, certificate(t, name)))
		if err != nil {
			t.Fatal(err)
		}
		if names.Manufacturer != "id:00001014" || names.Model != "swtpm" || names.Vendor() != "00001014" {
			t.Errorf("%s: %+v, vendor %q", name, names, names.Vendor())
		}
		if v, ok := names.Firmware(); !ok || v != 0x20191023 {
			t.Errorf("%s: firmware %#x, %v", name, v, ok)
		}
	}
	if _, err := tpm.ParseEKNames(san(t, certificate(t, "platform"))); err == nil {
		t.Error("a platform certificate was read as a TPM's")
	}
}

func san(t testing.TB, c *x509.Certificate) []byte {
	t.Helper()
	i := slices.IndexFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) })
	if i < 0 {
		t.Fatal("no subjectAltName")
	}
	return c.Extensions[i].Value
}

// TestStructuresAreReadWhole cuts and lengthens each recorded structure: nothing
// but the whole is read.
func TestStructuresAreReadWhole(t *testing.T) {
	files, err := filepath.Glob("testdata/swtpm/*")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	read := map[string]func([]byte) error{
		".pub":    func(b []byte) error { return errOf(tpm.ParsePublic(b)) },
		".attest": func(b []byte) error { return errOf(tpm.ParseAttest(b)) },
		".sig":    func(b []byte) error { return errOf(tpm.ParseSignature(b)) },
	}
	for _, file := range files {
		name, parse := filepath.Base(file), read[filepath.Ext(file)]
		if parse == nil || strings.HasPrefix(name, "time.attest") { // its end is not looked into
			continue
		}
		b := recorded(t, name)
		if filepath.Ext(file) == ".pub" {
			b = b[2:]
		}
		if err := parse(b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for n := range len(b) {
			if err := parse(b[:n]); !fault.Has(err, fault.AttestMalformed) {
				t.Errorf("%s: first %d of %d octets: %v", name, n, len(b), err)
			}
		}
		if err := parse(append(bytes.Clone(b), 0)); !fault.Has(err, fault.AttestMalformed) {
			t.Errorf("%s: with an octet more: %v", name, err)
		}
	}
}

func errOf[T any](_ T, err error) error { return err }

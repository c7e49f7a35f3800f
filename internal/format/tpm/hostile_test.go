package tpm_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/tpm"
)

// at returns a copy of b with octets written at an offset.
func at(b []byte, offset int, octets ...byte) []byte {
	b = bytes.Clone(b)
	copy(b[offset:], octets)
	return b
}

func TestPublicAreasThatNoTPMMakes(t *testing.T) {
	// type 0, nameAlg 2, attributes 4, policy 8, then of a key without one:
	// symmetric 10, scheme 12, its hash 14; RSA: bits 16, exponent 18, modulus 22;
	// ECC: curve 16, derivation 18, x 20, y 54.
	rsaKey, ecKey, storage := recordedPublic(t, "ak-rsassa"), recordedPublic(t, "ak-ecdsa"), recordedPublic(t, "ek-L-2")
	even := bytes.Clone(rsaKey)
	even[len(even)-1] &^= 1
	for name, b := range map[string][]byte{
		"nothing":                    nil,
		"a keyed hash":               at(rsaKey, 0, 0x00, 0x08),
		"RSA with the fields of ECC": at(ecKey, 0, 0x00, 0x01),
		"no name algorithm":          at(rsaKey, 2, 0x00, 0x10),
		"name algorithm AES":         at(rsaKey, 2, 0x00, 0x06),
		"unknown attribute bit 0":    at(rsaKey, 7, rsaKey[7]|1),
		"unknown attribute bit 31":   at(rsaKey, 4, rsaKey[4]|0x80),
		"policy of one octet":        append(append(bytes.Clone(rsaKey[:8]), 0, 1, 0xAA), rsaKey[10:]...),
		"policy longer than all":     at(rsaKey, 8, 0xFF, 0xFF),
		"unknown cipher":             at(storage, 42, 0x00, 0x25),
		"AES-129":                    at(storage, 44, 0x00, 129),
		"AES in counter mode":        at(storage, 46, 0x00, 0x40),
		"scheme of the other type":   at(rsaKey, 12, 0x00, 0x18),
		"scheme with SHA-3":          at(rsaKey, 14, 0x00, 0x27),
		"RSA-512":                    at(rsaKey, 16, 0x02, 0x00),
		"exponent 3":                 at(rsaKey, 18, 0, 0, 0, 3),
		"exponent even":              at(rsaKey, 18, 0, 1, 0, 2),
		"exponent too great":         at(rsaKey, 18, 0x80, 0, 0, 1),
		"modulus even":               even,
		"modulus short":              at(rsaKey, 24, 0),
		"modulus zero":               append(bytes.Clone(rsaKey[:24]), make([]byte, 256)...),
		"modulus of another size":    at(rsaKey, 16, 0x0C, 0x00),
		"the template":               templateNamed(t, "L-1").Public(nil),
		"the template of ECC":        templateNamed(t, "L-2").Public(nil),
		"the template without key":   templateNamed(t, "H-3").Public(nil),
		"curve of Barreto-Naehrig":   at(ecKey, 16, 0x00, 0x10),
		"curve of another size":      at(ecKey, 16, 0x00, 0x04),
		"derivation unknown":         at(ecKey, 18, 0x00, 0x30),
		"point beside its curve":     at(ecKey, 30, ecKey[30]^1),
		"point at infinity":          at(ecKey, 20, make([]byte, 70)...),
	} {
		if _, err := tpm.ParsePublic(b); !fault.Has(err, fault.AttestMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if p := parsePublic(t, at(rsaKey, 18, 0, 1, 0, 1)); bytes.Equal(p.Name(), parsePublic(t, rsaKey).Name()) || !bytes.Equal(p.SPKI, parsePublic(t, rsaKey).SPKI) {
		t.Error("the exponent in full is the same key under another name")
	}
}

func TestAttestationsThatNoTPMMakes(t *testing.T) {
	certify, quote := recorded(t, "certify-ecdsa.attest"), recorded(t, "quote-ecdsa.attest")
	signer := int(binary.BigEndian.Uint16(certify[6:]))
	data := 8 + signer // where extraData begins
	clock := data + 2 + int(binary.BigEndian.Uint16(certify[data:]))
	quoteData := 8 + int(binary.BigEndian.Uint16(quote[6:]))
	list := quoteData + 2 + int(binary.BigEndian.Uint16(quote[quoteData:])) + 17 + 8
	for name, b := range map[string][]byte{
		"nothing":                 nil,
		"signer longer than all":  at(certify, 6, 0xFF, 0xFF),
		"nonce longer than all":   at(certify, data, 0xFF, 0xFF),
		"neither safe nor unsafe": at(certify, clock+16, 2),
		"a quote called certify":  at(quote, 4, 0x80, 0x17),
		"certify called quote":    at(certify, 4, 0x80, 0x18),
		"a million banks":         at(quote, list, 0, 0x0F, 0x42, 0x40),
		"four billion banks":      at(quote, list, 0xFF, 0xFF, 0xFF, 0xFF),
		"no bank":                 at(quote, list, 0, 0, 0, 0),
		"registers of 1 octet":    at(quote, list+6, 1),
		"registers of 255 octets": at(quote, list+6, 255),
	} {
		if _, err := tpm.ParseAttest(b); !fault.Has(err, fault.AttestMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSelections: banks have 24 or 32 registers, and there are no more of them than
// a TPM can have.
func TestSelections(t *testing.T) {
	quote := recorded(t, "quote-ecdsa.attest")
	list := bytes.Index(quote, []byte{0, 0, 0, 1, 0, 0x0B, 3})
	with := func(selections ...[]byte) []byte {
		b := append(bytes.Clone(quote[:list]), 0, 0, 0, byte(len(selections)))
		for _, s := range selections {
			b = append(append(b, 0, 0x0B, byte(len(s))), s...)
		}
		return append(b, quote[list+10:]...)
	}
	for name, tt := range map[string]struct {
		b    []byte
		want []int // registers of the first selection; nil: refused
	}{
		"24 registers": {with([]byte{0x01, 0, 0x80}), []int{0, 23}},
		"32 registers": {with([]byte{0, 0, 0, 0x80}), []int{31}},
		"16 registers": {with([]byte{1, 0}), nil},
		"40 registers": {with([]byte{1, 0, 0, 0, 0}), nil},
		"none":         {with([]byte{}), nil},
		"16 banks":     {with(slices.Repeat([][]byte{{2, 0, 0}}, 16)...), []int{1}},
		"17 banks":     {with(slices.Repeat([][]byte{{2, 0, 0}}, 17)...), nil},
	} {
		a, err := tpm.ParseAttest(tt.b)
		if tt.want == nil {
			if !fault.Has(err, fault.AttestMalformed) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || !slices.Equal(a.Quote.Selections[0].PCRs, tt.want) {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
}

func TestSignaturesThatNoTPMMakes(t *testing.T) {
	rsaSign, ecSign := recorded(t, "certify-rsassa.sig"), recorded(t, "certify-ecdsa.sig")
	for name, b := range map[string][]byte{
		"nothing":           nil,
		"no scheme":         {0x00, 0x10},
		"a keyed hash":      at(rsaSign, 0, 0x00, 0x05),
		"ECDAA":             at(ecSign, 0, 0x00, 0x1A),
		"SM2":               at(ecSign, 0, 0x00, 0x1B),
		"no hash":           at(rsaSign, 2, 0x00, 0x10),
		"hash AES":          at(rsaSign, 2, 0x00, 0x06),
		"RSA called ECDSA":  at(rsaSign, 0, 0x00, 0x18),
		"ECDSA called RSA":  at(ecSign, 0, 0x00, 0x14),
		"empty":             {0x00, 0x14, 0x00, 0x0B, 0, 0},
		"two empty numbers": {0x00, 0x18, 0x00, 0x0B, 0, 0, 0, 0},
		"longer than all":   at(rsaSign, 4, 0xFF, 0xFF),
	} {
		if _, err := tpm.ParseSignature(b); !fault.Has(err, fault.AttestMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSignaturesUnderWrongSchemesAndKeys(t *testing.T) {
	message := recorded(t, "certify-rsassa.attest")
	rsaKey, ecKey := parsePublic(t, recordedPublic(t, "ak-rsassa")).Key, parsePublic(t, recordedPublic(t, "ak-ecdsa")).Key
	good := recorded(t, "certify-rsassa.sig")
	for name, b := range map[string][]byte{
		"PSS":     at(good, 0, 0x00, 0x16),
		"SHA-1":   at(good, 2, 0x00, 0x04),
		"SHA-384": at(good, 2, 0x00, 0x0C),
		"changed": at(good, 100, good[100]^1),
		"zeros":   append([]byte{0x00, 0x18, 0x00, 0x0B}, append(tpm.Sized(make([]byte, 32)), tpm.Sized(make([]byte, 32))...)...),
	} {
		s, err := tpm.ParseSignature(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if s.Verifies(rsaKey, message) || s.Verifies(ecKey, message) || s.Verifies(nil, message) || s.Verifies("key", message) {
			t.Errorf("%s: verifies", name)
		}
	}
}

// TestRefusalsCostNothing: what a header claims is not allocated.
func TestRefusalsCostNothing(t *testing.T) {
	quote := recorded(t, "quote-ecdsa.attest")
	many := at(quote, 8+int(binary.BigEndian.Uint16(quote[6:]))+2+16+17+8, 0xFF, 0xFF, 0xFF, 0xFF)
	short := recordedPublic(t, "ak-rsassa")[:30]
	if n := testing.AllocsPerRun(100, func() {
		_, _ = tpm.ParseAttest(many)
		_, _ = tpm.ParsePublic(short)
	}); n > 16 {
		t.Errorf("%v allocations", n)
	}
}

func TestBindingIsOfNonceAndKey(t *testing.T) {
	spki := parsePublic(t, recordedPublic(t, "subject-ecdsa")).SPKI
	nonce := bytes.Repeat([]byte{7}, 32)
	want := sum(tpm.AlgSHA256, nonce, spki)
	if got := tpm.Binding(nonce, spki); !bytes.Equal(got[:], want) {
		t.Errorf("%x, want %x", got, want)
	}
}

func TestUnsizedWantsTheExactSize(t *testing.T) {
	inner := []byte("octets")
	if got, err := tpm.Unsized(tpm.Sized(inner)); err != nil || !bytes.Equal(got, inner) {
		t.Errorf("%q, %v", got, err)
	}
	for _, b := range [][]byte{nil, {0}, {0, 0}, {0, 2, 1}, {0, 1, 1, 1}} {
		if _, err := tpm.Unsized(b); !fault.Has(err, fault.AttestMalformed) {
			t.Errorf("%x: %v", b, err)
		}
	}
}

// BenchmarkEnrollment reads what one enrollment sends: three public areas, an
// attestation and a signature.
func BenchmarkEnrollment(b *testing.B) {
	ek, ak, subject := recordedPublic(b, "ek-L-1"), recordedPublic(b, "ak-ecdsa"), recordedPublic(b, "subject-ecdsa")
	attest, signature := recorded(b, "certify-ecdsa.attest"), recorded(b, "certify-ecdsa.sig")
	b.ReportAllocs()
	for b.Loop() {
		for _, p := range [][]byte{ek, ak, subject} {
			if _, err := tpm.ParsePublic(p); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := tpm.ParseAttest(attest); err != nil {
			b.Fatal(err)
		}
		if _, err := tpm.ParseSignature(signature); err != nil {
			b.Fatal(err)
		}
	}
}

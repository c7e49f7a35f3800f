package tpm_test

import (
	"bytes"
	"encoding/asn1"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/tpm"
)

func fullBundle(t testing.TB) *tpm.Bundle {
	return &tpm.Bundle{
		Attest: recorded(t, "certify-ecdsa.attest"), Signature: recorded(t, "certify-ecdsa.sig"), Public: recordedPublic(t, "subject-ecdsa"),
		Certificates: [][]byte{recorded(t, "ek-L-1.crt"), recorded(t, "platform.crt")},
	}
}

func TestBundleRoundTrip(t *testing.T) {
	for name, change := range map[string]func(*tpm.Bundle){
		"full":                 func(*tpm.Bundle) {},
		"without certificates": func(b *tpm.Bundle) { b.Certificates = nil },
		"without public area":  func(b *tpm.Bundle) { b.Public = nil },
	} {
		want := fullBundle(t)
		change(want)
		der, err := want.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := tpm.ParseBundle(der)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

var (
	certifyType = asn1.ObjectIdentifier{2, 23, 133, 20, 1}
	otherType   = asn1.ObjectIdentifier{1, 2, 3, 4}
)

type build = func(*cryptobyte.Builder)

func sequence(parts ...build) build {
	return func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, p := range parts {
				p(b)
			}
		})
	}
}

func octetString(s string) build {
	return func(b *cryptobyte.Builder) { b.AddASN1OctetString([]byte(s)) }
}

func oid(o asn1.ObjectIdentifier) build {
	return func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(o) }
}

func text(s string) build {
	return func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
	}
}

func tagged(n uint8, s string) build {
	return func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.Tag(n).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
	}
}

func octetsOf(t testing.TB, b build) []byte {
	t.Helper()
	var out cryptobyte.Builder
	b(&out)
	der, err := out.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestBundlesOfOthers(t *testing.T) {
	certify := sequence(octetString("attest"), octetString("signature"))
	statement := sequence(oid(certifyType), certify)
	other := sequence(oid(otherType), octetString("something"))
	many := make([]build, 17)
	for i := range many {
		many[i] = other
	}
	for name, c := range map[string]struct {
		bundle build
		ok     bool
	}{
		"one statement":                     {sequence(sequence(statement)), true},
		"others beside it":                  {sequence(sequence(other, statement, other)), true},
		"certificates of other formats":     {sequence(sequence(statement), sequence(tagged(3, "other"), sequence(text("certificate")))), true},
		"no statement":                      {sequence(sequence()), false},
		"none that we know":                 {sequence(sequence(other)), false},
		"two of a TPM":                      {sequence(sequence(statement, statement)), false},
		"too many":                          {sequence(sequence(append(many, statement)...)), false},
		"no list":                           {sequence(), false},
		"an empty list of certificates":     {sequence(sequence(statement), sequence()), false},
		"attribute certificates":            {sequence(sequence(statement), sequence(tagged(2, "old"))), false},
		"more after the certificates":       {sequence(sequence(statement), sequence(sequence(text("c"))), sequence()), false},
		"hint of EvidenceBundle":            {sequence(sequence(sequence(oid(certifyType), certify, text("verifier.example.com")))), false},
		"list of EvidenceBundle":            {sequence(sequence(sequence(statement))), false},
		"bindsPublicKey of draft 22":        {sequence(sequence(sequence(oid(certifyType), func(b *cryptobyte.Builder) { b.AddASN1Boolean(true) }, certify))), false},
		"attributes of draft 22":            {sequence(sequence(sequence(oid(certifyType), certify, tagged(1, "attributes")))), false},
		"a statement without signature":     {sequence(sequence(sequence(oid(certifyType), sequence(octetString("attest"))))), false},
		"a statement with more":             {sequence(sequence(sequence(oid(certifyType), sequence(octetString("a"), octetString("s"), octetString("p"), octetString("x"))))), false},
		"a statement that is empty":         {sequence(sequence(sequence(oid(certifyType), sequence(octetString(""), octetString("s"))))), false},
		"a public area that is empty":       {sequence(sequence(sequence(oid(certifyType), sequence(octetString("a"), octetString("s"), octetString(""))))), false},
		"a statement that is octets":        {sequence(sequence(sequence(oid(certifyType), octetString("attest")))), false},
		"a statement without type":          {sequence(sequence(sequence(certify))), false},
		"a bundle that is no sequence":      {octetString("bundle"), false},
		"a bundle with text for statements": {sequence(text("x")), false},
	} {
		der := octetsOf(t, c.bundle)
		_, err := tpm.ParseBundle(der)
		if c.ok != (err == nil) || err != nil && !fault.Has(err, fault.AttestMalformed) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := tpm.ParseBundle(append(bytes.Clone(der), 0)); !fault.Has(err, fault.AttestMalformed) {
			t.Errorf("%s, an octet more: %v", name, err)
		}
	}
}

// FuzzBundle: what is read is written and read again to the same.
func FuzzBundle(f *testing.F) {
	der, err := (&tpm.Bundle{Attest: []byte("a"), Signature: []byte("s"), Public: []byte("p"), Certificates: [][]byte{{0x30, 0}, {0x30, 1, 5}}}).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Add(octetsOf(f, sequence(sequence(sequence(oid(otherType), text("x")), sequence(oid(certifyType), sequence(octetString("a"), octetString("s")))))))
	f.Fuzz(func(t *testing.T, der []byte) {
		b, err := tpm.ParseBundle(der)
		if err != nil {
			if !fault.Has(err, fault.AttestMalformed) {
				t.Fatal(err)
			}
			return
		}
		der, err = b.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := tpm.ParseBundle(der)
		if err != nil || !cmp.Equal(b, again) {
			t.Fatalf("%+v became %+v: %v", b, again, err)
		}
	})
}

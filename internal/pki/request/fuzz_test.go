package request

import (
	"bytes"
	"encoding/base64"
	"testing"
)

func FuzzParse(f *testing.F) {
	for _, c := range hostileCases(f) {
		if body := c.read(f); len(body) < MaxSize {
			f.Add(body)
		}
	}
	for _, key := range signers(f) {
		f.Add(draft{attributes: altNames(element(tagDNS, []byte("a.example")))}.sign(f, key))
	}
	f.Add(tcgRequest(f))
	f.Fuzz(func(t *testing.T, der []byte) {
		before := bytes.Clone(der)
		got, err := Parse(der)
		if !bytes.Equal(before, der) {
			t.Fatal("the input was changed")
		}
		if err != nil {
			if !ofThisBlock(err) {
				t.Fatal(err)
			}
			return
		}
		if !isTCG(der) { // crypto/x509 does not read those
			compareWithX509(t, got, der)
		}
	})
}

// FuzzStructure goes past the signature, which random changes never survive:
// what the structure check accepts, crypto/x509 can read too.
func FuzzStructure(f *testing.F) {
	for _, c := range hostileCases(f) {
		if body := c.read(f); len(body) < MaxSize {
			f.Add(body)
		}
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		sig, info, err := split(der)
		if err != nil {
			return
		}
		r := new(Request)
		if r.readInfo(info) != nil {
			return
		}
		if r.PublicKey, r.KeyType, err = parseKey(r.SPKI); err != nil {
			return
		}
		if kind, _ := sig.method(); kind == 0 {
			return
		}
		compareStructure(t, r, der)
	})
}

func FuzzDecode(f *testing.F) {
	for _, c := range hostileCases(f) {
		body := c.read(f)
		f.Add(body)
		f.Add(base64.StdEncoding.AppendEncode(nil, body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		der, err := Decode(body)
		if err != nil {
			if !ofThisBlock(err) {
				t.Fatal(err)
			}
			return
		}
		if len(der) == 0 {
			t.Fatal("nothing decoded, and no error")
		}
		again, err := Decode(base64.StdEncoding.AppendEncode(nil, der))
		if err != nil || !bytes.Equal(again, der) {
			t.Fatalf("decoding does not hold: %v", err)
		}
	})
}

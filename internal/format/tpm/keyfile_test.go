package tpm_test

import (
	"bytes"
	"encoding/asn1"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/tpm"
)

// TestKeyFilesOfOpenSSL reads files that OpenSSL wrote with tpm2-openssl 1.1.1:
//
//	openssl genpkey -provider tpm2 -provider default -algorithm EC -pkeyopt group:P-256
//	... and with -pkeyopt parent:0x81000001
func TestKeyFilesOfOpenSSL(t *testing.T) {
	for name, parent := range map[string]uint32{"openssl-owner.pem": tpm.HierarchyOwner, "openssl-persistent.pem": 0x81000001} {
		file, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		k, err := tpm.ParseKeyFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if k.Parent != parent || !k.EmptyAuth {
			t.Errorf("%s: parent %#x, empty password %v", name, k.Parent, k.EmptyAuth)
		}
		public, err := tpm.Unsized(k.Public)
		if err != nil {
			t.Fatal(err)
		}
		if p := parsePublic(t, public); p.Curve != tpm.P256 {
			t.Errorf("%s: curve %v", name, p.Curve)
		}
		again, err := k.MarshalPEM()
		if err != nil {
			t.Fatal(err)
		}
		// The same but for the octet of true, which OpenSSL does not write as DER.
		was, is := der(t, file), der(t, again)
		if i := bytes.Index(was, []byte{1, 1, 1}); i < 0 || !bytes.Equal(is, at(was, i+2, 0xFF)) {
			t.Errorf("%s: written as %x, was %x", name, is, was)
		}
	}
}

func der(t testing.TB, file []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(file)
	if block == nil || block.Type != "TSS2 PRIVATE KEY" {
		t.Fatalf("not a TSS2 key: %s", file)
	}
	return block.Bytes
}

func TestKeyFilesRefused(t *testing.T) {
	type file struct {
		Type      asn1.ObjectIdentifier
		EmptyAuth bool `asn1:"explicit,tag:0"`
		Policy    asn1.RawValue
		Parent    int64
		Public    []byte
		Private   []byte
	}
	loadable := asn1.ObjectIdentifier{2, 23, 133, 10, 1, 3}
	write := func(change func(*file)) []byte {
		f := &file{
			Type: loadable, EmptyAuth: true, Parent: 0x40000001,
			Policy: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: []byte{0x0C, 0x01, 'x'}},
			Public: tpm.Sized([]byte("public")), Private: tpm.Sized([]byte("private")),
		}
		change(f)
		der, err := asn1.Marshal(*f)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "TSS2 PRIVATE KEY", Bytes: der})
	}
	good := write(func(*file) {})
	if k, err := tpm.ParseKeyFile(good); err != nil || !k.EmptyAuth || string(k.Private[2:]) != "private" {
		t.Fatalf("with a description: %+v, %v", k, err)
	}
	for name, b := range map[string][]byte{
		"nothing":           nil,
		"no PEM":            []byte("TSS2"),
		"another type":      pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der(t, good)}),
		"octets after":      pem.EncodeToMemory(&pem.Block{Type: "TSS2 PRIVATE KEY", Bytes: append(der(t, good), 0)}),
		"cut":               pem.EncodeToMemory(&pem.Block{Type: "TSS2 PRIVATE KEY", Bytes: der(t, good)[:30]}),
		"too long":          append(make([]byte, 17<<10), good...),
		"sealed data":       write(func(f *file) { f.Type = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 5} }),
		"a key to import":   write(func(f *file) { f.Type = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 4} }),
		"a policy":          write(func(f *file) { f.Policy.Tag = 1 }),
		"a secret":          write(func(f *file) { f.Policy.Tag = 2 }),
		"negative parent":   write(func(f *file) { f.Parent = -1 }),
		"parent too great":  write(func(f *file) { f.Parent = 1 << 32 }),
		"public too long":   write(func(f *file) { f.Public = append(f.Public, 0) }),
		"private too short": write(func(f *file) { f.Private = f.Private[:4] }),
		"private empty":     write(func(f *file) { f.Private = nil }),
	} {
		if k, err := tpm.ParseKeyFile(b); !fault.Has(err, fault.AttestMalformed) {
			t.Errorf("%s: %+v, %v", name, k, err)
		}
	}
	if _, err := (&tpm.KeyFile{Public: []byte("public"), Private: tpm.Sized([]byte("private"))}).MarshalPEM(); err == nil {
		t.Error("written without a size")
	}
}

// FuzzKeyFile: what is read is written and read again to the same.
func FuzzKeyFile(f *testing.F) {
	for _, name := range []string{"openssl-owner.pem", "openssl-persistent.pem"} {
		file, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der(f, file))
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		k, err := tpm.ParseKeyFile(pem.EncodeToMemory(&pem.Block{Type: "TSS2 PRIVATE KEY", Bytes: der}))
		if err != nil {
			return
		}
		file, err := k.MarshalPEM()
		if err != nil {
			t.Fatal(err)
		}
		again, err := tpm.ParseKeyFile(file)
		if err != nil || !cmp.Equal(k, again) {
			t.Fatalf("%+v became %+v: %v", k, again, err)
		}
	})
}

package cms

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/needs"
)

// certificates returns n self-signed certificates named cert-0, cert-1, ...
func certificates(t testing.TB, n int) [][]byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var certs [][]byte
	for i := range n {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(100 - i)), // so that a sorted SET would have another order
			Subject:      pkix.Name{CommonName: fmt.Sprintf("cert-%d", i)},
			NotBefore:    time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0),
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, der)
	}
	return certs
}

// signedData is RFC 5652's structure for encoding/asn1, which checks the
// writer's lengths independently.
type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content struct {
		Version          int
		DigestAlgorithms []asn1.RawValue `asn1:"set"`
		ContentInfo      struct{ Type asn1.ObjectIdentifier }
		Certificates     []asn1.RawValue `asn1:"tag:0,optional,set"`
		SignerInfos      []asn1.RawValue `asn1:"set"`
	} `asn1:"explicit,tag:0"`
}

func TestCertsOnlyIsDER(t *testing.T) {
	sizesToTry := [][]int{{}, {0}, {1}, {95, 3}, {500, 700}, {65535, 1}, {1 << 20}}
	for n := range 80 { // every length at which a header grows
		sizesToTry = append(sizesToTry, []int{60 + n}, []int{190 + n}, []int{65460 + n})
	}
	for _, sizes := range sizesToTry {
		var certs [][]byte
		for i, n := range sizes {
			certs = append(certs, append(appendHeader(nil, tagSequence, n), bytes.Repeat([]byte{byte(i)}, n)...))
		}
		out := CertsOnly(certs...)
		var got contentInfo
		rest, err := asn1.Unmarshal(out, &got)
		if err != nil || len(rest) != 0 {
			t.Fatalf("%v: %d octets left, %v", sizes, len(rest), err)
		}
		if !got.Type.Equal(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}) || got.Content.Version != 1 ||
			!got.Content.ContentInfo.Type.Equal(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}) ||
			len(got.Content.DigestAlgorithms)+len(got.Content.SignerInfos) != 0 {
			t.Errorf("%v: %+v", sizes, got)
		}
		var inside [][]byte
		for _, c := range got.Content.Certificates {
			inside = append(inside, c.FullBytes)
		}
		if !slices.EqualFunc(inside, certs, bytes.Equal) {
			t.Errorf("%v: other certificates came out", sizes)
		}
		if cap(out) != len(out) {
			t.Errorf("%v: %d octets in a buffer of %d", sizes, len(out), cap(out))
		}
	}
}

func TestParseReadsWhatCertsOnlyWrites(t *testing.T) {
	for n := 1; n <= MaxCertificates; n++ {
		certs := certificates(t, n)
		got, err := ParseCertsOnly(CertsOnly(certs...))
		if err != nil || !slices.EqualFunc(got, certs, bytes.Equal) {
			t.Errorf("%d certificates: %d, %v", n, len(got), err)
		}
	}
}

func TestCertsOnlyAllocatesOnce(t *testing.T) {
	certs := certificates(t, 3)
	if n := testing.AllocsPerRun(100, func() { CertsOnly(certs...) }); n > 1 {
		t.Errorf("%v allocations", n)
	}
}

// message puts the parts of SignedData into a message.
func message(parts ...string) []byte {
	wrap := func(tag byte, content string) string {
		return string(appendHeader(nil, tag, len(content))) + content
	}
	return []byte(wrap(tagSequence, contentType+wrap(tagZero, wrap(tagSequence, strings.Join(parts, "")))))
}

func TestParseRefuses(t *testing.T) {
	good := CertsOnly(certificates(t, 1)...)
	replace := func(old, new string) []byte { return bytes.Replace(good, []byte(old), []byte(new), 1) }
	if _, err := ParseCertsOnly(message(head, "\xa0\x02\x30\x00", tail)); err != nil {
		t.Fatalf("control: %v", err)
	}
	many := slices.Repeat([][]byte{{tagSequence, 0}}, MaxCertificates+1)
	for name, der := range map[string][]byte{
		"nothing":                {},
		"no certificates":        CertsOnly(),
		"17 certificates":        CertsOnly(many...),
		"a tail":                 append(bytes.Clone(good), 0),
		"twice":                  append(bytes.Clone(good), good...),
		"a bare certificate":     certificates(t, 1)[0],
		"too large":              CertsOnly(append(appendHeader(nil, tagSequence, MaxSize), make([]byte, MaxSize)...)),
		"a signer":               message(head, "\xa0\x02\x30\x00", "\x31\x02\x30\x00"),
		"a digest algorithm":     message(strings.Replace(head, "\x31\x00", "\x31\x02\x30\x00", 1), "\xa0\x02\x30\x00", tail),
		"content":                message(strings.Replace(head, "\x30\x0b\x06", "\x30\x0f\x06", 1)+"\xa0\x02\x04\x00", "\xa0\x02\x30\x00", tail),
		"something more":         message(head, "\xa0\x02\x30\x00", tail+"\x05\x00"),
		"another content type":   replace(oidSignedData, oidData),
		"another inner type":     replace(oidData, oidSignedData),
		"version 3":              replace("\x02\x01\x01\x31", "\x02\x01\x03\x31"),
		"attribute certificate":  CertsOnly([]byte{0xa1, 0}),
		"indefinite length":      slices.Concat([]byte{0x30, 0x80}, good[4:], []byte{0, 0}),
		"length not minimal":     slices.Concat([]byte{0x30, 0x83, 0}, good[2:]),
		"length beyond the end":  slices.Concat([]byte{0x30, 0x84, 0x7f, 0xff, 0xff, 0xff}, good[4:]),
		"base64":                 []byte("MIIB"),
		"half a certificate set": good[:len(good)/2],
	} {
		if _, err := ParseCertsOnly(der); !fault.Has(err, fault.CertsOnlyMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range good {
		if _, err := ParseCertsOnly(good[:i]); err == nil {
			t.Errorf("passed when cut to %d octets", i)
		}
	}
}

func TestOpenSSLReadsCertsOnly(t *testing.T) {
	openssl := needs.OpenSSL(t)
	in := filepath.Join(t.TempDir(), "certs.p7")
	certs := certificates(t, 3)
	for _, inform := range []string{"DER", "PEM"} {
		out := CertsOnly(certs...)
		if inform == "PEM" {
			out = pem.EncodeToMemory(&pem.Block{Type: "PKCS7", Bytes: out})
		}
		if err := os.WriteFile(in, out, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, command := range []string{"pkcs7 -print_certs -inform " + inform + " -in", "cms -cmsout -print -inform " + inform + " -in"} {
			text, err := exec.CommandContext(t.Context(), openssl, append(strings.Fields(command), in)...).CombinedOutput()
			if err != nil {
				t.Fatalf("openssl %s: %v: %s", command, err, text)
			}
			last := -1
			for i := range certs {
				at := strings.Index(string(text), fmt.Sprintf("cert-%d", i))
				if at <= last {
					t.Errorf("openssl %s: certificate %d is not in its place:\n%s", command, i, text)
				}
				last = at
			}
		}
	}
}

func TestParseReadsWhatOpenSSLWrites(t *testing.T) {
	openssl := needs.OpenSSL(t)
	dir := t.TempDir()
	certs := certificates(t, 2)
	command := strings.Fields("crl2pkcs7 -nocrl -outform DER -out " + filepath.Join(dir, "out"))
	for i, c := range certs {
		path := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c}), 0o600); err != nil {
			t.Fatal(err)
		}
		command = append(command, "-certfile", path)
	}
	if text, err := exec.CommandContext(t.Context(), openssl, command...).CombinedOutput(); err != nil {
		t.Fatalf("openssl: %v: %s", err, text)
	}
	der, err := os.ReadFile(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseCertsOnly(der)
	if err != nil || !slices.EqualFunc(got, certs, bytes.Equal) {
		t.Errorf("%d certificates, %v", len(got), err)
	}
}

func FuzzParseCertsOnly(f *testing.F) {
	f.Add(CertsOnly(certificates(f, 2)...))
	f.Add(CertsOnly())
	f.Add(CertsOnly([]byte{tagSequence, 0}))
	f.Fuzz(func(t *testing.T, der []byte) {
		certs, err := ParseCertsOnly(der)
		if err != nil {
			if !fault.Has(err, fault.CertsOnlyMalformed) {
				t.Fatal(err)
			}
			return
		}
		if len(certs) == 0 || len(certs) > MaxCertificates {
			t.Fatalf("%d certificates", len(certs))
		}
		again, err := ParseCertsOnly(CertsOnly(certs...))
		if err != nil || !slices.EqualFunc(again, certs, bytes.Equal) {
			t.Fatalf("written again: %d certificates, %v", len(again), err)
		}
	})
}

func BenchmarkCertsOnly(b *testing.B) {
	certs := certificates(b, 2)
	b.ReportAllocs()
	for b.Loop() {
		CertsOnly(certs...)
	}
}

package chain_test

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/chain"
)

func TestParseCertificates(t *testing.T) {
	a, b := root(t, "A", p256(t)), root(t, "B", p256(t))
	bundle := pemOf("CERTIFICATE", a.Raw, b.Raw)
	key := pemOf("PRIVATE KEY", []byte("not looked at"))
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	replace := func(old, new string) []byte { return []byte(strings.Replace(string(bundle), old, new, 1)) }
	rows := []struct {
		name string
		in   []byte
		want int // 0: refused
	}{
		{"PEM", bundle, 2},
		{"DER", a.Raw, 1},
		{"DER twice", join(a.Raw, b.Raw), 2},
		{"Windows lines", bytes.ReplaceAll(bundle, []byte("\n"), []byte("\r\n")), 2},
		{"byte order mark", join([]byte("\xef\xbb\xbf"), bundle), 2},
		{"text between", join([]byte("# A\nsubject=A\n"), pemOf("CERTIFICATE", a.Raw), []byte("\n0 s: B\n"), pemOf("CERTIFICATE", b.Raw)), 2},
		{"a key beside", join(key, bundle), 2},
		{"old label", pemOf("X509 CERTIFICATE", a.Raw), 1},
		{"without a last line end", bytes.TrimRight(bundle, "\n"), 2},
		{"nothing", nil, 0},
		{"text only", []byte("hello\n"), 0},
		{"key only", key, 0},
		{"a request", pemOf("CERTIFICATE REQUEST", a.Raw), 0},
		{"DER with leftovers", join(a.Raw, []byte{0}), 0},
		{"cut DER", a.Raw[:len(a.Raw)-1], 0},
		{"a header", replace("-----\n", "-----\nProc-Type: 4\n\n"), 0},
		{"no end", bundle[:len(bundle)-20], 0},
		{"another end", replace("END CERTIFICATE", "END X509 CERTIFICATE"), 0},
		{"a broken letter", replace("MII", "M!I"), 0},
		{"bits left over in base64", []byte("-----BEGIN CERTIFICATE-----\n" + slack(padded(t).Raw) + "\n-----END CERTIFICATE-----\n"), 0},
		{"an empty block", pemOf("CERTIFICATE", nil), 0},
		{"leftovers in a block", pemOf("CERTIFICATE", append(append([]byte(nil), a.Raw...), 0)), 0},
		{"a block in a block", replace("-----\n", "-----\n-----BEGIN CERTIFICATE-----\n"), 0},
		{"something else in DER", join([]byte{0x30, 0x82, 0x01, 0x00}, make([]byte, 256)), 0},
		{"too large", make([]byte, 9<<20), 0},
		{"too many", bytes.Repeat(pemOf("CERTIFICATE", a.Raw), 4097), 0},
		{"too many in DER", bytes.Repeat(a.Raw, 4097), 0},
		{"one too large", pemOf("CERTIFICATE", root(t, "x", p256(t), ext(private, false, make([]byte, 65_000)), ext(append(private, 2), false, make([]byte, 1_000))).Raw), 0},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			certs, err := chain.ParseCertificates(r.in)
			if len(certs) != r.want || (err == nil) != (r.want > 0) || err != nil && !fault.Has(err, fault.CertificateInvalid) {
				t.Errorf("%d certificates, %v; want %d", len(certs), err, r.want)
			}
			if p, err := chain.ParsePool(r.in); err == nil && p.Len() != r.want {
				t.Errorf("a pool of %d, want %d", p.Len(), r.want)
			}
		})
	}
}

// padded is a certificate whose length is no multiple of three.
func padded(t *testing.T) entity {
	for n := 0; ; n++ {
		if c := root(t, "Padded", p256(t), ext(private, false, make([]byte, n))); len(c.Raw)%3 != 0 {
			return c
		}
	}
}

// slack is base64 with the unused bits of the last letter set.
func slack(der []byte) string {
	text := base64.StdEncoding.EncodeToString(der)
	body := strings.TrimRight(text, "=")
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	last := strings.IndexByte(letters, body[len(body)-1])
	return body[:len(body)-1] + letters[last+1:last+2] + text[len(body):]
}

func TestParseCRLs(t *testing.T) {
	r := root(t, "R", p256(t))
	one, two := r.crl(t, 1, nil), r.crl(t, 2, nil, entry(r, 1))
	rows := []struct {
		name string
		in   []byte
		want int
	}{
		{"PEM", pemOf("X509 CRL", one.Raw, two.Raw), 2},
		{"DER", one.Raw, 1},
		{"certificates beside", append(pemOf("CERTIFICATE", r.Raw), pemOf("X509 CRL", one.Raw)...), 1},
		{"nothing", nil, 0},
		{"a certificate", r.Raw, 0},
		{"certificates only", pemOf("CERTIFICATE", r.Raw), 0},
		{"cut", two.Raw[:len(two.Raw)-2], 0},
		{"leftovers in a block", pemOf("X509 CRL", append(append([]byte(nil), one.Raw...), 0)), 0},
		{"too many", bytes.Repeat(one.Raw, 257), 0},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			ls, err := chain.ParseCRLs(row.in)
			if len(ls) != row.want || (err == nil) != (row.want > 0) || err != nil && !fault.Has(err, fault.CRLInvalid) {
				t.Errorf("%d CRLs, %v; want %d", len(ls), err, row.want)
			}
		})
	}
}

// TestNamesAreComparedAsRFC5280Says covers section 7.1.
func TestNamesAreComparedAsRFC5280Says(t *testing.T) {
	name := func(rdns ...[]byte) []byte { return tlv(0x30, rdns...) }
	value := func(arc, tag byte, text string) []byte {
		return tlv(0x30, tlv(6, []byte{0x55, 4, arc}), tlv(tag, []byte(text)))
	}
	rdn := func(values ...[]byte) []byte { return tlv(0x31, values...) }
	const utf, printable, ia5, t61, bmp = 12, 19, 22, 20, 30
	rows := []struct {
		name string
		a, b []byte
		same bool
	}{
		{"type of string", name(rdn(value(3, utf, "Acme"))), name(rdn(value(3, printable, "Acme"))), true},
		{"case", name(rdn(value(3, utf, "ACME"))), name(rdn(value(3, printable, "acme"))), true},
		{"case beyond ASCII", name(rdn(value(3, utf, "ÄCME"))), name(rdn(value(3, utf, "äcme"))), true},
		{"spaces", name(rdn(value(3, utf, "  Ac  me "))), name(rdn(value(3, utf, "ac me"))), true},
		{"no space", name(rdn(value(3, utf, "Ac me"))), name(rdn(value(3, utf, "acme"))), false},
		{"Latin-1", name(rdn(value(3, t61, "\xc4cme"))), name(rdn(value(3, utf, "Äcme"))), true},
		{"UTF-16", name(rdn(value(3, bmp, "\x00A\x00c"))), name(rdn(value(3, utf, "Ac"))), true},
		{"attribute", name(rdn(value(3, utf, "Acme"))), name(rdn(value(10, utf, "Acme"))), false},
		{"order in an RDN", name(rdn(value(3, utf, "a"), value(10, utf, "b"))), name(rdn(value(10, utf, "b"), value(3, utf, "a"))), true},
		{"order of RDNs", name(rdn(value(3, utf, "a")), rdn(value(10, utf, "b"))), name(rdn(value(10, utf, "b")), rdn(value(3, utf, "a"))), false},
		{"one RDN or two", name(rdn(value(3, utf, "a")), rdn(value(10, utf, "b"))), name(rdn(value(3, utf, "a"), value(10, utf, "b"))), false},
		{"a longer name", name(rdn(value(3, utf, "a"))), name(rdn(value(3, utf, "a")), rdn(value(3, utf, "a"))), false},
		{"text that looks like structure", name(rdn(value(3, utf, "a\x03b"))), name(rdn(value(3, utf, "a"), value(3, utf, "b"))), false},
		{"not text", name(rdn(value(3, 4, "Acme"))), name(rdn(value(3, 4, "acme"))), false},
		{"the empty name", name(), name(rdn(value(3, utf, ""))), false},
		{"e-mail in IA5", name(rdn(value(3, ia5, "A@x"))), name(rdn(value(3, utf, "a@X"))), true},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			if got := chain.Canonical(r.a) == chain.Canonical(r.b); got != r.same {
				t.Errorf("same: %v, want %v", got, r.same)
			}
		})
	}
}

package ocsp

import (
	"bytes"
	"encoding/base64"
	"net/url"
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
)

// FuzzDecodeTarget takes any target: what is not a request is refused as
// malformed, and every way of writing one gives its octets.
func FuzzDecodeTarget(f *testing.F) {
	for _, target := range []string{
		"", "/", "/ocsp/", "/ocsp/x", "/ocsp/x/", "/ocsp//", "/ocsp/x/MAA=", "/ocsp/x/MA%41", "/ocsp/x/%", "/ocsp/x/%zz",
		"/ocsp/x/ AAA", "/ocsp/x/+//+", "/ocsp/x/MAA=====", "/ocsp/x/MA\nAA", "/crl/x", strings.Repeat("/ocsp/x/", 2000),
	} {
		f.Add(target, []byte{})
	}
	f.Add("/ocsp/x/", []byte{0xff, 0xff, 0xff, 0xfb, 0xef, 0xbe})
	f.Fuzz(func(t *testing.T, target string, der []byte) {
		if got, err := decodeTarget(target); err != nil && !fault.Has(err, fault.OCSPMalformed) {
			t.Fatalf("%q: %v", target, err)
		} else if len(got) > maxTarget {
			t.Fatalf("%d octets", len(got))
		}
		if len(der) > 1500 {
			return
		}
		text := base64.StdEncoding.EncodeToString(der)
		for _, form := range []string{text, strings.TrimRight(text, "="), url.PathEscape(text), url.QueryEscape(text), strings.ReplaceAll(text, "+", "%20")} {
			got, err := decodeTarget(Prefix + "issuing/" + form)
			if err != nil || !bytes.Equal(got, der) {
				t.Fatalf("%q: %x, %v, want %x", form, got, err, der)
			}
		}
	})
}

// Each kind of refusal has its word in OCSP.
func TestRefusals(t *testing.T) {
	for _, entry := range fault.All() {
		want := byte(2)
		switch {
		case entry.Code == fault.OCSPUnauthorized:
			want = 6
		case entry.Kind == fault.Invalid:
			want = 1
		case entry.Kind == fault.Unavailable, entry.Kind == fault.Exhausted:
			want = 3
		}
		if got := refusal(fault.New(entry.Code)); !bytes.Equal(got, []byte{0x30, 3, 0x0a, 1, want}) {
			t.Errorf("%s: %x", entry.Code, got)
		}
	}
}

func TestCacheControl(t *testing.T) {
	if cacheControl(0) != "no-store" || cacheControl(-1) != "no-store" {
		t.Error("what must not be kept may be kept")
	}
}

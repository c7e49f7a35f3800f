package request

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/pem"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
)

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// fixedLength signs until the signature has its most common length, so that
// tests can count octets.
type fixedLength struct{ *ecdsa.PrivateKey }

func (f fixedLength) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	for {
		sig, err := f.PrivateKey.Sign(r, digest, opts)
		if err != nil || len(sig) == 71 {
			return sig, err
		}
	}
}

func wrap(s, every string, n int) string {
	var b strings.Builder
	for len(s) > n {
		b.WriteString(s[:n] + every)
		s = s[n:]
	}
	return b.String() + s + every
}

func TestDecode(t *testing.T) {
	der := draft{}.sign(t, p256Key(t))
	text := base64.StdEncoding.EncodeToString(der)
	block := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	for name, body := range map[string]string{
		"DER":                     string(der),
		"base64, one line":        text,
		"base64, line ending":     text + "\r\n",
		"base64, 64 columns":      wrap(text, "\n", 64),
		"base64, 76, CRLF":        wrap(text, "\r\n", 76),
		"base64, 1 column":        wrap(text, "\n", 1),
		"base64, indented":        "  " + wrap(text, "\n\t", 64),
		"PEM":                     block,
		"PEM, CRLF":               strings.ReplaceAll(block, "\n", "\r\n"),
		"PEM, no last line break": strings.TrimSpace(block),
		"PEM, blank lines":        "\n\n" + block + "\n\n",
		"PEM, older label":        strings.ReplaceAll(block, "CERTIFICATE REQ", "NEW CERTIFICATE REQ"),
	} {
		got, err := Decode([]byte(body))
		if err != nil || !bytes.Equal(got, der) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	der := draft{}.sign(t, p256Key(t))
	text := base64.StdEncoding.EncodeToString(der)
	block := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	begin, rest, _ := strings.Cut(block, "\n")
	for name, body := range map[string]string{
		"empty":                "",
		"white space":          " \r\n",
		"junk in front":        "x" + block,
		"junk behind":          block + "x",
		"two blocks":           block + block,
		"a block and base64":   block + text,
		"headers":              begin + "\nProc-Type: 4,ENCRYPTED\n\n" + rest,
		"one header":           begin + "\nA: b\n" + rest,
		"no end":               block[:len(block)-30],
		"nothing inside":       begin + "\n-----END CERTIFICATE REQUEST-----\n",
		"only a first line":    begin,
		"another label":        strings.ReplaceAll(block, "CERTIFICATE REQUEST", "CERTIFICATE"),
		"labels that differ":   strings.Replace(block, "END CERT", "END NEW CERT", 1),
		"no line break":        strings.ReplaceAll(block, "\n", ""),
		"text on the end line": strings.Replace(block, "\n-----END", "-----END", 1),
		"many first lines":     strings.Repeat("-----BEGIN CERTIFICATE REQUEST-----\n", 800),
		"byte order mark":      "\xef\xbb\xbf" + block,
		"UTF-16":               "\xff\xfe" + strings.Join(strings.Split(block, ""), "\x00") + "\x00",
		"base64 with a tail":   text + "!",
		"base64 and more":      strings.TrimRight(text, "=") + "==" + text,
		"base64 of an INTEGER": "AgEA",
		"base64 cut short":     text[:len(text)-5],
		"URL alphabet":         "M_-_",
		"padding missing":      "MAAA MA",
		"padding bits set":     "MAB=",
		"NUL inside":           text[:40] + "\x00" + text[40:],
		"vertical tab":         text[:40] + "\v" + text[40:],
		"latin-1":              text[:40] + "\xe4 \xf6" + text[40:],
	} {
		if _, err := Decode([]byte(body)); !fault.Has(err, fault.EncodingMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Decode(make([]byte, MaxBody+1)); !fault.Has(err, fault.RequestTooLarge) {
		t.Errorf("too large: %v", err)
	}
}

func BenchmarkDecode(b *testing.B) {
	text := base64.StdEncoding.AppendEncode(nil, draft{}.sign(b, p256Key(b)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(text); err != nil {
			b.Fatal(err)
		}
	}
}

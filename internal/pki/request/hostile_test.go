package request

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
)

const hostileFolder = "testdata/hostile-csr"

// hostileCase is an entry of the manifest of requests a CA must survive.
type hostileCase struct {
	ID, File, Expect, Note, SHA256 string
}

func hostileCases(t testing.TB) []hostileCase {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(hostileFolder, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []hostileCase
	if err := json.Unmarshal(text, &cases); err != nil {
		t.Fatal(err)
	}
	return cases
}

func (c hostileCase) read(t testing.TB) []byte {
	t.Helper()
	body, err := os.ReadFile(filepath.Join(hostileFolder, filepath.Base(c.File)))
	if err != nil {
		t.Fatal(err)
	}
	if d := sha256.Sum256(body); hex.EncodeToString(d[:]) != c.SHA256 {
		t.Fatalf("%s is not the file of the manifest", c.File)
	}
	return body
}

func TestHostileRequests(t *testing.T) {
	cases := hostileCases(t)
	if len(cases) < 70 {
		t.Fatalf("only %d cases", len(cases))
	}
	for _, c := range cases {
		t.Run(c.ID, func(t *testing.T) {
			body := c.read(t)
			der, err := Decode(body)
			if err == nil {
				_, err = Parse(der)
			}
			if _, direct := Parse(body); (direct == nil) != (err == nil) {
				t.Errorf("Parse alone says %v, after Decode %v", direct, err)
			}
			t.Logf("%s: %s: %v", c.Expect, c.Note, err)
			if err != nil && !ofThisBlock(err) {
				t.Errorf("refused by something else than a 1xxx fault: %v", err)
			}
			switch {
			case c.Expect == "reject", c.Expect == "reject_unless_profile":
				if err == nil {
					t.Errorf("passed: %s", c.Note)
				}
			case c.Expect == "issue_or_sanitise":
				if err != nil {
					t.Errorf("refused: %v", err)
				}
			case c.Expect == "reject_or_issue", c.Expect == "sanitise_or_reject", strings.HasPrefix(c.Expect, "detect_"):
			default:
				t.Errorf("the manifest expects %q, which this test does not know", c.Expect)
			}
		})
	}
}

// TestHostileReasons pins the reason of refusals whose remedy matters, and the
// two keys that only a look at other devices can refuse.
func TestHostileReasons(t *testing.T) {
	want := map[string]fault.Code{
		"challenge-two":               fault.RequestAttributes,
		"clone-key-1":                 0,
		"csr-attrs-10000":             fault.RequestTooLarge,
		"csr-version-1":               fault.RequestVersion,
		"csr-version-255":             fault.RequestVersion,
		"der-empty":                   fault.EncodingMalformed,
		"der-trailing":                fault.RequestMalformed,
		"dn-cn-integer":               fault.SubjectRefused,
		"dn-cn-mqtt-wild":             fault.SubjectRefused,
		"dn-cn-overlong-utf8":         fault.SubjectRefused,
		"dn-matter-both":              fault.SubjectRefused,
		"dn-matter-vid-lower":         fault.SubjectRefused,
		"ec-brainpool256":             fault.KeyAlgorithm,
		"ec-explicit-rogue-generator": fault.KeyMalformed,
		"ec-offcurve":                 fault.KeyMalformed,
		"ec-x-ge-p":                   fault.KeyMalformed,
		"ec-zero":                     fault.KeyMalformed,
		"ed25519-loworder":            fault.KeyWeak,
		"ext-eku-empty":               fault.ExtensionRefused,
		"ext-san-empty":               fault.ExtensionRefused,
		"ext-san-ip-badlen":           fault.ExtensionRefused,
		"ext-san-nonascii":            fault.ExtensionRefused,
		"ext-san-nul":                 fault.ExtensionRefused,
		"pem-headers":                 fault.RequestTooLarge,
		"pem-noend":                   fault.EncodingMalformed,
		"pem-utf16":                   fault.EncodingMalformed,
		"rsa-1024":                    fault.KeyAlgorithm,
		"rsa-e0":                      fault.KeyWeak,
		"rsa-e1":                      fault.KeyWeak,
		"rsa-e3":                      fault.KeyWeak,
		"rsa-n-even":                  fault.KeyWeak,
		"rsa-n-neg":                   fault.KeyMalformed,
		"rsa-sharedprime-b":           0,
		"sig-none-alg":                fault.SignatureAlgorithm,
		"sig-r-n":                     fault.ProofOfPossession,
		"sig-sha1":                    fault.SignatureAlgorithm,
		"sig-unusedbits":              fault.RequestMalformed,
	}
	for _, c := range hostileCases(t) {
		code, ok := want[c.ID]
		if !ok {
			continue
		}
		delete(want, c.ID)
		der, err := Decode(c.read(t))
		if err == nil {
			_, err = Parse(der)
		}
		if code == 0 && err != nil || code != 0 && !fault.Has(err, code) {
			t.Errorf("%s: %v, want %v", c.ID, err, code)
		}
	}
	for id := range want {
		t.Errorf("%s is not in the manifest", id)
	}
}

func ofThisBlock(err error) bool {
	f := fault.Of(err)
	return f.Code >= 1000 && f.Code < 2000
}

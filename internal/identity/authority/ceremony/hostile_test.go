package ceremony

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/birthmark/birthmark/internal/fault"
)

// ceremonyKey is the key that lies in the folder while a ceremony goes on.
func (r *room) ceremonyKey() *ecdsa.PrivateKey {
	r.t.Helper()
	text, err := os.ReadFile(r.step(keyName))
	if err != nil {
		r.t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		r.t.Fatal(err)
	}
	return key.(*ecdsa.PrivateKey)
}

// forge signs an entry as whoever has the ceremony's key would.
func forge(t *testing.T, key *ecdsa.PrivateKey, e *Entry) signedEntry {
	t.Helper()
	raw, err := e.encode()
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(raw)
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return signedEntry{raw, signature}
}

// Whoever edits the folder of a later ceremony, and signs its first entry anew
// with the key that lies there, does not make the root forget what it revoked,
// number its CRLs from 1 again, or name another address.
func TestALaterCeremonyIsHeldAgainstTheEarlier(t *testing.T) {
	r := newRoom(t)
	r.whole()
	first := r.dir
	issuing := readCertificate(t, r.step("05-issuing/issuing.pem"))
	r.dir = filepath.Join(t.TempDir(), "second")
	r.plan = NewPlan{Plan: Plan{Title: "revocation", Participants: []string{"administrator"}}, After: first}
	r.begin()
	s := r.session("custodian-1", "custodian-2")
	if _, err := s.SignCRL([]Revocation{{issuing, "keyCompromise"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Finish(); err != nil {
		t.Fatal(err)
	}
	second := r.dir
	for name, edit := range map[string]func(*Plan){
		"forgets what was revoked":  func(p *Plan) { p.After.Revoked = nil },
		"numbers from 1 again":      func(p *Plan) { p.After.CRLNumber, p.After.CRLUpdate, p.After.Revoked = 0, time.Time{}, nil },
		"another address of status": func(p *Plan) { p.StatusURL = "http://evil.example" },
		"fewer shares are needed":   func(p *Plan) { p.After.Root.Custody.Shares = p.After.Root.Custody.Shares[:2] },
		"another ceremony":          func(p *Plan) { p.After.Ceremony = strings.Repeat("0", 32) },
		"another transcript":        func(p *Plan) { p.After.Transcript = strings.Repeat("0", 64) },
	} {
		r.dir = filepath.Join(t.TempDir(), "third")
		r.plan = NewPlan{Plan: Plan{Title: "list", Participants: []string{"administrator"}}, After: second}
		r.begin()
		r.open()
		raw, err := os.ReadFile(r.step("01-begin/entry.json"))
		if err != nil {
			t.Fatal(err)
		}
		e, _ := decodeEntry(raw)
		edit(e.Plan)
		one := forge(t, r.ceremonyKey(), e)
		for file, content := range map[string][]byte{entryFile: one.raw, signatureFile: one.signature} {
			if err := os.WriteFile(r.step("01-begin/"+file), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Open(r.config()); !fault.Has(err, fault.TranscriptInvalid) {
			t.Errorf("%s: Open = %v", name, err)
		}
		if _, err := VerifyFolder(r.dir); !fault.Has(err, fault.TranscriptInvalid) {
			t.Errorf("%s: VerifyFolder = %v", name, err)
		}
	}
}

// A note may say anything to whoever made the transcript, but nothing to a
// terminal.
func TestNotesAreNoCommands(t *testing.T) {
	r := newRoom(t)
	r.begin()
	raw, err := os.ReadFile(r.step("01-begin/entry.json"))
	if err != nil {
		t.Fatal(err)
	}
	e, _ := decodeEntry(raw)
	e.Notes = []string{"\x1b[2J\x1b[Hholds\n  root CN=Acme\u202e"}
	e.Machine.Swap = []string{"\x1b]0;title\x07"}
	d := document{entries: []signedEntry{forge(t, r.ceremonyKey(), e)}}
	report, err := Verify(d.encode())
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{
		"notes": strings.Join(report.Notes, ""), "summary": strings.Join(report.Summary().Notes, ""),
		"text": string(report.Text()), "page": string(report.Page()),
	} {
		if i := strings.IndexFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%s: %q", what, text[max(0, i-20):min(len(text), i+20)])
		}
	}
	if strings.Contains(strings.Join(report.Notes, ""), "\n") {
		t.Error("a note has two lines")
	}
}

// Nobody is certified under the root's own name: such a certificate could sign
// CRLs for the root.
func TestNobodyGetsTheRootsName(t *testing.T) {
	r := newRoom(t)
	r.begin()
	r.makeRoot()
	s := r.session("custodian-1", "custodian-2")
	root := s.ceremony.state.rootX509.Subject.CommonName
	for _, name := range []string{root, strings.ToUpper(root), " " + strings.ReplaceAll(root, " ", "  ")} {
		n := Subordinate{Name: "issuing", CommonName: name, CSR: r.csr(), Profile: preset(t, "issuing")}
		if _, err := s.Sign(n); !fault.Has(err, fault.ParameterInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// A list without a number, in a transcript of somebody's own making, is refused
// like any other that is not the one described.
func TestAListWithoutANumber(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 9, 1, 8, 0, 0, 0, time.UTC)
	form := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Root"}, NotBefore: now, NotAfter: now.AddDate(1, 0, 0),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	root, err := x509.CreateCertificate(rand.Reader, form, form, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(root)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now, NextUpdate: now.AddDate(0, 1, 0)}, cert, key)
	if err != nil {
		t.Fatal(err)
	}
	// Its number becomes another extension, and it is signed anew.
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	tbs := bytes.Replace(list.RawTBSRevocationList, []byte{0x55, 0x1d, 0x14}, []byte{0x55, 0x1d, 0x62}, 1)
	digest := sha256.Sum256(tbs)
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	algorithm := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}}
	der, err = asn1.Marshal(struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: tbs}, algorithm, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	entries := []*Entry{
		{Act: ActBegin, Plan: &Plan{Title: "forged", Authority: "root", Key: "signer:root", CeremonyKey: spki}},
		{Act: ActRoot, Root: &Root{Certificate: root}, Outputs: []File{pemFile("root.pem", certificatePEM(root))}},
		{Act: ActCRL, CRL: &CRL{Number: 1, ThisUpdate: now, NextUpdate: now.AddDate(0, 1, 0), DER: der}, Outputs: []File{pemFile("root.crl", der)}},
	}
	var d document
	previous := ""
	for i, e := range entries {
		e.Number, e.Previous, e.Ceremony, e.At = i+1, previous, strings.Repeat("0", 32), now
		one := forge(t, key, e)
		d.entries, previous = append(d.entries, one), sum(one.raw)
	}
	if _, err := Verify(d.encode()); !fault.Has(err, fault.TranscriptInvalid) || !strings.Contains(err.Error(), "entry 3: the CRL is not the one described") {
		t.Errorf("Verify = %v", err)
	}
}

func pemFile(name string, content []byte) File {
	return File{Name: name, Size: int64(len(content)), SHA256: sum(content)}
}

// Recipients that nothing here could open a share for are refused before there is
// a root.
func TestRecipientsThatAreNone(t *testing.T) {
	good := newRoom(t).plan.Custodians[0].Recipient
	for name, text := range map[string]string{
		"a plugin's":     "age1yubikey1qg8dc2vkcq9v0yvl9yv0gqkhqsm5y3z0gqkhqsm5y3z0gqkhqsm5y3z0gq7mkm0k",
		"a tag":          "age1tag1qg8dc2vkcq9v0yvl9yv0gqkhqsm5y3z0gqkhqsm5y3z0gqkhqsm5y3z0gq7mkm0k",
		"an SSH key":     "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH5WFTX6AB3S8mwN2kdjVPrnbkRnOaS6M6AQ0AYzTl1S",
		"an identity":    "AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQ",
		"a letter wrong": good[:len(good)-1] + "b",
		"two":            good + "\n" + good,
		"in capitals":    strings.ToUpper(good),
		"with a space":   " " + good,
		"nothing":        "",
		"a comment":      "# " + good,
	} {
		if _, err := recipient(text); !fault.Has(err, fault.ParameterInvalid) || strings.Contains(err.Error(), "AGE-SECRET") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

package ceremony

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/pki/shares"
)

func (r *room) transcript() []byte {
	r.t.Helper()
	text, err := os.ReadFile(r.step("07-finish/transcript.json"))
	if err != nil {
		r.t.Fatal(err)
	}
	return text
}

// TestEveryEditIsFound changes every octet of a transcript, and removes and
// doubles every seventh.
func TestEveryEditIsFound(t *testing.T) {
	r := newRoom(t)
	r.whole()
	text := r.transcript()
	if _, err := Verify(text); err != nil {
		t.Fatal(err)
	}
	for i := range text {
		edits := [][]byte{slices.Concat(text[:i], []byte{text[i] ^ 1}, text[i+1:])}
		if i%7 == 0 {
			edits = append(edits, slices.Concat(text[:i], text[i+1:]), slices.Concat(text[:i], text[i:i+1], text[i:]))
		}
		for _, changed := range edits {
			if bytes.Equal(changed, text) {
				continue
			}
			if _, err := Verify(changed); !fault.Has(err, fault.TranscriptInvalid) {
				t.Fatalf("octet %d of %d (%q): %v", i, len(text), text[max(0, i-40):min(len(text), i+20)], err)
			}
		}
	}
}

// TestTheFirstBadEntryIsNamed moves, removes and exchanges entries.
func TestTheFirstBadEntryIsNamed(t *testing.T) {
	r := newRoom(t)
	r.whole()
	whole, err := decodeDocument(r.transcript())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*document)
		want   string
	}{
		"exchanged":         {func(d *document) { d.entries[2], d.entries[3] = d.entries[3], d.entries[2] }, "entry 3:"},
		"first gone":        {func(d *document) { d.entries = d.entries[1:] }, "entry 1:"},
		"one gone":          {func(d *document) { d.entries = slices.Delete(d.entries, 3, 4) }, "entry 4:"},
		"last gone":         {func(d *document) { d.entries = d.entries[:6] }, "missing at the end"},
		"one twice":         {func(d *document) { d.entries = slices.Insert(d.entries, 4, d.entries[3]) }, "entry 5:"},
		"another signature": {func(d *document) { d.entries[4].signature = d.entries[3].signature }, "entry 5:"},
		"no certificate":    {func(d *document) { d.certificate = nil }, "entry 7:"},
	} {
		d := &document{entries: slices.Clone(whole.entries), certificate: whole.certificate}
		c.change(d)
		if _, err := Verify(d.encode()); !fault.Has(err, fault.TranscriptInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestWhoHasTheCeremonysKeyCannotRewriteIt: the key lies in the folder while the
// ceremony goes on. Entries that it signs anew are not those that the root
// vouched for.
func TestWhoHasTheCeremonysKeyCannotRewriteIt(t *testing.T) {
	r := newRoom(t)
	r.whole()
	d, err := decodeDocument(r.transcript())
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(r.key)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	// Only one entry is signed anew: the next does not follow it.
	one, _ := decodeEntry(d.entries[2].raw)
	one.Notes = []string{"the auditor was pleased"}
	raw, err := one.encode()
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(raw)
	signature, err := ecdsa.SignASN1(rand.Reader, key.(*ecdsa.PrivateKey), digest[:])
	if err != nil {
		t.Fatal(err)
	}
	alone := &document{entries: slices.Clone(d.entries), certificate: d.certificate}
	alone.entries[2] = signedEntry{raw, signature}
	if _, err := Verify(alone.encode()); !fault.Has(err, fault.TranscriptInvalid) || !strings.Contains(err.Error(), "entry 4: it does not follow") {
		t.Errorf("one entry: Verify = %v", err)
	}
	previous := ""
	for i := range d.entries {
		e, _ := decodeEntry(d.entries[i].raw)
		e.Previous = previous
		if i == 2 {
			e.Notes = []string{"the auditor was pleased"}
		}
		raw, err := e.encode()
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256(raw)
		d.entries[i].raw, previous = raw, sum(raw)
		if d.entries[i].signature, err = ecdsa.SignASN1(rand.Reader, key.(*ecdsa.PrivateKey), digest[:]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Verify(d.encode()); !fault.Has(err, fault.TranscriptInvalid) || !strings.Contains(err.Error(), "names another entry") {
		t.Errorf("Verify = %v", err)
	}
}

// TestEveryFileIsChecked changes, removes and adds each file of the folder.
func TestEveryFileIsChecked(t *testing.T) {
	r := newRoom(t)
	r.whole()
	var files []string
	err := filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasSuffix(path, keyFileName) { // see TestTheKeyFileHasACopy
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) < 20 {
		t.Fatal(files, err)
	}
	for _, path := range files {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := bytes.Clone(content)
		changed[len(changed)/2] ^= 4
		for what, do := range map[string]func() error{
			"changed": func() error { return os.WriteFile(path, changed, 0o600) },
			"removed": func() error { return os.Remove(path) },
			"a link":  func() error { return errors.Join(os.Remove(path), os.Symlink("/dev/null", path)) },
		} {
			if err := do(); err != nil {
				t.Fatal(err)
			}
			if _, err := VerifyFolder(r.dir); !fault.Has(err, fault.TranscriptInvalid) {
				t.Errorf("%s %s: %v", path, what, err)
			}
			if err := errors.Join(os.RemoveAll(path), os.WriteFile(path, content, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(r.step("05-issuing/another.pem"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyFolder(r.dir); !fault.Has(err, fault.TranscriptInvalid) {
		t.Errorf("a file too many: %v", err)
	}
}

// TestNoSecretInTheFolder looks for everything that must not be there, at every
// instant of a ceremony: the passphrase, the shares and the custodians' keys.
func TestNoSecretInTheFolder(t *testing.T) {
	r := newRoom(t)
	r.begin()
	r.makeRoot()
	var given []shares.Share
	var secrets [][]byte
	for name, identity := range r.identities {
		s := r.share(name)
		given = append(given, s)
		text := bytes.TrimSpace(s.Text())
		secrets = append(secrets, []byte(identity), text, text[len(text)/2:])
	}
	passphrase, err := shares.Join(given)
	if err != nil {
		t.Fatal(err)
	}
	secrets = append(secrets, passphrase)
	if !regexp.MustCompile(`^([0-9a-z]{4}-){6}[0-9a-z]{4}$`).Match(passphrase) {
		t.Fatalf("the passphrase is no passphrase")
	}
	store, err := keystore.Open(keystore.Config{Dir: r.step("02-root/key"), Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Load(t.Context(), keyURI, passphrase); err != nil {
		t.Fatalf("it does not open the key file: %v", err)
	}
	s := r.session("custodian-1", "custodian-2")
	if _, err := s.Sign(Subordinate{Name: "issuing", CSR: r.csr(), Profile: preset(t, "issuing")}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Finish(); err != nil {
		t.Fatal(err)
	}
	searched := 0
	err = filepath.WalkDir(filepath.Dir(r.dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		for _, secret := range secrets {
			if bytes.Contains(content, secret) {
				t.Errorf("%s has a secret", path)
			}
		}
		searched++
		return err
	})
	if err != nil || searched < 20 {
		t.Errorf("searched %d files, %v", searched, err)
	}
}

// TestAPageRunsNothing: whatever a participant calls the ceremony, the page
// shows it as text.
func TestAPageRunsNothing(t *testing.T) {
	r := newRoom(t)
	r.plan.Title = `<script>alert("1")</script> & 'friends'`
	r.plan.Organization = `<img src=x onerror=alert(1)>`
	r.whole()
	report, err := VerifyFolder(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	page := string(report.Page())
	for _, bad := range []string{"<script", "<img", "onerror=alert(1)>", "http-equiv=\"refresh\"", "src=", "href="} {
		if strings.Contains(strings.ReplaceAll(page, "&lt;img src=x", ""), bad) {
			t.Errorf("the page has %s", bad)
		}
	}
	if !strings.Contains(page, "default-src 'none'") || !strings.Contains(page, "&lt;script&gt;") {
		t.Error("the page lacks its policy or its title")
	}
}

func FuzzVerify(f *testing.F) {
	f.Add([]byte(`{"format":"birthmark-ceremony-1","entries":[` + "\n" + `{"entry":{},"signature":""}` + "\n" + `],"certificate":""}` + "\n"))
	id, err := age.GenerateX25519Identity()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"format":"birthmark-ceremony-1","entries":[{"entry":{"number":1,"act":"begin","plan":{"title":"` + id.Recipient().String() + `"}},"signature":""}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := Verify(text); err == nil || !fault.Has(err, fault.TranscriptInvalid) {
			t.Fatalf("Verify = %v", err)
		}
	})
}

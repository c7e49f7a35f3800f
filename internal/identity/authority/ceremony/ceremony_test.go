package ceremony

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/pki/profile"
	"github.com/birthmark/birthmark/internal/pki/shares"
)

func readCertificate(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestACeremonyFromBeginToEnd(t *testing.T) {
	r := newRoom(t)
	r.whole()
	report, err := VerifyFolder(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	root := readCertificate(t, r.step("02-root/root.pem"))
	if !report.Finished || report.Rehearsal || !bytes.Equal(report.Root.Raw, root.Raw) {
		t.Errorf("report = %+v", report)
	}
	if want := []string{"step 7: the share of custodian-2 was not tried"}; !slices.Equal(report.Notes, want) {
		t.Errorf("notes = %q, want %q", report.Notes, want)
	}
	issuing := readCertificate(t, r.step("05-issuing/issuing.pem"))
	pool := x509.NewCertPool()
	pool.AddCert(root)
	if _, err := issuing.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: r.now}); err != nil {
		t.Error(err)
	}
	if got := issuing.Subject.String(); got != "CN=Acme Issuing CA,O=Acme" {
		t.Errorf("subject = %s: only the key is taken from a request", got)
	}
	der, err := os.ReadFile(r.step("06-crl/root.crl"))
	if err != nil {
		t.Fatal(err)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil || list.CheckSignatureFrom(root) != nil || list.NextUpdate.Sub(list.ThisUpdate) != crlLife {
		t.Errorf("CRL = %v, %v", list, err)
	}
	if _, err := os.Stat(r.step(keyName)); !os.IsNotExist(err) {
		t.Errorf("the ceremony's key: %v, want it gone", err)
	}
	transcript := readCertificate(t, r.step("07-finish/transcript.pem"))
	if transcript.IsCA || transcript.CheckSignatureFrom(root) != nil {
		t.Error("the root does not vouch for the transcript")
	}
}

func TestActsInTheWrongOrderAreRefused(t *testing.T) {
	r := newRoom(t)
	if _, err := Open(r.config()); !fault.Has(err, fault.CeremonyState) {
		t.Errorf("Open before Begin: %v", err)
	}
	r.begin()
	if _, err := Begin(r.config(), r.plan); !fault.Has(err, fault.CeremonyState) {
		t.Errorf("Begin twice: %v", err)
	}
	if _, err := r.open().OpenRoot(t.Context(), nil); !fault.Has(err, fault.CeremonyState) {
		t.Errorf("OpenRoot before MakeRoot: %v", err)
	}
	if _, _, err := r.open().OpenShare("custodian-1", strings.NewReader("")); !fault.Has(err, fault.CeremonyState) {
		t.Errorf("OpenShare before MakeRoot: %v", err)
	}
	r.makeRoot()
	if _, err := r.open().MakeRoot(t.Context(), NewRoot{Profile: preset(t, "root"), KeyType: profile.P256}); !fault.Has(err, fault.CeremonyState) {
		t.Errorf("MakeRoot twice: %v", err)
	}
	s := r.session("custodian-1", "custodian-2")
	csr := r.csr()
	if _, err := s.Sign(Subordinate{Name: "issuing1", CSR: csr, Profile: preset(t, "issuing")}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sign(Subordinate{Name: "issuing1", CSR: r.csr(), Profile: preset(t, "issuing")}); !fault.Has(err, fault.CeremonyState) {
		t.Errorf("one name twice: %v", err)
	}
	if _, err := s.Sign(Subordinate{Name: "issuing2", CSR: csr, Profile: preset(t, "issuing")}); !fault.Has(err, fault.KeyInUse) {
		t.Errorf("one key twice: %v", err)
	}
	if _, err := s.Finish(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sign(Subordinate{Name: "issuing3", CSR: r.csr(), Profile: preset(t, "issuing")}); err == nil {
		t.Error("Sign after Finish: no error")
	}
	if _, err := r.open().OpenRoot(t.Context(), nil); !fault.Has(err, fault.CeremonyState) {
		t.Errorf("OpenRoot after Finish: %v", err)
	}
}

func TestSignRefuses(t *testing.T) {
	r := newRoom(t)
	r.begin()
	r.makeRoot()
	s := r.session("custodian-1", "custodian-2")
	good := Subordinate{Name: "issuing", CSR: r.csr(), Profile: preset(t, "issuing")}
	forged := bytes.Clone(good.CSR)
	block, _ := pem.Decode(forged)
	block.Bytes[len(block.Bytes)-1] ^= 1
	for name, c := range map[string]struct {
		change func(*Subordinate)
		want   fault.Code
	}{
		"no proof of possession": {func(n *Subordinate) { n.CSR = block.Bytes }, fault.ProofOfPossession},
		"no request":             {func(n *Subordinate) { n.CSR = []byte("hello") }, fault.EncodingMalformed},
		"a device's profile":     {func(n *Subordinate) { n.Profile = preset(t, "idevid") }, fault.AuthorityInvalid},
		"a root's profile":       {func(n *Subordinate) { n.Profile = preset(t, "root") }, fault.AuthorityInvalid},
		"no profile":             {func(n *Subordinate) { n.Profile = []byte("x: y") }, fault.ProfileInvalid},
		"a path as name":         {func(n *Subordinate) { n.Name = "../issuing" }, fault.ParameterInvalid},
	} {
		n := good
		c.change(&n)
		if _, err := s.Sign(n); !fault.Has(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, left, err := folder(r.dir).steps(); err != nil || len(left) > 0 {
		t.Errorf("what was refused has left %v", left)
	}
}

func TestSharesThatDoNotOpenTheRoot(t *testing.T) {
	r := newRoom(t)
	r.begin()
	r.makeRoot()
	one, two := r.share("custodian-1"), r.share("custodian-2")
	other := newRoom(t)
	other.begin()
	other.makeRoot()
	foreign := other.share("custodian-2")
	for name, c := range map[string]struct {
		given []shares.Share
		want  fault.Code
	}{
		"none":        {nil, fault.SharesTooFew},
		"too few":     {[]shares.Share{one}, fault.SharesTooFew},
		"twice":       {[]shares.Share{one, one}, fault.ShareInvalid},
		"foreign":     {[]shares.Share{one, foreign}, fault.ShareInvalid},
		"all foreign": {[]shares.Share{foreign, other.share("custodian-1")}, fault.ShareInvalid},
	} {
		if _, err := r.open().OpenRoot(t.Context(), c.given); !fault.Has(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	// A share made up with all the right numbers is not the one that was handed out,
	// and its bearer is named.
	forged, err := shares.Split([]byte("a passphrase of another key file..."), one.Ceremony, 2, 3, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.open().OpenRoot(t.Context(), []shares.Share{one, forged[1]}); !fault.Has(err, fault.ShareInvalid) || !strings.Contains(err.Error(), "custodian-2") {
		t.Errorf("a forged share: %v", err)
	}
	if _, _, err := r.open().OpenShare("custodian-1", strings.NewReader(r.identities["custodian-2"])); !fault.Has(err, fault.ShareInvalid) {
		t.Errorf("another's identity: %v", err)
	}
	s, err := r.open().OpenRoot(t.Context(), []shares.Share{two, one, r.share("custodian-3")})
	if err != nil {
		t.Fatalf("more shares than needed: %v", err)
	}
	s.Close()
}

// copyStep copies a step's folder, as nobody else's.
func copyStep(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(to, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chmod(path, 0o700))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestKilledBetweenAnyTwoSteps copies the folder at each instant that a power
// cut could leave and goes on from there.
func TestKilledBetweenAnyTwoSteps(t *testing.T) {
	r := newRoom(t)
	r.whole()
	names, _, err := folder(r.dir).steps()
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n < len(names); n++ {
		o := &room{t: t, dir: filepath.Join(t.TempDir(), "ceremony"), now: r.now, identities: r.identities, plan: r.plan}
		if err := os.MkdirAll(o.step(stagingPrefix+"0123"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(o.step(stagingPrefix+"0123/half.pem"), []byte("half a"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, name := range names[:n] {
			copyStep(t, r.step(name), o.step(name))
		}
		report, err := VerifyFolder(o.dir)
		if err != nil || report.Finished || len(report.Entries) != n {
			t.Errorf("after %s: %+v, %v", names[n-1], report, err)
		}
		if _, err := Open(o.config()); !fault.Has(err, fault.CeremonyState) {
			t.Errorf("after %s, without the ceremony's key: %v, want CeremonyState", names[n-1], err)
		}
		if err := os.WriteFile(o.step(keyName), r.key, 0o600); err != nil {
			t.Fatal(err)
		}
		if n == 1 {
			o.makeRoot()
		}
		if _, err := o.session("custodian-2", "custodian-3").Finish(); err != nil {
			t.Errorf("after %s: %v", names[n-1], err)
		}
		if report, err = VerifyFolder(o.dir); err != nil || !report.Finished {
			t.Errorf("after %s, to the end: %+v, %v", names[n-1], report, err)
		}
	}
}

// TestAnInterruptedActLeavesNothing: what an act had made when it was killed is
// removed by the next, which says so.
func TestAnInterruptedActLeavesNothing(t *testing.T) {
	r := newRoom(t)
	r.begin()
	if err := os.MkdirAll(r.step(stagingPrefix+"0123/key"), 0o700); err != nil {
		t.Fatal(err)
	}
	r.makeRoot()
	report, err := VerifyFolder(r.dir)
	if err != nil || len(report.Notes) != 1 || !strings.Contains(report.Notes[0], "1 interrupted") {
		t.Errorf("notes = %v, %v", report.Notes, err)
	}
	if _, left, err := folder(r.dir).steps(); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestTheKeyFileHasACopy damages each in turn, and then both.
func TestTheKeyFileHasACopy(t *testing.T) {
	r := newRoom(t)
	r.begin()
	r.makeRoot()
	one, two := r.share("custodian-1"), r.share("custodian-2")
	main, second := r.step("02-root/key/root.key"), r.step("02-root/key-copy/root.key")
	content, err := os.ReadFile(main)
	if err != nil {
		t.Fatal(err)
	}
	damage := func(path string) {
		if err := os.WriteFile(path, content[:len(content)/2], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{main, second} {
		damage(path)
		s, err := r.open().OpenRoot(t.Context(), []shares.Share{one, two})
		if err != nil {
			t.Fatalf("without %s: %v", path, err)
		}
		s.Close()
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	damage(main)
	damage(second)
	if _, err := Open(r.config()); !fault.Has(err, fault.TranscriptInvalid) {
		t.Errorf("without both: %v", err)
	}
}

func TestCustodiansChange(t *testing.T) {
	r := newRoom(t)
	r.begin()
	r.makeRoot()
	old := []shares.Share{r.share("custodian-1"), r.share("custodian-2")}
	s := r.session("custodian-1", "custodian-2")
	to := []Custodian{r.custodian("custodian-4"), r.custodian("custodian-5"), r.custodian("custodian-6")}
	if _, err := s.ChangeCustodians(t.Context(), to, 3); err != nil {
		t.Fatal(err)
	}
	if _, err := r.open().OpenRoot(t.Context(), old); err == nil {
		t.Error("the old shares open the new file")
	}
	if _, err := r.session("custodian-4", "custodian-6", "custodian-5").Finish(); err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyFolder(r.dir); err != nil {
		t.Error(err)
	}
}

// TestAYearLater goes on from a finished ceremony: nothing revoked is
// forgotten, and CRL numbers go up.
func TestAYearLater(t *testing.T) {
	r := newRoom(t)
	r.whole()
	issuing := readCertificate(t, r.step("05-issuing/issuing.pem"))
	first := r.dir
	r.dir, r.now = filepath.Join(t.TempDir(), "second"), r.now.AddDate(1, 0, 0)
	r.plan = NewPlan{Plan: Plan{Title: "CRL of the second year", Participants: []string{"administrator"}}, After: first}
	r.begin()
	if _, err := r.session("custodian-2", "custodian-1").SignCRL([]Revocation{{issuing, "superseded"}}); err != nil {
		t.Fatal(err)
	}
	s := r.session("custodian-2", "custodian-3")
	if _, err := s.SignCRL([]Revocation{{issuing, "superseded"}}); !fault.Has(err, fault.CeremonyState) {
		t.Errorf("revoked twice: %v", err)
	}
	if _, err := s.Finish(); err != nil {
		t.Fatal(err)
	}
	second := r.dir
	r.dir, r.plan.After, r.plan.Title = filepath.Join(t.TempDir(), "third"), second, "CRL of the third year"
	r.begin()
	s = r.session("custodian-1", "custodian-3")
	step, err := s.SignCRL(nil)
	if err != nil {
		t.Fatal(err)
	}
	if step.Entry.CRL.Number != 3 || len(step.Entry.CRL.Revoked) != 1 {
		t.Errorf("CRL = %+v, want number 3 with one entry", step.Entry.CRL)
	}
	if _, err := VerifyFolder(r.dir); err != nil {
		t.Error(err)
	}
	r.plan.Rehearsal = true
	r.dir = filepath.Join(t.TempDir(), "fourth")
	if _, err := Begin(r.config(), r.plan); !fault.Has(err, fault.CeremonyState) {
		t.Errorf("a rehearsal from a ceremony: %v", err)
	}
}

func TestSignCRLRefusesForeignCertificates(t *testing.T) {
	r, other := newRoom(t), newRoom(t)
	r.begin()
	r.makeRoot()
	other.whole()
	s := r.session("custodian-1", "custodian-2")
	if _, err := s.SignCRL([]Revocation{{readCertificate(t, other.step("05-issuing/issuing.pem")), "superseded"}}); !fault.Has(err, fault.AuthorityMismatch) {
		t.Errorf("a foreign certificate: %v", err)
	}
	if _, err := s.SignCRL([]Revocation{{readCertificate(t, r.step("02-root/root.pem")), "superseded"}}); !fault.Has(err, fault.AuthorityMismatch) {
		t.Errorf("the root itself: %v", err)
	}
	if _, err := s.SignCRL([]Revocation{{readCertificate(t, r.step("02-root/root.pem")), "because"}}); !fault.Has(err, fault.ParameterInvalid) {
		t.Errorf("a reason that is none: %v", err)
	}
}

func TestARehearsalIsMarkedEverywhere(t *testing.T) {
	r := newRoom(t)
	r.plan.Rehearsal = true
	r.whole()
	for _, name := range []string{"02-root/root.pem", "05-issuing/issuing.pem", "07-finish/transcript.pem"} {
		if cert := readCertificate(t, r.step(name)); !authority.Rehearsed(cert) {
			t.Errorf("%s: subject %s", name, cert.Subject)
		}
	}
	for _, name := range []string{"07-finish/transcript.txt", "07-finish/transcript.html"} {
		text, err := os.ReadFile(r.step(name))
		if err != nil || bytes.Count(text, []byte("REHEARSAL")) < 5 {
			t.Errorf("%s does not say so", name)
		}
	}
	report, err := VerifyFolder(r.dir)
	if err != nil || !report.Rehearsal {
		t.Errorf("report = %v, %v", report, err)
	}
}

func TestPlansThatAreRefused(t *testing.T) {
	for name, change := range map[string]func(*NewPlan){
		"no title":                func(p *NewPlan) { p.Title = "" },
		"a title with a newline":  func(p *NewPlan) { p.Title = "a\nb" },
		"a title that turns":      func(p *NewPlan) { p.Title = "a\u202eb" },
		"a threshold of one":      func(p *NewPlan) { p.Threshold = 1 },
		"a threshold above all":   func(p *NewPlan) { p.Threshold = 4 },
		"a custodian twice":       func(p *NewPlan) { p.Custodians[1].Name = p.Custodians[0].Name },
		"one key for two":         func(p *NewPlan) { p.Custodians[1].Recipient = p.Custodians[0].Recipient },
		"no recipient":            func(p *NewPlan) { p.Custodians[1].Recipient = "age1" },
		"a secret for a key":      func(p *NewPlan) { p.Custodians[1].Recipient = "AGE-SECRET-KEY-1" },
		"a path as custodian":     func(p *NewPlan) { p.Custodians[1].Name = "../x" },
		"a private status URL":    func(p *NewPlan) { p.StatusURL = "http://127.0.0.1" },
		"an authority's name":     func(p *NewPlan) { p.Authority = "Root" },
		"a key of another scheme": func(p *NewPlan) { p.Key = "file:/etc/passwd" },
		"custodians of an HSM":    func(p *NewPlan) { p.Key = "signer:root" },
		"nobody of that role":     func(p *NewPlan) { p.Participants = []string{"auditor"} },
	} {
		r := newRoom(t)
		change(&r.plan)
		if _, err := Begin(r.config(), r.plan); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := os.Lstat(r.dir); !os.IsNotExist(err) {
			t.Errorf("%s: the folder is there", name)
		}
	}
}

func TestAClockThatFellBackIsNoticed(t *testing.T) {
	r := newRoom(t)
	r.begin()
	r.now = r.now.AddDate(0, 0, -1)
	if _, err := r.open().MakeRoot(t.Context(), NewRoot{Profile: preset(t, "root"), KeyType: profile.P256}); !fault.Has(err, fault.CeremonyState) {
		t.Errorf("MakeRoot = %v", err)
	}
}

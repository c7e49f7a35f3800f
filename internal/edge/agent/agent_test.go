package agent_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/edge/agent"
	"github.com/birthmark/birthmark/internal/edge/tpm"
	"github.com/birthmark/birthmark/internal/edge/tpm/tpmtest"
	"github.com/birthmark/birthmark/internal/fault"
	format "github.com/birthmark/birthmark/internal/format/tpm"
)

func TestEightDevicesEnrollAtOnceAndThenDoNothing(t *testing.T) {
	w := newWorld(t)
	_, all := tpmtest.Start(t, 8)
	root := t.TempDir()
	var devices sync.WaitGroup
	for i, one := range all {
		devices.Go(func() {
			d := open(t, one)
			c := w.config(filepath.Join(root, fmt.Sprint(i)), d, w.add(fmt.Sprintf("SN%d", i)))
			c.AK, c.AKHandle = true, 0x81010100
			first, err := run(t, c)
			if err != nil || first.Did != agent.Enrolled || len(first.AK) == 0 {
				t.Errorf("%+v, %v", first, err)
				return
			}
			c.Requester = agent.Requester{} // it has its own certificate now
			again, err := run(t, c)
			if err != nil || again.Did != agent.Nothing || !same(again.Certificate, first.Certificate) || !same(again.AK, first.AK) {
				t.Errorf("%+v, %v", again, err)
			}
			nothingLoaded(t, d)
		})
	}
	devices.Wait()
	if n := w.certificates(); n != 16 {
		t.Errorf("%d certificates were issued", n)
	}
	files, err := filepath.Glob(filepath.Join(root, "*", "*.pem"))
	if err != nil || len(files) != 8*5 {
		t.Errorf("%d files, %v", len(files), err)
	}
	for _, one := range files {
		if info, err := os.Stat(one); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", one, info.Mode(), err)
		}
	}
}

func TestACertificateIsRenewedInTimeWithTheSameKey(t *testing.T) {
	_, all := tpmtest.Start(t, 1)
	d := open(t, all[0])
	for _, kind := range []format.KeyKind{format.ECP256, format.RSA2048} {
		w := newWorld(t)
		c := w.config(t.TempDir(), d, w.add("SN1"))
		c.Kind = kind
		first, err := run(t, c)
		if err != nil {
			t.Fatal(kind, err)
		}
		key, err := os.ReadFile(filepath.Join(c.Dir, agent.KeyFile))
		if err != nil {
			t.Fatal(err)
		}
		c.Requester = agent.Requester{} // the certificate has to do
		w.now = func() time.Time { return time.Now().Add(61 * 24 * time.Hour) }
		c.Now = w.now
		second, err := run(t, c)
		if err != nil || second.Did != agent.Renewed || same(first.Certificate, second.Certificate) {
			t.Fatalf("%s: %+v, %v", kind, second, err)
		}
		if after, err := os.ReadFile(filepath.Join(c.Dir, agent.KeyFile)); err != nil || !same(key, after) {
			t.Errorf("%s: another key, %v", kind, err)
		}
	}
	nothingLoaded(t, d)
}

// TestAfterAPowerCutTheIdentityIsTheSame takes away what a power cut after each
// write would have left out.
func TestAfterAPowerCutTheIdentityIsTheSame(t *testing.T) {
	_, all := tpmtest.Start(t, 1)
	d := open(t, all[0])
	w := newWorld(t)
	c := w.config(t.TempDir(), d, w.add("SN1"))
	c.AK = true
	whole, err := run(t, c)
	if err != nil {
		t.Fatal(err)
	}
	written := []string{agent.KeyFile, agent.ChainFile, agent.CertificateFile, agent.AKChainFile, agent.AKCertificateFile}
	for n := range written {
		cut := c
		cut.Dir = t.TempDir()
		for _, name := range written[:n+1] {
			text, err := os.ReadFile(filepath.Join(c.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(cut.Dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(cut.Dir, ".new-1234"), []byte("half a fi"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := run(t, cut)
		if err != nil || !same(out.Certificate, whole.Certificate) {
			t.Errorf("cut after %s: %+v, %v", written[n], out, err)
		}
		again, err := run(t, cut)
		if err != nil || again.Did != agent.Nothing {
			t.Errorf("cut after %s, again: %+v, %v", written[n], again, err)
		}
	}
	nothingLoaded(t, d)
}

func TestLostAnswersAreAskedForAgain(t *testing.T) {
	_, all := tpmtest.Start(t, 1)
	d := open(t, all[0])
	w := newWorld(t)
	lost := map[string]int{format.ChallengePath: 1, format.EnrollPath: 2}
	w.hook = func(path string, _ *format.Result) bool {
		lost[path]--
		return lost[path] >= 0
	}
	out, err := run(t, w.config(t.TempDir(), d, w.add("SN1")))
	if err != nil || w.certificates() != 1 {
		t.Fatalf("%+v, %v, %d certificates", out, err, w.certificates())
	}
	nothingLoaded(t, d)
}

func TestAStaleTicketTakesAnotherChallenge(t *testing.T) {
	_, all := tpmtest.Start(t, 1)
	w := newWorld(t)
	stale := 2
	w.hook = func(path string, r *format.Result) bool {
		if path == format.ChallengePath && stale > 0 {
			stale--
			r.Challenge.Ticket = []byte("of yesterday")
		}
		return false
	}
	c := w.config(t.TempDir(), open(t, all[0]), w.add("SN1"))
	if out, err := run(t, c); err != nil {
		t.Fatalf("%+v, %v", out, err)
	}
	stale = 1000
	c.Dir = t.TempDir()
	if _, err := run(t, c); !fault.Has(err, fault.TicketInvalid) {
		t.Errorf("%v", err)
	}
}

func TestWhatTheServerMustNotSendIsNotWritten(t *testing.T) {
	_, all := tpmtest.Start(t, 1)
	w := newWorld(t)
	c := w.config(t.TempDir(), open(t, all[0]), w.add("SN1"))
	c.Patience = 0
	for name, spoil := range map[string]func(path string, r *format.Result){
		"another key":    func(_ string, r *format.Result) { r.Certificate = w.root.Raw },
		"no certificate": func(_ string, r *format.Result) { r.Certificate = []byte("x") },
		"no challenge":   func(_ string, r *format.Result) { r.Challenge = nil },
		"a bad credential": func(_ string, r *format.Result) {
			if r.Challenge != nil {
				r.Challenge.Credential = r.Challenge.Credential[1:]
			}
		},
		"another TPM's credential": func(_ string, r *format.Result) {
			if r.Challenge != nil {
				r.Challenge.Credential[10] ^= 1
			}
		},
		"no code": func(_ string, r *format.Result) { r.OK = false },
	} {
		w.hook = func(path string, r *format.Result) bool { spoil(path, r); return false }
		out, err := run(t, c)
		if err == nil {
			t.Errorf("%s: %+v", name, out)
		}
		if _, err := os.Stat(filepath.Join(c.Dir, agent.CertificateFile)); err == nil {
			t.Errorf("%s: a certificate was written", name)
		}
	}
	nothingLoaded(t, c.TPM)
}

func TestRefusalsKeepTheirCodes(t *testing.T) {
	_, all := tpmtest.Start(t, 1)
	w := newWorld(t)
	c := w.config(t.TempDir(), open(t, all[0]), agent.Requester{DeviceSerial: "SN1", Secret: "guessed"})
	if _, err := run(t, c); !fault.Has(err, fault.SecretWrong) {
		t.Errorf("%v", err)
	}
	c.Requester = w.add("SN1")
	w.hook = func(_ string, r *format.Result) bool {
		*r = refused(fault.New(fault.EKUntrusted, "the maker"))
		return false
	}
	if _, err := run(t, c); !fault.Has(err, fault.EKUntrusted) {
		t.Errorf("%v", err)
	}
	c.Trust = agent.PEM(w.root.Raw) // not the server's
	c.Patience = 0
	if _, err := run(t, c); !fault.Has(err, fault.AgentLink) {
		t.Errorf("%v", err)
	}
}

func TestAFolderInDisorderIsLeftAlone(t *testing.T) {
	_, all := tpmtest.Start(t, 2)
	w := newWorld(t)
	d := open(t, all[0])
	good := w.config(t.TempDir(), d, w.add("SN1"))
	if _, err := run(t, good); err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		text, err := os.ReadFile(filepath.Join(good.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for name, row := range map[string]struct {
		files map[string][]byte
		key   string
		d     *tpm.TPM
		code  fault.Code
	}{
		"no key":                  {map[string][]byte{agent.CertificateFile: read(agent.CertificateFile)}, agent.InTPM, d, fault.AgentState},
		"no certificate":          {map[string][]byte{agent.KeyFile: read(agent.KeyFile), agent.CertificateFile: []byte("x")}, agent.InTPM, d, fault.AgentState},
		"another certificate":     {map[string][]byte{agent.KeyFile: read(agent.KeyFile), agent.CertificateFile: agent.PEM(w.root.Raw)}, agent.InTPM, d, fault.AgentState},
		"a key of the other kind": {map[string][]byte{agent.KeyFile: read(agent.KeyFile)}, agent.InFile, d, fault.AgentState},
		"a damaged key":           {map[string][]byte{agent.KeyFile: []byte("-----BEGIN TSS2 PRIVATE KEY-----\nAAAA\n-----END TSS2 PRIVATE KEY-----\n")}, agent.InTPM, d, fault.AgentState},
		"another TPM's key":       {map[string][]byte{agent.KeyFile: read(agent.KeyFile)}, agent.InTPM, open(t, all[1]), fault.TPMFailed},
	} {
		c := w.config(t.TempDir(), row.d, w.add("SN2"))
		c.Key = row.key
		for file, text := range row.files {
			if err := os.WriteFile(filepath.Join(c.Dir, file), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if out, err := run(t, c); !fault.Has(err, row.code) {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
		for file, text := range row.files {
			if now, err := os.ReadFile(filepath.Join(c.Dir, file)); err != nil || !same(now, text) {
				t.Errorf("%s: %s was changed, %v", name, file, err)
			}
		}
	}
}

func TestTwoAgentsDoNotShareAFolder(t *testing.T) {
	_, all := tpmtest.Start(t, 1)
	w := newWorld(t)
	c := w.config(t.TempDir(), open(t, all[0]), w.add("SN1"))
	w.hook = func(path string, _ *format.Result) bool {
		if path == format.ChallengePath {
			if _, err := run(t, c); !fault.Has(err, fault.AgentState) {
				t.Errorf("a second agent: %v", err)
			}
		}
		return false
	}
	if _, err := run(t, c); err != nil {
		t.Error(err)
	}
}

func TestTheDoctorSaysWhatIsWrong(t *testing.T) {
	_, all := tpmtest.Start(t, 1)
	w := newWorld(t)
	d := open(t, all[0])
	c := w.config(t.TempDir(), d, w.add("SN1"))
	if _, err := run(t, c); err != nil {
		t.Fatal(err)
	}
	x := agent.Examination{TPM: tpm.Config{Path: all[0].Path}, Dir: c.Dir, Server: w.http.URL, Trust: w.trust(), Now: time.Now}
	for _, f := range agent.Doctor(t.Context(), x) {
		if !f.OK || f.Detail == "" {
			t.Errorf("healthy: %+v", f)
		}
	}
	nothingLoaded(t, d)
	for name, row := range map[string]struct {
		change func(*agent.Examination)
		what   string
		code   fault.Code
	}{
		"a clock of next year": {func(x *agent.Examination) { x.Now = func() time.Time { return time.Now().Add(365 * 24 * time.Hour) } }, "clock", fault.AgentLink},
		"another trust":        {func(x *agent.Examination) { x.Trust = agent.PEM(w.root.Raw) }, "server", fault.AgentLink},
		"no TPM":               {func(x *agent.Examination) { x.TPM.Path = filepath.Join(t.TempDir(), "none") }, "tpm", fault.TPMUnreachable},
		"no file":              {func(x *agent.Examination) { x.TPM.Path = filepath.Join(t.TempDir(), "none") }, "rights", fault.TPMUnreachable},
		"a file, not a TPM":    {func(x *agent.Examination) { x.TPM.Path = filepath.Join(c.Dir, agent.KeyFile) }, "tpm", fault.TPMUnreachable},
	} {
		one := x
		row.change(&one)
		found := false
		for _, f := range agent.Doctor(t.Context(), one) {
			found = found || f.What == row.what && !f.OK && f.Code == row.code.String() && f.Remedy != ""
		}
		if !found {
			t.Errorf("%s is not found: %+v", name, agent.Doctor(t.Context(), one))
		}
	}
}

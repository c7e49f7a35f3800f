package main

import (
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/needs"
)

const signerKills = 100

// TestSignerCrash kills the signer again and again while 16 clients enroll,
// renew and revoke through a server that is never restarted. Nothing that was
// acknowledged is lost, and it issues again as soon as the signer is back.
func TestSignerCrash(t *testing.T) {
	needs.Linux(t)
	needs.Time(t)
	dir := shortFolder(t)
	s := newSignerProcess(t, dir)
	s.start()
	t.Setenv("BIRTHMARK_SIGNER_SOCKET", s.socket)
	t.Setenv("BIRTHMARK_ISSUING_KEY", "signer:issuing")
	c := newCrash(t, dir, filepath.Join(dir, "data"), "")
	s.bind(filepath.Join(dir, "data"))
	c.startNode(0)
	c.load(func(random *mathrand.Rand) {
		for range signerKills {
			time.Sleep(time.Duration(10+random.IntN(90)) * time.Millisecond)
			s.kill()
			s.start()
		}
		before, deadline := c.issued.Load()+c.renewed.Load(), time.Now().Add(time.Minute)
		for c.issued.Load()+c.renewed.Load() < before+50 {
			if time.Now().After(deadline) {
				t.Error("the signer is back, and the server does not issue")
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	c.nodes[0].kill()
	t.Logf("%d issued, %d renewed, %d revoked, %d asked again, over %d kills of the signer",
		c.issued.Load(), c.renewed.Load(), c.revoked.Load(), c.replayed.Load(), signerKills)
	for _, problem := range c.compare() {
		t.Error(problem)
	}
	c.command(nil, "ledger", "verify", "--json")
	s.kill()
	s.run("journal", "--config", s.config)
}

// shortFolder is a folder whose path leaves room for a socket's.
func shortFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// signerProcess is one birthmark-signer after another.
type signerProcess struct {
	t                       *testing.T
	program, config, socket string
	cmd                     *exec.Cmd
}

const signerConfig = `socket: signer.socket
users: ["%d"]
state: signer
file: {folder: signer-keys, passphrase_file: signer.secret}
keys:
  - name: issuing
    uri: file:issuing
    signs: [device, server, ocsp-responder, crl]
    validity: forever
    per_second: 100000
    per_day: 10000000
`

// newSignerProcess builds the signer and makes its key.
func newSignerProcess(t *testing.T, dir string) *signerProcess {
	t.Helper()
	s := &signerProcess{
		t: t, program: filepath.Join(dir, "birthmark-signer"), config: filepath.Join(dir, "signer.yaml"), socket: filepath.Join(dir, "signer.socket"),
	}
	build := exec.CommandContext(t.Context(), needs.Command(t, "go"), "build", "-o", s.program, "../birthmark-signer")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for path, text := range map[string]string{s.config: fmt.Sprintf(signerConfig, os.Getuid()), filepath.Join(dir, "signer.secret"): "a passphrase for the test\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if s.cmd != nil && s.cmd.ProcessState == nil {
			s.kill()
		}
	})
	s.run("key", "create", "issuing", "--config", s.config)
	return s
}

func (s *signerProcess) run(args ...string) {
	s.t.Helper()
	if text, err := exec.Command(s.program, args...).CombinedOutput(); err != nil {
		s.t.Fatalf("birthmark-signer %v: %v\n%s", args, err, text)
	}
}

// start runs it until its socket answers.
func (s *signerProcess) start() {
	s.t.Helper()
	s.cmd = exec.Command(s.program, "serve", "--config", s.config)
	log, err := os.OpenFile(s.config+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	s.cmd.Stderr = log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		if c, err := net.Dial("unix", s.socket); err == nil {
			_ = c.Close()
			return
		}
		if time.Since(begin) > time.Minute {
			text, _ := os.ReadFile(s.config + ".log")
			s.t.Fatalf("the signer does not start:\n%s", text[max(0, len(text)-4000):])
		}
	}
}

// kill is kill -9.
func (s *signerProcess) kill() {
	s.t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		s.t.Fatal(err)
	}
	_ = s.cmd.Wait() // killed
}

// bind gives the key its authority's certificate, which init wrote first into
// the bundle.
func (s *signerProcess) bind(data string) {
	s.t.Helper()
	bundle := itself(s.t, "authority", "bundle", "--name", "issuing", "--data", data)
	text, err := bundle.Output()
	if err != nil {
		s.t.Fatal(err)
	}
	path := s.config + ".issuing.pem"
	if err := os.WriteFile(path, text, 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.run("key", "bind", "issuing", "--certificate", path, "--config", s.config)
}

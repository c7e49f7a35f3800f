package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/edge/tpm/tpmtest"
	"github.com/birthmark/birthmark/internal/needs"
)

// binFolder is the environment variable with the folder of the programs that the
// tests build.
const binFolder = "BIRTHMARK_TEST_BIN"

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "bin")
	if err != nil {
		panic(err)
	}
	_ = os.Setenv(binFolder, dir)
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// server is our server as its own process, with a product whose units must have a
// TPM, of a maker that it trusts.
type server struct {
	t                       *testing.T
	dir, bin                string
	device, console, status string
	cmd                     *exec.Cmd
}

func newServer(t *testing.T, maker *tpmtest.Maker) *server {
	t.Helper()
	s := &server{t: t, dir: t.TempDir(), bin: os.Getenv(binFolder)}
	for _, name := range []string{"birthmark", "birthmark-station"} {
		program := filepath.Join(s.bin, name)
		if _, err := os.Stat(program); err == nil {
			continue // by the test before
		}
		build := exec.CommandContext(t.Context(), needs.Command(t, "go"), "build", "-o", program, "../"+name)
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	for _, a := range []*string{&s.device, &s.console, &s.status} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		*a = l.Addr().String()
		_ = l.Close()
	}
	s.run(nil, "init", "--org", "Acme")
	s.trust(maker)
	s.run(nil, "product", "add", "--name", "gateway", "--key-model", "on-device", "--idevid-profile", "idevid-tpm", "--least-evidence", "tpm-genuine",
		"--profile", "ldevid-cloud,attestation-key")
	s.run(nil, "site", "add", "Brno")
	s.run(nil, "profile", "label", "set", "attestation-key", "--profile", "attestation-key")
	s.start()
	t.Cleanup(func() {
		if s.cmd != nil {
			s.kill()
		}
	})
	s.write("trust.pem", s.run(nil, "authority", "bundle"))
	return s
}

// trust imports a signed bundle with the maker's root.
func (s *server) trust(maker *tpmtest.Maker) {
	s.t.Helper()
	openssl := needs.OpenSSL(s.t)
	anchors := maker.Anchors()
	s.write("maker.pem", anchors)
	s.write("root.pem", pemOf(maker.Root.Raw))
	s.write("issuing.pem", pemOf(maker.Issuing.Raw))
	for _, args := range [][]string{
		{"genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", s.path("signer.pem")},
		{"pkey", "-in", s.path("signer.pem"), "-pubout", "-out", s.path("signer.pub")},
	} {
		if out, err := exec.CommandContext(s.t.Context(), openssl, args...).CombinedOutput(); err != nil {
			s.t.Fatalf("%v: %s", err, out)
		}
	}
	s.write("content.json", s.alone("tpm", "roots", "add", "--name", "makers", "--maker", "Test", "--root", s.path("root.pem"), "--intermediate", s.path("issuing.pem")))
	s.write("bundle.json", s.alone("tpm", "roots", "sign", s.path("content.json"), "--key", s.path("signer.pem")))
	s.run(nil, "tpm", "roots", "import", s.path("bundle.json"), "--signer", s.path("signer.pub"))
}

func (s *server) path(name string) string { return filepath.Join(s.dir, name) }

func (s *server) write(name string, text []byte) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), text, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) read(name string) []byte {
	s.t.Helper()
	text, err := os.ReadFile(s.path(name))
	if err != nil {
		s.t.Fatal(err)
	}
	return text
}

// run runs an operator's command and reads its JSON into out.
func (s *server) run(out any, args ...string) []byte {
	s.t.Helper()
	args = append(args, "--data", s.path("data"))
	if out != nil {
		args = append(args, "--json")
	}
	text := s.alone(args...)
	if out != nil {
		if err := json.Unmarshal(text, out); err != nil {
			s.t.Fatalf("%v: %v", args, err)
		}
	}
	return text
}

// alone runs a command that needs no data folder.
func (s *server) alone(args ...string) []byte {
	s.t.Helper()
	text, err := exec.CommandContext(s.t.Context(), filepath.Join(s.bin, "birthmark"), args...).Output()
	if err != nil {
		var words []byte
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			words = e.Stderr
		}
		s.t.Fatalf("%v: %v\n%s", args, err, words)
	}
	return text
}

// start runs the server until it says ready.
func (s *server) start() {
	s.t.Helper()
	s.cmd = exec.Command(filepath.Join(s.bin, "birthmark"), "serve", "--data", s.path("data"), "--log-level", "error",
		"--device-listen", s.device, "--console-listen", s.console, "--status-listen", s.status)
	s.cmd.Stderr = os.Stderr
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get("http://" + s.status + "/readyz")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(end) {
			s.t.Fatal("the server is not ready after a minute")
		}
	}
}

// kill is kill -9.
func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait() // killed
	s.cmd = nil
}

func (s *server) url() string { return "https://" + s.device }

// order makes a station and an order for it and returns the station's one-time
// code.
func (s *server) order(number string, quantity int) (code string) {
	s.t.Helper()
	var added struct{ Code string }
	s.run(&added, "station", "add", "line-"+number, "--site", "Brno")
	s.run(nil, "order", "create", "--number", number, "--product", "gateway", "--site", "Brno", "--quantity", fmt.Sprint(quantity), "--stations", "line-"+number)
	return added.Code
}

// account is what the server holds of an order.
type account struct{ Issued, Live, Confirmed, Left int64 }

func (s *server) account(number string) account {
	s.t.Helper()
	var o struct {
		account
		Account *account
	}
	s.run(&o, "order", "show", number)
	if o.Account != nil {
		return *o.Account
	}
	return o.account
}

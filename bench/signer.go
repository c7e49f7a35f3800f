package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Aims of enrollment through the signer, to keys in the server's process.
const (
	aimSignerFile = 0.65
	aimSignerHSM  = 0.5
)

// signed is an installation whose issuing authority's key is somewhere.
type signed struct {
	installation
	name   string
	uri    string   // of the key in the signer; empty: in the server
	env    []string // of the signer
	signer *process
	target *target
}

// runSigners measures enrollment with the issuing authority's key in the server,
// in the signer as a file, and in the signer in SoftHSM, in passes that take
// turns.
func runSigners(ctx context.Context, out io.Writer) (err error) {
	p, err := newPlan()
	if err != nil {
		return err
	}
	p.stored, p.spare, p.clients, p.cell, p.passes = 1_000, 150_000, []int{16, 64}, 4*time.Second, 3
	if p.quick {
		p.spare, p.cell, p.passes = 60_000, 1500*time.Millisecond, 3
	}
	b, err := begin(ctx, p, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.end()) }()
	if b.load, err = b.startPart(ctx, "load"); err != nil {
		return err
	}
	all, err := b.signers(ctx)
	if err != nil {
		return b.explain(err)
	}
	if err := b.cells(ctx); err != nil {
		return b.explain(err)
	}
	b.signerTable(all).text(out)
	return nil
}

// signers makes the installations and starts everything.
func (b *bench) signers(ctx context.Context) ([]*signed, error) {
	all := []*signed{{name: "keys in the server"}, {name: "signer, file:", uri: "file:issuing"}}
	hsm, err := b.softHSM(ctx)
	if err != nil {
		b.step("SoftHSM is left out: %v", err)
	} else {
		all = append(all, &signed{name: "signer, SoftHSM", uri: "pkcs11:token=bench;object=issuing", env: []string{"SOFTHSM2_CONF=" + hsm}})
	}
	if err := buildSigner(ctx, b.folder, err == nil); err != nil {
		return nil, err
	}
	for n, s := range all {
		s.binary, s.data = filepath.Join(b.folder, "birthmark"), filepath.Join(b.folder, fmt.Sprintf("data%d", n))
		s.database = "sqlite:" + filepath.Join(s.data, "birthmark.db")
		b.step("%s: %d devices", s.name, b.plan.spare)
		if err := s.prepare(ctx, b); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		s.target = &target{letter: string(rune('a' + n)), name: s.name, pid: s.server.pid(), pprof: s.pprof, next: b.plan.stored + 1, order: order{
			Address: s.device, Anchors: s.root, Issuer: s.issuer, Strict: true,
		}}
		if s.signer != nil {
			s.target.extra = s.signer.pid()
		}
		b.targets = append(b.targets, s.target)
	}
	return all, nil
}

func buildSigner(ctx context.Context, folder string, cgo bool) error {
	args := []string{"build", "-o", filepath.Join(folder, "birthmark-signer")}
	if cgo {
		args = append(args, "-tags", "pkcs11")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "github.com/birthmark/birthmark/cmd/birthmark-signer")...)
	if cgo {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	}
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the signer: %w\n%s", err, text)
	}
	return nil
}

// softHSMModules are where distributions put it.
var softHSMModules = []string{
	"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so",
}

func softHSMModule() string {
	for _, path := range softHSMModules {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// softHSM makes a token and returns the path of its configuration.
func (b *bench) softHSM(ctx context.Context) (config string, err error) {
	if _, err := exec.LookPath("cc"); err != nil || softHSMModule() == "" {
		return "", errors.New("a C compiler and softhsm2 are needed")
	}
	tokens := filepath.Join(b.folder, "tokens")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		return "", err
	}
	config = filepath.Join(b.folder, "softhsm2.conf")
	if err := os.WriteFile(config, []byte("directories.tokendir = "+tokens+"\nlog.level = ERROR\n"), 0o600); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "softhsm2-util", "--init-token", "--free", "--label", "bench", "--pin", "12345678", "--so-pin", "12345678")
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+config)
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("softhsm2-util: %w\n%s", err, text)
	}
	return config, nil
}

const signerConfig = `socket: signer.socket
users: ["%d"]
state: signer
pkcs11: {module: %q, pin_file: signer.secret, sessions: 4}
file: {folder: signer-keys, passphrase_file: signer.secret}
keys:
  - name: issuing
    uri: %q
    signs: [device, server, ocsp-responder, crl]
    validity: forever
    per_second: 1000000
    per_day: 1000000000
`

// prepare makes, seeds and starts one installation.
func (s *signed) prepare(ctx context.Context, b *bench) error {
	if err := os.MkdirAll(s.data, 0o700); err != nil {
		return err
	}
	if s.uri != "" {
		if err := s.startSigner(ctx, b); err != nil {
			return err
		}
	}
	if err := s.install(ctx); err != nil {
		return err
	}
	if err := s.seed(ctx, b.plan); err != nil {
		return err
	}
	if err := s.command(ctx, "product", "list"); err != nil {
		return err
	}
	if err := s.readAuthorities(ctx); err != nil {
		return err
	}
	if s.uri != "" {
		if err := s.bind(ctx, filepath.Dir(s.binary)); err != nil {
			return err
		}
	}
	if _, err := s.start(ctx); err != nil {
		return err
	}
	b.ends = append(b.ends, s.stop)
	return s.settle(ctx)
}

// startSigner makes the key and starts the process that has it.
func (s *signed) startSigner(ctx context.Context, b *bench) error {
	config := filepath.Join(s.data, "signer.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, signerConfig, os.Getuid(), softHSMModule(), s.uri), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.data, "signer.secret"), []byte("12345678\n"), 0o600); err != nil {
		return err
	}
	program := filepath.Join(b.folder, "birthmark-signer")
	if err := s.runSigner(ctx, program, "key", "create", "issuing", "--config", config); err != nil {
		return err
	}
	var err error
	if s.signer, err = start(ctx, s.data, "signer", s.env, program, "serve", "--config", config); err != nil {
		return err
	}
	b.ends = append(b.ends, s.signer.stop)
	s.socket = filepath.Join(s.data, "signer.socket")
	for begin := time.Now(); time.Since(begin) < time.Minute; time.Sleep(2 * time.Millisecond) {
		if c, err := net.Dial("unix", s.socket); err == nil {
			return c.Close()
		}
	}
	return fmt.Errorf("the signer does not start, see %s/signer.log", s.data)
}

func (s *signed) runSigner(ctx context.Context, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), s.env...)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("birthmark-signer %s: %w\n%s", strings.Join(args, " "), err, text)
	}
	return nil
}

// bind gives the key its authority's certificate.
func (s *signed) bind(ctx context.Context, folder string) error {
	text, err := s.output(ctx, "authority", "bundle", "--name", "issuing")
	if err != nil {
		return err
	}
	path := filepath.Join(s.data, "issuing.pem")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return err
	}
	return s.runSigner(ctx, filepath.Join(folder, "birthmark-signer"), "key", "bind", "issuing", "--certificate", path, "--config", filepath.Join(s.data, "signer.yaml"))
}

// signerTable holds the rates against their aims.
func (b *bench) signerTable(all []*signed) *table {
	t := &table{
		title: fmt.Sprintf("Enrollment over EST with the issuing key in the signer, SQLite, %d passes of %s", b.plan.passes, b.plan.cell),
		head:  []string{"", "clients", "certificates/s", "to the server's own", "p50 ms", "p99 ms", "server CPU s/1000", "signer CPU s/1000", "aim", ""},
	}
	aims := []float64{0, aimSignerFile, aimSignerHSM}
	most := b.most()
	for n, s := range all {
		for _, clients := range b.plan.clients {
			of := s.target.stats[clients]
			to := ratio(of.rate, all[0].target.stats[clients].rate)
			aim, verdict, extra := "", "", ""
			if n > 0 {
				extra = fmt.Sprintf("%.3f", median(of.extra))
			}
			if n > 0 && clients == most {
				aim, verdict = fmt.Sprintf("at least %.2f", aims[n]), "met"
				if to < aims[n] {
					verdict = "missed"
				}
			}
			t.add(s.name, fmt.Sprint(clients), fmt.Sprintf("%.0f", median(of.rate)), fmt.Sprintf("%.2f", to),
				fmt.Sprintf("%.2f", median(of.p50)), fmt.Sprintf("%.1f", median(of.p99)), fmt.Sprintf("%.3f", median(of.cpu)), extra, aim, verdict)
		}
	}
	return t
}

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/authority/ceremony"
	signerkeys "github.com/birthmark/birthmark/internal/pki/keystore/remote"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// tokenFlags say how a root's key in hardware is reached: through a signer that
// runs already, or through one that each step starts for itself.
type tokenFlags struct {
	Signer        string `help:"Socket of a birthmark-signer that runs, when the root's key is in hardware." type:"path" placeholder:"SOCKET"`
	Token         string `help:"Label of the token with the root's key: birthmark-signer is started for each step." placeholder:"LABEL"`
	Module        string `help:"PKCS #11 module of the token, as its maker names it." type:"path" placeholder:"FILE"`
	PINFile       string `name:"pin-file" help:"File with the token's PIN, readable by nobody else; without it birthmark-signer asks." type:"path" placeholder:"FILE"`
	SignerProgram string `help:"The birthmark-signer to start, built with PKCS #11." default:"birthmark-signer" placeholder:"FILE"`
}

// softToken is what a rehearsal's plan says of its throwaway token.
const softToken = "SoftHSM2, made for this rehearsal" //nolint:gosec // no credential

// keys returns the root's key in hardware, and makes it if create names a type.
func (f *ceremonyFlags) keys(ctx context.Context, o *ceremony.Ceremony, create profile.KeyType) (ceremony.Keys, func(), error) {
	if f.Signer != "" {
		return connectSigner(f.Signer, func() {})
	}
	token, plan := f.tokenFlags, o.Plan()
	var environment []string
	if token.Token == "" && plan.Hardware == softToken {
		var err error
		if environment, err = softHSM(ctx, filepath.Join(f.Dir, "softhsm"), &token); err != nil {
			return nil, nil, err
		}
	}
	if token.Token == "" {
		return nil, nil, fault.New(fault.ParameterInvalid, "the root's key is in hardware: name --token and --module, or --signer")
	}
	child, err := newSignerChild(&token, environment, filepath.Join(f.Dir, "signer"), strings.TrimPrefix(plan.Key, signerkeys.Scheme), o.RootFile())
	if err != nil {
		return nil, nil, err
	}
	if create != "" {
		err = child.create(ctx, create)
	}
	if err == nil {
		err = child.start(ctx)
	}
	if err != nil {
		child.stop()
		return nil, nil, err
	}
	return connectSigner(child.socket(), child.stop)
}

func connectSigner(socket string, stop func()) (ceremony.Keys, func(), error) {
	client, err := signerkeys.New(signerkeys.Config{Socket: socket, Now: time.Now})
	if err != nil {
		stop()
		return nil, nil, err
	}
	return &signerkeys.Keys{Signer: client}, func() {
		_ = client.Close() // it has nothing to say any more
		stop()
	}, nil
}

// signerChild is a birthmark-signer that lives as long as one step. It does for
// the root's key what it does for every other: it reads what it signs, and
// journals it, here in the ceremony's folder.
type signerChild struct {
	program     string
	dir         string // of configuration and socket, private
	environment []string
	name        string
	process     *exec.Cmd
	said        bytes.Buffer // by the process
	ended       chan struct{}
}

func newSignerChild(t *tokenFlags, environment []string, state, name, certificate string) (c *signerChild, err error) {
	if t.Module == "" {
		return nil, fault.New(fault.TokenModule, "name it with --module")
	}
	program, err := exec.LookPath(t.SignerProgram)
	if err != nil {
		return nil, fault.Wrap(fault.SignerUnreachable, err, "birthmark-signer cannot be started; name it with --signer-program")
	}
	c = &signerChild{program: program, environment: append(os.Environ(), environment...), name: name}
	if c.dir, err = os.MkdirTemp("", "ceremony-"); err != nil {
		return nil, err
	}
	key := map[string]any{
		"name": name, "uri": "pkcs11:token=" + escapeURI(t.Token) + ";object=" + escapeURI(name), "root": true,
		"signs": []string{"ca", "device", "ocsp-responder", "crl"}, "validity": "forever", "per_second": 10, "per_day": 100,
	}
	if certificate != "" {
		key["certificate"] = certificate
	}
	pkcs11 := map[string]any{"module": t.Module}
	if t.PINFile != "" {
		pkcs11["pin_file"] = t.PINFile
	}
	text, err := yaml.Marshal(map[string]any{
		"socket": c.socket(), "users": []string{strconv.Itoa(os.Getuid())}, "state": state, "pkcs11": pkcs11, "keys": []any{key},
	})
	if err == nil {
		err = os.MkdirAll(state, 0o700)
	}
	if err == nil {
		err = os.WriteFile(c.config(), text, 0o600)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(c.dir))
	}
	return c, nil
}

// escapeURI writes a value of a pkcs11: URI (RFC 7512, section 2.3).
func escapeURI(text string) string {
	var b strings.Builder
	for i := range len(text) {
		ch := text[i]
		if ch >= 'a' && ch <= 'z' || ch >= 'A' && ch <= 'Z' || ch >= '0' && ch <= '9' || ch == '-' || ch == '.' || ch == '_' {
			b.WriteByte(ch)
			continue
		}
		fmt.Fprintf(&b, "%%%02X", ch)
	}
	return b.String()
}

func (c *signerChild) config() string { return filepath.Join(c.dir, "signer.yaml") }
func (c *signerChild) socket() string { return filepath.Join(c.dir, "socket") }

// create makes the key in the token. One that an interrupted step has made is
// taken.
func (c *signerChild) create(ctx context.Context, t profile.KeyType) error {
	run := exec.CommandContext(ctx, c.program, "key", "create", "--config", c.config(), "--type", string(t), c.name)
	run.Env, run.Stdin = c.environment, os.Stdin
	said, err := run.CombinedOutput()
	if err != nil && !strings.Contains(string(said), "("+fault.KeyExists.String()+")") {
		return fault.Wrap(fault.TokenFailed, err, saidFirst(string(said)))
	}
	return nil
}

// saidFirst returns what a program that refused said first.
func saidFirst(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(strings.TrimPrefix(lines[0], "birthmark-signer:"))
}

// start waits until the signer answers.
func (c *signerChild) start(ctx context.Context) error {
	c.process = exec.CommandContext(ctx, c.program, "serve", "--config", c.config())
	c.process.Env, c.process.Stdin, c.process.Stderr, c.ended = c.environment, os.Stdin, &c.said, make(chan struct{})
	if err := c.process.Start(); err != nil {
		return fault.Wrap(fault.SignerUnreachable, err)
	}
	go func() {
		defer close(c.ended)
		_ = c.process.Wait() // what it said is reported below
	}()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		if conn, err := new(net.Dialer).DialContext(ctx, "unix", c.socket()); err == nil {
			return conn.Close()
		}
		select {
		case <-c.ended:
			return fault.New(fault.SignerUnreachable, saidFirst(c.said.String()))
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// stop ends the signer and removes its configuration.
func (c *signerChild) stop() {
	if c.ended != nil {
		_ = c.process.Process.Signal(syscall.SIGTERM) // it may have ended
		<-c.ended
	}
	_ = os.RemoveAll(c.dir) // nothing secret is in there
}

// softHSM makes a throwaway token for a rehearsal, once, and returns the
// environment in which it is found.
func softHSM(ctx context.Context, dir string, t *tokenFlags) ([]string, error) {
	config, pin, ready := filepath.Join(dir, "softhsm2.conf"), filepath.Join(dir, "pin"), filepath.Join(dir, "ready")
	environment := []string{"SOFTHSM2_CONF=" + config}
	t.Token, t.PINFile = "rehearsal", pin
	if t.Module == "" {
		for _, at := range []string{"/usr/lib/softhsm", "/usr/lib64/softhsm", "/usr/lib64/pkcs11", "/usr/local/lib/softhsm"} {
			if module := filepath.Join(at, "libsofthsm2.so"); fileExists(module) {
				t.Module = module
			}
		}
	}
	if fileExists(ready) {
		return environment, nil
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(filepath.Join(dir, "tokens"), 0o700)); err != nil {
		return nil, err
	}
	secret := rand.Text()
	text := "directories.tokendir = " + filepath.Join(dir, "tokens") + "\nobjectstore.backend = file\nlog.level = ERROR\n"
	if err := errors.Join(newSecretFile(pin, []byte(secret+"\n")), os.WriteFile(config, []byte(text), 0o600)); err != nil {
		return nil, err
	}
	run := exec.CommandContext(ctx, "softhsm2-util", "--init-token", "--free", "--label", t.Token, "--pin", secret, "--so-pin", secret)
	run.Env = append(os.Environ(), environment...)
	if said, err := run.CombinedOutput(); err != nil {
		return nil, fault.Wrap(fault.TokenFailed, err, saidFirst(string(said)))
	}
	return environment, os.WriteFile(ready, nil, 0o600)
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

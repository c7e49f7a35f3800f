package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/store"
)

// products are the models of the seeded devices.
var products = []string{"sensor", "gateway", "meter", "lock", "camera"}

// installation is a data folder with a register full of devices.
type installation struct {
	binary   string
	data     string // folder
	database string // DSN
	socket   string // of the signer that has the issuing authority's key; empty: a file has it
	issuer   []byte // DER of the issuing authority
	root     []byte

	server *process
	device string // addresses of the running server
	status string
	pprof  string       // empty: not profiled
	api    *http.Client // over the local socket
}

// build compiles the server and the tests of package issuing.
func build(ctx context.Context, folder string, profiled bool) error {
	server := []string{"build"}
	if profiled {
		flag, err := overlay(folder)
		if err != nil {
			return err
		}
		server = append(server, flag)
	}
	for _, args := range [][]string{
		append(server, "-o", filepath.Join(folder, "birthmark"), "github.com/birthmark/birthmark/cmd/birthmark"),
		{"test", "-c", "-o", filepath.Join(folder, "issuing.test"), "github.com/birthmark/birthmark/internal/pki/issuing"},
	} {
		if text, err := exec.CommandContext(ctx, "go", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, text)
		}
	}
	return nil
}

// install makes a data folder with the program's own commands.
func (i *installation) install(ctx context.Context) error {
	secret := i.data + ".root-passphrase"
	if err := os.WriteFile(secret, []byte("passphrase of the benchmark's root\n"), 0o600); err != nil {
		return err
	}
	args := []string{"init", "--org", "Bench", "--status-url", "http://status.bench.example", "--root-passphrase-file", secret}
	if i.socket != "" {
		args = append(args, "--issuing-key", "signer:issuing")
	}
	err := i.command(ctx, args...)
	for _, name := range products {
		if err == nil {
			err = i.command(ctx, "product", "add", "--name", name, "--profile", "idevid", "--profile", "ldevid-cloud")
		}
	}
	return err
}

func (i *installation) command(ctx context.Context, args ...string) error {
	_, err := i.output(ctx, args...)
	return err
}

// output runs a command of the program and returns what it wrote.
func (i *installation) output(ctx context.Context, args ...string) ([]byte, error) {
	return i.tool(ctx, append(args, "--data", i.data, "--database", i.database)...)
}

// signerEnv tells the program where the signer is, if there is one.
func (i *installation) signerEnv() []string {
	if i.socket == "" {
		return nil
	}
	return []string{"BIRTHMARK_SIGNER_SOCKET=" + i.socket}
}

// tool runs a command that knows no data folder.
func (i *installation) tool(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, i.binary, args...)
	cmd.Env = append(os.Environ(), i.signerEnv()...)
	text, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			text = exit.Stderr
		}
		return nil, fmt.Errorf("birthmark %s: %w\n%s", args[0], err, text)
	}
	return text, nil
}

// open opens the register, which no server may use meanwhile.
func (i *installation) open(ctx context.Context) (*store.Store, authority.Control, error) {
	s, err := store.Open(ctx, store.Config{DSN: i.database, Node: "bench"})
	if err != nil {
		return nil, authority.Control{}, err
	}
	c, err := s.Control(ctx)
	if err != nil {
		return nil, c, errors.Join(err, s.Close())
	}
	return s, c, nil
}

// seed fills the register: stored devices have enrolled, spare ones can.
func (i *installation) seed(ctx context.Context, p plan) (err error) {
	s, control, err := i.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	c := store.SeedConfig{Devices: p.stored + p.spare, Certificates: p.stored}
	for _, one := range control.Products {
		c.Products = append(c.Products, one.ID)
	}
	for _, one := range control.Authorities {
		if one.Name == "issuing" {
			c.Authority = one.ID
		}
	}
	for _, one := range control.Profiles {
		if one.Name == "idevid" {
			c.Profile = one.ID
		}
	}
	return s.Seed(ctx, c)
}

// readAuthorities finds the certificates to hold answers against.
func (i *installation) readAuthorities(ctx context.Context) error {
	s, control, err := i.open(ctx)
	if err != nil {
		return err
	}
	for _, one := range control.Authorities {
		switch one.Name {
		case "issuing":
			i.issuer = one.Certificate
		case "root":
			i.root = one.Certificate
		}
	}
	return s.Close()
}

// start runs the server with its log in a file and returns how long it took to
// be ready.
func (i *installation) start(ctx context.Context) (time.Duration, error) {
	addresses, err := freeAddresses(4)
	if err != nil {
		return 0, err
	}
	i.device, i.status, i.pprof = addresses[0], addresses[1], addresses[3]
	begin := time.Now()
	i.server, err = start(ctx, i.data, "serve", append(i.signerEnv(), "BENCH_PPROF="+i.pprof), i.binary, "serve", "--data", i.data, "--database", i.database,
		"--device-listen", i.device, "--status-listen", i.status, "--console-listen", addresses[2])
	if err != nil {
		return 0, err
	}
	for time.Since(begin) < time.Minute && ctx.Err() == nil {
		if ready(ctx, "http://"+i.status+"/readyz") {
			return time.Since(begin), i.dialSocket()
		}
		time.Sleep(2 * time.Millisecond)
	}
	return 0, errors.Join(fmt.Errorf("the server is not ready, see %s/serve.log", i.data), i.stop())
}

func ready(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close() // only the status matters
	return resp.StatusCode == http.StatusOK
}

// freeAddresses returns addresses on loopback that nobody listens on.
func freeAddresses(n int) (list []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		list = append(list, l.Addr().String())
	}
	return list, nil
}

// stop ends the server, if it runs.
func (i *installation) stop() error {
	err := i.server.stop()
	i.server = nil
	return err
}

func (i *installation) dialSocket() error {
	path, err := os.ReadFile(filepath.Join(i.data, "socket"))
	if err != nil {
		return err
	}
	i.api = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", strings.TrimSpace(string(path)))
	}}}
	return nil
}

// get asks the API and decodes the answer.
func (i *installation) get(ctx context.Context, path string, answer any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://local/api/v1"+path, nil)
	if err != nil {
		return err
	}
	resp, err := i.api.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", path, resp.Status, body)
	}
	return json.Unmarshal(body, answer)
}

// settle waits until the ledger's background hashing has caught up with what is
// stored, since seeding has left it far behind.
func (i *installation) settle(ctx context.Context) error {
	for begin := time.Now(); time.Since(begin) < 10*time.Minute; time.Sleep(200 * time.Millisecond) {
		var state struct {
			Size       int64 `json:"size"`
			Checkpoint int64 `json:"checkpoint_size"`
		}
		if err := i.get(ctx, "/ledger", &state); err != nil {
			return err
		}
		if state.Size == state.Checkpoint {
			return nil
		}
	}
	return errors.New("the ledger does not catch up")
}

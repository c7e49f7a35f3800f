package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/birthmark/birthmark/internal/edge/client"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/needs"
	"github.com/birthmark/birthmark/internal/store"
	"github.com/birthmark/birthmark/internal/web/rest"
)

// The crash test: servers are killed while 16 clients enroll, renew and revoke.
// What the clients were told is in a file of their own, synced before it
// counts; afterwards the register must agree with it.

const (
	crashKills   = 25
	crashClients = 16
	crashDevices = 6000
)

func TestCrashSQLite(t *testing.T) {
	needs.Unix(t)
	needs.Time(t)
	dir := t.TempDir()
	c := newCrash(t, dir, filepath.Join(dir, "data"), "")
	c.startNode(0)
	c.run(crashKills, func(n *crashNode) { n.kill() })
}

// TestCrashTwoNodesOnPostgreSQL kills one of two nodes at a time; the other goes
// on serving.
func TestCrashTwoNodesOnPostgreSQL(t *testing.T) {
	dsn := needs.Postgres(t)
	needs.Time(t)
	dir := t.TempDir()
	c := newCrash(t, dir, filepath.Join(dir, "data"), newDatabase(t, dsn))
	second := filepath.Join(c.dir, "second")
	copyFolder(t, c.folder, second)
	if err := os.Remove(filepath.Join(second, "node")); err != nil {
		t.Fatal(err)
	}
	c.startNode(0)
	c.nodes = append(c.nodes, newCrashNode(t, second))
	c.startNode(1)
	c.run(crashKills, func(n *crashNode) { n.kill() })
}

// newDatabase makes a database of the test's own.
func newDatabase(t *testing.T, dsn string) string {
	t.Helper()
	name := "crash_" + strings.ToLower(rand.Text()[:10])
	execSQL(t, dsn, "CREATE DATABASE "+name)
	t.Cleanup(func() { execSQL(t, dsn, "DROP DATABASE "+name+" WITH (FORCE)") })
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Replace(dsn, "/"+config.Database, "/"+name, 1)
}

func execSQL(t *testing.T, dsn, statement string) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, statement); err != nil {
		t.Fatal(err)
	}
}

func copyFolder(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	// CopyFS makes files readable for all; keys must not be.
	err := filepath.WalkDir(to, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			err = os.Chmod(path, 0o600)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// crash is one run of the test.
type crash struct {
	t        *testing.T
	dir      string
	folder   string
	database string
	nodes    []*crashNode
	anchors  *x509.CertPool
	token    string
	devices  []crashDevice
	next     atomic.Int64 // device that enrolls next
	seed     uint64

	mu    sync.Mutex
	acks  *os.File
	known []*crashIdentity // acknowledged and good, guarded by mu

	issued, renewed, revoked, replayed atomic.Int64
}

type crashDevice struct{ Serial, Secret string }

// crashIdentity is a certificate that a client holds.
type crashIdentity struct {
	key     *ecdsa.PrivateKey
	cert    *x509.Certificate
	serial  string
	request []byte // of its enrollment, for asking again
	device  *crashDevice
}

// ack is a line of the clients' own file.
type ack struct {
	Act    string `json:"act"` // issue, renew, revoke
	Serial string `json:"serial"`
	DER    []byte `json:"der,omitempty"`
}

// newCrash makes an installation in folder; what the clients know is kept in
// dir.
func newCrash(t *testing.T, dir, folder, database string) *crash {
	t.Helper()
	c := &crash{t: t, dir: dir, folder: folder, database: database, seed: mathrand.Uint64()}
	t.Logf("seed %d", c.seed)
	c.nodes = []*crashNode{newCrashNode(t, c.folder)}
	c.command(nil, "init", "--org", "Crash", "--json")
	var err error
	if c.acks, err = os.Create(filepath.Join(dir, "acks")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.acks.Close() })
	c.command(nil, "product", "add", "--name", "unit")
	var serials strings.Builder
	for i := range crashDevices {
		fmt.Fprintf(&serials, "U%05d\n", i)
	}
	list := filepath.Join(dir, "serials")
	if err := os.WriteFile(list, []byte(serials.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	c.command(&c.devices, "device", "add", "--product", "unit", "--file", list, "--json")
	var token rest.Token
	c.command(&token, "token", "create", "--name", "crash", "--action", "certificate.revoke,certificate.read", "--days", "1", "--json")
	c.token = token.Token
	pem, err := os.ReadFile(filepath.Join(c.folder, "bundle.pem"))
	if err != nil {
		t.Fatal(err)
	}
	c.anchors = x509.NewCertPool()
	c.anchors.AppendCertsFromPEM(pem)
	return c
}

// command runs birthmark on the folder and reads its JSON.
func (c *crash) command(out any, args ...string) {
	c.t.Helper()
	args = append(args, "--data", c.folder)
	if c.database != "" {
		args = append(args, "--database", c.database)
	}
	cmd := itself(c.t, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		c.t.Fatalf("birthmark %s: %v\n%s", args[0], err, stderr.String())
	}
	if out == nil {
		return
	}
	if err := json.Unmarshal(text, out); err != nil {
		c.t.Fatalf("birthmark %s: %v", args[0], err)
	}
}

// itself is this test binary as birthmark.
func itself(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "birthmark")
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	return exec.Command(link, args...)
}

// crashNode is one server process after another on one folder.
type crashNode struct {
	t                       *testing.T
	folder                  string
	device, console, status string
	under                   []string // program and arguments that run the server
	cmd                     *exec.Cmd
	log                     *os.File
	slowest                 time.Duration
}

func newCrashNode(t *testing.T, folder string) *crashNode {
	t.Helper()
	n := &crashNode{t: t, folder: folder}
	t.Cleanup(n.end)
	for _, a := range []*string{&n.device, &n.console, &n.status} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		*a = l.Addr().String()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func (c *crash) startNode(i int) { c.nodes[i].start(c.database) }

// start runs the server until it says ready.
func (n *crashNode) start(database string) {
	n.t.Helper()
	args := []string{
		"serve", "--data", n.folder, "--device-listen", n.device, "--console-listen", n.console, "--status-listen", n.status,
		"--log-level", "warn",
	}
	if database != "" {
		args = append(args, "--database", database)
	}
	n.cmd = itself(n.t, args...)
	if len(n.under) > 0 {
		n.cmd = exec.Command(n.under[0], append(append(n.under[1:], n.cmd.Path), args...)...)
	}
	var err error
	if n.log, err = os.OpenFile(n.folder+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		n.t.Fatal(err)
	}
	n.cmd.Stderr = n.log
	begin := time.Now()
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	for !n.ready() {
		if time.Since(begin) > time.Minute {
			text, _ := os.ReadFile(n.folder + ".log")
			n.t.Fatalf("the server is not ready after a minute:\n%s", text[max(0, len(text)-4000):])
		}
		time.Sleep(10 * time.Millisecond)
	}
	n.slowest = max(n.slowest, time.Since(begin))
}

func (n *crashNode) ready() bool {
	resp, err := http.Get("http://" + n.status + "/readyz")
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// kill is kill -9.
func (n *crashNode) kill() {
	n.t.Helper()
	if err := n.server().Kill(); err != nil {
		n.t.Fatal(err)
	}
	_ = n.cmd.Wait() // killed
	_ = n.log.Close()
}

// end leaves nothing behind when the test has failed while the server ran. A
// program that runs the server goes after it by itself.
func (n *crashNode) end() {
	if n.cmd == nil || n.cmd.Process == nil || n.cmd.ProcessState != nil {
		return
	}
	n.kill()
}

// server is the server's own process, also when another program runs it.
func (n *crashNode) server() *os.Process {
	n.t.Helper()
	if len(n.under) == 0 {
		return n.cmd.Process
	}
	pid := n.cmd.Process.Pid
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		n.t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		n.t.Fatal(err)
	}
	p, err := os.FindProcess(child)
	if err != nil {
		n.t.Fatal(err)
	}
	return p
}

// run kills nodes in turn under load and then compares.
func (c *crash) run(kills int, strike func(*crashNode)) {
	c.load(func(random *mathrand.Rand) {
		for i := range kills {
			time.Sleep(time.Duration(100+random.IntN(500)) * time.Millisecond)
			n := c.nodes[i%len(c.nodes)]
			strike(n)
			n.start(c.database)
		}
	})
	for _, n := range c.nodes {
		n.kill()
		c.t.Logf("slowest start of a node until it was ready: %s", n.slowest.Round(time.Millisecond))
	}
	c.t.Logf("%d issued, %d renewed, %d revoked, %d asked again, over %d kills",
		c.issued.Load(), c.renewed.Load(), c.revoked.Load(), c.replayed.Load(), kills)
	for _, problem := range c.compare() {
		c.t.Error(problem)
	}
	c.command(nil, "ledger", "verify", "--json")
}

// load runs the clients while disturb does its work.
func (c *crash) load(disturb func(*mathrand.Rand)) {
	ctx, stop := context.WithCancel(c.t.Context())
	var clients sync.WaitGroup
	for i := range crashClients {
		clients.Go(func() {
			random := mathrand.New(mathrand.NewPCG(c.seed, uint64(i)))
			for ctx.Err() == nil {
				c.act(ctx, random)
			}
		})
	}
	disturb(mathrand.New(mathrand.NewPCG(c.seed, crashClients)))
	stop()
	clients.Wait()
}

// act does one thing a client does, again and again until it is answered.
func (c *crash) act(ctx context.Context, random *mathrand.Rand) {
	switch p := random.IntN(100); {
	case p < 60:
		c.issue(ctx, random)
	case p < 80:
		c.renew(ctx, random)
	case p < 90:
		c.askAgain(ctx, random)
	default:
		c.revoke(ctx, random)
	}
}

func (c *crash) est(random *mathrand.Rand, cert *tls.Certificate) *client.EST {
	n := c.nodes[random.IntN(len(c.nodes))]
	e, err := client.New(client.Config{URL: "https://" + n.device, Anchors: c.anchors, Certificate: cert, Timeout: 10 * time.Second})
	if err != nil {
		panic(err)
	}
	return e
}

// insist repeats a request until a server answers it. What a server says with
// 503 was not done or is not known yet, so it is asked again.
func insist(ctx context.Context, fn func() error) error {
	for {
		err := fn()
		refused, ok := errors.AsType[*client.Refused](err)
		if err == nil || ok && refused.Status != http.StatusServiceUnavailable || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (c *crash) issue(ctx context.Context, random *mathrand.Rand) {
	i := c.next.Add(1) - 1
	if i >= int64(len(c.devices)) {
		c.renew(ctx, random)
		return
	}
	id := &crashIdentity{device: &c.devices[i], key: newCrashKey()}
	var err error
	if id.request, err = client.Request(id.key, nil); err != nil {
		panic(err)
	}
	err = insist(ctx, func() (err error) {
		e := c.est(random, nil)
		defer e.Close()
		id.cert, err = e.Enroll(ctx, id.request, id.device.Serial, id.device.Secret)
		return err
	})
	c.settle(ctx, "issue", id, err)
}

func newCrashKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

// settle puts an answer into the clients' file, and the identity among those
// that can be used.
func (c *crash) settle(ctx context.Context, act string, id *crashIdentity, err error) {
	if ctx.Err() != nil && err != nil {
		return
	}
	if err != nil {
		c.t.Errorf("%s of %s was refused: %v", act, id.device.Serial, err)
		return
	}
	id.serial = hex.EncodeToString(id.cert.SerialNumber.Bytes())
	c.acknowledge(ack{Act: act, Serial: id.serial, DER: id.cert.Raw})
	c.mu.Lock()
	c.known = append(c.known, id)
	c.mu.Unlock()
	if act == "issue" {
		c.issued.Add(1)
		return
	}
	c.renewed.Add(1)
}

func (c *crash) acknowledge(a ack) {
	line, err := json.Marshal(a)
	if err != nil {
		panic(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.acks.Write(append(line, '\n')); err != nil {
		c.t.Error(err)
	}
}

// take removes an identity from those that can be used, so that two clients do
// not renew or revoke one at the same time.
func (c *crash) take(random *mathrand.Rand) *crashIdentity {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) == 0 {
		return nil
	}
	i := random.IntN(len(c.known))
	id := c.known[i]
	c.known[i] = c.known[len(c.known)-1]
	c.known = c.known[:len(c.known)-1]
	return id
}

func (c *crash) renew(ctx context.Context, random *mathrand.Rand) {
	old := c.take(random)
	if old == nil {
		return
	}
	id := &crashIdentity{device: old.device, key: newCrashKey()}
	csr, err := client.Request(id.key, old.cert.RawSubject)
	if err != nil {
		panic(err)
	}
	err = insist(ctx, func() (err error) {
		e := c.est(random, &tls.Certificate{Certificate: [][]byte{old.cert.Raw}, PrivateKey: old.key})
		defer e.Close()
		id.cert, err = e.Reenroll(ctx, csr)
		return err
	})
	c.settle(ctx, "renew", id, err)
}

// askAgain repeats an enrollment that was answered: it must get the same
// certificate, as long as that was not used.
func (c *crash) askAgain(ctx context.Context, random *mathrand.Rand) {
	id := c.take(random)
	if id == nil {
		return
	}
	defer func() {
		c.mu.Lock()
		c.known = append(c.known, id)
		c.mu.Unlock()
	}()
	if id.request == nil {
		return
	}
	var again *x509.Certificate
	err := insist(ctx, func() (err error) {
		e := c.est(random, nil)
		defer e.Close()
		again, err = e.Enroll(ctx, id.request, id.device.Serial, id.device.Secret)
		return err
	})
	if err != nil {
		if ctx.Err() == nil {
			c.t.Errorf("the same request of %s again was refused: %v", id.device.Serial, err)
		}
		return
	}
	c.replayed.Add(1)
	if !again.Equal(id.cert) {
		c.t.Errorf("the same request of %s got another certificate", id.device.Serial)
	}
}

func (c *crash) revoke(ctx context.Context, random *mathrand.Rand) {
	id := c.take(random)
	if id == nil {
		return
	}
	err := insist(ctx, func() error {
		n := c.nodes[random.IntN(len(c.nodes))]
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+n.console+"/api/v1/certificates/"+id.serial+"/revocation",
			strings.NewReader(`{"reason":"keyCompromise"}`))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+c.token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		// A server killed after the revocation was stored is asked again.
		if resp.StatusCode == http.StatusOK || bytes.Contains(body, []byte("BM-4001")) {
			return nil
		}
		return &client.Refused{Status: resp.StatusCode, Text: string(body)}
	})
	if err != nil {
		if ctx.Err() == nil {
			c.t.Errorf("revocation of %s was refused: %v", id.serial, err)
		}
		return
	}
	c.acknowledge(ack{Act: "revoke", Serial: id.serial})
	c.revoked.Add(1)
}

// compare holds the register against the clients' file.
func (c *crash) compare() []string {
	c.t.Helper()
	ctx := c.t.Context()
	dsn := c.database
	if dsn == "" {
		dsn = "sqlite:" + filepath.Join(c.folder, "birthmark.db")
	}
	db, err := store.Open(ctx, store.Config{DSN: dsn, Node: "compare", Now: time.Now, Rand: rand.Reader, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return []string{fmt.Sprintf("open the register: %v", err)}
	}
	defer db.Close()
	problems := c.lost(ctx, db)
	return append(problems, doubled(ctx, db)...)
}

// lost names acknowledgements that the register does not know.
func (c *crash) lost(ctx context.Context, db *store.Store) (problems []string) {
	text, err := os.ReadFile(c.acks.Name())
	if err != nil {
		return []string{err.Error()}
	}
	for line := range bytes.Lines(text) {
		var a ack
		if err := json.Unmarshal(line, &a); err != nil {
			return append(problems, err.Error())
		}
		serial, err := hex.DecodeString(a.Serial)
		if err != nil {
			return append(problems, err.Error())
		}
		row, err := db.CredentialBySerial(ctx, access.Everything(), serial)
		switch {
		case err != nil:
			problems = append(problems, fmt.Sprintf("lost: %s of %s: %v", a.Act, a.Serial, err))
		case a.DER != nil && !bytes.Equal(row.DER, a.DER):
			problems = append(problems, fmt.Sprintf("changed: %s of %s", a.Act, a.Serial))
		case a.Act == "revoke" && row.State != device.Revoked:
			problems = append(problems, fmt.Sprintf("lost: revocation of %s: it is %s", a.Serial, row.State))
		}
	}
	return problems
}

// doubled names serials, idempotency keys and first enrollments that occur
// twice.
func doubled(ctx context.Context, db *store.Store) (problems []string) {
	serials, requests, first := map[string]bool{}, map[[32]byte]bool{}, map[int64]bool{}
	for after := int64(0); ; {
		rows, err := db.CredentialRows(ctx, after, 1000)
		if err != nil {
			return append(problems, err.Error())
		}
		if len(rows) == 0 {
			return problems
		}
		for _, r := range rows {
			after = r.ID
			if serials[string(r.CertSerial)] {
				problems = append(problems, fmt.Sprintf("serial %x twice", r.CertSerial))
			}
			serials[string(r.CertSerial)] = true
			if r.Device == 0 {
				continue
			}
			if requests[r.Idempotency] || r.Previous == 0 && first[r.Device] {
				problems = append(problems, fmt.Sprintf("two certificates for one request of device %x", r.Device))
			}
			requests[r.Idempotency] = true
			first[r.Device] = first[r.Device] || r.Previous == 0
		}
	}
}

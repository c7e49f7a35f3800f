//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/birthmark/birthmark/internal/edge/client"
	"github.com/birthmark/birthmark/internal/needs"
)

// enrollOnce sends one enrollment and returns the certificate or the refusal.
func (c *crash) enrollOnce() (*crashIdentity, error) {
	c.t.Helper()
	id := &crashIdentity{device: &c.devices[c.next.Add(1)-1], key: newCrashKey()}
	csr, err := client.Request(id.key, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	id.request = csr
	return id, c.enrollAgain(id)
}

// enrollAgain repeats the request of id.
func (c *crash) enrollAgain(id *crashIdentity) error {
	c.t.Helper()
	e, err := client.New(client.Config{URL: "https://" + c.nodes[0].device, Anchors: c.anchors})
	if err != nil {
		c.t.Fatal(err)
	}
	defer e.Close()
	id.cert, err = e.Enroll(c.t.Context(), id.request, id.device.Serial, id.device.Secret)
	return err
}

// wantUnavailable wants a 503 with this code.
func wantUnavailable(t *testing.T, err error, codes ...string) {
	t.Helper()
	refused, ok := errors.AsType[*client.Refused](err)
	if !ok || refused.Status != 503 || refused.RetryAfter == 0 {
		t.Fatalf("got %v, want 503 with Retry-After", err)
	}
	for _, code := range codes {
		if strings.Contains(refused.Text, code) {
			return
		}
	}
	t.Fatalf("got %q, want one of %v", refused.Text, codes)
}

func TestFullDiskRefusesAndRecovers(t *testing.T) {
	needs.Time(t)
	d := newDisk(t)
	c := newCrash(t, t.TempDir(), filepath.Join(d.mount, "data"), "")
	c.startNode(0)
	defer c.nodes[0].kill()
	if _, err := c.enrollOnce(); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(d.mount, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, zeros{}); err == nil {
		t.Fatal("the disk takes everything")
	}
	_ = f.Close()
	var id *crashIdentity
	for err = nil; err == nil; { // what is allocated already may take a few
		id, err = c.enrollOnce()
	}
	wantUnavailable(t, err, "BM-7002")
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := c.enrollAgain(id); err != nil {
		t.Errorf("with room again: %v", err)
	}
	if _, err := c.enrollOnce(); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestFailedSyncStopsWriting has the disk fail once under a commit. What it
// holds is not known from then on: nothing is acknowledged any more, and a
// restart goes on with what is there.
func TestFailedSyncStopsWriting(t *testing.T) {
	strace := needs.Command(t, "strace")
	needs.Time(t)
	dir := t.TempDir()
	c := newCrash(t, dir, filepath.Join(dir, "data"), "")
	n := c.nodes[0]
	n.under = []string{
		strace, "-f", "-qq", "--seccomp-bpf", "-o", os.DevNull, "-P", filepath.Join(c.folder, "birthmark.db-wal"),
		"-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO:when=40",
	}
	c.startNode(0)
	var err error
	issued := 0
	for range 200 {
		if _, err = c.enrollOnce(); err != nil {
			break
		}
		issued++
	}
	wantUnavailable(t, err, "BM-7003")
	for range 5 {
		_, err = c.enrollOnce()
		wantUnavailable(t, err, "BM-7003")
	}
	n.kill()
	n.under = nil
	c.startNode(0)
	defer n.kill()
	if _, err := c.enrollOnce(); err != nil {
		t.Errorf("after the restart: %v", err)
	}
	t.Logf("%d issued before the sync failed", issued)
}

// TestDatabaseDown cuts the connection to PostgreSQL: requests are refused with
// 503 while it is gone and answered when it is back, without a restart.
func TestDatabaseDown(t *testing.T) {
	dsn := needs.Postgres(t)
	needs.Time(t)
	dir := t.TempDir()
	database := newDatabase(t, dsn)
	wire := newWire(t, database)
	c := newCrash(t, dir, filepath.Join(dir, "data"), database)
	c.database = wire.dsn
	c.startNode(0)
	defer c.nodes[0].kill()
	if _, err := c.enrollOnce(); err != nil {
		t.Fatal(err)
	}
	wire.cut()
	id, err := c.enrollOnce()
	wantUnavailable(t, err, "BM-7001", "BM-7009", "BM-3027")
	if c.nodes[0].ready() {
		t.Error("the node says ready without its database")
	}
	wire.mend()
	for !c.nodes[0].ready() {
	}
	if err := c.enrollAgain(id); err != nil {
		t.Errorf("with the database back: %v", err)
	}
}

// wire stands between the server and PostgreSQL.
type wire struct {
	t      *testing.T
	dsn    string
	target string

	mu    sync.Mutex
	whole bool
	conns []net.Conn
}

func newWire(t *testing.T, dsn string) *wire {
	t.Helper()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{t: t, target: fmt.Sprintf("%s/.s.PGSQL.%d", config.Host, config.Port), whole: true}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go w.carry(c)
		}
	}()
	w.dsn = fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable", config.User, l.Addr(), config.Database)
	return w
}

func (w *wire) carry(c net.Conn) {
	w.mu.Lock()
	whole := w.whole
	w.mu.Unlock()
	if !whole {
		_ = c.Close()
		return
	}
	up, err := net.Dial("unix", w.target)
	if err != nil {
		_ = c.Close()
		return
	}
	w.mu.Lock()
	w.conns = append(w.conns, c, up)
	w.mu.Unlock()
	go func() { _, _ = io.Copy(up, c) }()
	_, _ = io.Copy(c, up)
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.whole = false
	for _, c := range w.conns {
		_ = c.Close()
	}
}

func (w *wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.whole = true
}

//go:build unix

package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/needs"
)

func refused(t *testing.T, err error, c fault.Code) {
	t.Helper()
	if !fault.Has(err, c) {
		t.Errorf("got %v, want %v", err, fault.New(c))
	}
}

func act() ledger.Entry {
	return ledger.Entry{Kind: ledger.ClockAccepted, Actor: "system", Body: ledger.JSON(struct{}{})}
}

func TestAfterAFailedSyncNothingIsWritten(t *testing.T) {
	var failing atomic.Bool
	cfg := Config{DSN: "sqlite:" + filepath.Join(t.TempDir(), "birthmark.db"), Node: "one", CommitFault: func() error {
		if failing.Load() {
			return errors.New("input/output error")
		}
		return nil
	}}
	s := mustOpen(t, cfg)
	is := newIssuer(t, s)
	is.addRows(t, 0, 3, false)
	failing.Store(true)
	i := is.next(0)
	_, err := s.StoreIssuance(t.Context(), i)
	refused(t, err, fault.StoreBroken)
	failing.Store(false)
	_, err = s.StoreIssuance(t.Context(), i)
	refused(t, err, fault.StoreBroken)
	refused(t, s.AcceptClock(t.Context(), is.at, act()), fault.StoreBroken)
	if _, err := s.Device(t.Context(), access.Everything(), i.Change.ID); err != nil {
		t.Errorf("reading: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, cfg)
	if _, err = s.StoreIssuance(t.Context(), i); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	checkSums(t, s, 1)
}

func TestAFailedCommitTakesNothingBack(t *testing.T) {
	onBoth(t, func(t *testing.T, cfg Config) {
		var failing atomic.Bool
		cfg.CommitFault = func() error {
			if failing.Swap(false) {
				return fault.New(fault.StoreFull)
			}
			return nil
		}
		s := mustOpen(t, cfg)
		is := newIssuer(t, s)
		is.addRows(t, 0, 3, false)
		i := is.next(0)
		failing.Store(true)
		if _, err := s.StoreIssuance(t.Context(), i); err == nil {
			t.Error("acknowledged")
		}
		failing.Store(true)
		if err := s.AcceptClock(t.Context(), is.at, act()); err == nil {
			t.Error("acknowledged")
		}
		if n := s.count(t, "SELECT count(*) FROM credential") + s.count(t, "SELECT count(*) FROM spki_key") + s.count(t, "SELECT mark_at FROM clock_mark"); n != 0 {
			t.Errorf("%d rows were left", n)
		}
	})
}

func TestAFullDiskRecovers(t *testing.T) {
	needs.Linux(t)
	folder := t.TempDir()
	mount, err := exec.LookPath("mount")
	if err == nil {
		err = exec.CommandContext(t.Context(), mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder).Run()
	}
	needs.Need(t, "to mount a tmpfs (root on Linux)", err == nil)
	t.Cleanup(func() {
		if err := exec.CommandContext(context.Background(), "umount", folder).Run(); err != nil {
			t.Error(err)
		}
	})
	filler := filepath.Join(folder, "filler")
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), Config{DSN: "sqlite:" + filepath.Join(folder, "birthmark.db"), Node: "one"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	is := newIssuer(t, s)
	is.addRows(t, 0, 1500, false)
	stored, full := int64(0), 0
	for stored < 1500 && full < 2 { // a checkpoint may make room once more
		if _, err = s.StoreIssuance(t.Context(), is.next(stored)); err != nil {
			refused(t, err, fault.StoreFull)
			full++
			continue
		}
		stored, full = stored+1, 0
	}
	if full < 2 {
		t.Fatalf("%d were stored, and there is still room", stored)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err = s.StoreIssuance(t.Context(), is.next(stored)); err != nil {
			t.Fatalf("with room again: %v", err)
		}
		stored++
	}
	checkSums(t, s, stored)
	t.Logf("full after %d", stored-3)
}

func TestOpenRefuses(t *testing.T) {
	fresh := func(t *testing.T) string {
		path := filepath.Join(t.TempDir(), "birthmark.db")
		s := mustOpen(t, Config{DSN: "sqlite:" + path})
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return path
	}
	change := func(sql string) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			c, err := openLite(path, openFlags, litePragmas)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(c.script(t.Context(), sql), c.close()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		spoil func(t *testing.T, path string)
		code  fault.Code
	}{
		"a newer schema":              {change("INSERT INTO schema_info (number, name, checksum, oldest, applied_at) SELECT max(number) + 1, 'x', '', max(number) + 1, 0 FROM schema_info"), fault.SchemaNewer},
		"an edited migration":         {change("UPDATE schema_info SET checksum = 'x' WHERE number = 1"), fault.SchemaCorrupt},
		"a missing migration":         {change("UPDATE schema_info SET number = 17 WHERE number = 1"), fault.SchemaCorrupt},
		"another program's database":  {change("PRAGMA application_id = 5"), fault.SchemaCorrupt},
		"a register without its keys": {change("UPDATE ledger_head SET size = 1; DELETE FROM store_key"), fault.SchemaCorrupt},
		"what is no database":         {func(t *testing.T, path string) { write(t, path, bytes.Repeat([]byte("no"), 4000)) }, fault.SchemaCorrupt},
		"a torn first page": {func(t *testing.T, path string) {
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			copy(raw[100:4000], make([]byte, 3900))
			write(t, path, raw)
		}, fault.SchemaCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			path := fresh(t)
			c.spoil(t, path)
			s, err := Open(t.Context(), Config{DSN: "sqlite:" + path})
			if err == nil {
				s.Close()
			}
			refused(t, err, c.code)
		})
	}
	for _, dsn := range []string{"", "sqlite:", "mysql://x", "/var/lib/x.db", "postgres://%zz"} {
		_, err := Open(t.Context(), Config{DSN: dsn})
		refused(t, err, fault.ConfigInvalid)
	}
	_, err := Open(t.Context(), Config{DSN: "sqlite:" + filepath.Join(t.TempDir(), "none.db"), ReadOnly: true})
	refused(t, err, fault.DataFolderState)
	_, err = Open(t.Context(), Config{DSN: "sqlite:" + filepath.Join(t.TempDir(), "no", "such", "folder.db")})
	refused(t, err, fault.StoreUnavailable)
	_, err = Open(t.Context(), Config{DSN: "postgres://nobody@127.0.0.1:1/none?sslmode=disable"})
	refused(t, err, fault.StoreUnavailable)
}

func write(t *testing.T, path string, raw []byte) {
	t.Helper()
	for _, suffix := range []string{"-wal", "-shm"} {
		_ = os.Remove(path + suffix)
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestReadOnlyWritesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, cfg Config) {
		s := mustOpen(t, cfg)
		is := newIssuer(t, s)
		is.addRows(t, 0, 1, false)
		cfg.ReadOnly = true
		reader := mustOpen(t, cfg)
		_, err := reader.StoreIssuance(t.Context(), is.next(0))
		refused(t, err, fault.DataFolderState)
		refused(t, reader.AcceptClock(t.Context(), is.at), fault.DataFolderState)
		if d, err := reader.Device(t.Context(), access.Everything(), reader.DeviceID(deviceSerial(0))); err != nil || d.DeviceSerial != deviceSerial(0) {
			t.Errorf("%+v, %v", d, err)
		}
	})
}

func TestClosedStoreRefuses(t *testing.T) {
	onBoth(t, func(t *testing.T, cfg Config) {
		s := mustOpen(t, cfg)
		is := newIssuer(t, s)
		is.addRows(t, 0, 200, false)
		var wg sync.WaitGroup
		var stored, late atomic.Int64
		started := make(chan struct{}, 100)
		for n := range int64(100) {
			i := is.next(n)
			wg.Go(func() {
				started <- struct{}{}
				_, err := s.StoreIssuance(context.Background(), i)
				switch {
				case err == nil:
					stored.Add(1)
				case fault.Has(err, fault.ShuttingDown):
					late.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		for range 50 {
			<-started
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		s = mustOpen(t, cfg)
		if n := s.count(t, "SELECT count(*) FROM credential"); n != stored.Load() {
			t.Errorf("%d stored, %d were acknowledged, %d came late", n, stored.Load(), late.Load())
		}
	})
}

func TestOneProcessForEachFolder(t *testing.T) {
	folder := t.TempDir()
	lock, err := LockFolder(folder)
	if err != nil {
		t.Fatal(err)
	}
	_, err = LockFolder(folder)
	refused(t, err, fault.DataFolderLocked)
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	if lock, err = LockFolder(folder); err != nil {
		t.Fatal(err)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
}

func TestUnsafePostgresIsRefused(t *testing.T) {
	dsn := emptySchema(t, needs.Postgres(t))
	_, err := Open(t.Context(), Config{DSN: dsn + "&synchronous_commit=off"})
	refused(t, err, fault.StoreUnsafe)
}

func TestASkewedClockWritesNothing(t *testing.T) {
	dsn := emptySchema(t, needs.Postgres(t))
	var off atomic.Int64
	cfg := Config{DSN: dsn, Now: func() time.Time { return time.Now().Add(time.Duration(off.Load())) }}
	for _, skew := range []time.Duration{90 * time.Second, -90 * time.Second} {
		off.Store(int64(skew))
		_, err := Open(t.Context(), cfg)
		refused(t, err, fault.ClockSkew)
	}
	off.Store(int64(30 * time.Second))
	s := mustOpen(t, cfg)
	off.Store(int64(-90 * time.Second))
	refused(t, s.CheckClock(t.Context()), fault.ClockSkew)
	refused(t, s.AcceptClock(t.Context(), time.Now(), act()), fault.ClockSkew)
	off.Store(0)
	if err := errors.Join(s.CheckClock(t.Context()), s.AcceptClock(t.Context(), time.Now(), act())); err != nil {
		t.Error(err)
	}
}

// line is a connection to PostgreSQL that a test can cut.
type line struct {
	listener net.Listener
	server   string
	mute     atomic.Bool // answers are dropped and the line cut after the first
	deaf     atomic.Bool // requests are dropped and the line cut
	down     atomic.Bool // no connection is taken
	mu       sync.Mutex
	open     []net.Conn // guarded by mu
}

// newLine returns a line to the server and the address through it.
func newLine(t *testing.T, dsn string) (*line, string) {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	folder := q.Get("host")
	needs.Need(t, "PostgreSQL on a Unix socket", strings.HasPrefix(folder, "/"))
	l := &line{server: filepath.Join(folder, ".s.PGSQL.5432")}
	if l.listener, err = new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.listener.Close(); l.cut() })
	go l.serve()
	q.Del("host")
	u.Host, u.RawQuery = l.listener.Addr().String(), q.Encode()
	return l, u.String()
}

func (l *line) serve() {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("unix", l.server)
		if err != nil || l.down.Load() {
			near.Close()
			continue
		}
		l.mu.Lock()
		l.open = append(l.open, near, far)
		l.mu.Unlock()
		go l.pass(near, far, &l.deaf, false)
		go l.pass(far, near, &l.mute, true)
	}
}

// pass copies octets until told to drop them. Answers are dropped only once the
// server said that it is ready again, so that it has done what was asked.
func (l *line) pass(from, to net.Conn, drop *atomic.Bool, answers bool) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if drop.Load() {
			if answers && !ready(buf[:n]) {
				continue
			}
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// ready reports whether octets end with ReadyForQuery.
func ready(p []byte) bool {
	return len(p) >= 6 && p[len(p)-6] == 'Z' && binary.BigEndian.Uint32(p[len(p)-5:]) == 5
}

func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.open {
		_ = c.Close()
	}
	l.open = nil
}

func TestALostAnswerToACommitIsLookedUp(t *testing.T) {
	dsn := emptySchema(t, needs.Postgres(t))
	l, through := newLine(t, dsn)
	var before atomic.Pointer[func()] // runs before the next commit
	cfg := Config{DSN: through, Node: "one", CommitFault: func() error {
		if f := before.Swap(nil); f != nil {
			(*f)()
		}
		return nil
	}}
	s := mustOpen(t, cfg)
	is := newIssuer(t, s)
	is.addRows(t, 0, 3, false)
	next := func(f func()) { before.Store(&f) }
	writes := map[string]func(n int64) error{
		"issuance": func(n int64) error { _, err := s.StoreIssuance(t.Context(), is.next(n)); return err },
		"write":    func(int64) error { return s.AcceptClock(t.Context(), is.at, act()) },
	}
	for name, write := range writes {
		// Once before, so that the statements are prepared and the commit is in
		// the first request that the line drops.
		if err := write(2); err != nil {
			t.Fatal(err)
		}
		size, err := s.LedgerSize(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		next(func() { l.mute.Store(true); time.AfterFunc(300*time.Millisecond, func() { l.mute.Store(false) }) })
		if err := write(0); err != nil {
			t.Errorf("%s that was committed: %v", name, err)
		}
		next(func() { l.deaf.Store(true); time.AfterFunc(300*time.Millisecond, func() { l.deaf.Store(false) }) })
		if err := write(1); !fault.Has(err, fault.StoreUnavailable) {
			t.Errorf("%s that never arrived: %v", name, err)
		}
		if now, err := s.LedgerSize(t.Context()); err != nil || now != size+1 {
			t.Errorf("%s: %d leaves were added, %v", name, now-size, err)
		}
	}
	if _, err := s.StoreIssuance(t.Context(), is.next(1)); err != nil {
		t.Error(err)
	}
	checkSums(t, s, 3)
}

func TestACommitThatCannotBeLookedUpIsInDoubt(t *testing.T) {
	needs.Time(t)
	dsn := emptySchema(t, needs.Postgres(t))
	l, through := newLine(t, dsn)
	var failing atomic.Bool
	s := mustOpen(t, Config{DSN: through, Node: "one", CommitFault: func() error {
		if failing.Swap(false) {
			l.down.Store(true)
			l.cut()
		}
		return nil
	}})
	s.engine.(*pgEngine).patience = 500 * time.Millisecond
	is := newIssuer(t, s)
	is.addRows(t, 0, 1, false)
	failing.Store(true)
	i := is.next(0)
	_, err := s.StoreIssuance(t.Context(), i)
	refused(t, err, fault.StoreInDoubt)
	_, err = s.StoreIssuance(t.Context(), i)
	refused(t, err, fault.StoreUnavailable)
	_, err = s.Device(t.Context(), access.Everything(), i.Change.ID)
	refused(t, err, fault.StoreUnavailable)
	l.down.Store(false)
	if _, err = s.StoreIssuance(t.Context(), i); err != nil {
		t.Errorf("with the database back: %v", err)
	}
	checkSums(t, s, 1)
}

package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
)

// applicationID marks our files, so that another program's database is not taken
// for one ("bmrk").
const applicationID = 0x626d726b

// litePragmas are set on every connection. FULL holds for all but the writer's
// commits, which walSync syncs before they are acknowledged.
const litePragmas = `PRAGMA busy_timeout = 10000; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY;`

// The writer keeps the inner pages of all trees and the keys; a reader's pages
// are dropped at its first look after a commit, so that more would not help.
const (
	writerPragmas = litePragmas + "PRAGMA cache_size = -32768;"
	readerPragmas = litePragmas + "PRAGMA cache_size = -4096; PRAGMA query_only = ON;"
)

const openFlags = sqlite3.SQLITE_OPEN_READWRITE | sqlite3.SQLITE_OPEN_CREATE

// readers is how many connections read beside the writer.
const readers = 8

// liteEngine is SQLite: one writing connection, some that read. WAL lets both
// go on at the same time.
type liteEngine struct {
	s       *Store
	writer  *liteConn
	writing chan struct{} // holds one token while the writer is free
	pool    *litePool
	log     *checkpointer
	wal     *walSync
}

func (s *Store) openSQLite(ctx context.Context, path string) error {
	e := &liteEngine{s: s, writing: make(chan struct{}, 1), wal: newWALSync(path)}
	fresh := false
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		if s.cfg.ReadOnly {
			return fault.New(fault.DataFolderState, "there is no database", filepath.Base(path))
		}
		fresh = true
		if err := createFile(path); err != nil {
			return fault.Wrap(fault.StoreUnavailable, err)
		}
	}
	writer, err := openLite(path, openFlags, writerPragmas)
	if err != nil {
		return err
	}
	e.writer = writer
	e.pool = newLitePool(path, readers)
	e.pool.settle = e.wal.settle
	e.writing <- struct{}{}
	if err := e.check(ctx, fresh); err != nil {
		return errors.Join(err, e.close())
	}
	if e.log, err = newCheckpointer(path); err != nil {
		return errors.Join(err, e.close())
	}
	s.engine, s.read = e, e.pool
	return nil
}

// createFile makes an empty file that only its owner reads; the files beside it
// get the same mode from SQLite.
func createFile(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	// The name has to survive a power cut too. Where folders cannot be synced
	// the system sees to that.
	if folder, err := os.Open(filepath.Dir(path)); err == nil {
		_ = folder.Sync()
		_ = folder.Close()
	}
	return nil
}

// check makes a new file ours, or sees that an old one is and is sound.
func (e *liteEngine) check(ctx context.Context, fresh bool) error {
	if fresh {
		if _, err := e.writer.exec(ctx, fmt.Sprintf("PRAGMA application_id = %d", applicationID)); err != nil {
			return err
		}
	}
	var id int64
	if err := e.writer.row(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		return err
	}
	if id != applicationID {
		return fault.New(fault.SchemaCorrupt, "the file is not a Birthmark database")
	}
	var mode string
	if err := e.writer.row(ctx, "PRAGMA journal_mode = WAL").Scan(&mode); err != nil {
		return err
	}
	if mode != "wal" {
		return fault.New(fault.StoreUnsafe, "the file system offers no WAL mode")
	}
	return e.writer.script(ctx, "PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = NORMAL;")
}

func (e *liteEngine) lock(ctx context.Context) error {
	select {
	case <-e.writing:
		return nil
	default:
	}
	select {
	case <-e.writing:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (e *liteEngine) unlock() { e.writing <- struct{}{} }

func (e *liteEngine) begin(ctx context.Context) (writeTx, error) {
	t, err := e.beginLite(ctx)
	if err != nil {
		return nil, err
	}
	return t, nil
}

func (e *liteEngine) beginLite(ctx context.Context) (*liteTx, error) {
	if err := e.lock(ctx); err != nil {
		return nil, err
	}
	e.log.restart(e.writer)
	if _, err := e.writer.exec(ctx, "BEGIN IMMEDIATE"); err != nil {
		e.unlock()
		return nil, err
	}
	return &liteTx{liteConn: e.writer, e: e}, nil
}

// liteTx is the transaction on the writing connection.
type liteTx struct {
	*liteConn
	e *liteEngine
}

func (t *liteTx) commit(ctx context.Context) error {
	if err := t.commitUnsynced(ctx); err != nil {
		return err
	}
	return t.e.wal.wait(func() {})
}

// commitUnsynced commits and lets the next transaction begin. Nobody may be told
// of it before wal.wait has returned.
func (t *liteTx) commitUnsynced(ctx context.Context) error {
	if err := t.e.commit(ctx); err != nil {
		t.rollback()
		return err
	}
	t.e.unlock()
	return nil
}

func (e *liteEngine) commit(ctx context.Context) error {
	if e.s.cfg.CommitFault != nil {
		if err := e.s.cfg.CommitFault(); err != nil {
			return fault.Wrap(fault.StoreBroken, err)
		}
	}
	_, err := e.writer.exec(ctx, "COMMIT")
	if err == nil {
		e.wal.note()
		e.log.committed(e.writer)
	}
	return err
}

func (t *liteTx) rollback() {
	// An error means that SQLite has rolled back by itself.
	_, _ = t.exec(context.Background(), "ROLLBACK")
	t.e.unlock()
	t.e.wal.settle() // the refusal may rest on what another has just committed
}

func (e *liteEngine) snapshot(ctx context.Context, fn func(q querier) error) error {
	defer e.wal.settle()
	return e.look(ctx, fn)
}

// look is a snapshot that does not wait for a sync of the log.
func (e *liteEngine) look(ctx context.Context, fn func(q querier) error) error {
	c, err := e.pool.get(ctx)
	if err != nil {
		return err
	}
	defer e.pool.put(c)
	if _, err := c.exec(ctx, "BEGIN"); err != nil {
		return err
	}
	defer func() { _, _ = c.exec(context.Background(), "COMMIT") }()
	return fn(c)
}

// devices may show what is not durable yet: what is decided on it is stored
// behind it in the log.
func (e *liteEngine) devices(ctx context.Context, ids []int64) (map[device.ID]device.Device, error) {
	found := make(map[device.ID]device.Device, len(ids))
	look := e.look
	if len(ids) == 1 {
		look = e.glance
	}
	err := look(ctx, func(q querier) error {
		for _, id := range ids {
			d, err := readDevice(ctx, q, access.Everything(), device.ID(id))
			if fault.Has(err, fault.DeviceUnknown) {
				continue
			}
			if err != nil {
				return err
			}
			found[d.ID] = d
		}
		return nil
	})
	return found, err
}

// glance is a look for one statement, which needs no transaction.
func (e *liteEngine) glance(ctx context.Context, fn func(q querier) error) error {
	c, err := e.pool.get(ctx)
	if err != nil {
		return err
	}
	defer e.pool.put(c)
	return fn(c)
}

// migrate runs outside of a transaction: each migration begins its own.
func (e *liteEngine) migrate(ctx context.Context, fn func(q scripter) error) error {
	if err := e.lock(ctx); err != nil {
		return err
	}
	defer e.unlock()
	if _, err := e.writer.exec(ctx, "PRAGMA synchronous = FULL"); err != nil {
		return err
	}
	if err := fn(e.writer); err != nil {
		return err
	}
	_, err := e.writer.exec(ctx, "PRAGMA synchronous = NORMAL")
	return err
}

func (e *liteEngine) overlaps() bool { return false }

func (e *liteEngine) hint() {}

func (e *liteEngine) close() error {
	<-e.writing
	err := e.wal.close()
	if e.log != nil {
		err = errors.Join(err, e.log.close())
	}
	return errors.Join(err, e.pool.close(), e.writer.close())
}

// litePool holds the reading connections. The one that was used last is taken
// first: in WAL mode a connection drops its pages at its first look after a
// commit, so connections taken in turn would all be cold.
type litePool struct {
	path   string
	slots  chan struct{} // one for each connection in use
	closed chan struct{}
	settle func() // waits until what a reader has seen is durable

	mu   sync.Mutex
	free []*liteConn // guarded by mu; the last was used last
}

func newLitePool(path string, n int) *litePool {
	return &litePool{path: path, slots: make(chan struct{}, n), closed: make(chan struct{})}
}

func (p *litePool) get(ctx context.Context) (*liteConn, error) {
	select {
	case p.slots <- struct{}{}:
	default:
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-p.closed:
			return nil, fault.New(fault.ShuttingDown)
		}
	}
	select {
	case <-p.closed:
		<-p.slots
		return nil, fault.New(fault.ShuttingDown)
	default:
	}
	if c := p.pop(); c != nil {
		return c, nil
	}
	c, err := openLite(p.path, sqlite3.SQLITE_OPEN_READWRITE, readerPragmas)
	if err != nil {
		<-p.slots
		return nil, err
	}
	return c, nil
}

func (p *litePool) pop() *liteConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.free)
	if n == 0 {
		return nil
	}
	c := p.free[n-1]
	p.free = p.free[:n-1]
	return c
}

func (p *litePool) put(c *liteConn) {
	p.mu.Lock()
	p.free = append(p.free, c)
	p.mu.Unlock()
	<-p.slots
}

// close waits for the connections in use and closes all.
func (p *litePool) close() error {
	close(p.closed)
	for range cap(p.slots) {
		p.slots <- struct{}{}
	}
	var errs []error
	for c := p.pop(); c != nil; c = p.pop() {
		errs = append(errs, c.close())
	}
	return errors.Join(errs...)
}

func (p *litePool) query(ctx context.Context, sql string, args ...any) (rows, error) {
	r, err := p.start(ctx, sql, args)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (p *litePool) start(ctx context.Context, sql string, args []any) (*liteRows, error) {
	c, err := p.get(ctx)
	if err != nil {
		return nil, err
	}
	r, err := c.start(sql, args)
	if err != nil {
		p.put(c)
		return nil, err
	}
	r.done = func(c *liteConn) {
		p.put(c)
		p.settle()
	}
	return r, nil
}

func (p *litePool) row(ctx context.Context, sql string, args ...any) row {
	r, err := p.start(ctx, sql, args)
	return liteRow{r, err}
}

func (p *litePool) exec(context.Context, string, ...any) (int64, error) {
	return 0, errors.New("a write outside of a transaction")
}

// liteFault names SQLite's errors.
func liteFault(err error) error {
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*liteError](err)
	if !ok {
		return err
	}
	switch e.code & 0xff {
	case sqlite3.SQLITE_FULL:
		return fault.Wrap(fault.StoreFull, err)
	case sqlite3.SQLITE_IOERR:
		return fault.Wrap(fault.StoreBroken, err)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT:
		return fault.Wrap(fault.SchemaCorrupt, err)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PERM:
		return fault.Wrap(fault.StoreUnavailable, err)
	}
	return err
}

package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
)

// maxSkew is how far a node's clock may be from the database's.
const maxSkew = 60 * time.Second

// commitTime bounds a commit.
const commitTime = 15 * time.Second

// pgEngine is PostgreSQL through a pool of connections. Several nodes may use
// one database: what must not happen twice is decided by row locks.
type pgEngine struct {
	s        *Store
	pool     *pgxpool.Pool
	instance string // tells our own hints from others'
	hints    chan struct{}
	patience time.Duration // for the look-up after a commit whose answer was lost
	stop     context.CancelFunc
	stopped  chan struct{} // closed when listen and notify have ended
}

func (s *Store) openPostgres(ctx context.Context) error {
	cfg, err := pgxpool.ParseConfig(s.cfg.DSN)
	if err != nil {
		return fault.Wrap(fault.ConfigInvalid, err, "store: the database's address")
	}
	params := cfg.ConnConfig.RuntimeParams
	params["application_name"] = "birthmark " + s.cfg.Node
	params["timezone"] = "UTC"
	// A node that vanished in the middle of a transaction must not hold the
	// head's lock for long.
	params["idle_in_transaction_session_timeout"] = "15000"
	cfg.MaxConns = max(cfg.MaxConns, 16)
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return fault.Wrap(fault.StoreUnavailable, err)
	}
	var id [8]byte
	if _, err := io.ReadFull(s.cfg.Rand, id[:]); err != nil {
		return err
	}
	e := &pgEngine{s: s, pool: pool, instance: hex.EncodeToString(id[:]), hints: make(chan struct{}, 1), patience: commitTime}
	if err := e.check(ctx); err != nil {
		pool.Close()
		return err
	}
	s.engine, s.read = e, pgQuerier{pool}
	e.startHints()
	return nil
}

// check refuses a database that may lose what it acknowledged, and a clock that
// differs.
func (e *pgEngine) check(ctx context.Context) error {
	for _, name := range []string{"fsync", "full_page_writes", "synchronous_commit"} {
		var value string
		if err := e.pool.QueryRow(ctx, "SELECT current_setting($1)", name).Scan(&value); err != nil {
			return pgFault(err)
		}
		if value == "off" {
			return fault.New(fault.StoreUnsafe, name, "is off")
		}
	}
	if e.s.cfg.OwnClock {
		return nil
	}
	return e.checkClock(ctx)
}

// CheckClock compares the node's clock with the database's, where that has one
// of its own: fault.ClockSkew if they differ by more than 60 seconds.
func (s *Store) CheckClock(ctx context.Context) error {
	e, ok := s.engine.(*pgEngine)
	if !ok || s.cfg.OwnClock {
		return nil
	}
	return e.checkClock(ctx)
}

func (e *pgEngine) checkClock(ctx context.Context) error {
	before := e.s.cfg.Now()
	var there int64
	if err := e.pool.QueryRow(ctx, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").Scan(&there); err != nil {
		return pgFault(err)
	}
	after := e.s.cfg.Now()
	skewed := before.Sub(fromMicros(there)) > maxSkew || fromMicros(there).Sub(after) > maxSkew
	e.s.skewed.Store(skewed)
	if skewed {
		return fault.New(fault.ClockSkew)
	}
	return nil
}

// pgConn is what runs SQL: a pool or a connection.
type pgConn interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

type pgQuerier struct{ c pgConn }

func plainAll(args []any) []any {
	if len(args) == 0 {
		return nil
	}
	out := make([]any, len(args))
	for i, a := range args {
		out[i] = plain(a)
	}
	return out
}

func (q pgQuerier) query(ctx context.Context, sql string, args ...any) (rows, error) {
	rs, err := q.c.Query(ctx, sql, plainAll(args)...)
	if err != nil {
		return nil, pgFault(err)
	}
	return pgRows{rs}, nil
}

func (q pgQuerier) row(ctx context.Context, sql string, args ...any) row {
	return pgRow{q.c.QueryRow(ctx, sql, plainAll(args)...)}
}

func (q pgQuerier) exec(ctx context.Context, sql string, args ...any) (int64, error) {
	tag, err := q.c.Exec(ctx, sql, plainAll(args)...)
	return tag.RowsAffected(), pgFault(err)
}

type pgRow struct{ r pgx.Row }

// Scan copies the columns.
func (r pgRow) Scan(dest ...any) error { return pgFault(r.r.Scan(booleans(dest)...)) }

type pgRows struct{ pgx.Rows }

// Scan copies the columns.
func (r pgRows) Scan(dest ...any) error { return pgFault(r.Rows.Scan(booleans(dest)...)) }

// Err is the error that ended the rows.
func (r pgRows) Err() error { return pgFault(r.Rows.Err()) }

// booleans lets a number be scanned into a bool, as on SQLite.
func booleans(dest []any) []any {
	for i, d := range dest {
		if b, ok := d.(*bool); ok {
			dest[i] = (*boolScanner)(b)
		}
	}
	return dest
}

type boolScanner bool

// Scan takes a number.
func (b *boolScanner) Scan(src any) error {
	n, ok := src.(int64)
	if !ok {
		return fmt.Errorf("a truth value is stored as %T", src)
	}
	*b = n != 0
	return nil
}

func (e *pgEngine) begin(ctx context.Context) (writeTx, error) {
	c, err := e.pool.Acquire(ctx)
	if err != nil {
		return nil, pgFault(err)
	}
	if _, err := c.Exec(ctx, "BEGIN"); err != nil {
		c.Release()
		return nil, pgFault(err)
	}
	return &pgTx{pgQuerier: pgQuerier{c}, e: e, c: c}, nil
}

// pgTx is a transaction on a connection of the pool.
type pgTx struct {
	pgQuerier
	e *pgEngine
	c *pgxpool.Conn

	// What the transaction appended to the ledger, by which to find out whether
	// it was committed when the answer is lost.
	first  int64
	leaves []byte
}

// appended notes the ledger batch of this transaction.
func (t *pgTx) appended(first int64, leaves []byte) { t.first, t.leaves = first, leaves }

func (t *pgTx) commit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTime)
	defer cancel()
	if t.e.s.cfg.CommitFault != nil {
		if err := t.e.s.cfg.CommitFault(); err != nil {
			t.rollback()
			return fault.Wrap(fault.StoreUnavailable, err)
		}
	}
	tag, err := t.c.Exec(ctx, "COMMIT")
	t.c.Release()
	if err == nil && tag.String() == "ROLLBACK" {
		return fault.New(fault.Unexpected, "the transaction was rolled back")
	}
	if err == nil || answered(err) {
		return pgFault(err)
	}
	if len(t.leaves) == 0 {
		return fault.Wrap(fault.StoreInDoubt, err)
	}
	return t.e.resolve(ctx, err, "SELECT count(*) FROM ledger_batch WHERE id = $1 AND leaves = $2", t.first, t.leaves)
}

func (t *pgTx) rollback() {
	ctx, cancel := context.WithTimeout(context.Background(), commitTime)
	defer cancel()
	// If even this is not answered the connection is closed, and the server
	// rolls back.
	_, _ = t.c.Exec(ctx, "ROLLBACK")
	t.c.Release()
}

// answered reports whether the server itself said no: then nothing was
// committed. Anything else leaves it open.
func answered(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code[:2] != "57" && e.Code[:2] != "08"
}

// resolve finds out whether a transaction whose commit was not answered took
// place: sql counts a row that only it wrote. It waits for the lock on the
// ledger's head, which the transaction holds until it has ended one way or the
// other.
func (e *pgEngine) resolve(ctx context.Context, lost error, sql string, args ...any) error {
	e.s.cfg.Logger.Warn("the answer to a commit was lost; looking it up", "error", lost)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.patience)
	defer cancel()
	for {
		n, err := e.lookUp(ctx, sql, args)
		switch {
		case err == nil && n > 0:
			return nil
		case err == nil:
			return fault.Wrap(fault.StoreUnavailable, lost)
		}
		select {
		case <-ctx.Done():
			return fault.Wrap(fault.StoreInDoubt, errors.Join(lost, err))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (e *pgEngine) lookUp(ctx context.Context, sql string, args []any) (n int64, err error) {
	err = pgx.BeginFunc(ctx, e.pool, func(tx pgx.Tx) error {
		var size int64
		if err := tx.QueryRow(ctx, "SELECT size FROM ledger_head WHERE id = 1 FOR UPDATE").Scan(&size); err != nil {
			return err
		}
		return tx.QueryRow(ctx, sql, args...).Scan(&n)
	})
	return n, err
}

func (e *pgEngine) snapshot(ctx context.Context, fn func(q querier) error) error {
	tx, err := e.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return pgFault(err)
	}
	// What was read stays read, whatever becomes of the connection.
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	return fn(pgQuerier{tx})
}

// migrationLock is the advisory lock under which one node migrates.
var migrationLock = int64(0x62697274686d6172)

func (e *pgEngine) migrate(ctx context.Context, fn func(q scripter) error) error {
	c, err := e.pool.Acquire(ctx)
	if err != nil {
		return pgFault(err)
	}
	defer c.Release()
	if _, err := c.Exec(ctx, "SELECT pg_advisory_lock($1)", migrationLock); err != nil {
		return pgFault(err)
	}
	defer func() {
		_, _ = c.Exec(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", migrationLock)
	}()
	if schema := e.pool.Config().ConnConfig.RuntimeParams["search_path"]; schema != "" && !e.s.cfg.ReadOnly {
		if _, err := c.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+pgx.Identifier{schema}.Sanitize()); err != nil {
			return pgFault(err)
		}
	}
	return fn(pgScripter{pgQuerier{c}, c})
}

type pgScripter struct {
	pgQuerier
	conn *pgxpool.Conn
}

func (s pgScripter) script(ctx context.Context, text string) error {
	_, err := s.conn.Conn().PgConn().Exec(ctx, text).ReadAll()
	return pgFault(err)
}

// look needs no transaction: nothing is dropped between two statements.
func (e *pgEngine) look(_ context.Context, fn func(q querier) error) error { return fn(e.s.read) }

// overlaps: one group is decided while the other syncs.
func (e *pgEngine) devices(ctx context.Context, ids []int64) (map[device.ID]device.Device, error) {
	found := make(map[device.ID]device.Device, len(ids))
	err := each(e.s.read.query(ctx, "SELECT "+deviceColumns+" FROM device WHERE id = ANY($1)"+visibleDevice, ids))(func(r row) error {
		var d device.Device
		err := scanDevice(r, &d)
		found[d.ID] = d
		return err
	})
	return found, err
}

func (e *pgEngine) overlaps() bool { return true }

func (e *pgEngine) close() error {
	e.stop()
	<-e.stopped
	e.pool.Close()
	return nil
}

// hintGap keeps hints rare: NOTIFY takes a lock that all commits with one share.
const hintGap = 20 * time.Millisecond

// clockGap is how often a node looks at the database's clock.
const clockGap = 30 * time.Second

func (e *pgEngine) hint() {
	select {
	case e.hints <- struct{}{}:
	default:
	}
}

// channel is what nodes on the same tables listen to.
func (e *pgEngine) channel() string {
	sum := sha256.Sum256([]byte(e.pool.Config().ConnConfig.RuntimeParams["search_path"]))
	return "birthmark_" + hex.EncodeToString(sum[:6])
}

// startHints passes hints of commits on to other nodes and takes theirs.
func (e *pgEngine) startHints() {
	ctx, stop := context.WithCancel(context.Background())
	e.stop, e.stopped = stop, make(chan struct{})
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		e.listen(ctx)
	}()
	go func() {
		defer close(e.stopped)
		e.notify(ctx)
		<-listening
	}()
}

func (e *pgEngine) notify(ctx context.Context) {
	clock := time.NewTicker(clockGap)
	defer clock.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-clock.C:
			if err := e.s.CheckClock(ctx); err != nil && ctx.Err() == nil {
				e.s.cfg.Logger.Error("looking at the database's clock", "error", err)
			}
			continue
		case <-e.hints:
		}
		// A hint that is lost costs a follower its next poll.
		_, _ = e.pool.Exec(ctx, "SELECT pg_notify($1, $2)", e.channel(), e.instance)
		select {
		case <-ctx.Done():
			return
		case <-time.After(hintGap):
		}
	}
}

func (e *pgEngine) listen(ctx context.Context) {
	for ctx.Err() == nil {
		err := e.listenOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		e.s.cfg.Logger.Warn("hints of commits are interrupted", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func (e *pgEngine) listenOnce(ctx context.Context) error {
	c, err := pgx.ConnectConfig(ctx, e.pool.Config().ConnConfig)
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it goes either way
	if _, err := c.Exec(ctx, "LISTEN "+e.channel()); err != nil {
		return err
	}
	for {
		n, err := c.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		if n.Payload != e.instance {
			e.s.feed.wake()
		}
	}
}

// pgFault names PostgreSQL's errors.
func pgFault(err error) error {
	if err == nil || noRows(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		if _, ok := errors.AsType[pgx.ScanArgError](err); ok {
			return err
		}
		return fault.Wrap(fault.StoreUnavailable, err)
	}
	class := e.Code[:2]
	switch {
	case e.Code == "53100":
		return fault.Wrap(fault.StoreFull, err)
	case class == "40":
		return fmt.Errorf("%w: %w", errTryAgain, err)
	case slices.Contains([]string{"08", "53", "55", "57", "58"}, class) || e.Code == "25006" || e.Code == "25P03":
		return fault.Wrap(fault.StoreUnavailable, err)
	case class == "XX" && e.Code != "XX000":
		return fault.Wrap(fault.SchemaCorrupt, err)
	}
	return err
}

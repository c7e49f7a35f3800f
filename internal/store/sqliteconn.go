package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"reflect"

	"modernc.org/sqlite"
)

// liteConn is one connection to SQLite with its prepared statements. It talks
// to the driver directly: the layer of database/sql costs more than most of our
// statements. A connection belongs to one goroutine at a time.
type liteConn struct {
	c     driver.Conn
	stmts map[string]liteStmt
}

type liteStmt interface {
	driver.StmtExecContext
	driver.StmtQueryContext
	Close() error
}

// maxStatements bounds the prepared statements of a connection; texts with
// scopes in them vary.
const maxStatements = 256

func openLite(dsn string) (*liteConn, error) {
	c, err := (&sqlite.Driver{}).Open(dsn)
	if err != nil {
		return nil, liteFault(err)
	}
	return &liteConn{c: c, stmts: make(map[string]liteStmt)}, nil
}

func (c *liteConn) close() error {
	c.forget()
	return c.c.Close()
}

func (c *liteConn) forget() {
	for _, st := range c.stmts {
		_ = st.Close()
	}
	clear(c.stmts)
}

// take removes a statement from the cache while it runs, so that a nested use
// of the same text gets another; put brings it back.
func (c *liteConn) take(sql string) (liteStmt, error) {
	if st, ok := c.stmts[sql]; ok {
		delete(c.stmts, sql)
		return st, nil
	}
	st, err := c.c.Prepare(sql)
	if err != nil {
		return nil, liteFault(fmt.Errorf("prepare %.60q: %w", sql, err))
	}
	return st.(liteStmt), nil
}

func (c *liteConn) put(sql string, st liteStmt) {
	if len(c.stmts) >= maxStatements {
		c.forget()
	}
	if _, taken := c.stmts[sql]; taken {
		_ = st.Close()
		return
	}
	c.stmts[sql] = st
}

func named(args []any) []driver.NamedValue {
	vs := make([]driver.NamedValue, len(args))
	for i, a := range args {
		vs[i] = driver.NamedValue{Ordinal: i + 1, Value: plain(a)}
	}
	return vs
}

func (c *liteConn) exec(_ context.Context, sql string, args ...any) (int64, error) {
	st, err := c.take(sql)
	if err != nil {
		return 0, err
	}
	// Not the caller's context: a statement takes microseconds, and watching a
	// context costs a goroutine.
	res, err := st.ExecContext(context.Background(), named(args))
	if err != nil {
		_ = st.Close()
		return 0, liteFault(err)
	}
	c.put(sql, st)
	n, err := res.RowsAffected()
	return n, liteFault(err)
}

func (c *liteConn) script(_ context.Context, text string) error {
	st, err := c.c.Prepare(text)
	if err != nil {
		return liteFault(err)
	}
	defer st.Close()
	_, err = st.(liteStmt).ExecContext(context.Background(), nil)
	return liteFault(err)
}

func (c *liteConn) query(_ context.Context, sql string, args ...any) (rows, error) {
	r, err := c.start(sql, args)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (c *liteConn) start(sql string, args []any) (*liteRows, error) {
	st, err := c.take(sql)
	if err != nil {
		return nil, err
	}
	rs, err := st.QueryContext(context.Background(), named(args))
	if err != nil {
		_ = st.Close()
		return nil, liteFault(err)
	}
	return &liteRows{c: c, sql: sql, st: st, rs: rs, values: make([]driver.Value, len(rs.Columns()))}, nil
}

func (c *liteConn) row(_ context.Context, sql string, args ...any) row {
	r, err := c.start(sql, args)
	return liteRow{r, err}
}

// liteRow is the first row of a result.
type liteRow struct {
	r   *liteRows
	err error
}

// Scan reads the row and ends the statement.
func (r liteRow) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.r.Close()
	if !r.r.Next() {
		if err := r.r.Err(); err != nil {
			return err
		}
		return errNoRows
	}
	return r.r.Scan(dest...)
}

// liteRows is a result set; done, where set, gives the connection back.
type liteRows struct {
	c      *liteConn
	sql    string
	st     liteStmt
	rs     driver.Rows
	values []driver.Value
	err    error
	done   func()
}

// Next steps to the next row.
func (r *liteRows) Next() bool {
	if r.rs == nil || r.err != nil {
		return false
	}
	err := r.rs.Next(r.values)
	if err == nil {
		return true
	}
	if !errors.Is(err, io.EOF) {
		r.err = liteFault(err)
	}
	return false
}

// Err is the error that ended the rows, if any.
func (r *liteRows) Err() error { return r.err }

// Close ends the statement.
func (r *liteRows) Close() {
	if r.rs == nil {
		return
	}
	err := r.rs.Close()
	r.rs = nil
	if err != nil || r.err != nil {
		_ = r.st.Close()
	} else {
		r.c.put(r.sql, r.st)
	}
	if r.done != nil {
		r.done()
	}
}

// Scan copies the columns of the current row.
func (r *liteRows) Scan(dest ...any) error {
	if len(dest) != len(r.values) {
		return fmt.Errorf("scan %d columns into %d", len(r.values), len(dest))
	}
	for i, v := range r.values {
		if err := assign(dest[i], v); err != nil {
			return fmt.Errorf("column %d of %.60q: %w", i+1, r.sql, err)
		}
	}
	return nil
}

// assign stores a column's value, of the few types that SQLite has.
func assign(dest any, v driver.Value) error {
	switch d := dest.(type) {
	case *int64:
		if n, ok := v.(int64); ok {
			*d = n
			return nil
		}
	case *string:
		if s, ok := v.(string); ok {
			*d = s
			return nil
		}
	case *[]byte:
		switch b := v.(type) {
		case []byte:
			*d = b
			return nil
		case nil:
			*d = nil
			return nil
		}
	case interface{ Scan(src any) error }:
		return d.Scan(v)
	}
	return assignKind(dest, v)
}

func assignKind(dest any, v driver.Value) error {
	p := reflect.ValueOf(dest)
	if p.Kind() != reflect.Pointer {
		return fmt.Errorf("%T is not a pointer", dest)
	}
	e := p.Elem()
	switch v := v.(type) {
	case int64:
		switch {
		case e.CanInt() && !e.OverflowInt(v):
			e.SetInt(v)
			return nil
		case e.CanUint() && v >= 0 && !e.OverflowUint(uint64(v)):
			e.SetUint(uint64(v))
			return nil
		case e.Kind() == reflect.Bool:
			e.SetBool(v != 0)
			return nil
		}
	case string:
		if e.Kind() == reflect.String {
			e.SetString(v)
			return nil
		}
	}
	return fmt.Errorf("a %T does not fit into %T", v, dest)
}

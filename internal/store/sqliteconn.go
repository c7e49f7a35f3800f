package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unsafe"

	"modernc.org/libc"
	"modernc.org/libc/sys/types"
	_ "modernc.org/sqlite" // sets the library up
	sqlite3 "modernc.org/sqlite/lib"
)

// liteConn is one connection to SQLite with its prepared statements. It calls
// the library itself: database/sql and the driver under it cost more than most
// of our statements, which the figures of STORE rest on. A connection belongs
// to one goroutine at a time, so the library's own mutexes are off.
type liteConn struct {
	tls   *libc.TLS
	db    uintptr
	stmts map[string]*liteStmt
	// out is where the library leaves two pointers; room holds the texts and
	// blobs that are bound while a statement runs. Both are the library's
	// memory, not Go's.
	out     uintptr
	room    uintptr
	roomLen int
}

// liteStmt is a prepared statement.
type liteStmt struct {
	p uintptr
	// params are the arguments' places: to SQLite $2 is a name, and names are
	// numbered as they first occur in the text.
	params []int
	cols   int
}

// liteError is what the library reports.
type liteError struct {
	code int32 // extended
	text string
}

// Error returns the library's words.
func (e *liteError) Error() string { return fmt.Sprintf("SQLite: %s (%d)", e.text, e.code) }

const (
	// maxStatements bounds the prepared statements of a connection; texts with
	// scopes in them vary.
	maxStatements = 256
	firstRoom     = 64 << 10
	pointerSize   = unsafe.Sizeof(uintptr(0))
)

// transient makes the library copy what is bound; static lets it look at our
// memory until the statement is reset.
const (
	transient = ^uintptr(0)
	static    = uintptr(0)
)

// openLite opens a file and runs the pragmas.
func openLite(path string, flags int32, pragmas string) (*liteConn, error) {
	c := &liteConn{tls: libc.NewTLS(), stmts: make(map[string]*liteStmt)}
	c.out = libc.Xmalloc(c.tls, types.Size_t(2*pointerSize))
	name, err := libc.CString(path)
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	defer libc.Xfree(c.tls, name)
	rc := sqlite3.Xsqlite3_open_v2(c.tls, name, c.out, flags|sqlite3.SQLITE_OPEN_NOMUTEX, 0)
	c.db = *(*uintptr)(at0(c.out))
	if rc != sqlite3.SQLITE_OK {
		return nil, errors.Join(liteFault(c.failure(rc)), c.close())
	}
	sqlite3.Xsqlite3_extended_result_codes(c.tls, c.db, 1)
	if err := c.script(context.Background(), pragmas); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// at0 is the library's memory at p as Go sees it. It lies outside of Go's heap.
func at0(p uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&p)) }

func (c *liteConn) close() error {
	c.forget()
	var err error
	if c.db != 0 {
		if rc := sqlite3.Xsqlite3_close_v2(c.tls, c.db); rc != sqlite3.SQLITE_OK {
			err = c.failure(rc)
		}
	}
	if c.room != 0 {
		libc.Xfree(c.tls, c.room)
	}
	libc.Xfree(c.tls, c.out)
	c.tls.Close()
	return err
}

func (c *liteConn) failure(rc int32) error {
	text := libc.GoString(sqlite3.Xsqlite3_errstr(c.tls, rc))
	if c.db != 0 {
		text += ": " + libc.GoString(sqlite3.Xsqlite3_errmsg(c.tls, c.db))
	}
	return &liteError{rc, text}
}

func (c *liteConn) forget() {
	for _, st := range c.stmts {
		c.finalize(st)
	}
	clear(c.stmts)
}

func (c *liteConn) finalize(st *liteStmt) { sqlite3.Xsqlite3_finalize(c.tls, st.p) }

// take removes a statement from the cache while it runs, so that a nested use
// of the same text gets another; put brings it back.
func (c *liteConn) take(query string) (*liteStmt, error) {
	if st, ok := c.stmts[query]; ok {
		delete(c.stmts, query)
		return st, nil
	}
	st, _, err := c.prepare(query)
	if err == nil && st == nil {
		err = errors.New("no statement")
	}
	if err != nil {
		return nil, liteFault(fmt.Errorf("prepare %.60q: %w", query, err))
	}
	return st, nil
}

func (c *liteConn) put(query string, st *liteStmt) {
	sqlite3.Xsqlite3_reset(c.tls, st.p)
	if len(c.stmts) >= maxStatements {
		c.forget()
	}
	if _, taken := c.stmts[query]; taken {
		c.finalize(st)
		return
	}
	c.stmts[query] = st
}

// prepare compiles the first statement of a text and returns what follows it;
// the statement is nil where only blanks or comments were left.
func (c *liteConn) prepare(text string) (st *liteStmt, rest string, err error) {
	p, err := libc.CString(text)
	if err != nil {
		return nil, "", err
	}
	defer libc.Xfree(c.tls, p)
	if rc := sqlite3.Xsqlite3_prepare_v3(c.tls, c.db, p, int32(len(text)), sqlite3.SQLITE_PREPARE_PERSISTENT, c.out, c.out+pointerSize); rc != sqlite3.SQLITE_OK {
		return nil, "", c.failure(rc)
	}
	stmt, tail := *(*uintptr)(at0(c.out)), *(*uintptr)(at0(c.out + pointerSize))
	rest = text[tail-p:]
	if stmt == 0 {
		return nil, rest, nil
	}
	st = &liteStmt{p: stmt, cols: int(sqlite3.Xsqlite3_column_count(c.tls, stmt))}
	for i := range sqlite3.Xsqlite3_bind_parameter_count(c.tls, stmt) {
		name := libc.GoString(sqlite3.Xsqlite3_bind_parameter_name(c.tls, stmt, i+1))
		n, err := strconv.Atoi(strings.TrimPrefix(name, "$"))
		if err != nil {
			c.finalize(st)
			return nil, "", fmt.Errorf("parameter %q", name)
		}
		st.params = append(st.params, n-1)
	}
	return st, rest, nil
}

func (c *liteConn) script(_ context.Context, text string) error {
	for strings.TrimSpace(text) != "" {
		st, rest, err := c.prepare(text)
		if err != nil {
			return liteFault(err)
		}
		text = rest
		if st == nil {
			return nil
		}
		err = c.run(st)
		c.finalize(st)
		if err != nil {
			return err
		}
	}
	return nil
}

// run steps a statement to its end.
func (c *liteConn) run(st *liteStmt) error {
	for {
		switch rc := sqlite3.Xsqlite3_step(c.tls, st.p); rc {
		case sqlite3.SQLITE_ROW:
		case sqlite3.SQLITE_DONE:
			return nil
		default:
			return liteFault(c.failure(rc))
		}
	}
}

// exec ignores the caller's context: a statement takes microseconds, and
// watching a context costs a goroutine.
func (c *liteConn) exec(_ context.Context, query string, args ...any) (int64, error) {
	st, err := c.take(query)
	if err != nil {
		return 0, err
	}
	if err = c.bind(st, args, static); err == nil {
		err = c.run(st)
	}
	n := int64(sqlite3.Xsqlite3_changes(c.tls, c.db))
	c.put(query, st)
	if err != nil {
		return 0, err
	}
	return n, nil
}

// bind sets all parameters. Texts and blobs are copied into the connection's
// room, one after the other.
func (c *liteConn) bind(st *liteStmt, args []any, keep uintptr) error {
	for _, place := range st.params {
		if place >= len(args) {
			return fmt.Errorf("$%d has no argument", place+1)
		}
	}
	if err := c.makeRoom(args); err != nil {
		return err
	}
	used := 0
	for i, place := range st.params {
		n := int32(i + 1)
		var rc int32
		switch v := plain(args[place]).(type) {
		case nil:
			rc = sqlite3.Xsqlite3_bind_null(c.tls, st.p, n)
		case int64:
			rc = sqlite3.Xsqlite3_bind_int64(c.tls, st.p, n, v)
		case string:
			p := c.room + uintptr(used)
			used += copy(unsafe.Slice((*byte)(at0(p)), len(v)), v)
			rc = sqlite3.Xsqlite3_bind_text(c.tls, st.p, n, p, int32(len(v)), keep)
		case []byte:
			p := c.room + uintptr(used)
			used += copy(unsafe.Slice((*byte)(at0(p)), len(v)), v)
			rc = sqlite3.Xsqlite3_bind_blob(c.tls, st.p, n, p, int32(len(v)), keep)
		}
		if rc != sqlite3.SQLITE_OK {
			return liteFault(c.failure(rc))
		}
	}
	return nil
}

func (c *liteConn) makeRoom(args []any) error {
	n := 0
	for _, a := range args {
		switch v := a.(type) {
		case string:
			n += len(v)
		case []byte:
			n += len(v)
		case int64, int, nil:
		default:
			switch v := plain(v).(type) {
			case string:
				n += len(v)
			case []byte:
				n += len(v)
			}
		}
	}
	if c.room != 0 && n <= c.roomLen {
		return nil
	}
	if c.room != 0 {
		libc.Xfree(c.tls, c.room)
	}
	c.roomLen = max(firstRoom, n)
	c.room = libc.Xmalloc(c.tls, types.Size_t(c.roomLen))
	if c.room == 0 {
		c.roomLen = 0
		return fmt.Errorf("no memory for %d octets", n)
	}
	return nil
}

func (c *liteConn) query(_ context.Context, query string, args ...any) (rows, error) {
	r, err := c.start(query, args)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (c *liteConn) start(query string, args []any) (*liteRows, error) {
	st, err := c.take(query)
	if err != nil {
		return nil, err
	}
	// Other statements may run before these rows are closed and use the room.
	if err := c.bind(st, args, transient); err != nil {
		c.put(query, st)
		return nil, err
	}
	return &liteRows{c: c, query: query, st: st}, nil
}

func (c *liteConn) row(_ context.Context, query string, args ...any) row {
	r, err := c.start(query, args)
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
	c     *liteConn
	query string
	st    *liteStmt // nil once closed
	ended bool
	err   error
	done  func(*liteConn)
}

// Next steps to the next row.
func (r *liteRows) Next() bool {
	if r.ended || r.st == nil {
		return false
	}
	switch rc := sqlite3.Xsqlite3_step(r.c.tls, r.st.p); rc {
	case sqlite3.SQLITE_ROW:
		return true
	case sqlite3.SQLITE_DONE:
	default:
		r.err = liteFault(r.c.failure(rc))
	}
	r.ended = true
	return false
}

// Err is the error that ended the rows, if any.
func (r *liteRows) Err() error { return r.err }

// Close ends the statement.
func (r *liteRows) Close() {
	if r.st == nil {
		return
	}
	r.c.put(r.query, r.st)
	r.st = nil
	if r.done != nil {
		r.done(r.c)
	}
}

// Scan copies the columns of the current row.
func (r *liteRows) Scan(dest ...any) error {
	if len(dest) != r.st.cols {
		return fmt.Errorf("scan %d columns into %d", r.st.cols, len(dest))
	}
	for i, d := range dest {
		if err := r.column(int32(i), d); err != nil {
			return fmt.Errorf("column %d of %.60q: %w", i+1, r.query, err)
		}
	}
	return nil
}

func (r *liteRows) column(i int32, dest any) error {
	kind := sqlite3.Xsqlite3_column_type(r.c.tls, r.st.p, i)
	switch d := dest.(type) {
	case *int64:
		if kind == sqlite3.SQLITE_INTEGER {
			*d = sqlite3.Xsqlite3_column_int64(r.c.tls, r.st.p, i)
			return nil
		}
	case *string:
		if kind == sqlite3.SQLITE_TEXT {
			*d = string(r.octets(i))
			return nil
		}
	case *[]byte:
		if kind == sqlite3.SQLITE_BLOB || kind == sqlite3.SQLITE_NULL {
			*d = append([]byte(nil), r.octets(i)...)
			return nil
		}
	}
	var v any
	switch kind {
	case sqlite3.SQLITE_INTEGER:
		v = sqlite3.Xsqlite3_column_int64(r.c.tls, r.st.p, i)
	case sqlite3.SQLITE_TEXT:
		v = string(r.octets(i))
	case sqlite3.SQLITE_BLOB:
		v = append([]byte{}, r.octets(i)...)
	case sqlite3.SQLITE_FLOAT:
		return errors.New("a fraction, of which we store none")
	}
	if s, ok := dest.(sql.Scanner); ok {
		return s.Scan(v)
	}
	return assign(dest, v)
}

// octets is the library's view of a text or blob, until the next step.
func (r *liteRows) octets(i int32) []byte {
	p := sqlite3.Xsqlite3_column_blob(r.c.tls, r.st.p, i)
	if p == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(at0(p)), int(sqlite3.Xsqlite3_column_bytes(r.c.tls, r.st.p, i)))
}

// assign stores a value in a variable of its kind.
func assign(dest, v any) error {
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

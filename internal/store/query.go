package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/identity/access"
)

// querier runs SQL. The text is the same for both engines: parameters are $1,
// $2, ..., every number is BIGINT/INTEGER, text TEXT, bytes BYTEA/BLOB. Where
// PostgreSQL cannot tell a parameter's type from its place, say
// CAST($1 AS BIGINT). Errors are faults already, except errNoRows. Where a row
// may exist already, use ON CONFLICT DO NOTHING and look at the count or at
// RETURNING: a failed statement ends a PostgreSQL transaction.
type querier interface {
	// query returns rows, which must be closed; see each.
	query(ctx context.Context, sql string, args ...any) (rows, error)
	// row reads the first row; its Scan returns errNoRows if there is none.
	row(ctx context.Context, sql string, args ...any) row
	// exec returns the number of rows that changed.
	exec(ctx context.Context, sql string, args ...any) (int64, error)
}

// rows is a result set.
type rows interface {
	Next() bool
	Scan(dest ...any) error
	Err() error
	Close()
}

// row is one row. Scan takes *int64, *int, *string, *[]byte, *bool, pointers to
// types of these kinds, and the wrappers at, fixed and fromJSON.
type row interface {
	Scan(dest ...any) error
}

// scripter runs migration scripts beside ordinary statements.
type scripter interface {
	querier
	script(ctx context.Context, text string) error
}

// errNoRows is what row.Scan returns when there is none.
var errNoRows = sql.ErrNoRows

// noRows reports whether err says that there was no row.
func noRows(err error) bool { return errors.Is(err, sql.ErrNoRows) }

// each calls fn for each row of a query and closes it:
//
//	err := each(q.query(ctx, "SELECT ...", args))(func(r row) error { ... })
func each(rs rows, err error) func(fn func(r row) error) error {
	return func(fn func(r row) error) error {
		if err != nil {
			return err
		}
		defer rs.Close()
		for rs.Next() {
			if err := fn(rs); err != nil {
				return err
			}
		}
		return rs.Err()
	}
}

// micros is how a time is stored: unix microseconds, 0 for the zero time.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// fromMicros is the time of a stored number.
func fromMicros(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}

// at scans a stored time.
func at(t *time.Time) sql.Scanner { return (*timeScanner)(t) }

type timeScanner time.Time

// Scan takes unix microseconds.
func (t *timeScanner) Scan(src any) error {
	n, ok := src.(int64)
	if !ok {
		return fmt.Errorf("time is stored as %T", src)
	}
	*t = timeScanner(fromMicros(n))
	return nil
}

// fixed scans bytes into an array: fixed(d.Secret.Hash[:]). NULL leaves it as it is.
func fixed(dst []byte) sql.Scanner { return fixedScanner(dst) }

type fixedScanner []byte

// Scan copies bytes of the right length.
func (f fixedScanner) Scan(src any) error {
	b, ok := src.([]byte)
	if src == nil || ok && len(b) == 0 {
		return nil
	}
	if !ok || len(b) != len(f) {
		return fmt.Errorf("want %d stored octets, have %T of %d", len(f), src, len(b))
	}
	copy(f, b)
	return nil
}

// fromJSON scans JSON text into v, a pointer.
func fromJSON(v any) sql.Scanner { return jsonScanner{v} }

type jsonScanner struct{ v any }

// Scan decodes JSON text.
func (j jsonScanner) Scan(src any) error {
	switch src := src.(type) {
	case string:
		return json.Unmarshal([]byte(src), j.v)
	case []byte:
		return json.Unmarshal(src, j.v)
	}
	return fmt.Errorf("JSON is stored as %T", src)
}

// toJSON is how lists and maps are stored. The values are of our own types and
// always marshal.
func toJSON(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("store: %T does not marshal: %v", v, err))
	}
	return string(raw)
}

// plain turns an argument into int64, string, []byte or nil. A list of ids stays
// one; only PostgreSQL takes it.
func plain(v any) any {
	switch v := v.(type) {
	case nil, int64, string, []int64:
		return v
	case []byte:
		if v == nil {
			return nil
		}
		return v
	case int:
		return int64(v)
	case bool:
		if v {
			return int64(1)
		}
		return int64(0)
	case time.Time:
		return micros(v)
	}
	r := reflect.ValueOf(v)
	switch r.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return r.Int()
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return int64(r.Uint())
	case reflect.String:
		return r.String()
	case reflect.Slice:
		if r.Type().Elem().Kind() == reflect.Uint8 {
			return r.Bytes()
		}
	}
	panic(fmt.Sprintf("store: a parameter is a %T", v))
}

// scopeSQL returns the condition, starting with AND, that limits rows to a
// scope; prefix is the table's name with a dot or empty. The numbers are ours,
// so they stand in the text.
func scopeSQL(s access.Scope, prefix string) string {
	if s.SeesEverything() {
		return ""
	}
	if s.SeesNothing() {
		return " AND 1 = 0"
	}
	var b strings.Builder
	for _, limit := range []struct {
		column string
		ids    []int64
	}{{"product", s.Products()}, {"site", s.Sites()}, {"owner", s.Owners()}} {
		if len(limit.ids) == 0 {
			continue
		}
		fmt.Fprintf(&b, " AND %s%s IN (", prefix, limit.column)
		for i, id := range limit.ids {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(strconv.FormatInt(id, 10))
		}
		b.WriteByte(')')
	}
	return b.String()
}

package store

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/birthmark/birthmark/internal/identity/access"
)

// How far a list goes. A page that finds too little among the rows that it may
// examine ends early, with a cursor to go on from.
const (
	defaultPage = 100
	largestPage = 1000
	walkWindow  = 10_000 // one after the other
	indexWindow = 2_000  // each a step from the index to its row
	// mergedProducts is up to how many products of a scope a list walks through
	// the index of each; with more it walks all rows and leaves out.
	mergedProducts = 16
)

func pageSize(limit int) int {
	if limit <= 0 {
		return defaultPage
	}
	return min(limit, largestPage)
}

// walk is a keyset-paged list over a table with the columns id, product, site
// and owner. Its indexes are the table's primary key and (product, id).
type walk struct {
	table   string
	columns string
	scope   access.Scope
	product int64  // 0: all
	filter  string // conditions that start with AND; their parameters are $1, $2, ...
	args    []any
	// skips says that filter may leave out many rows in a row, so that the
	// number of rows examined has to be bounded.
	skips      bool
	descending bool
	dense      bool // ids follow each other, so that a bound is a difference
}

// lane is a walk through one product's rows, or through all.
type lane struct {
	scope   access.Scope
	indexed bool // by (product, id)
	skips   bool
}

func (w *walk) lanes() []lane {
	sites, owners := w.scope.Sites(), w.scope.Owners()
	products := w.scope.Products()
	narrow := len(sites)+len(owners) > 0
	switch {
	case w.scope.SeesNothing():
		return nil
	case w.product != 0 && !w.scope.SeesEverything() && len(products) > 0 && !slices.Contains(products, w.product):
		return nil
	case w.product != 0:
		products = []int64{w.product}
	case w.scope.SeesEverything():
		return []lane{{w.scope, false, w.skips}}
	case len(products) == 0 || len(products) > mergedProducts:
		return []lane{{w.scope, false, true}}
	}
	lanes := make([]lane, 0, len(products))
	for _, p := range slices.Compact(slices.Sorted(slices.Values(products))) {
		lanes = append(lanes, lane{access.Limited([]int64{p}, sites, owners), true, w.skips || narrow})
	}
	return lanes
}

// before reports whether a comes before b in the list.
func (w *walk) before(a, b int64) bool { return a < b != w.descending && a != b }

// found is a row of a walk.
type found[T any] struct {
	id  int64
	row T
}

// page returns the rows after the one named (0: from the start) and the id to
// go on after, 0 at the end. scan returns a row and its id.
func page[T any](ctx context.Context, q querier, w *walk, after int64, limit int, scan func(row) (T, int64, error)) ([]T, int64, error) {
	var all []found[T]
	next := int64(0)
	for _, l := range w.lanes() {
		some, end, err := walkLane(ctx, q, w, l, after, limit, scan)
		if err != nil {
			return nil, 0, err
		}
		all = append(all, some...)
		if end != 0 && (next == 0 || w.before(end, next)) {
			next = end
		}
	}
	slices.SortFunc(all, func(a, b found[T]) int {
		if w.before(a.id, b.id) {
			return -1
		}
		return 1
	})
	rows := make([]T, 0, min(len(all), limit))
	for _, f := range all {
		if next != 0 && w.before(next, f.id) {
			break
		}
		if len(rows) == limit {
			return rows, all[limit-1].id, nil
		}
		rows = append(rows, f.row)
	}
	return rows, next, nil
}

// walkLane returns at most limit rows of a lane and up to where it was walked,
// 0: to its end.
func walkLane[T any](ctx context.Context, q querier, w *walk, l lane, after int64, limit int, scan func(row) (T, int64, error)) ([]found[T], int64, error) {
	direction, order := ">", "ASC"
	if w.descending {
		direction, order = "<", "DESC"
		if after == 0 {
			after = math.MaxInt64
		}
	}
	bound, err := w.bound(ctx, q, l, after, direction, order)
	if err != nil {
		return nil, 0, err
	}
	n := len(w.args)
	text := fmt.Sprintf("SELECT %s FROM %s WHERE id %s $%d%s%s", w.columns, w.table, direction, n+1, scopeSQL(l.scope, ""), w.filter)
	args := append(slices.Clone(w.args), after, limit)
	if bound != 0 {
		text += fmt.Sprintf(" AND id %s= $%d", opposite(direction), n+3)
		args = append(args, bound)
	}
	text += fmt.Sprintf(" ORDER BY id %s LIMIT $%d", order, n+2)
	var some []found[T]
	err = each(q.query(ctx, text, args...))(func(r row) error {
		t, id, err := scan(r)
		some = append(some, found[T]{id, t})
		return err
	})
	if err == nil && len(some) == limit {
		bound = some[limit-1].id
	}
	return some, bound, err
}

func opposite(direction string) string {
	if direction == ">" {
		return "<"
	}
	return ">"
}

// bound returns the last id that a page may examine, 0 if there is no need.
func (w *walk) bound(ctx context.Context, q querier, l lane, after int64, direction, order string) (int64, error) {
	if !l.skips {
		return 0, nil
	}
	if w.dense && w.descending && !l.indexed {
		newest := int64(0)
		if err := q.row(ctx, "SELECT COALESCE(MAX(id), 0) FROM "+w.table).Scan(&newest); err != nil {
			return 0, err
		}
		return max(min(after, newest+1)-walkWindow, 0), nil
	}
	scope, window := "", walkWindow
	if l.indexed {
		window = indexWindow
		scope = scopeSQL(access.Limited(l.scope.Products(), nil, nil), "")
	}
	var last int64
	err := q.row(ctx, fmt.Sprintf("SELECT id FROM %s WHERE id %s $1%s ORDER BY id %s LIMIT 1 OFFSET %d", w.table, direction, scope, order, window-1), after).Scan(&last)
	if noRows(err) {
		return 0, nil
	}
	return last, err
}

package store

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// kpis gathers what a transaction adds to counters; the key is the tally
// without its number.
type kpis map[factory.Tally]int64

// add counts a tally in.
func (k kpis) add(t factory.Tally) {
	n := t.N
	t.N = 0
	k[t] += n
}

// sorted returns the counters that change, in the order in which rows are
// locked.
func (k kpis) sorted() []factory.Tally {
	list := slices.Collect(maps.Keys(k))
	list = slices.DeleteFunc(list, func(t factory.Tally) bool { return k[t] == 0 })
	slices.SortFunc(list, func(a, b factory.Tally) int {
		return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.Station, b.Station), cmp.Compare(a.Day, b.Day),
			cmp.Compare(a.Measure, b.Measure), cmp.Compare(a.Bucket, b.Bucket), cmp.Compare(a.Site, b.Site), cmp.Compare(a.Product, b.Product))
	})
	for i := range list {
		list[i].N = k[list[i]]
	}
	return list
}

const upsertKPI = `INSERT INTO kpi (order_id, station, day, measure, bucket, site, product, total) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (order_id, station, day, measure, bucket, site, product) DO UPDATE SET total = kpi.total + excluded.total`

// write adds to the rows of the counters.
func (k kpis) write(ctx context.Context, q querier) error {
	for _, t := range k.sorted() {
		if _, err := q.exec(ctx, upsertKPI, t.Order, t.Station, t.Day, int64(t.Measure), t.Bucket, t.Site, t.Product, t.N); err != nil {
			return err
		}
	}
	return nil
}

// Count adds to KPI counters that no other write carries.
func (s *Store) Count(ctx context.Context, tallies []factory.Tally, entries ...ledger.Entry) error {
	k := make(kpis, len(tallies))
	for _, t := range tallies {
		k.add(t)
	}
	return s.write(ctx, func(t *tx) error { return k.write(ctx, t) }, entries...)
}

// maxTallies bounds what one question may return.
const maxTallies = 200_000

// Tallies returns the counters that a query selects and the scope sees. A
// question whose answer is too long is refused: ask for fewer days. Indexes: the
// primary key and kpi_day.
func (s *Store) Tallies(ctx context.Context, scope access.Scope, q factory.TallyQuery) ([]factory.Tally, error) {
	to := q.ToDay
	if to == 0 {
		to = math.MaxInt64
	}
	var text strings.Builder
	text.WriteString(`SELECT order_id, station, day, measure, bucket, site, product, total FROM kpi WHERE day >= $1 AND day <= $2` + lineScope(scope, ""))
	args := []any{q.FromDay, to}
	for _, limit := range []struct {
		column string
		id     int64
	}{{"order_id", q.Order}, {"station", q.Station}, {"site", q.Site}, {"product", q.Product}} {
		if limit.id != 0 {
			args = append(args, limit.id)
			text.WriteString(fmt.Sprintf(" AND %s = $%d", limit.column, len(args)))
		}
	}
	var all []factory.Tally
	err := each(s.read.query(ctx, text.String(), args...))(func(r row) error {
		if len(all) == maxTallies {
			return fault.New(fault.ParameterInvalid, "more than", maxTallies, "counters: ask for fewer days")
		}
		var t factory.Tally
		err := r.Scan(&t.Order, &t.Station, &t.Day, &t.Measure, &t.Bucket, &t.Site, &t.Product, &t.N)
		all = append(all, t)
		return err
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

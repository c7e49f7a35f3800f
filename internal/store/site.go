package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// lineScope limits rows that have a product and a site and belong to no owner:
// orders, alarms, counters. A scope of owners sees none of them.
func lineScope(s access.Scope, prefix string) string {
	if !s.SeesEverything() && len(s.Owners()) > 0 {
		return " AND 1 = 0"
	}
	return scopeSQL(s, prefix)
}

// siteScope limits rows that have a site alone, in the column named: sites and
// stations. A scope of products or owners alone sees all of them, as it sees all
// products.
func siteScope(s access.Scope, column string) string {
	switch {
	case s.SeesEverything():
		return ""
	case s.SeesNothing():
		return " AND 1 = 0"
	case len(s.Sites()) == 0:
		return ""
	}
	return fmt.Sprintf(" AND %s IN (%s)", column, idList(s.Sites()))
}

// idList is a list of ids as SQL has it. The numbers are ours, so they stand in
// the text.
func idList(ids []int64) string {
	var b strings.Builder
	for i, id := range ids {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatInt(id, 10))
	}
	return b.String()
}

// exists reports whether a small table has a row.
func exists(ctx context.Context, q querier, table string, id int64) (bool, error) {
	var one int64
	err := q.row(ctx, "SELECT 1 FROM "+table+" WHERE id = $1", id).Scan(&one)
	if noRows(err) {
		return false, nil
	}
	return err == nil, err
}

// AddSite stores a new site, or fault.SiteExists.
func (s *Store) AddSite(ctx context.Context, x factory.Site, entries ...ledger.Entry) (id int64, err error) {
	err = s.write(ctx, func(t *tx) error {
		if err := t.bumpControl(ctx); err != nil {
			return err
		}
		taken, err := nameTaken(ctx, t, "site", x.Name, 0)
		if err != nil {
			return err
		}
		if taken {
			return fault.New(fault.SiteExists, x.Name)
		}
		if id, err = nextID(ctx, t, "site"); err != nil {
			return err
		}
		_, err = t.exec(ctx, "INSERT INTO site (id, name, created_at) VALUES ($1, $2, $3)", id, x.Name, x.CreatedAt)
		return err
	}, entries...)
	if err != nil {
		return 0, err
	}
	return id, nil
}

// Sites returns the sites in scope, by id.
func (s *Store) Sites(ctx context.Context, scope access.Scope) ([]factory.Site, error) {
	return readSites(ctx, s.read, scope)
}

func readSites(ctx context.Context, q querier, scope access.Scope) ([]factory.Site, error) {
	var all []factory.Site
	err := each(q.query(ctx, "SELECT id, name, created_at FROM site WHERE id > 0"+siteScope(scope, "id")+" ORDER BY id"))(func(r row) error {
		var x factory.Site
		err := r.Scan(&x.ID, &x.Name, at(&x.CreatedAt))
		all = append(all, x)
		return err
	})
	return all, err
}

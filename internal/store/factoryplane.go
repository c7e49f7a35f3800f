package store

import (
	"cmp"
	"context"
	"slices"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// Plane returns the factory's part of the control plane as of one moment. Index
// order_state.
func (s *Store) Plane(ctx context.Context) (factory.Plane, error) {
	var p factory.Plane
	err := s.engine.snapshot(ctx, func(q querier) error {
		p = factory.Plane{}
		err := q.row(ctx, "SELECT epoch FROM control WHERE id = 1").Scan(&p.Epoch)
		if err != nil {
			return err
		}
		if p.Sites, err = readSites(ctx, q, access.Everything()); err != nil {
			return err
		}
		if p.Stations, err = readStations(ctx, q, access.Everything()); err != nil {
			return err
		}
		err = each(q.query(ctx, "SELECT "+orderColumns+" FROM production_order WHERE state IN ($1, $2)",
			int64(factory.OrderPlanned), int64(factory.OrderOpen)))(func(r row) error {
			o, err := scanOrder(r)
			p.Orders = append(p.Orders, o)
			return err
		})
		slices.SortFunc(p.Orders, func(a, b factory.Order) int { return cmp.Compare(a.ID, b.ID) })
		return err
	})
	return p, err
}

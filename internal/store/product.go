package store

import (
	"context"
	"fmt"
	"slices"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// nextID returns the number after the last of a small table. The caller holds
// the row of control, so that no other transaction draws the same.
func nextID(ctx context.Context, t *tx, table string) (id int64, err error) {
	err = t.row(ctx, "SELECT COALESCE(MAX(id), 0) + 1 FROM "+table).Scan(&id)
	return id, err
}

// holdControl takes the row of control without raising the epoch.
func holdControl(ctx context.Context, t *tx) error {
	_, err := t.exec(ctx, "UPDATE control SET epoch = epoch WHERE id = 1")
	return err
}

// nameTaken reports whether another row of a small table has this name.
func nameTaken(ctx context.Context, t *tx, table, name string, id int64) (bool, error) {
	var one int64
	err := t.row(ctx, fmt.Sprintf("SELECT 1 FROM %s WHERE name = $1 AND id <> $2", table), name, id).Scan(&one)
	if noRows(err) {
		return false, nil
	}
	return err == nil, err
}

const productColumns = `id, name, description, part_numbers, profiles, least_evidence, created_at,
chip_types, key_model, idevid_profile, serial_pattern, external_ref`

func scanProduct(r row) (device.Product, error) {
	var p device.Product
	err := r.Scan(&p.ID, &p.Name, &p.Description, fromJSON(&p.PartNumbers), fromJSON(&p.Profiles), &p.LeastEvidence, at(&p.CreatedAt),
		fromJSON(&p.ChipTypes), &p.KeyModel, &p.IDevIDProfile, &p.SerialPattern, &p.ExternalRef)
	return p, err
}

// AddProduct stores a new product, or fault.ProductExists.
func (s *Store) AddProduct(ctx context.Context, p device.Product, entries ...ledger.Entry) (id int64, err error) {
	err = s.write(ctx, func(t *tx) error {
		if err := t.bumpControl(ctx); err != nil {
			return err
		}
		taken, err := nameTaken(ctx, t, "product", p.Name, 0)
		if err != nil {
			return err
		}
		if taken {
			return fault.New(fault.ProductExists, p.Name)
		}
		if id, err = nextID(ctx, t, "product"); err != nil {
			return err
		}
		_, err = t.exec(ctx, "INSERT INTO product ("+productColumns+") VALUES ("+placeholders(12)+")",
			id, p.Name, p.Description, listJSON(p.PartNumbers), listJSON(p.Profiles), p.LeastEvidence, p.CreatedAt,
			listJSON(p.ChipTypes), p.KeyModel, p.IDevIDProfile, p.SerialPattern, p.ExternalRef)
		return err
	}, entries...)
	if err != nil {
		return 0, err
	}
	return id, nil
}

// UpdateProduct writes all but the id and the time of creation.
func (s *Store) UpdateProduct(ctx context.Context, p device.Product, entries ...ledger.Entry) error {
	return s.write(ctx, func(t *tx) error {
		if err := t.bumpControl(ctx); err != nil {
			return err
		}
		taken, err := nameTaken(ctx, t, "product", p.Name, p.ID)
		if err != nil {
			return err
		}
		if taken {
			return fault.New(fault.ProductExists, p.Name)
		}
		n, err := t.exec(ctx, `UPDATE product SET name = $2, description = $3, part_numbers = $4, profiles = $5, least_evidence = $6,
chip_types = $7, key_model = $8, idevid_profile = $9, serial_pattern = $10, external_ref = $11 WHERE id = $1`,
			p.ID, p.Name, p.Description, listJSON(p.PartNumbers), listJSON(p.Profiles), p.LeastEvidence,
			listJSON(p.ChipTypes), p.KeyModel, p.IDevIDProfile, p.SerialPattern, p.ExternalRef)
		if err == nil && n == 0 {
			err = fault.New(fault.ProductUnknown)
		}
		return err
	}, entries...)
}

// Products returns the products in scope, by id. A scope of sites or owners
// alone sees all products.
func (s *Store) Products(ctx context.Context, scope access.Scope) ([]device.Product, error) {
	if scope.SeesNothing() {
		return nil, nil
	}
	all, err := readProducts(ctx, s.read)
	if limit := scope.Products(); len(limit) > 0 {
		all = slices.DeleteFunc(all, func(p device.Product) bool { return !slices.Contains(limit, p.ID) })
	}
	return all, err
}

func readProducts(ctx context.Context, q querier) ([]device.Product, error) {
	var all []device.Product
	err := each(q.query(ctx, "SELECT "+productColumns+" FROM product ORDER BY id"))(func(r row) error {
		p, err := scanProduct(r)
		all = append(all, p)
		return err
	})
	return all, err
}

// listJSON stores a list; none is an empty one.
func listJSON[T any](list []T) string {
	if len(list) == 0 {
		return "[]"
	}
	return toJSON(list)
}

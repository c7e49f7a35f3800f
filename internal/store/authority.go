package store

import (
	"context"
	"slices"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// Install records what this database is, once.
func (s *Store) Install(ctx context.Context, i authority.Installation, entries ...ledger.Entry) error {
	return s.write(ctx, func(t *tx) error {
		n, err := t.exec(ctx, "UPDATE control SET epoch = epoch + 1 WHERE id = 1")
		if err == nil && n == 0 { // Restore begins with emptying all tables
			err = fault.New(fault.DataFolderState, "a restore was not finished: repeat it, or begin with an empty one")
		}
		if err != nil {
			return err
		}
		n, err = t.exec(ctx, `INSERT INTO installation (id, installation_id, organization, status_url, quickstart, restore_epoch, created_at)
VALUES (1, $1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING`,
			i.ID[:], i.Organization, i.StatusURL, i.Quickstart, i.RestoreEpoch, i.CreatedAt)
		if err == nil && n == 0 {
			err = fault.New(fault.DataFolderState, "it is initialized already")
		}
		return err
	}, entries...)
}

// Installation returns what Install recorded, or fault.DataFolderState.
func (s *Store) Installation(ctx context.Context) (authority.Installation, error) {
	return readInstallation(ctx, s.read)
}

func readInstallation(ctx context.Context, q querier) (authority.Installation, error) {
	var i authority.Installation
	err := q.row(ctx, `SELECT installation_id, organization, status_url, quickstart, restore_epoch, created_at
FROM installation WHERE id = 1`).Scan(fixed(i.ID[:]), &i.Organization, &i.StatusURL, &i.Quickstart, &i.RestoreEpoch, at(&i.CreatedAt))
	if noRows(err) {
		return authority.Installation{}, fault.New(fault.DataFolderState, "it is not initialized")
	}
	return i, err
}

// Control returns the control plane as of one moment.
func (s *Store) Control(ctx context.Context) (authority.Control, error) {
	var c authority.Control
	err := s.engine.snapshot(ctx, func(q querier) error {
		c = authority.Control{}
		var err error
		if err = q.row(ctx, "SELECT epoch FROM control WHERE id = 1").Scan(&c.Epoch); err != nil {
			return err
		}
		if c.Authorities, err = readAuthorities(ctx, q); err != nil {
			return err
		}
		// Index: the unique one of (name, version).
		if c.Profiles, err = readProfiles(ctx, q, ` p WHERE version = (SELECT MAX(version) FROM profile_version v WHERE v.name = p.name)`); err != nil {
			return err
		}
		slices.SortFunc(c.Profiles, func(a, b authority.ProfileVersion) int { return strings.Compare(a.Name, b.Name) })
		if c.Products, err = readProducts(ctx, q); err != nil {
			return err
		}
		c.Labels, err = readLabels(ctx, q)
		return err
	})
	return c, err
}

func readAuthorities(ctx context.Context, q querier) ([]authority.Authority, error) {
	var all []authority.Authority
	err := each(q.query(ctx, `SELECT id, name, kind, state, key_uri, certificate, parent, credential, crl_shards, created_at, changed_at,
hardware_model, hardware_certificate, hardware_level FROM authority ORDER BY id`))(func(r row) error {
		var a authority.Authority
		err := r.Scan(&a.ID, &a.Name, &a.Kind, &a.State, &a.KeyURI, &a.Certificate, &a.Parent, &a.Credential, &a.CRLShards, at(&a.CreatedAt), at(&a.ChangedAt),
			&a.Hardware.Model, &a.Hardware.Certificate, &a.Hardware.Level)
		all = append(all, a)
		return err
	})
	return all, err
}

// AddAuthority stores a new authority, or fault.AuthorityExists.
func (s *Store) AddAuthority(ctx context.Context, a authority.Authority, entries ...ledger.Entry) (id int64, err error) {
	err = s.write(ctx, func(t *tx) error {
		if err := t.bumpControl(ctx); err != nil {
			return err
		}
		if err := freeAuthorityName(ctx, t, &a, 0); err != nil {
			return err
		}
		if id, err = nextID(ctx, t, "authority"); err != nil {
			return err
		}
		_, err = t.exec(ctx, `INSERT INTO authority (id, name, kind, state, key_uri, certificate, parent, credential, crl_shards, created_at, changed_at,
hardware_model, hardware_certificate, hardware_level) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`,
			id, a.Name, a.Kind, a.State, a.KeyURI, a.Certificate, a.Parent, a.Credential, a.CRLShards, a.CreatedAt, a.ChangedAt,
			a.Hardware.Model, a.Hardware.Certificate, a.Hardware.Level)
		return err
	}, entries...)
	if err != nil {
		return 0, err
	}
	return id, nil
}

func freeAuthorityName(ctx context.Context, t *tx, a *authority.Authority, id int64) error {
	taken, err := nameTaken(ctx, t, "authority", a.Name, id)
	if err == nil && taken {
		err = fault.New(fault.AuthorityExists, a.Name)
	}
	return err
}

// UpdateAuthority writes all but the id and the time of creation.
func (s *Store) UpdateAuthority(ctx context.Context, a authority.Authority, entries ...ledger.Entry) error {
	return s.write(ctx, func(t *tx) error {
		if err := t.bumpControl(ctx); err != nil {
			return err
		}
		if err := freeAuthorityName(ctx, t, &a, a.ID); err != nil {
			return err
		}
		n, err := t.exec(ctx, `UPDATE authority SET name = $2, kind = $3, state = $4, key_uri = $5, certificate = $6, parent = $7,
credential = $8, crl_shards = $9, changed_at = $10, hardware_model = $11, hardware_certificate = $12, hardware_level = $13 WHERE id = $1`,
			a.ID, a.Name, a.Kind, a.State, a.KeyURI, a.Certificate, a.Parent, a.Credential, a.CRLShards, a.ChangedAt,
			a.Hardware.Model, a.Hardware.Certificate, a.Hardware.Level)
		if err == nil && n == 0 {
			err = fault.New(fault.AuthorityUnknown)
		}
		return err
	}, entries...)
}

func readLabels(ctx context.Context, q querier) ([]authority.Label, error) {
	var all []authority.Label
	err := each(q.query(ctx, "SELECT name, profile, purpose, wrap FROM est_label"))(func(r row) error {
		var l authority.Label
		err := r.Scan(&l.Name, &l.Profile, &l.Purpose, &l.Wrap)
		all = append(all, l)
		return err
	})
	// Sorted here: databases order text as their locale says.
	slices.SortFunc(all, func(a, b authority.Label) int { return strings.Compare(a.Name, b.Name) })
	return all, err
}

// SetLabel adds or replaces a label.
func (s *Store) SetLabel(ctx context.Context, l authority.Label, entries ...ledger.Entry) error {
	return s.write(ctx, func(t *tx) error {
		if err := t.bumpControl(ctx); err != nil {
			return err
		}
		_, err := t.exec(ctx, `INSERT INTO est_label (name, profile, purpose, wrap) VALUES ($1, $2, $3, $4)
ON CONFLICT (name) DO UPDATE SET profile = excluded.profile, purpose = excluded.purpose, wrap = excluded.wrap`,
			l.Name, l.Profile, l.Purpose, l.Wrap)
		return err
	}, entries...)
}

package store

import (
	"context"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

const profileColumns = "id, name, version, body, digest, author, approval, imported_at"

func scanProfile(r row) (authority.ProfileVersion, error) {
	var p authority.ProfileVersion
	err := r.Scan(&p.ID, &p.Name, &p.Version, &p.Text, fixed(p.Digest[:]), &p.Author, &p.Approval, at(&p.ImportedAt))
	return p, err
}

func readProfiles(ctx context.Context, q querier, which string, args ...any) ([]authority.ProfileVersion, error) {
	var all []authority.ProfileVersion
	err := each(q.query(ctx, "SELECT "+profileColumns+" FROM profile_version"+which, args...))(func(r row) error {
		p, err := scanProfile(r)
		all = append(all, p)
		return err
	})
	return all, err
}

// AddProfileVersion stores the next version of a profile, or returns the newest
// when it has the same digest.
func (s *Store) AddProfileVersion(ctx context.Context, p authority.ProfileVersion, entries ...ledger.Entry) (authority.ProfileVersion, error) {
	var stored authority.ProfileVersion
	err := s.writeIfNeeded(ctx, func(t *tx) error {
		if err := t.bumpControl(ctx); err != nil {
			return err
		}
		newest, err := scanProfile(t.row(ctx, "SELECT "+profileColumns+" FROM profile_version WHERE name = $1 ORDER BY version DESC LIMIT 1", p.Name))
		if err != nil && !noRows(err) {
			return err
		}
		if err == nil && newest.Digest == p.Digest {
			stored = newest
			return errNothing
		}
		stored = p
		stored.Version = newest.Version + 1
		if stored.ID, err = nextID(ctx, t, "profile_version"); err != nil {
			return err
		}
		_, err = t.exec(ctx, "INSERT INTO profile_version ("+profileColumns+") VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
			stored.ID, p.Name, stored.Version, blob(p.Text), p.Digest[:], p.Author, p.Approval, p.ImportedAt)
		return err
	}, entries...)
	if err != nil {
		return authority.ProfileVersion{}, err
	}
	return stored, nil
}

// ProfileVersion returns a version by its id, or fault.ProfileUnknown.
func (s *Store) ProfileVersion(ctx context.Context, id int64) (authority.ProfileVersion, error) {
	p, err := scanProfile(s.read.row(ctx, "SELECT "+profileColumns+" FROM profile_version WHERE id = $1", id))
	if noRows(err) {
		return authority.ProfileVersion{}, fault.New(fault.ProfileUnknown)
	}
	return p, err
}

// ProfileVersions returns the versions of a profile, newest first, or
// fault.ProfileUnknown.
func (s *Store) ProfileVersions(ctx context.Context, name string) ([]authority.ProfileVersion, error) {
	// Index: the unique one of (name, version).
	all, err := readProfiles(ctx, s.read, " WHERE name = $1 ORDER BY version DESC", name)
	if err == nil && len(all) == 0 {
		err = fault.New(fault.ProfileUnknown, name)
	}
	return all, err
}

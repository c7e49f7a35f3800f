package store

import (
	"context"
	"fmt"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

const signerColumns = "id, name, format, fingerprint, certificate, pinned_by, pinned_at, withdrawn_at"

func scanSigner(r row) (factory.Signer, error) {
	var x factory.Signer
	err := r.Scan(&x.ID, &x.Name, &x.Format, fixed(x.Fingerprint[:]), &x.Certificate, &x.PinnedBy, at(&x.PinnedAt), at(&x.WithdrawnAt))
	return x, err
}

// PinSigner stores a signer: fault.SignerExists when its name was ever used or
// its certificate is pinned and not withdrawn.
func (s *Store) PinSigner(ctx context.Context, x factory.Signer, entries ...ledger.Entry) (id int64, err error) {
	err = s.write(ctx, func(t *tx) error {
		if err := holdControl(ctx, t); err != nil {
			return err
		}
		var other int64
		err := t.row(ctx, "SELECT id FROM manifest_signer WHERE name = $1 OR fingerprint = $2 AND format = $3 AND withdrawn_at = 0 LIMIT 1",
			x.Name, x.Fingerprint[:], x.Format).Scan(&other)
		if !noRows(err) {
			return orFault(err, fault.SignerExists, x.Name)
		}
		if id, err = nextID(ctx, t, "manifest_signer"); err != nil {
			return err
		}
		_, err = t.exec(ctx, "INSERT INTO manifest_signer ("+signerColumns+") VALUES ("+placeholders(8)+")",
			id, x.Name, x.Format, x.Fingerprint[:], blob(x.Certificate), x.PinnedBy, x.PinnedAt, x.WithdrawnAt)
		return err
	}, entries...)
	if err != nil {
		return 0, err
	}
	return id, nil
}

// WithdrawSigner ends the trust in a signer; ending it twice does nothing.
func (s *Store) WithdrawSigner(ctx context.Context, id int64, at time.Time, entries ...ledger.Entry) error {
	return s.writeIfNeeded(ctx, func(t *tx) error {
		n, err := t.exec(ctx, "UPDATE manifest_signer SET withdrawn_at = $2 WHERE id = $1 AND withdrawn_at = 0", id, at)
		if err != nil || n == 1 {
			return err
		}
		there, err := exists(ctx, t, "manifest_signer", id)
		if err != nil || !there {
			return orFault(err, fault.SignerUnknown)
		}
		return errNothing
	}, entries...)
}

// Signers returns all signers, by id.
func (s *Store) Signers(ctx context.Context) ([]factory.Signer, error) {
	var all []factory.Signer
	err := each(s.read.query(ctx, "SELECT "+signerColumns+" FROM manifest_signer ORDER BY id"))(func(r row) error {
		x, err := scanSigner(r)
		all = append(all, x)
		return err
	})
	return all, err
}

// What becomes of a manifest, in its column visible.
const (
	manifestStaged = iota
	manifestVisible
	manifestVoid // what was staged is removed; the row stays for a next import of the same file
)

const manifestColumns = "id, name, format, digest, signer, product, importer, imported_at, chips, not_provable, findings, staged, visible"

// manifestRow is a manifest with what only the store knows.
type manifestRow struct {
	factory.Manifest
	staged int64 // number of the last entry that is staged
	state  int64
}

func scanManifest(r row) (*manifestRow, error) {
	m := new(manifestRow)
	err := r.Scan(&m.ID, &m.Name, &m.Format, fixed(m.Digest[:]), &m.Signer, &m.Product, &m.Importer, at(&m.ImportedAt), &m.Chips, &m.NotProvable,
		fromJSON(&m.Findings), &m.staged, &m.state)
	m.Visible = m.state == manifestVisible
	return m, err
}

func readManifest(ctx context.Context, q querier, id int64) (*manifestRow, error) {
	m, err := scanManifest(q.row(ctx, "SELECT "+manifestColumns+" FROM manifest WHERE id = $1", id))
	if noRows(err) {
		err = fault.New(fault.ManifestUnknown)
	}
	return m, err
}

// BeginManifest records a manifest that is being staged; if the same file was
// imported or is staged, it returns what is there: Visible says which, and Chips
// how many are staged.
func (s *Store) BeginManifest(ctx context.Context, m factory.Manifest, entries ...ledger.Entry) (factory.Manifest, error) {
	if err := s.finishCleaning(ctx); err != nil {
		return factory.Manifest{}, err
	}
	var begun factory.Manifest
	err := s.writeIfNeeded(ctx, func(t *tx) error {
		if err := holdControl(ctx, t); err != nil {
			return err
		}
		// Index: the unique one of digest.
		old, err := scanManifest(t.row(ctx, "SELECT "+manifestColumns+" FROM manifest WHERE digest = $1", m.Digest[:]))
		if err == nil && old.state != manifestVoid {
			begun = old.Manifest
			return errNothing
		}
		begun = m
		begun.Visible, begun.Chips, begun.NotProvable = false, 0, 0
		switch {
		case err == nil && old.staged != 0: // it was begun and discarded again just now
			return fault.New(fault.ManifestBusy)
		case err == nil:
			begun.ID = old.ID
			_, err = t.exec(ctx, "DELETE FROM manifest WHERE id = $1", old.ID)
		case noRows(err):
			begun.ID, err = nextID(ctx, t, "manifest")
		}
		if err != nil {
			return err
		}
		_, err = t.exec(ctx, "INSERT INTO manifest ("+manifestColumns+") VALUES ("+placeholders(13)+")",
			begun.ID, m.Name, m.Format, m.Digest[:], m.Signer, m.Product, m.Importer, m.ImportedAt, int64(0), int64(0), listJSON(m.Findings), int64(0), manifestStaged)
		return err
	}, entries...)
	if err != nil {
		return factory.Manifest{}, err
	}
	return begun, nil
}

// Manifest returns a manifest, also while it is staged, or fault.ManifestUnknown.
func (s *Store) Manifest(ctx context.Context, id int64) (factory.Manifest, error) {
	m, err := readManifest(ctx, s.read, id)
	if err == nil && m.state == manifestVoid {
		err = fault.New(fault.ManifestUnknown)
	}
	if err != nil {
		return factory.Manifest{}, err
	}
	return m.Manifest, nil
}

// Manifests returns a page of manifests, newest first. Index: the primary key.
func (s *Store) Manifests(ctx context.Context, q factory.Page) ([]factory.Manifest, string, error) {
	after, err := parseCursor(q.After)
	if err != nil {
		return nil, "", err
	}
	w := walk{table: "manifest", columns: manifestColumns, scope: access.Everything(), descending: true, dense: true}
	w.where("visible <> ?", manifestVoid)
	list, next, err := page(ctx, s.read, &w, after, pageSize(q.Limit), func(r row) (factory.Manifest, int64, error) {
		m, err := scanManifest(r)
		return m.Manifest, m.ID, err
	})
	return list, cursor(next), err
}

// PublishManifest makes a staged manifest's chips visible in one flip. Before, it
// sorts them into the tables, in short transactions, and refuses with
// fault.ManifestDuplicate if a chip or key was taken since it was staged; after an
// interruption the same call goes on. One that is visible is left alone.
func (s *Store) PublishManifest(ctx context.Context, m factory.Manifest, entries ...ledger.Entry) error {
	staged, err := readManifest(ctx, s.read, m.ID)
	switch {
	case err != nil:
		return err
	case staged.state == manifestVoid:
		return fault.New(fault.ManifestUnknown)
	case staged.state == manifestVisible:
		return s.dropStaged(ctx, m.ID)
	case m.Chips != staged.Chips:
		return fmt.Errorf("manifest %d: %d chips are staged, %d are to be published", m.ID, staged.Chips, m.Chips)
	}
	if err := s.sortIn(ctx, staged); err != nil {
		return err
	}
	if err := s.showManifest(ctx, &m, staged.staged, entries); err != nil {
		return err
	}
	s.staging.forget(m.ID)
	return s.dropStaged(ctx, m.ID)
}

// showManifest is the flip, if nothing was staged since the chips were sorted in.
func (s *Store) showManifest(ctx context.Context, m *factory.Manifest, staged int64, entries []ledger.Entry) error {
	return s.writeIfNeeded(ctx, func(t *tx) error {
		n, err := t.exec(ctx, `UPDATE manifest SET visible = $3, signer = $4, product = $5, importer = $6, imported_at = $7, not_provable = $8, findings = $9
WHERE id = $1 AND staged = $2 AND visible = $10`,
			m.ID, staged, manifestVisible, m.Signer, m.Product, m.Importer, m.ImportedAt, m.NotProvable, listJSON(m.Findings), manifestStaged)
		if err != nil || n == 1 {
			return err
		}
		now, err := readManifest(ctx, t, m.ID)
		switch {
		case err != nil:
			return err
		case now.state == manifestVisible:
			return errNothing
		case now.state == manifestVoid:
			return fault.New(fault.ManifestUnknown)
		}
		return fault.New(fault.ManifestBusy)
	}, entries...)
}

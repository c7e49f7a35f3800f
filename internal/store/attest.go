package store

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// The attest part of the control plane: bundles of TPM makers' roots and firmware
// policies, each a few versions.

const (
	rootsColumns  = "id, name, version, content, digest, signer, repinned, imported_by, imported_at"
	policyColumns = "id, product, version, content, digest, author, set_at"
)

func scanRoots(r row) (attest.Roots, error) {
	var x attest.Roots
	err := r.Scan(&x.ID, &x.Name, &x.Version, &x.Content, fixed(x.Digest[:]), &x.Signer, &x.Repinned, &x.ImportedBy, at(&x.ImportedAt))
	return x, err
}

func scanPolicy(r row) (attest.Policy, error) {
	var p attest.Policy
	err := r.Scan(&p.ID, &p.Product, &p.Version, &p.Content, fixed(p.Digest[:]), &p.Author, at(&p.SetAt))
	return p, err
}

func readRoots(ctx context.Context, q querier, which string, args ...any) ([]attest.Roots, error) {
	var all []attest.Roots
	err := each(q.query(ctx, "SELECT "+rootsColumns+" FROM tpm_roots"+which, args...))(func(r row) error {
		x, err := scanRoots(r)
		all = append(all, x)
		return err
	})
	return all, err
}

func readPolicies(ctx context.Context, q querier, which string, args ...any) ([]attest.Policy, error) {
	var all []attest.Policy
	err := each(q.query(ctx, "SELECT "+policyColumns+" FROM tpm_policy"+which, args...))(func(r row) error {
		p, err := scanPolicy(r)
		all = append(all, p)
		return err
	})
	return all, err
}

// AttestPlane returns the newest version of each bundle and of each product's
// policy as of one moment. Indexes tpm_roots_version and tpm_policy_version.
func (s *Store) AttestPlane(ctx context.Context) (attest.Plane, error) {
	var p attest.Plane
	err := s.engine.snapshot(ctx, func(q querier) error {
		p = attest.Plane{}
		err := q.row(ctx, "SELECT epoch FROM control WHERE id = 1").Scan(&p.Epoch)
		if err != nil {
			return err
		}
		p.Roots, err = readRoots(ctx, q, ` WHERE version = (SELECT MAX(version) FROM tpm_roots o WHERE o.name = tpm_roots.name)`)
		if err != nil {
			return err
		}
		p.Policies, err = readPolicies(ctx, q, ` WHERE version = (SELECT MAX(version) FROM tpm_policy o WHERE o.product = tpm_policy.product)`)
		return err
	})
	slices.SortFunc(p.Roots, func(a, b attest.Roots) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(p.Policies, func(a, b attest.Policy) int { return cmp.Compare(a.Product, b.Product) })
	return p, err
}

// AddRoots stores a version of a bundle and returns its id, also of one that is
// there already; fault.RootsOlder and fault.RootsSigner.
func (s *Store) AddRoots(ctx context.Context, x attest.Roots, entries ...ledger.Entry) (id int64, err error) {
	err = s.writeIfNeeded(ctx, func(t *tx) error {
		if err := t.bumpControl(ctx); err != nil {
			return err
		}
		newest, err := readRoots(ctx, t, " WHERE name = $1 ORDER BY version DESC LIMIT 1", x.Name)
		if err != nil {
			return err
		}
		for _, there := range newest {
			switch {
			case there.Version == x.Version && there.Digest == x.Digest:
				id = there.ID
				return errNothing
			case there.Version >= x.Version:
				return fault.New(fault.RootsOlder, x.Name, there.Version)
			case string(there.Signer) != string(x.Signer) && !x.Repinned:
				return fault.New(fault.RootsSigner, "version", there.Version, "is pinned to the signer", attest.Fingerprint(there.Signer))
			}
		}
		if id, err = nextID(ctx, t, "tpm_roots"); err != nil {
			return err
		}
		_, err = t.exec(ctx, "INSERT INTO tpm_roots ("+rootsColumns+") VALUES ("+placeholders(9)+")",
			id, x.Name, x.Version, blob(x.Content), x.Digest[:], blob(x.Signer), x.Repinned, x.ImportedBy, x.ImportedAt)
		return err
	}, entries...)
	if err != nil {
		return 0, err
	}
	return id, nil
}

// RootsHistory returns the versions of a bundle, or of all, newest first.
func (s *Store) RootsHistory(ctx context.Context, name string) ([]attest.Roots, error) {
	if name == "" {
		return readRoots(ctx, s.read, " ORDER BY id DESC")
	}
	return readRoots(ctx, s.read, " WHERE name = $1 ORDER BY version DESC", name)
}

// SetPolicy stores the next version of a product's policy, or device.ErrStale.
func (s *Store) SetPolicy(ctx context.Context, p attest.Policy, entries ...ledger.Entry) (attest.Policy, error) {
	err := s.write(ctx, func(t *tx) error {
		if err := t.bumpControl(ctx); err != nil {
			return err
		}
		var newest int64
		err := t.row(ctx, "SELECT COALESCE(MAX(version), 0) FROM tpm_policy WHERE product = $1", p.Product).Scan(&newest)
		if err == nil && p.Version != newest+1 {
			err = device.ErrStale
		}
		if err != nil {
			return err
		}
		if p.ID, err = nextID(ctx, t, "tpm_policy"); err != nil {
			return err
		}
		_, err = t.exec(ctx, "INSERT INTO tpm_policy ("+policyColumns+") VALUES ("+placeholders(7)+")",
			p.ID, p.Product, p.Version, blob(p.Content), p.Digest[:], p.Author, p.SetAt)
		return err
	}, entries...)
	if err != nil {
		return attest.Policy{}, err
	}
	return p, nil
}

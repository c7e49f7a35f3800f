package store

import (
	"context"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// SaveOperator adds or replaces an operator by name; the time of creation stays.
func (s *Store) SaveOperator(ctx context.Context, o access.Operator, entries ...ledger.Entry) error {
	return s.write(ctx, func(t *tx) error {
		_, err := t.exec(ctx, `INSERT INTO operator (name, roles, disabled, products, sites, owners, sees_all, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (name) DO UPDATE SET roles = excluded.roles, disabled = excluded.disabled, products = excluded.products,
sites = excluded.sites, owners = excluded.owners, sees_all = excluded.sees_all`,
			o.Name, listJSON(o.Roles), o.Disabled, listJSON(o.Products), listJSON(o.Sites), listJSON(o.Owners), o.All, o.CreatedAt)
		return err
	}, entries...)
}

// Operators returns all operators by name.
func (s *Store) Operators(ctx context.Context) ([]access.Operator, error) {
	var all []access.Operator
	err := each(s.read.query(ctx, `SELECT name, roles, disabled, products, sites, owners, sees_all, created_at
FROM operator`))(func(r row) error {
		var o access.Operator
		err := r.Scan(&o.Name, fromJSON(&o.Roles), &o.Disabled, fromJSON(&o.Products), fromJSON(&o.Sites), fromJSON(&o.Owners), &o.All, at(&o.CreatedAt))
		all = append(all, o)
		return err
	})
	slices.SortFunc(all, func(a, b access.Operator) int { return strings.Compare(a.Name, b.Name) })
	return all, err
}

const tokenColumns = "id, name, hash, actions, products, sites, owners, sees_all, operator, created_at, expires_at, revoked_at"

func scanToken(r row) (access.Token, error) {
	var t access.Token
	err := r.Scan(&t.ID, &t.Name, fixed(t.Hash[:]), fromJSON(&t.Actions), fromJSON(&t.Products), fromJSON(&t.Sites), fromJSON(&t.Owners),
		&t.All, &t.Operator, at(&t.CreatedAt), at(&t.ExpiresAt), at(&t.RevokedAt))
	return t, err
}

// AddToken stores a new token.
func (s *Store) AddToken(ctx context.Context, k access.Token, entries ...ledger.Entry) (id int64, err error) {
	err = s.write(ctx, func(t *tx) error {
		if err := holdControl(ctx, t); err != nil {
			return err
		}
		if id, err = nextID(ctx, t, "token"); err != nil {
			return err
		}
		_, err = t.exec(ctx, "INSERT INTO token ("+tokenColumns+") VALUES ("+placeholders(12)+")",
			id, k.Name, k.Hash[:], listJSON(k.Actions), listJSON(k.Products), listJSON(k.Sites), listJSON(k.Owners),
			k.All, k.Operator, k.CreatedAt, k.ExpiresAt, k.RevokedAt)
		return err
	}, entries...)
	if err != nil {
		return 0, err
	}
	return id, nil
}

// TokenByHash returns the token with this SHA-256, also when it is revoked or
// expired, or fault.TokenUnknown.
func (s *Store) TokenByHash(ctx context.Context, hash [32]byte) (access.Token, error) {
	// Index: the unique one of hash.
	k, err := scanToken(s.read.row(ctx, "SELECT "+tokenColumns+" FROM token WHERE hash = $1", hash[:]))
	if noRows(err) {
		return access.Token{}, fault.New(fault.TokenUnknown)
	}
	return k, err
}

// Tokens returns all tokens, oldest first.
func (s *Store) Tokens(ctx context.Context) ([]access.Token, error) {
	var all []access.Token
	err := each(s.read.query(ctx, "SELECT "+tokenColumns+" FROM token ORDER BY id"))(func(r row) error {
		k, err := scanToken(r)
		all = append(all, k)
		return err
	})
	return all, err
}

// RevokeToken ends a token at a unix second; ending it twice does nothing.
func (s *Store) RevokeToken(ctx context.Context, id, at int64, entries ...ledger.Entry) error {
	return s.writeIfNeeded(ctx, func(t *tx) error {
		n, err := t.exec(ctx, "UPDATE token SET revoked_at = $2 WHERE id = $1 AND revoked_at = 0", id, time.Unix(at, 0))
		if err != nil || n == 1 {
			return err
		}
		var one int64
		if err := t.row(ctx, "SELECT 1 FROM token WHERE id = $1", id).Scan(&one); err != nil {
			if noRows(err) {
				err = fault.New(fault.TokenUnknown)
			}
			return err
		}
		return errNothing
	}, entries...)
}

const approvalColumns = "id, kind, params, digest, requester, reason, state, decided_by, requested_at, decided_at, expires_at"

func scanApproval(r row) (access.Approval, error) {
	var a access.Approval
	err := r.Scan(&a.ID, &a.Kind, &a.Params, fixed(a.Digest[:]), &a.Requester, &a.Reason, &a.State, &a.DecidedBy,
		at(&a.RequestedAt), at(&a.DecidedAt), at(&a.ExpiresAt))
	return a, err
}

// AddApproval stores an act that waits. If one of the same digest waits already
// its id is returned and nothing is written.
func (s *Store) AddApproval(ctx context.Context, a access.Approval, entries ...ledger.Entry) (id int64, err error) {
	err = s.writeIfNeeded(ctx, func(t *tx) error {
		if err := holdControl(ctx, t); err != nil {
			return err
		}
		// Index approval_digest.
		err := t.row(ctx, "SELECT id FROM approval WHERE digest = $1 AND state = $2 ORDER BY id DESC LIMIT 1", a.Digest[:], access.Waiting).Scan(&id)
		if err == nil {
			return errNothing
		}
		if !noRows(err) {
			return err
		}
		if id, err = nextID(ctx, t, "approval"); err != nil {
			return err
		}
		_, err = t.exec(ctx, "INSERT INTO approval ("+approvalColumns+") VALUES ("+placeholders(11)+")",
			id, a.Kind, blob(a.Params), a.Digest[:], a.Requester, a.Reason, a.State, a.DecidedBy, a.RequestedAt, a.DecidedAt, a.ExpiresAt)
		return err
	}, entries...)
	if err != nil {
		return 0, err
	}
	return id, nil
}

// blob is bytes for a column that is not NULL.
func blob(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// Approval returns an approval, or fault.ApprovalUnknown.
func (s *Store) Approval(ctx context.Context, id int64) (access.Approval, error) {
	return s.approval(ctx, "WHERE id = $1", id)
}

// ApprovalByDigest returns the newest approval of an act, or
// fault.ApprovalUnknown.
func (s *Store) ApprovalByDigest(ctx context.Context, digest [32]byte) (access.Approval, error) {
	// Index approval_digest.
	return s.approval(ctx, "WHERE digest = $1 ORDER BY id DESC LIMIT 1", digest[:])
}

func (s *Store) approval(ctx context.Context, which string, arg any) (access.Approval, error) {
	a, err := scanApproval(s.read.row(ctx, "SELECT "+approvalColumns+" FROM approval "+which, arg))
	if noRows(err) {
		return access.Approval{}, fault.New(fault.ApprovalUnknown)
	}
	return a, err
}

// Approvals returns a page of approvals, newest first; state 0 is all of them.
// Indexes: approval_state and the primary key.
func (s *Store) Approvals(ctx context.Context, state access.ApprovalState, after string, limit int) ([]access.Approval, string, error) {
	from, err := parseCursor(after)
	if err != nil {
		return nil, "", err
	}
	if from == 0 {
		from = math.MaxInt64
	}
	limit = pageSize(limit)
	args, condition := []any{from, limit}, ""
	if state != 0 {
		args, condition = append(args, state), " AND state = $3"
	}
	var list []access.Approval
	err = each(s.read.query(ctx, "SELECT "+approvalColumns+" FROM approval WHERE id < $1"+condition+" ORDER BY id DESC LIMIT $2", args...))(func(r row) error {
		a, err := scanApproval(r)
		list = append(list, a)
		return err
	})
	if err != nil || len(list) < limit {
		return list, "", err
	}
	return list, cursor(list[limit-1].ID), nil
}

// MoveApproval changes the state of an approval and who decided when, if it is
// still in the state named, or fault.ApprovalState.
func (s *Store) MoveApproval(ctx context.Context, a access.Approval, from access.ApprovalState, entries ...ledger.Entry) error {
	return s.write(ctx, func(t *tx) error {
		n, err := t.exec(ctx, "UPDATE approval SET state = $3, decided_by = $4, decided_at = $5 WHERE id = $1 AND state = $2",
			a.ID, from, a.State, a.DecidedBy, a.DecidedAt)
		if err != nil || n == 1 {
			return err
		}
		var one int64
		err = t.row(ctx, "SELECT 1 FROM approval WHERE id = $1", a.ID).Scan(&one)
		if noRows(err) {
			return fault.New(fault.ApprovalUnknown)
		}
		if err == nil {
			err = fault.New(fault.ApprovalState)
		}
		return err
	}, entries...)
}

package access

import (
	"context"

	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// Store keeps operators, tokens and approvals. Every writing method writes its
// entries in the same transaction.
type Store interface {
	SaveOperator(ctx context.Context, o Operator, entries ...ledger.Entry) error
	Operators(ctx context.Context) ([]Operator, error)
	AddToken(ctx context.Context, t Token, entries ...ledger.Entry) (id int64, err error)
	// TokenByHash returns the token with this SHA-256, also when it is revoked
	// or expired, or fault.TokenUnknown.
	TokenByHash(ctx context.Context, hash [32]byte) (Token, error)
	Tokens(ctx context.Context) ([]Token, error)
	RevokeToken(ctx context.Context, id int64, at int64, entries ...ledger.Entry) error
	// AddApproval stores an act that waits. If one of the same digest waits
	// already its id is returned and nothing is written.
	AddApproval(ctx context.Context, a Approval, entries ...ledger.Entry) (id int64, err error)
	Approval(ctx context.Context, id int64) (Approval, error)
	// ApprovalByDigest returns the newest approval of an act, or
	// fault.ApprovalUnknown.
	ApprovalByDigest(ctx context.Context, digest [32]byte) (Approval, error)
	Approvals(ctx context.Context, state ApprovalState, after string, limit int) (page []Approval, next string, err error)
	// MoveApproval changes the state from one to another, or fault.ApprovalState.
	MoveApproval(ctx context.Context, a Approval, from ApprovalState, entries ...ledger.Entry) error
}

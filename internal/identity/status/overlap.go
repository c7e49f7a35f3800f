package status

import (
	"context"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/pki/issuing"
)

// overlapsAtOnce bounds how many certificates one step ends.
const overlapsAtOnce = 200

// endOverlaps revokes, as superseded, certificates whose successors have been
// in use for as long as their profiles let both be good. All nodes do it; a
// certificate that another node was quicker with is done.
func (s *Service) endOverlaps(ctx context.Context) (int, error) {
	ids, err := s.store.EndedOverlaps(ctx, s.now(), overlapsAtOnce)
	if err != nil {
		return 0, err
	}
	by := access.Caller{Name: "system", Scope: access.Everything()}
	for _, id := range ids {
		c, err := s.register.Credential(ctx, by.Scope, id)
		if err != nil {
			return 0, err
		}
		_, err = s.record(ctx, by, &c, issuing.ReasonSuperseded, 0)
		if err != nil && !fault.Has(err, fault.AlreadyRevoked) {
			return 0, err
		}
	}
	return len(ids), nil
}

package status

import (
	"context"

	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// Keeper is what Run keeps from step to step.
type Keeper = keeper

// StepWith does once what Run does again and again.
func (s *Service) StepWith(ctx context.Context, k *Keeper) error {
	_, err := s.step(ctx, k)
	return err
}

// ParseRequest reports whether bytes are an OCSP request, and how many
// certificates it names.
func ParseRequest(der []byte) (ids int, nonce []byte, err error) {
	r, err := parseOCSPRequest(der)
	if err != nil {
		return 0, nil, err
	}
	return len(r.ids), r.nonce, nil
}

// ForgetAnswers empties the cache of OCSP answers.
func (s *Service) ForgetAnswers() { s.answers.clear() }

// Revoked tells the lists of one revocation, as the change feed does.
func (s *Service) Revoked(b *ledger.Revoked) { s.lists.revoked(b) }

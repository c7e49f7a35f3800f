package chain

import (
	"context"
	"crypto/x509"
	"time"
)

// State is what is known of a certificate's revocation.
type State uint8

// The states. The zero value is Unknown, so that forgetting to answer refuses.
const (
	Unknown State = iota
	Good
	Revoked
	OnHold
)

// String returns the state as people write it.
func (s State) String() string {
	return [...]string{"unknown", "good", "revoked", "on hold"}[s]
}

// Status is the answer about one certificate.
type Status struct {
	State  State
	Reason int       // CRLReason of RFC 5280, section 5.3.1, when revoked or on hold
	Since  time.Time // when it was revoked or put on hold
	Detail string    // why it is unknown; public
}

// StatusChecker tells whether a certificate is revoked. A path calls it for each
// certificate below the anchor, from the top down, with the certificate of the
// issuer on this path. If the anchor is a bare name and key, the issuer carries
// only RawSubject, RawSubjectPublicKeyInfo and PublicKey. What cannot be found
// out is Unknown; an error ends the verification.
type StatusChecker interface {
	Status(ctx context.Context, cert, issuer *x509.Certificate) (Status, error)
}

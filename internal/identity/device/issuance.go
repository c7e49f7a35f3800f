package device

import (
	"errors"

	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// Issuance is what STORE takes in one piece: a signed certificate that has not
// left the process, and every condition under which it may.
type Issuance struct {
	Credential   Credential
	Lease        LeaseRef // the serial's block; a fenced lease refuses
	ControlEpoch int64    // control plane under which it was decided
	// Change is nil for certificates without a device.
	Change *Change
	// SameKeyAs allows the key to be the one of this earlier credential of the
	// same device (renewal that keeps the key). Zero: the key must be new.
	SameKeyAs CredentialID
	// Deciding is the approval that this issuance executes, 0 if none; STORE
	// moves it from approved to executed or refuses as stale.
	Approval int64
	Entries  []ledger.Entry // certificate.issued first
}

// Change is how an issuance changes its device. Slot's current credential
// becomes the new one.
type Change struct {
	ID         ID
	Version    int64 // expected; the row gets Version+1
	From       State // state at the decision, for the counters; 0 lets STORE look
	State      State // new state
	Slot       Slot
	SpendSPKI  *[32]byte // not nil: spend the one-time secret with this key
	Supersedes CredentialID
}

// LeaseRef names a block of serials and the fence under which it was leased.
type LeaseRef struct {
	ID    int64
	Fence int64
}

// SerialLease is a block of certificate serials that one node may use:
// credential ids First..First+Count-1, each serial following from Seed.
type SerialLease struct {
	LeaseRef
	Node  string
	First CredentialID
	Count int
	Seed  [32]byte
}

// ErrStale is returned by STORE when the device, the control plane or the
// approval is not as it was when the issuance was decided. The caller loads
// anew and decides again. Nothing was written.
var ErrStale = errors.New("the record changed since the decision")

// KeyConflict is returned by STORE when the public key is already in the
// register. Nothing was written. Existing is the newest credential of that key.
type KeyConflict struct{ Existing Credential }

// Error names the conflict without naming the other device.
func (*KeyConflict) Error() string { return "the key is already in the register" }

package device

import (
	"errors"
	"time"

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
	// Unit makes the certificate the identity of a unit of a production order:
	// its conditions are checked and its changes made in the same transaction.
	// Nil for everything else.
	Unit *UnitIssue
	// Station makes the certificate the one of a station. Nil for everything
	// else.
	Station *StationIssue
	// Attestation is the hardware's evidence that the issuance rests on; nil:
	// none, or a chip's proof, which Unit tells.
	Attestation *Attestation
	// Deciding is the approval that this issuance executes, 0 if none; STORE
	// moves it from approved to executed or refuses as stale.
	Approval int64
	// Entries begin with certificate.issued, or with the device.registered of
	// Unit.New and then certificate.issued; unit.issued follows.
	Entries []ledger.Entry
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

// UnitIssue is what an issuance does to a production order. STORE refuses with
// fault.OrderFull, SparesUsed, OrderState, ChipUsed, ChipWithdrawn, ChipOtherOrder,
// NonceUsed, NonceExpired, UnitSerialTaken or UnitReference when a count or a row
// is not as it must be; the order's terms and the station's state stand under
// the control epoch.
type UnitIssue struct {
	Order   int64
	Station int64
	// New registers the device of the certificate, which must not exist yet
	// (fault.UnitSerialTaken). It is the row as it is after the issuance: version
	// 2, its slot naming the credential. Issuance.Change is nil then. Nil when the
	// device does exist: then Issuance.Change names it, and Replaces its last unit.
	New *Device
	// Replaces is the unit of the same device that ends with this one (rework, board
	// swap): its credential is revoked, its chip stays used, and this one counts
	// as a spare. Zero: the first unit of its device. The store writes the
	// certificate.revoked entries after those of the issuance, and the device's
	// version grows by one for each of them.
	Replaces       CredentialID
	ReplacesReason int    // CRL reason
	ReplacesNote   string // why, in words: the reason of the unit that ends
	Chip           int64  // used by this unit from now on; 0: none
	Nonce          NonceRef
	ConfirmNonce   [32]byte // what the device signs to confirm
	Reference      string   // the station's or MES's own name of the unit, an idempotency key; empty: none
	Evidence       string   // kind of evidence that was shown
	// Wrapped is the private key as sent to the recipient, kept until the unit is
	// confirmed and at most until WrappedUntil; nil unless the key is injected.
	Wrapped      []byte
	WrappedUntil time.Time
	IssueTime    time.Duration // from request to decision, for the KPIs
}

// NonceRef names one nonce of a block; a zero Block is no nonce.
type NonceRef struct {
	Block int64
	Index int
}

// StationIssue makes a certificate the current one of a station.
type StationIssue struct {
	ID        int64
	Version   int64     // expected; the row gets Version+1
	SpendSPKI *[32]byte // not nil: spend the one-time code with this key
}

// Ticket names a challenge that was answered; it is spent once. Time-ordered: the
// first 8 octets are microseconds since 1970, big-endian, the others random.
type Ticket struct {
	ID        [16]byte
	ExpiresAt time.Time
}

// Attestation is what the hardware showed and what that changes: STORE spends the
// ticket (fault.TicketUsed), ties the TPM to the credential's device
// (fault.TPMOfOther), refuses counters that went back (fault.QuoteOld), keeps the
// evidence and, for a device without a unit, marks the chip as used by the device
// (fault.ChipUsed, ChipWithdrawn).
type Attestation struct {
	Ticket   Ticket // zero ID: the nonce is spent elsewhere
	Kind     string
	Claims   uint8
	Evidence []byte // as kept; its SHA-256 is in the ledger
	TPM      *TPMState
}

// TPMState is a TPM as an attestation showed it.
type TPMState struct {
	EK           [32]byte // SHA-256 of the EK's SubjectPublicKeyInfo
	Chip         int64    // manifest entry; 0: none
	AK           [32]byte // SHA-256 of the SubjectPublicKeyInfo of the AK that attested; zero: unknown
	Plain        bool     // the counts and the firmware are the TPM's own; else masked for this AK alone
	ResetCount   uint32
	RestartCount uint32
	Clock        uint64 // milliseconds
	Safe         bool   // the clock has never shown this value before
	Firmware     uint64
	Vendor       string
	Model        string
}

// unsafeClock is how far a TPM's clock may fall back, in milliseconds, when power
// went without a shutdown: what Part 2, table of TPM_PT_CLOCK_UPDATE, allows
// between two writes of the clock.
const unsafeClock = 1 << 22

// WentBack reports whether a TPM that was in the earlier state cannot be in this
// one now: it was shown from the past, or the TPM was cleared since. Reset and
// restart count say it where they can be compared: a TPM adds a secret of the key
// to them for AKs outside the endorsement and platform hierarchies (Part 1, section
// "Obfuscation of counts"). The clock is never masked.
func (t TPMState) WentBack(earlier TPMState) bool {
	plain := t.Plain && earlier.Plain
	if plain || t.AK == earlier.AK && t.AK != [32]byte{} {
		switch {
		case t.ResetCount != earlier.ResetCount:
			return fewer(t.ResetCount, earlier.ResetCount, plain)
		case t.RestartCount != earlier.RestartCount:
			return fewer(t.RestartCount, earlier.RestartCount, plain)
		}
		return t.clockBehind(earlier, inFlight)
	}
	if t.Safe {
		return t.clockBehind(earlier, inFlight)
	}
	return t.clockBehind(earlier, unsafeClock)
}

// inFlight is how much sooner than another an attestation may have been made and
// still be stored after it, in milliseconds: as long as nonces are good. A device
// that answers two challenges at once does not choose which is stored first.
const inFlight = 10 * 60 * 1000

func (t TPMState) clockBehind(earlier TPMState, tolerated uint64) bool {
	return t.Clock < earlier.Clock && earlier.Clock-t.Clock > tolerated
}

// fewer compares counts. A masked one has a number added to it and may go round.
func fewer(now, before uint32, plain bool) bool {
	if plain {
		return now < before
	}
	return int32(now-before) < 0
}

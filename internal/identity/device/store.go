package device

import (
	"context"
	"time"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// Store is the register in the database. Every writing method writes its
// entries in the same transaction. A row outside the scope does not exist
// (fault.DeviceUnknown, fault.CredentialUnknown).
type Store interface {
	// DeviceID returns the id of a device serial, registered or not.
	DeviceID(deviceSerial string) ID
	Device(ctx context.Context, s access.Scope, id ID) (Device, error)
	// AddDevices registers devices, all or none: fault.DeviceExists names the
	// first serial that is taken.
	AddDevices(ctx context.Context, s access.Scope, devices []Device, entries ...ledger.Entry) error
	// UpdateDevice writes state, site, owner, region, labels and secret if the
	// row still has d.Version, and raises the version; ErrStale otherwise.
	UpdateDevice(ctx context.Context, s access.Scope, d Device, entries ...ledger.Entry) error
	Devices(ctx context.Context, s access.Scope, q DeviceQuery) (page []Device, next string, err error)
	AddProduct(ctx context.Context, p Product, entries ...ledger.Entry) (id int64, err error)
	UpdateProduct(ctx context.Context, p Product, entries ...ledger.Entry) error
	Products(ctx context.Context, s access.Scope) ([]Product, error)

	Credential(ctx context.Context, s access.Scope, id CredentialID) (Credential, error)
	// CredentialBySerial opens the certificate serial to its row and compares
	// it in full.
	CredentialBySerial(ctx context.Context, s access.Scope, certSerial []byte) (Credential, error)
	// CredentialBySPKI returns the newest credential of a public key.
	CredentialBySPKI(ctx context.Context, s access.Scope, spkiDigest [32]byte) (Credential, error)
	Credentials(ctx context.Context, s access.Scope, q CredentialQuery) (page []Credential, next string, err error)
	// Confirm marks a credential's first use and notes when those before it
	// end; it does nothing when it was confirmed before.
	Confirm(ctx context.Context, c Confirmation, entries ...ledger.Entry) error
	// Expiring returns the number of live credentials per day (unix days) and
	// product from maintained counters.
	Expiring(ctx context.Context, s access.Scope, fromDay, toDay int64) ([]ExpiryCount, error)
	// Counts returns maintained totals.
	Counts(ctx context.Context, s access.Scope) (Counts, error)

	// LeaseSerials records and returns a new block of serials for node.
	LeaseSerials(ctx context.Context, node string, count int, at time.Time) (SerialLease, error)
	// CloseLease ends a block; its ids without certificate are abandoned from
	// then on. Closing twice does nothing.
	CloseLease(ctx context.Context, ref LeaseRef, at time.Time) error
	// FenceNode closes all open blocks that a former run of node left.
	FenceNode(ctx context.Context, node string, at time.Time) error
	// CertSerial returns the certificate serial of an id of this lease: a fixed
	// positive first octet and AES(installation key, id || 8 octets of the
	// seed's stream), 17 octets.
	CertSerial(l SerialLease, id CredentialID) []byte
	// StoreIssuance is STORE: it waits for the group commit that takes the
	// issuance and returns the row as stored (with AuthorityIndex), or
	// ErrStale, *KeyConflict, or a fault (NodeFenced, StoreUnavailable,
	// StoreInDoubt, StoreFull, StoreBroken).
	StoreIssuance(ctx context.Context, i Issuance) (Credential, error)
}

// DeviceQuery selects devices; zero fields select all. After is the cursor of
// the previous page, Limit at most 1,000.
type DeviceQuery struct {
	Product      int64
	State        State
	DeviceSerial string // exact
	Label        [2]string
	After        string
	Limit        int
}

// CredentialQuery selects credentials, newest first.
type CredentialQuery struct {
	Device    ID
	Authority int64
	Product   int64
	Kind      string
	State     CredentialState
	After     string
	Limit     int
}

// Confirmation is the first use of a credential.
type Confirmation struct {
	ID   CredentialID
	At   time.Time
	Ends []Overlap // what it followed
}

// Overlap is a credential whose successor is in use: it stays good until then.
type Overlap struct {
	Credential CredentialID
	EndsAt     time.Time
}

// ExpiryCount is how many live credentials of a product end on a day.
type ExpiryCount struct {
	Product int64
	Day     int64 // days since 1970-01-01 UTC
	Count   int64
}

// Counts are maintained totals of what is in scope.
type Counts struct {
	Devices     map[State]int64
	Credentials map[CredentialState]int64
}

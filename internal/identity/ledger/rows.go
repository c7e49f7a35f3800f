package ledger

import (
	"context"
	"time"
)

// Rows streams the register as the database has it, for Verify. Pages are in
// order of the named key, hold rows above the cursor and at most limit of them;
// an empty page is the end. A page is one consistent read, and it is at least
// as new as the size that LedgerSize returned before.
type Rows interface {
	// CredentialRows pages by ID from the one above after.
	CredentialRows(ctx context.Context, after int64, limit int) ([]CredentialRow, error)
	// DeviceRows pages by ID from the one above after (ids are positive).
	DeviceRows(ctx context.Context, after int64, limit int) ([]DeviceRow, error)
	// RevocationRows pages by authority, shard and credential; the zero row is
	// the start, and only these three fields of after count.
	RevocationRows(ctx context.Context, after RevocationRow, limit int) ([]RevocationRow, error)
	// LeaseRows pages by ID from the one above after.
	LeaseRows(ctx context.Context, after int64, limit int) ([]LeaseRow, error)
	// CRLRows returns the published list of each authority and shard.
	CRLRows(ctx context.Context) ([]CRLRow, error)
	// UnitRows and OrderRows page by ID from the one above after.
	UnitRows(ctx context.Context, after int64, limit int) ([]UnitRow, error)
	OrderRows(ctx context.Context, after int64, limit int) ([]OrderRow, error)
	// EvidenceRows and TPMRows page by ID from the one above after.
	EvidenceRows(ctx context.Context, after int64, limit int) ([]EvidenceRow, error)
	TPMRows(ctx context.Context, after int64, limit int) ([]TPMRow, error)
	// RecordRows returns all records of the control plane.
	RecordRows(ctx context.Context) ([]RecordRow, error)
}

// CredentialRow is device.Credential in plain numbers; device imports ledger
// and not the other way round. Times are compared to the second.
type CredentialRow struct {
	ID             int64
	CertSerial     []byte
	Authority      int64
	AuthorityIndex int64
	Profile        int64
	Kind           string
	Purpose        string
	Device         int64
	Product        int64
	Site           int64
	Owner          int64
	State          uint8
	Reason         int
	RevokedAt      time.Time
	KeyKind        uint8
	NotBefore      time.Time
	NotAfter       time.Time
	SPKI           [32]byte
	Idempotency    [32]byte
	Previous       int64
	IssuedAt       time.Time
	ConfirmedAt    time.Time
	DER            []byte
}

// DeviceRow is device.Device in plain numbers.
type DeviceRow struct {
	ID           int64
	DeviceSerial string
	Product      int64
	Site         int64
	Owner        int64
	Region       string
	Labels       map[string]string
	State        uint8
	Version      int64
	Secret       [32]byte // hash of the one-time secret, zero: none
	SecretSpent  time.Time
	SecretSPKI   [32]byte
	Current      map[string]int64 // slot to credential
	RegisteredAt time.Time
	Order        int64 // production order that made it
	Chip         int64
	BuiltInto    int64
}

// RevocationRow is status.Revocation in plain numbers.
type RevocationRow struct {
	Authority  int64
	Shard      int
	Credential int64
	CertSerial []byte
	RevokedAt  time.Time
	Reason     int
	NotAfter   time.Time
}

// LeaseRow is a block of serials.
type LeaseRow struct {
	ID     int64
	Fence  int64
	Node   string
	First  int64
	Count  int
	Seed   [32]byte
	Closed bool
}

// CRLRow is a published list; SHA256 is of its DER.
type CRLRow struct {
	Authority int64
	Shard     int
	Number    int64
	SHA256    [32]byte
}

package attest

import (
	"context"
	"time"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// Roots is one imported version of a bundle: whose TPMs are genuine. The newest
// version of each name counts; older ones are kept for the record.
type Roots struct {
	ID         int64
	Name       string // of the bundle, chosen by who signs it
	Version    int64  // rises with every issue of the same name
	Content    []byte // the bundle as signed (JSON), see RootsFile
	Digest     [32]byte
	Signer     []byte // DER SubjectPublicKeyInfo of the pinned signer
	Repinned   bool   // an operator accepted another signer than that of the version before
	ImportedBy string
	ImportedAt time.Time
}

// RootsFile is the content of a bundle. Members it does not have are refused.
type RootsFile struct {
	Name     string    `json:"name"`
	Version  int64     `json:"version"`
	IssuedAt time.Time `json:"issuedAt"`
	Makers   []Maker   `json:"makers"`
	Deny     []Deny    `json:"deny,omitempty"`
}

// Maker is a TPM maker: its roots and the intermediates that its chips do not
// carry.
type Maker struct {
	Name          string   `json:"name"`
	Vendors       []string `json:"vendors,omitempty"` // tpmManufacturer as in EK certificates ("id:494E5443"); empty: any
	Roots         [][]byte `json:"roots"`             // DER
	Intermediates [][]byte `json:"intermediates,omitempty"`
	// AcceptExpired accepts EK certificates whose time is over: many chips live
	// longer than their certificates.
	AcceptExpired bool `json:"acceptExpired,omitempty"`
}

// Deny takes trust from a range of TPMs (a broken model or firmware). Empty members
// mean any; versions are tpmVersion as in EK certificates ("id:00010003"), both ends
// included.
type Deny struct {
	Vendor      string `json:"vendor,omitempty"`
	Model       string `json:"model,omitempty"`
	VersionFrom string `json:"versionFrom,omitempty"`
	VersionTo   string `json:"versionTo,omitempty"`
	// FirmwareFrom and FirmwareTo are TPMS_ATTEST's firmwareVersion, where the AK
	// is in the endorsement hierarchy and it is not obfuscated.
	FirmwareFrom uint64 `json:"firmwareFrom,omitempty"`
	FirmwareTo   uint64 `json:"firmwareTo,omitempty"`
	Reason       string `json:"reason"`
}

// Policy says which firmware states a product's TPMs may be in. The newest of a
// product counts; one without content says that there is none any more.
type Policy struct {
	ID      int64
	Product int64
	Version int64
	Content []byte // JSON, see PolicyFile
	Digest  [32]byte
	Author  string
	SetAt   time.Time
}

// PolicyFile is the content of a policy.
type PolicyFile struct {
	Bank string `json:"bank"` // "sha256", "sha384", "sha512"
	// States are the accepted ones: a device must match one of them in all
	// registers that it names. Values are hexadecimal.
	States []State `json:"states"`
	// EventLog demands a log that leads to the quoted registers.
	EventLog bool `json:"eventLog,omitempty"`
}

// State is one accepted set of register values.
type State struct {
	Name string         `json:"name"` // of the firmware build
	PCRs map[int]string `json:"pcrs"`
}

// Plane is this package's part of the control plane at one epoch: the newest
// version of each bundle, the newest policy of each product.
type Plane struct {
	Epoch    int64
	Roots    []Roots
	Policies []Policy
}

// Evidence is what was shown for a credential, as kept.
type Evidence struct {
	Credential device.CredentialID
	Device     device.ID
	Kind       Kind
	Claims     Claims
	Content    []byte // JSON, as the kind writes it
	Digest     [32]byte
	At         time.Time
}

// TPMRecord is a TPM as its device's last evidence showed it. A TPM belongs to
// one device.
type TPMRecord struct {
	EK           [32]byte // SHA-256 of the EK's SubjectPublicKeyInfo
	Device       device.ID
	Chip         int64    // manifest entry; 0: none
	AK           [32]byte // SHA-256 of the SubjectPublicKeyInfo of the AK that showed the counters
	Plain        bool     // see device.TPMState, whose WentBack compares
	ResetCount   uint32
	RestartCount uint32
	Clock        uint64 // milliseconds
	Safe         bool
	Firmware     uint64 // TPMS_ATTEST's firmwareVersion; obfuscated for some AKs
	Vendor       string
	Model        string
	SeenAt       time.Time
}

// Store keeps all that. Methods marked "control" raise the control epoch.
type Store interface {
	AttestPlane(ctx context.Context) (Plane, error)
	// AddRoots stores a version of a bundle: fault.RootsOlder when one of the same
	// name is as new, unless it is the same octets: then nothing is done.
	// fault.RootsSigner when the newest has another signer and r is not Repinned.
	// Control.
	AddRoots(ctx context.Context, r Roots, entries ...ledger.Entry) (id int64, err error)
	RootsHistory(ctx context.Context, name string) ([]Roots, error) // newest first; empty name: all
	// SetPolicy stores the next version of a product's policy: device.ErrStale when
	// p.Version is not that. Control.
	SetPolicy(ctx context.Context, p Policy, entries ...ledger.Entry) (Policy, error)

	// TicketKey returns the installation's key for sealing challenges, made at
	// first use; a restored backup makes a new one.
	TicketKey(ctx context.Context) ([32]byte, error)
	// SpendTicket makes a ticket unusable: fault.TicketUsed when it is already.
	SpendTicket(ctx context.Context, t device.Ticket, entries ...ledger.Entry) error
	// PruneTickets forgets tickets that expired before a time; who judges a
	// ticket looks at its expiry first.
	PruneTickets(ctx context.Context, before time.Time) error

	// Evidence returns what was shown for a credential: fault.CredentialUnknown
	// where there is none in scope.
	Evidence(ctx context.Context, s access.Scope, id device.CredentialID) (Evidence, error)
	// TPMOf returns the TPM of a device, the one that was seen last:
	// fault.DeviceUnknown where it has none.
	TPMOf(ctx context.Context, s access.Scope, id device.ID) (TPMRecord, error)
	// TPM returns the record of an EK: fault.ChipUnknown when it was never seen.
	TPM(ctx context.Context, ek [32]byte) (TPMRecord, error)
	// ResetTPM forgets the counters of a device's TPMs, so that one that was cleared
	// may enroll again: fault.DeviceUnknown where it has none.
	ResetTPM(ctx context.Context, id device.ID, entries ...ledger.Entry) error
	// Record writes entries that no other write carries: refused evidence.
	Record(ctx context.Context, entries ...ledger.Entry) error
}

// Package authority keeps our CAs: making roots and issuing authorities,
// importing what was signed elsewhere, retiring, and holding the opened keys
// and compiled profiles with which package enroll issues. A root is never
// loaded by the server: its acts are sessions with their own passphrase.
package authority

import (
	"context"
	"time"

	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// Kind says what an authority is for.
type Kind string

// The kinds of authorities.
const (
	Root    Kind = "root"
	Issuing Kind = "issuing"
)

// State is where an authority is in its life. Numbers are stored.
type State uint8

// The states of an authority.
const (
	Pending State = iota + 1 // key made, certificate not here yet
	Active
	Retired // issues no more, status goes on
	Revoked
)

// Authority is one of our CAs with its record.
type Authority struct {
	ID          int64
	Name        string
	Kind        Kind
	State       State
	KeyURI      string // empty: the key is elsewhere (imported certificate only)
	Certificate []byte // DER; nil while pending
	Parent      int64  // authority that signed it, 0: self-signed or foreign
	Credential  device.CredentialID
	CRLShards   int
	// Hardware is what holds the key and how that was validated; zero: a file.
	Hardware  Hardware
	CreatedAt time.Time
	ChangedAt time.Time
}

// Hardware is an HSM as its operator declares it for the record.
type Hardware struct {
	Model       string // maker and model
	Certificate string // number of its validation, such as "FIPS 140-3 #4718" or "CC BSI-DSZ-CC-1161"
	Level       string // validation level, such as "3" or "EAL4+"
}

// ProfileVersion is one immutable version of a profile.
type ProfileVersion struct {
	ID         int64
	Name       string
	Version    int
	Text       []byte
	Digest     [32]byte
	Author     string
	Approval   int64
	ImportedAt time.Time
}

// Label is an EST path label: what a request without other words means.
type Label struct {
	Name    string // as in the path, unique
	Profile string
	Purpose string // empty: the profile's own
	Wrap    int    // base64 line length of replies, 0: unbroken
}

// Control is the control plane in one consistent read: everything a decision
// rests on besides the device. STORE refuses what was decided under another
// epoch.
type Control struct {
	Epoch       int64
	Authorities []Authority
	Profiles    []ProfileVersion // the newest version of each
	Products    []device.Product
	Labels      []Label
}

// Installation is what one data folder or database is, made once by init.
type Installation struct {
	ID           [16]byte
	Organization string
	StatusURL    string
	Quickstart   bool
	RestoreEpoch int64 // raised by restore; CRL numbers are epoch x 2^32 + counter
	CreatedAt    time.Time
}

// Store keeps the control plane. Every writing method raises the control epoch
// and writes its entries in the same transaction; when it has returned, nothing
// that was decided under an older epoch is stored any more, on any node.
type Store interface {
	Install(ctx context.Context, i Installation, entries ...ledger.Entry) error
	Installation(ctx context.Context) (Installation, error) // fault.DataFolderState before Install
	Control(ctx context.Context) (Control, error)
	AddAuthority(ctx context.Context, a Authority, entries ...ledger.Entry) (id int64, err error)
	UpdateAuthority(ctx context.Context, a Authority, entries ...ledger.Entry) error
	// AddProfileVersion stores the next version of a profile, or returns the
	// existing one when the newest has the same digest.
	AddProfileVersion(ctx context.Context, p ProfileVersion, entries ...ledger.Entry) (ProfileVersion, error)
	ProfileVersion(ctx context.Context, id int64) (ProfileVersion, error)
	ProfileVersions(ctx context.Context, name string) ([]ProfileVersion, error)
	SetLabel(ctx context.Context, l Label, entries ...ledger.Entry) error
}

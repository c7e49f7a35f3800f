// Package device holds the nouns of the register: devices, their products and
// their credentials, with the one table of transitions between states. It also
// is the register's service: add, change, label, list. It knows what a device
// is, not how it enrolls (package enroll) or how a certificate is made.
package device

import (
	"fmt"
	"strconv"
	"time"
)

// ID is the register's number of a device: a keyed 63-bit hash of the device
// serial (see docs/decisions), never zero. Text form: 16 hex digits.
type ID int64

// String returns the 16 hex digits that API and command line show.
func (id ID) String() string { return fmt.Sprintf("%016x", uint64(id)) }

// ParseID reads the text form.
func ParseID(s string) (ID, error) {
	n, err := strconv.ParseUint(s, 16, 63)
	if err != nil || len(s) != 16 || n == 0 {
		return 0, fmt.Errorf("device id %q is not 16 hex digits", s)
	}
	return ID(n), nil
}

// State is where a device is in its life.
type State uint8

// The states, in the order of a device's life. Numbers are stored.
const (
	Registered State = iota + 1
	Provisioned
	Shipped
	Active
	Suspended
	InRepair
	Decommissioned
	Scrapped
)

// Device is one physical unit.
type Device struct {
	ID           ID
	DeviceSerial string // the maker's number on the label, unique in the installation
	Product      int64
	Site         int64 // 0: none
	Owner        int64 // 0: none
	Region       string
	Labels       map[string]string
	State        State
	Version      int64 // grows with every change; STORE is conditional on it
	Secret       Secret
	Current      map[Slot]CredentialID // the newest credential of each slot; older ones are reached through Credential.Previous
	Order        int64                 // production order that made it, 0: none
	Chip         int64                 // its chip, 0: none listed
	BuiltInto    ID                    // the system that it is a component of, 0: none
	RegisteredAt time.Time
	ChangedAt    time.Time
}

// Secret is the state of a device's one-time enrollment secret. Of the secret
// itself only the SHA-256 is kept.
type Secret struct {
	Hash      [32]byte
	Set       bool      // there is a secret, spent or not
	SpentAt   time.Time // zero: not spent
	SpentSPKI [32]byte  // key of the request that spent it: only this key may replay, for 15 minutes
}

// Slot is a place for one current credential of a device: the IDevID or an
// LDevID with a purpose. Text form "idevid" or "ldevid/cloud".
type Slot string

// IDevIDSlot is the slot of the initial identity.
const IDevIDSlot Slot = "idevid"

// LDevIDSlot returns the slot of an operational credential with this purpose.
func LDevIDSlot(purpose string) Slot { return Slot("ldevid/" + purpose) }

// Product is a model that is made.
type Product struct {
	ID          int64
	Name        string
	Description string
	PartNumbers []string
	// Profiles lists the profiles under which its devices may enroll; the first
	// is the default when a request names none.
	Profiles      []string
	LeastEvidence string
	// ChipTypes are the chip types it may be built with, as manifests name
	// them; several where there is a second source. Empty: it has no chip that
	// a manifest lists.
	ChipTypes []string
	// KeyModel says how the initial identity's key gets into a unit.
	KeyModel KeyModel
	// IDevIDProfile is the profile of the initial identity that stations ask
	// for; empty: units of this product are not made at stations.
	IDevIDProfile string
	// SerialPattern is a regular expression (RE2) that a whole device serial
	// must match; empty: any acceptable one.
	SerialPattern string
	ExternalRef   string // the maker's own number for it, for example in the ERP
	CreatedAt     time.Time
}

// KeyModel says how the key of an initial identity comes to be.
type KeyModel string

// The key models of products. None is the model of products that devices enroll
// for on their own.
const (
	KeyModelNone        KeyModel = ""
	KeyModelOnDevice    KeyModel = "on-device"       // made in the device; the chip proves the request
	KeyModelProvisioned KeyModel = "pre-provisioned" // made by the chip maker, listed in a manifest; certified by us
	KeyModelAdopted     KeyModel = "adopted"         // the same, and the chip maker's certificate is the IDevID
	KeyModelInjected    KeyModel = "injected"        // made by us and sent wrapped
)

// CredentialID is the dense number of a certificate in the installation, leased
// before signing; the certificate serial opens to it.
type CredentialID int64

// CredentialState is where a credential is in its life. Reserved, expired and
// abandoned are derived (from the lease and the clock), not stored.
type CredentialState uint8

// The stored states of a credential. Numbers are stored.
const (
	Issued CredentialState = iota + 1
	Confirmed
	Held
	Superseded
	Revoked
)

// KeyKind says where the private key lives.
type KeyKind uint8

// The kinds of keys. Numbers are stored.
const (
	KeySoftware  KeyKind = iota + 1 // not known to be in hardware
	KeyHardware                     // proven to live in a chip
	KeyInjected                     // made by us and sent to the device
	KeySymmetric                    // room for later
	KeyOurs                         // our own: authorities, responders, listeners
)

// Credential is a certificate in the register, with what is known of its key.
// Authorities', responders' and listeners' certificates are rows too, without
// device.
type Credential struct {
	ID             CredentialID
	CertSerial     []byte // content octets, positive, at most 20
	Authority      int64  // issuing authority
	AuthorityIndex int64  // dense per authority, assigned at STORE
	Profile        int64  // profile version
	Kind           string // profile.Kind
	Purpose        string
	Device         ID
	Product        int64
	Site           int64
	Owner          int64
	State          CredentialState
	Reason         int       // CRL reason while revoked or held
	RevokedAt      time.Time // while revoked or held
	KeyKind        KeyKind
	NotBefore      time.Time
	NotAfter       time.Time
	SPKIDigest     [32]byte
	Idempotency    [32]byte     // digest of requester, operation, profile and key; see enroll
	Previous       CredentialID // the one it followed in its slot
	IssuedAt       time.Time
	ConfirmedAt    time.Time // first use or read-back
	DER            []byte
}

// Slot returns the slot of a device credential.
func (c *Credential) Slot() Slot {
	if c.Kind == "idevid" {
		return IDevIDSlot
	}
	return LDevIDSlot(c.Purpose)
}

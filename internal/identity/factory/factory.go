// Package factory is the production line as the register sees it: sites and
// their stations, chip makers' manifests, production orders and the units made
// under them, and the account that says where each ordered identity went. It
// decides who may open, amend and close what; the certificates themselves are
// made on the one road of package enroll, and the limits of an order are kept
// in STORE, where no race can pass them.
package factory

import (
	"time"

	"github.com/birthmark/birthmark/internal/identity/device"
)

// Site is a factory.
type Site struct {
	ID        int64
	Name      string
	CreatedAt time.Time
}

// StationState is where a station is in its life. Numbers are stored.
type StationState uint8

// The states of a station.
const (
	StationActive StationState = iota + 1
	StationSuspended
	StationRetired
)

// Station is a program on a site's line that may enroll within the orders that
// name it.
type Station struct {
	ID         int64
	Name       string // unique
	Site       int64
	State      StationState
	Version    int64
	Code       Code
	Credential device.CredentialID // its certificate, 0: not enrolled yet
	CreatedAt  time.Time
	ChangedAt  time.Time
}

// Code is the state of a station's one-time code. Of the code itself only the
// SHA-256 is kept.
type Code struct {
	Hash      [32]byte
	ExpiresAt time.Time // zero: there is no code
	SpentAt   time.Time // zero: not spent
	SpentSPKI [32]byte  // the key that spent it: only this key may replay, for 15 minutes
}

// OrderState is where a production order is in its life. Numbers are stored.
type OrderState uint8

// The states of an order. A planned order becomes open; what is closed may be
// opened again with a second operator; canceled is the end.
const (
	OrderPlanned OrderState = iota + 1
	OrderOpen
	OrderClosed
	OrderCanceled
)

// Order is a production order: so many units of a product at a site.
type Order struct {
	ID      int64
	Number  string // unique, as people and labels show it
	Product int64
	Site    int64
	State   OrderState
	Version int64 // of terms and state, not of the counts; grows with every change
	// Quantity bounds the units that live at once, Quantity+Spares all that are
	// ever issued.
	Quantity int64
	Spares   int64
	Stations []int64
	// ChipTypes narrows the product's; empty: the product's. Either may change
	// while the order runs.
	ChipTypes []string
	// SerialFrom and SerialTo bound the device serials, both included, compared
	// as text of equal length; both empty: only the product's pattern holds.
	SerialFrom  string
	SerialTo    string
	ExternalRef string        // the ERP's number, an idempotency key; unique unless empty
	Takt        time.Duration // target time per unit of the whole order, 0: none
	// Grace is how long after closing a unit may still be confirmed. Then it is
	// revoked.
	Grace     time.Duration
	Frozen    bool // since a restore; opening ends it
	CreatedAt time.Time
	OpenedAt  time.Time
	ClosedAt  time.Time
	Counts    Counts
}

// Counts is the account of an order, kept with each change.
type Counts struct {
	Issued    int64 // all ever
	Live      int64 // issued and neither scrapped nor replaced nor revoked
	Confirmed int64 // live and read back
	Scrapped  int64 // ended, for any reason
	Shipped   int64
	Activated int64 // has an operational credential
}

// Left is how many units the order still allows.
func (o *Order) Left() int64 {
	return max(0, min(o.Quantity-o.Counts.Live, o.Quantity+o.Spares-o.Counts.Issued))
}

// SparesUsed is how many of the spares are gone: units that ended.
func (o *Order) SparesUsed() int64 { return o.Counts.Issued - o.Counts.Live }

// UnitState is where a unit is. Numbers are stored.
type UnitState uint8

// The states of a unit.
const (
	UnitIssued UnitState = iota + 1
	UnitConfirmed
	UnitScrapped
	UnitReplaced // by another board of the same device
	UnitLapsed   // not confirmed by the end of the order's grace
)

// Unit is one identity issued under an order: a device with its chip at the time.
// A device that gets a new board has two.
type Unit struct {
	ID           device.CredentialID // of its IDevID
	Order        int64
	Device       device.ID
	DeviceSerial string
	Chip         int64
	Station      int64
	State        UnitState
	Spare        bool // followed another unit of the same device
	Reference    string
	Evidence     string // kind of evidence that was shown
	ConfirmNonce [32]byte
	IssuedAt     time.Time
	ConfirmedAt  time.Time
	EndedAt      time.Time
	Reason       string // why it ended, in words
	ShippedAt    time.Time
	ActivatedAt  time.Time
}

// Signer is a manifest signer that an operator pinned.
type Signer struct {
	ID          int64
	Name        string
	Format      string
	Fingerprint [32]byte // SHA-256 of the certificate
	Certificate []byte   // DER
	PinnedBy    string
	PinnedAt    time.Time
	WithdrawnAt time.Time // zero: good
}

// Manifest is one imported list of chips.
type Manifest struct {
	ID          int64
	Name        string // file name as given, for people
	Format      string
	Digest      [32]byte // SHA-256 of the file, an idempotency key
	Signer      int64    // 0: unsigned
	Product     int64    // 0: any product that names the chip type
	Importer    string
	ImportedAt  time.Time
	Chips       int64
	NotProvable int64
	Findings    []string // remarks that did not refuse it, at most 100
	Visible     bool     // false: still staged
}

// ChipState is where a chip is. Numbers are stored.
type ChipState uint8

// The states of a chip.
const (
	ChipListed ChipState = iota + 1
	ChipNotProvable
	ChipAllotted
	ChipUsed
	ChipWithdrawn
)

// Chip is one entry of a manifest.
type Chip struct {
	ID       int64  // keyed 63-bit hash of vendor and UID
	Vendor   string // as the manifest's format names it, lower case
	UID      string // as the manifest writes it, lower case
	ChipType string
	Manifest int64
	Entry    int64 // number of the entry in its manifest, from 1
	Product  int64 // of the manifest, 0: any
	State    ChipState
	Order    int64     // while allotted
	Device   device.ID // while used
	Keys     []ChipKey
}

// ChipKey is a public key that a manifest lists for a chip.
type ChipKey struct {
	Slot        string   `json:"slot"`             // as the format names it: a slot number, "ek"
	SPKI        []byte   `json:"spki"`             // DER SubjectPublicKeyInfo
	Chain       [][]byte `json:"chain,omitempty"`  // DER, leaf first, where the manifest has one
	VendorProof bool     `json:"vendor,omitempty"` // the chain leads to a chip maker's root
}

// NonceBlock is a run of nonces for one order and station. Nonce i is
// HMAC-SHA256(Key, i as 4 octets), preceded by block and index: 8+4+20 octets.
type NonceBlock struct {
	ID        int64
	Order     int64
	Station   int64
	Count     int
	Key       [32]byte
	Used      []byte // one bit per nonce
	ExpiresAt time.Time
	Offline   bool // for a batch without a link
}

// AlarmState is where an alarm is. Numbers are stored.
type AlarmState uint8

// The states of an alarm.
const (
	AlarmRaised AlarmState = iota + 1
	AlarmAcknowledged
	AlarmClosed
)

// AlarmKind names what an alarm is about. The list is complete; names are
// permanent.
type AlarmKind string

// The kinds of alarms.
const (
	AlarmDuplicateChip  AlarmKind = "duplicate-chip"          // a chip or key in two manifests
	AlarmChipReused     AlarmKind = "chip-reused"             // a used chip asks again: a clone or a rework without report
	AlarmKeyReused      AlarmKind = "key-reused"              // a public key under a second device
	AlarmSpares         AlarmKind = "spares-running-out"      // 80 % of the spares are gone
	AlarmOrderFull      AlarmKind = "order-full"              // a unit beyond the order was asked for
	AlarmUnconfirmed    AlarmKind = "units-unconfirmed"       // lapsed at the end of the grace
	AlarmUnaccounted    AlarmKind = "certificate-unaccounted" // a certificate of ours that no record names
	AlarmScrapShipped   AlarmKind = "scrapped-unit-seen"      // a scrapped unit was shipped or connected
	AlarmStation        AlarmKind = "station-refused"         // a station acted outside its orders
	AlarmManifestSigner AlarmKind = "manifest-refused"        // signature or signer of a manifest failed
)

// Alarm is something that a person must look at. The same Key raised again while
// it is not closed counts up.
type Alarm struct {
	ID             int64
	Kind           AlarmKind
	Key            string // what it is about, for deduplication
	State          AlarmState
	Message        string
	Order          int64
	Station        int64
	Product        int64
	Site           int64
	Count          int64
	RaisedAt       time.Time
	LastAt         time.Time
	AcknowledgedBy string
	ClosedAt       time.Time
}

// Webhook is where events are sent.
type Webhook struct {
	ID        int64
	Name      string
	URL       string
	Secret    []byte   // HMAC-SHA256 key of the signature, sealed under the data key
	Events    []string // kinds, empty: all
	Cursor    int64    // the next ledger index to look at
	Disabled  bool
	Failure   string // the newest failure, empty: delivered
	CreatedAt time.Time
	ChangedAt time.Time
}

// Measure is one kind of KPI counter. Numbers are stored.
type Measure uint8

// The counters. Durations count in the bucket of their length (see Bucket).
const (
	MeasureIssued    Measure = iota + 1
	MeasureConfirmed         // units; bucket: hour of the day, UTC, from which the hours of work are counted
	MeasureFirstPass         // confirmed units that needed no second unit or attempt
	MeasureScrapped
	MeasureFailed    // attempts that ended in a refusal or device failure; bucket: fault code
	MeasureIssueTime // of the server, from request to certificate
	MeasureCycleTime // whole unit, from nonce to confirmation
)

// Tally is one KPI counter.
type Tally struct {
	Order   int64
	Station int64
	Site    int64
	Product int64
	Day     int64 // days since 1970-01-01 UTC
	Measure Measure
	Bucket  int64
	N       int64
}

// TallyQuery selects counters; zero fields select all.
type TallyQuery struct {
	Order, Station, Site, Product int64
	FromDay, ToDay                int64
}

// Bucket returns the number of the histogram bucket of a duration: 8 buckets to
// each doubling, from 1 microsecond.
func Bucket(d time.Duration) int64 { return bucket(d) }

// BucketUpper returns the longest duration of a bucket.
func BucketUpper(b int64) time.Duration { return bucketUpper(b) }

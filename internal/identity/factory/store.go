package factory

import (
	"context"
	"time"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// Plane is the factory's part of the control plane in one consistent read, at
// the epoch of authority.Control: what a decision about a unit rests on besides
// the device and the chip. Orders that are closed or canceled are not in it.
type Plane struct {
	Epoch    int64
	Sites    []Site
	Stations []Station
	Orders   []Order // planned and open; their counts are of the moment

	index *index // of the planes that Planes gives out
}

// Store keeps the factory. Every writing method writes its entries in the same
// transaction. Methods marked "control" raise the control epoch: when they have
// returned, nothing that was decided before is stored any more, on any node. A
// row outside the scope does not exist.
type Store interface {
	Plane(ctx context.Context) (Plane, error)

	AddSite(ctx context.Context, x Site, entries ...ledger.Entry) (id int64, err error) // control; fault.SiteExists
	Sites(ctx context.Context, s access.Scope) ([]Site, error)

	AddStation(ctx context.Context, x Station, entries ...ledger.Entry) (id int64, err error) // control; fault.StationExists
	Station(ctx context.Context, s access.Scope, id int64) (Station, error)
	StationByName(ctx context.Context, s access.Scope, name string) (Station, error)
	StationByCode(ctx context.Context, codeHash [32]byte) (Station, error)
	Stations(ctx context.Context, s access.Scope) ([]Station, error)
	// UpdateStation writes state and code if the row still has x.Version, and
	// raises the version; device.ErrStale otherwise. Control.
	UpdateStation(ctx context.Context, x Station, entries ...ledger.Entry) error

	// AddOrder stores a new order: fault.OrderExists when its number or external
	// reference is taken. Control.
	AddOrder(ctx context.Context, o Order, entries ...ledger.Entry) (id int64, err error)
	Order(ctx context.Context, s access.Scope, id int64) (Order, error)
	OrderByNumber(ctx context.Context, s access.Scope, number string) (Order, error)
	OrderByReference(ctx context.Context, s access.Scope, ref string) (Order, error)
	Orders(ctx context.Context, s access.Scope, q OrderQuery) (page []Order, next string, err error)
	// UpdateOrder writes terms, state and times, not the counts: o is the row as
	// read, changed; device.ErrStale when its terms or state have changed since
	// (row version). fault.OrderTerms when the new terms are below what is
	// issued. Control.
	UpdateOrder(ctx context.Context, o Order, entries ...ledger.Entry) error
	// LapseAllotted gives back chips that are allotted to an order, at most limit
	// in one transaction, and returns how many.
	LapseAllotted(ctx context.Context, order int64, limit int, at time.Time, entries func(chips []int64) []ledger.Entry) (int, error)

	PinSigner(ctx context.Context, x Signer, entries ...ledger.Entry) (id int64, err error) // fault.SignerExists
	WithdrawSigner(ctx context.Context, id int64, at time.Time, entries ...ledger.Entry) error
	Signers(ctx context.Context) ([]Signer, error)

	// BeginManifest records a manifest that is being staged and returns its id;
	// the existing one when the same file was imported or is staged (Visible
	// says which).
	BeginManifest(ctx context.Context, m Manifest, entries ...ledger.Entry) (Manifest, error)
	// StageChips adds invisible chips of a staged manifest, at most 500 a call.
	// Duplicate chips or keys, in this or any other manifest, are returned and
	// nothing of the call is stored.
	StageChips(ctx context.Context, manifest int64, chips []Chip) (duplicates []Duplicate, err error)
	// PublishManifest makes a staged manifest's chips visible in one flip.
	PublishManifest(ctx context.Context, m Manifest, entries ...ledger.Entry) error
	// DiscardManifest removes what was staged, in small transactions; the entries
	// come with the last. One that is visible stays: fault.ManifestBusy.
	DiscardManifest(ctx context.Context, id int64, entries ...ledger.Entry) error
	Manifest(ctx context.Context, id int64) (Manifest, error)
	Manifests(ctx context.Context, q Page) (page []Manifest, next string, err error)

	// ChipID returns the id of a chip, listed or not.
	ChipID(vendor, uid string) int64
	Chip(ctx context.Context, id int64) (Chip, error) // fault.ChipUnknown, also while staged
	// ChipByKey returns the chip that lists this public key.
	ChipByKey(ctx context.Context, spkiDigest [32]byte) (Chip, error)
	// FindChips returns visible chips with this UID, of any vendor.
	FindChips(ctx context.Context, uid string) ([]Chip, error)
	Chips(ctx context.Context, q ChipQuery) (page []Chip, next string, err error)
	// UpdateChip writes state, order and device if the row's state is still from.
	UpdateChip(ctx context.Context, c Chip, from ChipState, entries ...ledger.Entry) error

	AddNonceBlock(ctx context.Context, b NonceBlock, entries ...ledger.Entry) (id int64, err error)
	NonceBlock(ctx context.Context, id int64) (NonceBlock, error)
	// PruneNonceBlocks removes blocks that expired before a time.
	PruneNonceBlocks(ctx context.Context, before time.Time) error

	Unit(ctx context.Context, s access.Scope, id device.CredentialID) (Unit, error)
	// UnitByReference returns the unit with the station's own reference.
	UnitByReference(ctx context.Context, order int64, reference string) (Unit, error)
	Units(ctx context.Context, s access.Scope, q UnitQuery) (page []Unit, next string, err error)
	// Returned returns the unit and the credential of a key, by the SHA-256 of its
	// SubjectPublicKeyInfo, or fault.CredentialUnknown or fault.UnitUnknown. They
	// are as they are committed, which may not be durable yet: a confirmation is
	// stored behind them, and who answers without one asks Unit, which waits.
	Returned(ctx context.Context, spkiDigest [32]byte) (Unit, device.Credential, error)
	// ConfirmUnit marks a unit as read back, by the group commit: credential,
	// device (provisioned), unit, order and counters; the wrapped key is erased.
	// A registered device becomes provisioned, which raises its version; a device
	// in another state stays as it is. The one entry, unit.confirmed
	// (ledger.ConfirmedUnit), says all that. It does nothing when the unit was
	// confirmed before. fault.UnitState when it has ended.
	ConfirmUnit(ctx context.Context, c Confirmation, entries ...ledger.Entry) error
	// EndUnit scraps a unit or lets it lapse: its credential and those of the
	// same device are revoked in the same transaction, its chip stays used. The
	// device's version grows by one for its state and by one for each revoked
	// credential. The caller's entry is unit.scrapped (ledger.EndedUnit); the store
	// finds the credentials and writes their certificate.revoked after it, in the
	// caller's name. It does nothing when the unit has ended.
	EndUnit(ctx context.Context, e Ending, entries ...ledger.Entry) error
	// MarkShipped notes units as shipped, at most 500 a call; it returns those
	// that cannot be (unknown, scrapped), and then nothing was written.
	MarkShipped(ctx context.Context, ids []device.ID, at time.Time, entries ...ledger.Entry) (refused []device.ID, err error)
	// Unconfirmed returns units of closed orders whose grace is over.
	Unconfirmed(ctx context.Context, at time.Time, limit int) ([]Unit, error)
	// WrappedKey returns the wrapped private key of a unit: fault.WrappedKeyGone
	// once it was erased.
	WrappedKey(ctx context.Context, id device.CredentialID) ([]byte, error)
	// EraseWrappedKeys erases those whose time is over and returns how many.
	EraseWrappedKeys(ctx context.Context, at time.Time) (int, error)
	// BuildInto links components to their system.
	BuildInto(ctx context.Context, s access.Scope, system device.ID, components []device.ID, entries ...ledger.Entry) error

	// RaiseAlarm stores an alarm or counts up the one with the same key that is
	// not closed; raised reports a new one.
	RaiseAlarm(ctx context.Context, a Alarm, entries ...ledger.Entry) (id int64, raised bool, err error)
	UpdateAlarm(ctx context.Context, a Alarm, entries ...ledger.Entry) error
	Alarm(ctx context.Context, s access.Scope, id int64) (Alarm, error)
	Alarms(ctx context.Context, s access.Scope, q AlarmQuery) (page []Alarm, next string, err error)

	// Count adds to KPI counters that no other write carries (failures).
	Count(ctx context.Context, tallies []Tally, entries ...ledger.Entry) error
	Tallies(ctx context.Context, s access.Scope, q TallyQuery) ([]Tally, error)

	SetWebhook(ctx context.Context, w Webhook, entries ...ledger.Entry) (id int64, err error)
	RemoveWebhook(ctx context.Context, id int64, entries ...ledger.Entry) error
	Webhooks(ctx context.Context) ([]Webhook, error)
	// MoveCursor notes what was delivered, or why not, if the cursor still is
	// from: what an operator replays meanwhile stays. Silent in the ledger.
	MoveCursor(ctx context.Context, id, from, to int64, failure string) error
}

// Duplicate is a chip or key that is listed already.
type Duplicate struct {
	Index    int    // in the chips of the call
	Key      bool   // the key is the duplicate, not the chip
	Manifest int64  // that has it; the same as the staged one for a repetition inside the file
	UID      string // of the chip that has it
}

// Confirmation is a unit that was read back.
type Confirmation struct {
	ID        device.CredentialID
	Device    device.ID
	Order     int64
	At        time.Time
	CycleTime time.Duration // of the whole unit as the station measured it, 0: not known
	FirstPass bool
	Ends      []device.Overlap
}

// Ending ends a unit.
type Ending struct {
	ID      device.CredentialID
	At      time.Time
	State   UnitState // UnitScrapped or UnitLapsed
	Reason  string
	CRL     int          // CRL reason of the revoked credentials
	Device  device.State // the device's new state
	Station int64        // that reported it, 0: an operator
}

// Page is a keyset page. Limit is at most 1,000.
type Page struct {
	After string
	Limit int
}

// OrderQuery selects orders, newest first.
type OrderQuery struct {
	Page
	Product, Site int64
	State         OrderState
}

// UnitQuery selects the units of an order or device in order of issuing.
type UnitQuery struct {
	Page
	Order  int64
	Device device.ID
	State  UnitState
}

// ChipQuery selects chips of a manifest or state.
type ChipQuery struct {
	Page
	Manifest int64
	State    ChipState
	Order    int64
}

// AlarmQuery selects alarms, newest first.
type AlarmQuery struct {
	Page
	State AlarmState
	Kind  AlarmKind
}

package factory

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
)

var errLater = errors.New("factory: not here yet")

// AddSite adds a factory.
func (s *Service) AddSite(ctx context.Context, by access.Caller, name string) (Site, error) {
	return Site{}, errLater
}

// Sites returns the sites in the caller's scope.
func (s *Service) Sites(ctx context.Context, by access.Caller) ([]Site, error) { return nil, errLater }

// AddStation adds a station at a site, with a one-time code to enroll with. The
// code is shown once.
func (s *Service) AddStation(ctx context.Context, by access.Caller, name, site string) (Station, string, error) {
	return Station{}, "", errLater
}

// NewStationCode gives a station a new one-time code, for a new or replaced
// computer. The station's certificate stays good until the code is spent.
func (s *Service) NewStationCode(ctx context.Context, by access.Caller, name string) (Station, string, error) {
	return Station{}, "", errLater
}

// SuspendStation keeps a station from doing anything until it is resumed.
func (s *Service) SuspendStation(ctx context.Context, by access.Caller, name, reason string) (Station, error) {
	return Station{}, errLater
}

// ResumeStation ends a suspension.
func (s *Service) ResumeStation(ctx context.Context, by access.Caller, name, reason string) (Station, error) {
	return Station{}, errLater
}

// RetireStation ends a station for good.
func (s *Service) RetireStation(ctx context.Context, by access.Caller, name, reason string) (Station, error) {
	return Station{}, errLater
}

// Stations returns the stations in the caller's scope.
func (s *Service) Stations(ctx context.Context, by access.Caller) ([]Station, error) {
	return nil, errLater
}

// Station returns a station.
func (s *Service) Station(ctx context.Context, by access.Caller, name string) (Station, error) {
	return Station{}, errLater
}

// OrderTerms is what an operator says of an order, all in names.
type OrderTerms struct {
	Number      string // empty: we number it
	Product     string
	Site        string
	Quantity    int64
	Spares      int64
	Stations    []string
	ChipTypes   []string
	SerialFrom  string
	SerialTo    string
	ExternalRef string
	Takt        time.Duration
	Grace       time.Duration // 0: 7 days
}

// CreateOrder records a planned order. Repeated with the same number or
// external reference and the same terms it returns the order that is there.
func (s *Service) CreateOrder(ctx context.Context, by access.Caller, t OrderTerms) (o Order, created bool, err error) {
	return Order{}, false, errLater
}

// Amendment changes the terms of an order; what is nil stays.
type Amendment struct {
	Number    string
	Quantity  *int64
	Spares    *int64
	ChipTypes *[]string
	Reason    string
}

// AmendOrder changes quantity, spares or chip types. It needs a second
// operator: fault.ApprovalWaiting until the same amendment is asked for again
// after it was approved.
func (s *Service) AmendOrder(ctx context.Context, by access.Caller, a Amendment) (Order, error) {
	return Order{}, errLater
}

// AssignStations says which stations may work on an order from now on.
func (s *Service) AssignStations(ctx context.Context, by access.Caller, number string, stations []string) (Order, error) {
	return Order{}, errLater
}

// OpenOrder opens a planned order; a closed one with a second operator; a frozen
// one after it was reconciled, which the reason says.
func (s *Service) OpenOrder(ctx context.Context, by access.Caller, number, reason string) (Order, error) {
	return Order{}, errLater
}

// CloseOrder ends issuing under an order; chips allotted to it are given back
// and the grace for confirmations begins.
func (s *Service) CloseOrder(ctx context.Context, by access.Caller, number, reason string) (Order, error) {
	return Order{}, errLater
}

// CancelOrder ends an order under which nothing was issued.
func (s *Service) CancelOrder(ctx context.Context, by access.Caller, number, reason string) (Order, error) {
	return Order{}, errLater
}

// Order returns an order.
func (s *Service) Order(ctx context.Context, by access.Caller, number string) (Order, error) {
	return Order{}, errLater
}

// Orders returns a page of orders.
func (s *Service) Orders(ctx context.Context, by access.Caller, q OrderQuery) (page []Order, next string, err error) {
	return nil, "", errLater
}

// AllotChips keeps listed chips for one order. It returns how many were not
// allotted to it before.
func (s *Service) AllotChips(ctx context.Context, by access.Caller, number string, uids []string) (int, error) {
	return 0, errLater
}

// PinSigner trusts a certificate (PEM or DER) to sign manifests of a format from
// now on. The caller has checked the fingerprint with the chip maker.
func (s *Service) PinSigner(ctx context.Context, by access.Caller, name, format string, certificate []byte) (Signer, error) {
	return Signer{}, errLater
}

// WithdrawSigner ends the trust in a signer. Manifests that it signed stay.
func (s *Service) WithdrawSigner(ctx context.Context, by access.Caller, name, reason string) (Signer, error) {
	return Signer{}, errLater
}

// Signers returns all signers, withdrawn ones too.
func (s *Service) Signers(ctx context.Context, by access.Caller) ([]Signer, error) {
	return nil, errLater
}

// ImportRequest is a manifest to import.
type ImportRequest struct {
	Name    string // file name, for people
	Format  string // as package manifest names it; empty: found out
	Product string // name; empty: any product with the chip type
	Vendor  string // of formats that do not name it
	Type    string // chip type of formats that do not name it
	Spool   string // folder for temporary files, on a disk with room for the file
	Body    io.Reader
}

// ImportProgress says how far an import is.
type ImportProgress struct {
	Octets int64 // read of the body
	Chips  int64 // staged
}

// Imported is the outcome of an import.
type Imported struct {
	Manifest Manifest
	Again    bool     // the same file was imported before
	Findings []string // also of a refused file
}

// ImportManifest imports a manifest whole or not at all; the same file again is
// answered with the manifest that is there. A caller without
// access.ManifestManage may import only what a pinned signer signed. Findings
// are in the result also when the error says that it was refused.
func (s *Service) ImportManifest(ctx context.Context, by access.Caller, r ImportRequest, progress func(ImportProgress)) (Imported, error) {
	return Imported{}, errLater
}

// Manifest returns one manifest.
func (s *Service) Manifest(ctx context.Context, by access.Caller, id int64) (Manifest, error) {
	return Manifest{}, errLater
}

// Manifests returns a page of manifests, newest first.
func (s *Service) Manifests(ctx context.Context, by access.Caller, q Page) (page []Manifest, next string, err error) {
	return nil, "", errLater
}

// Chip returns the chip with a UID; vendor may be empty unless two vendors have
// the UID.
func (s *Service) Chip(ctx context.Context, by access.Caller, vendor, uid string) (Chip, error) {
	return Chip{}, errLater
}

// Chips returns a page of chips.
func (s *Service) Chips(ctx context.Context, by access.Caller, q ChipQuery) (page []Chip, next string, err error) {
	return nil, "", errLater
}

// WithdrawChip keeps a chip from being used from now on.
func (s *Service) WithdrawChip(ctx context.Context, by access.Caller, vendor, uid, reason string) (Chip, error) {
	return Chip{}, errLater
}

// Units returns a page of units.
func (s *Service) Units(ctx context.Context, by access.Caller, q UnitQuery) (page []Unit, next string, err error) {
	return nil, "", errLater
}

// Unit returns the newest unit of a device serial in an order.
func (s *Service) Unit(ctx context.Context, by access.Caller, number, deviceSerial string) (Unit, error) {
	return Unit{}, errLater
}

// Account is where the identities of an order went.
type Account struct {
	Order      Order
	Ordered    int64
	Issued     int64 // all ever
	Live       int64
	Confirmed  int64
	Scrapped   int64 // ended, for any reason
	Spares     int64
	SparesUsed int64
	SparesLeft int64
	Shipped    int64
	Activated  int64
	Missing    int64 // ordered and not live
	Unconfirmed,
	// Unaccounted units were issued and are neither confirmed nor ended.
	Unaccounted int64
	NotShipped int64 // confirmed and not shipped
	NotActive  int64 // shipped and not activated
}

// Difference names a column of the account, whose devices can be listed.
type Difference string

// The differences.
const (
	DiffUnaccounted Difference = "unaccounted"
	DiffScrapped    Difference = "scrapped"
	DiffNotShipped  Difference = "not-shipped"
	DiffNotActive   Difference = "not-activated"
)

// Account returns the account of an order.
func (s *Service) Account(ctx context.Context, by access.Caller, number string) (Account, error) {
	return Account{}, errLater
}

// Differences returns the units behind a column of the account, by page.
func (s *Service) Differences(ctx context.Context, by access.Caller, number string, d Difference, q Page) (page []Unit, next string, err error) {
	return nil, "", errLater
}

// ExportAccountCSV writes the units of an order, one a line.
func (s *Service) ExportAccountCSV(ctx context.Context, by access.Caller, number string, w io.Writer) error {
	return errLater
}

// ExportAccountJSON writes the account and the units of an order as one object.
func (s *Service) ExportAccountJSON(ctx context.Context, by access.Caller, number string, w io.Writer) error {
	return errLater
}

// ExportManifest writes the confirmed units of an order as a manifest signed
// with our statement key.
func (s *Service) ExportManifest(ctx context.Context, by access.Caller, number string, w io.Writer) error {
	return errLater
}

// Ship notes devices as shipped, 500 in one piece; what was not shippable is
// returned with the refusal.
func (s *Service) Ship(ctx context.Context, by access.Caller, deviceSerials []string) (shipped int, refused []string, err error) {
	return 0, nil, errLater
}

// BuildInto links components to their system.
func (s *Service) BuildInto(ctx context.Context, by access.Caller, system string, components []string) error {
	return errLater
}

// Alarm returns one alarm.
func (s *Service) Alarm(ctx context.Context, by access.Caller, id int64) (Alarm, error) {
	return Alarm{}, errLater
}

// Alarms returns a page of alarms, newest first.
func (s *Service) Alarms(ctx context.Context, by access.Caller, q AlarmQuery) (page []Alarm, next string, err error) {
	return nil, "", errLater
}

// AcknowledgeAlarm says that somebody looks after it.
func (s *Service) AcknowledgeAlarm(ctx context.Context, by access.Caller, id int64) (Alarm, error) {
	return Alarm{}, errLater
}

// CloseAlarm ends an alarm; the same thing happening again raises a new one.
func (s *Service) CloseAlarm(ctx context.Context, by access.Caller, id int64, reason string) (Alarm, error) {
	return Alarm{}, errLater
}

// Raise raises an alarm, or counts up the one that is open for the same thing.
// It never fails the act that found it: what cannot be written is logged.
func (s *Service) Raise(ctx context.Context, actor string, a Alarm) {}

// SetWebhook adds a webhook or changes the one with its name; an empty secret
// keeps or makes one, which is returned once.
func (s *Service) SetWebhook(ctx context.Context, by access.Caller, w Webhook) (set Webhook, secret string, err error) {
	return Webhook{}, "", errLater
}

// RemoveWebhook removes a webhook.
func (s *Service) RemoveWebhook(ctx context.Context, by access.Caller, name string) error {
	return errLater
}

// Webhooks returns all webhooks, without their secrets.
func (s *Service) Webhooks(ctx context.Context, by access.Caller) ([]Webhook, error) {
	return nil, errLater
}

// ReplayWebhook sets the cursor of a webhook back (or forth) to a ledger index.
func (s *Service) ReplayWebhook(ctx context.Context, by access.Caller, name string, from int64) error {
	return errLater
}

// CheckCertificate looks a certificate (DER) up that was seen somewhere. One that
// an authority of ours signed but no record names raises an alarm.
func (s *Service) CheckCertificate(ctx context.Context, by access.Caller, der []byte) (Checked, error) {
	return Checked{}, errLater
}

// Checked is what is known of a certificate.
type Checked struct {
	Ours        bool // an authority of ours signed it
	Unaccounted bool // and no record names it
	Credential  device.Credential
}

// KPIQuery selects what a report counts, by names; empty selects all. Days are
// UTC and included.
type KPIQuery struct {
	Order, Station, Site, Product string
	From, To                      time.Time
}

// Report is the KPIs of a selection.
type Report struct {
	FromDay, ToDay int64
	Issued         int64
	Confirmed      int64
	FirstPass      int64
	Scrapped       int64
	Failed         int64 // attempts
	// Success is Confirmed of Issued that are no longer under way, FirstPassYield
	// FirstPass of Confirmed and failed; between 0 and 1, 1 with nothing made.
	Success        float64
	SuccessGoal    float64
	GoalMet        bool
	FirstPassYield float64
	UnitsPerHour   float64
	TaktPerHour    float64 // of the order's takt, 0: none
	IssueP50       time.Duration
	IssueP99       time.Duration
	CycleP50       time.Duration
	CycleP99       time.Duration
	Failures       []FailureCount // most frequent first
	Days           []DayCount
}

// FailureCount is how often attempts ended with a code.
type FailureCount struct {
	Code  string // BM-8023
	Count int64
}

// DayCount is one day of a report.
type DayCount struct {
	Day       int64
	Issued    int64
	Confirmed int64
	Failed    int64
	Scrapped  int64
}

// KPIs returns the report of a selection.
func (s *Service) KPIs(ctx context.Context, by access.Caller, q KPIQuery) (Report, error) {
	return Report{}, errLater
}

// StationRef is the station that calls, as its session knows it.
type StationRef struct {
	ID      int64
	Name    string
	Site    int64
	Version int64
}

// Actor returns the ledger's name of the station.
func (r StationRef) Actor() string { return "station:" + r.Name }

// Status says what a station may do now.
func (s *Service) Status(ctx context.Context, st StationRef) (station.Status, error) {
	return station.Status{}, errLater
}

// DrawNonces gives a station nonces for units of an order.
func (s *Service) DrawNonces(ctx context.Context, st StationRef, q station.NoncesRequest) (station.Nonces, error) {
	return station.Nonces{}, errLater
}

// Confirm takes what a unit returned after provisioning. Many callers at once
// share a transaction.
func (s *Service) Confirm(ctx context.Context, st StationRef, c *station.Confirm) error {
	return errLater
}

// Scrap ends a unit; its certificates are revoked in the same transaction.
func (s *Service) Scrap(ctx context.Context, st StationRef, x *station.Scrap) error { return errLater }

// Failed counts an attempt that failed at the line.
func (s *Service) Failed(ctx context.Context, st StationRef, f *station.Failed) error {
	return errLater
}

// CountRefused counts a refusal of a unit by the server, by its code.
func (s *Service) CountRefused(ctx context.Context, st StationRef, orderNumber string, err error) {}

// CheckChips says whether chips may be used for an order, without using them.
func (s *Service) CheckChips(ctx context.Context, st StationRef, q station.ChipsRequest) ([]station.ChipAnswer, error) {
	return nil, errLater
}

// Run sweeps until the context ends. All nodes run it; one of them has the lease.
func (s *Service) Run(ctx context.Context) error { return errLater }

// Sweep ends units that nobody confirmed in time and erases what is no longer
// needed: wrapped keys, nonce blocks.
func (s *Service) Sweep(ctx context.Context) error { return errLater }

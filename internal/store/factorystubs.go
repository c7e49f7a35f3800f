package store

import (
	"context"
	"errors"
	"time"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

var errLater = errors.New("store: not here yet")

// Plane is to be written.
func (s *Store) Plane(ctx context.Context) (factory.Plane, error) { return factory.Plane{}, errLater }

// AddSite is to be written.
func (s *Store) AddSite(ctx context.Context, x factory.Site, entries ...ledger.Entry) (int64, error) {
	return 0, errLater
}

// Sites is to be written.
func (s *Store) Sites(ctx context.Context, scope access.Scope) ([]factory.Site, error) {
	return nil, errLater
}

// AddStation is to be written.
func (s *Store) AddStation(ctx context.Context, x factory.Station, entries ...ledger.Entry) (int64, error) {
	return 0, errLater
}

// Station is to be written.
func (s *Store) Station(ctx context.Context, scope access.Scope, id int64) (factory.Station, error) {
	return factory.Station{}, errLater
}

// StationByName is to be written.
func (s *Store) StationByName(ctx context.Context, scope access.Scope, name string) (factory.Station, error) {
	return factory.Station{}, errLater
}

// StationByCode is to be written.
func (s *Store) StationByCode(ctx context.Context, codeHash [32]byte) (factory.Station, error) {
	return factory.Station{}, errLater
}

// Stations is to be written.
func (s *Store) Stations(ctx context.Context, scope access.Scope) ([]factory.Station, error) {
	return nil, errLater
}

// UpdateStation is to be written.
func (s *Store) UpdateStation(ctx context.Context, x factory.Station, entries ...ledger.Entry) error {
	return errLater
}

// AddOrder is to be written.
func (s *Store) AddOrder(ctx context.Context, o factory.Order, entries ...ledger.Entry) (int64, error) {
	return 0, errLater
}

// Order is to be written.
func (s *Store) Order(ctx context.Context, scope access.Scope, id int64) (factory.Order, error) {
	return factory.Order{}, errLater
}

// OrderByNumber is to be written.
func (s *Store) OrderByNumber(ctx context.Context, scope access.Scope, number string) (factory.Order, error) {
	return factory.Order{}, errLater
}

// OrderByReference is to be written.
func (s *Store) OrderByReference(ctx context.Context, scope access.Scope, ref string) (factory.Order, error) {
	return factory.Order{}, errLater
}

// Orders is to be written.
func (s *Store) Orders(ctx context.Context, scope access.Scope, q factory.OrderQuery) ([]factory.Order, string, error) {
	return nil, "", errLater
}

// UpdateOrder is to be written.
func (s *Store) UpdateOrder(ctx context.Context, o factory.Order, entries ...ledger.Entry) error {
	return errLater
}

// LapseAllotted is to be written.
func (s *Store) LapseAllotted(ctx context.Context, order int64, limit int, at time.Time, entries func([]int64) []ledger.Entry) (int, error) {
	return 0, errLater
}

// PinSigner is to be written.
func (s *Store) PinSigner(ctx context.Context, x factory.Signer, entries ...ledger.Entry) (int64, error) {
	return 0, errLater
}

// WithdrawSigner is to be written.
func (s *Store) WithdrawSigner(ctx context.Context, id int64, at time.Time, entries ...ledger.Entry) error {
	return errLater
}

// Signers is to be written.
func (s *Store) Signers(ctx context.Context) ([]factory.Signer, error) { return nil, errLater }

// BeginManifest is to be written.
func (s *Store) BeginManifest(ctx context.Context, m factory.Manifest, entries ...ledger.Entry) (factory.Manifest, error) {
	return factory.Manifest{}, errLater
}

// StageChips is to be written.
func (s *Store) StageChips(ctx context.Context, manifest int64, chips []factory.Chip) ([]factory.Duplicate, error) {
	return nil, errLater
}

// PublishManifest is to be written.
func (s *Store) PublishManifest(ctx context.Context, m factory.Manifest, entries ...ledger.Entry) error {
	return errLater
}

// DiscardManifest is to be written.
func (s *Store) DiscardManifest(ctx context.Context, id int64, entries ...ledger.Entry) error {
	return errLater
}

// Manifest is to be written.
func (s *Store) Manifest(ctx context.Context, id int64) (factory.Manifest, error) {
	return factory.Manifest{}, errLater
}

// Manifests is to be written.
func (s *Store) Manifests(ctx context.Context, q factory.Page) ([]factory.Manifest, string, error) {
	return nil, "", errLater
}

// ChipID is to be written.
func (s *Store) ChipID(vendor, uid string) int64 { return 0 }

// Chip is to be written.
func (s *Store) Chip(ctx context.Context, id int64) (factory.Chip, error) {
	return factory.Chip{}, errLater
}

// ChipByKey is to be written.
func (s *Store) ChipByKey(ctx context.Context, spkiDigest [32]byte) (factory.Chip, error) {
	return factory.Chip{}, errLater
}

// FindChips is to be written.
func (s *Store) FindChips(ctx context.Context, uid string) ([]factory.Chip, error) {
	return nil, errLater
}

// Chips is to be written.
func (s *Store) Chips(ctx context.Context, q factory.ChipQuery) ([]factory.Chip, string, error) {
	return nil, "", errLater
}

// UpdateChip is to be written.
func (s *Store) UpdateChip(ctx context.Context, c factory.Chip, from factory.ChipState, entries ...ledger.Entry) error {
	return errLater
}

// BuildInto is to be written.
func (s *Store) BuildInto(ctx context.Context, scope access.Scope, system device.ID, components []device.ID, entries ...ledger.Entry) error {
	return errLater
}

// RaiseAlarm is to be written.
func (s *Store) RaiseAlarm(ctx context.Context, a factory.Alarm, entries ...ledger.Entry) (int64, bool, error) {
	return 0, false, errLater
}

// UpdateAlarm is to be written.
func (s *Store) UpdateAlarm(ctx context.Context, a factory.Alarm, entries ...ledger.Entry) error {
	return errLater
}

// Alarm is to be written.
func (s *Store) Alarm(ctx context.Context, scope access.Scope, id int64) (factory.Alarm, error) {
	return factory.Alarm{}, errLater
}

// Alarms is to be written.
func (s *Store) Alarms(ctx context.Context, scope access.Scope, q factory.AlarmQuery) ([]factory.Alarm, string, error) {
	return nil, "", errLater
}

// Count is to be written.
func (s *Store) Count(ctx context.Context, tallies []factory.Tally, entries ...ledger.Entry) error {
	return errLater
}

// Tallies is to be written.
func (s *Store) Tallies(ctx context.Context, scope access.Scope, q factory.TallyQuery) ([]factory.Tally, error) {
	return nil, errLater
}

// SetWebhook is to be written.
func (s *Store) SetWebhook(ctx context.Context, w factory.Webhook, entries ...ledger.Entry) (int64, error) {
	return 0, errLater
}

// RemoveWebhook is to be written.
func (s *Store) RemoveWebhook(ctx context.Context, id int64, entries ...ledger.Entry) error {
	return errLater
}

// Webhooks is to be written.
func (s *Store) Webhooks(ctx context.Context) ([]factory.Webhook, error) { return nil, errLater }

// MoveCursor is to be written.
func (s *Store) MoveCursor(ctx context.Context, id, cursor int64, failure string) error {
	return errLater
}

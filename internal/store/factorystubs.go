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

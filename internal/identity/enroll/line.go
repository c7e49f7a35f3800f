package enroll

import (
	"context"
	"errors"
	"io"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/pki/keypool"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// Line names what the road for stations and their units needs. All fields are
// required.
type Line struct {
	Store  LineStore
	Planes Planes
	// Keys are made ahead for units that cannot make their own.
	Keys   Keys
	Alarms Alarms
	Random io.Reader
}

// LineStore is what the road needs of the factory's record. Contracts as in
// factory.Store.
type LineStore interface {
	Station(ctx context.Context, s access.Scope, id int64) (factory.Station, error)
	StationByCode(ctx context.Context, codeHash [32]byte) (factory.Station, error)
	ChipID(vendor, uid string) int64
	Chip(ctx context.Context, id int64) (factory.Chip, error)
	FindChips(ctx context.Context, uid string) ([]factory.Chip, error)
	NonceBlock(ctx context.Context, id int64) (factory.NonceBlock, error)
	Unit(ctx context.Context, s access.Scope, id device.CredentialID) (factory.Unit, error)
	UnitByReference(ctx context.Context, order int64, reference string) (factory.Unit, error)
	WrappedKey(ctx context.Context, id device.CredentialID) ([]byte, error)
}

// Planes gives the factory's part of the control plane.
type Planes interface {
	// Plane returns the plane of this epoch, or a newer one if the epoch is past.
	// It costs a pointer read while the epoch stays.
	Plane(ctx context.Context, epoch int64) (*factory.Plane, error)
}

// Keys hands out private keys; each is handed out once.
type Keys interface {
	Take(ctx context.Context, t profile.KeyType) (*keypool.Key, error)
}

// Alarms takes what a person must look at. Raise neither fails nor waits.
type Alarms interface {
	Raise(a factory.Alarm)
}

func (l *Line) check() error {
	if l != nil && (l.Store == nil || l.Planes == nil || l.Keys == nil || l.Alarms == nil || l.Random == nil) {
		return errors.New("enroll: every field of Line is required")
	}
	return nil
}

// errNoLine is what an installation without a production line answers.
func errNoLine() error { return fault.New(fault.StationCertificate) }

package enroll

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/status"
	"github.com/birthmark/birthmark/internal/pki/keypool"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// Line names what the road for stations and their units needs. All fields but
// Packages are required.
type Line struct {
	Store  LineStore
	Planes Planes
	// Keys are made ahead for units that cannot make their own.
	Keys   Keys
	Alarms Alarms
	// Status ends the certificate of a station's computer that was replaced.
	Status Status
	Random io.Reader
	// Packages signs the keys that we make for EST's /serverkeygen, before they are
	// sealed (RFC 7030, section 4.4.2); nil: they are sealed unsigned.
	Packages PackageSigner
}

// PackageSigner signs as who made a key; statement.Signer has it.
type PackageSigner interface {
	Certificate() []byte // DER
	// Sign returns an ECDSA signature (DER) over the SHA-256 of a message.
	Sign(ctx context.Context, message []byte) ([]byte, error)
}

// LineStore is what the road needs of the factory's record. Contracts as in
// factory.Store.
type LineStore interface {
	StationByCode(ctx context.Context, codeHash [32]byte) (factory.Station, error)
	ChipID(vendor, uid string) int64
	Chip(ctx context.Context, id int64) (factory.Chip, error)
	FindChips(ctx context.Context, uid string) ([]factory.Chip, error)
	NonceBlock(ctx context.Context, id int64) (factory.NonceBlock, error)
	Unit(ctx context.Context, s access.Scope, id device.CredentialID) (factory.Unit, error)
	WrappedKey(ctx context.Context, id device.CredentialID) ([]byte, error)
	// OrderByNumber finds orders that are closed, too, which no plane has.
	OrderByNumber(ctx context.Context, s access.Scope, number string) (factory.Order, error)
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

// Status revokes certificates; status.Service has it.
type Status interface {
	Revoke(ctx context.Context, by access.Caller, a status.Act) (device.Credential, error)
}

// Alarms takes what a person must look at. Raise does not fail the act that
// found it; factory.Service has it.
type Alarms interface {
	Raise(ctx context.Context, actor string, a factory.Alarm)
}

func (l *Line) check() error {
	if l != nil && (l.Store == nil || l.Planes == nil || l.Keys == nil || l.Alarms == nil || l.Status == nil || l.Random == nil) {
		return errors.New("enroll: every field of Line is required")
	}
	return nil
}

// maxRaising is how many alarms are being written at once. The unit that caused
// one does not wait for it; what is beyond is in the log alone.
const maxRaising = 16

// raise raises an alarm beside the answer.
func (e *Enroller) raise(ctx context.Context, actor string, a factory.Alarm) {
	select {
	case e.raising <- struct{}{}:
	default:
		e.log.WarnContext(ctx, "too many alarms at once", "kind", a.Kind, "message", a.Message)
		return
	}
	ctx = context.WithoutCancel(ctx)
	go func() {
		defer func() { <-e.raising }()
		e.line.Alarms.Raise(ctx, actor, a)
	}()
}

// refreshes bounds how often a refusal makes us read the control plane anew: the
// change feed brings what other nodes changed, this only bridges the moment.
type refreshes struct{ newest atomic.Int64 }

const refreshEvery = time.Second

func (r *refreshes) allow(now time.Time) bool {
	newest, at := r.newest.Load(), now.UnixNano()
	if age := at - newest; age >= 0 && age < int64(refreshEvery) {
		return false
	}
	return r.newest.CompareAndSwap(newest, at)
}

// control is the control plane of one epoch: both of its parts.
type control struct {
	*authority.Snapshot
	line *factory.Plane
}

// controlAfter returns both parts of the control plane at one epoch, newer than
// the given one if there is a newer one. -1 takes what is in the process.
func (e *Enroller) controlAfter(ctx context.Context, epoch int64) (control, error) {
	snap, err := e.authorities.Snapshot(ctx)
	if err == nil && snap.Epoch <= epoch {
		snap, err = e.authorities.RefreshAfter(ctx, epoch)
	}
	for range decideTries {
		if err != nil {
			return control{}, err
		}
		line, err := e.line.Planes.Plane(ctx, snap.Epoch)
		if err != nil {
			return control{}, err
		}
		if line.Epoch == snap.Epoch {
			return control{snap, line}, nil
		}
		if snap, err = e.authorities.RefreshAfter(ctx, snap.Epoch); err != nil {
			return control{}, err
		}
	}
	return control{}, fault.New(fault.IssuanceBusy)
}

// newestRoad returns the way to certificates under the newest profile of a kind.
func (c control) newestRoad(kind profile.Kind) (*authority.Road, error) {
	var newest *authority.Road
	for _, r := range c.Roads() {
		if r.Profile != nil && r.Profile.Kind == kind && (newest == nil || r.Version.ID > newest.Version.ID) {
			newest = r
		}
	}
	if newest == nil {
		return nil, fault.New(fault.ProfileUnknown, "of kind", string(kind))
	}
	return newest, newest.Err()
}

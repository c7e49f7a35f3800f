// Package status answers whether a certificate is good: revoke, hold and
// release, the schedule of CRLs, and OCSP answers signed by a delegated
// responder. It follows the change feed, so that an answer is never older than
// the promises of docs/architecture.md.
package status

import (
	"context"
	"time"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// Revocation is a row of the list from which CRLs are made: a certificate that
// is revoked or on hold and has not expired, or did so a short while ago.
type Revocation struct {
	Credential device.CredentialID
	CertSerial []byte
	Authority  int64
	Shard      int
	At         time.Time
	Reason     int // CRL reason code, 6: certificateHold
	NotAfter   time.Time
}

// CRL is a signed list as it is published.
type CRL struct {
	Authority  int64
	Shard      int
	Number     int64 // restore epoch x 2^32 + counter
	ThisUpdate time.Time
	NextUpdate time.Time
	Entries    int
	DER        []byte
}

// Store keeps revocations and CRLs. Every writing method writes its entries in
// the same transaction and raises the device's version.
type Store interface {
	// Revoke moves a credential to device.Revoked (or device.Held for reason
	// 6) and adds it to the list of its shard: fault.AlreadyRevoked,
	// fault.CredentialUnknown. A held credential may be revoked. shards is the
	// authority's number of shards. When it has returned, nothing that was
	// decided while the credential was good is stored any more.
	Revoke(ctx context.Context, s access.Scope, r Revocation, entries ...ledger.Entry) error
	// Release moves a held credential back: fault.NotOnHold.
	Release(ctx context.Context, s access.Scope, id device.CredentialID, entries ...ledger.Entry) error
	// EndedOverlaps returns credentials that their successors have replaced for
	// as long as their profiles allow, at most limit. Revoke takes them off.
	EndedOverlaps(ctx context.Context, now time.Time, limit int) ([]device.CredentialID, error)
	// Revocations returns rows of one authority and shard in order of
	// credential id, at most limit, from the one after the cursor (0: start).
	Revocations(ctx context.Context, authority int64, shard int, after device.CredentialID, limit int) ([]Revocation, error)
	// PruneRevocations removes the rows of these credentials whose certificates
	// expired before a time, in short transactions. The ledger knows them still.
	PruneRevocations(ctx context.Context, authority int64, shard int, before time.Time, ids []device.CredentialID) error
	// ReserveCRLNumber returns a number above all that were reserved before for
	// this authority and shard, and the newest thisUpdate that was published.
	ReserveCRLNumber(ctx context.Context, authority int64, shard int) (number int64, notBefore time.Time, err error)
	// SaveCRL publishes c if its number is above the published one's. Large
	// lists are staged in parts and appear in one step.
	SaveCRL(ctx context.Context, c CRL, lease ledger.Lease, entries ...ledger.Entry) error
	// CurrentCRL returns the published list, or fault.CRLUnknown.
	CurrentCRL(ctx context.Context, authority int64, shard int) (CRL, error)
	// CurrentCRLNumber returns the published list without its bytes.
	CurrentCRLNumber(ctx context.Context, authority int64, shard int) (CRL, error)
}

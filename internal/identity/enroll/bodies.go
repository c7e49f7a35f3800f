package enroll

import (
	"crypto/sha256"

	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// issuedBody is the leaf of an issuance: the certificate's row and what became
// of its device.
func issuedBody(i *device.Issuance, d *decision) ledger.Body {
	c := &i.Credential
	return &ledger.Issued{
		Credential: int64(c.ID), CertSerial: c.CertSerial, Authority: c.Authority, AuthorityName: d.road.Authority.Name,
		Profile: c.Profile, ProfileName: d.road.Version.Name, ProfileVersion: int64(d.road.Version.Version),
		Kind: c.Kind, Purpose: c.Purpose, Device: int64(c.Device), DeviceSerial: d.requester.device.DeviceSerial,
		DeviceVersion: i.Change.Version + 1, DeviceState: uint8(i.Change.State), Slot: string(i.Change.Slot),
		SecretSpent: i.Change.SpendSPKI != nil, Supersedes: int64(i.Change.Supersedes),
		Product: c.Product, Site: c.Site, Owner: c.Owner, KeyKind: uint8(c.KeyKind),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, SPKI: c.SPKIDigest, DER: sha256.Sum256(c.DER),
		Idempotency: c.Idempotency, Previous: int64(c.Previous), Approval: i.Approval,
	}
}

func confirmedBody(c *device.Credential) ledger.Body {
	return &ledger.Confirmed{Credential: int64(c.ID), Device: int64(c.Device)}
}

func stationIssuedBody(c *device.Credential, d *stationDecision) ledger.Body {
	return &ledger.Issued{
		Credential: int64(c.ID), CertSerial: c.CertSerial, Authority: c.Authority, AuthorityName: d.road.Authority.Name,
		Profile: c.Profile, ProfileName: d.road.Version.Name, ProfileVersion: int64(d.road.Version.Version),
		Kind: c.Kind, Purpose: c.Purpose, Site: c.Site, KeyKind: uint8(c.KeyKind), NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		SPKI: c.SPKIDigest, DER: sha256.Sum256(c.DER), Idempotency: c.Idempotency, Previous: int64(c.Previous),
		SecretSpent: d.code != nil,
	}
}

// unitEntries are the leaves of a unit's identity: its device, if it is new, its
// certificate, and the unit.
func unitEntries(i *device.Issuance, a *attempt) []ledger.Entry {
	c, u := &i.Credential, i.Unit
	actor := stationActor(a.station)
	entry := func(kind ledger.Kind, body ledger.Body) ledger.Entry {
		return ledger.Entry{Kind: kind, At: c.IssuedAt, Actor: actor, Body: body}
	}
	entries := make([]ledger.Entry, 0, 4)
	issued := &ledger.Issued{
		Credential: int64(c.ID), CertSerial: c.CertSerial, Authority: c.Authority, Profile: c.Profile,
		ProfileName: a.road.Version.Name, ProfileVersion: int64(a.road.Version.Version), Kind: c.Kind,
		Device: int64(c.Device), DeviceSerial: a.unit.DeviceSerial, Slot: string(device.IDevIDSlot),
		Product: c.Product, Site: c.Site, Owner: c.Owner, KeyKind: uint8(c.KeyKind), NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		SPKI: c.SPKIDigest, DER: sha256.Sum256(c.DER), Idempotency: c.Idempotency, Previous: int64(c.Previous),
	}
	if c.Authority != 0 {
		issued.AuthorityName = a.road.Authority.Name
	}
	if d := u.New; d != nil {
		issued.DeviceVersion, issued.DeviceState = d.Version, uint8(d.State)
		entries = append(entries, entry(ledger.DeviceRegistered, &ledger.Registered{
			Device: int64(d.ID), DeviceSerial: d.DeviceSerial, Product: d.Product, Version: d.Version - 1,
			State: uint8(d.State), Site: d.Site,
		}))
	} else {
		issued.DeviceVersion, issued.DeviceState = i.Change.Version+1, uint8(i.Change.State)
	}
	entries = append(entries, entry(ledger.CertificateIssued, issued))
	if i.Attestation != nil {
		entries = append(entries, keptEntry(i, actor))
	}
	return append(entries, entry(ledger.UnitIssued, &ledger.IssuedUnit{
		Credential: int64(c.ID), Order: u.Order, Device: int64(c.Device), Station: u.Station, Chip: u.Chip,
		Spare: u.Replaces != 0, Replaces: int64(u.Replaces), Reference: u.Reference, Evidence: u.Evidence,
		NonceBlock: u.Nonce.Block, NonceIndex: int64(u.Nonce.Index), ConfirmNonce: u.ConfirmNonce,
	}))
}

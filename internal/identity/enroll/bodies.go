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

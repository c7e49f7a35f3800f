package enroll

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/pki/issuing"
)

// keptWrapped is how long a wrapped key is kept for a unit that is not confirmed.
const keptWrapped = 24 * time.Hour

// reasonSuperseded is the CRL reason of an identity that a rework ended (RFC
// 5280, section 5.3.1).
const reasonSuperseded = 4

// answeredUnit answers a unit that was asked for before from the record: the same
// serial of the same order with the same key, whatever the nonce. It returns
// nothing when the unit is to be decided on.
func (e *Enroller) answeredUnit(ctx context.Context, a *attempt) (*UnitResponse, error) {
	u := a.former
	if u == nil || !living(u) || u.Order != a.order.ID {
		return nil, nil
	}
	c, err := e.devices.Credential(ctx, access.Everything(), u.ID)
	if err != nil {
		return nil, err
	}
	same, err := e.sameRequest(ctx, a, &c)
	if err != nil || !same {
		return nil, err
	}
	answer := &UnitResponse{
		Response: Response{Credential: c, Chain: a.chain(&c), Replayed: true},
		Unit:     *u, ConfirmNonce: u.ConfirmNonce,
	}
	if a.product.KeyModel != device.KeyModelInjected {
		return answer, nil
	}
	if answer.Wrapped, err = e.line.Store.WrappedKey(ctx, u.ID); err != nil {
		return nil, err
	}
	if !a.sealing.opens(answer.Wrapped) {
		return nil, fault.New(fault.UnitSerialTaken, a.unit.DeviceSerial, "has a key under another password")
	}
	return answer, nil
}

// sameRequest reports whether c answers the request: it is for the same key or,
// where we made that, for the same recipient.
func (e *Enroller) sameRequest(ctx context.Context, a *attempt, c *device.Credential) (bool, error) {
	switch a.product.KeyModel {
	case device.KeyModelOnDevice:
		if err := a.parse(); err != nil {
			return false, err
		}
		return a.csr.SPKIDigest == c.SPKIDigest, nil
	case device.KeyModelProvisioned, device.KeyModelAdopted:
		if err := e.findChip(ctx, a); err != nil || a.chipKey == nil {
			return false, err
		}
		return sha256.Sum256(a.chipKey.SPKI) == c.SPKIDigest, nil
	}
	if a.unit.Rework != nil && a.former.State == factory.UnitConfirmed {
		return false, nil // it is the unit that is to be reworked
	}
	var err error
	if a.sealing, err = sealingOf(a.unit); err != nil {
		return false, err
	}
	return a.idempotency() == c.Idempotency, nil
}

// idempotency stands for the same request of a unit again.
func (a *attempt) idempotency() [32]byte {
	h := sha256.New()
	field := func(b []byte) {
		h.Write([]byte{byte(len(b) >> 8), byte(len(b))})
		h.Write(b)
	}
	field([]byte("birthmark unit v1"))
	field([]byte(a.order.Number))
	field([]byte(a.unit.DeviceSerial))
	field([]byte(a.product.KeyModel))
	if a.product.KeyModel != device.KeyModelInjected {
		field(a.made.digest[:])
		return [32]byte(h.Sum(nil))
	}
	to := a.sealing.digest()
	field([]byte(a.sealing.form))
	field(to[:])
	field([]byte(a.unit.Reference))
	if a.unit.Rework != nil {
		field([]byte(a.unit.Rework.Reason))
	}
	return [32]byte(h.Sum(nil))
}

// chain returns what stands above a unit's certificate.
func (a *attempt) chain(c *device.Credential) [][]byte {
	if c.Authority != 0 {
		if m, ok := a.control.AuthorityByID(c.Authority); ok {
			return m.Chain
		}
	}
	if a.chipKey != nil && len(a.chipKey.Chain) > 0 {
		return a.chipKey.Chain[1:]
	}
	return nil
}

// issueUnit signs and stores. What STORE refuses has been signed but never leaves
// this function; its serial stays on record as abandoned.
func (e *Enroller) issueUnit(ctx context.Context, a *attempt) (*UnitResponse, error) {
	i, err := e.unitIssuance(ctx, a)
	if err != nil {
		return nil, err
	}
	stored, err := e.devices.StoreIssuance(ctx, *i)
	if err == nil {
		return a.response(i, stored), nil
	}
	if errors.Is(err, device.ErrStale) {
		return nil, err
	}
	conflict, keyTaken := errors.AsType[*device.KeyConflict](err)
	if _, refused := errors.AsType[*fault.Error](err); !refused && !keyTaken {
		return nil, err
	}
	// The same request may have been stored a moment ago.
	if findErr := e.findDevice(ctx, a); findErr == nil {
		if answer, answerErr := e.answeredUnit(ctx, a); answer != nil || answerErr != nil {
			return answer, answerErr
		}
	}
	if keyTaken {
		e.log.WarnContext(ctx, "public key of another device in a unit's request", "device", i.Credential.Device.String(),
			"holder", conflict.Existing.Device.String(), "fault", fault.KeyInUse.String())
		return nil, fault.New(fault.KeyInUse)
	}
	return nil, err
}

// unitIssuance makes the certificate and everything that STORE takes with it.
func (e *Enroller) unitIssuance(ctx context.Context, a *attempt) (*device.Issuance, error) {
	now := e.now()
	leased, err := e.authorities.NextSerial(ctx)
	if err != nil {
		return nil, err
	}
	id := e.devices.DeviceID(a.unit.DeviceSerial)
	c := device.Credential{
		ID: leased.ID, CertSerial: leased.Bytes, Profile: a.road.Version.ID, Kind: string(a.road.Profile.Kind),
		Device: id, Product: a.product.ID, Site: a.order.Site, State: device.Issued, KeyKind: a.made.kind,
		SPKIDigest: a.made.digest, Idempotency: a.idempotency(), IssuedAt: now,
	}
	u := &device.UnitIssue{
		Order: a.order.ID, Station: a.station.ID, Nonce: a.nonce, Reference: a.unit.Reference, Evidence: string(a.shown.kind),
		IssueTime: now.Sub(a.begun),
	}
	if a.chip != nil {
		u.Chip = a.chip.ID
	}
	if _, err := io.ReadFull(e.line.Random, u.ConfirmNonce[:]); err != nil {
		return nil, fmt.Errorf("nonce of a confirmation: %w", err)
	}
	i := &device.Issuance{Lease: leased.Lease, ControlEpoch: a.control.Epoch, Unit: u}
	a.bind(i, &c)
	if err := a.certify(&c, now); err != nil {
		return nil, err
	}
	if a.made.injected != nil {
		u.WrappedUntil = now.Add(keptWrapped)
		u.Wrapped, err = a.sealing.seal(a.made.injected.PKCS8(), c.DER, a.road.Chain, e.line.Random)
		if err != nil {
			return nil, err
		}
	}
	i.Credential = c
	if a.hardware != nil {
		if i.Attestation, err = a.hardware.attestation(); err != nil {
			return nil, err
		}
	}
	i.Entries = unitEntries(i, a)
	return i, nil
}

// bind ties the certificate to its device: a new one, or one that is registered
// and may have a unit that ends.
func (a *attempt) bind(i *device.Issuance, c *device.Credential) {
	if a.device == nil {
		i.Unit.New = &device.Device{
			ID: c.Device, DeviceSerial: a.unit.DeviceSerial, Product: c.Product, Site: c.Site, State: device.Registered, Version: 2,
			Current: map[device.Slot]device.CredentialID{device.IDevIDSlot: c.ID}, Order: a.order.ID, Chip: i.Unit.Chip,
			RegisteredAt: c.IssuedAt, ChangedAt: c.IssuedAt,
		}
		return
	}
	d := a.device
	c.Site, c.Owner, c.Previous = d.Site, d.Owner, d.Current[device.IDevIDSlot]
	i.Change = &device.Change{ID: d.ID, Version: d.Version, From: d.State, State: d.State, Slot: device.IDevIDSlot}
	if a.former != nil && living(a.former) {
		i.Unit.Replaces, i.Unit.ReplacesReason, i.Unit.ReplacesNote = a.former.ID, reasonSuperseded, a.unit.Rework.Reason
	}
}

// certify issues the certificate, or takes the chip maker's.
func (a *attempt) certify(c *device.Credential, now time.Time) (err error) {
	if leaf := a.made.adopted; leaf != nil {
		c.NotBefore, c.NotAfter, c.DER = leaf.NotBefore, leaf.NotAfter, leaf.Raw
		return nil
	}
	c.Authority = a.road.Authority.ID
	if c.NotBefore, c.NotAfter, err = a.road.Compiled.Validity(now); err != nil {
		return err
	}
	values := a.road.Values(&device.Device{ID: c.Device, DeviceSerial: a.unit.DeviceSerial, Product: c.Product})
	values.Site = siteName(a.control.line, a.order.Site)
	switch {
	case a.hardware != nil:
		a.hardware.name(&values)
	case a.chip != nil:
		values.HardwareSerial = a.chip.UID
	}
	c.DER, err = a.road.Compiled.Issue(issuing.Input{
		CertSerial: c.CertSerial, NotBefore: c.NotBefore, NotAfter: c.NotAfter, Values: values, SPKI: a.made.spki,
	})
	return err
}

// response is the answer for a unit that was stored.
func (a *attempt) response(i *device.Issuance, c device.Credential) *UnitResponse {
	u := i.Unit
	chain := a.road.Chain
	if a.made.adopted != nil {
		chain = a.made.chain
	}
	return &UnitResponse{
		Response: Response{Credential: c, Chain: slices.Clip(chain)}, ConfirmNonce: u.ConfirmNonce, Wrapped: u.Wrapped,
		Unit: factory.Unit{
			ID: c.ID, Order: u.Order, Device: c.Device, DeviceSerial: a.unit.DeviceSerial, Chip: u.Chip, Station: u.Station,
			State: factory.UnitIssued, Spare: u.Replaces != 0, Reference: u.Reference, Evidence: u.Evidence,
			ConfirmNonce: u.ConfirmNonce, IssuedAt: c.IssuedAt,
		},
	}
}

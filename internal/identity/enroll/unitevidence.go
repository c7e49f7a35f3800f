package enroll

import (
	"context"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// proveUnit judges the answer of a unit's TPM, in the order of proof: the key that
// it certified is the unit's. The manifest's entry is looked up by the EK, since a
// TPM has no other number that it can prove.
func (e *Enroller) proveUnit(ctx context.Context, a *attempt) error {
	a.chip, a.chipKey, a.hardware = nil, nil, nil
	switch {
	case e.attest == nil:
		return fault.New(fault.TicketInvalid)
	case a.product.KeyModel != device.KeyModelOnDevice:
		return fault.New(fault.KeyModel, "the units of", a.product.Name, "show no TPM")
	case a.unit.Chip != nil || len(a.unit.Nonce) > 0 || len(a.unit.Proof) > 0:
		return fault.New(fault.ParameterInvalid, "a unit shows its TPM or another chip, not both")
	}
	if err := a.parse(); err != nil {
		return err
	}
	if !a.road.Profile.Allows(a.csr.KeyType) {
		return fault.New(fault.KeyNotAllowed, string(a.csr.KeyType))
	}
	m, err := e.makersAt(ctx, a.control.Epoch)
	if err != nil {
		return err
	}
	if a.hardware, err = e.openAnswer(ctx, m, a.product.ID, a.unit.TPM, a.asked(e)); err != nil {
		return err
	}
	if err := a.hardware.proveKey(m, a.unit.TPM, a.csr.SPKI, a.product.ID); err != nil {
		return err
	}
	err = e.place(ctx, a.hardware, e.devices.DeviceID(a.unit.DeviceSerial), func(c *factory.Chip) error { return e.unitFits(a, c) })
	if err != nil {
		return err
	}
	if a.chip = a.hardware.chip; a.chip == nil {
		if err := e.unitFits(a, nil); err != nil {
			return err
		}
	}
	a.shown = a.hardware.conclude(a.unit.TPM, a.csr.SPKI, e.now())
	a.made = made{spki: a.csr.SPKI, digest: a.csr.SPKIDigest, kind: device.KeyHardware}
	return a.need.check(a.shown)
}

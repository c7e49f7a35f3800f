package enroll

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/pki/profile"
	"github.com/birthmark/birthmark/internal/pki/request"
)

// UnitResponse is the initial identity of a unit. Its Chain is that of the
// certificate, also when a chip maker issued it.
type UnitResponse struct {
	Response
	Unit         factory.Unit
	ConfirmNonce [32]byte // for proof.Confirm
	Wrapped      []byte   // the injected key in the form that was asked for
}

// attempt is one unit on its way to an identity.
type attempt struct {
	session *StationSession
	unit    *station.Unit
	begun   time.Time
	// challenging is set while a challenge is asked for.
	challenging bool

	// The decision's grounds, read anew for each try.
	control control
	station *factory.Station
	order   *factory.Order
	product device.Product
	road    *authority.Road
	device  *device.Device // nil: not registered
	former  *factory.Unit  // the device's newest unit; nil: none

	chip     *factory.Chip
	chipKey  *factory.ChipKey
	nonce    device.NonceRef
	need     need
	shown    shown
	hardware *hardware        // what a TPM showed; nil: nothing
	made     made             // the key that the certificate is for
	csr      *request.Request // parsed once
	sealing  *sealing         // of an injected key
}

// EnrollUnit gives one unit of a production order its initial identity. Many
// goroutines may call it for one session.
func (e *Enroller) EnrollUnit(ctx context.Context, s *StationSession, u *station.Unit) (*UnitResponse, error) {
	if e.line == nil {
		return nil, fault.New(fault.StationCertificate)
	}
	if err := e.mayIssue(); err != nil {
		return nil, err
	}
	a := &attempt{session: s, unit: u, begun: e.now()}
	defer a.made.erase()
	var answer *UnitResponse
	err := e.eachEpoch(ctx, a, func(epoch int64) (err error) {
		answer, err = e.tryUnit(ctx, a, epoch)
		return err
	})
	return answer, err
}

// eachEpoch tries until the control plane stands still, and puts down what a
// refusal that stands tells. try is given the epoch that is past.
func (e *Enroller) eachEpoch(ctx context.Context, a *attempt, try func(epoch int64) error) error {
	epoch := int64(-1)
	for range decideTries {
		err := try(epoch)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, device.ErrStale):
			epoch = a.control.Epoch
		case e.mayBeOld(err) && epoch < a.control.Epoch:
			newer, refreshErr := e.controlAfter(ctx, a.control.Epoch)
			if refreshErr != nil || newer.Epoch == a.control.Epoch {
				return e.refuseUnit(ctx, a, err)
			}
			epoch = a.control.Epoch
		default:
			return e.refuseUnit(ctx, a, err)
		}
	}
	return fault.New(fault.IssuanceBusy)
}

// refuseUnit raises an alarm where somebody must look at a refusal, and puts down
// that evidence was refused.
func (e *Enroller) refuseUnit(ctx context.Context, a *attempt, err error) error {
	e.alarm(ctx, a, err)
	if e.attest == nil || a.station == nil || a.order == nil || a.unit.TPM == nil && !a.challenging {
		return err
	}
	return e.refuse(ctx, refusedUnit(a, err))
}

// groundUnit finds what the decision is about, under one epoch.
func (e *Enroller) groundUnit(ctx context.Context, a *attempt, epoch int64) (err error) {
	if a.control, err = e.controlAfter(ctx, epoch); err != nil {
		return err
	}
	if err := a.session.Check(ctx); err != nil {
		return err
	}
	return e.ground(ctx, a)
}

// tryUnit decides once, under one epoch, and issues.
func (e *Enroller) tryUnit(ctx context.Context, a *attempt, epoch int64) (*UnitResponse, error) {
	if err := e.groundUnit(ctx, a, epoch); err != nil {
		return nil, err
	}
	if answer, err := e.answeredUnit(ctx, a); answer != nil || err != nil {
		return answer, err
	}
	if err := e.decideUnit(ctx, a); err != nil {
		return nil, err
	}
	return e.issueUnit(ctx, a)
}

// ground finds what the decision is about: station, order, product, profile and
// device. What an order or a station of another site is stays hidden.
func (e *Enroller) ground(ctx context.Context, a *attempt) error {
	st, ok := a.control.line.Station(a.session.newest.Load().station.ID)
	if !ok {
		return fault.New(fault.StationCertificate)
	}
	a.station = st
	if a.order, ok = a.control.line.Order(a.unit.Order); !ok {
		closed, err := e.line.Store.OrderByNumber(ctx, access.Everything(), a.unit.Order)
		if err != nil {
			return err
		}
		a.order = &closed
	}
	if err := factory.MayWork(a.station, a.order); err != nil {
		return err
	}
	if a.product, ok = a.control.Product(a.order.Product); !ok {
		return fault.New(fault.ProductUnknown)
	}
	if a.product.KeyModel == device.KeyModelNone || a.product.IDevIDProfile == "" {
		return fault.New(fault.KeyModel, "units of", a.product.Name, "are not made at stations")
	}
	if err := device.CheckSerial(a.unit.DeviceSerial); err != nil {
		return err
	}
	if err := factory.CheckUnit(a.unit); err != nil {
		return err
	}
	return e.findDevice(ctx, a)
}

// findDevice reads the device of the serial, if it is registered, and its newest
// unit.
func (e *Enroller) findDevice(ctx context.Context, a *attempt) error {
	a.device, a.former = nil, nil
	d, err := e.devices.Device(ctx, access.Everything(), e.devices.DeviceID(a.unit.DeviceSerial))
	if fault.Has(err, fault.DeviceUnknown) {
		return nil
	}
	if err != nil {
		return err
	}
	if d.DeviceSerial != a.unit.DeviceSerial || d.Product != a.product.ID {
		return fault.New(fault.UnitSerialTaken, a.unit.DeviceSerial)
	}
	a.device = &d
	id := d.Current[device.IDevIDSlot]
	if id == 0 {
		return nil
	}
	u, err := e.line.Store.Unit(ctx, access.Everything(), id)
	if fault.Has(err, fault.UnitUnknown) { // an identity that no station asked for
		return fault.New(fault.UnitSerialTaken, a.unit.DeviceSerial)
	}
	a.former = &u
	return err
}

// decideUnit says why the unit gets no identity, or what it gets. Cheap questions
// come first; the two signatures last.
func (e *Enroller) decideUnit(ctx context.Context, a *attempt) error {
	if err := factory.MayMake(a.order); err != nil {
		return err
	}
	if err := a.checkFormer(); err != nil {
		return err
	}
	err := a.chooseRoad()
	if err != nil {
		return err
	}
	a.nonce, a.shown = device.NonceRef{}, shown{}
	if len(a.unit.Nonce) > 0 {
		if a.nonce, err = e.checkNonce(ctx, a.unit.Nonce, a.order.ID, a.station.ID); err != nil {
			return err
		}
	}
	if a.unit.TPM != nil {
		return e.proveUnit(ctx, a)
	}
	if err := e.findChip(ctx, a); err != nil {
		return err
	}
	if err := e.unitFits(a, a.chip); err != nil {
		return err
	}
	return e.decideKey(ctx, a)
}

// chooseRoad finds the way to the product's initial identities, and what it
// demands.
func (a *attempt) chooseRoad() (err error) {
	if a.road, err = a.control.Road(a.product.IDevIDProfile); err != nil {
		return err
	}
	p := a.road.Profile
	if p.Kind != profile.KindIDevID || p.RequireApproval {
		return fault.New(fault.ProfileNotAllowed, p.Name, "is not for units of a production order")
	}
	a.need, err = needed(p.RequireHardware, a.product.LeastEvidence, p.LeastEvidence)
	return err
}

// unitFits says why the unit may not have an identity, or this chip.
func (e *Enroller) unitFits(a *attempt, chip *factory.Chip) error {
	return factory.MayIssue(a.control.line, &factory.Attempt{
		Station: a.station, Order: a.order, Product: &a.product, DeviceSerial: a.unit.DeviceSerial,
		Device: e.devices.DeviceID(a.unit.DeviceSerial), Chip: chip,
	})
}

// checkFormer says whether the serial may have another unit: only as a rework of
// the same order, or when the unit before has ended and the device may live on.
func (a *attempt) checkFormer() error {
	switch {
	case a.device == nil && a.unit.Rework != nil:
		return fault.New(fault.UnitUnknown, "there is nothing to rework")
	case a.device == nil:
		return nil
	case !a.mayBeMade():
		return fault.New(fault.DeviceState, a.device.State.String())
	case a.former == nil:
		if a.device.Site != 0 && a.device.Site != a.order.Site {
			return fault.New(fault.UnitSerialTaken, a.unit.DeviceSerial)
		}
		return nil
	case !living(a.former):
		return nil
	case a.unit.Rework == nil || a.former.Order != a.order.ID:
		return fault.New(fault.UnitSerialTaken, a.unit.DeviceSerial)
	}
	return nil
}

// mayBeMade reports whether the device is still, or again, at the factory: what
// left it is reworked when an operator has put it in repair, so that a line can
// neither copy nor end devices that customers have.
func (a *attempt) mayBeMade() bool {
	switch a.device.State {
	case device.Registered, device.Provisioned:
		return true
	case device.InRepair:
		return a.unit.Rework != nil
	}
	return false
}

func living(u *factory.Unit) bool {
	return u.State == factory.UnitIssued || u.State == factory.UnitConfirmed
}

// mayBeOld reports whether a change of the control plane may lift a refusal: what
// another node did a moment ago is not refused here.
func (e *Enroller) mayBeOld(err error) bool {
	f, ok := errors.AsType[*fault.Error](err)
	return ok && (slices.Contains(ofControlPlane, f.Code) || slices.Contains(ofLine, f.Code)) && e.refreshes.allow(e.now())
}

// ofLine are refusals that a change of orders, stations and products can lift.
var ofLine = []fault.Code{
	fault.OrderUnknown, fault.OrderState, fault.OrderFrozen, fault.StationNotAssigned, fault.UnitSerialRange,
	fault.ChipOtherProduct, fault.KeyModel,
}

// alarm raises what a refusal tells of somebody who must look at it.
func (e *Enroller) alarm(ctx context.Context, a *attempt, err error) {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || a.station == nil || a.order == nil {
		return
	}
	x := factory.Alarm{Order: a.order.ID, Station: a.station.ID, Product: a.order.Product, Site: a.station.Site}
	who := "station " + a.station.Name
	switch f.Code {
	case fault.ChipUsed, fault.TPMOfOther:
		x.Kind, x.Key = factory.AlarmChipReused, chipText(a)
		x.Message = "chip " + x.Key + " belongs to another device and was shown for " + a.unit.DeviceSerial + " by " + who
	case fault.KeyInUse, fault.KeyOfIDevID:
		x.Kind, x.Key = factory.AlarmKeyReused, spkiText(a.made.digest)
		x.Message = "the public key of another device was shown for " + a.unit.DeviceSerial + " by " + who
	case fault.OrderFull, fault.SparesUsed:
		x.Kind, x.Key = factory.AlarmOrderFull, a.order.Number
		x.Message = who + " asked for a unit beyond order " + a.order.Number
	case fault.StationNotAssigned, fault.OrderUnknown: // there is such an order, but at another site
		x.Kind, x.Key = factory.AlarmStation, a.station.Name+"/"+a.order.Number
		x.Message = who + " acted outside its orders: " + a.order.Number
		x.Order, x.Product = 0, 0
	default:
		return
	}
	e.raise(ctx, stationActor(a.station), x)
}

func spkiText(digest [32]byte) string { return hex.EncodeToString(digest[:]) }

// chipText names the chip that a refusal is about.
func chipText(a *attempt) string {
	switch {
	case a.hardware != nil && a.hardware.tpm != nil:
		return "tpm/" + spkiText(a.hardware.tpm.EK)
	case a.chip != nil:
		return a.chip.Vendor + "/" + a.chip.UID
	case a.unit.Chip != nil:
		return a.unit.Chip.UID
	}
	return ""
}

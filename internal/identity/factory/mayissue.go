package factory

import (
	"slices"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/device"
)

// Attempt is a unit that a station wants an identity for, with all that the
// decision rests on besides counts, nonce and proof.
type Attempt struct {
	Station      *Station
	Order        *Order
	Product      *device.Product // of the order
	DeviceSerial string
	Device       device.ID // of the device serial, registered or not
	Chip         *Chip     // nil: none was named
}

// MayIssue says why the unit may not have an identity; nil if it may. It looks
// at no count: those are kept in STORE, where no race can pass them.
func MayIssue(p *Plane, a *Attempt) error {
	if err := MayWork(a.Station, a.Order); err != nil {
		return err
	}
	if err := MayMake(a.Order); err != nil {
		return err
	}
	if err := p.serialFits(a); err != nil {
		return err
	}
	return chipFits(a)
}

// maxReference is how long a station's own name of a unit may be.
const maxReference = 255

// CheckUnit refuses words of a station that people could not read in a list.
func CheckUnit(u *station.Unit) error {
	if !printable(u.Reference, maxReference) {
		return fault.New(fault.ParameterInvalid, "the reference is too long or has control characters")
	}
	if u.Rework == nil {
		return nil
	}
	return needReason(u.Rework.Reason)
}

// MayWork says why a station may not do anything for an order. An order of
// another site is refused like one that is not there.
func MayWork(st *Station, o *Order) error {
	switch {
	case st.State != StationActive:
		return fault.New(fault.StationState, st.State.String())
	case st.Site != o.Site: // what other sites make is none of its business
		return fault.New(fault.OrderUnknown)
	case !slices.Contains(o.Stations, st.ID):
		return fault.New(fault.StationNotAssigned, o.Number)
	}
	return nil
}

// MayMake says why no unit may be made under an order now.
func MayMake(o *Order) error {
	switch {
	case o.Frozen:
		return fault.New(fault.OrderFrozen, o.Number)
	case o.State != OrderOpen:
		return fault.New(fault.OrderState, o.Number, "is", o.State.String())
	}
	return nil
}

// serialFits holds the device serial against the order's range and the
// product's pattern.
func (p *Plane) serialFits(a *Attempt) error {
	if err := device.CheckSerial(a.DeviceSerial); err != nil {
		return err
	}
	if !a.Order.Includes(a.DeviceSerial) {
		return fault.New(fault.UnitSerialRange, a.DeviceSerial, "is not within", a.Order.SerialFrom, "to", a.Order.SerialTo)
	}
	if a.Product.SerialPattern == "" {
		return nil
	}
	re, err := p.pattern(a.Product.SerialPattern)
	if err != nil {
		return fault.Wrap(fault.UnitSerialRange, err, "the product's serial pattern does not compile")
	}
	if !re.MatchString(a.DeviceSerial) {
		return fault.New(fault.UnitSerialRange, a.DeviceSerial, "does not match the product's pattern")
	}
	return nil
}

// Includes reports whether a device serial is in the order's range. Text is
// compared, so only serials as long as the range's ends are in it; where both ends
// have a digit it has one too.
func (o *Order) Includes(deviceSerial string) bool {
	if o.SerialFrom == "" && o.SerialTo == "" {
		return true
	}
	if len(deviceSerial) != len(o.SerialFrom) || deviceSerial < o.SerialFrom || deviceSerial > o.SerialTo {
		return false
	}
	for i := range deviceSerial {
		if digit(o.SerialFrom[i]) && digit(o.SerialTo[i]) && !digit(deviceSerial[i]) {
			return false
		}
	}
	return true
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// NeedsChip reports whether units of a product have a chip that a manifest
// lists and that must prove itself.
func NeedsChip(p *device.Product) bool {
	return p.LeastEvidence == "chip" || p.KeyModel == device.KeyModelProvisioned || p.KeyModel == device.KeyModelAdopted
}

// ChipTypesFor returns the chip types that units of an order may have.
func ChipTypesFor(o *Order, p *device.Product) []string {
	if len(o.ChipTypes) > 0 {
		return o.ChipTypes
	}
	return p.ChipTypes
}

func chipFits(a *Attempt) error {
	if a.Chip == nil {
		if NeedsChip(a.Product) {
			return fault.New(fault.ChipProofMissing)
		}
		return nil
	}
	return ChipFits(a.Order, a.Product, a.Device, a.Chip)
}

// ChipFits says why a chip may not be used for a device under an order. The
// chip that the device has already may.
func ChipFits(o *Order, p *device.Product, dev device.ID, c *Chip) error {
	switch c.State {
	case ChipWithdrawn:
		return fault.New(fault.ChipWithdrawn, c.UID)
	case ChipUsed:
		if dev == 0 || c.Device != dev {
			return fault.New(fault.ChipUsed, c.UID)
		}
	case ChipAllotted:
		if c.Order != o.ID {
			return fault.New(fault.ChipOtherOrder, c.UID)
		}
	case ChipNotProvable:
		if NeedsChip(p) {
			return fault.New(fault.ChipNotProvable, c.UID)
		}
	case ChipListed:
	default:
		return fault.New(fault.ChipUnknown, c.UID)
	}
	if c.Product != 0 && c.Product != o.Product || !slices.Contains(ChipTypesFor(o, p), c.ChipType) {
		return fault.New(fault.ChipOtherProduct, c.UID, "is a", c.ChipType)
	}
	return nil
}

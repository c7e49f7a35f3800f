package factory

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/manifest"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

const (
	shipAtOnce = 500
	// maxShip is how many devices one call ships, and maxComponents how many are
	// built into a system at once.
	maxShip       = 100_000
	maxComponents = 500
)

// Ship notes devices as shipped. All are looked at first: if one of them cannot
// be shipped, none is, and those that cannot are returned with the refusal.
// Devices that are shipped already are left alone.
func (s *Service) Ship(ctx context.Context, by access.Caller, deviceSerials []string) (shipped int, refused []string, err error) {
	if len(deviceSerials) < 1 || len(deviceSerials) > maxShip {
		return 0, nil, fault.New(fault.ParameterInvalid, "1 to", maxShip, "devices at a time")
	}
	ids := make([]device.ID, 0, len(deviceSerials))
	serials := make(map[device.ID]string, len(deviceSerials))
	for _, deviceSerial := range deviceSerials {
		id, err := s.shippable(ctx, by, deviceSerial)
		switch {
		case err == nil && serials[id] == "":
			ids = append(ids, id)
			serials[id] = deviceSerial
		case err == nil:
		case fault.Has(err, fault.DeviceUnknown) || fault.Has(err, fault.UnitState):
			refused = append(refused, deviceSerial)
		default:
			return 0, nil, err
		}
	}
	if len(refused) > 0 {
		return 0, refused, notShippable(refused)
	}
	for some := range slices.Chunk(ids, shipAtOnce) {
		not, err := s.store.MarkShipped(ctx, some, moment(s.now()), ledger.Entry{
			Kind: ledger.UnitsShipped, At: s.now(), Actor: by.Name, Body: ledger.JSON(shippedBody{deviceNames(some)}),
		})
		if err != nil {
			return shipped, nil, err
		}
		for _, id := range not {
			refused = append(refused, serials[id])
		}
		if len(refused) > 0 {
			return shipped, refused, notShippable(refused)
		}
		shipped += len(some)
	}
	return shipped, nil, nil
}

func notShippable(refused []string) error {
	return fault.New(fault.UnitState, len(refused), "devices cannot be shipped, the first is", refused[0])
}

// shippable looks at a device that is to be shipped. One that was scrapped raises
// an alarm: somebody wants to sell it all the same.
func (s *Service) shippable(ctx context.Context, by access.Caller, deviceSerial string) (device.ID, error) {
	d, err := s.deviceBySerial(ctx, by, deviceSerial)
	if err != nil {
		return 0, err
	}
	if d.State == device.Scrapped || d.State == device.Decommissioned {
		s.Raise(Alarm{
			Kind: AlarmScrapShipped, Key: deviceSerial, Order: d.Order, Product: d.Product, Site: d.Site,
			Message: fmt.Sprintf("%s is %s and was to be shipped", deviceSerial, d.State),
		})
		return 0, fault.New(fault.UnitState, deviceSerial, "is", d.State.String())
	}
	return d.ID, nil
}

func (s *Service) deviceBySerial(ctx context.Context, by access.Caller, deviceSerial string) (device.Device, error) {
	d, err := s.register.Device(ctx, by.Scope, s.register.DeviceID(deviceSerial))
	if err == nil && d.DeviceSerial != deviceSerial {
		err = fault.New(fault.DeviceUnknown)
	}
	return d, err
}

// maxDepth is how deep systems are built into systems.
const maxDepth = 16

// BuildInto links components to their system.
func (s *Service) BuildInto(ctx context.Context, by access.Caller, system string, components []string) error {
	if len(components) < 1 || len(components) > maxComponents {
		return fault.New(fault.ParameterInvalid, "1 to", maxComponents, "components at a time")
	}
	whole, err := s.deviceBySerial(ctx, by, system)
	if err != nil {
		return err
	}
	above, err := s.above(ctx, &whole)
	if err != nil {
		return err
	}
	ids := make([]device.ID, 0, len(components))
	for _, deviceSerial := range components {
		d, err := s.deviceBySerial(ctx, by, deviceSerial)
		if err != nil {
			return err
		}
		switch {
		case slices.Contains(above, d.ID):
			return fault.New(fault.ParameterInvalid, deviceSerial, "is the system, or the system is built into it")
		case d.State == device.Scrapped || d.State == device.Decommissioned:
			return fault.New(fault.UnitState, deviceSerial, "is", d.State.String())
		case d.BuiltInto != 0 && d.BuiltInto != whole.ID:
			return fault.New(fault.UnitState, deviceSerial, "is built into another system")
		}
		ids = append(ids, d.ID)
	}
	return s.store.BuildInto(ctx, by.Scope, whole.ID, ids, ledger.Entry{
		Kind: ledger.UnitsBuiltIn, At: s.now(), Actor: by.Name,
		Body: ledger.JSON(builtInBody{System: whole.ID.String(), Components: deviceNames(ids)}),
	})
}

// above returns a system and all that it is built into.
func (s *Service) above(ctx context.Context, d *device.Device) ([]device.ID, error) {
	chain := []device.ID{d.ID}
	for next := d.BuiltInto; next != 0; {
		if len(chain) > maxDepth {
			return nil, fault.New(fault.ParameterInvalid, "systems are nested too deep")
		}
		up, err := s.register.Device(ctx, access.Everything(), next)
		if err != nil {
			return nil, err
		}
		chain = append(chain, up.ID)
		next = up.BuiltInto
	}
	return chain, nil
}

// identityKey is a credential as a manifest lists it.
func identityKey(c *device.Credential) (manifest.Key, error) {
	cert, err := x509.ParseCertificate(c.DER)
	if err != nil {
		return manifest.Key{}, err
	}
	return manifest.Key{Slot: identitySlot, SPKI: cert.RawSubjectPublicKeyInfo, Chain: [][]byte{c.DER}}, nil
}

// vendorName is an organization as manifests name vendors: lower-case letters,
// digits and a few marks.
func vendorName(organization string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', strings.ContainsRune("-_.", r):
			return r
		case r == ' ':
			return '-'
		}
		return -1
	}, strings.ToLower(organization))
	if name = strings.Trim(name[:min(len(name), 64)], "-"); name == "" {
		return "birthmark"
	}
	return name
}

package store

import (
	"context"
	"slices"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// How many components one call links, and how deep systems are built into others.
const (
	maxBuildInto = 500
	deepestBuilt = 16
)

// BuildInto links components to their system, at most 500 a call, all or none;
// system 0 takes them out again. A device is not built into itself, nor into what
// is built into it. The devices' versions stay: nothing that is decided about a
// device rests on what it is built into.
func (s *Store) BuildInto(ctx context.Context, scope access.Scope, system device.ID, components []device.ID, entries ...ledger.Entry) error {
	if len(components) > maxBuildInto {
		return fault.New(fault.ParameterInvalid, "more than", maxBuildInto, "components at once")
	}
	// In the order of rows, so that two calls do not wait for each other.
	components = slices.Compact(slices.Sorted(slices.Values(components)))
	return s.write(ctx, func(t *tx) error {
		// Two links that are a circle only together must see each other.
		if err := holdControl(ctx, t); err != nil {
			return err
		}
		if err := outsideOf(ctx, t, scope, system, components); err != nil {
			return err
		}
		for _, id := range components {
			n, err := t.exec(ctx, "UPDATE device SET built_into = $2 WHERE id = $1"+visibleDevice+scopeSQL(scope, ""), int64(id), int64(system))
			if err != nil || n == 0 {
				return orFault(err, fault.DeviceUnknown, id)
			}
		}
		return nil
	}, entries...)
}

// outsideOf refuses a system that is one of the components or built into one.
func outsideOf(ctx context.Context, t *tx, scope access.Scope, system device.ID, components []device.ID) error {
	for depth := 0; system != 0; depth++ {
		if slices.Contains(components, system) || depth == deepestBuilt {
			return fault.New(fault.ParameterInvalid, "a device would be built into itself, or too deep")
		}
		d, err := readDevice(ctx, t, scope, system)
		if err != nil {
			return err
		}
		system = d.BuiltInto
		scope = access.Everything() // who owns the larger system is another matter
	}
	return nil
}

package factory

import (
	"context"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// findChip returns the visible chip with a UID; vendor may be empty unless two
// vendors have the UID.
func (s *Service) findChip(ctx context.Context, vendor, uid string) (Chip, error) {
	return FindChip(ctx, s.store, vendor, uid)
}

// ChipFinder looks chips up. Store has it.
type ChipFinder interface {
	ChipID(vendor, uid string) int64
	Chip(ctx context.Context, id int64) (Chip, error)
	FindChips(ctx context.Context, uid string) ([]Chip, error)
}

// FindChip returns the visible chip with a UID, or fault.ChipUnknown; vendor may
// be empty unless two vendors have the UID.
func FindChip(ctx context.Context, f ChipFinder, vendor, uid string) (Chip, error) {
	vendor, uid = strings.ToLower(vendor), strings.ToLower(uid)
	if uid == "" || !printable(uid, 128) || !printable(vendor, 64) {
		return Chip{}, fault.New(fault.ChipUnknown)
	}
	if vendor != "" {
		return f.Chip(ctx, f.ChipID(vendor, uid))
	}
	found, err := f.FindChips(ctx, uid)
	switch {
	case err != nil:
		return Chip{}, err
	case len(found) == 0:
		return Chip{}, fault.New(fault.ChipUnknown, uid)
	case len(found) > 1:
		return Chip{}, fault.New(fault.ParameterInvalid, "several vendors list", uid+"; name one")
	}
	return found[0], nil
}

// Chip returns the chip with a UID; vendor may be empty unless two vendors have
// the UID.
func (s *Service) Chip(ctx context.Context, _ access.Caller, vendor, uid string) (Chip, error) {
	return s.findChip(ctx, vendor, uid)
}

// ChipByID returns the manifest entry with a number of ours.
func (s *Service) ChipByID(ctx context.Context, id int64) (Chip, error) { return s.store.Chip(ctx, id) }

// Chips returns a page of chips.
func (s *Service) Chips(ctx context.Context, _ access.Caller, q ChipQuery) (page []Chip, next string, err error) {
	return s.store.Chips(ctx, q)
}

// WithdrawChip keeps a chip from being used from now on. One that is used
// already belongs to a device: scrap that.
func (s *Service) WithdrawChip(ctx context.Context, by access.Caller, vendor, uid, reason string) (Chip, error) {
	if err := needReason(reason); err != nil {
		return Chip{}, err
	}
	for range changeTries {
		c, err := s.findChip(ctx, vendor, uid)
		if err != nil || c.State == ChipWithdrawn {
			return c, err
		}
		if c.State == ChipUsed {
			return Chip{}, fault.New(fault.ChipUsed, c.UID, "is in device", c.Device.String()+"; scrap the unit")
		}
		from := c.State
		c.State, c.Order = ChipWithdrawn, 0
		err = s.store.UpdateChip(ctx, c, from, ledger.Entry{Kind: ledger.ChipChanged, At: s.now(), Actor: by.Name, Body: chipEntryBody(&c, reason)})
		if err == nil || !stale(err) {
			return c, err
		}
	}
	return Chip{}, fault.New(fault.IssuanceBusy)
}

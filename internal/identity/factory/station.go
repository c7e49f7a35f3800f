package factory

import (
	"context"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// codeLife is how long a station's one-time code may be spent.
const codeLife = 24 * time.Hour

// AddStation adds a station at a site, with a one-time code to enroll with. The
// code is shown once.
func (s *Service) AddStation(ctx context.Context, by access.Caller, name, site string) (Station, string, error) {
	if err := checkName("station's name", name); err != nil {
		return Station{}, "", err
	}
	at, err := s.siteByName(ctx, by.Scope, site)
	if err != nil {
		return Station{}, "", err
	}
	now := moment(s.now())
	x := Station{Name: name, Site: at.ID, State: StationActive, Version: 1, CreatedAt: now, ChangedAt: now}
	code, err := s.newCode(&x)
	if err != nil {
		return Station{}, "", err
	}
	x.ID, err = s.store.AddStation(ctx, x, ledger.Entry{
		Kind: ledger.StationAdded, At: s.now(), Actor: by.Name, Body: stationEntryBody(&x, "added", ""),
	})
	if err != nil {
		return Station{}, "", err
	}
	return x, code, nil
}

func (s *Service) newCode(x *Station) (string, error) {
	code, err := device.NewSecret(s.random)
	if err != nil {
		return "", err
	}
	x.Code = Code{Hash: device.HashSecret([]byte(code)), ExpiresAt: moment(s.now().Add(codeLife))}
	return code, nil
}

// NewStationCode gives a station a new one-time code, for a new or replaced
// computer. The station's certificate stays good until the code is spent.
func (s *Service) NewStationCode(ctx context.Context, by access.Caller, name string) (Station, string, error) {
	var code string
	x, err := s.changeStation(ctx, by, name, "code renewed", "", func(x *Station) (bool, error) {
		if x.State == StationRetired {
			return false, fault.New(fault.StationState, x.State.String())
		}
		var err error
		code, err = s.newCode(x)
		return true, err
	})
	if err != nil {
		return Station{}, "", err
	}
	return x, code, nil
}

// SuspendStation keeps a station from doing anything until it is resumed, also on
// connections that are open.
func (s *Service) SuspendStation(ctx context.Context, by access.Caller, name, reason string) (Station, error) {
	return s.moveStation(ctx, by, name, "suspended", reason, StationSuspended)
}

// ResumeStation ends a suspension.
func (s *Service) ResumeStation(ctx context.Context, by access.Caller, name, reason string) (Station, error) {
	return s.moveStation(ctx, by, name, "resumed", reason, StationActive)
}

// RetireStation ends a station for good. Its name stays taken.
func (s *Service) RetireStation(ctx context.Context, by access.Caller, name, reason string) (Station, error) {
	return s.moveStation(ctx, by, name, "retired", reason, StationRetired)
}

func (s *Service) moveStation(ctx context.Context, by access.Caller, name, act, reason string, next StationState) (Station, error) {
	if err := checkReason(reason); err != nil {
		return Station{}, err
	}
	return s.changeStation(ctx, by, name, act, reason, func(x *Station) (bool, error) {
		switch x.State {
		case next:
			return false, nil
		case StationRetired:
			return false, fault.New(fault.StationState, x.State.String())
		}
		x.State = next
		if next != StationActive {
			x.Code = Code{} // a code that is out must not bring it back
		}
		return true, nil
	})
}

// changeStation edits a station's row; edit reports whether there is anything to
// write.
func (s *Service) changeStation(ctx context.Context, by access.Caller, name, act, reason string, edit func(*Station) (bool, error)) (Station, error) {
	for range changeTries {
		x, err := s.store.StationByName(ctx, by.Scope, name)
		if err != nil {
			return Station{}, err
		}
		changed, err := edit(&x)
		if err != nil || !changed {
			return x, err
		}
		x.ChangedAt = moment(s.now())
		after := x
		after.Version++
		err = s.store.UpdateStation(ctx, x, ledger.Entry{
			Kind: ledger.StationChanged, At: s.now(), Actor: by.Name, Body: stationEntryBody(&after, act, reason),
		})
		if err == nil {
			return after, nil
		}
		if !stale(err) {
			return Station{}, err
		}
	}
	return Station{}, fault.New(fault.IssuanceBusy)
}

// Stations returns the stations in the caller's scope.
func (s *Service) Stations(ctx context.Context, by access.Caller) ([]Station, error) {
	return s.store.Stations(ctx, by.Scope)
}

// Station returns a station.
func (s *Service) Station(ctx context.Context, by access.Caller, name string) (Station, error) {
	return s.store.StationByName(ctx, by.Scope, name)
}

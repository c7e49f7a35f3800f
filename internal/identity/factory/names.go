package factory

import (
	"slices"

	"github.com/birthmark/birthmark/internal/fault"
)

var stationStateNames = [...]string{StationActive: "active", StationSuspended: "suspended", StationRetired: "retired"}

// String returns the state's name as people read it.
func (s StationState) String() string { return nameOf(stationStateNames[:], int(s)) }

var orderStateNames = [...]string{OrderPlanned: "planned", OrderOpen: "open", OrderClosed: "closed", OrderCanceled: "canceled"}

// String returns the state's name as people read it.
func (s OrderState) String() string { return nameOf(orderStateNames[:], int(s)) }

// ParseOrderState reads a state's name; empty is 0, any.
func ParseOrderState(name string) (OrderState, error) {
	n, err := parseName(orderStateNames[:], name)
	return OrderState(n), err
}

var unitStateNames = [...]string{
	UnitIssued: "issued", UnitConfirmed: "confirmed", UnitScrapped: "scrapped", UnitReplaced: "replaced", UnitLapsed: "lapsed",
}

// String returns the state's name as people read it.
func (s UnitState) String() string { return nameOf(unitStateNames[:], int(s)) }

// ParseUnitState reads a state's name; empty is 0, any.
func ParseUnitState(name string) (UnitState, error) {
	n, err := parseName(unitStateNames[:], name)
	return UnitState(n), err
}

var chipStateNames = [...]string{
	ChipListed: "listed", ChipNotProvable: "not provable", ChipAllotted: "allotted", ChipUsed: "used", ChipWithdrawn: "withdrawn",
}

// String returns the state's name as people read it.
func (s ChipState) String() string { return nameOf(chipStateNames[:], int(s)) }

// ParseChipState reads a state's name; empty is 0, any.
func ParseChipState(name string) (ChipState, error) {
	n, err := parseName(chipStateNames[:], name)
	return ChipState(n), err
}

var alarmStateNames = [...]string{AlarmRaised: "raised", AlarmAcknowledged: "acknowledged", AlarmClosed: "closed"}

// String returns the state's name as people read it.
func (s AlarmState) String() string { return nameOf(alarmStateNames[:], int(s)) }

// ParseAlarmState reads a state's name; empty is 0, any.
func ParseAlarmState(name string) (AlarmState, error) {
	n, err := parseName(alarmStateNames[:], name)
	return AlarmState(n), err
}

func nameOf(names []string, n int) string {
	if n <= 0 || n >= len(names) {
		return "unknown"
	}
	return names[n]
}

func parseName(names []string, name string) (int, error) {
	if i := slices.Index(names, name); i >= 0 {
		return i, nil
	}
	return 0, fault.New(fault.ParameterInvalid, "state", name)
}

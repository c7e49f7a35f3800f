package device

import (
	"slices"

	"github.com/birthmark/birthmark/internal/fault"
)

var stateNames = [...]string{
	Registered: "registered", Provisioned: "provisioned", Shipped: "shipped", Active: "active",
	Suspended: "suspended", InRepair: "in repair", Decommissioned: "decommissioned", Scrapped: "scrapped",
}

// String returns the state's name as people read it.
func (s State) String() string {
	if int(s) >= len(stateNames) || s == 0 {
		return "unknown"
	}
	return stateNames[s]
}

// ParseState reads a state's name.
func ParseState(name string) (State, error) {
	if i := slices.Index(stateNames[:], name); i > 0 {
		return State(i), nil
	}
	return 0, fault.New(fault.ParameterInvalid, "state", name)
}

// transitions is the one table of what may follow what; anything else is
// refused. Issuing moves a device from Registered to Provisioned or Active, an
// operator or a station does the rest.
var transitions = map[State][]State{
	Registered:     {Provisioned, Active, Suspended, Scrapped, Decommissioned},
	Provisioned:    {Shipped, Active, Suspended, InRepair, Scrapped, Decommissioned},
	Shipped:        {Active, Suspended, InRepair, Scrapped, Decommissioned},
	Active:         {Suspended, InRepair, Decommissioned, Scrapped},
	Suspended:      {Registered, Provisioned, Shipped, Active, InRepair, Decommissioned, Scrapped},
	InRepair:       {Provisioned, Shipped, Active, Suspended, Decommissioned, Scrapped},
	Decommissioned: {},
	Scrapped:       {},
}

// MayBecome reports whether a device may go from s to next.
func (s State) MayBecome(next State) bool { return slices.Contains(transitions[s], next) }

// MayEnroll reports whether a device in this state may get a certificate.
func (s State) MayEnroll() bool {
	switch s {
	case Registered, Provisioned, Shipped, Active:
		return true
	}
	return false
}

var credentialStateNames = [...]string{
	Issued: "issued", Confirmed: "confirmed", Held: "held", Superseded: "superseded", Revoked: "revoked",
}

// String returns the state's name as people read it.
func (s CredentialState) String() string {
	if int(s) >= len(credentialStateNames) || s == 0 {
		return "unknown"
	}
	return credentialStateNames[s]
}

// ParseCredentialState reads a state's name.
func ParseCredentialState(name string) (CredentialState, error) {
	if i := slices.Index(credentialStateNames[:], name); i > 0 {
		return CredentialState(i), nil
	}
	return 0, fault.New(fault.ParameterInvalid, "state", name)
}

var keyKindNames = [...]string{
	KeySoftware: "software", KeyHardware: "hardware", KeyInjected: "injected", KeySymmetric: "symmetric", KeyOurs: "ours",
}

// String returns the kind's name as people read it.
func (k KeyKind) String() string {
	if int(k) >= len(keyKindNames) || k == 0 {
		return "unknown"
	}
	return keyKindNames[k]
}

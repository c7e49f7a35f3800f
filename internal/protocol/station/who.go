package station

import "github.com/birthmark/birthmark/internal/fault"

// Who may unblock a refused item, as the line's worker reads it.
const (
	anyone   = "anyone at the line"
	lead     = "line lead"
	planner  = "planner"
	engineer = "test engineer"
	officer  = "RA officer"
	admin    = "administrator"
)

// Who says who may unblock a refusal.
func Who(f *fault.Error) string {
	if who, ok := whoOfCode[f.Code]; ok {
		return who
	}
	return whoOfKind[f.Kind]
}

var whoOfKind = map[fault.Kind]string{
	fault.Internal:        admin,
	fault.Invalid:         engineer,
	fault.Unauthenticated: lead,
	fault.Forbidden:       officer,
	fault.NotFound:        lead,
	fault.Conflict:        lead,
	fault.Exhausted:       planner,
	fault.Unavailable:     admin,
}

var whoOfCode = map[fault.Code]string{
	fault.StationState:       lead,
	fault.StationCode:        lead,
	fault.StationNotAssigned: lead,
	fault.StationCertificate: lead,
	fault.OrderState:         planner,
	fault.OrderFrozen:        planner,
	fault.ChipUnknown:        lead,
	fault.ChipUsed:           lead,
	fault.ChipNotProvable:    lead,
	fault.ChipOtherProduct:   lead,
	fault.ChipOtherOrder:     planner,
	fault.ChipWithdrawn:      officer,
	fault.ChipProof:          anyone,
	fault.ChipProofMissing:   engineer,
	fault.NonceInvalid:       anyone,
	fault.NonceUsed:          anyone,
	fault.NonceExpired:       anyone,
	fault.UnitSerialRange:    lead,
	fault.UnitUnknown:        anyone,
	fault.UnitReference:      engineer,
	fault.ReadBackWrong:      anyone,
	fault.KeyModel:           engineer,
	fault.WrappedKeyGone:     anyone,
	fault.RecipientInvalid:   engineer,
}

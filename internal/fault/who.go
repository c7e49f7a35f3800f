package fault

// Who may unblock a refusal, as the line's worker reads it.
const (
	anyone   = "anyone at the line"
	lead     = "line lead"
	planner  = "planner"
	engineer = "test engineer"
	officer  = "RA officer"
	admin    = "administrator"
)

// Who says who may unblock a refusal that a line's worker meets.
func (c Code) Who() string {
	if who, ok := whoOfCode[c]; ok {
		return who
	}
	return whoOfKind[Lookup(c).Kind]
}

var whoOfKind = map[Kind]string{
	Internal:        admin,
	Invalid:         engineer,
	Unauthenticated: lead,
	Forbidden:       officer,
	NotFound:        lead,
	Conflict:        lead,
	Exhausted:       planner,
	Unavailable:     admin,
}

var whoOfCode = map[Code]string{
	StationState:       lead,
	StationNotAssigned: lead,
	OrderUnknown:       planner,
	OrderState:         planner,
	OrderFrozen:        planner,
	ChipUnknown:        lead,
	ChipNotProvable:    lead,
	ChipOtherProduct:   lead,
	ChipOtherOrder:     planner,
	ChipProof:          anyone,
	ChipProofMissing:   engineer,
	NonceInvalid:       anyone,
	NonceUsed:          anyone,
	NonceExpired:       anyone,
	UnitSerialRange:    lead,
	UnitUnknown:        anyone,
	UnitState:          anyone,
	UnitReference:      engineer,
	ReadBackWrong:      anyone,
	KeyModel:           engineer,
	WrappedKeyGone:     anyone,
	BundleSignature:    lead,
	TPMUnreachable:     engineer,
	TPMFailed:          engineer,
	TPMHandle:          engineer,
	StationLink:        "line lead, with whoever looks after network and station computer",
	StationQueue:       "line lead, with whoever looks after network and station computer",
	StationClock:       "line lead, with whoever looks after network and station computer",
	FixtureFailed:      anyone,
}

package access

import (
	"slices"

	"github.com/birthmark/birthmark/internal/fault"
)

// Role is a named set of actions.
type Role string

// The roles of operators.
const (
	Viewer        Role = "viewer"
	LineLead      Role = "line-lead"
	Planner       Role = "planner"
	RAOfficer     Role = "ra-officer"
	CAOfficer     Role = "ca-officer"
	Auditor       Role = "auditor"
	Administrator Role = "administrator"
)

// role is a row of the table of roles.
type role struct {
	name    Role
	actions []Action
}

var reading = []Action{
	AuthorityRead, ProfileRead, ProductRead, DeviceRead, CertificateRead, ApprovalRead, SystemRead, FactoryRead, AttestRead,
}

// roles is the table: what each role may do.
var roles = []role{
	{Viewer, reading},
	{LineLead, slices.Concat(reading, []Action{DeviceRegister, StationManage, ManifestImport, AlarmManage})},
	{Planner, slices.Concat(reading, []Action{OrderManage, ApprovalDecide})},
	{RAOfficer, slices.Concat(reading, []Action{
		DeviceRegister, DeviceManage, ProductManage, CertificateIssue, CertificateRevoke, ApprovalDecide,
		OrderManage, StationManage, ManifestImport, ManifestManage, AlarmManage, WebhookManage, AttestManage,
	})},
	{CAOfficer, slices.Concat(reading, []Action{
		AuthorityManage, ProfileManage, CertificateRevoke, ApprovalDecide, LedgerRead,
	})},
	{Auditor, slices.Concat(reading, []Action{LedgerRead})},
	{Administrator, Actions()},
}

// Actions returns all actions that a role or token may hold.
func Actions() []Action {
	return []Action{
		AuthorityRead, AuthorityManage, ProfileRead, ProfileManage, ProductRead, ProductManage,
		DeviceRead, DeviceRegister, DeviceManage, CertificateRead, CertificateIssue, CertificateRevoke,
		ApprovalRead, ApprovalDecide, LedgerRead, AccessManage, SystemRead, SystemManage,
		FactoryRead, OrderManage, StationManage, ManifestImport, ManifestManage, AlarmManage, WebhookManage,
		AttestRead, AttestManage,
	}
}

// Roles returns the names of all roles.
func Roles() []Role {
	names := make([]Role, len(roles))
	for i, r := range roles {
		names[i] = r.name
	}
	return names
}

// ActionsOf returns what a role may do; ok is false for an unknown role.
func ActionsOf(name Role) (actions []Action, ok bool) {
	i := slices.IndexFunc(roles, func(r role) bool { return r.name == name })
	if i < 0 {
		return nil, false
	}
	return slices.Clone(roles[i].actions), true
}

// actionsOfAll returns the union over role names, or fault.ParameterInvalid for
// a name that is not in the table.
func actionsOfAll(names []string) (map[Action]bool, error) {
	set := make(map[Action]bool)
	for _, name := range names {
		actions, ok := ActionsOf(Role(name))
		if !ok {
			return nil, fault.New(fault.ParameterInvalid, "there is no role", name)
		}
		for _, a := range actions {
			set[a] = true
		}
	}
	return set, nil
}

func actionSet(actions []Action) map[Action]bool {
	set := make(map[Action]bool, len(actions))
	for _, a := range actions {
		set[a] = true
	}
	return set
}

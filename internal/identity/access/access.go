// Package access says who may do what: operators and their roles, API tokens
// with scopes and an expiry, the local operator behind the unix socket, and
// acts that need a second operator. Routes name an Action; a Caller has roles
// or actions and a Scope; everything else is refused.
package access

import (
	"time"
)

// Action is one thing a caller may be allowed to do, as "noun.verb".
type Action string

// The actions. Each route of web/server names exactly one.
const (
	AuthorityRead     Action = "authority.read"
	AuthorityManage   Action = "authority.manage"
	ProfileRead       Action = "profile.read"
	ProfileManage     Action = "profile.manage"
	ProductRead       Action = "product.read"
	ProductManage     Action = "product.manage"
	DeviceRead        Action = "device.read"
	DeviceRegister    Action = "device.register"
	DeviceManage      Action = "device.manage"
	CertificateRead   Action = "certificate.read"
	CertificateIssue  Action = "certificate.issue"
	CertificateRevoke Action = "certificate.revoke"
	ApprovalRead      Action = "approval.read"
	ApprovalDecide    Action = "approval.decide"
	LedgerRead        Action = "ledger.read"
	AccessManage      Action = "access.manage"
	SystemRead        Action = "system.read"
	SystemManage      Action = "system.manage"
	FactoryRead       Action = "factory.read"    // sites, stations, orders, manifests, units, alarms, KPIs
	OrderManage       Action = "order.manage"    // create, amend, open, close, cancel orders
	StationManage     Action = "station.manage"  // sites and stations, their codes and orders
	ManifestImport    Action = "manifest.import" // of a pinned signer
	ManifestManage    Action = "manifest.manage" // pin signers, import unsigned lists, withdraw chips
	AlarmManage       Action = "alarm.manage"    // acknowledge and close
	WebhookManage     Action = "webhook.manage"
	AttestRead        Action = "attest.read"   // evidence, TPM makers' roots, policies
	AttestManage      Action = "attest.manage" // import roots, set policies, accept a cleared TPM
	// Station marks the routes of stations, judged by their certificate.
	Station Action = "station"
	// Enroll marks routes whose requester is judged by identity/enroll, and
	// Public routes that anyone may call.
	Enroll Action = "enroll"
	Public Action = "public"
)

// Caller is an authenticated operator, token or local user.
type Caller struct {
	Name     string // ledger actor: "local:USER", "operator:NAME", "token:ID", "system"
	Operator string // the person behind: the operator, or who made the token
	Actions  map[Action]bool
	Scope    Scope
}

// System is the caller behind the product's own acts, such as renewing the
// listeners' certificates.
func System() Caller {
	return Caller{Name: "system", Operator: "system", Actions: actionSet(Actions()), Scope: Everything()}
}

// May reports whether the caller may do this at all.
func (c *Caller) May(a Action) bool { return a == Public || c.Actions[a] }

// Operator is a person who works with the server.
type Operator struct {
	Name      string
	Roles     []string
	Disabled  bool
	Products  []int64 // scope; all three empty and All false: nothing
	Sites     []int64
	Owners    []int64
	All       bool
	CreatedAt time.Time
}

// Token is an API token. The token itself is shown once; only its SHA-256 is kept.
type Token struct {
	ID        int64
	Name      string
	Hash      [32]byte
	Actions   []Action
	Products  []int64
	Sites     []int64
	Owners    []int64
	All       bool
	Operator  string // who made it
	CreatedAt time.Time
	ExpiresAt time.Time
	RevokedAt time.Time // zero: valid until ExpiresAt
}

// ApprovalState is where an approval stands. Expired is derived.
type ApprovalState uint8

// The stored states. Numbers are stored.
const (
	Waiting ApprovalState = iota + 1
	Approved
	Refused
	Executed
)

// Approval is a serialized act waiting for another operator. It is executed
// exactly as approved: Digest covers Kind and Params.
type Approval struct {
	ID          int64
	Kind        string
	Params      []byte // canonical JSON
	Digest      [32]byte
	Requester   string
	Reason      string
	State       ApprovalState
	DecidedBy   string
	RequestedAt time.Time
	DecidedAt   time.Time
	ExpiresAt   time.Time
}

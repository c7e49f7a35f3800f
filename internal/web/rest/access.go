package rest

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
)

// Approval is an act that waits for a second operator.
type Approval struct {
	ID          int64           `json:"id"`
	Kind        string          `json:"kind"`
	Parameters  json.RawMessage `json:"parameters" doc:"Exactly what will be done"`
	Requester   string          `json:"requester"`
	Reason      string          `json:"reason,omitempty"`
	State       string          `json:"state" enum:"waiting,approved,refused,executed,expired"`
	DecidedBy   string          `json:"decided_by,omitempty"`
	RequestedAt time.Time       `json:"requested_at"`
	DecidedAt   *time.Time      `json:"decided_at,omitempty"`
	ExpiresAt   time.Time       `json:"expires_at"`
}

func showApproval(a *access.Approval, now time.Time) Approval {
	out := Approval{
		ID: a.ID, Kind: a.Kind, Parameters: a.Params, Requester: a.Requester, Reason: a.Reason, State: a.State.String(),
		DecidedBy: a.DecidedBy, RequestedAt: a.RequestedAt, ExpiresAt: a.ExpiresAt,
	}
	if a.State == access.Waiting && now.After(a.ExpiresAt) {
		out.State = "expired"
	}
	if !a.DecidedAt.IsZero() {
		out.DecidedAt = &a.DecidedAt
	}
	return out
}

func (a *API) approvals() {
	add(a, op{method: http.MethodGet, path: "/approvals", action: access.ApprovalRead, summary: "List approvals that wait", everywhere: true}, a.listApprovals)
	add(a, op{method: http.MethodGet, path: "/approvals/{id}", action: access.ApprovalRead, summary: "Show an approval", everywhere: true}, a.showApproval)
	add(a, op{method: http.MethodPost, path: "/approvals/{id}/decision", action: access.ApprovalDecide, summary: "Approve or refuse an act of another operator", everywhere: true}, a.decideApproval)
}

func (a *API) listApprovals(ctx context.Context, _ *access.Caller, in *Page) (*list[Approval], error) {
	rows, next, err := a.cfg.Access.Approvals(ctx, access.Waiting, in.After, in.Limit)
	if err != nil {
		return nil, err
	}
	items := make([]Approval, len(rows))
	for i := range rows {
		items[i] = showApproval(&rows[i], a.now())
	}
	return newList(items, next), nil
}

// IDPath names an object by its number in a path.
type IDPath struct {
	ID int64 `path:"id" minimum:"1"`
}

func (a *API) showApproval(ctx context.Context, _ *access.Caller, in *IDPath) (*one[Approval], error) {
	row, err := a.cfg.Access.Approval(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &one[Approval]{showApproval(&row, a.now())}, nil
}

func (a *API) decideApproval(ctx context.Context, c *access.Caller, in *struct {
	IDPath
	Body struct {
		Approve bool   `json:"approve"`
		Reason  string `json:"reason,omitempty" maxLength:"500"`
	}
},
) (*one[Approval], error) {
	row, err := a.cfg.Access.Decide(ctx, *c, in.ID, access.Verdict{Approve: in.Body.Approve, Reason: in.Body.Reason})
	if err != nil {
		return nil, err
	}
	return &one[Approval]{showApproval(&row, a.now())}, nil
}

// Token is an API token as the API shows it.
type Token struct {
	ID        int64     `json:"id"`
	Name      string    `json:"name"`
	Actions   []string  `json:"actions"`
	Products  []string  `json:"products,omitempty" doc:"Products in scope; absent: all its maker sees"`
	Operator  string    `json:"operator" doc:"Who made it"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
	Revoked   bool      `json:"revoked"`
	Token     string    `json:"token,omitempty" doc:"The token; shown once"`
}

func (a *API) tokens() {
	add(a, op{method: http.MethodGet, path: "/tokens", action: access.AccessManage, summary: "List API tokens"}, a.listTokens)
	add(a, op{method: http.MethodPost, path: "/tokens", action: access.AccessManage, summary: "Make an API token; it is shown once", status: http.StatusCreated}, a.createToken)
	add(a, op{method: http.MethodDelete, path: "/tokens/{id}", action: access.AccessManage, summary: "Revoke an API token", status: http.StatusNoContent}, a.revokeToken)
}

func (n productNames) token(t *access.Token) Token {
	out := Token{
		ID: t.ID, Name: t.Name, Operator: t.Operator, CreatedAt: t.CreatedAt, ExpiresAt: t.ExpiresAt, Revoked: !t.RevokedAt.IsZero(),
	}
	for _, action := range t.Actions {
		out.Actions = append(out.Actions, string(action))
	}
	out.Products = n.names(t.Products)
	return out
}

func (a *API) listTokens(ctx context.Context, c *access.Caller, _ *nothing) (*list[Token], error) {
	rows, err := a.cfg.Access.Tokens(ctx)
	if err != nil {
		return nil, err
	}
	names, err := a.productNames(ctx, c)
	if err != nil {
		return nil, err
	}
	items := make([]Token, len(rows))
	for i := range rows {
		items[i] = names.token(&rows[i])
	}
	return newList(items, ""), nil
}

func (a *API) createToken(ctx context.Context, c *access.Caller, in *struct {
	Body struct {
		Name     string   `json:"name" minLength:"1" maxLength:"64"`
		Actions  []string `json:"actions" minItems:"1" maxItems:"64"`
		Products []string `json:"products,omitempty" maxItems:"64" doc:"Limit to these products; absent: all you see"`
		Days     int      `json:"days" minimum:"1" maximum:"366" doc:"Days until it expires"`
	}
},
) (*one[Token], error) {
	names, err := a.productNames(ctx, c)
	if err != nil {
		return nil, err
	}
	t := access.Token{Name: in.Body.Name, ExpiresAt: a.now().Add(time.Duration(in.Body.Days) * 24 * time.Hour)}
	for _, action := range in.Body.Actions {
		t.Actions = append(t.Actions, access.Action(action))
	}
	for _, name := range in.Body.Products {
		id := names.id(name)
		if id == 0 {
			return nil, fault.New(fault.ProductUnknown, name)
		}
		t.Products = append(t.Products, id)
	}
	if len(t.Products) == 0 {
		t.All = c.Scope.SeesEverything()
		t.Products, t.Sites, t.Owners = c.Scope.Products(), c.Scope.Sites(), c.Scope.Owners()
	}
	made, text, err := a.cfg.Access.CreateToken(ctx, *c, t)
	if err != nil {
		return nil, err
	}
	out := names.token(&made)
	out.Token = text
	return &one[Token]{out}, nil
}

func (a *API) revokeToken(ctx context.Context, c *access.Caller, in *IDPath) (*nothing, error) {
	return nil, a.cfg.Access.RevokeToken(ctx, *c, in.ID)
}

// Operator is a person who works with the server.
type Operator struct {
	Name      string    `json:"name" maxLength:"100" doc:"local:USER for a user of the server's machine"`
	Roles     []string  `json:"roles" minItems:"1" doc:"viewer, line-lead, ra-officer, ca-officer, auditor, administrator"`
	Products  []string  `json:"products,omitempty" doc:"Products in scope; absent: all"`
	Disabled  bool      `json:"disabled,omitempty"`
	CreatedAt time.Time `json:"created_at,omitzero" readOnly:"true"`
}

func (a *API) operators() {
	add(a, op{method: http.MethodGet, path: "/operators", action: access.AccessManage, summary: "List operators"}, a.listOperators)
	add(a, op{method: http.MethodPost, path: "/operators", action: access.AccessManage, summary: "Add an operator", status: http.StatusCreated}, a.addOperator)
	add(a, op{method: http.MethodPut, path: "/operators/{name}", action: access.AccessManage, summary: "Change an operator's roles, scope or whether they are disabled"}, a.changeOperator)
}

func (a *API) listOperators(ctx context.Context, c *access.Caller, _ *nothing) (*list[Operator], error) {
	rows, err := a.cfg.Access.Operators(ctx)
	if err != nil {
		return nil, err
	}
	names, err := a.productNames(ctx, c)
	if err != nil {
		return nil, err
	}
	items := make([]Operator, len(rows))
	for i, o := range rows {
		items[i] = Operator{Name: o.Name, Roles: o.Roles, Disabled: o.Disabled, CreatedAt: o.CreatedAt}
		items[i].Products = names.names(o.Products)
	}
	return newList(items, ""), nil
}

// operatorRow resolves the names in an operator.
func (a *API) operatorRow(ctx context.Context, c *access.Caller, o *Operator) (access.Operator, error) {
	names, err := a.productNames(ctx, c)
	if err != nil {
		return access.Operator{}, err
	}
	row := access.Operator{Name: o.Name, Roles: o.Roles, Disabled: o.Disabled, All: len(o.Products) == 0, CreatedAt: a.now()}
	for _, name := range o.Products {
		id := names.id(name)
		if id == 0 {
			return access.Operator{}, fault.New(fault.ProductUnknown, name)
		}
		row.Products = append(row.Products, id)
	}
	return row, nil
}

func (a *API) addOperator(ctx context.Context, c *access.Caller, in *one[Operator]) (*one[Operator], error) {
	row, err := a.operatorRow(ctx, c, &in.Body)
	if err != nil {
		return nil, err
	}
	return in, a.cfg.Access.AddOperator(ctx, *c, row)
}

func (a *API) changeOperator(ctx context.Context, c *access.Caller, in *struct {
	Name string `path:"name" maxLength:"100"`
	one[Operator]
},
) (*one[Operator], error) {
	if in.Body.Name != in.Name {
		return nil, fault.New(fault.ParameterInvalid, "the name in the body is another than in the path")
	}
	row, err := a.operatorRow(ctx, c, &in.Body)
	if err != nil {
		return nil, err
	}
	return &in.one, a.cfg.Access.ChangeOperator(ctx, *c, row)
}

package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/birthmark/birthmark/internal/web/rest"
)

type approvalCmd struct {
	List    approvalListCmd    `cmd:"" help:"List acts that wait."`
	Show    approvalShowCmd    `cmd:"" help:"Show exactly what would be done."`
	Approve approvalApproveCmd `cmd:"" help:"Approve another operator's act."`
	Refuse  approvalRefuseCmd  `cmd:"" help:"Refuse an act."`
}

type approvalListCmd struct {
	remote `embed:""`
}

// Run lists approvals that wait.
func (c *approvalListCmd) Run(ctx context.Context, io *streams) error {
	return listAll(ctx, &c.remote, io, "/approvals", url.Values{}, 0, []string{"ID", "KIND", "REQUESTER", "STATE", "EXPIRES"},
		func(a *rest.Approval) []string {
			return []string{fmt.Sprint(a.ID), a.Kind, a.Requester, a.State, day(a.ExpiresAt)}
		})
}

func printApproval(io *streams) func(*rest.Approval) error {
	return func(a *rest.Approval) error {
		fmt.Fprintf(io.out, "%d  %s  %s\n  requester   %s\n  parameters  %s\n  expires     %s\n", a.ID, a.Kind, a.State, a.Requester, a.Parameters, day(a.ExpiresAt))
		if a.DecidedBy != "" {
			fmt.Fprintf(io.out, "  decided by  %s\n", a.DecidedBy)
		}
		return nil
	}
}

type approvalShowCmd struct {
	remote `embed:""`
	ID     int64 `arg:"" help:"Number of the approval."`
}

// Run shows an approval.
func (c *approvalShowCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodGet, fmt.Sprint("/approvals/", c.ID), nil, printApproval(io))
}

type approvalApproveCmd struct {
	remote `embed:""`
	ID     int64  `arg:"" help:"Number of the approval."`
	Reason string `help:"Reason."`
}

// Run approves an act.
func (c *approvalApproveCmd) Run(ctx context.Context, io *streams) error {
	return decide(ctx, &c.remote, io, c.ID, map[string]any{"approve": true, "reason": c.Reason})
}

type approvalRefuseCmd struct {
	remote `embed:""`
	ID     int64  `arg:"" help:"Number of the approval."`
	Reason string `help:"Reason."`
}

// Run refuses an act.
func (c *approvalRefuseCmd) Run(ctx context.Context, io *streams) error {
	return decide(ctx, &c.remote, io, c.ID, map[string]any{"approve": false, "reason": c.Reason})
}

func decide(ctx context.Context, r *remote, io *streams, id int64, verdict map[string]any) error {
	return call(ctx, r, io, http.MethodPost, fmt.Sprintf("/approvals/%d/decision", id), verdict, printApproval(io))
}

type tokenCmd struct {
	Create tokenCreateCmd `cmd:"" help:"Make an API token; it is shown once."`
	List   tokenListCmd   `cmd:"" help:"List API tokens."`
	Revoke tokenRevokeCmd `cmd:"" help:"Revoke an API token."`
}

type tokenCreateCmd struct {
	remote  `embed:""`
	Name    string   `help:"What it is for." required:""`
	Action  []string `help:"Actions it may do, for example device.read,device.register." required:""`
	Product []string `help:"Limit it to these products."`
	Days    int      `help:"Days until it expires." default:"90"`
}

// Run makes a token.
func (c *tokenCreateCmd) Run(ctx context.Context, io *streams) error {
	in := map[string]any{"name": c.Name, "actions": c.Action, "days": c.Days}
	if len(c.Product) > 0 {
		in["products"] = c.Product
	}
	return call(ctx, &c.remote, io, http.MethodPost, "/tokens", in, func(t *rest.Token) error {
		fmt.Fprintf(io.out, "Token %d, valid until %s, shown once:\n%s\n", t.ID, day(t.ExpiresAt), t.Token)
		return nil
	})
}

type tokenListCmd struct {
	remote `embed:""`
}

// Run lists tokens.
func (c *tokenListCmd) Run(ctx context.Context, io *streams) error {
	return listAll(ctx, &c.remote, io, "/tokens", url.Values{}, 0, []string{"ID", "NAME", "OPERATOR", "ACTIONS", "EXPIRES", "REVOKED"},
		func(t *rest.Token) []string {
			revoked := ""
			if t.Revoked {
				revoked = "yes"
			}
			return []string{fmt.Sprint(t.ID), t.Name, t.Operator, strings.Join(t.Actions, ","), day(t.ExpiresAt), revoked}
		})
}

type tokenRevokeCmd struct {
	remote `embed:""`
	ID     int64 `arg:"" help:"Number of the token."`
}

// Run revokes a token.
func (c *tokenRevokeCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodDelete, fmt.Sprint("/tokens/", c.ID), nil, func(*struct{}) error {
		fmt.Fprintf(io.out, "Revoked token %d.\n", c.ID)
		return nil
	})
}

type operatorCmd struct {
	Add    operatorAddCmd    `cmd:"" help:"Add an operator."`
	Change operatorChangeCmd `cmd:"" help:"Change roles or scope, or disable."`
	List   operatorListCmd   `cmd:"" help:"List operators."`
}

// operatorFields are what is said of an operator.
type operatorFields struct {
	Name    string   `arg:"" help:"Name; local:USER for a user of the server's machine."`
	Role    []string `help:"Roles: viewer, line-lead, planner, ra-officer, ca-officer, auditor, administrator." required:""`
	Product []string `help:"Limit to these products."`
}

type operatorAddCmd struct {
	remote         `embed:""`
	operatorFields `embed:""`
}

func printOperator(io *streams) func(*rest.Operator) error {
	return func(o *rest.Operator) error {
		state := ""
		if o.Disabled {
			state = " (disabled)"
		}
		fmt.Fprintf(io.out, "%s: %s%s\n", o.Name, strings.Join(o.Roles, ", "), state)
		return nil
	}
}

// Run adds an operator.
func (c *operatorAddCmd) Run(ctx context.Context, io *streams) error {
	in := rest.Operator{Name: c.Name, Roles: c.Role, Products: c.Product}
	return call(ctx, &c.remote, io, http.MethodPost, "/operators", in, printOperator(io))
}

type operatorChangeCmd struct {
	remote         `embed:""`
	operatorFields `embed:""`
	Disable        bool `help:"Disable the operator; their tokens end too."`
}

// Run changes an operator.
func (c *operatorChangeCmd) Run(ctx context.Context, io *streams) error {
	in := rest.Operator{Name: c.Name, Roles: c.Role, Products: c.Product, Disabled: c.Disable}
	return call(ctx, &c.remote, io, http.MethodPut, "/operators/"+url.PathEscape(c.Name), in, printOperator(io))
}

type operatorListCmd struct {
	remote `embed:""`
}

// Run lists operators.
func (c *operatorListCmd) Run(ctx context.Context, io *streams) error {
	return listAll(ctx, &c.remote, io, "/operators", url.Values{}, 0, []string{"NAME", "ROLES", "PRODUCTS", "DISABLED"},
		func(o *rest.Operator) []string {
			disabled := ""
			if o.Disabled {
				disabled = "yes"
			}
			return []string{o.Name, strings.Join(o.Roles, ","), strings.Join(o.Products, ","), disabled}
		})
}

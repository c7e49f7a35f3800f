package access

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

var operatorName = regexp.MustCompile(`^(local|operator):[A-Za-z0-9_][A-Za-z0-9._@\\-]{0,62}$`)

func checkOperatorName(name string) error {
	if !operatorName.MatchString(name) {
		return fault.New(fault.ParameterInvalid, "an operator is named local:USER or operator:NAME")
	}
	return nil
}

// operatorBody is the ledger's record of an operator: the name only as the
// store's private text, since it names a person.
type operatorBody struct {
	Roles    []string `json:"roles"`
	Disabled bool     `json:"disabled"`
	Products []int64  `json:"products,omitempty"`
	Sites    []int64  `json:"sites,omitempty"`
	Owners   []int64  `json:"owners,omitempty"`
	All      bool     `json:"all"`
}

// Bootstrap makes the local user who set up the installation its first
// administrator. It does nothing when there is an operator already.
func (s *Service) Bootstrap(ctx context.Context, user string) error {
	all, err := s.store.Operators(ctx)
	if err != nil || len(all) > 0 {
		return err
	}
	first := Operator{Name: "local:" + user, Roles: []string{string(Administrator)}, All: true}
	if err := checkOperatorName(first.Name); err != nil {
		return err
	}
	return s.save(ctx, first.Name, first)
}

// Operators returns all operators.
func (s *Service) Operators(ctx context.Context) ([]Operator, error) { return s.store.Operators(ctx) }

// AddOperator adds a person; nobody grants more than they have.
func (s *Service) AddOperator(ctx context.Context, by Caller, o Operator) error {
	all, err := s.store.Operators(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(all, func(other Operator) bool { return other.Name == o.Name }) {
		return fault.New(fault.OperatorExists, o.Name)
	}
	if err := mayGrant(by, o); err != nil {
		return err
	}
	return s.save(ctx, by.Name, o)
}

// ChangeOperator replaces roles, scope and whether the operator is disabled. Who
// changes an operator must hold all that the operator has and will have, and
// the last administrator stays.
func (s *Service) ChangeOperator(ctx context.Context, by Caller, o Operator) error {
	all, err := s.store.Operators(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(other Operator) bool { return other.Name == o.Name })
	if i < 0 {
		return fault.New(fault.OperatorUnknown, o.Name)
	}
	if err := mayGrant(by, all[i]); err != nil {
		return err
	}
	if err := mayGrant(by, o); err != nil {
		return err
	}
	if governs(all[i]) && !governs(o) {
		others := slices.Delete(slices.Clone(all), i, i+1)
		if !slices.ContainsFunc(others, governs) {
			return fault.New(fault.OperatorLast)
		}
	}
	o.CreatedAt = all[i].CreatedAt
	return s.save(ctx, by.Name, o)
}

// governs reports whether the operator can change access without limits.
func governs(o Operator) bool {
	actions, err := actionsOfAll(o.Roles)
	return err == nil && !o.Disabled && o.All && actions[AccessManage]
}

// mayGrant refuses an operator who would have more than by.
func mayGrant(by Caller, o Operator) error {
	if err := checkOperatorName(o.Name); err != nil {
		return err
	}
	actions, err := actionsOfAll(o.Roles)
	if err != nil {
		return err
	}
	return by.mayGrant(slices.Sorted(maps.Keys(actions)), scopeOf(o.All, o.Products, o.Sites, o.Owners))
}

// mayGrant refuses to grant an action or a scope that the caller has not.
func (c *Caller) mayGrant(actions []Action, scope Scope) error {
	for _, a := range actions {
		if !c.Actions[a] {
			return fault.New(fault.NotAllowed, "you have no", string(a), "to grant")
		}
	}
	if !c.Scope.Contains(scope) {
		return fault.New(fault.NotAllowed, "the scope is wider than your own")
	}
	return nil
}

func (s *Service) save(ctx context.Context, actor string, o Operator) error {
	now := s.now()
	if o.CreatedAt.IsZero() {
		o.CreatedAt = now
	}
	err := s.store.SaveOperator(ctx, o, ledger.Entry{
		Kind: ledger.OperatorChanged, At: now, Actor: actor,
		Body: ledger.JSON(operatorBody{o.Roles, o.Disabled, o.Products, o.Sites, o.Owners, o.All}),
	})
	s.forget()
	if err != nil {
		return fmt.Errorf("save operator: %w", err)
	}
	return nil
}

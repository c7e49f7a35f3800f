package access

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// Limits of what the service keeps and grants.
const (
	maxTokenLife   = 366 * 24 * time.Hour
	cachedTokens   = 1024
	cacheLife      = 30 * time.Second // the feed invalidates sooner; this bounds a feed that stands still
	approvalLife   = 7 * 24 * time.Hour
	maxReason      = 500
	maxParamsBytes = 64 << 10
)

// Config names what the service needs.
type Config struct {
	Store Store
	Now   func() time.Time
	Rand  io.Reader
	// SecondOperator lists the kinds of acts that need an approval by a second
	// operator; the others are done at once.
	SecondOperator []string
}

// Service authenticates callers and keeps operators, tokens and approvals.
type Service struct {
	store  Store
	now    func() time.Time
	random io.Reader
	second map[string]bool

	mu         sync.Mutex
	generation uint64                // grows with every invalidation
	known      map[[32]byte]cached   // positive answers only
	operators  map[string]operatorAt // by name
}

type cached struct {
	caller Caller
	until  time.Time
}

type operatorAt struct {
	operator Operator
	until    time.Time
}

// New returns a Service; every field of Config but SecondOperator must be set.
func New(c Config) (*Service, error) {
	if c.Store == nil || c.Now == nil || c.Rand == nil {
		return nil, errors.New("access: Store, Now and Rand are needed")
	}
	s := &Service{store: c.Store, now: c.Now, random: c.Rand, second: make(map[string]bool)}
	for _, kind := range c.SecondOperator {
		s.second[kind] = true
	}
	s.forget()
	return s, nil
}

// FollowedClasses are the classes of entries that Follow wants.
const FollowedClasses = ledger.ClassAccess

// Follow takes a batch of the change feed: another node may have changed who may
// do what.
func (s *Service) Follow(_ context.Context, b ledger.Batch) error {
	if b.Classes&FollowedClasses != 0 {
		s.forget()
	}
	return nil
}

// forget drops all cached answers, also those being looked up now.
func (s *Service) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generation++
	s.known = make(map[[32]byte]cached)
	s.operators = make(map[string]operatorAt)
}

// LocalCaller returns the caller behind the unix socket whose peer credentials
// name this user. While there is no operator at all the local user is an
// administrator, so that the first operator needs no default password.
func (s *Service) LocalCaller(ctx context.Context, user string) (Caller, error) {
	name := "local:" + user
	if err := checkOperatorName(name); err != nil {
		return Caller{}, fault.Wrap(fault.NotAuthenticated, err)
	}
	o, err := s.operator(ctx, name)
	switch {
	case err == nil && o.Disabled:
		return Caller{}, fault.New(fault.NotAllowed)
	case err == nil:
		return callerOf(o)
	case !fault.Has(err, fault.OperatorUnknown):
		return Caller{}, err
	}
	all, err := s.store.Operators(ctx)
	if err != nil {
		return Caller{}, err
	}
	if len(all) > 0 {
		return Caller{}, fault.New(fault.NotAllowed)
	}
	return Caller{Name: name, Operator: name, Actions: actionSet(Actions()), Scope: Everything()}, nil
}

// callerOf returns an operator as a caller.
func callerOf(o Operator) (Caller, error) {
	actions, err := actionsOfAll(o.Roles)
	if err != nil {
		return Caller{}, fault.Wrap(fault.NotAllowed, err)
	}
	return Caller{Name: o.Name, Operator: o.Name, Actions: actions, Scope: scopeOf(o.All, o.Products, o.Sites, o.Owners)}, nil
}

func scopeOf(all bool, products, sites, owners []int64) Scope {
	if all {
		return Everything()
	}
	return Limited(products, sites, owners)
}

// operator returns an operator from the cache or the store.
func (s *Service) operator(ctx context.Context, name string) (Operator, error) {
	now := s.now()
	s.mu.Lock()
	at, ok := s.operators[name]
	generation := s.generation
	s.mu.Unlock()
	if ok && now.Before(at.until) {
		return at.operator, nil
	}
	all, err := s.store.Operators(ctx)
	if err != nil {
		return Operator{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found := Operator{}
	for _, o := range all {
		if generation == s.generation && len(s.operators) < cachedTokens {
			s.operators[o.Name] = operatorAt{operator: o, until: now.Add(cacheLife)}
		}
		if o.Name == name {
			found = o
		}
	}
	if found.Name == "" {
		return Operator{}, fault.New(fault.OperatorUnknown, name)
	}
	return found, nil
}

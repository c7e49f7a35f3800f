package access

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// A token is "bmt_" and 160 random bits in base 62, always 27 digits.
const (
	tokenPrefix = "bmt_"
	tokenDigits = 27
	base62      = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// tokenBody is the ledger's record of a token.
type tokenBody struct {
	ID        int64    `json:"id,omitempty"`
	Hash      string   `json:"sha256"`
	Name      string   `json:"name,omitempty"`
	Actions   []Action `json:"actions,omitempty"`
	Products  []int64  `json:"products,omitempty"`
	Sites     []int64  `json:"sites,omitempty"`
	Owners    []int64  `json:"owners,omitempty"`
	All       bool     `json:"all,omitempty"`
	ExpiresAt int64    `json:"expires_at,omitempty"`
	Revoked   bool     `json:"revoked,omitempty"`
}

func bodyOfToken(t *Token) ledger.Body {
	return ledger.JSON(tokenBody{
		ID: t.ID, Hash: hex.EncodeToString(t.Hash[:]), Name: t.Name, Actions: t.Actions, Products: t.Products, Sites: t.Sites,
		Owners: t.Owners, All: t.All, ExpiresAt: t.ExpiresAt.Unix(), Revoked: !t.RevokedAt.IsZero(),
	})
}

// CreateToken makes a token and returns it with its text, which is not kept and
// cannot be shown again. Of t it takes name, actions, scope and expiry.
func (s *Service) CreateToken(ctx context.Context, by Caller, t Token) (Token, string, error) {
	now := s.now()
	if err := checkToken(t); err != nil {
		return Token{}, "", err
	}
	if !t.ExpiresAt.After(now) || t.ExpiresAt.After(now.Add(maxTokenLife)) {
		return Token{}, "", fault.New(fault.TokenInvalid, "the expiry must be in the next 366 days")
	}
	if err := by.mayGrant(t.Actions, scopeOf(t.All, t.Products, t.Sites, t.Owners)); err != nil {
		return Token{}, "", err
	}
	if _, err := s.operator(ctx, by.Operator); err != nil {
		return Token{}, "", err
	}
	text, err := newToken(s.random)
	if err != nil {
		return Token{}, "", err
	}
	t.Hash = sha256.Sum256([]byte(text))
	t.Operator, t.CreatedAt = by.Operator, now
	t.ID, err = s.store.AddToken(ctx, t, ledger.Entry{
		Kind: ledger.TokenCreated, At: now, Actor: by.Name, Body: bodyOfToken(&t),
	})
	if err != nil {
		return Token{}, "", err
	}
	return t, text, nil
}

func checkToken(t Token) error {
	if t.Name == "" || len(t.Name) > 64 || strings.ContainsFunc(t.Name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fault.New(fault.TokenInvalid, "a token needs a name of at most 64 characters")
	}
	if len(t.Actions) == 0 {
		return fault.New(fault.TokenInvalid, "a token needs at least one action")
	}
	for _, a := range t.Actions {
		if !slices.Contains(Actions(), a) {
			return fault.New(fault.TokenInvalid, "there is no action", string(a))
		}
	}
	return nil
}

// newToken returns the text of a fresh token.
func newToken(random io.Reader) (string, error) {
	var raw [20]byte
	if _, err := io.ReadFull(random, raw[:]); err != nil {
		return "", fmt.Errorf("random bytes of a token: %w", err)
	}
	digits := []byte(strings.Repeat("0", tokenDigits))
	n, digit, base := new(big.Int).SetBytes(raw[:]), new(big.Int), big.NewInt(int64(len(base62)))
	for i := tokenDigits - 1; n.Sign() > 0; i-- {
		n.DivMod(n, base, digit)
		digits[i] = base62[digit.Int64()]
	}
	return tokenPrefix + string(digits), nil
}

// Tokens returns all tokens, without their text.
func (s *Service) Tokens(ctx context.Context) ([]Token, error) { return s.store.Tokens(ctx) }

// RevokeToken ends a token; revoking one twice does nothing.
func (s *Service) RevokeToken(ctx context.Context, by Caller, id int64) error {
	now := s.now()
	all, err := s.store.Tokens(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(t Token) bool { return t.ID == id })
	if i < 0 {
		return fault.New(fault.TokenUnknown, id)
	}
	if !all[i].RevokedAt.IsZero() {
		return nil
	}
	all[i].RevokedAt = now
	defer s.forget()
	return s.store.RevokeToken(ctx, id, now.Unix(), ledger.Entry{
		Kind: ledger.TokenRevoked, At: now, Actor: by.Name, Body: bodyOfToken(&all[i]),
	})
}

// Authenticate returns the caller behind a token, or fault.NotAuthenticated
// without saying why. A token may do what it was given and its maker may still
// do: it ends with its maker's rights.
func (s *Service) Authenticate(ctx context.Context, token string) (Caller, error) {
	if len(token) != len(tokenPrefix)+tokenDigits || !strings.HasPrefix(token, tokenPrefix) {
		return Caller{}, fault.New(fault.NotAuthenticated)
	}
	hash := sha256.Sum256([]byte(token))
	now := s.now()
	s.mu.Lock()
	hit, ok := s.known[hash]
	generation := s.generation
	s.mu.Unlock()
	if ok && now.Before(hit.until) {
		return hit.caller, nil
	}
	t, err := s.store.TokenByHash(ctx, hash)
	if fault.Has(err, fault.TokenUnknown) {
		return Caller{}, fault.New(fault.NotAuthenticated)
	}
	if err != nil {
		return Caller{}, err
	}
	if !t.RevokedAt.IsZero() || !now.Before(t.ExpiresAt) {
		return Caller{}, fault.New(fault.NotAuthenticated)
	}
	c, err := s.tokenCaller(ctx, t)
	if err != nil {
		return Caller{}, err
	}
	until := now.Add(cacheLife)
	if t.ExpiresAt.Before(until) {
		until = t.ExpiresAt
	}
	s.remember(hash, generation, cached{caller: c, until: until})
	return c, nil
}

// tokenCaller cuts a token's rights down to those its maker has now.
func (s *Service) tokenCaller(ctx context.Context, t Token) (Caller, error) {
	o, err := s.operator(ctx, t.Operator)
	if fault.Has(err, fault.OperatorUnknown) || err == nil && o.Disabled {
		return Caller{}, fault.New(fault.NotAuthenticated)
	}
	if err != nil {
		return Caller{}, err
	}
	maker, err := callerOf(o)
	if err != nil {
		return Caller{}, err
	}
	actions := make(map[Action]bool, len(t.Actions))
	for _, a := range t.Actions {
		if maker.Actions[a] {
			actions[a] = true
		}
	}
	return Caller{
		Name:     "token:" + strconv.FormatInt(t.ID, 10),
		Operator: t.Operator,
		Actions:  actions,
		Scope:    scopeOf(t.All, t.Products, t.Sites, t.Owners).Intersect(maker.Scope),
	}, nil
}

// remember caches a positive answer unless something was invalidated while it
// was looked up.
func (s *Service) remember(hash [32]byte, generation uint64, c cached) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.generation != generation {
		return
	}
	if len(s.known) >= cachedTokens {
		clear(s.known)
	}
	s.known[hash] = c
}

package access_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/store"
)

// world is the service over real SQLite, with a clock that tests set.
type world struct {
	*access.Service
	store *store.Store
	at    time.Time
	reads int
}

func (w *world) now() time.Time { return w.at }

func newWorld(t testing.TB, second ...string) *world {
	t.Helper()
	w := &world{at: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)}
	var err error
	w.store, err = store.Open(t.Context(), store.Config{
		DSN: "sqlite:" + filepath.Join(t.TempDir(), "birthmark.db"), Node: "n1", Now: w.now, Rand: rand.Reader,
	})
	noError(t, err)
	t.Cleanup(func() { w.store.Close() })
	w.Service = w.service(t, second...)
	return w
}

// counting counts look-ups of tokens.
type counting struct {
	access.Store
	w *world
}

func (c counting) TokenByHash(ctx context.Context, hash [32]byte) (access.Token, error) {
	c.w.reads++
	return c.Store.TokenByHash(ctx, hash)
}

func (w *world) service(t testing.TB, second ...string) *access.Service {
	t.Helper()
	s, err := access.New(access.Config{Store: counting{w.store, w}, Now: w.now, Rand: rand.Reader, SecondOperator: second})
	noError(t, err)
	return s
}

// admin makes the first operator and returns him.
func (w *world) admin(t testing.TB) access.Caller {
	t.Helper()
	noError(t, w.Bootstrap(t.Context(), "alice"))
	c, err := w.LocalCaller(t.Context(), "alice")
	noError(t, err)
	return c
}

// operator adds an operator with roles who sees everything.
func (w *world) operator(t testing.TB, by access.Caller, user string, roles ...string) access.Caller {
	t.Helper()
	noError(t, w.AddOperator(t.Context(), by, access.Operator{Name: "local:" + user, Roles: roles, All: true}))
	c, err := w.LocalCaller(t.Context(), user)
	noError(t, err)
	return c
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantFault(t testing.TB, err error, code fault.Code) {
	t.Helper()
	if !fault.Has(err, code) {
		t.Fatalf("got %v, want %v", err, code)
	}
}

func TestFirstOperatorNeedsNoPassword(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	c, err := w.LocalCaller(ctx, "alice")
	noError(t, err)
	if !c.May(access.AccessManage) || !c.Scope.SeesEverything() {
		t.Fatal("before there is an operator the local user is not an administrator")
	}
	noError(t, w.Bootstrap(ctx, "alice"))
	noError(t, w.Bootstrap(ctx, "mallory")) // does nothing
	_, err = w.LocalCaller(ctx, "mallory")
	wantFault(t, err, fault.NotAllowed)
	c, err = w.LocalCaller(ctx, "alice")
	noError(t, err)
	if c.Name != "local:alice" || !c.May(access.AccessManage) {
		t.Fatalf("caller %+v", c)
	}
	for _, odd := range []string{"", "a b", "a\nb", "x:y", strings.Repeat("a", 100)} {
		_, err := w.LocalCaller(ctx, odd)
		wantFault(t, err, fault.NotAuthenticated)
	}
}

func TestRolesHoldWhatTheTableSays(t *testing.T) {
	for _, row := range []struct {
		role access.Role
		may  []access.Action
		not  []access.Action
	}{
		{access.Viewer, []access.Action{access.DeviceRead, access.AttestRead}, []access.Action{access.DeviceRegister, access.AttestManage, access.LedgerRead}},
		{access.LineLead, []access.Action{access.DeviceRegister}, []access.Action{access.DeviceManage, access.AttestManage, access.CertificateRevoke}},
		{access.Planner, []access.Action{access.OrderManage, access.ApprovalDecide}, []access.Action{access.DeviceManage, access.ManifestManage, access.CertificateRevoke}},
		{access.RAOfficer, []access.Action{access.AttestManage, access.CertificateRevoke, access.ApprovalDecide}, []access.Action{access.AuthorityManage, access.AccessManage}},
		{access.CAOfficer, []access.Action{access.AuthorityManage, access.ApprovalDecide}, []access.Action{access.AccessManage, access.CertificateIssue}},
		{access.Auditor, []access.Action{access.LedgerRead}, []access.Action{access.DeviceRegister, access.ApprovalDecide}},
		{access.Administrator, access.Actions(), nil},
	} {
		actions, ok := access.ActionsOf(row.role)
		if !ok {
			t.Fatalf("no role %s", row.role)
		}
		for _, a := range row.may {
			if !slices.Contains(actions, a) {
				t.Errorf("%s may not %s", row.role, a)
			}
		}
		for _, a := range row.not {
			if slices.Contains(actions, a) {
				t.Errorf("%s may %s", row.role, a)
			}
		}
		if slices.Contains(actions, access.Enroll) || slices.Contains(actions, access.Public) {
			t.Errorf("%s holds a marker", row.role)
		}
	}
	if len(access.Roles()) != 7 {
		t.Fatal("a role is not in this test")
	}
}

func TestTokenLife(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	admin := w.admin(t)
	made, text, err := w.CreateToken(ctx, admin, access.Token{
		Name: "ci", Actions: []access.Action{access.DeviceRead, access.DeviceRegister}, Products: []int64{7}, ExpiresAt: w.at.Add(time.Hour),
	})
	noError(t, err)
	if !strings.HasPrefix(text, "bmt_") || len(text) != 31 {
		t.Fatalf("token %q", text)
	}
	c, err := w.Authenticate(ctx, text)
	noError(t, err)
	if c.Name != fmt.Sprintf("token:%d", made.ID) || c.Operator != "local:alice" || !c.May(access.DeviceRegister) || c.May(access.DeviceManage) {
		t.Fatalf("caller %+v", c)
	}
	if c.Scope.SeesEverything() || !c.Scope.Sees(7, 1, 1) || c.Scope.Sees(8, 1, 1) {
		t.Fatal("scope")
	}
	for _, wrong := range []string{"", "bmt_", text[:30], text + "0", strings.ToUpper(text), "bmt_" + strings.Repeat("0", 27)} {
		_, err := w.Authenticate(ctx, wrong)
		wantFault(t, err, fault.NotAuthenticated)
	}
	w.at = w.at.Add(time.Hour)
	_, err = w.Authenticate(ctx, text)
	wantFault(t, err, fault.NotAuthenticated)
	w.at = w.at.Add(-time.Minute) // a clock that goes back
	_, err = w.Authenticate(ctx, text)
	noError(t, err)
	noError(t, w.RevokeToken(ctx, admin, made.ID))
	noError(t, w.RevokeToken(ctx, admin, made.ID))
	_, err = w.Authenticate(ctx, text)
	wantFault(t, err, fault.NotAuthenticated)
	wantFault(t, w.RevokeToken(ctx, admin, 99), fault.TokenUnknown)
}

func TestTokenSettingsAreChecked(t *testing.T) {
	w := newWorld(t)
	admin := w.admin(t)
	good := access.Token{Name: "x", Actions: []access.Action{access.DeviceRead}, All: true, ExpiresAt: w.at.Add(time.Hour)}
	for name, change := range map[string]func(*access.Token){
		"no name":          func(t *access.Token) { t.Name = "" },
		"control letters":  func(t *access.Token) { t.Name = "a\x1b[2J" },
		"no actions":       func(t *access.Token) { t.Actions = nil },
		"unknown action":   func(t *access.Token) { t.Actions = []access.Action{"world.rule"} },
		"a marker":         func(t *access.Token) { t.Actions = []access.Action{access.Enroll} },
		"expired":          func(t *access.Token) { t.ExpiresAt = w.at },
		"for ever":         func(t *access.Token) { t.ExpiresAt = w.at.AddDate(2, 0, 0) },
		"no expiry at all": func(t *access.Token) { t.ExpiresAt = time.Time{} },
	} {
		t.Run(name, func(t *testing.T) {
			bad := good
			change(&bad)
			_, _, err := w.CreateToken(t.Context(), admin, bad)
			wantFault(t, err, fault.TokenInvalid)
		})
	}
}

func TestTokensAreCachedUntilTheFeedSaysOtherwise(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	admin := w.admin(t)
	other := w.service(t)
	made, text, err := w.CreateToken(ctx, admin, access.Token{Name: "x", Actions: []access.Action{access.DeviceRead}, All: true, ExpiresAt: w.at.Add(time.Hour)})
	noError(t, err)
	for range 5 {
		_, err = other.Authenticate(ctx, text)
		noError(t, err)
	}
	if w.reads != 1 {
		t.Fatalf("%d look-ups", w.reads)
	}
	noError(t, w.RevokeToken(ctx, admin, made.ID))
	noError(t, other.Follow(ctx, ledger.Batch{Classes: ledger.ClassAccess}))
	_, err = other.Authenticate(ctx, text)
	wantFault(t, err, fault.NotAuthenticated)
}

// A token ends with the rights of who made it.
func TestTokenFollowsItsMaker(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	admin := w.admin(t)
	bob := w.operator(t, admin, "bob", "ra-officer", "auditor")
	_, text, err := w.CreateToken(ctx, bob, access.Token{
		Name: "x", Actions: []access.Action{access.LedgerRead, access.DeviceRead}, All: true, ExpiresAt: w.at.Add(time.Hour),
	})
	noError(t, err)
	noError(t, w.ChangeOperator(ctx, admin, access.Operator{Name: "local:bob", Roles: []string{"viewer"}, Products: []int64{3}}))
	c, err := w.Authenticate(ctx, text)
	noError(t, err)
	if c.May(access.LedgerRead) || !c.May(access.DeviceRead) || c.Scope.SeesEverything() || !c.Scope.Sees(3, 0, 0) {
		t.Fatalf("caller %+v", c)
	}
	noError(t, w.ChangeOperator(ctx, admin, access.Operator{Name: "local:bob", Roles: []string{"viewer"}, Disabled: true}))
	_, err = w.Authenticate(ctx, text)
	wantFault(t, err, fault.NotAuthenticated)
	_, err = w.LocalCaller(ctx, "bob")
	wantFault(t, err, fault.NotAllowed)
}

func TestOperators(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	admin := w.admin(t)
	bob := w.operator(t, admin, "bob", "ra-officer")
	wantFault(t, w.AddOperator(ctx, admin, access.Operator{Name: "local:bob"}), fault.OperatorExists)
	wantFault(t, w.AddOperator(ctx, admin, access.Operator{Name: "bob"}), fault.ParameterInvalid)
	wantFault(t, w.AddOperator(ctx, admin, access.Operator{Name: "local:eve", Roles: []string{"god"}}), fault.ParameterInvalid)
	wantFault(t, w.AddOperator(ctx, bob, access.Operator{Name: "local:eve", Roles: []string{"administrator"}, All: true}), fault.NotAllowed)
	wantFault(t, w.ChangeOperator(ctx, bob, access.Operator{Name: "local:alice", Roles: []string{"viewer"}}), fault.NotAllowed)
	wantFault(t, w.ChangeOperator(ctx, admin, access.Operator{Name: "local:nobody"}), fault.OperatorUnknown)
	for _, last := range []access.Operator{
		{Name: "local:alice", Roles: []string{"viewer"}, All: true},
		{Name: "local:alice", Roles: []string{"administrator"}, All: true, Disabled: true},
		{Name: "local:alice", Roles: []string{"administrator"}, Products: []int64{1}},
	} {
		wantFault(t, w.ChangeOperator(ctx, admin, last), fault.OperatorLast)
	}
	noError(t, w.AddOperator(ctx, admin, access.Operator{Name: "operator:carol", Roles: []string{"administrator"}, All: true}))
	noError(t, w.ChangeOperator(ctx, admin, access.Operator{Name: "local:alice", Roles: []string{"viewer"}, All: true}))
}

// Whatever a caller has and asks for, what comes out is never more than the
// caller has.
func TestNobodyGrantsMoreThanTheyHave(t *testing.T) {
	ids := rapid.SliceOfNDistinct(rapid.Int64Range(1, 4), 0, 3, rapid.ID[int64])
	scope := rapid.Custom(func(t *rapid.T) access.Scope {
		if rapid.Bool().Draw(t, "all") {
			return access.Everything()
		}
		return access.Limited(ids.Draw(t, "products"), ids.Draw(t, "sites"), ids.Draw(t, "owners"))
	})
	rows := func(s access.Scope) (seen []string) {
		for p := range int64(5) {
			for q := range int64(5) {
				for o := range int64(5) {
					if s.Sees(p, q, o) {
						seen = append(seen, fmt.Sprint(p, q, o))
					}
				}
			}
		}
		return seen
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := scope.Draw(t, "a"), scope.Draw(t, "b")
		outer, inner := rows(a), rows(b)
		subset := !slices.ContainsFunc(inner, func(r string) bool { return !slices.Contains(outer, r) })
		// Five ids in the grid against four in the lists: whoever is unlimited
		// sees a row that no list names.
		if a.Contains(b) && (!subset || b.SeesEverything() && !a.SeesEverything()) {
			t.Fatalf("%+v contains %+v", a, b)
		}
		if subset && !a.Contains(b) && !b.SeesEverything() {
			t.Fatalf("%+v does not contain %+v", a, b)
		}
		both := rows(a.Intersect(b))
		for p := range both {
			if !slices.Contains(outer, both[p]) || !slices.Contains(inner, both[p]) {
				t.Fatalf("%+v and %+v both see %s", a, b, both[p])
			}
		}
		for _, r := range outer {
			if slices.Contains(inner, r) != slices.Contains(both, r) {
				t.Fatalf("row %s of %+v and %+v", r, a, b)
			}
		}
	})
	w := newWorld(t)
	admin := w.admin(t)
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		granter := admin
		granter.Actions = make(map[access.Action]bool)
		for _, a := range rapid.SliceOfDistinct(rapid.SampledFrom(access.Actions()), rapid.ID[access.Action]).Draw(t, "has") {
			granter.Actions[a] = true
		}
		granter.Scope = scope.Draw(t, "scope")
		wish := access.Token{
			Name: "x", Actions: rapid.SliceOfNDistinct(rapid.SampledFrom(access.Actions()), 1, 4, rapid.ID[access.Action]).Draw(t, "wants"),
			Products: ids.Draw(t, "products"), Sites: ids.Draw(t, "sites"), Owners: ids.Draw(t, "owners"), All: rapid.Bool().Draw(t, "all"),
			ExpiresAt: w.at.Add(time.Hour),
		}
		_, text, err := w.CreateToken(context.Background(), granter, wish)
		if err != nil {
			if !fault.Has(err, fault.NotAllowed) {
				t.Fatal(err)
			}
			return
		}
		c, err := w.Authenticate(context.Background(), text)
		if err != nil {
			t.Fatal(err)
		}
		for a := range c.Actions {
			if !granter.Actions[a] {
				t.Fatalf("a token may %s, its maker may not", a)
			}
		}
		if !granter.Scope.Contains(c.Scope) {
			t.Fatal("a token sees more than its maker")
		}
	})
	if n == 0 {
		t.Fatal("nothing was tried")
	}
}

func TestApprovalNeedsAnotherPerson(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	alice := w.admin(t)
	bob := w.operator(t, alice, "bob", "administrator")
	_, text, err := w.CreateToken(ctx, alice, access.Token{Name: "x", Actions: access.Actions(), All: true, ExpiresAt: w.at.Add(time.Hour)})
	noError(t, err)
	token, err := w.Authenticate(ctx, text)
	noError(t, err)
	act := map[string]any{"name": "issuing", "reason": "keyCompromise"}
	a, err := w.Request(ctx, token, "authority.manage", act, "it leaked")
	noError(t, err)
	again, err := w.Request(ctx, alice, "authority.manage", act, "it leaked")
	noError(t, err)
	if again.ID != a.ID {
		t.Fatal("the same act waits twice")
	}
	for _, self := range []access.Caller{alice, token} {
		_, err := w.Decide(ctx, self, a.ID, access.Verdict{Approve: true})
		wantFault(t, err, fault.ApprovalOwn)
	}
	_, err = w.Decide(ctx, access.Caller{Name: "nobody"}, a.ID, access.Verdict{Approve: true})
	wantFault(t, err, fault.ApprovalOwn)
	viewer := w.operator(t, alice, "carol", "ra-officer")
	_, err = w.Decide(ctx, viewer, a.ID, access.Verdict{Approve: true})
	wantFault(t, err, fault.NotAllowed)
	wantFault(t, w.Claim(ctx, alice, a.ID, "authority.manage", act), fault.ApprovalState)
	done, err := w.Decide(ctx, bob, a.ID, access.Verdict{Approve: true})
	noError(t, err)
	if done.State != access.Approved || done.DecidedBy != "local:bob" {
		t.Fatalf("%+v", done)
	}
	_, err = w.Decide(ctx, bob, a.ID, access.Verdict{})
	wantFault(t, err, fault.ApprovalState)
	wantFault(t, w.Claim(ctx, alice, a.ID, "authority.manage", map[string]any{"name": "other"}), fault.ApprovalState)
	wantFault(t, w.Claim(ctx, alice, a.ID, "system.manage", act), fault.ApprovalState)
	noError(t, w.Claim(ctx, alice, a.ID, "authority.manage", act))
	wantFault(t, w.Claim(ctx, alice, a.ID, "authority.manage", act), fault.ApprovalState)
}

func TestApprovalIsDecidedAndClaimedOnce(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	alice := w.admin(t)
	var deciders []access.Caller
	for i := range 6 {
		deciders = append(deciders, w.operator(t, alice, fmt.Sprintf("op%d", i), "administrator"))
	}
	a, err := w.Request(ctx, alice, "certificate.revoke", "x", "")
	noError(t, err)
	once := func(what string, act func(i int) error) int {
		t.Helper()
		var mu sync.Mutex
		var won []int
		var all sync.WaitGroup
		for i := range deciders {
			all.Go(func() {
				err := act(i)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won = append(won, i)
				} else if !fault.Has(err, fault.ApprovalState) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if len(won) != 1 {
			t.Fatalf("%s %d times", what, len(won))
		}
		return won[0]
	}
	winner := once("decided", func(i int) error {
		_, err := w.Decide(ctx, deciders[i], a.ID, access.Verdict{Approve: i%2 == 0})
		return err
	})
	if winner%2 == 1 {
		return // refused: nothing to claim
	}
	once("claimed", func(int) error { return w.Claim(ctx, alice, a.ID, "certificate.revoke", "x") })
}

func TestApprovalExpires(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	alice := w.admin(t)
	bob := w.operator(t, alice, "bob", "administrator")
	a, err := w.Request(ctx, alice, "x.y", 1, "")
	noError(t, err)
	w.at = a.ExpiresAt
	_, err = w.Decide(ctx, bob, a.ID, access.Verdict{Approve: true})
	wantFault(t, err, fault.ApprovalState)
	fresh, err := w.Request(ctx, alice, "x.y", 1, "")
	noError(t, err)
	if fresh.ID == a.ID || !fresh.ExpiresAt.After(w.at) {
		t.Fatal("an expired request stands in the way of a new one")
	}
	_, err = w.Decide(ctx, bob, fresh.ID, access.Verdict{Approve: true})
	noError(t, err)
	w.at = fresh.ExpiresAt
	wantFault(t, w.Claim(ctx, alice, fresh.ID, "x.y", 1), fault.ApprovalState)
}

func TestTwoOperatorRule(t *testing.T) {
	w := newWorld(t, "authority.manage")
	ctx := t.Context()
	alice := w.admin(t)
	bob := w.operator(t, alice, "bob", "administrator")
	noError(t, w.Authorize(ctx, alice, "certificate.revoke", 1, "")) // one operator is enough
	ask := func() error {
		return w.Authorize(ctx, alice, "authority.manage", map[string]int{"b": 2, "a": 1}, "why")
	}
	wantFault(t, ask(), fault.ApprovalWaiting)
	wantFault(t, ask(), fault.ApprovalWaiting)
	all, _, err := w.Approvals(ctx, access.Waiting, "", 10)
	noError(t, err)
	if len(all) != 1 || string(all[0].Params) != `{"a":1,"b":2}` {
		t.Fatalf("%+v", all)
	}
	_, err = w.Decide(ctx, bob, all[0].ID, access.Verdict{Approve: true})
	noError(t, err)
	noError(t, ask())
	wantFault(t, ask(), fault.ApprovalWaiting) // once approved, once done
	all, _, err = w.Approvals(ctx, access.Waiting, "", 10)
	noError(t, err)
	_, err = w.Decide(ctx, bob, all[0].ID, access.Verdict{Reason: "no"})
	noError(t, err)
	wantFault(t, ask(), fault.ApprovalWaiting) // refused; asked anew
}

func TestEqualActsHaveEqualDigests(t *testing.T) {
	a, err := access.Canonical(map[string]any{"b": []int{1, 2}, "a": "<&>"})
	noError(t, err)
	b, err := access.Canonical(struct {
		B []int  `json:"b"`
		A string `json:"a"`
	}{[]int{1, 2}, "<&>"})
	noError(t, err)
	if string(a) != string(b) || access.ActDigest("k", a) != access.ActDigest("k", b) {
		t.Fatalf("%s and %s", a, b)
	}
	if access.ActDigest("ka", []byte("b")) == access.ActDigest("k", []byte("ab")) {
		t.Fatal("kind and parameters run together")
	}
	if _, err := access.Canonical(func() {}); !fault.Has(err, fault.ParameterInvalid) {
		t.Fatal(err)
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	admin := w.admin(t)
	_, err := w.Request(ctx, admin, "", 1, "")
	wantFault(t, err, fault.ParameterInvalid)
	_, err = w.Request(ctx, admin, "x", 1, "bell\a")
	wantFault(t, err, fault.ParameterInvalid)
	_, err = w.Request(ctx, admin, "x", strings.Repeat("x", 1<<17), "")
	wantFault(t, err, fault.ParameterInvalid)
	_, err = w.Decide(ctx, admin, 99, access.Verdict{})
	wantFault(t, err, fault.ApprovalUnknown)
	noError(t, w.store.Close())
	if _, err := w.Authenticate(ctx, "bmt_"+strings.Repeat("0", 27)); err == nil || errors.Is(err, fault.New(fault.NotAuthenticated)) {
		t.Fatalf("a store that is down says %v: the caller would be told that the token is wrong", err)
	}
}

package storetest

import (
	"errors"
	"strconv"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

var errInterrupted = errors.New("interrupted")

func cursorOf(id device.CredentialID) string { return strconv.FormatInt(int64(id), 10) }

func testInstall(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	_, err := f.s.Installation(t.Context())
	f.refused(err, fault.DataFolderState)
	i := authority.Installation{ID: [16]byte{1, 2}, Organization: "Acme", StatusURL: "http://pki.example.com", Quickstart: true, CreatedAt: f.now}
	f.raises(func(e ...ledger.Entry) error { return f.s.Install(t.Context(), i, e...) })
	err = f.adds(0, func(e ...ledger.Entry) error { return f.s.Install(t.Context(), authority.Installation{}, e...) })
	f.refused(err, fault.DataFolderState)
	got, err := f.s.Installation(t.Context())
	f.ok(err)
	f.same(i, got)
}

func testControlPlane(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	root := authority.Authority{Name: "root", Kind: authority.Root, State: authority.Active, KeyURI: "file:root", Certificate: []byte{1}, CRLShards: 1, CreatedAt: f.now, ChangedAt: f.now}
	f.raises(func(e ...ledger.Entry) (err error) {
		root.ID, err = f.s.AddAuthority(t.Context(), root, e...)
		return err
	})
	issuing := authority.Authority{Name: "issuing", Kind: authority.Issuing, State: authority.Pending, KeyURI: "file:issuing", Parent: root.ID, CRLShards: 4, CreatedAt: f.now, ChangedAt: f.now}
	var err error
	issuing.ID, err = f.s.AddAuthority(t.Context(), issuing, f.entry(""))
	f.ok(err)
	_, err = f.s.AddAuthority(t.Context(), root, f.entry(""))
	f.refused(err, fault.AuthorityExists)
	issuing.State, issuing.Certificate, issuing.Credential = authority.Active, []byte{2}, 17
	f.raises(func(e ...ledger.Entry) error { return f.s.UpdateAuthority(t.Context(), issuing, e...) })
	f.refused(f.s.UpdateAuthority(t.Context(), authority.Authority{ID: 99, Name: "x"}, f.entry("")), fault.AuthorityUnknown)
	stolen := issuing
	stolen.Name = "root"
	f.refused(f.s.UpdateAuthority(t.Context(), stolen, f.entry("")), fault.AuthorityExists)

	label := authority.Label{Name: "cloud", Profile: "ldevid-cloud", Purpose: "cloud", Wrap: 64}
	f.raises(func(e ...ledger.Entry) error { return f.s.SetLabel(t.Context(), label, e...) })
	label.Wrap = 76
	f.raises(func(e ...ledger.Entry) error { return f.s.SetLabel(t.Context(), label, e...) })
	first := authority.Label{Name: "a", Profile: "idevid"}
	f.ok(f.s.SetLabel(t.Context(), first, f.entry("")))
	p := device.Product{Name: "sensor", CreatedAt: f.now}
	p.ID, err = f.s.AddProduct(t.Context(), p, f.entry(""))
	f.ok(err)
	v, err := f.s.AddProfileVersion(t.Context(), authority.ProfileVersion{Name: "idevid", Text: []byte("x"), Digest: [32]byte{1}, ImportedAt: f.now}, f.entry(""))
	f.ok(err)

	c, err := f.s.Control(t.Context())
	f.ok(err)
	f.same(authority.Control{
		Epoch: c.Epoch, Authorities: []authority.Authority{root, issuing}, Profiles: []authority.ProfileVersion{v},
		Products: []device.Product{p}, Labels: []authority.Label{first, label},
	}, c)
}

func testProfiles(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	add := func(name, text string, leaves int64) authority.ProfileVersion {
		t.Helper()
		var v authority.ProfileVersion
		f.ok(f.adds(leaves, func(e ...ledger.Entry) (err error) {
			v, err = f.s.AddProfileVersion(t.Context(), authority.ProfileVersion{
				Name: name, Text: []byte(text), Digest: [32]byte{text[0]}, Author: "local:ann", Approval: 3, ImportedAt: f.now,
			}, e...)
			return err
		}))
		return v
	}
	one := add("idevid", "one", 1)
	two := add("idevid", "two", 1)
	f.same(two, add("idevid", "two", 0))
	three := add("idevid", "one", 1) // back to the first text is a new version
	other := add("ldevid", "one", 1)
	if one.Version != 1 || two.Version != 2 || three.Version != 3 || other.Version != 1 {
		t.Errorf("versions %d %d %d %d", one.Version, two.Version, three.Version, other.Version)
	}
	all, err := f.s.ProfileVersions(t.Context(), "idevid")
	f.ok(err)
	f.same([]authority.ProfileVersion{three, two, one}, all)
	got, err := f.s.ProfileVersion(t.Context(), two.ID)
	f.ok(err)
	f.same(two, got)
	_, err = f.s.ProfileVersion(t.Context(), 99)
	f.refused(err, fault.ProfileUnknown)
	_, err = f.s.ProfileVersions(t.Context(), "none")
	f.refused(err, fault.ProfileUnknown)
	c, err := f.s.Control(t.Context())
	f.ok(err)
	f.same([]authority.ProfileVersion{three, other}, c.Profiles)
}

func testOperators(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	ann := access.Operator{Name: "ann", Roles: []string{"administrator"}, All: true, CreatedAt: f.now}
	bob := access.Operator{Name: "bob", Roles: []string{"reader"}, Products: []int64{1}, Sites: []int64{2}, Owners: []int64{3}, CreatedAt: f.now}
	for _, o := range []access.Operator{bob, ann} {
		f.ok(f.adds(1, func(e ...ledger.Entry) error { return f.s.SaveOperator(t.Context(), o, e...) }))
	}
	bob.Disabled, bob.Roles = true, nil
	f.ok(f.s.SaveOperator(t.Context(), bob, f.entry("")))
	all, err := f.s.Operators(t.Context())
	f.ok(err)
	f.same([]access.Operator{ann, bob}, all)
}

func testTokens(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	k := access.Token{Name: "ci", Hash: [32]byte{1}, Actions: []access.Action{access.DeviceRead}, Products: []int64{1}, Operator: "ann", CreatedAt: f.now, ExpiresAt: f.now.AddDate(0, 1, 0)}
	f.ok(f.adds(1, func(e ...ledger.Entry) (err error) {
		k.ID, err = f.s.AddToken(t.Context(), k, e...)
		return err
	}))
	other := access.Token{Name: "all", Hash: [32]byte{2}, All: true, CreatedAt: f.now, ExpiresAt: f.now}
	var err error
	other.ID, err = f.s.AddToken(t.Context(), other, f.entry(""))
	f.ok(err)
	revoke := func(id, leaves int64) error {
		return f.adds(leaves, func(e ...ledger.Entry) error { return f.s.RevokeToken(t.Context(), id, f.now.Unix(), e...) })
	}
	f.ok(revoke(k.ID, 1))
	f.ok(revoke(k.ID, 0))
	f.refused(revoke(99, 0), fault.TokenUnknown)
	k.RevokedAt = f.now
	got, err := f.s.TokenByHash(t.Context(), k.Hash)
	f.ok(err)
	f.same(k, got)
	_, err = f.s.TokenByHash(t.Context(), [32]byte{3})
	f.refused(err, fault.TokenUnknown)
	all, err := f.s.Tokens(t.Context())
	f.ok(err)
	f.same([]access.Token{k, other}, all)
}

func testApprovals(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	add := func(digest byte, leaves int64) int64 {
		t.Helper()
		var id int64
		f.ok(f.adds(leaves, func(e ...ledger.Entry) (err error) {
			id, err = f.s.AddApproval(t.Context(), access.Approval{
				Kind: "certificate.issue", Params: []byte(`{"a":1}`), Digest: [32]byte{digest}, Requester: "ann", Reason: "r",
				State: access.Waiting, RequestedAt: f.now, ExpiresAt: f.now.AddDate(0, 0, 7),
			}, e...)
			return err
		}))
		return id
	}
	first := add(1, 1)
	if add(1, 0) != first {
		t.Error("the same act waits twice")
	}
	a, err := f.s.Approval(t.Context(), first)
	f.ok(err)
	a.State, a.DecidedBy, a.DecidedAt = access.Approved, "bob", f.now
	move := func(a access.Approval, from access.ApprovalState) error {
		return f.adds(1, func(e ...ledger.Entry) error { return f.s.MoveApproval(t.Context(), a, from, e...) })
	}
	f.ok(move(a, access.Waiting))
	f.refused(move(a, access.Waiting), fault.ApprovalState)
	f.refused(move(access.Approval{ID: 99}, access.Waiting), fault.ApprovalUnknown)
	got, err := f.s.ApprovalByDigest(t.Context(), [32]byte{1})
	f.ok(err)
	f.same(a, got)
	again := add(1, 1) // the first was decided
	got, err = f.s.ApprovalByDigest(t.Context(), [32]byte{1})
	f.ok(err)
	if got.ID != again || got.State != access.Waiting {
		t.Errorf("the newest is %+v", got)
	}
	_, err = f.s.Approval(t.Context(), 99)
	f.refused(err, fault.ApprovalUnknown)
	_, err = f.s.ApprovalByDigest(t.Context(), [32]byte{9})
	f.refused(err, fault.ApprovalUnknown)
	for i := range byte(7) {
		add(10+i, 1)
	}
	for state, want := range map[access.ApprovalState]int{0: 9, access.Waiting: 8, access.Approved: 1, access.Executed: 0} {
		all, _, err := walked(t.Context(), func(after string) ([]access.Approval, string, error) {
			return f.s.Approvals(t.Context(), state, after, 3)
		})
		f.ok(err)
		if len(all) != want {
			t.Errorf("%d approvals in state %d, want %d", len(all), state, want)
		}
		for i := range all[:max(0, len(all)-1)] {
			if all[i].ID <= all[i+1].ID {
				t.Error("not newest first")
			}
		}
	}
	_, _, err = f.s.Approvals(t.Context(), 0, "x", 3)
	f.refused(err, fault.ParameterInvalid)
}

//go:build unix

package store

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/needs"
)

// onBoth runs a test with an empty database of each engine.
func onBoth(t *testing.T, test func(t *testing.T, cfg Config)) {
	t.Run("SQLite", func(t *testing.T) {
		test(t, Config{DSN: "sqlite:" + filepath.Join(t.TempDir(), "birthmark.db"), Node: "one"})
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		test(t, Config{DSN: emptySchema(t, needs.Postgres(t)), Node: "one"})
	})
}

// emptySchema is the address of a schema of the test's own.
func emptySchema(t *testing.T, dsn string) string {
	t.Helper()
	name := strings.ToLower(fmt.Sprintf("own_%d_%s", os.Getpid(), strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return -1
	}, t.Name())))
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = q.Encode()
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		c, err := pgx.Connect(ctx, dsn)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close(ctx) //nolint:errcheck // the test is over
		if _, err := c.Exec(ctx, "DROP SCHEMA IF EXISTS "+pgx.Identifier{name}.Sanitize()+" CASCADE"); err != nil {
			t.Error(err)
		}
	})
	return u.String()
}

func mustOpen(t *testing.T, cfg Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// together commits issuances as one group and returns their errors.
func (s *Store) together(t *testing.T, issuances ...device.Issuance) []error {
	t.Helper()
	var group []*pending
	for _, i := range issuances {
		p, err := s.ready(i)
		if err != nil {
			t.Fatal(err)
		}
		group = append(group, p)
	}
	s.commitGroup(group, func() {})
	var errs []error
	for _, p := range group {
		errs = append(errs, p.err)
	}
	return errs
}

func (s *Store) count(t *testing.T, sql string, args ...any) (n int64) {
	t.Helper()
	if err := s.read.row(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestGroupMembersHaveTheirOwnOutcome(t *testing.T) {
	onBoth(t, func(t *testing.T, cfg Config) {
		s := mustOpen(t, cfg)
		is := newIssuer(t, s)
		is.addRows(t, 0, 12, false)
		taken := is.next(11)
		if err := s.together(t, taken)[0]; err != nil {
			t.Fatal(err)
		}
		before, err := s.LedgerSize(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		good := is.next(0)
		sameDevice := is.next(0)
		stale := is.next(1)
		stale.Change.Version = 5
		conflict := is.next(2)
		conflict.Credential.SPKIDigest = taken.Credential.SPKIDigest
		epoch := is.next(3)
		epoch.ControlEpoch = 9
		fenced := is.next(4)
		fenced.Lease.Fence = 9
		sameKey := is.next(5)
		sameKeyToo := is.next(6)
		sameKeyToo.Credential.SPKIDigest = sameKey.Credential.SPKIDigest
		noApproval := is.next(7)
		noApproval.Approval = 77
		last := is.next(8)
		unlooked := is.next(9)
		unlooked.Change.From = 0
		members := []device.Issuance{good, sameDevice, stale, conflict, epoch, fenced, sameKey, sameKeyToo, noApproval, last, unlooked}
		errs := s.together(t, members...)
		isConflict := func(err error) bool { _, ok := errors.AsType[*device.KeyConflict](err); return ok }
		isStale := func(err error) bool { return errors.Is(err, device.ErrStale) }
		one := func(a, b error, refused func(error) bool) bool {
			return a == nil && refused(b) || b == nil && refused(a)
		}
		if !one(errs[0], errs[1], isStale) || !isStale(errs[2]) || !isConflict(errs[3]) || !isStale(errs[4]) || !fault.Has(errs[5], fault.NodeFenced) ||
			!one(errs[6], errs[7], isConflict) || !isStale(errs[8]) || errs[9] != nil || errs[10] != nil {
			t.Errorf("outcomes %v", errs)
		}
		stored := int64(1)
		for n, err := range errs {
			c := &members[n].Credential
			if err == nil {
				stored++
			}
			rows := s.count(t, "SELECT count(*) FROM credential WHERE id = $1", int64(c.ID))
			keys := s.count(t, "SELECT count(*) FROM spki_key WHERE credential = $1", int64(c.ID))
			slots := s.count(t, "SELECT count(*) FROM device WHERE id = $1 AND slots LIKE $2", int64(c.Device), "%="+fmt.Sprint(c.ID)+";%")
			want := int64(0)
			if err == nil {
				want = 1
			}
			if rows != want || keys != want || slots != want {
				t.Errorf("member %d (%v): %d rows, %d keys, %d slots, want %d", n, err, rows, keys, slots, want)
			}
		}
		if stored != 5 {
			t.Errorf("%d are stored", stored)
		}
		if n := s.count(t, "SELECT count(*) FROM ledger_batch WHERE id >= $1", before); n != 1 {
			t.Errorf("the group came in %d transactions", n)
		}
		checkSums(t, s, stored)
	})
}

// checkSums compares what is kept as a sum with what it sums up.
func checkSums(t *testing.T, s *Store, stored int64) {
	t.Helper()
	for sql, want := range map[string]int64{
		"SELECT count(*) FROM credential":                                                     stored,
		"SELECT count(*) FROM spki_key":                                                       stored,
		"SELECT next_index FROM authority_counter WHERE authority = 1":                        stored,
		"SELECT count(*) FROM credential WHERE authority_index >= 0":                          stored,
		"SELECT max(authority_index) FROM credential":                                         stored - 1,
		"SELECT CAST(sum(total) AS BIGINT) FROM tally WHERE kind = 2":                         stored,
		"SELECT CAST(sum(total) AS BIGINT) FROM tally WHERE kind = 3":                         stored,
		"SELECT total FROM tally WHERE kind = 1 AND bucket = 4":                               stored, // active
		"SELECT CAST(sum(size) AS BIGINT) - (SELECT size FROM ledger_head) FROM ledger_batch": 0,
		"SELECT count(*) FROM device WHERE version > 1":                                       stored,
	} {
		if got := s.count(t, sql); got != want {
			t.Errorf("%s: %d, want %d", sql, got, want)
		}
	}
	var indexes []int64
	err := each(s.read.query(t.Context(), "SELECT authority_index FROM credential ORDER BY 1"))(func(r row) error {
		var n int64
		err := r.Scan(&n)
		indexes = append(indexes, n)
		return err
	})
	if err != nil || len(slices.Compact(indexes)) != int(stored) {
		t.Errorf("authority indexes %v, %v", indexes, err)
	}
}

func TestOneBadMemberDoesNotSpoilTheGroup(t *testing.T) {
	onBoth(t, func(t *testing.T, cfg Config) {
		s := mustOpen(t, cfg)
		is := newIssuer(t, s)
		is.addRows(t, 0, 4, false)
		first := is.next(0)
		if err := s.together(t, first)[0]; err != nil {
			t.Fatal(err)
		}
		bad := is.next(1)
		bad.Credential.ID, bad.Credential.CertSerial = first.Credential.ID, first.Credential.CertSerial
		errs := s.together(t, is.next(2), bad, is.next(3))
		if errs[0] != nil || errs[1] == nil || errs[2] != nil {
			t.Errorf("outcomes %v", errs)
		}
		checkSums(t, s, 3)
	})
}

func TestAKeyOfAFailedMemberIsFree(t *testing.T) {
	onBoth(t, func(t *testing.T, cfg Config) {
		s := mustOpen(t, cfg)
		is := newIssuer(t, s)
		is.addRows(t, 0, 2, false)
		stale, good := is.next(0), is.next(1)
		stale.Change.Version = 7
		good.Credential.SPKIDigest = stale.Credential.SPKIDigest
		errs := s.together(t, stale, good)
		if !errors.Is(errs[0], device.ErrStale) {
			t.Errorf("outcomes %v", errs)
		}
		// PostgreSQL inserts all keys first, so the good one may have lost to the
		// stale one; then it is told to decide again.
		if errors.Is(errs[1], device.ErrStale) {
			errs = s.together(t, good)
		}
		if last := errs[len(errs)-1]; last != nil {
			t.Errorf("outcomes %v", errs)
		}
		checkSums(t, s, 1)
		d, err := s.Device(t.Context(), access.Everything(), good.Credential.Device)
		if err != nil || d.Current[device.IDevIDSlot] != good.Credential.ID {
			t.Errorf("%+v, %v", d, err)
		}
	})
}

func TestPersonsOfAGroupStayWithTheirLeaves(t *testing.T) {
	onBoth(t, func(t *testing.T, cfg Config) {
		s := mustOpen(t, cfg)
		is := newIssuer(t, s)
		is.addRows(t, 0, 3, false)
		before, err := s.LedgerSize(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var members []device.Issuance
		for n := range int64(3) {
			i := is.next(n)
			i.Entries = append(i.Entries, ledger.Entry{Kind: ledger.ApprovalExecuted, At: is.at, Actor: fmt.Sprint("operator:", n), Body: ledger.JSON(struct{}{})})
			members = append(members, i)
		}
		members[1].ControlEpoch++ // takes no leaf
		s.together(t, members...)
		if n := s.count(t, "SELECT count(*) FROM ledger_batch WHERE id >= $1", before); n != 1 {
			t.Errorf("the group came in %d transactions", n)
		}
		for offset, want := range []string{"", "operator:0", "", "operator:2", ""} {
			p, err := s.LedgerPrivate(t.Context(), before+int64(offset))
			if err != nil || (p == nil) != (want == "") || p != nil && p.Value != want {
				t.Errorf("beside leaf %d of the group: %v, %v, want %q", offset, p, err, want)
			}
		}
	})
}

func TestAFormerRunOfANodeGetsNoSerials(t *testing.T) {
	onBoth(t, func(t *testing.T, cfg Config) {
		former, now := mustOpen(t, cfg), mustOpen(t, cfg)
		at := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
		if err := former.FenceNode(t.Context(), "one", at); err != nil {
			t.Fatal(err)
		}
		if _, err := former.LeaseSerials(t.Context(), "one", 8, at); err != nil {
			t.Fatal(err)
		}
		if err := now.FenceNode(t.Context(), "one", at); err != nil {
			t.Fatal(err)
		}
		_, err := former.LeaseSerials(t.Context(), "one", 8, at)
		refused(t, err, fault.NodeFenced)
		if _, err := now.LeaseSerials(t.Context(), "one", 8, at); err != nil {
			t.Error(err)
		}
		if n := now.count(t, "SELECT count(*) FROM serial_lease WHERE closed_at = 0"); n != 1 {
			t.Errorf("%d blocks are open", n)
		}
	})
}

package status_test

import (
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/status"
)

// saving tells of each list that is saved, and refuses as long as fail is set.
type saving struct {
	status.Store
	saved chan status.CRL
	fail  error
}

func (s *saving) SaveCRL(ctx context.Context, c status.CRL, l ledger.Lease, entries ...ledger.Entry) error {
	if s.fail != nil {
		return s.fail
	}
	err := s.Store.SaveCRL(ctx, c, l, entries...)
	if err == nil && s.saved != nil {
		s.saved <- c
	}
	return err
}

func (w *world) over(t testing.TB, s status.Store) *status.Service {
	t.Helper()
	v, err := status.New(status.Config{
		Store: s, Register: w.store, Leases: w.store, Authorities: w.authorities,
		Now: w.clock.now, Rand: rand.Reader, Node: "n1", CRLPause: time.Nanosecond,
	})
	noError(t, err)
	return v
}

func TestRunPublishesWhatIsRevoked(t *testing.T) {
	w := newWorld(t)
	c := w.issue(t)
	store := &saving{Store: w.store, saved: make(chan status.CRL, 8)}
	w.Service = w.over(t, store)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- w.Run(ctx) }()
	if first := <-store.saved; first.Entries != 0 {
		t.Fatalf("%d entries", first.Entries)
	}
	w.clock.add(time.Second)
	w.revoke(t, c, "superseded")
	w.follow(t)
	if second := <-store.saved; second.Entries != 1 {
		t.Fatalf("%d entries after a revocation", second.Entries)
	}
	stop()
	noError(t, <-ended)
}

// A list that could not be saved is signed again, under a higher number.
func TestFailedPublicationIsRepeated(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	store := &saving{Store: w.store}
	w.Service = w.over(t, store)
	var keeper status.Keeper
	noError(t, w.StepWith(ctx, &keeper))
	before := w.list(t, "issuing").Number
	c := w.issue(t)
	w.clock.add(time.Minute)
	w.revoke(t, c, "superseded")
	w.follow(t)
	store.fail = errors.New("disk gone")
	if err := w.StepWith(ctx, &keeper); !errors.Is(err, store.fail) {
		t.Fatal(err)
	}
	if w.list(t, "issuing").Number.Cmp(before) != 0 {
		t.Fatal("a list that was not saved is served")
	}
	store.fail = nil
	noError(t, w.StepWith(ctx, &keeper))
	after := w.list(t, "issuing")
	if listed(after, c) != 4 || after.Number.Int64() != before.Int64()+2 {
		t.Fatalf("number %v after %v", after.Number, before)
	}
}

// A node that lost its lease while it signed publishes nothing.
func TestLostLeasePublishesNothing(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	noError(t, w.Step(ctx))
	c := w.issue(t)
	w.clock.add(time.Minute)
	w.revoke(t, c, "superseded")
	other := w.service(t, "n2")
	late := &saving{Store: &takenOver{w.store, func() {
		w.clock.add(time.Minute) // the lease has run out
		noError(t, other.Step(ctx))
	}}}
	w.Service = w.over(t, late)
	w.tell(t, w.Service, other)
	err := w.Step(ctx)
	wantFault(t, err, fault.NodeFenced)
	w.tell(t, w.Service, other)
	if listed(w.list(t, "issuing"), c) != 4 {
		t.Fatal("the other node's list is not served")
	}
}

// takenOver lets another node publish between signing and saving.
type takenOver struct {
	status.Store
	meanwhile func()
}

func (s *takenOver) SaveCRL(ctx context.Context, c status.CRL, l ledger.Lease, entries ...ledger.Entry) error {
	if s.meanwhile != nil {
		then := s.meanwhile
		s.meanwhile = nil
		then()
	}
	return s.Store.SaveCRL(ctx, c, l, entries...)
}

// slow lets something happen while a list is read.
type slow struct {
	status.Store
	meanwhile func()
}

func (s *slow) Revocations(ctx context.Context, authority int64, shard int, after device.CredentialID, limit int) ([]status.Revocation, error) {
	page, err := s.Store.Revocations(ctx, authority, shard, after, limit)
	if then := s.meanwhile; then != nil {
		s.meanwhile = nil
		then()
	}
	return page, err
}

// What is revoked while a list is being read is on the next CRL.
func TestRevocationDuringLoadIsNotLost(t *testing.T) {
	w := newWorld(t)
	c, before := w.issue(t), w.issue(t)
	w.revoke(t, before, "superseded")
	w.follow(t)
	store := &slow{Store: w.store}
	w.Service = w.over(t, store)
	store.meanwhile = func() {
		w.revoke(t, c, "keyCompromise")
		w.follow(t)
	}
	noError(t, w.Step(t.Context()))
	l := w.list(t, "issuing")
	if listed(l, c) != 1 || listed(l, before) != 4 {
		t.Fatalf("reasons %d and %d", listed(l, c), listed(l, before))
	}
}

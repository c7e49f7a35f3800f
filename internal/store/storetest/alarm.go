package storetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

func (f *fixture) alarm(kind factory.AlarmKind, key string) factory.Alarm {
	return factory.Alarm{
		Kind: kind, Key: key, State: factory.AlarmRaised, Message: "look", Order: 1, Station: 2, Product: 3, Site: 4, Count: 1,
		RaisedAt: f.now, LastAt: f.now,
	}
}

func testAlarms(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	ctx, all := t.Context(), access.Everything()
	raise := func(a factory.Alarm, leaves int64) (id int64, raised bool) {
		t.Helper()
		f.ok(f.adds(leaves, func(e ...ledger.Entry) (err error) { id, raised, err = f.s.RaiseAlarm(ctx, a, e...); return err }))
		return id, raised
	}
	stored := func(id int64) factory.Alarm {
		t.Helper()
		a, err := f.s.Alarm(ctx, all, id)
		f.ok(err)
		return a
	}
	a := f.alarm(factory.AlarmOrderFull, "4711")
	id, raised := raise(a, 1)
	a.ID = id
	if !raised {
		t.Error("a new alarm was not raised")
	}
	f.same(a, stored(id))
	later := f.alarm(factory.AlarmOrderFull, "4711")
	later.Message, later.RaisedAt, later.Count = "again", f.now.Add(time.Hour), 3
	if again, raised := raise(later, 0); again != id || raised {
		t.Errorf("raised again: %d, %v", again, raised)
	}
	a.Message, a.Count, a.LastAt = "again", 4, later.RaisedAt
	f.same(a, stored(id))
	if other, raised := raise(f.alarm(factory.AlarmSpares, "4711"), 1); other == id || !raised {
		t.Error("an alarm of another kind is the same")
	}
	a.State, a.AcknowledgedBy = factory.AlarmAcknowledged, "operator:ann"
	update := func(leaves int64) {
		t.Helper()
		f.ok(f.adds(leaves, func(e ...ledger.Entry) error { return f.s.UpdateAlarm(ctx, a, e...) }))
	}
	update(1)
	update(0)
	f.same(a, stored(id))
	if again, raised := raise(later, 0); again != id || raised {
		t.Error("an acknowledged alarm was raised anew")
	}
	a.Count += 3
	a.State, a.ClosedAt = factory.AlarmClosed, f.now.Add(2*time.Hour)
	update(1)
	f.same(a, stored(id))
	if again, raised := raise(later, 1); again == id || !raised {
		t.Error("after it was closed, an alarm is not a new one")
	}
	back := a
	back.State = factory.AlarmAcknowledged
	f.ok(f.adds(0, func(e ...ledger.Entry) error { return f.s.UpdateAlarm(ctx, back, e...) }))
	f.same(a, stored(id))
	a.ID = 99
	f.refused(f.s.UpdateAlarm(ctx, a, f.entry("")), fault.AlarmUnknown)
	_, err := f.s.Alarm(ctx, access.Limited([]int64{9}, nil, nil), id)
	f.refused(err, fault.AlarmUnknown)
	f.raisedAtOnce()
}

// raisedAtOnce raises one alarm from many sides.
func (f *fixture) raisedAtOnce() {
	f.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	news, ids := 0, make(map[int64]bool)
	for range 16 {
		wg.Go(func() {
			id, raised, err := f.s.RaiseAlarm(f.Context(), f.alarm(factory.AlarmKeyReused, "key"), f.entry(""))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				f.Error(err)
			}
			if ids[id] = true; raised {
				news++
			}
		})
	}
	wg.Wait()
	for id := range ids {
		if a, err := f.s.Alarm(f.Context(), access.Everything(), id); err != nil || a.Count != 16 {
			f.Errorf("counted to %d, %v", a.Count, err)
		}
	}
	if news != 1 || len(ids) != 1 {
		f.Errorf("raised %d times as %d alarms", news, len(ids))
	}
}

func testAlarmLists(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	ctx := t.Context()
	r := rand.New(rand.NewPCG(11, 12))
	kinds := []factory.AlarmKind{factory.AlarmSpares, factory.AlarmOrderFull}
	var all []factory.Alarm
	for n := range 120 {
		a := f.alarm(kinds[r.IntN(2)], fmt.Sprint(n))
		a.Product, a.Site = r.Int64N(5), r.Int64N(5)
		var err error
		a.ID, _, err = f.s.RaiseAlarm(ctx, a, f.entry(""))
		f.ok(err)
		if a.State = factory.AlarmState(1 + r.IntN(3)); a.State != factory.AlarmRaised {
			f.ok(f.s.UpdateAlarm(ctx, a, f.entry("")))
		}
		all = append(all, a)
	}
	slices.Reverse(all)
	for range 120 {
		scope := randomScope(r)
		q := factory.AlarmQuery{State: factory.AlarmState(max(0, r.IntN(6)-2))}
		if r.IntN(2) == 0 {
			q.Kind = kinds[r.IntN(2)]
		}
		q.Limit = 1 + r.IntN(40)
		var want []factory.Alarm
		for _, a := range all {
			if scope.Sees(a.Product, a.Site, 0) && len(scope.Owners()) == 0 && (q.State == 0 || q.State == a.State) && (q.Kind == "" || q.Kind == a.Kind) {
				want = append(want, a)
			}
		}
		got, _, err := walked(ctx, func(after string) ([]factory.Alarm, string, error) {
			q.After = after
			return f.s.Alarms(ctx, scope, q)
		})
		f.ok(err)
		f.same(want, got)
	}
}

func testTallies(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	ctx := t.Context()
	r := rand.New(rand.NewPCG(13, 14))
	model := make(map[factory.Tally]int64)
	for range 60 {
		var some []factory.Tally
		for range 1 + r.IntN(6) {
			k := factory.Tally{
				Order: r.Int64N(3), Station: r.Int64N(3), Site: r.Int64N(3), Product: r.Int64N(3), Day: 20000 + r.Int64N(4),
				Measure: factory.Measure(1 + r.IntN(3)), Bucket: r.Int64N(2),
			}
			n := 1 + r.Int64N(5)
			model[k] += n
			k.N = n
			some = append(some, k)
		}
		f.ok(f.adds(1, func(e ...ledger.Entry) error { return f.s.Count(ctx, some, e...) }))
	}
	for range 100 {
		scope := randomScope(r)
		q := factory.TallyQuery{Order: r.Int64N(3), Station: r.Int64N(3), Site: r.Int64N(3), Product: r.Int64N(3)}
		if r.IntN(2) == 0 {
			q.FromDay, q.ToDay = 20001, 20002
		}
		want := make(map[factory.Tally]int64)
		for k, n := range model {
			if scope.Sees(k.Product, k.Site, 0) && len(scope.Owners()) == 0 && (q.Order == 0 || q.Order == k.Order) && (q.Station == 0 || q.Station == k.Station) &&
				(q.Site == 0 || q.Site == k.Site) && (q.Product == 0 || q.Product == k.Product) && (q.ToDay == 0 || k.Day >= q.FromDay && k.Day <= q.ToDay) {
				want[k] = n
			}
		}
		list, err := f.s.Tallies(ctx, scope, q)
		f.ok(err)
		got := make(map[factory.Tally]int64)
		for _, k := range list {
			n := k.N
			k.N = 0
			got[k] += n
		}
		f.same(want, got)
		if len(list) != len(got) {
			t.Error("a counter came twice")
		}
	}
}

func testWebhooks(t *testing.T, open Open) {
	f := newFixture(t, open(t))
	ctx := t.Context()
	w := factory.Webhook{
		Name: "mes", URL: "https://mes.example/hook", Secret: []byte{1, 2}, Events: []string{"alarm.raised"}, Cursor: 17,
		CreatedAt: f.now, ChangedAt: f.now,
	}
	set := func(w factory.Webhook) (id int64) {
		t.Helper()
		f.ok(f.adds(1, func(e ...ledger.Entry) (err error) { id, err = f.s.SetWebhook(ctx, w, e...); return err }))
		return id
	}
	same := func(want ...factory.Webhook) {
		t.Helper()
		got, err := f.s.Webhooks(ctx)
		f.ok(err)
		f.same(want, got)
	}
	w.ID = set(w)
	other := w
	other.Name, other.Events = "erp", nil
	other.ID = set(other)
	same(w, other)
	w.URL, w.Disabled, w.ChangedAt, w.Secret, w.Events = "https://new.example", true, f.now.Add(time.Hour), []byte{9}, []string{"a", "b"}
	changed := w
	changed.CreatedAt = f.now.Add(time.Hour) // stays
	if id := set(changed); id != w.ID {
		t.Errorf("webhook %d became %d", w.ID, id)
	}
	same(w, other)
	before := f.size()
	f.ok(f.s.MoveCursor(ctx, w.ID, 17, 40, "refused"))
	f.ok(f.s.MoveCursor(ctx, w.ID, 17, 50, "")) // an operator moved it meanwhile
	f.ok(f.s.MoveCursor(ctx, 99, 17, 40, ""))
	if f.size() != before {
		t.Error("a cursor is in the ledger")
	}
	w.Cursor, w.Failure = 40, "refused"
	same(w, other)
	remove := func() error {
		return f.adds(1, func(e ...ledger.Entry) error { return f.s.RemoveWebhook(ctx, w.ID, e...) })
	}
	f.ok(remove())
	f.refused(remove(), fault.WebhookUnknown)
	same(other)
}

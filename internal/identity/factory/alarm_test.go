package factory_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

func TestAlarmIsOneUntilItIsClosed(t *testing.T) {
	w := newWorld(t)
	raise := func() {
		w.Raise(factory.Alarm{Kind: factory.AlarmChipReused, Key: "01", Message: "chip 01 asks again"})
	}
	for range 3 {
		raise()
	}
	w.wantAlarm(factory.AlarmChipReused, 3)
	raise()
	w.wantAlarm(factory.AlarmChipReused, 4)
	id := w.alarmed(factory.AlarmChipReused)[0].ID
	a, err := w.AcknowledgeAlarm(t.Context(), w.lead, id)
	w.ok(err)
	if a.State != factory.AlarmAcknowledged || a.AcknowledgedBy != w.lead.Name {
		t.Errorf("%+v", a)
	}
	raise()
	w.wantAlarm(factory.AlarmChipReused, 5)
	a, err = w.CloseAlarm(t.Context(), w.lead, id, "reel sent back")
	w.ok(err)
	if a.State != factory.AlarmClosed || a.ClosedAt.IsZero() {
		t.Errorf("%+v", a)
	}
	a, err = w.AcknowledgeAlarm(t.Context(), w.planner, id)
	w.ok(err)
	if a.State != factory.AlarmClosed || a.AcknowledgedBy != w.lead.Name {
		t.Errorf("a closed alarm came back: %+v", a)
	}
	raise()
	if list := w.alarmed(factory.AlarmChipReused); len(list) != 2 || list[0].Count != 1 {
		t.Errorf("%+v", list)
	}
	_, err = w.CloseAlarm(t.Context(), w.lead, 99, "")
	w.refused(err, fault.AlarmUnknown)
}

func TestAlarmsOfOthersSitesAreNotSeen(t *testing.T) {
	w := newWorld(t)
	w.opened(terms())
	_, err := w.DrawNonces(t.Context(), w.station("p1"), stationNonces("PO-1"))
	w.refused(err, fault.OrderUnknown)
	id := w.alarmed(factory.AlarmStation)[0].ID
	sites, err := w.Sites(t.Context(), w.planner)
	w.ok(err)
	brno := w.lead
	brno.Scope = access.Limited(nil, []int64{sites[0].ID}, nil)
	_, err = w.AcknowledgeAlarm(t.Context(), brno, id) // the station is at the other site
	w.refused(err, fault.AlarmUnknown)
}

func TestFloodOfAlarmsIsBounded(t *testing.T) {
	w := newWorld(t)
	before, err := w.store.LedgerSize(t.Context())
	w.ok(err)
	for n := range 1500 {
		w.Raise(factory.Alarm{Kind: factory.AlarmChipReused, Key: fmt.Sprint(n), Message: strings.Repeat("ä", 1000)})
	}
	w.ok(w.Flush(t.Context()))
	after, err := w.store.LedgerSize(t.Context())
	w.ok(err)
	if after-before != 1000 {
		t.Errorf("%d entries", after-before)
	}
	if a := w.alarmed(factory.AlarmChipReused)[0]; len(a.Message) > 500 {
		t.Errorf("a message of %d octets", len(a.Message))
	}
}

// downStore is the record while the database is away.
type downStore struct {
	factory.Store
	down bool
}

func (s *downStore) RaiseAlarm(ctx context.Context, a factory.Alarm, entries ...ledger.Entry) (int64, bool, error) {
	if s.down {
		return 0, false, fault.New(fault.StoreUnavailable)
	}
	return s.Store.RaiseAlarm(ctx, a, entries...)
}

func (s *downStore) Count(ctx context.Context, tallies []factory.Tally, entries ...ledger.Entry) error {
	if s.down {
		return fault.New(fault.StoreUnavailable)
	}
	return s.Store.Count(ctx, tallies, entries...)
}

func TestWhatCannotBeWrittenWaits(t *testing.T) {
	w := newWorld(t)
	w.opened(terms())
	s := &downStore{Store: w.store, down: true}
	w.Service = w.serviceOver(s, "n1", w.planes)
	w.Raise(factory.Alarm{Kind: factory.AlarmChipReused, Key: "01"})
	w.Raise(factory.Alarm{Kind: factory.AlarmChipReused, Key: "02"})
	w.CountRefused(t.Context(), w.station("b1"), "PO-1", fault.New(fault.ChipUsed))
	w.refused(w.Flush(t.Context()), fault.StoreUnavailable)
	s.down = false
	w.Raise(factory.Alarm{Kind: factory.AlarmChipReused, Key: "02"})
	list := w.alarmed(factory.AlarmChipReused)
	if len(list) != 2 || list[0].Key != "02" || list[0].Count != 2 || list[1].Count != 1 {
		t.Errorf("%+v", list)
	}
	r, err := w.KPIs(t.Context(), w.planner, factory.KPIQuery{Order: "PO-1"})
	w.ok(err)
	if r.Failed != 1 {
		t.Errorf("%d refusals are counted", r.Failed)
	}
}

func TestEventsOfTheLedgerAreThere(t *testing.T) {
	for _, kind := range factory.Events() {
		if ledger.ClassOf(kind) == ^ledger.Class(0) {
			t.Errorf("there is no kind %s", kind)
		}
	}
}

func TestWebhookKeepsItsSecretSealed(t *testing.T) {
	w := newWorld(t)
	hook := factory.Webhook{Name: "mes", URL: "https://mes.example.com/hook", Events: []string{"unit.confirmed"}}
	set, secret, err := w.SetWebhook(t.Context(), w.planner, hook)
	w.ok(err)
	size, err := w.store.LedgerSize(t.Context())
	w.ok(err)
	if len(secret) < 32 || set.Secret != nil || set.Cursor != size-1 {
		t.Errorf("secret %q, %+v at %d", secret, set, size)
	}
	stored, err := w.store.Webhooks(t.Context())
	w.ok(err)
	if strings.Contains(string(stored[0].Secret), secret) {
		t.Error("the secret is stored as it is")
	}
	opened, err := w.WebhookSecret(&stored[0])
	w.ok(err)
	if string(opened) != secret {
		t.Errorf("opened to %q", opened)
	}
	listed, err := w.Webhooks(t.Context(), w.planner)
	w.ok(err)
	if len(listed) != 1 || listed[0].Secret != nil {
		t.Errorf("%+v", listed)
	}

	hook.URL = "https://mes.example.com/other"
	w.clock.add(time.Hour)
	set, again, err := w.SetWebhook(t.Context(), w.planner, hook)
	w.ok(err)
	if again != "" || set.Cursor != size-1 || set.CreatedAt.Equal(set.ChangedAt) {
		t.Errorf("changed: secret %q, %+v", again, set)
	}
	stored, err = w.store.Webhooks(t.Context())
	w.ok(err)
	if opened, err = w.WebhookSecret(&stored[0]); err != nil || string(opened) != secret {
		t.Errorf("after a change: %q, %v", opened, err)
	}
	w.ok(w.ReplayWebhook(t.Context(), w.planner, "mes", 0))
	w.ok(w.RemoveWebhook(t.Context(), w.planner, "mes"))
	w.refused(w.RemoveWebhook(t.Context(), w.planner, "mes"), fault.WebhookUnknown)
}

func TestWebhooksThatCannotWorkAreRefused(t *testing.T) {
	w := newWorld(t)
	for name, hook := range map[string]factory.Webhook{
		"no name":        {URL: "https://mes.example.com"},
		"no URL":         {Name: "mes"},
		"another scheme": {Name: "mes", URL: "file:///etc/passwd"},
		"a user":         {Name: "mes", URL: "https://user:pass@mes.example.com"},
		"no host":        {Name: "mes", URL: "https:///hook"},
		"no such event":  {Name: "mes", URL: "https://mes.example.com", Events: []string{"device.registered"}},
		"short secret":   {Name: "mes", URL: "https://mes.example.com", Secret: []byte("short")},
	} {
		if _, _, err := w.SetWebhook(t.Context(), w.planner, hook); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	w.refused(w.ReplayWebhook(t.Context(), w.planner, "mes", 0), fault.WebhookUnknown)
}

func TestSealedSecretOpensOnlyWithItsKey(t *testing.T) {
	w := newWorld(t)
	sealed, err := w.secrets.Seal([]byte("secret"))
	w.ok(err)
	other, err := factory.NewSealer([32]byte{8})
	w.ok(err)
	for name, open := range map[string]func() ([]byte, error){
		"another key": func() ([]byte, error) { return other.Open(sealed) },
		"flipped":     func() ([]byte, error) { return w.secrets.Open(flip(sealed, len(sealed)-1)) },
		"cut":         func() ([]byte, error) { return w.secrets.Open(sealed[:5]) },
	} {
		if got, err := open(); err == nil {
			t.Errorf("%s: opened to %q", name, got)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// quietStore is a record in which nothing is ever to do.
type quietStore struct {
	factory.Store
	raised chan factory.Alarm
}

func (s *quietStore) RaiseAlarm(_ context.Context, a factory.Alarm, _ ...ledger.Entry) (int64, bool, error) {
	s.raised <- a
	return 1, true, nil
}

// otherNode is a ledger whose lease another node has.
type otherNode struct{ factory.Ledger }

func (otherNode) AcquireLease(context.Context, string, string, int) (ledger.Lease, bool, error) {
	return ledger.Lease{}, false, nil
}

func TestRunWritesAlarmsOnEveryNode(t *testing.T) {
	w := newWorld(t)
	synctest.Test(t, func(t *testing.T) {
		s := &quietStore{raised: make(chan factory.Alarm)}
		service, err := factory.New(factory.Config{
			Store: s, Register: w.store, Authorities: w.authorities, Approvals: w.approvals, Ledger: otherNode{}, Planes: w.planes,
			Statements: w.statements, Now: time.Now, Rand: zeros{}, Node: "n2",
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- service.Run(ctx) }()
		service.Raise(factory.Alarm{Kind: factory.AlarmChipReused, Key: "01"})
		if a := <-s.raised; a.Key != "01" {
			t.Errorf("%+v", a)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

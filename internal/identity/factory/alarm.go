package factory

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// maxPendingAlarms bounds how many different alarms wait to be written: a flood
// of refusals must not become a flood of writes.
const maxPendingAlarms = 1000

// pendingAlarms are alarms that were raised where nobody may wait for the disk.
type pendingAlarms struct {
	mu      sync.Mutex
	waiting map[alarmKey]*Alarm
	dropped int64
}

type alarmKey struct {
	kind AlarmKind
	key  string
}

func (p *pendingAlarms) add(a Alarm) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := alarmKey{a.Kind, a.Key}
	a.Count = max(a.Count, 1)
	if there := p.waiting[k]; there != nil {
		there.Count += a.Count
		there.Message = a.Message
		return
	}
	if len(p.waiting) >= maxPendingAlarms {
		p.dropped++
		return
	}
	if p.waiting == nil {
		p.waiting = make(map[alarmKey]*Alarm)
	}
	p.waiting[k] = &a
}

func (p *pendingAlarms) take() (all []Alarm, dropped int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range slices.SortedFunc(maps.Keys(p.waiting), func(a, b alarmKey) int {
		return strings.Compare(string(a.kind)+"\x00"+a.key, string(b.kind)+"\x00"+b.key)
	}) {
		all = append(all, *p.waiting[k])
	}
	dropped, p.dropped = p.dropped, 0
	p.waiting = nil
	return all, dropped
}

// maxAlarmMessage is the longest message of an alarm in octets.
const maxAlarmMessage = 500

// Raise raises an alarm, or counts up the one that is open for the same thing. It
// neither fails nor waits: Run writes it soon.
func (s *Service) Raise(a Alarm) {
	if len(a.Message) > maxAlarmMessage {
		a.Message = strings.ToValidUTF8(a.Message[:maxAlarmMessage], "")
	}
	if a.RaisedAt.IsZero() {
		a.RaisedAt = moment(s.now())
	}
	s.alarms.add(a)
	s.rouse()
}

func (s *Service) rouse() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// writeAlarms writes what Raise took; what cannot be written waits again.
func (s *Service) writeAlarms(ctx context.Context) error {
	all, dropped := s.alarms.take()
	if dropped > 0 {
		s.log.WarnContext(ctx, "too many different alarms at once; some were dropped", "dropped", dropped)
	}
	for i, a := range all {
		if err := s.raise(ctx, &a); err != nil {
			for _, again := range all[i:] {
				s.alarms.add(again)
			}
			return err
		}
	}
	return nil
}

func (s *Service) raise(ctx context.Context, a *Alarm) error {
	a.State, a.LastAt = AlarmRaised, a.RaisedAt
	_, raised, err := s.store.RaiseAlarm(ctx, *a, ledger.Entry{Kind: ledger.AlarmRaised, At: s.now(), Actor: "system", Body: alarmEntryBody(a, "")})
	if err == nil && raised {
		s.log.WarnContext(ctx, "alarm", "kind", string(a.Kind), "key", a.Key, "message", a.Message)
	}
	return err
}

// Alarm returns one alarm.
func (s *Service) Alarm(ctx context.Context, by access.Caller, id int64) (Alarm, error) {
	return s.store.Alarm(ctx, by.Scope, id)
}

// Alarms returns a page of alarms, newest first.
func (s *Service) Alarms(ctx context.Context, by access.Caller, q AlarmQuery) (page []Alarm, next string, err error) {
	return s.store.Alarms(ctx, by.Scope, q)
}

// AcknowledgeAlarm says that somebody looks after it.
func (s *Service) AcknowledgeAlarm(ctx context.Context, by access.Caller, id int64) (Alarm, error) {
	return s.moveAlarm(ctx, by, id, AlarmAcknowledged, "")
}

// CloseAlarm ends an alarm; the same thing happening again raises a new one.
func (s *Service) CloseAlarm(ctx context.Context, by access.Caller, id int64, reason string) (Alarm, error) {
	if err := checkReason(reason); err != nil {
		return Alarm{}, err
	}
	return s.moveAlarm(ctx, by, id, AlarmClosed, reason)
}

func (s *Service) moveAlarm(ctx context.Context, by access.Caller, id int64, next AlarmState, reason string) (Alarm, error) {
	a, err := s.store.Alarm(ctx, by.Scope, id)
	if err != nil || a.State >= next {
		return a, err
	}
	a.State = next
	if a.AcknowledgedBy == "" {
		a.AcknowledgedBy = by.Name
	}
	if next == AlarmClosed {
		a.ClosedAt = moment(s.now())
	}
	err = s.store.UpdateAlarm(ctx, a, ledger.Entry{Kind: ledger.AlarmChanged, At: s.now(), Actor: by.Name, Body: alarmEntryBody(&a, reason)})
	if err != nil {
		return Alarm{}, err
	}
	return s.store.Alarm(ctx, by.Scope, id)
}

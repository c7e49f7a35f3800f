package store

import (
	"context"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

const alarmColumns = `id, kind, subject, state, message, order_id, station, product, site, total, raised_at, last_at, acknowledged_by, closed_at`

func scanAlarm(r row) (factory.Alarm, error) {
	var a factory.Alarm
	err := r.Scan(&a.ID, &a.Kind, &a.Key, &a.State, &a.Message, &a.Order, &a.Station, &a.Product, &a.Site, &a.Count,
		at(&a.RaisedAt), at(&a.LastAt), &a.AcknowledgedBy, at(&a.ClosedAt))
	return a, err
}

// RaiseAlarm stores an alarm, or counts up the one with the same kind and key
// that is not closed: then the entries are not written, because the ledger and
// who follows it hear of an alarm once. Index alarm_open.
func (s *Store) RaiseAlarm(ctx context.Context, a factory.Alarm, entries ...ledger.Entry) (id int64, raised bool, err error) {
	a.Count = max(a.Count, 1)
	err = s.write(ctx, func(t *tx) error {
		var err error
		raised = false
		if id, err = countAlarm(ctx, t, &a); !noRows(err) {
			return err
		}
		// Who holds control is the only one to number alarms; another may have
		// raised this one in between.
		if err := holdControl(ctx, t); err != nil {
			return err
		}
		if id, err = countAlarm(ctx, t, &a); !noRows(err) {
			return err
		}
		raised = true
		if id, err = nextID(ctx, t, "alarm"); err != nil {
			return err
		}
		t.record(entries...)
		_, err = t.exec(ctx, "INSERT INTO alarm ("+alarmColumns+") VALUES ("+placeholders(14)+")",
			id, a.Kind, a.Key, factory.AlarmRaised, a.Message, a.Order, a.Station, a.Product, a.Site, a.Count, a.RaisedAt, a.RaisedAt, "", int64(0))
		return err
	})
	if err != nil {
		return 0, false, err
	}
	return id, raised, nil
}

// countAlarm counts up an alarm that is not closed, or returns errNoRows.
func countAlarm(ctx context.Context, t *tx, a *factory.Alarm) (id int64, err error) {
	err = t.row(ctx, `UPDATE alarm SET total = total + $3, message = $4, last_at = $5
WHERE kind = $1 AND subject = $2 AND state <> 3 RETURNING id`, a.Kind, a.Key, a.Count, a.Message, a.RaisedAt).Scan(&id)
	return id, err
}

// UpdateAlarm writes the state with who acknowledged and when it was closed. A
// state only rises; an alarm that has it already is left alone.
func (s *Store) UpdateAlarm(ctx context.Context, a factory.Alarm, entries ...ledger.Entry) error {
	return s.writeIfNeeded(ctx, func(t *tx) error {
		n, err := t.exec(ctx, "UPDATE alarm SET state = $2, acknowledged_by = $3, closed_at = $4 WHERE id = $1 AND state < $2",
			a.ID, a.State, a.AcknowledgedBy, a.ClosedAt)
		if err != nil || n == 1 {
			return err
		}
		there, err := exists(ctx, t, "alarm", a.ID)
		if err != nil || !there {
			return orFault(err, fault.AlarmUnknown)
		}
		return errNothing
	}, entries...)
}

// Alarm returns an alarm, or fault.AlarmUnknown.
func (s *Store) Alarm(ctx context.Context, scope access.Scope, id int64) (factory.Alarm, error) {
	a, err := scanAlarm(s.read.row(ctx, "SELECT "+alarmColumns+" FROM alarm WHERE id = $1"+lineScope(scope, ""), id))
	if noRows(err) {
		return factory.Alarm{}, fault.New(fault.AlarmUnknown)
	}
	return a, err
}

// Alarms returns a page of alarms, newest first. Indexes: the primary key,
// alarm_product and alarm_state.
func (s *Store) Alarms(ctx context.Context, scope access.Scope, q factory.AlarmQuery) ([]factory.Alarm, string, error) {
	after, err := parseCursor(q.After)
	if err != nil {
		return nil, "", err
	}
	w := walk{table: "alarm", columns: alarmColumns, scope: lineWalk(scope), descending: true, dense: true}
	if q.State != 0 {
		w.where("state = ?", int64(q.State))
		// Index alarm_state leads from one row of the state to the next.
		w.skips = !scope.SeesEverything()
	}
	if q.Kind != "" {
		w.where("kind = ?", string(q.Kind))
	}
	list, next, err := page(ctx, s.read, &w, after, pageSize(q.Limit), func(r row) (factory.Alarm, int64, error) {
		a, err := scanAlarm(r)
		return a, a.ID, err
	})
	return list, cursor(next), err
}

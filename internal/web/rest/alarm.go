package rest

import (
	"context"
	"net/http"
	"time"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// Alarm is something that a person must look at.
type Alarm struct {
	ID             int64      `json:"id"`
	Kind           string     `json:"kind"`
	State          string     `json:"state" enum:"raised,acknowledged,closed"`
	Message        string     `json:"message"`
	Order          string     `json:"order,omitempty"`
	Station        string     `json:"station,omitempty"`
	Product        string     `json:"product,omitempty"`
	Site           string     `json:"site,omitempty"`
	Count          int64      `json:"count" doc:"How often it happened"`
	RaisedAt       time.Time  `json:"raised_at"`
	LastAt         time.Time  `json:"last_at"`
	AcknowledgedBy string     `json:"acknowledged_by,omitempty"`
	ClosedAt       *time.Time `json:"closed_at,omitempty"`
}

func (a *API) alarms() {
	add(a, op{method: http.MethodGet, path: "/alarms", action: access.FactoryRead, summary: "List alarms, newest first"}, a.listAlarms)
	add(a, op{method: http.MethodGet, path: "/alarms/{id}", action: access.FactoryRead, summary: "Show an alarm"}, a.showAlarm)
	add(a, op{method: http.MethodPost, path: "/alarms/{id}/acknowledgement", action: access.AlarmManage, summary: "Say that somebody looks after an alarm"}, a.acknowledgeAlarm)
	add(a, op{method: http.MethodPost, path: "/alarms/{id}/closing", action: access.AlarmManage, summary: "Close an alarm; the same thing happening again raises a new one"}, a.closeAlarm)
}

// alarm shows a row; an order that the caller does not see stays unnamed.
func (a *API) alarm(ctx context.Context, c *access.Caller, names *factory.Names, row *factory.Alarm) (Alarm, error) {
	out := Alarm{
		ID: row.ID, Kind: string(row.Kind), State: row.State.String(), Message: row.Message, Station: names.Station(row.Station),
		Product: names.Product(row.Product), Site: names.Site(row.Site), Count: row.Count, RaisedAt: row.RaisedAt, LastAt: row.LastAt,
		AcknowledgedBy: row.AcknowledgedBy, ClosedAt: unlessZero(row.ClosedAt),
	}
	if row.Order == 0 {
		return out, nil
	}
	o, err := a.cfg.Factory.OrderByID(ctx, *c, row.Order)
	if notFound(err) {
		return out, nil
	}
	out.Order = o.Number
	return out, err
}

func (a *API) answerAlarm(ctx context.Context, c *access.Caller, row *factory.Alarm, err error) (*one[Alarm], error) {
	if err != nil {
		return nil, err
	}
	names, err := a.cfg.Factory.Names(ctx)
	if err != nil {
		return nil, err
	}
	out, err := a.alarm(ctx, c, names, row)
	return &one[Alarm]{out}, err
}

func (a *API) listAlarms(ctx context.Context, c *access.Caller, in *struct {
	Page
	State string `query:"state" doc:"raised, acknowledged, closed"`
	Kind  string `query:"kind" maxLength:"64"`
},
) (*list[Alarm], error) {
	q := factory.AlarmQuery{Page: factory.Page{After: in.After, Limit: in.Limit}, Kind: factory.AlarmKind(in.Kind)}
	var err error
	if q.State, err = anyOr(in.State, factory.ParseAlarmState); err != nil {
		return nil, err
	}
	rows, next, err := a.cfg.Factory.Alarms(ctx, *c, q)
	if err != nil {
		return nil, err
	}
	names, err := a.cfg.Factory.Names(ctx)
	if err != nil {
		return nil, err
	}
	items := make([]Alarm, len(rows))
	for i := range rows {
		if items[i], err = a.alarm(ctx, c, names, &rows[i]); err != nil {
			return nil, err
		}
	}
	return newList(items, next), nil
}

func (a *API) showAlarm(ctx context.Context, c *access.Caller, in *IDPath) (*one[Alarm], error) {
	row, err := a.cfg.Factory.Alarm(ctx, *c, in.ID)
	return a.answerAlarm(ctx, c, &row, err)
}

func (a *API) acknowledgeAlarm(ctx context.Context, c *access.Caller, in *IDPath) (*one[Alarm], error) {
	row, err := a.cfg.Factory.AcknowledgeAlarm(ctx, *c, in.ID)
	return a.answerAlarm(ctx, c, &row, err)
}

func (a *API) closeAlarm(ctx context.Context, c *access.Caller, in *struct {
	IDPath
	Body Reason
},
) (*one[Alarm], error) {
	row, err := a.cfg.Factory.CloseAlarm(ctx, *c, in.ID, in.Body.Reason)
	return a.answerAlarm(ctx, c, &row, err)
}

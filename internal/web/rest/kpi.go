package rest

import (
	"context"
	"net/http"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// KPIs is the report of a selection.
type KPIs struct {
	Issued         int64      `json:"issued"`
	Confirmed      int64      `json:"confirmed"`
	FirstPass      int64      `json:"first_pass" doc:"Confirmed units that needed one attempt"`
	Scrapped       int64      `json:"scrapped"`
	Failed         int64      `json:"failed_attempts"`
	Success        float64    `json:"provisioning_success" doc:"0 to 1"`
	SuccessGoal    float64    `json:"provisioning_success_goal"`
	GoalMet        bool       `json:"goal_met"`
	FirstPassYield float64    `json:"first_pass_yield" doc:"0 to 1"`
	UnitsPerHour   float64    `json:"units_per_hour" doc:"Over the hours in which a unit was confirmed"`
	Hours          int64      `json:"hours" doc:"How many those are"`
	TaktPerHour    float64    `json:"takt_per_hour,omitempty" doc:"What the order's takt asks for"`
	IssueP50       float64    `json:"issue_p50_ms" doc:"Of the server, request to certificate"`
	IssueP99       float64    `json:"issue_p99_ms"`
	CycleP50       float64    `json:"cycle_p50_ms" doc:"Of the whole unit, nonce to confirmation"`
	CycleP99       float64    `json:"cycle_p99_ms"`
	Failures       []Failures `json:"failures" doc:"Most frequent first"`
	Days           []Day      `json:"days"`
}

// Failures is how often attempts ended with a code.
type Failures struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Count   int64  `json:"count"`
}

// Day is one day of a report.
type Day struct {
	Date      string `json:"date"`
	Issued    int64  `json:"issued"`
	Confirmed int64  `json:"confirmed"`
	FirstPass int64  `json:"first_pass"`
	Failed    int64  `json:"failed_attempts"`
	Scrapped  int64  `json:"scrapped"`
}

func (a *API) kpis() {
	add(a, op{method: http.MethodGet, path: "/kpis", action: access.FactoryRead, summary: "Yield, rates, times and causes, by order, station, site, product and day"}, a.showKPIs)
}

func (a *API) showKPIs(ctx context.Context, c *access.Caller, in *struct {
	Order   string `query:"order" maxLength:"64"`
	Station string `query:"station" maxLength:"64"`
	Site    string `query:"site" maxLength:"64"`
	Product string `query:"product" maxLength:"64"`
	From    string `query:"from" doc:"Day, UTC: 2027-03-01"`
	To      string `query:"to" doc:"Day, UTC, included"`
},
) (*one[KPIs], error) {
	q := factory.KPIQuery{Order: in.Order, Station: in.Station, Site: in.Site, Product: in.Product}
	var err error
	if q.From, err = anyOr(in.From, parseDay); err != nil {
		return nil, err
	}
	if q.To, err = anyOr(in.To, parseDay); err != nil {
		return nil, err
	}
	r, err := a.cfg.Factory.KPIs(ctx, *c, q)
	if err != nil {
		return nil, err
	}
	return &one[KPIs]{showReport(&r)}, nil
}

func parseDay(text string) (time.Time, error) {
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return time.Time{}, fault.New(fault.ParameterInvalid, "a day is written 2027-03-01")
	}
	return t, nil
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func showReport(r *factory.Report) KPIs {
	out := KPIs{
		Issued: r.Issued, Confirmed: r.Confirmed, FirstPass: r.FirstPass,
		Scrapped: r.Scrapped, Failed: r.Failed, Success: r.Success, SuccessGoal: r.SuccessGoal, GoalMet: r.GoalMet,
		FirstPassYield: r.FirstPassYield, UnitsPerHour: r.UnitsPerHour, Hours: r.Hours, TaktPerHour: r.TaktPerHour,
		IssueP50: millis(r.IssueP50), IssueP99: millis(r.IssueP99), CycleP50: millis(r.CycleP50), CycleP99: millis(r.CycleP99),
		Failures: []Failures{}, Days: []Day{},
	}
	for _, f := range r.Failures {
		out.Failures = append(out.Failures, Failures{Code: f.Code, Message: messageOf(f.Code), Count: f.Count})
	}
	for _, d := range r.Days {
		out.Days = append(out.Days, Day{Date: d.Day.UTC().Format(time.DateOnly), Issued: d.Issued, Confirmed: d.Confirmed, FirstPass: d.FirstPass, Failed: d.Failed, Scrapped: d.Scrapped})
	}
	return out
}

// messageOf returns what a code means.
func messageOf(code string) string {
	for _, e := range fault.All() {
		if e.Code.String() == code {
			return e.Message
		}
	}
	return ""
}

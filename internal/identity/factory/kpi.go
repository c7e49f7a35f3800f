package factory

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
)

// SuccessGoal is the share of units that ought to get through provisioning.
const SuccessGoal = 0.999

// KPIQuery selects what a report counts, by names; empty selects all. Days are
// UTC and included; zero times leave the range open.
type KPIQuery struct {
	Order, Station, Site, Product string
	From, To                      time.Time
}

// Report is the KPIs of a selection. Rates are between 0 and 1, and 1 with
// nothing made.
type Report struct {
	Issued    int64 // units
	Confirmed int64
	FirstPass int64
	Scrapped  int64 // units that ended
	Failed    int64 // attempts
	// Success is the confirmed units among those whose fate is known: confirmed,
	// or ended. FirstPassYield is the same of units that needed no second attempt.
	Success        float64
	SuccessGoal    float64
	GoalMet        bool
	FirstPassYield float64
	// UnitsPerHour counts only hours in which a unit was confirmed. TaktPerHour is
	// what the order's takt asks for, 0: no order was selected or it has no takt.
	UnitsPerHour float64
	Hours        int64
	TaktPerHour  float64
	// Of issuing in the server, and of the whole unit as the stations measured it;
	// upper ends of histogram buckets, 0: not measured.
	IssueP50, IssueP99 time.Duration
	CycleP50, CycleP99 time.Duration
	Failures           []FailureCount // most frequent first
	Days               []DayCount
}

// FailureCount is how often attempts ended with a code.
type FailureCount struct {
	Code  string // BM-8023
	Count int64
}

// DayCount is one day of a report.
type DayCount struct {
	Day       time.Time
	Issued    int64
	Confirmed int64
	FirstPass int64
	Failed    int64
	Scrapped  int64
}

// KPIs returns the report of a selection.
func (s *Service) KPIs(ctx context.Context, by access.Caller, q KPIQuery) (Report, error) {
	t, o, err := s.tallyQuery(ctx, by, q)
	if err != nil {
		return Report{}, err
	}
	tallies, err := s.store.Tallies(ctx, by.Scope, t)
	if err != nil {
		return Report{}, err
	}
	r := report(tallies)
	if o.Takt > 0 {
		r.TaktPerHour = float64(time.Hour) / float64(o.Takt)
	}
	return r, nil
}

func (s *Service) tallyQuery(ctx context.Context, by access.Caller, q KPIQuery) (t TallyQuery, o Order, err error) {
	if !q.From.IsZero() {
		t.FromDay = dayOf(q.From)
	}
	if !q.To.IsZero() {
		t.ToDay = dayOf(q.To)
	}
	if q.Order != "" {
		if o, err = s.store.OrderByNumber(ctx, by.Scope, q.Order); err != nil {
			return t, o, err
		}
		t.Order = o.ID
	}
	if q.Station != "" {
		x, err := s.store.StationByName(ctx, by.Scope, q.Station)
		if err != nil {
			return t, o, err
		}
		t.Station = x.ID
	}
	if q.Site != "" {
		x, err := s.siteByName(ctx, by.Scope, q.Site)
		if err != nil {
			return t, o, err
		}
		t.Site = x.ID
	}
	if q.Product != "" {
		p, err := s.productByName(ctx, by.Scope, q.Product)
		if err != nil {
			return t, o, err
		}
		t.Product = p.ID
	}
	return t, o, nil
}

// report adds counters up.
func report(tallies []Tally) Report {
	r := Report{SuccessGoal: SuccessGoal}
	days := make(map[int64]*DayCount)
	hours := make(map[[2]int64]bool)
	failures := make(map[int64]int64)
	var issuing, cycle histogram
	for _, t := range tallies {
		d := days[t.Day]
		if d == nil {
			d = &DayCount{Day: time.Unix(t.Day*24*60*60, 0).UTC()}
			days[t.Day] = d
		}
		switch t.Measure {
		case MeasureIssued:
			d.Issued += t.N
		case MeasureConfirmed:
			d.Confirmed += t.N
			hours[[2]int64{t.Day, t.Bucket}] = true
		case MeasureFirstPass:
			d.FirstPass += t.N
		case MeasureScrapped:
			d.Scrapped += t.N
		case MeasureFailed:
			d.Failed += t.N
			failures[t.Bucket] += t.N
		case MeasureIssueTime:
			issuing.add(t)
		case MeasureCycleTime:
			cycle.add(t)
		}
	}
	for _, day := range slices.Sorted(maps.Keys(days)) {
		d := days[day]
		r.Issued, r.Confirmed, r.FirstPass = r.Issued+d.Issued, r.Confirmed+d.Confirmed, r.FirstPass+d.FirstPass
		r.Scrapped, r.Failed = r.Scrapped+d.Scrapped, r.Failed+d.Failed
		r.Days = append(r.Days, *d)
	}
	r.Hours = int64(len(hours))
	r.rates()
	r.IssueP50, r.IssueP99 = issuing.percentile(0.5), issuing.percentile(0.99)
	r.CycleP50, r.CycleP99 = cycle.percentile(0.5), cycle.percentile(0.99)
	for code, n := range failures {
		r.Failures = append(r.Failures, FailureCount{fault.Code(code).String(), n})
	}
	slices.SortFunc(r.Failures, func(a, b FailureCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Code, b.Code))
	})
	return r
}

func (r *Report) rates() {
	r.Success, r.FirstPassYield = 1, 1
	if known := r.Confirmed + r.Scrapped; known > 0 {
		// A unit that was confirmed and scrapped later counts in both.
		r.Success = float64(r.Confirmed) / float64(known)
		r.FirstPassYield = float64(r.FirstPass) / float64(known)
	}
	r.GoalMet = r.Success > r.SuccessGoal
	if r.Hours > 0 {
		r.UnitsPerHour = float64(r.Confirmed) / float64(r.Hours)
	}
}

// histogram counts durations by bucket.
type histogram struct {
	counts map[int64]int64
	total  int64
}

func (h *histogram) add(t Tally) {
	if h.counts == nil {
		h.counts = make(map[int64]int64)
	}
	h.counts[t.Bucket] += t.N
	h.total += t.N
}

// percentile returns the upper end of the bucket that holds this share of all.
func (h *histogram) percentile(share float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	rank := int64(share*float64(h.total) + 0.999999)
	seen := int64(0)
	for _, b := range slices.Sorted(maps.Keys(h.counts)) {
		if seen += h.counts[b]; seen >= rank {
			return BucketUpper(b)
		}
	}
	return 0
}

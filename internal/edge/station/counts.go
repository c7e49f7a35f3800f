package station

import (
	"slices"
	"sync"
)

// recent is how many failures and cycle times are remembered for the view.
const recent = 5

// counts is what the line did since it began.
type counts struct {
	mu       sync.Mutex
	c        Counts
	failures []Outcome
}

// Counts is the work of a line since it began.
type Counts struct {
	Passed    int64     `json:"passed"`
	Queued    int64     `json:"queued"` // of those passed: the confirmation had to wait
	Failed    int64     `json:"failed"`
	FirstPass int64     `json:"firstPass"` // passed at the first attempt
	CycleSum  int64     `json:"cycleMillis"`
	Failures  []Outcome `json:"failures,omitempty"` // the last ones, newest first
}

func (c *counts) add(o *Outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !o.Passed() {
		c.c.Failed++
		c.failures = append(c.failures, *o)
		if len(c.failures) > recent {
			c.failures = slices.Delete(c.failures, 0, 1)
		}
		return
	}
	c.c.Passed++
	c.c.CycleSum += o.CycleMillis
	if o.Result == Queued {
		c.c.Queued++
	}
	if o.Attempts == 1 {
		c.c.FirstPass++
	}
}

// Counts returns what was done since the line began.
func (l *Line) Counts() Counts {
	l.counts.mu.Lock()
	defer l.counts.mu.Unlock()
	c := l.counts.c
	c.Failures = slices.Clone(l.counts.failures)
	slices.Reverse(c.Failures)
	return c
}

package enroll

import (
	"maps"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
)

// What one requester may make us write by being wrong in the time of a window:
// each wrong answer burns a challenge, and both that and a refusal on record stay
// for long. A station speaks for many units.
const (
	wrongWindow  = time.Minute
	wrongDevice  = 10
	wrongStation = 300
	maxWrong     = 4096 // requesters that are remembered
)

// asker is a known requester: a station, or else a device.
type asker struct {
	station int64
	device  device.ID
}

func (a asker) limit() int {
	if a.station != 0 {
		return wrongStation
	}
	return wrongDevice
}

// asker returns who asks, as wrong answers are counted.
func (a *asked) asker() asker {
	if a.station != 0 {
		return asker{station: a.station}
	}
	return asker{device: a.device}
}

func (r *refusal) asker() asker {
	if r.body.Station != 0 {
		return asker{station: r.body.Station}
	}
	return asker{device: device.ID(r.body.Device)}
}

// wrongs counts what requesters got wrong a moment ago, on this node.
type wrongs struct {
	mu   sync.Mutex
	made map[asker]wrongCount // guarded by mu
}

type wrongCount struct {
	from time.Time
	n    int
}

func (c wrongCount) over(now time.Time) bool {
	age := now.Sub(c.from)
	return age < 0 || age >= wrongWindow
}

// check refuses a requester who was wrong too often: its next answer is not
// judged, and so burns nothing.
func (w *wrongs) check(a asker, now time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.made[a]; c.n >= a.limit() && !c.over(now) {
		return fault.New(fault.TooManyRequests, "too many wrong answers")
	}
	return nil
}

// take counts one more and reports whether it is within the limit.
func (w *wrongs) take(a asker, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, ok := w.made[a]
	if !ok && len(w.made) >= maxWrong {
		maps.DeleteFunc(w.made, func(_ asker, c wrongCount) bool { return c.over(now) })
	}
	if w.made == nil || len(w.made) >= maxWrong && !ok {
		w.made = make(map[asker]wrongCount)
	}
	if c.over(now) {
		c = wrongCount{from: now}
	}
	c.n++
	w.made[a] = c
	return c.n <= a.limit()
}

package station

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/birthmark/birthmark/internal/fault"
)

// Loop is a run of units by the station itself.
type Loop struct {
	Order         string
	Count         int      // 0: until the order is full or ctx ends
	Nests         int      // 0: one
	First         string   // first device serial; empty: the devices say theirs
	Rework        string   // why the units get another identity
	DeviceSerials []string // to work on; then Count and First are not used
	// Tell is called with each outcome, by several goroutines.
	Tell func(Outcome)
}

// Provision works through units in several nests at once and returns how many
// passed and failed. It ends early when the order takes no more.
func (l *Line) Provision(ctx context.Context, c Loop) (passed, failed int64) {
	if len(c.DeviceSerials) > 0 {
		c.Count = len(c.DeviceSerials)
	}
	var next, pass, fail atomic.Int64
	var over atomic.Bool
	var nests sync.WaitGroup
	for nest := range max(1, c.Nests) {
		nests.Go(func() {
			for ctx.Err() == nil && !over.Load() {
				n := next.Add(1) - 1
				if c.Count > 0 && n >= int64(c.Count) {
					return
				}
				o := l.Do(ctx, Job{Nest: fmt.Sprint(nest + 1), Order: c.Order, DeviceSerial: c.deviceSerial(n), Rework: c.Rework})
				if o.Passed() {
					pass.Add(1)
				} else {
					fail.Add(1)
					over.CompareAndSwap(false, stops(o.Code))
				}
				if c.Tell != nil {
					c.Tell(o)
				}
			}
		})
	}
	nests.Wait()
	return pass.Load(), fail.Load()
}

// stops reports whether a refusal means that no other unit will pass.
func stops(code string) bool {
	for _, c := range []fault.Code{
		fault.OrderFull, fault.SparesUsed, fault.OrderState, fault.OrderFrozen, fault.StationState, fault.StationCertificate,
		fault.StationNotAssigned, fault.OrderUnknown, fault.KeyModel, fault.StationQueue,
	} {
		if code == c.String() {
			return true
		}
	}
	return false
}

func (c *Loop) deviceSerial(n int64) string {
	if len(c.DeviceSerials) > 0 {
		return c.DeviceSerials[n]
	}
	return counted(c.First, n)
}

// counted returns the device serial that is n after first: the digits at its end
// count up and keep their number.
func counted(first string, n int64) string {
	if first == "" || n == 0 {
		return first
	}
	i := len(first)
	for i > 0 && first[i-1] >= '0' && first[i-1] <= '9' && len(first)-i < 18 {
		i--
	}
	var value int64
	for _, d := range first[i:] {
		value = value*10 + int64(d-'0')
	}
	return fmt.Sprintf("%s%0*d", first[:i], len(first)-i, value+n)
}

package station_test

import (
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	edge "github.com/birthmark/birthmark/internal/edge/station"
	"github.com/birthmark/birthmark/internal/edge/station/fixture"
	"github.com/birthmark/birthmark/internal/edge/station/link"
	"github.com/birthmark/birthmark/internal/edge/station/queue"
	"github.com/birthmark/birthmark/internal/edge/station/sim"
	"github.com/birthmark/birthmark/internal/edge/station/stationtest"
	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
)

const seed = "test"

// rig is a line with its server.
type rig struct {
	server *stationtest.Server
	link   *link.Client
	queue  *queue.Queue
	line   *edge.Line
}

type rigConfig struct {
	order    station.Order
	chips    int
	failures map[sim.Step]float64
	line     edge.Config
	adapter  fixture.Adapter
}

func newRig(t testing.TB, c rigConfig) *rig {
	t.Helper()
	r := &rig{server: stationtest.New(t)}
	if c.order.Number == "" {
		c.order.Number = "PO-1"
	}
	if c.order.KeyModel == "" {
		c.order.KeyModel, c.order.Proof = "on-device", true
	}
	if c.order.Quantity == 0 {
		c.order.Quantity = 1000
	}
	r.server.AddOrder(c.order)
	for i := range c.chips {
		chip, err := sim.NewChip(seed, i)
		if err != nil {
			t.Fatal(err)
		}
		r.server.AddChip(chip.UID, chip.SPKI)
	}
	own := r.server.Credential()
	var err error
	if r.link, err = link.New(link.Config{URL: r.server.URL(), Trust: r.server.Trust(), Credential: func() *tls.Certificate { return own }}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.link.Close)
	if r.queue, err = queue.Open(queue.Config{Dir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.queue.Close)
	c.line.Link, c.line.Queue, c.line.Now = r.link, r.queue, time.Now
	if c.line.Adapter = c.adapter; c.adapter == nil {
		if c.line.Adapter, err = sim.New(sim.Config{Seed: seed, Failures: c.failures, Random: rand.Reader}); err != nil {
			t.Fatal(err)
		}
	}
	if r.line, err = edge.New(c.line); err != nil {
		t.Fatal(err)
	}
	return r
}

func wantPass(t *testing.T, o *edge.Outcome) {
	t.Helper()
	if o.Result != edge.Pass {
		t.Fatalf("%+v", o)
	}
}

func TestUnitPassesUnderEachKeyModel(t *testing.T) {
	for _, one := range []struct {
		model string
		proof bool
	}{{"on-device", true}, {"on-device", false}, {"pre-provisioned", true}, {"injected", false}} {
		t.Run(fmt.Sprint(one.model, one.proof), func(t *testing.T) {
			r := newRig(t, rigConfig{order: station.Order{KeyModel: one.model, Proof: one.proof}, chips: 3})
			for _, name := range []string{"SN1", ""} {
				o := r.line.Do(t.Context(), edge.Job{Order: "PO-1", DeviceSerial: name})
				wantPass(t, &o)
				if n, ok := r.server.Confirms(o.DeviceSerial); n != 1 || !ok {
					t.Errorf("%q was confirmed %d times", o.DeviceSerial, n)
				}
			}
			if got := r.server.Account("PO-1"); got != (stationtest.Account{Issued: 2, Live: 2, Confirmed: 2}) {
				t.Errorf("account %+v", got)
			}
		})
	}
}

func TestManyNestsAtOnce(t *testing.T) {
	const units, nests = 400, 32
	r := newRig(t, rigConfig{
		order: station.Order{Quantity: units - 20, Spares: 5}, chips: units, line: edge.Config{Ahead: 64, Attempts: 9},
		failures: map[sim.Step]float64{sim.StepInstall: .05, sim.StepProve: .05, sim.StepReadBack: .05, sim.StepConfirm: .05},
	})
	var next, passed, full atomic.Int64
	var line sync.WaitGroup
	for range nests {
		line.Go(func() {
			for n := next.Add(1); n <= units; n = next.Add(1) {
				o := r.line.Do(t.Context(), edge.Job{DeviceSerial: fmt.Sprintf("SN%04d", n)})
				switch {
				case o.Result == edge.Pass:
					passed.Add(1)
				case o.Code == fault.OrderFull.String() && o.Who == "who the server says":
					full.Add(1)
				default:
					t.Errorf("%+v", o)
				}
			}
		})
	}
	line.Wait()
	if passed.Load() != units-20 || full.Load() != 20 {
		t.Errorf("%d passed, %d refused because the order is full", passed.Load(), full.Load())
	}
	if got := r.server.Account("PO-1"); got != (stationtest.Account{Issued: units - 20, Live: units - 20, Confirmed: units - 20}) {
		t.Errorf("account %+v", got)
	}
	if c := r.line.Counts(); c.Passed != units-20 || c.Failed != 20 || c.FirstPass == c.Passed || len(c.Failures) == 0 {
		t.Errorf("counts %+v", c)
	}
}

func TestUnreachableServerQueuesTheConfirmation(t *testing.T) {
	var down atomic.Bool
	r := newRig(t, rigConfig{chips: 3, line: edge.Config{Patience: time.Millisecond}})
	r.server.Hook = func(w http.ResponseWriter, q *http.Request) bool {
		if down.Load() && q.URL.Path == station.ConfirmPath || down.Load() && q.URL.Path == station.ScrapPath {
			stationtest.Refuse(w, http.StatusServiceUnavailable, fault.IssuanceBusy, "")
			return true
		}
		return false
	}
	down.Store(true)
	o := r.line.Do(t.Context(), edge.Job{DeviceSerial: "SN1"})
	if o.Result != edge.Queued {
		t.Fatalf("%+v", o)
	}
	if err := r.line.Scrap(t.Context(), station.Scrap{Order: "PO-1", DeviceSerial: "SN1", Reason: "fell down"}); err != nil {
		t.Fatal(err)
	}
	if f, err := r.line.Flush(t.Context()); err == nil || f.Left != 2 {
		t.Errorf("flushed %+v, %v", f, err)
	}
	down.Store(false)
	// The scrap of a unit whose confirmation waits goes behind it, link or not.
	if err := r.line.Scrap(t.Context(), station.Scrap{Order: "PO-1", DeviceSerial: "SN1", Reason: "once more"}); err != nil {
		t.Fatal(err)
	}
	f, err := r.line.Flush(t.Context())
	if err != nil || f != (queue.Flushed{Sent: 3}) {
		t.Fatalf("flushed %+v, %v", f, err)
	}
	if got := fmt.Sprint(r.server.Acts()); got != "[confirm SN1 scrap SN1 scrap SN1]" {
		t.Errorf("the server heard %s", got)
	}
}

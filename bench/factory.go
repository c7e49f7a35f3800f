package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/birthmark/birthmark/internal/edge/station/sim"
)

// The line that is measured: as many stations and nests as a busy hall has, and
// for a slow line ten stations.
const (
	lineStations = 8
	lineNests    = 16
	streamFlight = 64 // units on their way at each of so many stations, of a batch that is not waited for
	streamers    = 4
	slowStations = 10
)

// The speeds that the factory is meant to have, in units a second and as shares
// of what EST does in the same run.
const (
	aimCycle      = 1200
	aimPlain      = 1.3
	aimProof      = 0.75
	aimSlow       = 5.0 // percent of one core
	aimImport     = 120.0
	aimImportPeak = 512.0
	aimImportP99  = 2.0
)

// The production orders, which are the products' names, too.
const (
	provenOrder = "BENCH-PROVEN" // whole units with chip proofs
	streamOrder = "BENCH-STREAM" // chip proofs, issued and never confirmed
	plainOrder  = "BENCH-PLAIN"  // no proof is asked for
)

// factoryFigures are what the line has shown.
type factoryFigures struct {
	est, plain, proof, cycle *series // passes in turns
	slow                     *series
	percent                  float64 // of one core, under ten slow stations
	failed                   int     // units that did not pass
	imported                 *importFigures
}

// factory is the measuring of the line.
type factory struct {
	*bench
	line  *process
	est   *target
	reel  *reel
	next  int            // chip that is not used yet
	plain int            // unit without a chip that was not made yet
	seen  map[string]int // units that passed, by order
}

func stationName(i int) string { return fmt.Sprintf("bench-%d", i+1) }

// factory measures the line on the SQLite installation.
func (b *bench) factory(ctx context.Context) error {
	from := b.targets[1]
	f := &factory{bench: b, seen: map[string]int{}, est: &target{
		letter: from.letter, name: from.name, pid: from.pid, pprof: from.pprof, order: from.order, next: from.next, stats: map[int]*series{},
	}}
	b.figures.factory = factoryFigures{plain: &series{}, proof: &series{}, cycle: &series{}, slow: &series{}}
	for _, step := range []func(context.Context) error{f.setUp, f.passes, f.slow, f.account, f.importing} {
		if err := step(ctx); err != nil {
			return fmt.Errorf("factory: %w", err)
		}
	}
	from.next = f.est.next // whoever comes next enrolls other devices
	return nil
}

// expectedUnits are rates that no server here reaches, for how many requests are
// made in advance.
const (
	expectedPlain = 9000
	expectedProof = 6000
)

// inPass is how many of something there are to be in a pass, the same at each
// of so many stations.
func (f *factory) inPass(rate float64, stations int) int {
	return int(rate*f.plan.cell.Seconds())/stations*stations + stations
}

func (f *factory) slowTime() time.Duration {
	return max(3*time.Second, f.plan.cell).Truncate(time.Second)
}

// setUp does what people do before a shift: products, a site, stations, a reel
// with its manifest, orders.
func (f *factory) setUp(ctx context.Context) error {
	chips := f.plan.passes*(f.inPass(expectedProof, streamers)+f.inPass(aimCycle, lineStations)) + slowStations*int(f.slowTime().Seconds())
	f.step("the factory: %d stations, a reel of %d chips", slowStations, chips)
	var err error
	if f.reel, err = newReel(f.folder); err != nil {
		return err
	}
	path := filepath.Join(f.folder, "reel.manifest")
	if err := f.reel.write(path, 0, chips); err != nil {
		return err
	}
	i := f.sqlite
	product := func(name string, more ...string) []string {
		return append([]string{
			"product", "add", "--name", name, "--profile", "idevid", "--idevid-profile", "idevid", "--key-model", "on-device", "--chip-type", sim.ChipType,
		}, more...)
	}
	for _, args := range [][]string{
		product(provenOrder, "--least-evidence", "chip"), product(plainOrder, "--least-evidence", "none"),
		{"site", "add", "bench"},
		{"manifest", "import", path, "--format", "birthmark", "--signer", f.reel.signer},
	} {
		if err := i.command(ctx, args...); err != nil {
			return err
		}
	}
	if err := f.openStations(ctx); err != nil {
		return err
	}
	for order, name := range map[string]string{provenOrder: provenOrder, streamOrder: provenOrder, plainOrder: plainOrder} {
		args := []string{"order", "create", "--number", order, "--product", name, "--site", "bench", "--quantity", "1000000"}
		for n := range slowStations {
			args = append(args, "--stations", stationName(n))
		}
		if err := i.command(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// openStations adds the stations and has the line process enroll them.
func (f *factory) openStations(ctx context.Context) (err error) {
	o := lineOrder{Do: "enroll", Folder: f.folder, Server: f.sqlite.device, Root: f.sqlite.root, Issuer: f.sqlite.issuer}
	for n := range slowStations {
		text, err := f.sqlite.output(ctx, "station", "add", stationName(n), "--site", "bench", "--json")
		if err != nil {
			return err
		}
		var added struct {
			Code string `json:"code"`
		}
		if err := json.Unmarshal(text, &added); err != nil {
			return err
		}
		o.Codes = append(o.Codes, added.Code)
	}
	if f.line, err = f.startPart(ctx, "line"); err != nil {
		return err
	}
	_, err = f.tell(o)
	return err
}

// tell has the line process do something.
func (f *factory) tell(o lineOrder) (c cell, err error) {
	err = f.line.ask(o, &c)
	return c, errors.Join(err, c.err())
}

// passes measures EST, the streams and whole units in turns.
func (f *factory) passes(ctx context.Context) error {
	turns := []func(context.Context) error{f.estPass, f.plainPass, f.proofPass, f.cyclePass}
	for pass := range f.plan.passes {
		for n := range turns {
			// Whoever begins has a slight disadvantage: take turns.
			if err := turns[(n+pass)%len(turns)](ctx); err != nil {
				return err
			}
		}
	}
	f.figures.factory.est = f.est.stats[f.most()]
	return nil
}

// most is the largest number of clients.
func (b *bench) most() int { return b.plan.clients[len(b.plan.clients)-1] }

func (f *factory) estPass(ctx context.Context) error {
	if err := f.makeRequests(f.most(), f.est); err != nil {
		return err
	}
	return f.cell(ctx, f.est, f.most())
}

func (f *factory) plainPass(ctx context.Context) error {
	o := lineOrder{Order: plainOrder, Stations: streamers, Nests: streamFlight, Count: f.inPass(expectedPlain, streamers), For: f.plan.cell}
	return f.streamPass(ctx, "stream of requests", f.figures.factory.plain, o)
}

func (f *factory) proofPass(ctx context.Context) error {
	o := lineOrder{Order: streamOrder, Stations: streamers, Nests: streamFlight, Count: f.inPass(expectedProof, streamers), For: f.plan.cell, Proof: true}
	return f.streamPass(ctx, "stream of requests, chip proofs", f.figures.factory.proof, o)
}

func (f *factory) streamPass(ctx context.Context, what string, s *series, o lineOrder) error {
	next := &f.next
	if !o.Proof {
		next = &f.plain // no chip is used
	}
	o.Do, o.First = "make", *next
	*next += o.Count
	if _, err := f.tell(o); err != nil {
		return err
	}
	o.Do = "stream"
	return f.measured(ctx, what, s, o)
}

func (f *factory) cyclePass(ctx context.Context) error {
	o := lineOrder{Do: "cycle", Order: provenOrder, Stations: lineStations, Nests: lineNests, First: f.next, Count: f.inPass(aimCycle, lineStations)}
	f.next += o.Count
	return f.measured(ctx, "whole units", f.figures.factory.cycle, o)
}

// slow has ten stations do a unit a second each, which should leave the server
// idle.
func (f *factory) slow(ctx context.Context) error {
	if err := f.sqlite.settle(ctx); err != nil {
		return err
	}
	o := lineOrder{Do: "pace", Order: provenOrder, Stations: slowStations, Nests: 1, First: f.next, For: f.slowTime()}
	f.next += slowStations * int(o.For.Seconds())
	slow := f.figures.factory.slow
	if err := f.measured(ctx, "ten slow stations", slow, o); err != nil {
		return err
	}
	f.figures.factory.percent = 100 * slowStations * median(slow.cpu) / 1000 // a unit a second each
	return nil
}

// measured runs what the line is told with processor times read around it.
func (f *factory) measured(ctx context.Context, what string, s *series, o lineOrder) error {
	t := &target{letter: "b-" + o.Do + "-" + o.Order, pid: f.est.pid, pprof: f.est.pprof, by: f.line}
	before, err := f.spent(t)
	if err != nil {
		return err
	}
	if f.plan.profiles != "" {
		o.Profile = filepath.Join(f.plan.profiles, "line-"+o.Do+"-"+o.Order+".cpu")
	}
	profiled := f.profile(ctx, t, o.Stations*o.Nests)
	c, err := f.tell(o)
	if err := errors.Join(err, profiled()); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	after, err := f.spent(t)
	if err != nil {
		return err
	}
	used := after.minus(before)
	s.add(&c, used)
	f.seen[o.Order] += c.Done
	f.figures.factory.failed += c.Failed
	rest := ""
	if c.Short {
		rest = ", devices ran out"
	}
	if c.Failed > 0 {
		rest += fmt.Sprintf("; %d FAILED, first %s", c.Failed, c.Why)
	}
	f.step("(b) %s: %6.0f/s, p50 %.2f ms, p99 %.2f ms, server %.3f s and line %.3f s per 1,000; %d verified%s", what,
		float64(c.Done)/c.Took.Seconds(), ms(c.P50), ms(c.P99), per1000(used.server, c.Done), per1000(used.load, c.Done), c.Checked, rest)
	return nil
}

// account holds what the stations saw against the orders' accounts: none is lost,
// none is there that nobody saw.
func (f *factory) account(ctx context.Context) error {
	for order, seen := range f.seen {
		text, err := f.sqlite.output(ctx, "order", "show", order, "--json")
		if err != nil {
			return err
		}
		var shown struct {
			Issued, Confirmed int
		}
		if err := json.Unmarshal(text, &shown); err != nil {
			return err
		}
		confirmed := 0
		if order == provenOrder {
			confirmed = seen
		}
		if shown.Confirmed != confirmed || shown.Issued < seen || shown.Issued > seen+f.figures.factory.failed {
			return fmt.Errorf("order %s: the stations saw %d units, %d of them confirmed; the server has %d and %d",
				order, seen, confirmed, shown.Issued, shown.Confirmed)
		}
	}
	return nil
}

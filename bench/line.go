package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/birthmark/birthmark/internal/edge/station"
	"github.com/birthmark/birthmark/internal/edge/station/link"
	"github.com/birthmark/birthmark/internal/edge/station/queue"
	"github.com/birthmark/birthmark/internal/edge/station/sim"
	"github.com/birthmark/birthmark/internal/format/proof"
	format "github.com/birthmark/birthmark/internal/format/station"
)

// reelSeed is what all simulated chips follow from.
const reelSeed = "bench"

// lineOrder is what the line process is told to do.
type lineOrder struct {
	Do string // "enroll", "make", "stream", "cycle" or "pace"

	Folder string   // enroll: for what the stations keep
	Server string   // enroll: its address
	Root   []byte   // enroll: DER certificate that the server's must chain to
	Issuer []byte   // enroll: DER certificate that signs the units'
	Codes  []string // enroll: of one station each

	Order    string        // number of the production order
	Stations int           // how many of them work
	Nests    int           // of each station; stream: units in flight at each
	First    int           // chip of the first unit
	Count    int           // make, cycle: units of all stations
	Proof    bool          // make: with the chip's proof
	For      time.Duration // stream, pace
	Profile  string        // file for a processor profile of the line meanwhile, or empty
}

// line is the process that plays the stations, and the devices in their nests.
type line struct {
	issuer   *x509.Certificate
	stations []*workplace
}

// workplace is one station.
type workplace struct {
	link  *link.Client
	queue *queue.Queue
	made  []made
}

// made is a request that waits for the clock to start.
type made struct {
	unit format.Unit
	key  []byte // SubjectPublicKeyInfo
}

// runLine obeys orders until the input ends.
func runLine(ctx context.Context, in io.Reader, out io.Writer) error {
	debug.SetGCPercent(400) // what is made in advance is large and lives long
	l := &line{}
	return obeyAll(ctx, in, out, l.obey)
}

func (l *line) obey(ctx context.Context, o *lineOrder) (c cell, err error) {
	if o.Profile != "" {
		f, err := os.Create(o.Profile)
		if err != nil {
			return c, err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return c, err
		}
		defer pprof.StopCPUProfile()
	}
	switch o.Do {
	case "enroll":
		return cell{}, l.enroll(ctx, o)
	case "make":
		return cell{}, l.make(ctx, o)
	case "stream":
		return l.stream(ctx, o)
	case "cycle":
		return l.cycle(ctx, o)
	case "pace":
		return l.pace(ctx, o)
	}
	return cell{}, fmt.Errorf("no such order: %q", o.Do)
}

// enroll opens a station for each one-time code.
func (l *line) enroll(ctx context.Context, o *lineOrder) (err error) {
	if l.issuer, err = x509.ParseCertificate(o.Issuer); err != nil {
		return err
	}
	trust := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: o.Root})
	for i, code := range o.Codes {
		folder := filepath.Join(o.Folder, stationName(i))
		home, err := station.Enroll(ctx, station.Enrollment{Dir: folder, Server: "https://" + o.Server, Code: code, Trust: trust})
		if err != nil {
			return err
		}
		w := &workplace{}
		if w.link, err = home.Connect(); err != nil {
			return err
		}
		if w.queue, err = queue.Open(queue.Config{Dir: folder}); err != nil {
			return err
		}
		l.stations = append(l.stations, w)
	}
	return nil
}

// at returns the stations that work.
func (l *line) at(o *lineOrder) ([]*workplace, error) {
	if o.Stations < 1 || o.Stations > len(l.stations) {
		return nil, fmt.Errorf("%d stations of %d", o.Stations, len(l.stations))
	}
	return l.stations[:o.Stations], nil
}

// make makes requests for a stream on all cores, with all that signing takes.
func (l *line) make(ctx context.Context, o *lineOrder) error {
	stations, err := l.at(o)
	if err != nil {
		return err
	}
	each := o.Count / len(stations)
	for i, w := range stations {
		nonces, err := w.draw(ctx, o, each)
		if err != nil {
			return err
		}
		w.made = make([]made, each)
		err = onAllCores(each, func(n int) (err error) {
			w.made[n], err = request(o, o.First+i*each+n, nonces[n])
			return err
		})
		if err != nil {
			return err
		}
	}
	debug.FreeOSMemory()
	return nil
}

// draw returns a nonce for each unit, if the product's units need one.
func (w *workplace) draw(ctx context.Context, o *lineOrder, count int) ([][]byte, error) {
	if !o.Proof {
		return make([][]byte, count), nil
	}
	var all [][]byte
	for len(all) < count {
		got, err := w.link.Nonces(ctx, &format.NoncesRequest{Order: o.Order, Count: min(format.MaxNonces, count-len(all))})
		if err != nil {
			return nil, err
		}
		all = append(all, got.Nonces...)
	}
	return all, nil
}

func request(o *lineOrder, number int, nonce []byte) (made, error) {
	csr, err := newCSR()
	if err != nil {
		return made{}, err
	}
	parsed, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return made{}, err
	}
	deviceSerial := fmt.Sprintf("%s-%08d", o.Order, number)
	m := made{format.Unit{ID: deviceSerial, Order: o.Order, DeviceSerial: deviceSerial, CSR: csr}, parsed.RawSubjectPublicKeyInfo}
	if !o.Proof {
		return m, nil
	}
	chip, err := sim.NewChip(reelSeed, number)
	if err != nil {
		return made{}, err
	}
	digest := proof.Chip(nonce, o.Order, deviceSerial, m.key)
	m.unit.Chip, m.unit.Nonce = &format.Chip{UID: chip.UID}, nonce
	m.unit.Proof, err = chip.Key.Sign(rand.Reader, digest[:], nil)
	return m, err
}

// onAllCores does something n times.
func onAllCores(n int, do func(i int) error) error {
	workers := runtime.GOMAXPROCS(0)
	errs := make([]error, workers)
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for i := w; i < n && errs[w] == nil; i += workers {
				errs[w] = do(i)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// tally is what the stations saw.
type tally struct {
	mu     sync.Mutex
	took   []time.Duration
	failed int
	why    error // of the first that failed
	kept   []issued
}

// issued is a certificate that is looked at once the clock has stopped.
type issued struct {
	certificate []byte
	key         [sha256.Size]byte // of the key that it has to be for; zero: the station has looked
}

func (t *tally) pass(took time.Duration, certificate, key []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.took = append(t.took, took)
	if len(t.took)%checkEvery != 1 {
		return
	}
	one := issued{certificate: certificate}
	if key != nil {
		one.key = sha256.Sum256(key)
	}
	t.kept = append(t.kept, one)
}

func (t *tally) fail(why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed++; t.failed == 1 {
		t.why = why
	}
}

// tell takes an outcome of a line.
func (t *tally) tell(o station.Outcome) {
	t.outcome(&o, time.Duration(o.CycleMillis)*time.Millisecond)
}

func (t *tally) outcome(o *station.Outcome, took time.Duration) {
	if !o.Passed() {
		t.fail(fmt.Errorf("unit %s: %s %s %s", o.DeviceSerial, o.Code, o.Message, o.Detail))
		return
	}
	t.pass(took, o.Certificate, nil)
}

// sum verifies what was kept.
func (t *tally) sum(issuer *x509.Certificate, took time.Duration) (cell, error) {
	c := cell{Done: len(t.took), Failed: t.failed, Took: took, Checked: len(t.kept)}
	if len(t.took) == 0 {
		return c, errors.Join(errors.New("no unit passed"), t.why)
	}
	if t.why != nil {
		c.Why = t.why.Error()
	}
	for _, one := range t.kept {
		cert, err := x509.ParseCertificate(one.certificate)
		if err != nil {
			return c, err
		}
		if one.key != [sha256.Size]byte{} && sha256.Sum256(cert.RawSubjectPublicKeyInfo) != one.key {
			return c, errors.New("a certificate for another key")
		}
		if err := cert.CheckSignatureFrom(issuer); err != nil {
			return c, err
		}
	}
	slices.Sort(t.took)
	c.P50, c.P99 = t.took[len(t.took)/2], t.took[len(t.took)*99/100]
	return c, nil
}

// stream sends what was made, with many units in flight, until the time is over.
func (l *line) stream(ctx context.Context, o *lineOrder) (cell, error) {
	stations, err := l.at(o)
	if err != nil {
		return cell{}, err
	}
	var t tally
	var short atomic.Bool
	var all sync.WaitGroup
	begin := time.Now()
	for _, w := range stations {
		var next atomic.Int64
		for range o.Nests {
			all.Go(func() {
				for before := begin; ctx.Err() == nil && before.Sub(begin) < o.For; before = time.Now() {
					n := int(next.Add(1)) - 1
					if n >= len(w.made) {
						short.Store(true)
						return
					}
					w.send(ctx, &t, &w.made[n], before)
				}
			})
		}
	}
	all.Wait()
	c, err := t.sum(l.issuer, time.Since(begin))
	c.Short = short.Load()
	for _, w := range stations {
		w.made = nil
	}
	return c, err
}

func (w *workplace) send(ctx context.Context, t *tally, m *made, before time.Time) {
	result, err := w.link.Unit(ctx, &m.unit)
	switch {
	case err != nil:
		t.fail(err)
	case !result.OK:
		t.fail(fmt.Errorf("unit %s: %s %s %s", m.unit.DeviceSerial, result.Code, result.Message, result.Detail))
	default:
		t.pass(time.Since(before), result.Certificate, m.key)
	}
}

// nonceStock is how many nonces a station draws at a time at least, as many as
// birthmark-station serve does.
const nonceStock = 32

// line returns the station at work on simulated devices, as birthmark-station
// sets it up.
func (w *workplace) line(o *lineOrder, first, count int) (*station.Line, error) {
	adapter, err := sim.New(sim.Config{Seed: reelSeed, First: first, Count: count, SerialPrefix: o.Order + "-", Random: rand.Reader})
	if err != nil {
		return nil, err
	}
	return station.New(station.Config{Link: w.link, Queue: w.queue, Adapter: adapter, Now: time.Now, Ahead: max(nonceStock, 2*o.Nests)})
}

// cycle takes units from the nest to the confirmation, in all nests at once.
func (l *line) cycle(ctx context.Context, o *lineOrder) (cell, error) {
	each := o.Count / max(1, o.Stations)
	return l.work(ctx, o, each, func(_ int, at *station.Line, t *tally, _ time.Time) {
		at.Provision(ctx, station.Loop{Order: o.Order, Count: each, Nests: o.Nests, Tell: t.tell})
	})
}

// pace has each station do a unit a second.
func (l *line) pace(ctx context.Context, o *lineOrder) (cell, error) {
	each, apart := int(o.For/time.Second), time.Second/time.Duration(max(1, o.Stations))
	c, err := l.work(ctx, o, each, func(i int, at *station.Line, t *tally, begin time.Time) {
		begin = begin.Add(time.Duration(i) * apart) // stations of a line do not begin at the same moment
		for n := range each {
			if !sleepUntil(ctx, begin.Add(time.Duration(n)*time.Second)) {
				return
			}
			before := time.Now()
			outcome := at.Do(ctx, station.Job{Nest: "1", Order: o.Order})
			t.outcome(&outcome, time.Since(before))
		}
		sleepUntil(ctx, begin.Add(o.For))
	})
	c.Took -= time.Duration(o.Stations-1) * apart // each of them worked for so long
	return c, err
}

func sleepUntil(ctx context.Context, at time.Time) bool {
	select {
	case <-time.After(time.Until(at)):
		return true
	case <-ctx.Done():
		return false
	}
}

// work runs all stations at once, with chips for so many units each, and waits
// until the server has all their confirmations.
func (l *line) work(ctx context.Context, o *lineOrder, each int, run func(i int, at *station.Line, t *tally, begin time.Time)) (cell, error) {
	stations, err := l.at(o)
	if err != nil {
		return cell{}, err
	}
	lines := make([]*station.Line, len(stations))
	for i, w := range stations {
		if lines[i], err = w.line(o, o.First+i*each, each); err != nil {
			return cell{}, err
		}
		if _, err := lines[i].OrderOf(ctx, o.Order); err != nil { // asked for once a minute
			return cell{}, err
		}
	}
	var t tally
	var all sync.WaitGroup
	begin := time.Now()
	for i, at := range lines {
		all.Go(func() { run(i, at, &t, begin) })
	}
	all.Wait()
	took := time.Since(begin)
	for i, at := range lines {
		if _, err := at.Flush(ctx); err != nil {
			return cell{}, fmt.Errorf("queue of station %d: %w", i, err)
		}
	}
	return t.sum(l.issuer, took)
}

package station

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/edge/station/fixture"
	"github.com/birthmark/birthmark/internal/edge/station/queue"
	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
)

// Link is the server as the line uses it: *link.Client. A result that is not OK
// is a refusal; an error is a fault, StationLink when there was no answer.
type Link interface {
	Status(ctx context.Context) (*station.Status, error)
	Nonces(ctx context.Context, in *station.NoncesRequest) (*station.Nonces, error)
	Challenge(ctx context.Context, u *station.ChallengeRequest) (station.Result, error)
	Unit(ctx context.Context, u *station.Unit) (station.Result, error)
	Confirm(ctx context.Context, c *station.Confirm) (station.Result, error)
	Scrap(ctx context.Context, x *station.Scrap) (station.Result, error)
	Failed(ctx context.Context, f *station.Failed) (station.Result, error)
}

// Config names what a line needs and how patient it is.
type Config struct {
	Link    Link
	Queue   *queue.Queue
	Adapter fixture.Adapter
	Now     func() time.Time
	Random  io.Reader // for one-time passwords; nil: the system's
	// Attempts is how often a unit is tried when the device or fixture fails; 0: 2.
	Attempts int
	// Scrap ends a unit whose last attempt failed after it had been issued.
	Scrap bool
	// Ahead is how many nonces are drawn at a time, so that units do not wait for
	// theirs; 0: one.
	Ahead int
	// Patience is how long a unit waits for a server that does not answer; 0: 10 s.
	Patience time.Duration
	// ConfirmPatience is how long a confirmation waits before it goes to the queue; 0:
	// 5 s.
	ConfirmPatience time.Duration
}

// Line provisions units, many at once.
type Line struct {
	c      Config
	orders orders
	counts counts

	mu     sync.Mutex
	nonces map[string]*nonces // by order; guarded by mu
	units  map[string]bool    // device serials under way; guarded by mu
}

// New returns a line.
func New(c Config) (*Line, error) {
	if c.Link == nil || c.Queue == nil || c.Adapter == nil || c.Now == nil {
		return nil, errors.New("station: link, queue, adapter and clock are required")
	}
	if c.Random == nil {
		c.Random = rand.Reader
	}
	if c.Attempts <= 0 {
		c.Attempts = 2
	}
	c.Ahead = min(max(c.Ahead, 1), station.MaxNonces)
	if c.Patience <= 0 {
		c.Patience = 10 * time.Second
	}
	if c.ConfirmPatience <= 0 {
		c.ConfirmPatience = 5 * time.Second
	}
	l := &Line{c: c, nonces: map[string]*nonces{}, units: map[string]bool{}}
	l.orders = orders{link: c.Link, now: c.Now}
	return l, nil
}

// Job is a unit to be provisioned.
type Job struct {
	Nest         string
	Order        string // empty: the only open order of the station
	DeviceSerial string // empty: the device says it
	Reference    string // the MES's own name of the unit
	Rework       string // why the unit gets another identity, empty: it is its first
}

// The outcomes of a unit.
const (
	Pass   = "PASS"   // the server has the confirmation
	Queued = "QUEUED" // the confirmation is on the station's disk and goes to the server when it can
	Fail   = "FAIL"
)

// Outcome is what became of a unit: the line's one line.
type Outcome struct {
	Result       string `json:"result"`
	Nest         string `json:"nest,omitempty"`
	Order        string `json:"order,omitempty"`
	DeviceSerial string `json:"serial,omitempty"`
	Reference    string `json:"reference,omitempty"`
	Attempts     int    `json:"attempts"`
	CycleMillis  int64  `json:"cycleMillis"`
	Replayed     bool   `json:"replayed,omitempty"`
	Scrapped     bool   `json:"scrapped,omitempty"`
	Certificate  []byte `json:"certificate,omitempty"` // DER

	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
	Detail  string `json:"detail,omitempty"`
	Remedy  string `json:"remedy,omitempty"`
	Who     string `json:"who,omitempty"` // may unblock it
}

// Passed reports whether the unit may go on.
func (o *Outcome) Passed() bool { return o.Result == Pass || o.Result == Queued }

// Do provisions one unit and says what became of it.
func (l *Line) Do(ctx context.Context, job Job) Outcome {
	begin := l.c.Now()
	w := &work{l: l, job: job, begin: begin}
	err := l.hold(w)
	if err == nil {
		err = w.run(ctx)
		l.release(w)
	}
	o := Outcome{
		Nest: job.Nest, Order: w.job.Order, DeviceSerial: w.deviceSerial, Reference: job.Reference,
		Attempts: w.attempts, CycleMillis: l.c.Now().Sub(begin).Milliseconds(), Replayed: w.result.Replayed,
	}
	if o.DeviceSerial == "" {
		o.DeviceSerial = job.DeviceSerial
	}
	switch {
	case err != nil:
		o.fail(err)
		l.failed(ctx, w, &o, err)
	case w.queued:
		o.Result, o.Certificate = Queued, w.result.Certificate
		o.Message = "the identity is in the device; its confirmation waits in the queue"
	default:
		o.Result, o.Certificate = Pass, w.result.Certificate
	}
	l.counts.add(&o)
	return o
}

// refused is a refusal of the server, who names who may unblock it.
type refused struct {
	fault *fault.Error
	who   string
}

func (r *refused) Error() string { return r.fault.Error() }
func (r *refused) Unwrap() error { return r.fault }

func (o *Outcome) fail(err error) {
	f := fault.Of(err)
	o.Result = Fail
	o.Code, o.Message, o.Detail, o.Remedy, o.Who = f.Code.String(), f.Message, f.Detail, f.Remedy, f.Code.Who()
	if r, ok := errors.AsType[*refused](err); ok && r.who != "" {
		o.Who = r.who
	}
	if o.Detail == "" && (f.Code == fault.FixtureFailed || f.Code == fault.FixtureProtocol) {
		if cause := errors.Unwrap(f); cause != nil {
			o.Detail = cause.Error()
		}
	}
}

// hold keeps two nests from working on one device serial.
func (l *Line) hold(w *work) error {
	if w.job.DeviceSerial == "" {
		return nil
	}
	return w.claim(w.job.DeviceSerial)
}

func (l *Line) release(w *work) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.claimed != "" {
		delete(l.units, w.claimed)
	}
}

// failed reports an attempt that failed at the line, and scraps what is to be
// scrapped. What the server refused it has counted itself.
func (l *Line) failed(ctx context.Context, w *work, o *Outcome, err error) {
	if _, ok := errors.AsType[*refused](err); !ok && w.job.Order != "" && ctx.Err() == nil {
		l.report(ctx, &station.Failed{Order: w.job.Order, DeviceSerial: o.DeviceSerial, Code: o.Code, Detail: cut(o.Detail, 200), At: l.c.Now()})
	}
	if l.c.Scrap && w.issued() && !transient(err) {
		o.Scrapped = l.Scrap(ctx, station.Scrap{Order: w.job.Order, DeviceSerial: o.DeviceSerial, Reason: o.Code + " " + o.Message}) == nil
	}
}

// report tells the server of a failure. It is for the yield alone: where it can
// be neither sent nor kept it is forgotten.
func (l *Line) report(ctx context.Context, f *station.Failed) {
	ctx, cancel := context.WithTimeout(ctx, l.c.ConfirmPatience)
	defer cancel()
	if _, err := l.c.Link.Failed(ctx, f); err != nil && fault.Of(err).Kind == fault.Unavailable {
		_ = l.c.Queue.Append(queue.Item{Failed: f})
	}
}

// Scrap ends a unit: at the server, or in the queue while it does not answer.
// When it returns nil one of them has it.
func (l *Line) Scrap(ctx context.Context, x station.Scrap) error {
	if x.At.IsZero() {
		x.At = l.c.Now()
	}
	if !l.c.Queue.Has(x.DeviceSerial) {
		ctx, cancel := context.WithTimeout(ctx, l.c.ConfirmPatience)
		defer cancel()
		result, err := l.c.Link.Scrap(ctx, &x)
		if err == nil {
			return refusalOf(&result)
		}
		if fault.Of(err).Kind != fault.Unavailable {
			return err
		}
	}
	return l.c.Queue.Append(queue.Item{Scrap: &x})
}

// Flush sends what waits in the queue.
func (l *Line) Flush(ctx context.Context) (queue.Flushed, error) {
	return l.c.Queue.Flush(ctx, l.send)
}

func (l *Line) send(ctx context.Context, item *queue.Item) error { return Send(ctx, l.c.Link, item) }

// Send tells the server one item of the queue.
func Send(ctx context.Context, link Link, item *queue.Item) error {
	var result station.Result
	var err error
	switch {
	case item.Confirm != nil:
		result, err = link.Confirm(ctx, item.Confirm)
	case item.Scrap != nil:
		result, err = link.Scrap(ctx, item.Scrap)
	case item.Failed != nil:
		result, err = link.Failed(ctx, item.Failed)
	}
	if err != nil {
		return err
	}
	return refusalOf(&result)
}

// flushEvery is how often a running line looks whether the queue can be sent.
const flushEvery = 3 * time.Second

// Run keeps the queue moving until ctx ends.
func (l *Line) Run(ctx context.Context) {
	ticker := time.NewTicker(flushEvery)
	defer ticker.Stop()
	for {
		if n, err := l.c.Queue.Len(); err == nil && n > 0 {
			_, _ = l.Flush(ctx) // what is unheard waits for the next round
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// transient tells failures of the moment from those of the unit.
func transient(err error) bool {
	f := fault.Of(err)
	return f.Kind == fault.Unavailable && !again(f.Code) || f.Kind == fault.Exhausted || errors.Is(err, context.Canceled)
}

func cut(text string, n int) string { return text[:min(len(text), n)] }

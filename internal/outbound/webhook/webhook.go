// Package webhook tells other systems what happened at the line. There is no
// outbox: the ledger is one, in commit order on all nodes, so each webhook is a
// cursor into it. One node has the lease and follows every webhook's cursor; it
// sends the events that the webhook wants, signed, and moves the cursor once the
// receiver has taken them. What was sent twice has the same id; nothing is
// skipped and nothing overtakes. An operator may set a cursor back, and then it
// is all told again.
package webhook

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// Store is what delivering needs of the record. Contracts as in factory.Store,
// ledger.Store and device.Store.
type Store interface {
	Webhooks(ctx context.Context) ([]factory.Webhook, error)
	MoveCursor(ctx context.Context, id, from, to int64, failure string) error
	LedgerSize(ctx context.Context) (int64, error)
	LedgerBatches(ctx context.Context, from int64, mask ledger.Class, limit int) ([]ledger.Batch, error)
	AcquireLease(ctx context.Context, job, node string, ttlSeconds int) (l ledger.Lease, ok bool, err error)
	Names
}

// Names are what events are told by besides numbers.
type Names interface {
	Order(ctx context.Context, s access.Scope, id int64) (factory.Order, error)
	Station(ctx context.Context, s access.Scope, id int64) (factory.Station, error)
	Device(ctx context.Context, s access.Scope, id device.ID) (device.Device, error)
	Credential(ctx context.Context, s access.Scope, id device.CredentialID) (device.Credential, error)
}

// Sender sends a body to a URL; an answer other than 2xx is an error.
// egress.Guard is one.
type Sender interface {
	Post(ctx context.Context, to string, header http.Header, body io.Reader) error
}

// Config names what a Deliverer needs. All but Pause and Retry are required.
type Config struct {
	Store  Store
	Sender Sender
	// Secret opens the key of a webhook's signatures.
	Secret func(*factory.Webhook) ([]byte, error)
	Node   string
	Now    func() time.Time
	Logger *slog.Logger
	// Pause is how often to look without a hint that something happened; default
	// one second.
	Pause time.Duration
	// Retry is the first pause after a failure; it doubles up to 300 times
	// that. Default one second.
	Retry time.Duration
}

// FollowedClasses are the classes of the change feed that hold events.
const FollowedClasses = ledger.ClassFactory | ledger.ClassControl

// Deliverer sends events.
type Deliverer struct {
	cfg Config

	mu      sync.Mutex
	changed chan struct{} // closed by the next event; guarded by mu
}

// New returns a Deliverer.
func New(c Config) (*Deliverer, error) {
	if c.Store == nil || c.Sender == nil || c.Secret == nil || c.Node == "" || c.Now == nil || c.Logger == nil {
		return nil, errors.New("webhook: store, sender, secrets, node, clock and logger are required")
	}
	if c.Pause <= 0 {
		c.Pause = time.Second
	}
	if c.Retry <= 0 {
		c.Retry = time.Second
	}
	return &Deliverer{cfg: c, changed: make(chan struct{})}, nil
}

// Follow is the hint of the change feed that there may be something to send.
func (d *Deliverer) Follow(context.Context, ledger.Batch) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.changed)
	d.changed = make(chan struct{})
	return nil
}

func (d *Deliverer) next() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed
}

const (
	leaseSeconds = 30
	job          = "webhooks"
	// gather is how long events are gathered after a hint: a busy line makes
	// hundreds a second, and a request each would be slow.
	gather = 50 * time.Millisecond
	// mostRetries bounds the pause between two tries, in first pauses.
	mostRetries = 300
)

// Run delivers until the context ends. All nodes run it; the one with the lease
// sends.
func (d *Deliverer) Run(ctx context.Context) error {
	crew := crew{d: d, running: map[int64]*runner{}}
	defer crew.dismiss()
	var asked time.Time // for the lease
	leading := false
	for {
		rows, err := d.cfg.Store.Webhooks(ctx)
		if err == nil && len(rows) > 0 && d.cfg.Now().Sub(asked).Abs() > leaseSeconds*time.Second/3 {
			asked = d.cfg.Now()
			_, leading, err = d.cfg.Store.AcquireLease(ctx, job, d.cfg.Node, leaseSeconds)
			leading = leading && err == nil
		}
		switch {
		case !leading:
			crew.dismiss()
		case err == nil:
			crew.muster(ctx, rows)
		}
		if !wait(ctx, d.cfg.Pause, nil) {
			return nil
		}
	}
}

// wait waits for a time or a sign; it reports false when the context ended.
func wait(ctx context.Context, pause time.Duration, sign <-chan struct{}) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-sign:
	}
	return true
}

// crew is a runner for each webhook, so that a receiver that is slow or down
// keeps no other waiting.
type crew struct {
	d       *Deliverer
	running map[int64]*runner
	group   sync.WaitGroup
}

// muster starts and ends runners so that each webhook has one.
func (c *crew) muster(ctx context.Context, rows []factory.Webhook) {
	for id, r := range c.running {
		i := slices.IndexFunc(rows, func(w factory.Webhook) bool { return w.ID == id })
		switch {
		case i < 0 || rows[i].Disabled:
			r.stop()
			<-r.done
			delete(c.running, id)
		case !rows[i].ChangedAt.Equal(r.changedAt):
			// What was changed is tried at once. A request that is under way ends first:
			// two at a time would be out of order.
			r.changedAt = rows[i].ChangedAt
			select {
			case r.again <- struct{}{}:
			default:
			}
		}
	}
	for i := range rows {
		if c.running[rows[i].ID] != nil || rows[i].Disabled {
			continue
		}
		own, stop := context.WithCancel(ctx)
		r := &runner{d: c.d, id: rows[i].ID, changedAt: rows[i].ChangedAt, stop: stop, done: make(chan struct{}), again: make(chan struct{}, 1)}
		c.running[r.id] = r
		c.group.Go(func() {
			defer close(r.done)
			r.run(own)
		})
	}
}

// dismiss ends all runners.
func (c *crew) dismiss() {
	for _, r := range c.running {
		r.stop()
	}
	c.group.Wait()
	clear(c.running)
}

// runner follows one webhook's cursor.
type runner struct {
	d         *Deliverer
	id        int64
	changedAt time.Time // of the crew
	stop      context.CancelFunc
	done      chan struct{}
	again     chan struct{} // the webhook was changed: a pause ends

	begun  bool
	stored int64 // the cursor on record, as far as this runner knows
	cursor int64 // everything below was sent or is not wanted; at least stored
	failed string
}

// run sends until the context ends.
func (r *runner) run(ctx context.Context) {
	pause := r.d.cfg.Retry
	for {
		sign := r.d.next()
		more, err := r.step(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			if !wait(ctx, pause, r.again) {
				return
			}
			pause = min(2*pause, mostRetries*r.d.cfg.Retry)
			continue
		}
		pause = r.d.cfg.Retry
		if more {
			continue
		}
		if !wait(ctx, r.d.cfg.Pause, sign) || !wait(ctx, gather, nil) {
			return
		}
	}
}

const (
	// mostEvents is how many events one request carries.
	mostEvents = 100
	// page is how many ledger entries are looked at in one step.
	page = 4096
)

// step sends the next events, at most mostEvents, and reports whether there may
// be more. An error means that they were not taken.
func (r *runner) step(ctx context.Context) (more bool, err error) {
	row, err := r.row(ctx)
	if err != nil || row == nil {
		return false, err
	}
	size, err := r.d.cfg.Store.LedgerSize(ctx)
	if err != nil || r.cursor >= size {
		return false, err
	}
	batches, err := r.d.cfg.Store.LedgerBatches(ctx, r.cursor, FollowedClasses, page)
	if err != nil {
		return false, err
	}
	events, next, err := r.d.collect(ctx, batches, r.cursor, row)
	if err != nil {
		return false, err
	}
	if next <= r.cursor {
		return false, fault.New(fault.LedgerBroken)
	}
	if len(events) == 0 {
		return next < size, r.pass(ctx, next)
	}
	if err := r.d.send(ctx, row, events); err != nil {
		if ctx.Err() == nil {
			r.fail(ctx, row, err)
		}
		return false, err
	}
	if err := r.d.cfg.Store.MoveCursor(ctx, r.id, r.stored, next, ""); err != nil {
		return false, err // it will be sent again, with the same ids
	}
	if r.failed != "" {
		r.d.cfg.Logger.Info("a webhook is delivered again", "webhook", row.Name)
	}
	r.stored, r.cursor, r.failed = next, next, ""
	return next < size, nil
}

// row reads the webhook's row. A cursor that is not where this runner left it
// was moved by an operator, who wants to hear all from there.
func (r *runner) row(ctx context.Context) (*factory.Webhook, error) {
	rows, err := r.d.cfg.Store.Webhooks(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(rows, func(w factory.Webhook) bool { return w.ID == r.id })
	if i < 0 || rows[i].Disabled {
		return nil, nil
	}
	row := &rows[i]
	if !r.begun || row.Cursor != r.stored {
		r.begun, r.stored, r.cursor, r.failed = true, row.Cursor, row.Cursor, row.Failure
	}
	return row, nil
}

// pass moves on over entries that nobody wants. That is put on record now and
// then only; a restart looks at them again.
func (r *runner) pass(ctx context.Context, next int64) error {
	r.cursor = next
	if next-r.stored < 4*page {
		return nil
	}
	if err := r.d.cfg.Store.MoveCursor(ctx, r.id, r.stored, next, r.failed); err != nil {
		return err
	}
	r.stored = next
	return nil
}

// fail notes the newest failure where operators see it.
func (r *runner) fail(ctx context.Context, row *factory.Webhook, err error) {
	text := err.Error()
	text = text[:min(len(text), 200)]
	if text == r.failed {
		return
	}
	r.d.cfg.Logger.Warn("a webhook cannot be delivered; it will be tried again", "webhook", row.Name, "error", text)
	if r.d.cfg.Store.MoveCursor(ctx, r.id, r.stored, r.stored, text) == nil {
		r.failed = text
	}
}

package enroll

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// refusal is evidence that was refused, of a requester who is known.
type refusal struct {
	actor    string
	body     ledger.RefusedEvidence
	err      error
	hardware *hardware // what is known of the TPM; may be nil
}

func refusedDevice(d *decision, err error) *refusal {
	dev := &d.requester.device
	return &refusal{
		actor: deviceActor(dev.ID), err: err, hardware: d.hardware,
		body: ledger.RefusedEvidence{Device: int64(dev.ID), DeviceSerial: dev.DeviceSerial},
	}
}

func refusedUnit(a *attempt, err error) *refusal {
	r := &refusal{
		actor: stationActor(a.station), err: err, hardware: a.hardware,
		body: ledger.RefusedEvidence{DeviceSerial: a.unit.DeviceSerial, Order: a.order.ID, Station: a.station.ID},
	}
	if a.device != nil {
		r.body.Device = int64(a.device.ID)
	}
	return r
}

// wrongAnswer reports whether a refusal is about what a device answered. It burns
// the challenge, which gets one try.
func wrongAnswer(c fault.Code) bool {
	return c == fault.AttestMalformed || c >= fault.ActivationWrong && c <= fault.EventLogMismatch
}

// ofEvidence reports whether a refusal is about evidence, so that it has a leaf.
func ofEvidence(c fault.Code) bool {
	return c >= fault.EvidenceMissing && c <= fault.TPMChanged ||
		slices.Contains([]fault.Code{fault.ChipUsed, fault.ChipWithdrawn, fault.ChipOtherOrder, fault.ChipOtherProduct}, c)
}

// refuse puts down that an answer was refused and returns why. A wrong answer
// burns its challenge in the same write; whoever answers a burned one is told so.
func (e *Enroller) refuse(ctx context.Context, r *refusal) error {
	f := fault.Of(r.err)
	if r.hardware == nil || r.hardware.ticket == nil || !wrongAnswer(f.Code) {
		e.recordRefusal(ctx, r)
		return r.err
	}
	ctx = context.WithoutCancel(ctx) // who hangs up does not get a second try
	err := e.attest.Store.SpendTicket(ctx, r.hardware.ticket.ref, r.entry(f, e.now()))
	if fault.Has(err, fault.TicketUsed) {
		return err
	}
	if err != nil {
		e.log.ErrorContext(ctx, "a challenge that was answered wrong was not burned", "error", err)
	}
	e.answers.take(r.asker(), e.now())
	return r.err
}

// maxRecording is how many refusals are being written at once, and quietFor how
// long the same refusal of the same device is not written again: what a flood
// makes of them is in the log and the counters.
const (
	maxRecording = 16
	quietFor     = time.Minute
	maxQuiet     = 4096
)

// recordRefusal writes the leaf of refused evidence, unless there are too many.
func (e *Enroller) recordRefusal(ctx context.Context, r *refusal) {
	f := fault.Of(r.err)
	if !ofEvidence(f.Code) || !e.quiet.allow(quietKey{r.actor, r.body.DeviceSerial, f.Code}, e.now()) {
		return
	}
	if !e.refusals.take(r.asker(), e.now()) { // a station names as many serials as it likes
		e.log.WarnContext(ctx, "too much evidence of one requester is refused", "fault", f.Code.String(), "requester", r.actor)
		return
	}
	select {
	case e.recording <- struct{}{}:
	default:
		e.log.WarnContext(ctx, "too much evidence is refused at once", "fault", f.Code.String(), "requester", r.actor)
		return
	}
	defer func() { <-e.recording }()
	if err := e.attest.Store.Record(context.WithoutCancel(ctx), r.entry(f, e.now())); err != nil {
		e.log.ErrorContext(ctx, "refused evidence was not recorded", "fault", f.Code.String(), "error", err)
	}
}

func (r *refusal) entry(f *fault.Error, at time.Time) ledger.Entry {
	r.body.Code, r.body.Detail = f.Code.String(), f.Detail
	if r.hardware != nil && r.hardware.tpm != nil {
		r.body.EK = r.hardware.tpm.EK
	}
	return ledger.Entry{Kind: ledger.EvidenceRefused, At: at, Actor: r.actor, Body: &r.body}
}

// quietKey is a refusal as one that was written before.
type quietKey struct {
	actor, deviceSerial string
	code                fault.Code
}

// quiet remembers what was written a moment ago.
type quiet struct {
	mu      sync.Mutex
	written map[quietKey]time.Time // guarded by mu
}

func (q *quiet) allow(k quietKey, now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if age := now.Sub(q.written[k]); age >= 0 && age < quietFor {
		return false
	}
	if q.written == nil || len(q.written) >= maxQuiet {
		q.written = make(map[quietKey]time.Time)
	}
	q.written[k] = now
	return true
}

// claimed is the TPM of a claim that was not believed: the EK that was shown, for
// the record.
func claimed(c *wire.Claim) *tpm.TPM {
	x := new(tpm.TPM)
	if public, err := wire.ParsePublic(c.EKPublic); err == nil {
		x.EK = sha256.Sum256(public.SPKI)
	}
	return x
}

// alarmDevice raises what a refusal of a device's evidence tells of somebody who
// must look at it.
func (e *Enroller) alarmDevice(ctx context.Context, d *decision, err error) {
	if e.line == nil || !fault.Has(err, fault.TPMOfOther) && !fault.Has(err, fault.ChipUsed) {
		return
	}
	dev := &d.requester.device
	x := factory.Alarm{Kind: factory.AlarmChipReused, Key: dev.DeviceSerial, Product: dev.Product, Site: dev.Site}
	x.Message = "the TPM of another device was shown by " + dev.DeviceSerial
	if d.hardware != nil && d.hardware.tpm != nil {
		x.Key = "tpm/" + spkiText(d.hardware.tpm.EK)
	}
	e.raise(ctx, deviceActor(dev.ID), x)
}

// chipFitsDevice says why a device that asks for itself may not have a chip: there
// is no production order behind it.
func chipFitsDevice(d *decision, c *factory.Chip) error {
	dev := &d.requester.device
	switch {
	case c.State == factory.ChipWithdrawn:
		return fault.New(fault.ChipWithdrawn, c.UID)
	case c.State == factory.ChipUsed && c.Device != dev.ID:
		return fault.New(fault.ChipUsed, c.UID)
	case c.State == factory.ChipAllotted:
		return fault.New(fault.ChipOtherOrder, c.UID)
	case c.Product != 0 && c.Product != dev.Product:
		return fault.New(fault.ChipOtherProduct, c.UID, "is a", c.ChipType)
	case len(d.product.ChipTypes) > 0 && !slices.Contains(d.product.ChipTypes, c.ChipType):
		return fault.New(fault.ChipOtherProduct, c.UID, "is a", c.ChipType)
	}
	return nil
}

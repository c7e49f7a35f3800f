package station

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/edge/refusal"
	"github.com/birthmark/birthmark/internal/edge/station/fixture"
	"github.com/birthmark/birthmark/internal/edge/station/link"
	"github.com/birthmark/birthmark/internal/edge/station/queue"
	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/proof"
	"github.com/birthmark/birthmark/internal/format/station"
)

// The key models, as products name them.
const (
	onDevice    = "on-device"
	provisioned = "pre-provisioned"
	adopted     = "adopted"
	injected    = "injected"
)

// work is one unit under way. An attempt goes on where the one before failed:
// what the server has issued is not asked for again.
type work struct {
	l     *Line
	job   Job
	begin time.Time

	attempts     int
	order        *station.Order
	claimed      string // device serial that is held
	deviceSerial string
	spki         []byte         // the key that gets the certificate; empty while it is not known
	password     string         // of an injected key
	form         string         // of an injected key
	result       station.Result // what was issued
	queued       bool
}

func (w *work) issued() bool { return w.result.Certificate != nil }

// claim takes a device serial for this unit alone.
func (w *work) claim(deviceSerial string) error {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	if w.l.units[deviceSerial] {
		return fault.New(fault.UnitState, "another nest is at work on", deviceSerial)
	}
	w.l.units[deviceSerial] = true
	w.claimed = deviceSerial
	return nil
}

// run tries the unit until it is through or fails for good.
func (w *work) run(ctx context.Context) error {
	patience := newPatience(w.l.c.Now, w.l.c.Patience)
	if err := w.findOrder(ctx, patience); err != nil {
		return err
	}
	var err error
	stale := 0
	for {
		w.attempts++
		err = w.attempt(ctx)
		switch f := fault.Of(err); {
		case err == nil || ctx.Err() != nil:
			return err
		case f.Kind == fault.Unavailable && !again(f.Code):
			w.attempts--
			if !patience.wait(ctx) {
				return err
			}
		case staleNonce(f.Code) && stale < 3:
			stale++
			w.attempts--
			w.l.nonceStore(w.job.Order).forget()
		case !again(f.Code) || w.attempts >= w.l.c.Attempts:
			return err
		}
	}
}

func (w *work) findOrder(ctx context.Context, patience *patience) (err error) {
	for {
		if w.order, err = w.l.orders.find(ctx, w.job.Order); err == nil {
			w.job.Order = w.order.Number
			return nil
		}
		if fault.Of(err).Kind != fault.Unavailable || !patience.wait(ctx) {
			return err
		}
	}
}

// staleNonce reports whether another nonce, or another challenge, is all it takes.
func staleNonce(c fault.Code) bool {
	switch c {
	case fault.NonceUsed, fault.NonceExpired, fault.NonceInvalid, fault.TicketUsed, fault.TicketExpired, fault.TicketInvalid:
		return true
	}
	return false
}

// again reports whether another attempt may succeed.
func again(c fault.Code) bool {
	switch c {
	case fault.FixtureFailed, fault.FixtureProtocol, fault.ReadBackWrong, fault.ChipProof,
		fault.TPMUnreachable, fault.TPMFailed, fault.TokenMissing, fault.TokenSessions, fault.TokenFailed:
		return true
	}
	return false
}

// attempt takes the unit through all steps that are not done yet.
func (w *work) attempt(ctx context.Context) (err error) {
	known := w.job.DeviceSerial
	if known == "" {
		known = w.deviceSerial // said in an attempt before
	}
	unit, err := w.l.c.Adapter.Open(ctx, fixture.Job{
		Nest: w.job.Nest, Order: w.job.Order, DeviceSerial: known, KeyModel: w.order.KeyModel,
	})
	if err != nil {
		return atDevice(err)
	}
	defer func() {
		if cause := unit.Close(err == nil); cause != nil && err == nil {
			err = atDevice(cause)
		}
	}()
	if !w.issued() {
		if err := w.issue(ctx, unit); err != nil {
			return err
		}
	}
	c, err := w.place(ctx, unit)
	if err != nil {
		return err
	}
	return w.confirm(ctx, c)
}

// place writes what was issued into the device and lets it confirm what it holds.
func (w *work) place(ctx context.Context, unit fixture.Unit) (*station.Confirm, error) {
	if w.order.KeyModel != adopted {
		err := unit.Install(ctx, fixture.Credential{
			Certificate: w.result.Certificate, Chain: w.result.Chain,
			Wrapped: w.result.Wrapped, Form: w.form, Password: w.password,
		})
		if err != nil {
			return nil, atDevice(err)
		}
	}
	held, err := unit.ReadBack(ctx)
	if err != nil {
		return nil, atDevice(err)
	}
	if !bytes.Equal(held, w.result.Certificate) {
		return nil, fault.New(fault.ReadBackWrong, "the certificate differs")
	}
	signature, err := unit.Confirm(ctx, fixture.Statement{
		Digest: proof.Confirm(w.result.ConfirmNonce, w.deviceSerial, held),
		Nonce:  w.result.ConfirmNonce, DeviceSerial: w.deviceSerial, Certificate: held,
	})
	if err != nil {
		return nil, atDevice(err)
	}
	return &station.Confirm{ID: w.deviceSerial, Order: w.job.Order, DeviceSerial: w.deviceSerial, Certificate: held, Signature: signature}, nil
}

// issue asks who is there and gets a certificate for it.
func (w *work) issue(ctx context.Context, unit fixture.Unit) error {
	id, err := unit.Identify(ctx)
	if err != nil {
		return atDevice(err)
	}
	if err := w.recognize(&id); err != nil {
		return err
	}
	in := &station.Unit{ID: w.deviceSerial, Order: w.job.Order, DeviceSerial: w.deviceSerial, Reference: w.job.Reference}
	if w.job.Rework != "" {
		in.Rework = &station.Rework{Reason: w.job.Rework}
	}
	if err := w.key(ctx, unit, &id, in); err != nil {
		return err
	}
	result, err := w.l.c.Link.Unit(ctx, in)
	if err != nil {
		return err
	}
	if err := refusalOf(&result); err != nil {
		return err
	}
	if err := w.check(&result); err != nil {
		return err
	}
	w.result = result
	return nil
}

// recognize settles which unit is in the nest.
func (w *work) recognize(id *fixture.Identity) error {
	switch {
	case id.DeviceSerial == "" && w.job.DeviceSerial == "":
		return fault.New(fault.FixtureProtocol, "neither the line nor the device says the device serial")
	case id.DeviceSerial != "" && w.job.DeviceSerial != "" && id.DeviceSerial != w.job.DeviceSerial:
		return fault.New(fault.FixtureFailed, "the device says that it is", refusal.Printable(id.DeviceSerial))
	}
	w.deviceSerial = w.job.DeviceSerial
	if w.deviceSerial != "" {
		return nil
	}
	w.deviceSerial = id.DeviceSerial
	if w.claimed == w.deviceSerial {
		return nil
	}
	if w.claimed != "" {
		return fault.New(fault.FixtureFailed, "the device was", w.claimed, "and now says that it is", refusal.Printable(id.DeviceSerial))
	}
	return w.claim(w.deviceSerial)
}

// key fills in what the product's key model needs.
func (w *work) key(ctx context.Context, unit fixture.Unit, id *fixture.Identity, in *station.Unit) error {
	switch w.order.KeyModel {
	case onDevice:
		csr, err := unit.Request(ctx)
		if err != nil {
			return atDevice(err)
		}
		if w.spki, err = requestKey(csr); err != nil {
			return fault.Wrap(fault.FixtureProtocol, err, "the device's certificate request")
		}
		in.CSR = csr
		if attester, ok := unit.(fixture.Attester); ok {
			return w.attest(ctx, attester, in)
		}
		if !w.order.Proof {
			return nil
		}
		return w.prove(ctx, unit, id, in)
	case provisioned, adopted:
		if len(id.SPKI) == 0 {
			return fault.New(fault.FixtureProtocol, "the device does not name its chip's public key")
		}
		w.spki = id.SPKI
		return w.prove(ctx, unit, id, in)
	case injected:
		w.spki = nil // nobody but the server knows it
		w.form, in.Recipient = fixture.FormCMS, id.Recipient
		if len(id.Recipient) == 0 {
			var secret [24]byte
			if _, err := io.ReadFull(w.l.c.Random, secret[:]); err != nil {
				return err
			}
			w.form, w.password = fixture.FormPKCS12, base64.RawURLEncoding.EncodeToString(secret[:])
		}
		in.Form, in.Password = w.form, w.password
		return nil
	}
	return fault.New(fault.KeyModel, "the order's product has key model", refusal.Printable(w.order.KeyModel))
}

// attest lets the device's TPM answer a challenge of the server.
func (w *work) attest(ctx context.Context, device fixture.Attester, in *station.Unit) error {
	claim, err := device.Claim(ctx)
	if err != nil {
		return atDevice(err)
	}
	result, err := w.l.c.Link.Challenge(ctx, &station.ChallengeRequest{
		ID: w.deviceSerial, Order: w.job.Order, DeviceSerial: w.deviceSerial, Claim: claim,
	})
	if err != nil {
		return err
	}
	if err := refusalOf(&result); err != nil {
		return err
	}
	if result.Challenge == nil {
		return fault.New(fault.StationLink, "the server's answer lacks the challenge")
	}
	if in.TPM, err = device.Answer(ctx, result.Challenge); err != nil {
		return atDevice(err)
	}
	return nil
}

// prove lets the chip sign for the request. A chip that proves nothing is not
// named to the server.
func (w *work) prove(ctx context.Context, unit fixture.Unit, id *fixture.Identity, in *station.Unit) error {
	if id.ChipUID == "" {
		return fault.New(fault.ChipProofMissing, "the device names no chip")
	}
	in.Chip = &station.Chip{Vendor: id.ChipVendor, UID: id.ChipUID, Slot: id.ChipSlot}
	held := w.order.KeyModel != onDevice
	nonce, err := w.l.nonceStore(w.job.Order).take(ctx)
	if err != nil {
		return err
	}
	s := fixture.Statement{Held: held, Nonce: nonce, Order: w.job.Order, DeviceSerial: w.deviceSerial, SPKI: w.spki}
	if held {
		s.Digest = proof.Held(nonce, s.Order, s.DeviceSerial, s.SPKI)
	} else {
		s.Digest = proof.Chip(nonce, s.Order, s.DeviceSerial, s.SPKI)
	}
	signature, err := unit.Prove(ctx, s)
	if err != nil {
		return atDevice(err)
	}
	in.Nonce, in.Proof = nonce, signature
	return nil
}

// check looks whether what was issued is for this unit's key. The rest is the
// server's affair, and the reader's of the certificate.
func (w *work) check(r *station.Result) error {
	issued, err := certificateKey(r.Certificate)
	if err != nil {
		return fault.Wrap(fault.StationLink, err, "the server sent what is not a certificate")
	}
	if len(w.spki) > 0 && !bytes.Equal(issued, w.spki) {
		return fault.New(fault.ReadBackWrong, "the server sent a certificate for another key")
	}
	if len(r.ConfirmNonce) == 0 || w.order.KeyModel == injected && len(r.Wrapped) == 0 {
		return fault.New(fault.StationLink, "the server's answer lacks a part")
	}
	w.spki = issued
	return nil
}

// confirm tells the server what the device has, or the queue when the server does
// not answer. Only what one of them has is a pass.
func (w *work) confirm(ctx context.Context, c *station.Confirm) error {
	c.CycleMillis = max(1, w.l.c.Now().Sub(w.begin).Milliseconds())
	c.FirstPass = w.attempts == 1 && w.job.Rework == ""
	if !w.l.c.Queue.Has(w.deviceSerial) {
		ctx, cancel := context.WithTimeout(ctx, w.l.c.ConfirmPatience)
		defer cancel()
		result, err := w.l.c.Link.Confirm(ctx, c)
		if err == nil {
			err = refusalOf(&result)
		}
		if err == nil || fault.Of(err).Kind != fault.Unavailable {
			return err
		}
	}
	// The server would find a wrong signature only after the unit has gone.
	digest := proof.Confirm(w.result.ConfirmNonce, w.deviceSerial, c.Certificate)
	if err := proof.Verify(w.spki, digest, c.Signature, fault.ReadBackWrong); err != nil {
		return err
	}
	if err := w.l.c.Queue.Append(queue.Item{Confirm: c}); err != nil {
		return err
	}
	w.queued = true
	return nil
}

// atDevice makes an adapter's error a fault.
func atDevice(err error) error {
	if f := fault.Of(err); f.Code != fault.Unexpected {
		return f
	}
	return fault.Wrap(fault.FixtureFailed, err, refusal.Printable(err.Error()))
}

// refusalOf returns the fault that a result is, with who may unblock it.
func refusalOf(r *station.Result) error {
	f := link.Fault(r)
	if f == nil {
		return nil
	}
	return &refused{fault: f, who: refusal.Printable(r.Who)}
}

// requestKey returns the public key of a PKCS #10 request (RFC 2986): DER
// SubjectPublicKeyInfo.
func requestKey(der []byte) ([]byte, error) {
	in := cryptobyte.String(der)
	var csr, info, spki cryptobyte.String
	if !in.ReadASN1(&csr, asn1.SEQUENCE) || !in.Empty() || !csr.ReadASN1(&info, asn1.SEQUENCE) ||
		!info.SkipASN1(asn1.INTEGER) || !info.SkipASN1(asn1.SEQUENCE) || !info.ReadASN1Element(&spki, asn1.SEQUENCE) {
		return nil, fmt.Errorf("not a PKCS #10 request")
	}
	return spki, nil
}

// certificateKey returns the public key of a certificate (RFC 5280, section
// 4.1): DER SubjectPublicKeyInfo.
func certificateKey(der []byte) ([]byte, error) {
	in := cryptobyte.String(der)
	var cert, tbs, spki cryptobyte.String
	if !in.ReadASN1(&cert, asn1.SEQUENCE) || !in.Empty() || !cert.ReadASN1(&tbs, asn1.SEQUENCE) ||
		!tbs.SkipOptionalASN1(asn1.Tag(0).ContextSpecific().Constructed()) || !tbs.SkipASN1(asn1.INTEGER) ||
		!tbs.SkipASN1(asn1.SEQUENCE) || !tbs.SkipASN1(asn1.SEQUENCE) || !tbs.SkipASN1(asn1.SEQUENCE) ||
		!tbs.SkipASN1(asn1.SEQUENCE) || !tbs.ReadASN1Element(&spki, asn1.SEQUENCE) {
		return nil, fmt.Errorf("not a certificate")
	}
	return spki, nil
}

// patience waits longer each time, up to a second, and for so long in all.
type patience struct {
	now   func() time.Time
	until time.Time
	next  time.Duration
}

func newPatience(now func() time.Time, d time.Duration) *patience {
	return &patience{now: now, until: now().Add(d), next: 50 * time.Millisecond}
}

// wait reports whether there is still time to try again.
func (p *patience) wait(ctx context.Context) bool {
	if !p.now().Add(p.next).Before(p.until) {
		return false
	}
	var b [1]byte
	_, _ = rand.Read(b[:]) // so that the nests do not come back all at once
	t := time.NewTimer(p.next + p.next*time.Duration(b[0])/512)
	defer t.Stop()
	p.next = min(2*p.next, time.Second)
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

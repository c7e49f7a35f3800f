package enroll

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/pki/chain"
	"github.com/birthmark/birthmark/internal/pki/issuing"
	"github.com/birthmark/birthmark/internal/pki/profile"
	"github.com/birthmark/birthmark/internal/pki/request"
)

// Devices is what the enroller needs of the register. Contracts as in
// device.Store.
type Devices interface {
	DeviceID(deviceSerial string) device.ID
	Device(ctx context.Context, s access.Scope, id device.ID) (device.Device, error)
	Credential(ctx context.Context, s access.Scope, id device.CredentialID) (device.Credential, error)
	CredentialBySerial(ctx context.Context, s access.Scope, certSerial []byte) (device.Credential, error)
	CredentialBySPKI(ctx context.Context, s access.Scope, spkiDigest [32]byte) (device.Credential, error)
	Confirm(ctx context.Context, c device.Confirmation, entries ...ledger.Entry) error
	StoreIssuance(ctx context.Context, i device.Issuance) (device.Credential, error)
}

// Authorities gives the control plane with opened keys and compiled profiles.
type Authorities interface {
	// Snapshot returns the current view; it costs a pointer read.
	Snapshot(ctx context.Context) (*authority.Snapshot, error)
	// RefreshAfter returns a view of a newer epoch than this one, or the newest
	// there is.
	RefreshAfter(ctx context.Context, epoch int64) (*authority.Snapshot, error)
	// NextSerial hands out a certificate serial that is on record already and
	// is never handed out again.
	NextSerial(ctx context.Context) (authority.LeasedSerial, error)
}

// Approvals keeps requests that wait for an operator.
type Approvals interface {
	AddApproval(ctx context.Context, a access.Approval, entries ...ledger.Entry) (id int64, err error)
	ApprovalByDigest(ctx context.Context, digest [32]byte) (access.Approval, error)
}

// Config names what an Enroller needs. All fields but Line and Attest are required.
type Config struct {
	Devices     Devices
	Authorities Authorities
	Approvals   Approvals
	// MayIssue refuses while nothing may be issued at all: the clock is wrong,
	// the ledger's checkpoints are stalled.
	MayIssue func() error
	Now      func() time.Time
	Logger   *slog.Logger
	// Line is what production lines need; nil: there are none, and stations are
	// refused.
	Line *Line
	// Attest is what evidence by TPMs needs; nil: none is taken.
	Attest *Attest
}

// Enroller decides and issues.
type Enroller struct {
	devices     Devices
	authorities Authorities
	approvals   Approvals
	mayIssue    func() error
	now         func() time.Time
	log         *slog.Logger
	verifier    *chain.Verifier
	line        *Line
	trust       atomic.Pointer[trust] // pools of the newest snapshot
	sessions    sessions
	blocks      blocks
	refreshes   refreshes
	raising     chan struct{} // a token for each alarm that is being written
	attest      *attesting    // nil: TPMs show nothing
	recording   chan struct{} // a token for each refusal that is being written
	quiet       quiet
	answers     wrongs // wrong ones
	refusals    wrongs // on record
}

// New returns an Enroller.
func New(c Config) (*Enroller, error) {
	if c.Devices == nil || c.Authorities == nil || c.Approvals == nil || c.MayIssue == nil || c.Now == nil || c.Logger == nil {
		return nil, errors.New("enroll: every field of Config but Line and Attest is required")
	}
	if err := c.Line.check(); err != nil {
		return nil, err
	}
	verifier, err := chain.NewVerifier(chain.Config{})
	if err != nil {
		return nil, err
	}
	attesting, err := newAttesting(c.Attest)
	if err != nil {
		return nil, err
	}
	return &Enroller{
		devices: c.Devices, authorities: c.Authorities, approvals: c.Approvals,
		mayIssue: c.MayIssue, now: c.Now, log: c.Logger, verifier: verifier, line: c.Line,
		raising: make(chan struct{}, maxRaising), attest: attesting, recording: make(chan struct{}, maxRecording),
	}, nil
}

// decideTries bounds how often a decision is made anew because the record
// changed under it.
const decideTries = 6

// Enroll answers one request; see Service.
func (e *Enroller) Enroll(ctx context.Context, r Request) (*Response, error) {
	if err := e.mayIssue(); err != nil {
		return nil, err
	}
	plane, err := e.authorities.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	var csr *request.Request
	for range decideTries {
		q, err := e.authenticate(ctx, plane, &r)
		if err != nil {
			return nil, err
		}
		if csr == nil { // after authentication: a stranger does not make us check signatures
			if csr, err = e.parse(ctx, &r); err != nil {
				return nil, err
			}
		}
		d := &decision{requester: q, epoch: plane.Epoch}
		err = e.decide(ctx, plane, &r, d, csr)
		if newer := e.afterRefusal(ctx, plane, err); newer != nil {
			plane = newer
			continue
		}
		if err != nil && !errors.Is(err, device.ErrStale) {
			return nil, e.refuseDevice(ctx, &r, d, err)
		}
		if d.replay != nil {
			return e.respond(d, *d.replay, true), nil
		}
		var stored device.Credential
		if err == nil {
			stored, err = e.issue(ctx, d, csr)
		}
		if err == nil {
			return e.respond(d, stored, false), nil
		}
		if conflict, ok := errors.AsType[*device.KeyConflict](err); ok {
			return e.resolve(d, csr, &conflict.Existing)
		}
		if !errors.Is(err, device.ErrStale) {
			if e.answeredBefore(ctx, d, csr, err) {
				return e.respond(d, *d.replay, true), nil
			}
			return nil, e.refuseDevice(ctx, &r, d, err)
		}
		if plane, err = e.authorities.RefreshAfter(ctx, plane.Epoch); err != nil {
			return nil, err
		}
	}
	return nil, fault.New(fault.IssuanceBusy)
}

// afterRefusal returns a newer view of the control plane if err may come from
// an old one: what another node added a moment ago is not refused here. It
// returns nil when the refusal stands.
func (e *Enroller) afterRefusal(ctx context.Context, plane *authority.Snapshot, err error) *authority.Snapshot {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || !slices.Contains(ofControlPlane, f.Code) {
		return nil
	}
	newer, err := e.authorities.RefreshAfter(ctx, plane.Epoch)
	if err != nil || newer.Epoch == plane.Epoch {
		return nil
	}
	return newer
}

// ofControlPlane are the refusals that a change of the control plane can lift.
var ofControlPlane = []fault.Code{
	fault.ProductUnknown, fault.LabelUnknown, fault.ProfileUnknown, fault.ProfileNotAllowed, fault.AuthorityUnknown, fault.AuthorityState, fault.KeyNotAllowed,
	fault.EKUntrusted, fault.QuoteState, fault.QuoteSelection,
}

// decision is what will be issued, and under which state of the record.
type decision struct {
	requester   *requester
	label       authority.Label
	road        *authority.Road
	slot        device.Slot
	purpose     string
	idempotency [32]byte
	sameKeyAs   device.CredentialID
	approval    int64
	epoch       int64
	replay      *device.Credential
	injected    bool // the key is ours
	product     device.Product
	need        need
	shown       shown
	hardware    *hardware // what a TPM showed; nil: nothing
}

// decide says what this requester gets, or refuses. It reads, but changes
// nothing except that a request which needs an approval is put down as waiting
// and a certificate's first use is noted.
func (e *Enroller) decide(ctx context.Context, plane *authority.Snapshot, r *Request, d *decision, csr *request.Request) error {
	q := d.requester
	if !q.device.State.MayEnroll() {
		return fault.New(fault.DeviceState, q.device.State.String())
	}
	if err := e.chooseProfile(plane, r, d); err != nil {
		return err
	}
	p := d.road.Profile
	if r.serverKey != nil {
		if err := e.makeKey(ctx, r, d, csr); err != nil {
			return err
		}
	}
	if !p.Allows(csr.KeyType) {
		return fault.New(fault.KeyNotAllowed, string(csr.KeyType))
	}
	d.idempotency = idempotencyKey(r, q, p.Name, csr.SPKIDigest)
	if err := e.checkReplay(ctx, d, csr); err != nil || d.replay != nil {
		return err
	}
	if err := e.checkKey(ctx, d, csr); err != nil || d.replay != nil {
		return err
	}
	if q.credential != nil {
		if err := e.checkCredential(ctx, plane, r, d, csr); err != nil {
			return err
		}
	}
	if err := e.checkEvidence(ctx, plane, r, d, csr); err != nil || d.replay != nil {
		return err
	}
	if p.RequireApproval {
		return e.checkApproval(ctx, d, csr)
	}
	return nil
}

// chooseProfile finds the profile that label, product and operation mean.
func (e *Enroller) chooseProfile(plane *authority.Snapshot, r *Request, d *decision) error {
	q := d.requester
	product, ok := plane.Product(q.device.Product)
	if !ok {
		return fault.New(fault.ProductUnknown)
	}
	d.product = product
	name := ""
	switch {
	case r.Label != "":
		if d.label, ok = plane.Label(r.Label); !ok {
			return fault.New(fault.LabelUnknown)
		}
		name = d.label.Profile
	case r.Operation == Reenroll && !q.foreign:
		name = plane.ProfileName(q.credential.Profile)
	case len(product.Profiles) > 0:
		name = product.Profiles[0]
	}
	if !slices.Contains(product.Profiles, name) {
		return fault.New(fault.ProfileNotAllowed)
	}
	road, err := plane.Road(name)
	if err != nil {
		return err
	}
	d.road, d.purpose = road, d.label.Purpose
	if d.purpose == "" {
		d.purpose = road.Profile.Purpose
	}
	switch road.Profile.Kind {
	case profile.KindIDevID:
		d.slot, d.purpose = device.IDevIDSlot, ""
		if product.KeyModel != device.KeyModelNone && !renewsIDevID(r, q) {
			return fault.New(fault.ProfileNotAllowed, "the first identity of", product.Name, "is made at a station, under a production order")
		}
	case profile.KindLDevID:
		d.slot = device.LDevIDSlot(d.purpose)
	case profile.KindAttestation:
		d.purpose = profile.PurposeAttestation
		d.slot = device.LDevIDSlot(d.purpose)
	default:
		return fault.New(fault.ProfileNotAllowed)
	}
	d.need, err = d.needed()
	return err
}

// renewsIDevID reports whether the requester shows the initial identity that the
// new one follows: with it a unit was counted in its order.
func renewsIDevID(r *Request, q *requester) bool {
	return r.Operation == Reenroll || q.credential != nil && !q.foreign && q.credential.Slot() == device.IDevIDSlot
}

// idempotencyKey stands for "the same request again": the same requester's
// credential asks for the same thing with the same key. An explicit key takes
// the operation's and profile's place.
func idempotencyKey(r *Request, q *requester, profileName string, spki [32]byte) [32]byte {
	h := sha256.New()
	field := func(b []byte) {
		h.Write([]byte{byte(len(b) >> 8), byte(len(b))})
		h.Write(b)
	}
	field([]byte("birthmark idempotency v1"))
	field(q.identify())
	field([]byte{byte(r.Operation)})
	field([]byte(profileName))
	field([]byte(r.IdempotencyKey))
	field(spki[:])
	return [32]byte(h.Sum(nil))
}

// idempotencyWindow is how long the same request gets the same certificate if
// it has not been used yet.
const idempotencyWindow = 24 * time.Hour

// replayable reports whether c answers the request of d once more.
func (e *Enroller) replayable(d *decision, c *device.Credential) bool {
	now := e.now()
	good := c.State == device.Issued || c.State == device.Confirmed
	return good && c.Device == d.requester.device.ID && c.Idempotency == d.idempotency && c.ConfirmedAt.IsZero() &&
		now.Sub(c.IssuedAt) < idempotencyWindow && now.Before(c.NotAfter)
}

// checkReplay answers a request that was paid for with a spent secret.
func (e *Enroller) checkReplay(ctx context.Context, d *decision, csr *request.Request) error {
	if d.requester.spentOn == nil {
		return nil
	}
	if *d.requester.spentOn != csr.SPKIDigest {
		return fault.New(fault.SecretSpent)
	}
	c, err := e.devices.CredentialBySPKI(ctx, access.Everything(), csr.SPKIDigest)
	if err != nil && !fault.Has(err, fault.CredentialUnknown) {
		return err
	}
	if err != nil || !e.replayable(d, &c) {
		return fault.New(fault.SecretSpent)
	}
	d.replay = &c
	return nil
}

// checkKey refuses what can be seen of the key before STORE looks it up.
func (e *Enroller) checkKey(ctx context.Context, d *decision, csr *request.Request) error {
	if d.road.Profile.Kind == profile.KindAttestation {
		return e.checkAttestationKey(ctx, d, csr)
	}
	c := d.requester.credential
	if c == nil || c.SPKIDigest != csr.SPKIDigest {
		return nil
	}
	if c.Slot() != d.slot {
		if c.Slot() == device.IDevIDSlot {
			return fault.New(fault.KeyOfIDevID)
		}
		return fault.New(fault.KeyInUse)
	}
	if !d.road.Profile.RenewSameKey {
		return fault.New(fault.KeyInUse, "the profile wants a new key at each renewal")
	}
	d.sameKeyAs = c.ID
	return nil
}

// checkCredential applies the rules for a requester that shows a certificate.
func (e *Enroller) checkCredential(ctx context.Context, plane *authority.Snapshot, r *Request, d *decision, csr *request.Request) error {
	q := d.requester
	if e.now().After(q.credential.NotAfter) {
		grace := time.Duration(d.road.Profile.AcceptExpiredDays) * 24 * time.Hour
		if r.Operation != Reenroll || e.now().After(q.credential.NotAfter.Add(grace)) {
			return fault.New(fault.CredentialExpired)
		}
	}
	if !q.foreign {
		if err := e.checkNewest(ctx, q); err != nil {
			return err
		}
	}
	switch {
	case r.Operation == Reenroll:
		if q.foreign || q.credential.Slot() != d.slot {
			return fault.New(fault.ProfileNotAllowed)
		}
		if err := checkSameSubject(q.credential.DER, csr); err != nil {
			return err
		}
	case d.mayAdd(r):
	case !slices.Contains(d.road.Profile.Trusts, q.issuer):
		return fault.New(fault.ProfileNotAllowed)
	}
	if q.foreign {
		return nil
	}
	return e.confirm(ctx, plane, q.credential, deviceActor(q.device.ID))
}

// confirm notes that a certificate has been used: its key lives in the device
// and its predecessor is done with.
func (e *Enroller) confirm(ctx context.Context, plane *authority.Snapshot, c *device.Credential, actor string) error {
	if !c.ConfirmedAt.IsZero() {
		return nil
	}
	now := e.now()
	ends, err := e.overlaps(ctx, plane, c, now)
	if err != nil {
		return err
	}
	return e.devices.Confirm(ctx, device.Confirmation{ID: c.ID, At: now, Ends: ends}, ledger.Entry{
		Kind: ledger.CertificateUsed, At: now, Actor: actor, Body: confirmedBody(c),
	})
}

// overlaps says when the credentials before c end: the one it replaced, and
// those between that the device never used. A credential that expires sooner,
// or whose profile lets it live, is left alone.
func (e *Enroller) overlaps(ctx context.Context, plane *authority.Snapshot, c *device.Credential, now time.Time) ([]device.Overlap, error) {
	road, err := plane.Road(plane.ProfileName(c.Profile))
	if err != nil || road.Profile.OverlapDays == profile.OverlapUntilExpiry {
		return nil, nil // a profile that cannot issue now ends nothing either
	}
	endsAt := now.AddDate(0, 0, road.Profile.OverlapDays)
	var ends []device.Overlap
	for id := c.Previous; id != 0 && len(ends) < maxUnconfirmed; {
		old, err := e.devices.Credential(ctx, access.Everything(), id)
		if err != nil {
			return nil, err
		}
		good := old.State == device.Issued || old.State == device.Confirmed || old.State == device.Superseded
		if good && endsAt.Before(old.NotAfter) {
			ends = append(ends, device.Overlap{Credential: id, EndsAt: endsAt})
		}
		if !old.ConfirmedAt.IsZero() {
			break
		}
		id = old.Previous
	}
	return ends, nil
}

func deviceActor(id device.ID) string { return "device:" + id.String() }

// resolve turns a key that is on record already into the earlier answer or a
// refusal.
func (e *Enroller) resolve(d *decision, csr *request.Request, existing *device.Credential) (*Response, error) {
	if e.replayable(d, existing) {
		return e.respond(d, *existing, true), nil
	}
	if existing.Device != d.requester.device.ID || existing.SPKIDigest != csr.SPKIDigest {
		e.log.Warn("public key of another device in a request", "device", d.requester.device.ID.String(), "fault", fault.KeyInUse.String())
		return nil, fault.New(fault.KeyInUse)
	}
	if existing.Slot() == device.IDevIDSlot && d.slot != device.IDevIDSlot {
		return nil, fault.New(fault.KeyOfIDevID)
	}
	if existing.Slot() == d.slot {
		return nil, fault.New(fault.RequestReplayed)
	}
	return nil, fault.New(fault.KeyInUse)
}

func (e *Enroller) respond(d *decision, c device.Credential, replayed bool) *Response {
	return &Response{Credential: c, Chain: d.road.Chain, Wrap: d.label.Wrap, Replayed: replayed}
}

// issue signs and stores. What STORE refuses has been signed but never leaves
// this function; its serial stays on record as abandoned.
func (e *Enroller) issue(ctx context.Context, d *decision, csr *request.Request) (device.Credential, error) {
	now := e.now()
	q := d.requester
	notBefore, notAfter, err := d.road.Compiled.Validity(now)
	if err != nil {
		return device.Credential{}, err
	}
	certSerial, err := e.authorities.NextSerial(ctx)
	if err != nil {
		return device.Credential{}, err
	}
	values := d.road.Values(&q.device)
	if d.hardware != nil {
		d.hardware.name(&values)
	}
	der, err := d.road.Compiled.Issue(issuing.Input{
		CertSerial: certSerial.Bytes, NotBefore: notBefore, NotAfter: notAfter, Values: values, SPKI: csr.SPKI,
	})
	if err != nil {
		return device.Credential{}, err
	}
	c := device.Credential{
		ID: certSerial.ID, CertSerial: certSerial.Bytes, Authority: d.road.Authority.ID, Profile: d.road.Version.ID,
		Kind: string(d.road.Profile.Kind), Purpose: d.purpose, Device: q.device.ID,
		Product: q.device.Product, Site: q.device.Site, Owner: q.device.Owner,
		State: device.Issued, KeyKind: d.keyKind(), NotBefore: notBefore, NotAfter: notAfter,
		SPKIDigest: csr.SPKIDigest, Idempotency: d.idempotency, Previous: q.device.Current[d.slot],
		IssuedAt: now, DER: der,
	}
	change := &device.Change{
		ID: q.device.ID, Version: q.device.Version, From: q.device.State, State: stateAfter(&q.device, d), Slot: d.slot,
	}
	if q.credential == nil {
		change.SpendSPKI = &csr.SPKIDigest
	}
	i := device.Issuance{
		Credential: c, Lease: certSerial.Lease, ControlEpoch: d.epoch, Change: change,
		SameKeyAs: d.sameKeyAs, Approval: d.approval,
	}
	actor := deviceActor(q.device.ID)
	i.Entries = []ledger.Entry{{Kind: ledger.CertificateIssued, At: now, Actor: actor, Body: issuedBody(&i, d)}}
	if d.hardware != nil {
		if i.Attestation, err = d.hardware.attestation(); err != nil {
			return device.Credential{}, err
		}
		i.Entries = append(i.Entries, keptEntry(&i, actor))
	}
	return e.devices.StoreIssuance(ctx, i)
}

// keyKind says where the key lives, as far as it was proven: a key that is kept
// stays what it was, so that an injected one is marked for ever.
func (d *decision) keyKind() device.KeyKind {
	switch {
	case d.injected:
		return device.KeyInjected
	case d.shown.claims&attest.KeyInChip != 0:
		return device.KeyHardware
	case d.sameKeyAs != 0:
		return d.requester.credential.KeyKind
	}
	return device.KeySoftware
}

// stateAfter is the device's state once it has the certificate: an operational
// credential makes a registered, provisioned or shipped device active.
func stateAfter(d *device.Device, what *decision) device.State {
	if what.slot == device.IDevIDSlot || what.purpose == profile.PurposeAttestation {
		return d.State // provisioned only once the certificate has been read back
	}
	return device.Active
}

package enroll

import (
	"context"
	"crypto/sha256"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/pki/profile"
	"github.com/birthmark/birthmark/internal/pki/request"
)

// parse judges the request for a certificate. Without a CSR the certificate is for
// the attestation key of the challenge that the request answers.
func (e *Enroller) parse(ctx context.Context, r *Request) (*request.Request, error) {
	if r.TPM == nil || len(r.CSR) > 0 {
		return r.parse()
	}
	if e.attest == nil {
		return nil, fault.New(fault.TicketInvalid)
	}
	t, err := e.attest.tickets.open(ctx, r.TPM.Ticket)
	if err != nil {
		return nil, err
	}
	ak, err := t.tpm.AK()
	if err != nil {
		return nil, err
	}
	spki := ak.SPKI()
	_, kind, err := request.PublicKey(spki)
	if err != nil {
		return nil, err
	}
	return &request.Request{SPKI: spki, SPKIDigest: sha256.Sum256(spki), KeyType: kind}, nil
}

// needed says what a device must prove. What its product demands is for its first
// identity; a device that shows one of ours, which rests on that, proves what the
// profile of each further certificate demands.
func (d *decision) needed() (need, error) {
	p := d.road.Profile
	levels := []string{p.LeastEvidence}
	if c := d.requester.credential; c == nil || c.ID == 0 || d.slot == device.IDevIDSlot {
		levels = append(levels, d.product.LeastEvidence)
	}
	return needed(p.RequireHardware, levels...)
}

// known is what is proven of a device that shows no evidence: a certificate of ours
// for a key in a chip was shown in the handshake a moment ago, and the device's chip
// is on record.
func (d *decision) known() shown {
	c := d.requester.credential
	if c == nil || c.ID == 0 {
		return shown{}
	}
	s := shown{kind: attest.None}
	if d.requester.device.Chip != 0 {
		s.claims |= attest.Listed
	}
	if c.KeyKind == device.KeyHardware {
		s.claims |= attest.Fresh
		if d.sameKeyAs == c.ID {
			s.vouched = true
		}
	}
	return s
}

// mayAdd reports whether a device that shows a certificate of ours may have another
// without being named by the profile: the attestation key's, and the next one in
// the place of the one it shows, each with fresh evidence of the TPM.
func (d *decision) mayAdd(r *Request) bool {
	q := d.requester
	return (r.TPM != nil || r.Attestation != nil) && !q.foreign && (d.road.Profile.Kind == profile.KindAttestation || q.credential.Slot() == d.slot)
}

// checkAttestationKey lets an attestation key be certified again while it is the
// device's current one.
func (e *Enroller) checkAttestationKey(ctx context.Context, d *decision, csr *request.Request) error {
	id := d.requester.device.Current[d.slot]
	if id == 0 {
		return nil
	}
	c, err := e.devices.Credential(ctx, access.Everything(), id)
	switch {
	case err != nil:
		return err
	case c.SPKIDigest != csr.SPKIDigest:
		return nil
	case e.replayable(d, &c):
		d.replay = &c
	case !d.road.Profile.RenewSameKey:
		return fault.New(fault.KeyInUse, "the profile wants a new key at each renewal")
	default:
		d.sameKeyAs = c.ID
	}
	return nil
}

// checkEvidence judges what was shown of the hardware against what is demanded.
func (e *Enroller) checkEvidence(ctx context.Context, plane *authority.Snapshot, r *Request, d *decision, csr *request.Request) (err error) {
	switch {
	case r.TPM != nil && r.Attestation != nil:
		return fault.New(fault.ParameterInvalid, "evidence of a TPM is shown in one way")
	case r.TPM != nil:
		err = e.prove(ctx, r, d, csr)
	case r.Attestation != nil:
		err = e.proveByAK(ctx, plane, r, d, csr)
	case d.road.Profile.Kind == profile.KindAttestation:
		return fault.New(fault.EvidenceMissing)
	default:
		d.shown = d.known()
		return d.need.check(d.shown)
	}
	if e.answeredBefore(ctx, d, csr, err) {
		return nil
	}
	return err
}

// prove judges the answer of a device's TPM to a challenge.
func (e *Enroller) prove(ctx context.Context, r *Request, d *decision, csr *request.Request) error {
	if e.attest == nil {
		return fault.New(fault.TicketInvalid)
	}
	ofAK := len(r.CSR) == 0
	if ofAK != (d.road.Profile.Kind == profile.KindAttestation) {
		return fault.New(fault.ProfileNotAllowed, "a certificate of an attestation key is asked for without a certificate request, and nothing else is")
	}
	m, err := e.makersAt(ctx, d.epoch)
	if err != nil {
		return err
	}
	if d.hardware, err = e.openAnswer(ctx, m, d.requester.device.Product, r.TPM, d.asked()); err != nil {
		return err
	}
	subject := csr.SPKI
	if ofAK {
		subject = nil
	}
	return e.proveAnswer(ctx, m, r.TPM, d, subject, csr.SPKI)
}

// proveAnswer judges what a TPM that is known says of the subject, in the order of
// proof. Without subject the key is its AK.
func (e *Enroller) proveAnswer(ctx context.Context, m *makers, a *wire.Answer, d *decision, subject, spki []byte) error {
	h := d.hardware
	if err := h.proveKey(m, a, subject, d.product.ID); err != nil {
		return err
	}
	err := e.place(ctx, h, d.requester.device.ID, func(c *factory.Chip) error { return chipFitsDevice(d, c) })
	if err != nil {
		return err
	}
	if err := e.checkSameTPM(ctx, d, h.tpm.EK); err != nil {
		return err
	}
	d.shown = h.conclude(a, spki, e.now())
	return d.need.check(d.shown)
}

// checkSameTPM refuses another TPM than the one on record of a device that is known
// by a certificate: who can use its key for a moment would take its identity along
// into a TPM of his own. A new one-time secret, or an operator who accepts what the
// device's TPM counts from now on, lets another in; so does a station, for units.
func (e *Enroller) checkSameTPM(ctx context.Context, d *decision, ek [32]byte) error {
	if d.requester.credential == nil {
		return nil
	}
	before, err := e.attest.Store.TPMOf(ctx, access.Everything(), d.requester.device.ID)
	accepted := before.AK == [32]byte{} && before.Clock == 0
	switch {
	case fault.Has(err, fault.DeviceUnknown), err == nil && (before.EK == ek || accepted):
		return nil
	case err != nil:
		return err
	}
	return fault.New(fault.TPMChanged)
}

// ofTickets reports whether a refusal is what the same answer gets when it comes
// again.
func ofTickets(err error) bool {
	return fault.Has(err, fault.TicketUsed) || fault.Has(err, fault.TicketExpired) || fault.Has(err, fault.AttestNonce)
}

// answeredBefore finds the certificate that the same answer led to before, if that
// is why it is refused now.
func (e *Enroller) answeredBefore(ctx context.Context, d *decision, csr *request.Request, refused error) bool {
	if !ofTickets(refused) {
		return false
	}
	c, err := e.devices.CredentialBySPKI(ctx, access.Everything(), csr.SPKIDigest)
	if err != nil || !e.replayable(d, &c) {
		return false
	}
	d.replay = &c
	return true
}

// refuseDevice puts down that evidence was refused, and raises an alarm where a
// person must look at it.
func (e *Enroller) refuseDevice(ctx context.Context, r *Request, d *decision, err error) error {
	if e.attest == nil || r.TPM == nil && r.Attestation == nil {
		return err
	}
	e.alarmDevice(ctx, d, err)
	err = e.refuse(ctx, refusedDevice(d, err))
	if r.Attestation != nil && fault.Has(err, fault.TicketUsed) {
		return fault.New(fault.AttestNonce, "it was used before")
	}
	return err
}

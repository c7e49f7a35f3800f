package enroll

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// hardware is what a TPM shows for one request, as far as it was judged.
type hardware struct {
	tpm    *tpm.TPM
	ticket *ticket // of this requester and in time: a wrong answer to it burns it
	nonce  []byte
	bare   bool // the nonce itself is what the AK signed, see tpm.Subject

	made  *tpm.Certification // nil: the AK itself is to be certified
	quote *tpm.Quotation     // nil: none was demanded
	chip  *factory.Chip      // the EK's entry in a manifest; nil: it is in none
	state *device.TPMState   // as STORE keeps it
	shown *tpm.Shown
}

// openAnswer finds the challenge that is answered and wants the secret that only
// the challenged TPM could read. It returns what is known of the TPM also with a
// refusal.
func (e *Enroller) openAnswer(ctx context.Context, m *makers, product int64, a *wire.Answer, by asked) (*hardware, error) {
	h := &hardware{}
	t, err := e.attest.tickets.open(ctx, a.Ticket)
	if err != nil {
		return h, err
	}
	h.tpm, h.nonce = &t.tpm, t.nonce[:]
	if err := t.check(by, e.now()); err != nil {
		return h, err
	}
	if t.grounds != m.grounds(product) {
		return h, fault.New(fault.TicketExpired, "whose TPMs are trusted or what they quote has changed since")
	}
	if err := e.answers.check(by.asker(), e.now()); err != nil {
		return h, err
	}
	h.ticket = t
	if !t.opened(a.Secret) {
		return h, fault.New(fault.ActivationWrong)
	}
	return h, nil
}

// proveKey judges the answer of a TPM that has proven itself: the certified key and
// the quote. Without subject, the AK itself is what a certificate is for.
func (h *hardware) proveKey(m *makers, a *wire.Answer, subject []byte, product int64) error {
	ak, err := h.tpm.AK()
	if err != nil {
		return err
	}
	var counters []tpm.Counters
	if subject != nil {
		if h.made, err = ak.Certified(a, h.nonce, subject, tpm.Subject{Bare: h.bare}); err != nil {
			return err
		}
		counters = append(counters, h.made.Counters)
	}
	policy, err := m.policy(product)
	if err != nil {
		return err
	}
	if policy != nil {
		if h.quote, err = ak.Quoted(a.Quote, h.nonce, policy); err != nil {
			return err
		}
		counters = append(counters, h.quote.Counters)
	}
	for _, c := range counters {
		if err := m.trust.CheckFirmware(h.tpm, c); err != nil {
			return err
		}
		if state := c.State(h.tpm, 0); h.state == nil || !state.WentBack(*h.state) {
			h.state = state
		}
	}
	return nil
}

// place finds the TPM's entry in the manifests, as it is now, and holds the TPM
// against what is on record of it.
func (e *Enroller) place(ctx context.Context, h *hardware, dev device.ID, fits func(*factory.Chip) error) error {
	found := &listing{store: e.attest.Chips}
	chip, err := found.look(ctx, h.tpm.EK)
	switch {
	case err != nil:
		return err
	case chip != nil:
		if err := fits(chip); err != nil {
			return err
		}
		h.chip = chip
	case !h.tpm.Genuine: // the list was what vouched for it
		return fault.New(fault.EKNotListed)
	}
	return e.checkOwner(ctx, h.tpm.EK, dev, h)
}

// checkOwner refuses the TPM of another device and, with h, one that is in an older
// state than before. STORE decides both again.
func (e *Enroller) checkOwner(ctx context.Context, ek [32]byte, dev device.ID, h *hardware) error {
	before, err := e.attest.Store.TPM(ctx, ek)
	known := err == nil
	if err != nil && !fault.Has(err, fault.ChipUnknown) {
		return err
	}
	if known && before.Device != 0 && before.Device != dev {
		if err := e.checkEnded(ctx, before.Device); err != nil {
			return err
		}
	}
	if h == nil {
		return nil
	}
	last := stateOf(&before)
	if h.state == nil { // an activation alone tells of no counters
		last.EK, last.Vendor, last.Model = ek, h.tpm.Vendor, h.tpm.Model
		h.state = &last
	} else if known {
		if err := tpm.CheckCounters(last, *h.state); err != nil {
			return err
		}
	}
	if h.chip != nil {
		h.state.Chip = h.chip.ID
	}
	return nil
}

// checkEnded refuses the TPM of a device that lives.
func (e *Enroller) checkEnded(ctx context.Context, id device.ID) error {
	d, err := e.devices.Device(ctx, access.Everything(), id)
	if err == nil && d.State != device.Scrapped && d.State != device.Decommissioned {
		err = fault.New(fault.TPMOfOther)
	}
	return err
}

func stateOf(r *attest.TPMRecord) device.TPMState {
	return device.TPMState{
		EK: r.EK, Chip: r.Chip, AK: r.AK, Plain: r.Plain, ResetCount: r.ResetCount, RestartCount: r.RestartCount,
		Clock: r.Clock, Safe: r.Safe, Firmware: r.Firmware, Vendor: r.Vendor, Model: r.Model,
	}
}

// conclude says what was proven.
func (h *hardware) conclude(a *wire.Answer, spki []byte, at time.Time) shown {
	h.shown = &tpm.Shown{TPM: h.tpm, Answer: a, Nonce: h.nonce, SPKI: spki, Certified: h.made, Quoted: h.quote, At: at}
	if h.chip != nil {
		h.shown.Listed = fmt.Sprintf("manifest %d, entry %d", h.chip.Manifest, h.chip.Entry)
	}
	return shown{kind: attest.TPM, claims: h.shown.Claims()}
}

// attestation is what STORE takes of the evidence.
func (h *hardware) attestation() (*device.Attestation, error) {
	content, err := h.shown.Keep()
	if err != nil {
		return nil, err
	}
	a := &device.Attestation{Kind: string(attest.TPM), Claims: uint8(h.shown.Claims()), Evidence: content, TPM: h.state}
	if h.ticket != nil {
		a.Ticket = h.ticket.ref
	}
	return a, nil
}

// keptEntry is the leaf of evidence on which a certificate rests.
func keptEntry(i *device.Issuance, actor string) ledger.Entry {
	c, a := &i.Credential, i.Attestation
	return ledger.Entry{Kind: ledger.EvidenceKept, At: c.IssuedAt, Actor: actor, Body: a.Kept(c.ID, c.Device)}
}

// hardwareModuleTPM is the hardware type of a TPM 2.0 (TCG, TPM 2.0 Keys for
// Device Identity and Attestation, section 8).
const hardwareModuleTPM = "2.23.133.1.2"

// name puts what was proven of the TPM into a certificate's values.
func (h *hardware) name(v *profile.Values) {
	x := h.tpm
	v.HardwareType, v.HardwareSerial = hardwareModuleTPM, x.HardwareSerial
	if x.HardwareSerial == "" {
		v.HardwareSerial = hex.EncodeToString(x.EK[:])
	}
	v.TPMManufacturer, v.TPMModel, v.TPMVersion = x.Vendor, x.Model, x.Version
	if digest, ok := x.EKCertificateDigest(); ok {
		v.EKDigest = hex.EncodeToString(digest[:])
	}
}

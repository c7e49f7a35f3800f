package store

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// What hardware showed is decided on the floor, too: tickets, TPMs and chips are
// read once for a group, the members are decided on them one by one, and what
// those who are stored took is written. An issuance without evidence asks for
// none of it.

// floorTPM is a TPM's row as the group leaves it.
type floorTPM struct {
	ek     [32]byte
	device device.ID // 0: nobody's
	ended  bool      // the device was scrapped or decommissioned
	seen   device.TPMState
}

const (
	floorTPMColumns = `t.ek, t.device, t.ak, t.plain, t.reset_count, t.restart_count, t.clock, t.safe,
COALESCE((SELECT d.state FROM device d WHERE d.id = t.device), 0)`
	selectFloorTPM = "SELECT " + floorTPMColumns + " FROM tpm t WHERE t.id = $1"
)

func scanFloorTPM(r row, x *floorTPM, before ...any) error {
	var state device.State
	s := &x.seen
	err := r.Scan(append(before, fixed(x.ek[:]), (*int64)(&x.device), fixed(s.AK[:]), &s.Plain, &s.ResetCount, &s.RestartCount, word(&s.Clock), &s.Safe, &state)...)
	s.EK, x.ended = x.ek, state == device.Scrapped || state == device.Decommissioned
	return err
}

// evidenceWork is what STORE makes ready and keeps for an attested issuance.
type evidenceWork struct {
	tpmRow int64 // of the EK, 0: none
	digest []byte
	tpm    *floorTPM // that changes, nil: none
	tpmWas *floorTPM
}

// maxEvidence is more than evidence takes, in octets: certificates of a chain and an
// event log.
const maxEvidence = 4 << 20

// readyEvidence checks what the caller must have right.
func (s *Store) readyEvidence(p *pending) error {
	a, c := p.Attestation, &p.Credential
	switch {
	case c.Device == 0 || p.Change == nil && p.newDevice == nil:
		return errors.New("evidence is of a device")
	case a.Kind == "" || len(a.Evidence) == 0 || len(a.Evidence) > maxEvidence:
		return errors.New("evidence has a kind and a content")
	case a.TPM != nil && (!storable(a.TPM.Vendor) || !storable(a.TPM.Model)):
		return fault.New(fault.AttestMalformed, "the TPM's vendor or model")
	case a.Ticket.ID != [16]byte{} && !a.Ticket.ExpiresAt.After(c.IssuedAt):
		return fault.New(fault.TicketExpired)
	}
	if a.Ticket.ID != [16]byte{} {
		if err := checkTicket(&a.Ticket); err != nil {
			return err
		}
	}
	if t := a.TPM; t != nil {
		if t.EK == [32]byte{} || p.Unit != nil && t.Chip != 0 && t.Chip != p.Unit.Chip {
			return errors.New("a TPM has an endorsement key, and is the unit's chip")
		}
		p.tpmRow = s.spkiRow(&t.EK)
	}
	kept := a.Kept(c.ID, c.Device)
	p.digest = kept.Digest[:]
	return followsIssue(p.Entries, kept)
}

// storable reports whether both databases and the ledger keep a text as it is.
func storable(text string) bool {
	return len(text) <= 256 && utf8.ValidString(text) && !strings.Contains(text, "\x00")
}

// followsIssue refuses an attested issuance whose ledger would say something else
// than the register.
func followsIssue(entries []ledger.Entry, kept *ledger.KeptEvidence) error {
	issued := slices.IndexFunc(entries, func(e ledger.Entry) bool { return e.Kind == ledger.CertificateIssued })
	for _, e := range entries[issued+1:] {
		if b, ok := e.Body.(*ledger.KeptEvidence); ok && e.Kind == ledger.EvidenceKept && *b == *kept {
			return nil
		}
	}
	return errors.New("evidence.accepted follows the certificate that rests on it, and says what is stored")
}

// setEvidence makes room for what evidence concerns.
func (f *floor) setEvidence() {
	if f.tickets == nil {
		f.tickets, f.tpms = make(map[[16]byte]bool), make(map[int64]*floorTPM)
	}
}

// mayUseTicket refuses a challenge that was answered before.
func (f *floor) mayUseTicket(ctx context.Context, p *pending) (refused, err error) {
	id := p.Attestation.Ticket.ID
	if id == [16]byte{} {
		return nil, nil
	}
	spent, ok := f.tickets[id]
	if !ok {
		var one int64
		err := f.read.row(ctx, "SELECT 1 FROM attest_ticket WHERE id = $1", id[:]).Scan(&one)
		if err != nil && !noRows(err) {
			return nil, err
		}
		spent = err == nil
		f.tickets[id] = spent
	}
	if spent {
		return fault.New(fault.TicketUsed), nil
	}
	return nil, nil
}

// mayTieTPM refuses a TPM of another living device, and one that shows its past.
func (f *floor) mayTieTPM(ctx context.Context, p *pending) (refused, err error) {
	if p.tpmRow == 0 {
		return nil, nil
	}
	x, err := known(f.tpms, p.tpmRow, func(x *floorTPM) error {
		return scanFloorTPM(f.read.row(ctx, selectFloorTPM, p.tpmRow), x)
	})
	switch {
	case err != nil:
		return nil, err
	case x == nil || x.device == 0:
		return nil, nil
	case !bytes.Equal(x.ek[:], p.Attestation.TPM.EK[:]): // two EKs meet in one row
		return fault.New(fault.TPMOfOther), nil
	case x.device != p.Credential.Device && !x.ended:
		return fault.New(fault.TPMOfOther), nil
	case p.Attestation.TPM.WentBack(x.seen):
		return fault.New(fault.QuoteOld), nil
	}
	return nil, nil
}

// mayOwnChip refuses a device without a unit the chip that another has, or an
// order waits for.
func (f *floor) mayOwnChip(ctx context.Context, p *pending) (refused, err error) {
	id := p.ownChip()
	if id == 0 {
		return nil, nil
	}
	c, err := f.chip(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case c == nil || !c.visible:
		return fault.New(fault.ChipUnknown), nil
	}
	switch c.state {
	case factory.ChipListed, factory.ChipNotProvable:
		return nil, nil
	case factory.ChipAllotted:
		return fault.New(fault.ChipOtherOrder), nil
	case factory.ChipWithdrawn:
		return fault.New(fault.ChipWithdrawn), nil
	}
	if c.device == p.Credential.Device {
		return nil, nil
	}
	return fault.New(fault.ChipUsed), nil
}

// ownChip is the chip of evidence for a device without a unit, 0: none. A unit
// says itself which chip is its own.
func (p *pending) ownChip() int64 {
	if p.Unit != nil || p.Attestation == nil || p.Attestation.TPM == nil {
		return 0
	}
	return p.Attestation.TPM.Chip
}

// takeEvidence spends the ticket of a member that was admitted and ties its TPM
// and chip.
func (f *floor) takeEvidence(p *pending) {
	a := p.Attestation
	if a.Ticket.ID != [16]byte{} {
		f.tickets[a.Ticket.ID] = true
	}
	if p.tpmRow != 0 {
		x := f.tpms[p.tpmRow]
		if x == nil {
			x = new(floorTPM)
			f.tpms[p.tpmRow] = x
		}
		before := *x
		p.tpm, p.tpmWas = x, &before
		*x = floorTPM{ek: a.TPM.EK, device: p.Credential.Device, seen: *a.TPM}
	}
	if c := f.chips[p.ownChip()]; c != nil && c.state != factory.ChipUsed {
		p.chip, p.chipWas = c, *c
		*c = floorChip{factory.ChipUsed, 0, p.Credential.Device, true}
	}
}

// giveBackEvidence undoes takeEvidence.
func (f *floor) giveBackEvidence(p *pending) {
	if id := p.Attestation.Ticket.ID; id != [16]byte{} {
		f.tickets[id] = false
	}
	if p.tpm != nil {
		*p.tpm = *p.tpmWas
	}
	if p.ownChip() != 0 && p.chip != nil {
		*p.chip = p.chipWas
	}
}

// insertEvidence sets all of a row of evidence.
const insertEvidence = "INSERT INTO evidence (id, device, kind, claims, content, digest, made_at) VALUES ($1, $2, $3, $4, $5, $6, $7)"

func evidenceValues(p *pending) []any {
	a, c := p.Attestation, &p.Credential
	return []any{int64(c.ID), int64(c.Device), a.Kind, int64(a.Claims), a.Evidence, p.digest, micros(c.IssuedAt)}
}

// tpmForm is the form of tpmValues.
const tpmForm = "ibiibiiiiiitti"

// tpmValues are the id and all other columns of a TPM's row.
func tpmValues(p *pending) []any {
	t := p.Attestation.TPM
	return []any{
		p.tpmRow, t.EK[:], int64(p.Credential.Device), t.Chip, t.AK[:], number(t.Plain), int64(t.ResetCount), int64(t.RestartCount),
		int64(t.Clock), number(t.Safe), int64(t.Firmware), t.Vendor, t.Model, micros(p.Credential.IssuedAt),
	}
}

// number is a truth as it is stored.
func number(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

package tpm

import (
	"bytes"
	"crypto/subtle"
	"slices"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
)

// Quotation is a quote that matches a policy.
type Quotation struct {
	State    string // name of the state in the policy
	Counters Counters
}

// Quoted judges a quote: fault.QuoteMissing (q is nil) to EventLogMismatch.
func (k *AK) Quoted(q *wire.Quote, nonce []byte, p *Policy) (*Quotation, error) {
	if q == nil {
		return nil, fault.New(fault.QuoteMissing)
	}
	statement, hash, err := k.quotation(q, nonce)
	if err != nil {
		return nil, err
	}
	if err := p.selected(statement.Quote.Selections, q.PCRs); err != nil {
		return nil, err
	}
	if err := quotedDigest(statement, hash, q.PCRs); err != nil {
		return nil, err
	}
	state := p.stateOf(q.PCRs)
	if state == "" {
		return nil, fault.New(fault.QuoteState)
	}
	if p.eventLog {
		if err := p.replay(q); err != nil {
			return nil, err
		}
	}
	return &Quotation{State: state, Counters: k.counters(statement)}, nil
}

// quotation reads what the TPM signed and returns it with the hash of the signature.
func (k *AK) quotation(q *wire.Quote, nonce []byte) (*wire.Attest, wire.Alg, error) {
	statement, err := wire.ParseAttest(q.Attest)
	if err != nil {
		return nil, 0, err
	}
	signature, err := wire.ParseSignature(q.Signature)
	if err != nil {
		return nil, 0, err
	}
	switch {
	case statement.Magic != wire.Magic:
		return nil, 0, fault.New(fault.QuoteInvalid, "it was not made by a TPM")
	case statement.Type != wire.TypeQuote:
		return nil, 0, fault.New(fault.QuoteInvalid, "it is an attestation of another kind")
	case !k.signed(signature, q.Attest):
		return nil, 0, fault.New(fault.QuoteInvalid, "the signature is not the attestation key's")
	case len(nonce) < minNonce || subtle.ConstantTimeCompare(statement.ExtraData, nonce) != 1:
		return nil, 0, fault.New(fault.QuoteInvalid, "it is not bound to this challenge")
	}
	return statement, signature.Scheme.Hash, nil
}

// quotedDigest wants the values to be those of which the TPM signed the digest: one
// after the other in the order of the selection, hashed as the signature is (Part 3,
// TPM2_Quote).
func quotedDigest(statement *wire.Attest, hash wire.Alg, values map[int][]byte) error {
	h := hash.Hash().New()
	for _, selection := range statement.Quote.Selections {
		for _, pcr := range selection.PCRs {
			h.Write(values[pcr])
		}
	}
	if !bytes.Equal(h.Sum(nil), statement.Quote.Digest) {
		return fault.New(fault.QuoteDigest)
	}
	return nil
}

// selected wants exactly the registers of the policy, with one value each.
func (p *Policy) selected(list []wire.Selection, values map[int][]byte) error {
	if len(list) != 1 || list[0].Bank != p.bank || !slices.Equal(list[0].PCRs, p.pcrs) || len(values) != len(p.pcrs) {
		return fault.New(fault.QuoteSelection)
	}
	for _, pcr := range p.pcrs {
		value, ok := values[pcr]
		if !ok {
			return fault.New(fault.QuoteSelection)
		}
		if len(value) != p.bank.Hash().Size() {
			return fault.New(fault.QuoteDigest, "register", pcr)
		}
	}
	return nil
}

// stateOf returns the name of the first state that the registers are in.
func (p *Policy) stateOf(values map[int][]byte) string {
	i := slices.IndexFunc(p.states, func(s state) bool {
		return !slices.ContainsFunc(s.registers, func(r register) bool { return !bytes.Equal(values[r.pcr], r.value) })
	})
	if i < 0 {
		return ""
	}
	return p.states[i].name
}

// replay wants a log that leads to each quoted register. The log's texts stay what
// the device says: only digests count here.
func (p *Policy) replay(q *wire.Quote) error {
	if len(q.EventLog) == 0 {
		return fault.New(fault.EventLogMismatch, "no event log was sent")
	}
	log, err := wire.ParseEventLog(q.EventLog)
	if err != nil {
		return err
	}
	values := log.Replay(p.bank)
	if values == nil {
		return fault.New(fault.EventLogMismatch, "the log has no digests of the quoted bank")
	}
	for _, pcr := range p.pcrs {
		value, measured := values[pcr]
		if !measured {
			value = untouched(pcr, p.bank)
		}
		if !bytes.Equal(value, q.PCRs[pcr]) {
			return fault.New(fault.EventLogMismatch, "register", pcr)
		}
	}
	return nil
}

// untouched is a register's value after a reset (TCG PC Client Platform TPM
// Profile, table of PCR attributes): registers 17 to 22 begin with ones, for they
// belong to a later launch.
func untouched(pcr int, bank wire.Alg) []byte {
	value := make([]byte, bank.Hash().Size())
	if pcr >= 17 && pcr <= 22 {
		for i := range value {
			value[i] = 0xFF
		}
	}
	return value
}

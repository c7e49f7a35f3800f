package tpm

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest"
)

// Policy is a product's firmware policy, compiled: which registers are to be quoted
// and which values they may have.
type Policy struct {
	name     string // of the bank
	bank     wire.Alg
	pcrs     []int // rising: all that any state names
	states   []state
	eventLog bool
}

type state struct {
	name      string
	registers []register // rising
}

type register struct {
	pcr   int
	value []byte
}

// Limits of a policy.
const (
	maxPolicy = 1 << 20
	maxStates = 1000
	maxPCR    = 23
)

// ParsePolicy reads a policy strictly (attest.PolicyFile), or returns
// fault.PolicyInvalid that says what is wrong with it.
func ParsePolicy(content []byte) (*Policy, error) {
	var file attest.PolicyFile
	if err := decode(content, maxPolicy, &file); err != nil {
		return nil, fault.New(fault.PolicyInvalid, err)
	}
	p, err := compilePolicy(&file)
	if err != nil {
		return nil, fault.New(fault.PolicyInvalid, err)
	}
	return p, nil
}

func compilePolicy(file *attest.PolicyFile) (*Policy, error) {
	p := &Policy{name: file.Bank, bank: wire.Bank(file.Bank), eventLog: file.EventLog}
	if p.bank == 0 {
		return nil, fmt.Errorf("bank: %q is none of sha256, sha384 and sha512", file.Bank)
	}
	if len(file.States) == 0 {
		return nil, errors.New("states: there is none, so no device could pass")
	}
	if len(file.States) > maxStates {
		return nil, fmt.Errorf("states: more than %d", maxStates)
	}
	named := map[int]bool{}
	for i := range file.States {
		s, err := compileState(&file.States[i], p.bank.Hash().Size())
		if err != nil {
			return nil, fmt.Errorf("state %d: %w", i+1, err)
		}
		if slices.ContainsFunc(p.states, func(t state) bool { return t.name == s.name }) {
			return nil, fmt.Errorf("state %d: the name %q is taken", i+1, s.name)
		}
		for _, r := range s.registers {
			named[r.pcr] = true
		}
		p.states = append(p.states, s)
	}
	p.pcrs = slices.Sorted(maps.Keys(named))
	return p, nil
}

func compileState(file *attest.State, size int) (state, error) {
	if err := checkText("name", file.Name); err != nil {
		return state{}, err
	}
	if len(file.PCRs) == 0 {
		return state{}, errors.New("pcrs: none, so any firmware would pass")
	}
	s := state{name: file.Name}
	for _, pcr := range slices.Sorted(maps.Keys(file.PCRs)) {
		if pcr < 0 || pcr > maxPCR {
			return state{}, fmt.Errorf("pcrs: there is no register %d", pcr)
		}
		value, err := hex.DecodeString(file.PCRs[pcr])
		if err != nil || len(value) != size {
			return state{}, fmt.Errorf("pcrs: the value of register %d is not %d hexadecimal digits", pcr, 2*size)
		}
		s.registers = append(s.registers, register{pcr, value})
	}
	return s, nil
}

// Request returns what the device is to quote.
func (p *Policy) Request() *wire.QuoteRequest {
	return &wire.QuoteRequest{Bank: p.name, PCRs: slices.Clone(p.pcrs)}
}

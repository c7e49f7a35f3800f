package tpm

import (
	"bytes"
	"crypto/subtle"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/device"
)

// Subject says what a certified key may be, beyond being bound to its TPM.
type Subject struct {
	Decrypt bool // the key may also decrypt
	// Bare says that the qualifying data is the nonce itself, as in the attestation
	// attribute of a CSR, which knows no binding. The certified name ties the
	// statement to the key all the same.
	Bare bool
}

// What a certified key must be, and what it must not. A restricted key could not
// sign a TLS handshake; an AK that is certified as a subject would sign both.
const (
	subjectMust    = wire.FixedTPM | wire.FixedParent | wire.SensitiveDataOrigin | wire.Sign
	subjectMustNot = wire.Restricted | wire.X509Sign | wire.EncryptedDuplication
)

// Certification is a certified key.
type Certification struct {
	Counters Counters
	Name     []byte // of the subject key
	Bare     bool   // as in Subject
}

// Certified judges the certified key of an answer: fault.AttestMalformed and 9040 to
// 9046. spki is the key that the request is for.
func (k *AK) Certified(a *wire.Answer, nonce, spki []byte, want Subject) (*Certification, error) {
	statement, err := wire.ParseAttest(a.Attest)
	if err != nil {
		return nil, err
	}
	signature, err := wire.ParseSignature(a.Signature)
	if err != nil {
		return nil, err
	}
	public, err := wire.ParsePublic(a.Public)
	if err != nil {
		return nil, err
	}
	switch {
	case statement.Magic != wire.Magic:
		return nil, fault.New(fault.CertifyMagic)
	case statement.Type != wire.TypeCertify:
		return nil, fault.New(fault.CertifyType)
	case !k.signed(signature, a.Attest):
		return nil, fault.New(fault.CertifySignature)
	case len(nonce) < minNonce || subtle.ConstantTimeCompare(statement.ExtraData, qualifying(nonce, spki, want.Bare)) != 1:
		return nil, fault.New(fault.CertifyNonce)
	case !bytes.Equal(statement.Certify.Name, public.Name()):
		return nil, fault.New(fault.CertifyName)
	}
	if why := subjectWrong(public, want); why != "" {
		return nil, fault.New(fault.SubjectAttributes, why)
	}
	if !bytes.Equal(public.SPKI, spki) {
		return nil, fault.New(fault.SubjectKey)
	}
	return &Certification{Counters: k.counters(statement), Name: public.Name(), Bare: want.Bare}, nil
}

// qualifying is what a certification's qualifying data must be.
func qualifying(nonce, spki []byte, bare bool) []byte {
	if bare {
		return nonce
	}
	binding := wire.Binding(nonce, spki)
	return binding[:]
}

// minNonce is the length of a nonce of ours, in octets: an empty one would bind
// nothing.
const minNonce = 16

func subjectWrong(p *wire.Public, want Subject) string {
	mustNot := subjectMustNot
	if !want.Decrypt {
		mustNot |= wire.Decrypt
	}
	if why := attributesWrong(p.Attributes, subjectMust, mustNot); why != "" {
		return why
	}
	if !strong(p.NameAlg) {
		return "its name is made with " + p.NameAlg.String()
	}
	if p.Scheme.Alg != wire.AlgNull && p.Scheme.Hash != 0 && !strong(p.Scheme.Hash) {
		return "it is bound to " + p.Scheme.Hash.String()
	}
	return keyWrong(p.Key)
}

// Counters are what each attestation tells of its TPM's past.
type Counters struct {
	AK           [32]byte // SHA-256 of the AK's SubjectPublicKeyInfo
	Plain        bool     // counts and firmware are the TPM's own: the AK is in the endorsement or platform hierarchy
	ResetCount   uint32
	RestartCount uint32
	Clock        uint64 // milliseconds
	Safe         bool
	Firmware     uint64
}

// State returns the counters as STORE keeps and compares them.
func (c Counters) State(x *TPM, chip int64) *device.TPMState {
	return &device.TPMState{
		EK: x.EK, Chip: chip, AK: c.AK, Plain: c.Plain, ResetCount: c.ResetCount, RestartCount: c.RestartCount,
		Clock: c.Clock, Safe: c.Safe, Firmware: c.Firmware, Vendor: x.Vendor, Model: x.Model,
	}
}

// CheckCounters refuses a TPM that is in an older state than before:
// fault.QuoteOld.
func CheckCounters(before, after device.TPMState) error {
	if after.WentBack(before) {
		return fault.New(fault.QuoteOld)
	}
	return nil
}

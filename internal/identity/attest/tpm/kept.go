package tpm

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest"
)

// Shown is everything that was shown for one credential and what it proved.
type Shown struct {
	TPM       *TPM
	Answer    *wire.Answer
	Nonce     []byte
	SPKI      []byte         // of the certified key
	Certified *Certification // nil: the AK itself is certified
	Quoted    *Quotation     // nil: no quote was demanded
	Listed    string         // manifest and number of its entry, in words; empty: not listed
	At        time.Time
}

// Claims returns what was proven. An opened credential says that the AK is in the
// TPM, an AK's certification that the subject key is there too.
func (s *Shown) Claims() attest.Claims {
	claims := attest.KeyInChip | attest.Fresh
	if s.TPM.Genuine {
		claims |= attest.Genuine
	}
	if s.Listed != "" {
		claims |= attest.Listed
	}
	if s.Quoted != nil {
		claims |= attest.Firmware
	}
	return claims
}

// Kept is the evidence as it is kept: what the device sent, what we knew, what
// followed. All but the event log, which is as long as it likes and of which the
// digest is kept.
type Kept struct {
	Version int       `json:"version"`
	At      time.Time `json:"at"`
	Claims  []string  `json:"claims"` // names, as in attest.Claims
	TPM     KeptTPM   `json:"tpm"`
	Listed  string    `json:"listed,omitempty"`

	Nonce   []byte       `json:"nonce"`
	SPKI    []byte       `json:"spki"`              // of the credential's key
	Certify *KeptCertify `json:"certify,omitempty"` // missing: the key is the AK itself
	Quote   *KeptQuote   `json:"quote,omitempty"`
}

// KeptTPM is a TPM in kept evidence.
type KeptTPM struct {
	EK             string   `json:"ek"` // SHA-256 of its SubjectPublicKeyInfo, hexadecimal
	EKForm         string   `json:"ekForm"`
	EKCertificate  []byte   `json:"ekCertificate,omitempty"`
	EKChain        [][]byte `json:"ekChain,omitempty"`
	EKPublic       []byte   `json:"ekPublic"`
	AKPublic       []byte   `json:"akPublic"`
	Genuine        bool     `json:"genuine"`
	Expired        bool     `json:"expired,omitempty"`
	Maker          string   `json:"maker,omitempty"`
	Bundle         string   `json:"bundle,omitempty"`
	Vendor         string   `json:"vendor,omitempty"`
	Model          string   `json:"model,omitempty"`
	ModelVersion   string   `json:"modelVersion,omitempty"`
	HardwareSerial string   `json:"hardwareSerial,omitempty"`
}

// KeptCertify is TPM2_Certify in kept evidence.
type KeptCertify struct {
	Public    []byte       `json:"public"`
	Attest    []byte       `json:"attest"`
	Signature []byte       `json:"signature"`
	Counters  KeptCounters `json:"counters"`
	Bare      bool         `json:"bare,omitempty"` // the qualifying data is the nonce itself
}

// KeptQuote is TPM2_Quote in kept evidence.
type KeptQuote struct {
	State     string                `json:"state"`
	PCRs      map[int]RegisterValue `json:"pcrs"`
	Attest    []byte                `json:"attest"`
	Signature []byte                `json:"signature"`
	Counters  KeptCounters          `json:"counters"`
	EventLog  string                `json:"eventLog,omitempty"` // SHA-256, hexadecimal
}

// KeptCounters are Counters in kept evidence.
type KeptCounters struct {
	Plain        bool   `json:"plain"`
	ResetCount   uint32 `json:"resetCount"`
	RestartCount uint32 `json:"restartCount"`
	Clock        uint64 `json:"clock"` // milliseconds
	Safe         bool   `json:"safe"`
	Firmware     uint64 `json:"firmware,string"`
}

// RegisterValue is the value of a register, in hexadecimal digits where people read it.
type RegisterValue []byte

// MarshalText returns hexadecimal digits.
func (h RegisterValue) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }

// UnmarshalText reads hexadecimal digits.
func (h *RegisterValue) UnmarshalText(b []byte) (err error) {
	*h, err = hex.AppendDecode(nil, b)
	return err
}

const keptVersion = 1

// Keep returns the content of the evidence to keep: JSON of a Kept.
func (s *Shown) Keep() ([]byte, error) {
	x := s.TPM
	k := Kept{
		Version: keptVersion, At: s.At.UTC(), Claims: s.Claims().Names(), Listed: s.Listed, Nonce: s.Nonce, SPKI: s.SPKI,
		TPM: KeptTPM{
			EK: hex.EncodeToString(x.EK[:]), EKForm: x.EKForm, EKCertificate: x.EKCertificate, EKChain: x.EKChain,
			EKPublic: x.EKPublic, AKPublic: x.AKPublic, Genuine: x.Genuine, Expired: x.Expired, Maker: x.Maker, Bundle: x.Bundle,
			Vendor: x.Vendor, Model: x.Model, ModelVersion: x.Version, HardwareSerial: x.HardwareSerial,
		},
	}
	if s.Certified != nil {
		k.Certify = &KeptCertify{
			Public: s.Answer.Public, Attest: s.Answer.Attest, Signature: s.Answer.Signature, Counters: kept(s.Certified.Counters),
			Bare: s.Certified.Bare,
		}
	}
	if q := s.Answer.Quote; s.Quoted != nil && q != nil {
		k.Quote = &KeptQuote{
			State: s.Quoted.State, Attest: q.Attest, Signature: q.Signature, Counters: kept(s.Quoted.Counters),
			PCRs: make(map[int]RegisterValue, len(q.PCRs)),
		}
		for pcr, value := range q.PCRs {
			k.Quote.PCRs[pcr] = value
		}
		if len(q.EventLog) > 0 {
			digest := sha256.Sum256(q.EventLog)
			k.Quote.EventLog = hex.EncodeToString(digest[:])
		}
	}
	return json.Marshal(k)
}

func kept(c Counters) KeptCounters {
	return KeptCounters{c.Plain, c.ResetCount, c.RestartCount, c.Clock, c.Safe, c.Firmware}
}

// ParseKept reads kept evidence.
func ParseKept(content []byte) (*Kept, error) {
	k := new(Kept)
	if err := json.Unmarshal(content, k); err != nil {
		return nil, fmt.Errorf("kept evidence of a TPM: %w", err)
	}
	if k.Version != keptVersion {
		return nil, fmt.Errorf("kept evidence of a TPM: version %d", k.Version)
	}
	return k, nil
}

// Recheck judges kept evidence again, as far as it proves itself: the AK, the
// certified key and the signatures, not who was trusted at the time.
func (k *Kept) Recheck() error {
	x := &TPM{EKPublic: k.TPM.EKPublic, AKPublic: k.TPM.AKPublic}
	ak, err := x.AK()
	if err != nil {
		return err
	}
	if k.Certify == nil {
		if string(ak.SPKI()) != string(k.SPKI) {
			return errors.New("the credential's key is not the attestation key")
		}
	} else {
		a := &wire.Answer{Public: k.Certify.Public, Attest: k.Certify.Attest, Signature: k.Certify.Signature}
		if _, err := ak.Certified(a, k.Nonce, k.SPKI, Subject{Bare: k.Certify.Bare}); err != nil {
			return err
		}
	}
	if k.Quote == nil {
		return nil
	}
	return k.Quote.recheck(ak, k.Nonce)
}

func (q *KeptQuote) recheck(ak *AK, nonce []byte) error {
	statement, hash, err := ak.quotation(&wire.Quote{Attest: q.Attest, Signature: q.Signature}, nonce)
	if err != nil {
		return err
	}
	if len(statement.Quote.Selections) != 1 || len(statement.Quote.Selections[0].PCRs) != len(q.PCRs) {
		return fault.New(fault.QuoteSelection)
	}
	values := make(map[int][]byte, len(q.PCRs))
	for pcr, value := range q.PCRs {
		values[pcr] = value
	}
	return quotedDigest(statement, hash, values)
}

// Words says what was proven, by which chip, when: one sentence each.
func (k *Kept) Words() []string {
	at := k.At.UTC().Format("2006-01-02 15:04:05 UTC")
	var words []string
	if k.Certify != nil {
		words = append(words, "On "+at+" a TPM proved that the key was made in it and cannot leave it: its attestation key certified the key under a nonce of ours.")
	} else {
		words = append(words, "On "+at+" a TPM proved that the key, its attestation key, was made in it and cannot leave it: it opened a credential that only this key in this TPM can open.")
	}
	words = append(words, k.chipWords()...)
	if k.Listed != "" {
		words = append(words, "It is listed for us: "+k.Listed+".")
	}
	if k.Quote != nil {
		words = append(words, k.quoteWords()...)
	}
	return append(words, k.pastWords()...)
}

func (k *Kept) chipWords() []string {
	t := &k.TPM
	chip := "It is a TPM"
	if t.Vendor != "" {
		chip += fmt.Sprintf(" of %s, model %q, version %s", vendorWords(t.Vendor), t.Model, t.ModelVersion)
	}
	chip += ", with the endorsement key " + t.EK + " (template " + t.EKForm + ")."
	words := []string{chip}
	switch {
	case t.Genuine && t.Expired:
		words = append(words, fmt.Sprintf("%s vouches for it by a certificate that is over and accepted all the same (bundle %s).", t.Maker, t.Bundle))
	case t.Genuine:
		words = append(words, fmt.Sprintf("%s vouches for it (bundle %s).", t.Maker, t.Bundle))
	case len(t.EKCertificate) > 0:
		words = append(words, "Its maker's certificate leads to no trusted root, so what it says of the chip is not vouched for.")
	default:
		words = append(words, "It has no maker's certificate, so nobody vouches that it is a real chip.")
	}
	if t.HardwareSerial != "" {
		words = append(words, "Its hardware number is "+t.HardwareSerial+".")
	}
	return words
}

func vendorWords(manufacturer string) string {
	if name := (wire.EKNames{Manufacturer: manufacturer}).Vendor(); name != "" {
		return name
	}
	return manufacturer
}

func (k *Kept) quoteWords() []string {
	numbers := make([]string, 0, len(k.Quote.PCRs))
	for pcr := range maxPCR + 1 {
		if _, ok := k.Quote.PCRs[pcr]; ok {
			numbers = append(numbers, fmt.Sprint(pcr))
		}
	}
	words := []string{fmt.Sprintf("It quoted the registers %s: the device runs %q.", strings.Join(numbers, ", "), k.Quote.State)}
	if k.Quote.EventLog != "" {
		words = append(words, "The event log that came with the quote has the SHA-256 "+k.Quote.EventLog+".")
	}
	return words
}

func (k *Kept) pastWords() []string {
	c := KeptCounters{}
	switch {
	case k.Quote != nil:
		c = k.Quote.Counters
	case k.Certify != nil:
		c = k.Certify.Counters
	default:
		return nil
	}
	powered := time.Duration(c.Clock) * time.Millisecond
	if !c.Plain {
		return []string{fmt.Sprintf("It had been powered for %s; its count of resets and its firmware are masked for this attestation key.", powered)}
	}
	return []string{fmt.Sprintf(
		"It had been powered for %s, reset %d times, restarted %d times since; its firmware is %d.%d.%d.%d.", powered, c.ResetCount, c.RestartCount,
		c.Firmware>>48, c.Firmware>>32&0xFFFF, c.Firmware>>16&0xFFFF, c.Firmware&0xFFFF)}
}

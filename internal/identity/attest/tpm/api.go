package tpm

import (
	"crypto"
	"io"
	"time"

	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/device"
)

// Trust is whose TPMs are genuine: imported bundles, compiled. It is safe for
// concurrent use.
type Trust struct{}

// NewTrust compiles bundles, the newest of each name.
func NewTrust(files []*attest.RootsFile) (*Trust, error) { panic("to come") }

// ParseRoots reads a bundle strictly, or returns fault.RootsInvalid that says what
// is wrong with it.
func ParseRoots(content []byte) (*attest.RootsFile, error) { panic("to come") }

// Policy is a product's firmware policy, compiled.
type Policy struct{}

// ParsePolicy reads a policy strictly (attest.PolicyFile), or returns
// fault.PolicyInvalid that says what is wrong with it.
func ParsePolicy(content []byte) (*Policy, error) { panic("to come") }

// Request returns what the device is to quote.
func (p *Policy) Request() *wire.QuoteRequest { panic("to come") }

// ClaimOptions is what the judgment of a claim needs besides the claim.
type ClaimOptions struct {
	Now time.Time
	// Listed reports whether an EK is in an imported manifest, by the SHA-256 of
	// its SubjectPublicKeyInfo. It is asked only about an EK that no maker vouches
	// for. Nil: nothing is listed.
	Listed func(ek [32]byte) (bool, error)
}

// Check judges a claim: EK certificate, chain, deny list, EK, AK. Nothing is proven
// by it yet; refusals are fault.AttestMalformed and 9010 to 9021.
func (t *Trust) Check(c *wire.Claim, o ClaimOptions) (*TPM, error) { panic("to come") }

// CheckFirmware refuses a TPM whose firmware is on the deny list with
// fault.EKDenied. It says nothing where the firmware's version is masked.
func (t *Trust) CheckFirmware(x *TPM, c Counters) error { panic("to come") }

// TPM is what a claim says, as far as it was believed. MarshalBinary makes it part
// of a ticket.
type TPM struct {
	EK            [32]byte // SHA-256 of EKSPKI: the TPM's name everywhere else
	EKSPKI        []byte   // DER SubjectPublicKeyInfo of the EK
	EKForm        string   // which of the TCG's templates the EK was made from: "L-1", "H-3"
	EKCertificate []byte   // DER; empty: the TPM has none
	Genuine       bool     // the certificate leads to a maker's root
	Expired       bool     // it is over, and its maker's are accepted all the same
	Maker         string   // the maker's name in its bundle
	Bundle        string   // name and version of the bundle: "tpm-makers 4"
	// Vendor, Model and Version are tpmManufacturer, tpmModel and tpmVersion of the
	// EK certificate, the maker's word only where Genuine.
	Vendor, Model, Version string
	// HardwareSerial is "<vendor, 8 hex>:<EK certificate's AKI, hex>:<its serial
	// number, hex>" as hardwareModuleName has it (TCG, TPM 2.0 Keys for Device
	// Identity and Attestation, section 8); empty without a certificate.
	HardwareSerial string
	EKPublic       []byte // TPMT_PUBLIC, as rebuilt
	AKPublic       []byte // TPMT_PUBLIC
}

// MarshalBinary returns the TPM in a compact form of this version of the program.
func (x *TPM) MarshalBinary() ([]byte, error) { panic("to come") }

// UnmarshalBinary reads what MarshalBinary wrote.
func (x *TPM) UnmarshalBinary(b []byte) error { panic("to come") }

// EKCertificateDigest returns the SHA-256 of the EK certificate (permanentIdentifier
// of an IDevID), and false where there is none.
func (x *TPM) EKCertificateDigest() ([32]byte, bool) { panic("to come") }

// Credential wraps a secret so that only this TPM opens it, and only for this AK:
// TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET, both with their sizes.
func (x *TPM) Credential(random io.Reader, secret []byte) (idObject, encSecret []byte, err error) {
	panic("to come")
}

// AK returns the TPM's attestation key.
func (x *TPM) AK() (*AK, error) { panic("to come") }

// AK is an attestation key: restricted, signing, never outside of its TPM.
type AK struct{}

// ParseAK reads a TPMT_PUBLIC and refuses what no attestation key may be:
// fault.AttestMalformed, AKAttributes, AKAlgorithm.
func ParseAK(public []byte) (*AK, error) { panic("to come") }

// KnownAK returns the AK of a certificate of ours, for evidence that comes without
// an activation.
func KnownAK(key crypto.PublicKey) (*AK, error) { panic("to come") }

// Key returns the public key.
func (k *AK) Key() crypto.PublicKey { panic("to come") }

// SPKI returns the DER SubjectPublicKeyInfo.
func (k *AK) SPKI() []byte { panic("to come") }

// Name returns the TPM's Name of the key: algorithm and digest; nil for a KnownAK.
func (k *AK) Name() []byte { panic("to come") }

// Subject says what a certified key may be, beyond being bound to its TPM.
type Subject struct {
	Decrypt bool // the key may also decrypt
}

// Certified judges the certified key of an answer: fault.AttestMalformed and 9040 to
// 9046. spki is the key that the request is for.
func (k *AK) Certified(a *wire.Answer, nonce, spki []byte, want Subject) (*Certification, error) {
	panic("to come")
}

// Certification is a certified key.
type Certification struct {
	Counters Counters
	Name     []byte // of the subject key
}

// Counters are what each attestation tells of its TPM's past.
type Counters struct {
	AK           [32]byte // SHA-256 of the AK's Name
	Plain        bool     // counts and firmware are the TPM's own, because the AK is known to be in the endorsement or platform hierarchy
	ResetCount   uint32
	RestartCount uint32
	Clock        uint64 // milliseconds
	Safe         bool
	Firmware     uint64
}

// State returns the counters as STORE keeps and compares them.
func (c Counters) State(x *TPM, chip int64) *device.TPMState { panic("to come") }

// CheckCounters refuses a TPM that is in an older state than before:
// fault.QuoteOld.
func CheckCounters(before, after device.TPMState) error { panic("to come") }

// Quoted judges a quote: fault.QuoteMissing (q is nil) to EventLogMismatch.
func (k *AK) Quoted(q *wire.Quote, nonce []byte, p *Policy) (*Quotation, error) { panic("to come") }

// Quotation is a quote that matches a policy.
type Quotation struct {
	State    string // name of the state in the policy
	Counters Counters
}

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

// Claims returns what was proven.
func (s *Shown) Claims() attest.Claims { panic("to come") }

// Keep returns the content of the evidence to keep: JSON of a Kept.
func (s *Shown) Keep() ([]byte, error) { panic("to come") }

// Kept is the evidence as it is kept.
type Kept struct {
	At time.Time `json:"at"`
}

// ParseKept reads kept evidence.
func ParseKept(content []byte) (*Kept, error) { panic("to come") }

// Words says what was proven, by which chip, when: one sentence each.
func (k *Kept) Words() []string { panic("to come") }

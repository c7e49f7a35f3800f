package tpm

// Magic is TPM_GENERATED_VALUE: a restricted key signs what starts with it only
// when the TPM itself made it.
const Magic uint32 = 0xFF544347

// Kinds of attestation (TPM_ST_ATTEST_...).
const (
	TypeCertify  uint16 = 0x8017
	TypeQuote    uint16 = 0x8018
	TypeCreation uint16 = 0x801A
)

// Attest is a TPMS_ATTEST (TPM 2.0 Library, Part 2, section 10.12.12). Magic and
// Type are as they were sent: judging them is for the verifier, so that each miss
// has its own code.
type Attest struct {
	Raw []byte // what the signature is over

	Magic           uint32
	Type            uint16
	QualifiedSigner []byte
	ExtraData       []byte
	Clock           Clock
	FirmwareVersion uint64

	Certify *Certified // of TypeCertify
	Quote   *Quoted    // of TypeQuote
	Other   []byte     // what follows in other types, not looked into
}

// Clock is a TPMS_CLOCK_INFO. Outside the endorsement and platform hierarchies the
// TPM adds a value of its own to the two counters, the same for each key.
type Clock struct {
	Clock        uint64 // milliseconds that the TPM was powered
	ResetCount   uint32 // times that it was reset
	RestartCount uint32 // times that it resumed since
	Safe         bool   // no later clock value was shown before
}

// Certified is a TPMS_CERTIFY_INFO.
type Certified struct {
	Name          []byte
	QualifiedName []byte
}

// Quoted is a TPMS_QUOTE_INFO.
type Quoted struct {
	Selections []Selection
	Digest     []byte // over the registers' values in the order of the selections, then of their numbers
}

// Selection is a TPMS_PCR_SELECTION: registers of one bank.
type Selection struct {
	Bank Alg
	PCRs []int // rising
}

// ParseAttest reads a TPMS_ATTEST; refusals are AttestMalformed. The result shares
// b's memory.
func ParseAttest(b []byte) (*Attest, error) {
	r := &reader{rest: b}
	a := &Attest{
		Raw:             b,
		Magic:           r.u32(),
		Type:            r.u16(),
		QualifiedSigner: r.sized(maxName),
		ExtraData:       r.sized(maxName), // TPM2B_DATA: as long as a TPMT_HA
		Clock:           Clock{Clock: r.u64(), ResetCount: r.u32(), RestartCount: r.u32(), Safe: r.yesNo()},
		FirmwareVersion: r.u64(),
	}
	switch a.Type {
	case TypeCertify:
		a.Certify = &Certified{Name: r.sized(maxName), QualifiedName: r.sized(maxName)}
	case TypeQuote:
		a.Quote = &Quoted{Selections: r.selections(), Digest: r.sized(maxDigest)}
	default:
		a.Other = r.take(len(r.rest))
	}
	if !r.done() {
		return nil, malformed("attestation")
	}
	return a, nil
}

// yesNo reads a TPMI_YES_NO, which has two values and no others.
func (r *reader) yesNo() bool {
	v := r.u8()
	r.failed = r.failed || v > 1
	return v == 1
}

// A TPM has at most 16 banks, and at most 32 registers in a bank.
const (
	maxBanks  = 16
	minSelect = 3
	maxSelect = 4
)

func (r *reader) selections() []Selection {
	n := r.u32()
	if n > maxBanks {
		r.failed = true
	}
	if r.failed {
		return nil
	}
	list := make([]Selection, 0, n)
	for range n {
		s := Selection{Bank: r.alg()}
		size := int(r.u8())
		if size < minSelect || size > maxSelect {
			r.failed = true
		}
		for i, octet := range r.take(size) {
			for bit := range 8 {
				if octet&(1<<bit) != 0 {
					s.PCRs = append(s.PCRs, 8*i+bit)
				}
			}
		}
		if r.failed {
			return nil
		}
		list = append(list, s)
	}
	return list
}

package tpm

// Bundle is what the attestation attribute of a CSR carries
// (draft-ietf-lamps-csr-attestation-29): one statement of a TPM and certificates
// that may help to judge it.
type Bundle struct {
	Attest       []byte   // TPMS_ATTEST
	Signature    []byte   // TPMT_SIGNATURE
	Public       []byte   // TPMT_PUBLIC; may be absent
	Certificates [][]byte // DER, in the order given
}

// ParseBundle reads an AttestationBundle; refusals are AttestMalformed.
func ParseBundle(der []byte) (*Bundle, error) { return nil, malformed("attestation bundle") }

// Marshal returns the AttestationBundle as DER.
func (b *Bundle) Marshal() ([]byte, error) { return nil, malformed("attestation bundle") }

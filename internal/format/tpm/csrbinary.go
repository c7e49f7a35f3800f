package tpm

import "crypto"

// CSRIDevID is a TCG-CSR-IDEVID (TCG TPM 2.0 Keys for Device Identity and
// Attestation, section 13.1): the request of a device for its IAK and IDevID
// certificates, signed with the IDevID key.
type CSRIDevID struct {
	Content   []byte // what Signature is over
	Signature []byte

	HashAlg           Alg
	Hash              []byte
	Model             []byte
	DeviceSerial      []byte
	CAData            []byte
	BootEventLog      []byte
	EKCertificate     []byte // DER
	AttestPublic      []byte // TPMT_PUBLIC of the IAK
	AttestTicket      []byte
	AttestCertify     []byte // TPMS_ATTEST of the IAK, may be empty
	AttestCertifySig  []byte // TPMT_SIGNATURE
	SigningPublic     []byte // TPMT_PUBLIC of the IDevID key
	SigningCertify    []byte // TPMS_ATTEST: the IAK certifies the IDevID key
	SigningCertifySig []byte // TPMT_SIGNATURE by the IAK
}

// CSRLDevID is a TCG-CSR-LDEVID (section 13.2): the request for an LDevID, with
// the certificates of IDevID and IAK in place of the EK's.
type CSRLDevID struct{}

// ParseCSRIDevID reads a TCG-CSR-IDEVID; refusals are AttestMalformed.
func ParseCSRIDevID(b []byte) (*CSRIDevID, error) { return nil, malformed("TCG-CSR-IDEVID") }

// Verifies says whether the request is signed with the key.
func (c *CSRIDevID) Verifies(key crypto.PublicKey) bool { return false }

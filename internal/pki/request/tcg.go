package request

import (
	"bytes"
	"crypto"
	"crypto/sha256"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/tpm"
)

// tcgStart is how a TCG-CSR begins; PKCS #10 begins with a SEQUENCE.
var tcgStart = []byte{0, 0, 1, 0}

// parseTCG judges a TCG-CSR-IDEVID or -LDEVID: the key that it is for, and the
// signature by which its holder asks. What it says of the TPM is not looked at.
func parseTCG(b []byte) (*Request, error) {
	if len(b) > tpm.MaxCSR {
		return nil, fault.New(fault.RequestTooLarge, "more than", tpm.MaxCSR, "octets of a TCG-CSR")
	}
	public, verifies, err := openTCG(b)
	if err != nil {
		return nil, fault.Wrap(fault.RequestMalformed, err, "TCG-CSR")
	}
	area, err := tpm.ParsePublic(public)
	if err != nil {
		return nil, fault.Wrap(fault.KeyMalformed, err, "TCG-CSR")
	}
	if !verifies(area.Key) {
		return nil, fault.New(fault.ProofOfPossession)
	}
	r := &Request{SPKI: area.SPKI, SPKIDigest: sha256.Sum256(area.SPKI)}
	r.PublicKey, r.KeyType, err = PublicKey(area.SPKI)
	return r, err
}

// openTCG returns the key's public area and what verifies the signature.
func openTCG(b []byte) (public []byte, verifies func(crypto.PublicKey) bool, err error) {
	if c, err := tpm.ParseCSRIDevID(b); err == nil {
		return c.SigningPublic, c.Verifies, nil
	}
	c, err := tpm.ParseCSRLDevID(b)
	if err != nil {
		return nil, nil, err
	}
	return c.Public, c.Verifies, nil
}

func isTCG(b []byte) bool { return bytes.HasPrefix(b, tcgStart) }

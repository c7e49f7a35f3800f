package device

import (
	"crypto/sha256"

	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// Kept returns the body of evidence.accepted for this attestation: the entry that
// follows the certificate's in Issuance.Entries. STORE refuses an attested issuance
// without it, or with another.
func (a *Attestation) Kept(credential CredentialID, id ID) *ledger.KeptEvidence {
	b := &ledger.KeptEvidence{
		Credential: int64(credential), Device: int64(id), Kind: a.Kind, Claims: a.Claims, Digest: sha256.Sum256(a.Evidence),
	}
	if t := a.TPM; t != nil {
		b.EK, b.Chip, b.AK, b.Plain, b.ResetCount, b.RestartCount = t.EK, t.Chip, t.AK, t.Plain, t.ResetCount, t.RestartCount
		b.Clock, b.Safe, b.Firmware, b.Vendor, b.Model = t.Clock, t.Safe, t.Firmware, t.Vendor, t.Model
	}
	return b
}

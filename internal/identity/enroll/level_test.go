package enroll

import (
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/attest"
)

// Whatever is demanded is demanded in full, and each kind of evidence is taken for
// what it proves.
func TestLevels(t *testing.T) {
	nothing, listed := shown{}, shown{kind: attest.ChipListed, claims: attest.Listed}
	signed := shown{kind: attest.ChipProof, claims: attest.Listed | attest.Fresh, vouched: true}
	held := shown{kind: attest.ChipProof, claims: attest.Listed | attest.Fresh | attest.KeyInChip}
	bare := shown{kind: attest.TPM, claims: attest.KeyInChip | attest.Fresh | attest.Listed}
	genuine := shown{kind: attest.TPM, claims: attest.KeyInChip | attest.Fresh | attest.Genuine}
	released := shown{kind: attest.TPM, claims: genuine.claims | attest.Firmware}
	const (
		proof   = fault.ChipProofMissing
		missing = fault.EvidenceMissing
		little  = fault.EvidenceTooLittle
	)
	for _, tt := range []struct {
		name                                                   string
		levels                                                 []string
		hardware                                               bool
		nothing, listed, signed, held, bare, genuine, released fault.Code
	}{
		{"nothing", []string{"", "none"}, false, 0, 0, 0, 0, 0, 0, 0},
		{"listed", []string{"listed"}, false, missing, 0, 0, 0, 0, little, little},
		{"chip", []string{"chip"}, false, proof, proof, 0, 0, 0, little, little},
		{"key in a chip", nil, true, proof, proof, 0, 0, 0, 0, 0},
		{"tpm", []string{"none", "tpm"}, false, missing, little, little, 0, 0, 0, 0},
		{"tpm by both", []string{"tpm", "tpm"}, true, missing, little, little, 0, 0, 0, 0},
		{"genuine", []string{"tpm-genuine"}, false, missing, little, little, little, little, 0, 0},
		{"listed, too", []string{"chip", "tpm-genuine"}, false, missing, little, little, little, little, little, little},
		{"firmware", []string{"tpm-firmware"}, false, missing, little, little, little, little, little, 0},
	} {
		n, err := needed(tt.hardware, tt.levels...)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			kind string
			s    shown
			want fault.Code
		}{
			{"nothing", nothing, tt.nothing},
			{"listed", listed, tt.listed},
			{"signed", signed, tt.signed},
			{"held", held, tt.held},
			{"bare", bare, tt.bare},
			{"genuine", genuine, tt.genuine},
			{"released", released, tt.released},
		} {
			err := n.check(c.s)
			if c.want == 0 && err != nil || c.want != 0 && !fault.Has(err, c.want) {
				t.Errorf("%s demanded, %s shown: %v, want %s", tt.name, c.kind, err, c.want)
			}
		}
	}
	if _, err := needed(false, "best"); !fault.Has(err, fault.EvidenceTooLittle) {
		t.Errorf("a level that is none: %v", err)
	}
}

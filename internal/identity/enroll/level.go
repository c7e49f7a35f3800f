package enroll

import (
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/attest"
)

// need is what must be proven of the hardware.
type need struct {
	claims   attest.Claims
	hardware bool // a profile wants a key that lives in a chip
	tpm      bool // a level asks for more than the signature of a listed chip shows
}

// needed unites what levels, by their names, and a profile's wish for a key in a
// chip demand.
func needed(hardware bool, levels ...string) (need, error) {
	n := need{hardware: hardware}
	for _, name := range levels {
		claims, err := attest.Least(name)
		if err != nil {
			return need{}, fault.Wrap(fault.EvidenceTooLittle, err, "there is no level", name)
		}
		n.claims |= claims
	}
	n.tpm = n.claims&^(attest.Listed|attest.Fresh) != 0
	return n, nil
}

// chip reports whether a chip has to prove itself.
func (n need) chip() bool { return n.claims&attest.Fresh != 0 || n.hardware }

// shown is what was proven of the hardware.
type shown struct {
	kind   attest.Kind // empty: nothing
	claims attest.Claims
	// vouched says that a listed chip signed for the key. It is taken as a key in
	// a chip where a profile wants one, as ever, but it is no proof: what signs for
	// a key need not hold it.
	vouched bool
}

// hardware reports whether the key counts as one that lives in a chip.
func (s shown) hardware() bool { return s.vouched || s.claims&attest.KeyInChip != 0 }

// check says what is missing: fault.ChipProofMissing where a chip's signature is,
// fault.EvidenceMissing where nothing was shown, else fault.EvidenceTooLittle.
func (n need) check(s shown) error {
	missing := attest.Missing(n.claims, s.claims)
	if n.hardware && !s.hardware() {
		missing |= attest.KeyInChip
	}
	switch {
	case missing == 0:
		return nil
	case s.kind != attest.TPM && !n.tpm && missing&attest.KeyInChip != 0:
		return fault.New(fault.ChipProofMissing, "the profile wants a key that is proven to live in a chip")
	case s.kind != attest.TPM && !n.tpm && missing&attest.Fresh != 0:
		return fault.New(fault.ChipProofMissing)
	case s.kind == "" || s.kind == attest.None:
		return fault.New(fault.EvidenceMissing, "demanded:", n.words())
	}
	return fault.New(fault.EvidenceTooLittle, "missing:", strings.Join(missing.Names(), ", "))
}

func (n need) words() string {
	claims := n.claims
	if n.hardware {
		claims |= attest.KeyInChip
	}
	return strings.Join(claims.Names(), ", ")
}

package tpm_test

import (
	"slices"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
)

// hostile is something that a device must not get through with, and the code that
// says why. try returns what the verifier said.
type hostile struct {
	code fault.Code
	name string
	try  func(t *testing.T, b *bench) error
}

// cases are all hostile cases in the order of proof.
func cases() []hostile {
	return slices.Concat(ekCases(), akCases(), certifyCases(), quoteCases(), malformedCases())
}

// TestEachRefusal tries each case on TPMs of its own.
func TestEachRefusal(t *testing.T) {
	maker := tpmtest.NewMaker(t, "Acme Chips", tpmtest.MakerOptions{})
	for _, c := range cases() {
		t.Run(c.code.String()+" "+c.name, func(t *testing.T) {
			err := c.try(t, benchOf(t, maker, tpmtest.New(t, maker, tpmtest.Options{})))
			refusedWith(t, err, c.code)
			t.Log(err)
		})
	}
}

// elsewhere are codes of the order of proof that this package never gives: tickets
// and who owns a TPM are for package enroll and the store.
var elsewhere = []fault.Code{
	fault.TicketInvalid, fault.TicketExpired, fault.TicketUsed, fault.TicketOther,
	fault.ActivationWrong, // TestActivation has its cases, in which the TPM itself refuses
}

// TestEveryCodeHasACase fails for a step of the proof that no case tries to get
// around.
func TestEveryCodeHasACase(t *testing.T) {
	tried := map[fault.Code]int{}
	for _, c := range cases() {
		tried[c.code]++
	}
	for _, e := range fault.All() {
		ours := e.Code == fault.AttestMalformed || e.Code >= fault.EKCertificate && e.Code <= fault.EventLogMismatch
		if ours && tried[e.Code] == 0 && !slices.Contains(elsewhere, e.Code) {
			t.Errorf("%v (%s) has no case", e.Code, e.Message)
		}
	}
}

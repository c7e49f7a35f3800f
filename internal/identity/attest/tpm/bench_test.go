package tpm_test

import (
	"crypto/rand"
	"testing"

	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
)

// BenchmarkEnrollment is all that the server does for one TPM: the claim, the
// credential, the ticket's part, the certified key, the quote, the kept evidence.
func BenchmarkEnrollment(b *testing.B) {
	for _, c := range []struct {
		name string
		rsa  bool // of the maker's authorities
		ek   string
		ak   wire.KeyKind
	}{
		{"RSA chain, RSA EK, P-256 AK", true, "L-1", wire.ECP256},
		{"RSA chain, RSA EK, RSA AK", true, "L-1", wire.RSA2048},
		{"RSA chain, P-384 EK, P-256 AK", true, "H-3", wire.ECP256},
		{"P-256 chain, P-256 EK, P-256 AK", false, "L-2", wire.ECP256},
	} {
		b.Run(c.name, func(b *testing.B) {
			m := tpmtest.NewMaker(b, "Acme Chips", tpmtest.MakerOptions{RSA: c.rsa})
			w := benchOf(b, m, tpmtest.New(b, m, tpmtest.Options{EK: c.ek}))
			w.ak = w.chip.NewAK(c.ak)
			w.boot("1.2")
			claim, answer := w.claim(), w.answer(b)
			p := policyOf(b, w.released(measured...))
			answer.Quote = w.chip.Quote(w.ak, w.nonce, wire.AlgSHA256, measured)
			secret, spki := make([]byte, 32), w.subject.SPKI()
			b.ReportAllocs()
			for b.Loop() {
				x, err := w.trust.Check(&claim, tpm.ClaimOptions{Now: now})
				if err != nil {
					b.Fatal(err)
				}
				if _, _, err := x.Credential(rand.Reader, secret); err != nil {
					b.Fatal(err)
				}
				sealed, err := x.MarshalBinary()
				if err != nil {
					b.Fatal(err)
				}
				s := tpm.Shown{TPM: new(tpm.TPM), Answer: answer, Nonce: w.nonce, SPKI: spki, At: now}
				if err := s.TPM.UnmarshalBinary(sealed); err != nil {
					b.Fatal(err)
				}
				ak, err := s.TPM.AK()
				if err != nil {
					b.Fatal(err)
				}
				if s.Certified, err = ak.Certified(answer, w.nonce, spki, tpm.Subject{}); err != nil {
					b.Fatal(err)
				}
				if s.Quoted, err = ak.Quoted(answer.Quote, w.nonce, p); err != nil {
					b.Fatal(err)
				}
				if _, err := s.Keep(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkSteps are the parts of BenchmarkEnrollment, with an RSA chain and EK and
// an AK on P-256.
func BenchmarkSteps(b *testing.B) {
	m := tpmtest.NewMaker(b, "Acme Chips", tpmtest.MakerOptions{RSA: true})
	w := benchOf(b, m, tpmtest.New(b, m, tpmtest.Options{EK: "L-1"}))
	w.boot("1.2")
	claim, answer := w.claim(), w.answer(b)
	x, p, spki := w.found(b), policyOf(b, w.released(measured...)), w.subject.SPKI()
	q := w.chip.Quote(w.ak, w.nonce, wire.AlgSHA256, measured)
	ak, err := x.AK()
	if err != nil {
		b.Fatal(err)
	}
	step := func(name string, do func() error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := do(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	step("claim", func() error { _, err := w.trust.Check(&claim, tpm.ClaimOptions{Now: now}); return err })
	step("credential", func() error { _, _, err := x.Credential(rand.Reader, make([]byte, 32)); return err })
	step("certified", func() error { _, err := ak.Certified(answer, w.nonce, spki, tpm.Subject{}); return err })
	step("quoted", func() error { _, err := ak.Quoted(q, w.nonce, p); return err })
}

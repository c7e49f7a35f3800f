package tpm_test

import (
	"slices"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
)

// malformedCases put an octet behind each structure, take one away, and leave the
// structure out.
func malformedCases() []hostile {
	var list []hostile
	for name, damage := range map[string]func([]byte) []byte{
		"an octet behind": func(b []byte) []byte { return append(slices.Clone(b), 0) },
		"cut":             func(b []byte) []byte { return b[:len(b)-1] },
		"missing":         func([]byte) []byte { return nil },
	} {
		claim := func(what string, field func(*wire.Claim) *[]byte) {
			list = append(list, withClaim(fault.AttestMalformed, name+": "+what, func(_ *testing.T, _ *bench, c *wire.Claim) {
				*field(c) = damage(*field(c))
			}))
		}
		claim("EK", func(c *wire.Claim) *[]byte { return &c.EKPublic })
		claim("EK without certificate", func(c *wire.Claim) *[]byte { c.EKCertificate = nil; return &c.EKPublic })
		claim("AK", func(c *wire.Claim) *[]byte { return &c.AKPublic })
		answer := func(what string, field func(*wire.Answer) *[]byte) {
			list = append(list, withAnswer(fault.AttestMalformed, name+": "+what, func(_ *testing.T, _ *bench, a *wire.Answer) {
				*field(a) = damage(*field(a))
			}))
		}
		answer("statement", func(a *wire.Answer) *[]byte { return &a.Attest })
		answer("signature", func(a *wire.Answer) *[]byte { return &a.Signature })
		answer("subject key", func(a *wire.Answer) *[]byte { return &a.Public })
		quote := func(what string, field func(*wire.Quote) *[]byte) {
			list = append(list, withQuote(fault.AttestMalformed, name+": "+what, nil, func(q *wire.Quote) { *field(q) = damage(*field(q)) }))
		}
		quote("quote", func(q *wire.Quote) *[]byte { return &q.Attest })
		quote("signature of the quote", func(q *wire.Quote) *[]byte { return &q.Signature })
	}
	return append(
		list,
		// The TPM itself signed what is behind: a TPM that does so is none.
		withAttest(fault.AttestMalformed, "an octet behind, and signed", func(a *tpmtest.Attest) { a.Tail = []byte{0} }),
		withAnswer(fault.AttestMalformed, "go-attestation: octets behind the signature", func(_ *testing.T, _ *bench, a *wire.Answer) {
			a.Signature = append(a.Signature, 1, 2, 3)
		}),
		withSubject(fault.AttestMalformed, "unknown attributes", func(a *tpmtest.Area) { a.Attributes |= 1 << 31 }),
		withAK(fault.AttestMalformed, "an AK with unknown attributes", func(a *tpmtest.Area) { a.Attributes |= 1 << 20 }),
		withAK(fault.AttestMalformed, "an AK with a policy of an odd length", func(a *tpmtest.Area) { a.AuthPolicy = make([]byte, 31) }),
		withAnswer(fault.AttestMalformed, "a signature of no scheme", func(_ *testing.T, _ *bench, a *wire.Answer) {
			a.Signature = []byte{0x00, 0x10}
		}),
	)
}

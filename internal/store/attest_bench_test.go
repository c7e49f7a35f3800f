//go:build unix

package store

import (
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// attested lets an issuance rest on evidence by a TPM of its own, of the size that
// evidence has: two certificates, an attestation, a quote.
func (is *issuer) attested(i device.Issuance) device.Issuance {
	c := &i.Credential
	k := device.Ticket{ExpiresAt: is.at.Add(10 * time.Minute)}
	spki := c.SPKIDigest
	copy(k.ID[8:], spki[:])
	evidence := make([]byte, 3000)
	rand.Read(evidence)
	i.Attestation = &device.Attestation{Ticket: k, Kind: "tpm", Claims: 19, Evidence: evidence, TPM: &device.TPMState{
		EK: spki, AK: spki, Plain: true, ResetCount: 3, Clock: 12345, Safe: true, Firmware: 1 << 40, Vendor: "id:49465800", Model: "SLB9672",
	}}
	i.Entries = append(i.Entries, ledger.Entry{Kind: ledger.EvidenceKept, At: is.at, Actor: "device:0011223344556677", Body: i.Attestation.Kept(c.ID, c.Device)})
	return i
}

// BenchmarkEvidence measures STORE for certificates that rest on a TPM's evidence,
// beside the same without.
func BenchmarkEvidence(b *testing.B) {
	s := openBench(b)
	is := newIssuer(b, s)
	for from := int64(0); from < int64(*benchRows); from += 50000 {
		is.renew(b)
		is.addRows(b, from+1<<40, min(50000, int64(*benchRows)-from), true)
	}
	for _, callers := range []int{1, 16, 64} {
		for _, kind := range []string{"none", "tpm"} {
			b.Run(fmt.Sprintf("callers=%d/%s", callers, kind), func(b *testing.B) {
				first := is.serial.Load()
				is.serial.Add(int64(b.N))
				is.addRows(b, first, int64(b.N), false)
				var work []device.Issuance
				for n := range int64(b.N) {
					if n%maxLease == 0 {
						is.renew(b)
					}
					i := is.next(first + n)
					if kind == "tpm" {
						i = is.attested(i)
					}
					work = append(work, i)
				}
				b.ReportAllocs()
				b.ResetTimer()
				measure(b, callers, "issue", func(n int) error {
					_, err := s.StoreIssuance(b.Context(), work[n])
					return err
				})
			})
		}
	}
}

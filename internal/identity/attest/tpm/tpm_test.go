package tpm_test

import (
	"crypto/rand"
	"crypto/sha256"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// bench is a server's side and a device's: a trusted maker, one of its TPMs, an AK
// and a subject key in it.
type bench struct {
	maker   *tpmtest.Maker
	trust   *tpm.Trust
	chip    *tpmtest.TPM
	ak      *tpmtest.Key
	subject *tpmtest.Key
	nonce   []byte
	listed  map[[32]byte]bool
}

func newBench(tb testing.TB) *bench {
	tb.Helper()
	m := tpmtest.NewMaker(tb, "Acme Chips", tpmtest.MakerOptions{})
	return benchOf(tb, m, tpmtest.New(tb, m, tpmtest.Options{}))
}

func benchOf(tb testing.TB, m *tpmtest.Maker, chip *tpmtest.TPM) *bench {
	tb.Helper()
	b := devices(m, chip)
	b.trust = trustIn(tb, tpmtest.Bundle(4, m))
	return b
}

// devices is a bench on which nobody is trusted yet.
func devices(m *tpmtest.Maker, chip *tpmtest.TPM) *bench {
	b := &bench{maker: m, chip: chip, ak: chip.NewAK(wire.ECP256), subject: chip.NewSubject(wire.ECP256), nonce: make([]byte, 32), listed: map[[32]byte]bool{}}
	rand.Read(b.nonce)
	return b
}

func trustIn(tb testing.TB, files ...*attest.RootsFile) *tpm.Trust {
	tb.Helper()
	t, err := tpm.NewTrust(files)
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

func (b *bench) check(c wire.Claim) (*tpm.TPM, error) {
	return b.trust.Check(&c, tpm.ClaimOptions{Now: now, Listed: func(ek [32]byte) (bool, error) { return b.listed[ek], nil }})
}

// list puts an EK into an imported manifest.
func (b *bench) list(ek *tpmtest.Key) { b.listed[sha256.Sum256(ek.SPKI())] = true }

func (b *bench) claim() wire.Claim { return b.chip.Claim(b.ak) }

func (b *bench) found(tb testing.TB) *tpm.TPM {
	tb.Helper()
	x, err := b.check(b.claim())
	if err != nil {
		tb.Fatal(err)
	}
	return x
}

// answer is what an honest device sends.
func (b *bench) answer(tb testing.TB, edits ...func(*tpmtest.Attest)) *wire.Answer {
	tb.Helper()
	binding := wire.Binding(b.nonce, b.subject.SPKI())
	a := &wire.Answer{Public: b.subject.Public()}
	a.Attest, a.Signature = b.chip.Certify(b.ak, b.subject, binding[:], edits...)
	return a
}

func (b *bench) certified(a *wire.Answer) (*tpm.Certification, error) {
	ak, err := tpm.ParseAK(b.ak.Public())
	if err != nil {
		return nil, err
	}
	return ak.Certified(a, b.nonce, b.subject.SPKI(), tpm.Subject{})
}

func refusedWith(tb testing.TB, err error, want fault.Code) {
	tb.Helper()
	if !fault.Has(err, want) {
		tb.Errorf("got %v, want %v", err, want)
	}
}

// TestEnrollment is the whole conversation, for each kind of EK and AK.
func TestEnrollment(t *testing.T) {
	maker := tpmtest.NewMaker(t, "Acme Chips", tpmtest.MakerOptions{})
	for _, ek := range []string{"L-1", "L-2", "H-1", "H-2", "H-3", "H-4", "H-6"} {
		t.Run(ek, func(t *testing.T) {
			b := benchOf(t, maker, tpmtest.New(t, maker, tpmtest.Options{EK: ek}))
			conversation(t, b, ek)
		})
	}
}

func conversation(t *testing.T, b *bench, form string) {
	x := b.found(t)
	if !x.Genuine || x.EKForm != form || x.Vendor != "id:54455354" || x.Maker != "Acme Chips" || x.Bundle != "tpm-makers 4" {
		t.Errorf("found %+v", x)
	}
	secret := []byte("0123456789abcdef0123456789abcdef")
	credential, encrypted, err := x.Credential(rand.Reader, secret)
	if err != nil {
		t.Fatal(err)
	}
	challenge := &wire.Challenge{Credential: credential, Secret: encrypted, Nonce: b.nonce, Ticket: []byte("ticket")}
	a, err := b.chip.Answer(b.ak, b.subject, challenge)
	if err != nil || string(a.Secret) != string(secret) {
		t.Fatalf("secret %q, %v", a.Secret, err)
	}
	ak, err := x.AK()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ak.Certified(&a, b.nonce, b.subject.SPKI(), tpm.Subject{}); err != nil {
		t.Error(err)
	}
}

package tpm_test

import (
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
)

// withAK is a claim with another AK.
func withAK(code fault.Code, name string, edit func(*tpmtest.Area)) hostile {
	return hostile{code, name, func(t *testing.T, b *bench) error {
		area := tpmtest.AKArea(wire.ECP256)
		edit(&area)
		c := b.chip.Claim(tpmtest.NewKey(t, b.chip, area, tpmtest.Owner))
		_, err := b.check(c)
		return err
	}}
}

func akCases() []hostile {
	const must = fault.AKAttributes
	clear := func(a wire.Attributes) func(*tpmtest.Area) { return func(area *tpmtest.Area) { area.Attributes &^= a } }
	set := func(a wire.Attributes) func(*tpmtest.Area) { return func(area *tpmtest.Area) { area.Attributes |= a } }
	rsa2048 := func(edit func(*tpmtest.Area)) func(*tpmtest.Area) {
		return func(a *tpmtest.Area) { *a = tpmtest.AKArea(wire.RSA2048); edit(a) }
	}
	scheme := func(alg, hash wire.Alg) func(*tpmtest.Area) {
		return func(a *tpmtest.Area) { a.Scheme = wire.Scheme{Alg: alg, Hash: hash} }
	}
	return []hostile{
		withAK(must, "go-attestation: not restricted", clear(wire.Restricted)),
		withAK(must, "go-attestation: not fixedTPM", clear(wire.FixedTPM)),
		withAK(must, "not fixedParent", clear(wire.FixedParent)),
		withAK(must, "HPE DevID: no sensitiveDataOrigin", clear(wire.SensitiveDataOrigin)),
		withAK(must, "it does not sign", clear(wire.Sign)),
		withAK(must, "it decrypts as well", set(wire.Decrypt)),
		withAK(must, "it signs certificates that the TPM parsed", set(wire.X509Sign)),
		withAK(must, "it may be duplicated", set(wire.EncryptedDuplication)),
		withAK(fault.AKAlgorithm, "no scheme", scheme(wire.AlgNull, 0)),
		withAK(fault.AKAlgorithm, "ECDSA with SHA-1", scheme(wire.AlgECDSA, wire.AlgSHA1)),
		withAK(fault.AKAlgorithm, "a key agreement in place of a signature", scheme(wire.AlgECDH, wire.AlgSHA256)),
		withAK(fault.AKAlgorithm, "named by SHA-1", func(a *tpmtest.Area) { a.NameAlg = wire.AlgSHA1 }),
		withAK(fault.AKAlgorithm, "a cipher", func(a *tpmtest.Area) { a.Symmetric = wire.Symmetric{Alg: wire.AlgAES, KeyBits: 128, Mode: wire.AlgCFB} }),
		withAK(fault.AKAlgorithm, "a key derivation", func(a *tpmtest.Area) { a.KDF = wire.Scheme{Alg: 0x20, Hash: wire.AlgSHA256} }),
		withAK(fault.AKAlgorithm, "RSA without a scheme", rsa2048(scheme(wire.AlgNull, 0))),
		withAK(fault.AKAlgorithm, "RSASSA with SHA-1", rsa2048(scheme(wire.AlgRSASSA, wire.AlgSHA1))),
		withAK(fault.AKAlgorithm, "RSAPSS with SHA-1", rsa2048(scheme(wire.AlgRSAPSS, wire.AlgSHA1))),
		withAK(fault.AKAlgorithm, "OAEP", rsa2048(scheme(wire.AlgOAEP, wire.AlgSHA256))),
		withAK(fault.AKAlgorithm, "RSA with an unusual exponent", rsa2048(func(a *tpmtest.Area) { a.Exponent = 65539 })),
		{fault.AKAlgorithm, "RSA-1024", func(t *testing.T, b *bench) error {
			area := tpmtest.AKArea(wire.RSA2048)
			area.Bits = 1024
			key, err := rsa.GenerateKey(rand.Reader, 1024)
			if err != nil {
				t.Fatal(err)
			}
			_, err = b.check(b.chip.Claim(&tpmtest.Key{Area: area, Signer: key}))
			return err
		}},
	}
}

// TestAKAttributes clears restricted, sign, fixedTPM, fixedParent and
// sensitiveDataOrigin in all combinations: of 32, exactly one is accepted.
func TestAKAttributes(t *testing.T) {
	needed := []wire.Attributes{wire.Restricted, wire.Sign, wire.FixedTPM, wire.FixedParent, wire.SensitiveDataOrigin}
	accepted := combinations(needed, func(cleared wire.Attributes) error {
		area := tpmtest.AKArea(wire.ECP256)
		area.Attributes &^= cleared
		_, err := tpm.ParseAK(tpmtest.NewKey(t, nil, area, tpmtest.Owner).Public())
		if err != nil {
			refusedWith(t, err, fault.AKAttributes)
		}
		return err
	})
	if accepted != 1 {
		t.Errorf("%d of 32 were accepted", accepted)
	}
}

// combinations tries each subset of attributes and counts those that pass.
func combinations(of []wire.Attributes, try func(subset wire.Attributes) error) int {
	accepted := 0
	for n := range 1 << len(of) {
		var subset wire.Attributes
		for i, a := range of {
			if n&(1<<i) != 0 {
				subset |= a
			}
		}
		if try(subset) == nil {
			accepted++
		}
	}
	return accepted
}

// TestGoodAKs are the algorithms that an AK may have; each certifies.
func TestGoodAKs(t *testing.T) {
	rsaArea := func(alg, hash wire.Alg) tpmtest.Area {
		a := tpmtest.AKArea(wire.RSA2048)
		a.Scheme = wire.Scheme{Alg: alg, Hash: hash}
		return a
	}
	p521 := tpmtest.AKArea(wire.ECP384)
	p521.Curve, p521.NameAlg, p521.Scheme.Hash = wire.P521, wire.AlgSHA512, wire.AlgSHA512
	own := tpmtest.AKArea(wire.ECP256)
	own.AuthPolicy = make([]byte, 32)
	for name, area := range map[string]tpmtest.Area{
		"P-256":                      tpmtest.AKArea(wire.ECP256),
		"P-384":                      tpmtest.AKArea(wire.ECP384),
		"P-521":                      p521,
		"with a policy":              own,
		"RSASSA":                     rsaArea(wire.AlgRSASSA, wire.AlgSHA256),
		"RSASSA with SHA-384":        rsaArea(wire.AlgRSASSA, wire.AlgSHA384),
		"go-attestation: RSAPSS":     rsaArea(wire.AlgRSAPSS, wire.AlgSHA256),
		"RSAPSS with SHA-512":        rsaArea(wire.AlgRSAPSS, wire.AlgSHA512),
		"the template of our agents": tpmtest.AKArea(wire.RSA2048),
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.ak = tpmtest.NewKey(t, b.chip, area, tpmtest.Owner)
			b.found(t)
			if _, err := b.certified(b.answer(t)); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestActivation: only the TPM of the EK opens a credential, and only for the AK
// with exactly the public area that was checked.
func TestActivation(t *testing.T) {
	secret := []byte("0123456789abcdef0123456789abcdef")
	b := newBench(t)
	other := tpmtest.New(t, b.maker, tpmtest.Options{})
	area := tpmtest.AKArea(wire.ECP256)
	area.Attributes &^= wire.Restricted
	unrestricted := tpmtest.NewKey(t, b.chip, area, tpmtest.Owner)
	for name, c := range map[string]struct {
		claim func() wire.Claim
		chip  *tpmtest.TPM
		ak    *tpmtest.Key // that the TPM holds
		opens bool
	}{
		"honest":                       {b.claim, b.chip, b.ak, true},
		"EK of one TPM, AK of another": {b.claim, other, b.ak, false},
		"another AK of the same TPM":   {b.claim, b.chip, b.chip.NewAK(wire.ECP256), false},
		"go-attestation: AK with edited attributes": {func() wire.Claim {
			// The key is not restricted; the claim says it is.
			c := b.claim()
			area := unrestricted.Area
			area.Attributes |= wire.Restricted
			c.AKPublic = area.Bytes(unrestricted.Signer.Public())
			return c
		}, b.chip, unrestricted, false},
	} {
		t.Run(name, func(t *testing.T) {
			claim := c.claim()
			x, err := b.check(claim)
			if err != nil {
				t.Fatal(err)
			}
			credential, encrypted, err := x.Credential(rand.Reader, secret)
			if err != nil {
				t.Fatal(err)
			}
			opened, err := c.chip.ActivateCredential(c.ak, credential, encrypted)
			if c.opens && (err != nil || string(opened) != string(secret)) || !c.opens && !errors.Is(err, tpmtest.ErrIntegrity) {
				t.Errorf("opened %q, %v", opened, err)
			}
		})
	}
}

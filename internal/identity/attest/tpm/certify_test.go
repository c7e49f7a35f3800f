package tpm_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"slices"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
)

// withAttest is an answer in which the AK signs something else.
func withAttest(code fault.Code, name string, edit func(*tpmtest.Attest)) hostile {
	return hostile{code, name, func(t *testing.T, b *bench) error {
		_, err := b.certified(b.answer(t, edit))
		return err
	}}
}

// withAnswer is an answer that was tampered with.
func withAnswer(code fault.Code, name string, edit func(t *testing.T, b *bench, a *wire.Answer)) hostile {
	return hostile{code, name, func(t *testing.T, b *bench) error {
		a := b.answer(t)
		edit(t, b, a)
		_, err := b.certified(a)
		return err
	}}
}

// withSubject is an answer about another subject key.
func withSubject(code fault.Code, name string, edit func(*tpmtest.Area)) hostile {
	return hostile{code, name, func(t *testing.T, b *bench) error {
		area := tpmtest.SubjectArea(wire.ECP256)
		edit(&area)
		b.subject = tpmtest.NewKey(t, b.chip, area, tpmtest.Owner)
		_, err := b.certified(b.answer(t))
		return err
	}}
}

// TestBareNonces: where the form of the evidence knows no binding, the nonce itself
// is what the AK signs, and nothing else is.
func TestBareNonces(t *testing.T) {
	b := newBench(t)
	ak, err := b.found(t).AK()
	if err != nil {
		t.Fatal(err)
	}
	bound := b.answer(t)
	bare := b.answer(t, func(a *tpmtest.Attest) { a.ExtraData = b.nonce })
	want := tpm.Subject{Bare: true}
	made, err := ak.Certified(bare, b.nonce, b.subject.SPKI(), want)
	if err != nil || !made.Bare {
		t.Fatalf("%+v, %v", made, err)
	}
	if _, err := ak.Certified(bound, b.nonce, b.subject.SPKI(), want); !fault.Has(err, fault.CertifyNonce) {
		t.Errorf("bound: %v", err)
	}
	if _, err := ak.Certified(bare, b.nonce[:15], b.subject.SPKI(), want); !fault.Has(err, fault.CertifyNonce) {
		t.Errorf("a short nonce: %v", err)
	}
	other := b.chip.NewSubject(wire.ECP256)
	if _, err := ak.Certified(bare, b.nonce, other.SPKI(), want); !fault.Has(err, fault.SubjectKey) {
		t.Errorf("another key: %v", err)
	}
	s := b.shown(t, false)
	s.Answer, s.Certified = bare, made
	k := keep(t, s)
	if err := k.Recheck(); err != nil {
		t.Errorf("kept: %v", err)
	}
	k.Certify.Bare = false
	if err := k.Recheck(); !fault.Has(err, fault.CertifyNonce) {
		t.Errorf("kept as bound: %v", err)
	}
}

func certifyCases() []hostile {
	extra := func(nonce func(b *bench) []byte) func(t *testing.T, b *bench) error {
		return func(t *testing.T, b *bench) error {
			_, err := b.certified(b.answer(t, func(a *tpmtest.Attest) { a.ExtraData = nonce(b) }))
			return err
		}
	}
	signedAs := func(scheme wire.Scheme) func(t *testing.T, b *bench, a *wire.Answer) {
		return func(t *testing.T, b *bench, a *wire.Answer) {
			a.Signature = tpmtest.SignAs(t, b.ak.Signer, scheme, a.Attest)
		}
	}
	return slices.Concat([]hostile{
		withAttest(fault.CertifyMagic, "HPE DevID: the magic of a text", func(a *tpmtest.Attest) { a.Magic = 0x7B226E61 }),
		withAttest(fault.CertifyMagic, "no magic", func(a *tpmtest.Attest) { a.Magic = 0 }),
		withAttest(fault.CertifyType, "HPE DevID: a quote", func(a *tpmtest.Attest) { a.Type = wire.TypeQuote }),
		withAttest(fault.CertifyType, "the attestation of a creation", func(a *tpmtest.Attest) { a.Type = wire.TypeCreation }),
		{fault.CertifySignature, "go-attestation: forged over a software key", func(t *testing.T, b *bench) error {
			// The key is in no TPM; so is the key that says it were.
			forger := tpmtest.NewKey(t, nil, b.ak.Area, tpmtest.Owner)
			binding := wire.Binding(b.nonce, b.subject.SPKI())
			a := &wire.Answer{Public: b.subject.Public()}
			a.Attest, a.Signature = b.chip.Certify(forger, b.subject, binding[:])
			_, err := b.certified(a)
			return err
		}},
		withAnswer(fault.CertifySignature, "signed by the subject key itself", func(t *testing.T, b *bench, a *wire.Answer) {
			a.Signature = tpmtest.SignAs(t, b.subject.Signer, b.ak.Area.Scheme, a.Attest)
		}),
		withAnswer(fault.CertifySignature, "signed with another hash", signedAs(wire.Scheme{Alg: wire.AlgECDSA, Hash: wire.AlgSHA384})),
		withAnswer(fault.CertifySignature, "signed with SHA-1", signedAs(wire.Scheme{Alg: wire.AlgECDSA, Hash: wire.AlgSHA1})),
		{fault.CertifySignature, "an RSA signature of the other scheme", func(t *testing.T, b *bench) error {
			b.ak = b.chip.NewAK(wire.RSA2048)
			a := b.answer(t)
			a.Signature = tpmtest.SignAs(t, b.ak.Signer, wire.Scheme{Alg: wire.AlgRSAPSS, Hash: wire.AlgSHA256}, a.Attest)
			_, err := b.certified(a)
			return err
		}},
		withAnswer(fault.CertifySignature, "the signature of another statement", func(t *testing.T, b *bench, a *wire.Answer) {
			a.Signature = b.answer(t).Signature
		}),
		{fault.CertifyNonce, "go-attestation: another nonce", extra(func(b *bench) []byte {
			binding := wire.Binding(make([]byte, 32), b.subject.SPKI())
			return binding[:]
		})},
		{fault.CertifyNonce, "HPE DevID: no nonce", extra(func(*bench) []byte { return nil })},
		{fault.CertifyNonce, "the nonce itself, bound to no key", extra(func(b *bench) []byte { return b.nonce })},
		{fault.CertifyNonce, "bound to another key", extra(func(b *bench) []byte {
			binding := wire.Binding(b.nonce, b.ak.SPKI())
			return binding[:]
		})},
		{fault.CertifyNonce, "an octet behind the binding", extra(func(b *bench) []byte {
			binding := wire.Binding(b.nonce, b.subject.SPKI())
			return append(binding[:], 0)
		})},
		{fault.CertifyNonce, "a server that lost its nonce", func(t *testing.T, b *bench) error {
			b.nonce = nil
			_, err := b.certified(b.answer(t))
			return err
		}},
		withAttest(fault.CertifyName, "no name", func(a *tpmtest.Attest) { a.Name = nil }),
		{fault.CertifyName, "the name of another key", func(t *testing.T, b *bench) error {
			other := b.chip.NewSubject(wire.ECP256)
			_, err := b.certified(b.answer(t, func(a *tpmtest.Attest) { a.Name = other.Name() }))
			return err
		}},
		{fault.CertifyName, "a subject key with edited attributes", func(t *testing.T, b *bench) error {
			area := b.subject.Area
			area.Attributes &^= wire.FixedTPM
			b.subject.Area = area
			a := b.answer(t)
			area.Attributes |= wire.FixedTPM
			a.Public = area.Bytes(b.subject.Signer.Public())
			_, err := b.certified(a)
			return err
		}},
		{fault.CertifyName, "the AK's own name, the subject from software", func(t *testing.T, b *bench) error {
			_, err := b.certified(b.answer(t, func(a *tpmtest.Attest) { a.Name = b.ak.Name() }))
			return err
		}},
		{fault.SubjectKey, "the request is for another key", func(t *testing.T, b *bench) error {
			csr := tpmtest.NewKey(t, nil, b.subject.Area, tpmtest.Owner)
			ak, err := tpm.ParseAK(b.ak.Public())
			if err != nil {
				t.Fatal(err)
			}
			binding := wire.Binding(b.nonce, csr.SPKI())
			a := &wire.Answer{Public: b.subject.Public()}
			a.Attest, a.Signature = b.chip.Certify(b.ak, b.subject, binding[:])
			_, err = ak.Certified(a, b.nonce, csr.SPKI(), tpm.Subject{})
			return err
		}},
	}, subjectCases())
}

func subjectCases() []hostile {
	const no = fault.SubjectAttributes
	clear := func(a wire.Attributes) func(*tpmtest.Area) { return func(area *tpmtest.Area) { area.Attributes &^= a } }
	set := func(a wire.Attributes) func(*tpmtest.Area) { return func(area *tpmtest.Area) { area.Attributes |= a } }
	return []hostile{
		withSubject(no, "a key that may leave the TPM", clear(wire.FixedTPM)),
		withSubject(no, "a key that may leave its parent", clear(wire.FixedParent)),
		withSubject(no, "an imported key", clear(wire.SensitiveDataOrigin)),
		withSubject(no, "go-attestation: a key that only decrypts", func(a *tpmtest.Area) {
			a.Attributes = a.Attributes&^wire.Sign | wire.Decrypt
		}),
		withSubject(no, "a key that decrypts as well", set(wire.Decrypt)),
		withSubject(no, "a restricted key", set(wire.Restricted)),
		withSubject(no, "a key that signs certificates that the TPM parsed", set(wire.X509Sign)),
		withSubject(no, "a key that may be duplicated", set(wire.EncryptedDuplication)),
		withSubject(no, "a key named by SHA-1", func(a *tpmtest.Area) { a.NameAlg = wire.AlgSHA1 }),
		withSubject(no, "a key bound to SHA-1", func(a *tpmtest.Area) { a.Scheme = wire.Scheme{Alg: wire.AlgECDSA, Hash: wire.AlgSHA1} }),
		{no, "RSA-1024", func(t *testing.T, b *bench) error {
			area := tpmtest.SubjectArea(wire.RSA2048)
			area.Bits = 1024
			b.subject = tpmtest.NewKey(t, b.chip, area, tpmtest.Owner)
			_, err := b.certified(b.answer(t))
			return err
		}},
		{no, "the AK certifies itself", func(t *testing.T, b *bench) error {
			b.subject = b.ak
			_, err := b.certified(b.answer(t))
			return err
		}},
	}
}

// TestSubjectAttributes changes restricted, sign, fixedTPM, fixedParent and
// sensitiveDataOrigin in all combinations: of 32, exactly one is accepted.
func TestSubjectAttributes(t *testing.T) {
	b := newBench(t)
	changed := []wire.Attributes{wire.Restricted, wire.Sign, wire.FixedTPM, wire.FixedParent, wire.SensitiveDataOrigin}
	accepted := combinations(changed, func(subset wire.Attributes) error {
		area := tpmtest.SubjectArea(wire.ECP256)
		area.Attributes ^= subset
		b.subject = tpmtest.NewKey(t, b.chip, area, tpmtest.Owner)
		_, err := b.certified(b.answer(t))
		if err != nil {
			refusedWith(t, err, fault.SubjectAttributes)
		}
		return err
	})
	if accepted != 1 {
		t.Errorf("%d of 32 were accepted", accepted)
	}
}

// TestGoodSubjects are the keys that an AK may certify, below any parent.
func TestGoodSubjects(t *testing.T) {
	b := newBench(t)
	bound := tpmtest.SubjectArea(wire.ECP256)
	bound.Scheme = wire.Scheme{Alg: wire.AlgECDSA, Hash: wire.AlgSHA256}
	p521 := tpmtest.SubjectArea(wire.ECP384)
	p521.Curve = wire.P521
	for name, area := range map[string]tpmtest.Area{
		"P-256":             tpmtest.SubjectArea(wire.ECP256),
		"P-384":             tpmtest.SubjectArea(wire.ECP384),
		"P-521":             p521,
		"RSA":               tpmtest.SubjectArea(wire.RSA2048),
		"bound to a scheme": bound,
	} {
		t.Run(name, func(t *testing.T) {
			b.subject = tpmtest.NewKey(t, b.chip, area, tpmtest.Owner)
			if c, err := b.certified(b.answer(t)); err != nil || string(c.Name) != string(b.subject.Name()) {
				t.Errorf("%+v, %v", c, err)
			}
		})
	}
}

// TestDecryptOnlyWhereAsked: the profile may allow a key that decrypts as well.
func TestDecryptOnlyWhereAsked(t *testing.T) {
	b := newBench(t)
	area := tpmtest.SubjectArea(wire.ECP256)
	area.Attributes |= wire.Decrypt
	b.subject = tpmtest.NewKey(t, b.chip, area, tpmtest.Owner)
	ak, err := tpm.ParseAK(b.ak.Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ak.Certified(b.answer(t), b.nonce, b.subject.SPKI(), tpm.Subject{Decrypt: true}); err != nil {
		t.Error(err)
	}
	_, err = ak.Certified(b.answer(t), b.nonce, b.subject.SPKI(), tpm.Subject{})
	refusedWith(t, err, fault.SubjectAttributes)
}

// TestBareNonce: evidence whose form knows no binding has the nonce itself; each form
// is refused where the other is expected.
func TestBareNonce(t *testing.T) {
	b := newBench(t)
	ak, err := tpm.ParseAK(b.ak.Public())
	if err != nil {
		t.Fatal(err)
	}
	a := &wire.Answer{Public: b.subject.Public()}
	a.Attest, a.Signature = b.chip.Certify(b.ak, b.subject, b.nonce)
	c, err := ak.Certified(a, b.nonce, b.subject.SPKI(), tpm.Subject{Bare: true})
	if err != nil || !c.Bare {
		t.Errorf("%+v, %v", c, err)
	}
	_, err = ak.Certified(a, b.nonce, b.subject.SPKI(), tpm.Subject{})
	refusedWith(t, err, fault.CertifyNonce)
	_, err = ak.Certified(b.answer(t), b.nonce, b.subject.SPKI(), tpm.Subject{Bare: true})
	refusedWith(t, err, fault.CertifyNonce)
	_, err = ak.Certified(a, b.nonce, b.chip.NewSubject(wire.ECP256).SPKI(), tpm.Subject{Bare: true})
	refusedWith(t, err, fault.SubjectKey)
	k := keep(t, &tpm.Shown{TPM: b.found(t), Answer: a, Nonce: b.nonce, SPKI: b.subject.SPKI(), Certified: c, At: now})
	if err := k.Recheck(); err != nil {
		t.Error(err)
	}
}

// TestPlain: the counters are the TPM's own only where the qualified name of the
// signer proves that the key is in the endorsement or the platform hierarchy.
func TestPlain(t *testing.T) {
	b := newBench(t)
	storage := tpmtest.NewKey(t, b.chip, tpmtest.Area{
		Type: wire.AlgECC, NameAlg: wire.AlgSHA256, Curve: wire.P256, Attributes: wire.FixedTPM | wire.Restricted | wire.Decrypt,
		Symmetric: wire.Symmetric{Alg: wire.AlgAES, KeyBits: 128, Mode: wire.AlgCFB},
	}, tpmtest.Endorsement)
	for name, c := range map[string]struct {
		parent uint32
		under  *tpmtest.Key
		plain  bool
	}{
		"owner hierarchy":                            {tpmtest.Owner, nil, false},
		"endorsement hierarchy":                      {tpmtest.Endorsement, nil, true},
		"platform hierarchy":                         {tpmtest.Platform, nil, true},
		"below the EK":                               {0, b.chip.EK, true},
		"below a key that we do not know":            {0, storage, false}, // it is plain, but nothing proves it
		"below an EK that is in the owner hierarchy": {0, &tpmtest.Key{Area: b.chip.EK.Area, Signer: b.chip.EK.Signer, Parent: tpmtest.Owner}, false},
	} {
		t.Run(name, func(t *testing.T) {
			b.ak.Parent, b.ak.Under = c.parent, c.under
			ak, err := b.found(t).AK()
			if err != nil {
				t.Fatal(err)
			}
			got, err := ak.Certified(b.answer(t), b.nonce, b.subject.SPKI(), tpm.Subject{})
			if err != nil {
				t.Fatal(err)
			}
			if got.Counters.Plain != c.plain {
				t.Errorf("plain: %v", got.Counters.Plain)
			}
			if c.plain && (got.Counters.ResetCount != b.chip.ResetCount || got.Counters.Firmware != b.chip.Firmware) {
				t.Errorf("%+v", got.Counters)
			}
		})
	}
}

// TestNoSubjectOnAnotherCurve: P-224 is no curve of ours, and the reader says so.
func TestNoSubjectOnAnotherCurve(t *testing.T) {
	b := newBench(t)
	key, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	area := tpmtest.SubjectArea(wire.ECP256)
	area.Curve = 2
	b.subject = &tpmtest.Key{Area: area, Signer: key}
	_, err = b.certified(b.answer(t))
	refusedWith(t, err, fault.AttestMalformed)
}

package tpm_test

import (
	"bytes"
	"crypto/rand"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
)

// flip returns b with one bit changed.
func flip(t *rapid.T, b []byte) []byte {
	b = slices.Clone(b)
	i := rapid.IntRange(0, 8*len(b)-1).Draw(t, "bit")
	b[i/8] ^= 1 << (i % 8)
	return b
}

// eachBit calls try with each copy of b that differs in one bit.
func eachBit(b []byte, try func(changed []byte, bit int)) {
	for i := range 8 * len(b) {
		changed := slices.Clone(b)
		changed[i/8] ^= 1 << (i % 8)
		try(changed, i)
	}
}

// TestEachBitCounts changes every bit of an honest claim, answer and quote, one at a
// time.
func TestEachBitCounts(t *testing.T) {
	b := newBench(t)
	b.boot("1.2")
	f := b.released(measured...)
	f.EventLog = false
	p := policyOf(t, f)
	a, q, c := b.answer(t), b.chip.Quote(b.ak, b.nonce, wire.AlgSHA256, measured), b.claim()
	for _, field := range []*[]byte{&a.Attest, &a.Signature, &a.Public} {
		honest := *field
		eachBit(honest, func(changed []byte, bit int) {
			*field = changed
			if _, err := b.certified(a); err == nil {
				t.Errorf("bit %d of %x changed, and it is accepted", bit, honest)
			}
		})
		*field = honest
	}
	for _, field := range []*[]byte{&q.Attest, &q.Signature} {
		honest := *field
		eachBit(honest, func(changed []byte, bit int) {
			*field = changed
			if _, err := b.quoted(q, p); err == nil {
				t.Errorf("bit %d of %x changed, and it is accepted", bit, honest)
			}
		})
		*field = honest
	}
	for _, field := range []*[]byte{&c.EKCertificate, &c.EKPublic} {
		honest := *field
		eachBit(honest, func(changed []byte, bit int) {
			*field = changed
			if _, err := b.check(c); err == nil {
				t.Errorf("bit %d of %x changed, and it is accepted", bit, honest)
			}
		})
		*field = honest
	}
	if _, err := b.certified(a); err != nil {
		t.Error(err)
	}
	if _, err := b.quoted(q, p); err != nil {
		t.Error(err)
	}
	if _, err := b.check(c); err != nil {
		t.Error(err)
	}
}

// TestNoBitMayChange: whatever bit of an honest answer or quote changes, it is
// refused.
func TestNoBitMayChange(t *testing.T) {
	for _, kind := range []wire.KeyKind{wire.ECP256, wire.RSA2048} {
		t.Run(string(kind), func(t *testing.T) {
			b := newBench(t)
			b.boot("1.2")
			b.ak = b.chip.NewAK(kind)
			a := b.answer(t)
			f := b.released(measured...)
			f.EventLog = false // texts in a log are not signed, TestQuoted has them
			p := policyOf(t, f)
			q := b.chip.Quote(b.ak, b.nonce, wire.AlgSHA256, measured)
			ak, err := tpm.ParseAK(b.ak.Public())
			if err != nil {
				t.Fatal(err)
			}
			spki := b.subject.SPKI()
			rapid.Check(t, func(t *rapid.T) {
				answer, quote, nonce, key := *a, *q, b.nonce, spki
				fields := []*[]byte{&answer.Attest, &answer.Signature, &answer.Public, &nonce, &key}
				if rapid.Bool().Draw(t, "quote") {
					quote.PCRs = map[int][]byte{}
					maps.Copy(quote.PCRs, q.PCRs)
					if rapid.Bool().Draw(t, "value") {
						pcr := rapid.SampledFrom(measured).Draw(t, "pcr")
						quote.PCRs[pcr] = flip(t, quote.PCRs[pcr])
					} else {
						field := rapid.SampledFrom([]*[]byte{&quote.Attest, &quote.Signature, &nonce}).Draw(t, "field")
						*field = flip(t, *field)
					}
					if _, err := ak.Quoted(&quote, nonce, p); err == nil {
						t.Fatal("a changed quote was accepted")
					}
					return
				}
				field := rapid.SampledFrom(fields).Draw(t, "field")
				*field = flip(t, *field)
				if _, err := ak.Certified(&answer, nonce, key, tpm.Subject{}); err == nil {
					t.Fatal("a changed answer was accepted")
				}
			})
		})
	}
}

// TestNoBitOfAClaimMayChange: a changed claim is refused at once, or its credential
// is opened by no TPM.
func TestNoBitOfAClaimMayChange(t *testing.T) {
	m := tpmtest.NewMaker(t, "Acme Chips", tpmtest.MakerOptions{})
	for _, form := range []string{"L-1", "L-2"} {
		t.Run(form, func(t *testing.T) {
			b := benchOf(t, m, tpmtest.New(t, m, tpmtest.Options{EK: form}))
			honest := b.claim()
			secret := []byte("secret")
			rapid.Check(t, func(t *rapid.T) {
				c := honest
				field := rapid.SampledFrom([]*[]byte{&c.EKCertificate, &c.EKPublic, &c.AKPublic}).Draw(t, "field")
				*field = flip(t, *field)
				x, err := b.check(c)
				if err != nil {
					return
				}
				if field != &c.AKPublic {
					t.Fatal("a changed endorsement key or certificate was accepted")
				}
				credential, encrypted, err := x.Credential(rand.Reader, secret)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := b.chip.ActivateCredential(b.ak, credential, encrypted); err == nil {
					t.Fatal("the credential of a changed AK was opened")
				}
			})
		})
	}
}

// TestNoBitOfACredentialMayChange: what the TPM opens is what we made.
func TestNoBitOfACredentialMayChange(t *testing.T) {
	m := tpmtest.NewMaker(t, "Acme Chips", tpmtest.MakerOptions{})
	for _, form := range []string{"L-1", "L-2", "H-3"} {
		t.Run(form, func(t *testing.T) {
			b := benchOf(t, m, tpmtest.New(t, m, tpmtest.Options{EK: form}))
			x := b.found(t)
			rapid.Check(t, func(t *rapid.T) {
				secret := rapid.SliceOfN(rapid.Byte(), 1, 32).Draw(t, "secret")
				credential, encrypted, err := x.Credential(rand.Reader, secret)
				if err != nil {
					t.Fatal(err)
				}
				opened, err := b.chip.ActivateCredential(b.ak, credential, encrypted)
				if err != nil || !bytes.Equal(opened, secret) {
					t.Fatalf("opened %x, want %x: %v", opened, secret, err)
				}
				if rapid.Bool().Draw(t, "which") {
					credential = flip(t, credential)
				} else {
					encrypted = flip(t, encrypted)
				}
				if _, err := b.chip.ActivateCredential(b.ak, credential, encrypted); err == nil {
					t.Fatal("a changed credential was opened")
				}
			})
		})
	}
}

// TestBinary: a TPM comes out of a ticket as it went in.
func TestBinary(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		octets := rapid.SliceOfN(rapid.Byte(), 1, 3000)
		text := rapid.String()
		x := tpm.TPM{
			EKSPKI: octets.Draw(t, "spki"), EKForm: text.Draw(t, "form"), EKCertificate: octets.Draw(t, "certificate"),
			EKChain: rapid.SliceOfN(octets, 0, 3).Draw(t, "chain"), Genuine: rapid.Bool().Draw(t, "genuine"), Expired: rapid.Bool().Draw(t, "expired"),
			Maker: text.Draw(t, "maker"), Bundle: text.Draw(t, "bundle"), Vendor: text.Draw(t, "vendor"), Model: text.Draw(t, "model"),
			Version: text.Draw(t, "version"), HardwareSerial: text.Draw(t, "serial"),
			EKPublic: octets.Draw(t, "ek"), AKPublic: octets.Draw(t, "ak"),
		}
		b, err := x.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var y tpm.TPM
		if err := y.UnmarshalBinary(b); err != nil {
			t.Fatal(err)
		}
		again, err := y.MarshalBinary()
		if err != nil || !bytes.Equal(again, b) || y.Maker != x.Maker || !bytes.Equal(y.AKPublic, x.AKPublic) || len(y.EKChain) != len(x.EKChain) {
			t.Fatalf("%+v\n%+v", x, y)
		}
		if err := y.UnmarshalBinary(b[:rapid.IntRange(0, 8).Draw(t, "cut")]); err == nil {
			t.Fatal("a cut TPM was read")
		}
	})
}

// splice replaces cut octets at a place by others; whole replaces all of them.
func splice(b []byte, whole bool, at, cut uint16, insert []byte) []byte {
	if whole {
		return insert
	}
	from := min(int(at), len(b))
	to := min(from+int(cut), len(b))
	return slices.Concat(b[:from], insert, b[to:])
}

// FuzzAnswer changes what a device sends after its claim. What the verifier accepts
// is what the TPM signed; only the numbers of a signature may have zeros in front. Edits
// and not contents are fuzzed, for the keys are new in each process.
func FuzzAnswer(f *testing.F) {
	b := newBench(f)
	b.boot("1.2")
	p := policyOf(f, b.released(measured...))
	ak, err := tpm.ParseAK(b.ak.Public())
	if err != nil {
		f.Fatal(err)
	}
	a := b.answer(f)
	q := b.chip.Quote(b.ak, b.nonce, wire.AlgSHA256, measured)
	for field := range uint8(9) {
		f.Add(field, false, uint16(0), uint16(0), []byte{})
		f.Add(field, false, uint16(4), uint16(2), []byte{0, 0, 0})
		f.Add(field, true, uint16(0), uint16(0), []byte{0xFF, 0x54, 0x43, 0x47})
	}
	f.Fuzz(func(t *testing.T, field uint8, whole bool, at, cut uint16, insert []byte) {
		answer, quote := *a, *q
		v0, v4, v7 := q.PCRs[0], q.PCRs[4], q.PCRs[7]
		fields := []*[]byte{&answer.Public, &answer.Attest, &answer.Signature, &quote.Attest, &quote.Signature, &quote.EventLog, &v0, &v4, &v7}
		chosen := fields[int(field)%len(fields)]
		honest := *chosen
		*chosen = splice(honest, whole, at, cut, insert)
		quote.PCRs = map[int][]byte{0: v0, 4: v4, 7: v7}
		same := bytes.Equal(*chosen, honest)
		_, err := ak.Certified(&answer, b.nonce, b.subject.SPKI(), tpm.Subject{})
		if int(field)%len(fields) < 3 && (err == nil) != same && chosen != &answer.Signature {
			t.Errorf("an answer that is the TPM's: %v, accepted: %v", same, err)
		}
		_, err = ak.Quoted(&quote, b.nonce, p)
		if int(field)%len(fields) >= 3 && (err == nil) != same && chosen != &quote.EventLog && chosen != &quote.Signature {
			t.Errorf("a quote that is the TPM's: %v, accepted: %v", same, err)
		}
	})
}

// FuzzClaim changes a claim. What is accepted has the honest EK.
func FuzzClaim(f *testing.F) {
	b := newBench(f)
	c := b.claim()
	for field := range uint8(4) {
		f.Add(field, false, uint16(0), uint16(0), []byte{})
		f.Add(field, false, uint16(8), uint16(1), []byte{1})
		f.Add(field, true, uint16(0), uint16(0), []byte{0x30, 0x80})
	}
	f.Fuzz(func(t *testing.T, field uint8, whole bool, at, cut uint16, insert []byte) {
		claim, chain := c, c.EKChain[0]
		fields := []*[]byte{&claim.EKCertificate, &claim.EKPublic, &claim.AKPublic, &chain}
		chosen := fields[int(field)%len(fields)]
		*chosen = splice(*chosen, whole, at, cut, insert)
		claim.EKChain = [][]byte{chain}
		x, err := b.check(claim)
		if err != nil {
			return
		}
		if !bytes.Equal(x.EKPublic, c.EKPublic) || !x.Genuine {
			t.Error("an endorsement key that nobody vouches for was accepted")
		}
		if _, _, err := x.Credential(rand.Reader, []byte("secret")); err != nil {
			t.Error(err)
		}
	})
}

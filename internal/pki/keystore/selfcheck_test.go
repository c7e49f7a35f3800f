package keystore

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"crypto/sha256"
	"math/big"
	"os"
	"os/exec"
	"strings"
	"testing"

	"filippo.io/bigmod"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/needs"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

func selfChecking(t testing.TB) *p256Key {
	t.Helper()
	k, err := newKey("file:test", p256(t))
	if err != nil {
		t.Fatal(err)
	}
	checker := k.(*p256Key)
	checker.checks.Store(1) // so that no full verification stands behind the next one
	return checker
}

func sign(t testing.TB, k Key, message []byte) []byte {
	t.Helper()
	signature, err := k.SignMessage(rand.Reader, message, nil)
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

func encodeSignature(r, s *big.Int) []byte {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(r)
		b.AddASN1BigInt(s)
	})
	return b.BytesOrPanic()
}

func decodeSignature(t testing.TB, signature []byte) (r, s *big.Int) {
	t.Helper()
	r, s = new(big.Int), new(big.Int)
	var inner cryptobyte.String
	input := cryptobyte.String(signature)
	if !input.ReadASN1(&inner, asn1.SEQUENCE) || !inner.ReadASN1Integer(r) || !inner.ReadASN1Integer(s) {
		t.Fatal("not a signature")
	}
	return r, s
}

func TestSelfCheckAcceptsOwnSignatures(t *testing.T) {
	for range 20 {
		k := selfChecking(t)
		for i := range 60 {
			message := bytes.Repeat([]byte{byte(i)}, i)
			if err := k.CheckSignature(message, sign(t, k, message)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestSelfCheckRefusesEveryBitFlip(t *testing.T) {
	for range 10 {
		k := selfChecking(t)
		message := []byte("certificate")
		signature := sign(t, k, message)
		for i := range signature {
			for bit := range 8 {
				changed := bytes.Clone(signature)
				changed[i] ^= 1 << bit
				if err := k.CheckSignature(message, changed); !fault.Has(err, fault.SignatureFault) {
					t.Fatalf("octet %d, bit %d: %v", i, bit, err)
				}
			}
		}
		for i := range message {
			for bit := range 8 {
				changed := bytes.Clone(message)
				changed[i] ^= 1 << bit
				if err := k.CheckSignature(changed, signature); !fault.Has(err, fault.SignatureFault) {
					t.Fatalf("message, octet %d, bit %d: %v", i, bit, err)
				}
			}
		}
	}
}

// TestSelfCheckAgreesWithVerification tries what a broken signer could produce:
// the self-check and crypto/ecdsa must say the same.
func TestSelfCheckAgreesWithVerification(t *testing.T) {
	n := elliptic.P256().Params().N
	one, half := big.NewInt(1), new(big.Int).Rsh(n, 1)
	minus := func(a *big.Int) *big.Int { return new(big.Int).Sub(n, a) }
	plus := func(a, b *big.Int) *big.Int { return new(big.Int).Add(a, b) }
	accepted := 0
	for range 5 {
		k := selfChecking(t)
		message := []byte("certificate")
		digest := sha256.Sum256(message)
		r, s := decodeSignature(t, sign(t, k, message))
		otherR, otherS := decodeSignature(t, sign(t, k, message))
		values := []*big.Int{
			r, s, otherR, otherS, minus(r), minus(s), plus(r, n), plus(s, n), plus(r, one), plus(s, one),
			new(big.Int), one, n, minus(one), plus(n, one), half, big.NewInt(-1), new(big.Int).Neg(r), new(big.Int).Neg(s),
			new(big.Int).Lsh(one, 256), new(big.Int).Lsh(one, 300), new(big.Int).Lsh(r, 8), elliptic.P256().Params().P,
		}
		for _, a := range values {
			for _, b := range values {
				signature := encodeSignature(a, b)
				want := ecdsa.VerifyASN1(k.public, digest[:], signature)
				if got := k.CheckSignature(message, signature) == nil; got != want {
					t.Fatalf("r = %x, s = %x: self-check %v, verification %v", a, b, got, want)
				}
				if want {
					accepted++
				}
			}
		}
	}
	if accepted != 5*3 { // (r, s), (r, -s) and the other signature
		t.Errorf("%d of the combinations are signatures", accepted)
	}
}

func TestSelfCheckRefusesOtherEncodings(t *testing.T) {
	k := selfChecking(t)
	message := []byte("certificate")
	good := sign(t, k, message)
	r, s := decodeSignature(t, good)
	raw := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	for name, signature := range map[string][]byte{
		"nothing":     nil,
		"a tail":      append(bytes.Clone(good), 0),
		"cut":         good[:len(good)-1],
		"raw":         raw,
		"long length": append([]byte{0x30, 0x81}, good[1:]...),
		"other key's": sign(t, selfChecking(t), message),
		"leading zeros": func() []byte {
			var b cryptobyte.Builder
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.INTEGER, func(b *cryptobyte.Builder) { b.AddBytes(append([]byte{0, 0}, r.Bytes()...)) })
				b.AddASN1BigInt(s)
			})
			return b.BytesOrPanic()
		}(),
		"a third number": append([]byte{0x30, good[1] + 3}, append(bytes.Clone(good[2:]), 2, 1, 1)...),
	} {
		if err := k.CheckSignature(message, signature); !fault.Has(err, fault.SignatureFault) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSelfCheckWithEdgeDigests covers digests at and above the order, which are
// reduced, through matches, since no message is known for them.
func TestSelfCheckWithEdgeDigests(t *testing.T) {
	k := selfChecking(t)
	n := elliptic.P256().Params().N
	top := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 256), big.NewInt(1))
	for _, e := range []*big.Int{new(big.Int), big.NewInt(1), new(big.Int).Sub(n, big.NewInt(1)), n, new(big.Int).Add(n, big.NewInt(1)), top} {
		digest := e.FillBytes(make([]byte, 32))
		signature, err := k.Sign(rand.Reader, digest, crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if !k.matches(digest, signature) {
			t.Errorf("digest %x: refused", digest)
		}
		digest[31] ^= 1
		if k.matches(digest, signature) {
			t.Errorf("digest %x: another digest's signature passes", digest)
		}
	}
}

// TestSelfCheckNoticesAChangedScalar: a copy that no longer belongs to the
// signing key refuses everything; one that changed together with the signing
// key is noticed by the verification that comes with the first and every
// 1,024th check.
func TestSelfCheckNoticesAChangedScalar(t *testing.T) {
	k := selfChecking(t)
	message := []byte("certificate")
	signature := sign(t, k, message)
	k.scalar.Add(bigmod.NewNat().SetUint(1).ExpandFor(k.order), k.order)
	if err := k.CheckSignature(message, signature); !fault.Has(err, fault.SignatureFault) {
		t.Errorf("changed copy: %v", err)
	}

	k, other := selfChecking(t), selfChecking(t)
	k.scalar, k.signer = other.scalar, other.signer
	caught := 0
	for range 2 * fullCheckEvery {
		if k.CheckSignature(message, sign(t, k, message)) != nil {
			caught++
		}
	}
	if caught != 2 {
		t.Errorf("changed in step: noticed %d times", caught)
	}
}

func TestOnlyP256ChecksItself(t *testing.T) {
	needs.Need(t, "FIPS 140 mode off", !fips140.Enabled())
	s := openTest(t)
	for _, kind := range []profile.KeyType{profile.P256, profile.P384, profile.Ed25519, profile.RSA2048} {
		checker, ok := AsSelfChecker(create(t, s, "file:"+string(kind), kind))
		if ok != (kind == profile.P256) || ok != (checker != nil) {
			t.Errorf("%s: %v", kind, ok)
		}
	}
}

const fipsChild = "BIRTHMARK_TEST_FIPS_CHILD"

func TestNoSelfCheckUnderFIPS140(t *testing.T) {
	if os.Getenv(fipsChild) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestNoSelfCheckUnderFIPS140$", "-test.v")
		cmd.Env = append(os.Environ(), fipsChild+"=1", "GODEBUG=fips140=on")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "self-check withheld") {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	if !fips140.Enabled() {
		t.Fatal("FIPS mode is not on")
	}
	k := selfChecking(t)
	if checker, ok := AsSelfChecker(k); ok || checker != nil {
		t.Fatal("the self-check is offered in FIPS mode")
	}
	if message := []byte("x"); !verify(k, message, sign(t, k, message)) {
		t.Fatal("the key does not sign in FIPS mode")
	}
	t.Log("self-check withheld")
}

func BenchmarkSelfCheck(b *testing.B) {
	k := selfChecking(b)
	message := make([]byte, 600)
	signature := sign(b, k, message)
	b.Run("self-check", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := k.CheckSignature(message, signature); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("verification", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !verify(k, message, signature) {
				b.Fatal("refused")
			}
		}
	})
	b.Run("signing", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			sign(b, k, message)
		}
	})
}

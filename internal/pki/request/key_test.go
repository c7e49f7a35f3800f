package request

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"math/big"
	"slices"
	"sync"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// spki builds a SubjectPublicKeyInfo.
func spki(algorithm string, bits []byte) []byte {
	return element(asn1.SEQUENCE, element(asn1.SEQUENCE, []byte(algorithm)),
		element(asn1.BIT_STRING, append([]byte{0}, bits...)))
}

const (
	algorithmP256    = "\x06\x07" + oidECPublicKey + "\x06\x08" + oidCurveP256
	algorithmP384    = "\x06\x07" + oidECPublicKey + "\x06\x05" + oidCurveP384
	algorithmEd25519 = "\x06\x03" + oidEd25519
	algorithmRSA     = "\x06\x09" + oidRSAEncryption + derNull
)

func rsaBits(n, e *big.Int) []byte {
	return build(func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1BigInt(n)
			b.AddASN1BigInt(e)
		})
	})
}

func rsaSPKI(n *big.Int) []byte { return spki(algorithmRSA, rsaBits(n, big.NewInt(rsaExponent))) }

func prime(t testing.TB, bits int) *big.Int {
	t.Helper()
	p, err := rand.Prime(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// primes returns two honest primes of 1024 bits, made once.
func primes(t testing.TB) (p, q *big.Int) {
	t.Helper()
	both, err := twoPrimes()
	if err != nil {
		t.Fatal(err)
	}
	return both[0], both[1]
}

var twoPrimes = sync.OnceValues(func() (both [2]*big.Int, err error) {
	for i := range both {
		if both[i], err = rand.Prime(rand.Reader, 1024); err != nil {
			return both, err
		}
	}
	return both, nil
})

// prime2048 is the modulus of group 14 of RFC 3526.
const prime2048 = "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74" +
	"020bbea63b139b22514a08798e3404ddef9519b3cd3a431b302b0a6df25f1437" +
	"4fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7ed" +
	"ee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf05" +
	"98da48361c55d39a69163fa8fd24cf5f83655d23dca3ad961c62f356208552bb" +
	"9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3b" +
	"e39e772c180e86039b2783a2ec07a28fb5c55df06f4c52c9de2bcbf695581718" +
	"3995497cea956ae515d2261898fa051015728e5a8aacaa68ffffffffffffffff"

func TestPublicKeyAcceptsEveryKeyType(t *testing.T) {
	for kind, key := range signers(t) {
		pub, got, err := PublicKey(spkiOf(t, key.Public()))
		if err != nil || got != kind {
			t.Errorf("%s: %s, %v", kind, got, err)
			continue
		}
		if !pub.(interface{ Equal(x crypto.PublicKey) bool }).Equal(key.Public()) {
			t.Errorf("%s: another key came out", kind)
		}
	}
}

func TestPublicKeyRefusesEC(t *testing.T) {
	key := p256Key(t)
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	params := elliptic.P256().Params()
	uncompressed := func(x, y *big.Int) []byte {
		return slices.Concat([]byte{4}, x.FillBytes(make([]byte, 32)), y.FillBytes(make([]byte, 32)))
	}
	with := func(i int, b byte) []byte {
		p := bytes.Clone(point)
		p[i] = b
		return p
	}
	g384 := elliptic.P384().Params()
	for name, c := range map[string]struct {
		spki []byte
		want fault.Code
	}{
		"control":           {spki(algorithmP256, point), 0},
		"off the curve":     {spki(algorithmP256, with(64, point[64]^1)), fault.KeyMalformed},
		"infinity":          {spki(algorithmP256, []byte{0}), fault.KeyMalformed},
		"infinity, padded":  {spki(algorithmP256, make([]byte, 65)), fault.KeyMalformed},
		"zero":              {spki(algorithmP256, uncompressed(new(big.Int), new(big.Int))), fault.KeyMalformed},
		"compressed":        {spki(algorithmP256, append([]byte{2 + point[64]&1}, point[1:33]...)), fault.KeyMalformed},
		"hybrid":            {spki(algorithmP256, with(0, 6+point[64]&1)), fault.KeyMalformed},
		"short":             {spki(algorithmP256, point[:64]), fault.KeyMalformed},
		"long":              {spki(algorithmP256, append(bytes.Clone(point), 0)), fault.KeyMalformed},
		"no point":          {spki(algorithmP256, nil), fault.KeyMalformed},
		"x = p":             {spki(algorithmP256, uncompressed(params.P, new(big.Int))), fault.KeyMalformed},
		"another curve":     {spki(algorithmP384, point), fault.KeyMalformed},
		"private key 1":     {spki(algorithmP256, uncompressed(params.Gx, params.Gy)), fault.KeyWeak},
		"private key -1":    {spki(algorithmP256, uncompressed(params.Gx, new(big.Int).Sub(params.P, params.Gy))), fault.KeyWeak},
		"P-384's generator": {spki(algorithmP384, slices.Concat([]byte{4}, g384.Gx.FillBytes(make([]byte, 48)), g384.Gy.FillBytes(make([]byte, 48)))), fault.KeyWeak},
		"P-521":             {spkiOf(t, ecKey(t, elliptic.P521()).Public()), fault.KeyAlgorithm},
		"P-224":             {spkiOf(t, ecKey(t, elliptic.P224()).Public()), fault.KeyAlgorithm},
		"secp256k1":         {spki("\x06\x07"+oidECPublicKey+"\x06\x05\x2b\x81\x04\x00\x0a", point), fault.KeyAlgorithm},
		"no curve":          {spki("\x06\x07"+oidECPublicKey, point), fault.KeyMalformed},
		"implicit curve":    {spki("\x06\x07"+oidECPublicKey+derNull, point), fault.KeyMalformed},
		"two curves":        {spki(algorithmP256+"\x06\x08"+oidCurveP256, point), fault.KeyMalformed},
		"unused bits":       {element(asn1.SEQUENCE, element(asn1.SEQUENCE, []byte(algorithmP256)), element(asn1.BIT_STRING, append([]byte{1}, point...))), fault.KeyMalformed},
		"a tail":            {append(spki(algorithmP256, point), 0), fault.KeyMalformed},
		"a third field":     {element(asn1.SEQUENCE, element(asn1.SEQUENCE, []byte(algorithmP256)), element(asn1.BIT_STRING, append([]byte{0}, point...)), []byte{5, 0}), fault.KeyMalformed},
		"nothing":           {nil, fault.KeyMalformed},
		"too long":          {make([]byte, MaxSize+1), fault.RequestTooLarge},
	} {
		_, _, err := PublicKey(c.spki)
		if c.want == 0 && err != nil || c.want != 0 && !fault.Has(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestPublicKeyRefusesEd25519(t *testing.T) {
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	// All encodings of the eight points of small order, canonical or not.
	for _, y := range []string{
		"0100000000000000000000000000000000000000000000000000000000000000",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"0000000000000000000000000000000000000000000000000000000000000000",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"5866666666666666666666666666666666666666666666666666666666666666",
	} {
		for _, sign := range []byte{0, 0x80} {
			point := unhex(y)
			point[31] |= sign
			if _, _, err := PublicKey(spki(algorithmEd25519, point)); !fault.Has(err, fault.KeyWeak) {
				t.Errorf("%x: %v", point, err)
			}
		}
	}
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		algorithm string
		point     []byte
		want      fault.Code
	}{
		"control":        {algorithmEd25519, pub, 0},
		"NULL":           {algorithmEd25519 + derNull, pub, fault.KeyMalformed},
		"short":          {algorithmEd25519, pub[:31], fault.KeyMalformed},
		"long":           {algorithmEd25519, append(bytes.Clone(pub), 0), fault.KeyMalformed},
		"y = p+3":        {algorithmEd25519, unhex("f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"), fault.KeyMalformed},
		"y = 2^255-1":    {algorithmEd25519, unhex("ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"), fault.KeyMalformed},
		"y = 2, no such": {algorithmEd25519, unhex("0200000000000000000000000000000000000000000000000000000000000000"), fault.KeyMalformed},
		"X25519":         {"\x06\x03\x2b\x65\x6e", pub, fault.KeyAlgorithm},
		"Ed448":          {"\x06\x03\x2b\x65\x71", append(bytes.Clone(pub), make([]byte, 25)...), fault.KeyAlgorithm},
	} {
		_, _, err := PublicKey(spki(c.algorithm, c.point))
		if c.want == 0 && err != nil || c.want != 0 && !fault.Has(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// TestOnEdwards25519 holds the curve test against the decoding in crypto/ed25519,
// which a forged signature reaches only for points that exist: about half of all
// values must pass, and all keys.
func TestOnEdwards25519(t *testing.T) {
	on := 0
	for range 200 {
		pub, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if !onEdwards25519(pub) {
			t.Errorf("%x is on the curve", pub)
		}
		random := make([]byte, 32)
		if _, err := rand.Read(random); err != nil {
			t.Fatal(err)
		}
		if onEdwards25519(random) {
			on++
		}
	}
	if on < 50 || on > 150 {
		t.Errorf("%d of 200 random values are on the curve", on)
	}
}

func TestPublicKeyRefusesRSA(t *testing.T) {
	p, q := primes(t)
	n := new(big.Int).Mul(p, q)
	modulus14, _ := new(big.Int).SetString(prime2048, 16)
	if !modulus14.ProbablyPrime(5) {
		t.Fatal("group 14 is mistyped")
	}
	cofactor := new(big.Int).Mul(p, prime(t, 1016))
	e := big.NewInt(rsaExponent)
	near := new(big.Int).Add(p, big.NewInt(2))
	for ; !near.ProbablyPrime(10); near.Add(near, two) {
	}
	huge := new(big.Int).Lsh(one, 9000)
	for name, c := range map[string]struct {
		spki []byte
		want fault.Code
	}{
		"control":             {rsaSPKI(n), 0},
		"e = 0":               {spki(algorithmRSA, rsaBits(n, new(big.Int))), fault.KeyWeak},
		"e = 1":               {spki(algorithmRSA, rsaBits(n, one)), fault.KeyWeak},
		"e = 3":               {spki(algorithmRSA, rsaBits(n, big.NewInt(3))), fault.KeyWeak},
		"e = -3":              {spki(algorithmRSA, rsaBits(n, big.NewInt(-3))), fault.KeyWeak},
		"e = 65539":           {spki(algorithmRSA, rsaBits(n, big.NewInt(65539))), fault.KeyWeak},
		"e = 2^64+65537":      {spki(algorithmRSA, rsaBits(n, new(big.Int).Add(new(big.Int).Lsh(one, 64), e))), fault.KeyWeak},
		"e = n":               {spki(algorithmRSA, rsaBits(n, n)), fault.KeyWeak},
		"n = 0":               {rsaSPKI(new(big.Int)), fault.KeyMalformed},
		"n negative":          {rsaSPKI(new(big.Int).Neg(n)), fault.KeyMalformed},
		"n even":              {rsaSPKI(new(big.Int).Add(n, one)), fault.KeyWeak},
		"n prime":             {rsaSPKI(modulus14), fault.KeyWeak},
		"n a square":          {rsaSPKI(new(big.Int).Mul(p, p)), fault.KeyWeak},
		"small factor":        {rsaSPKI(new(big.Int).Mul(cofactor, big.NewInt(251))), fault.KeyWeak},
		"largest small prime": {rsaSPKI(new(big.Int).Mul(cofactor, big.NewInt(751))), fault.KeyWeak},
		"close primes":        {rsaSPKI(new(big.Int).Mul(p, near)), fault.KeyWeak},
		"1024 bits":           {rsaSPKI(new(big.Int).Mul(prime(t, 512), prime(t, 512))), fault.KeyAlgorithm},
		"2047 bits":           {rsaSPKI(new(big.Int).Rsh(n, 1)), fault.KeyAlgorithm},
		"4097 bits":           {rsaSPKI(new(big.Int).SetBit(one, 4096, 1)), fault.KeyAlgorithm},
		"9001 bits":           {rsaSPKI(huge), fault.KeyAlgorithm},
		"no NULL":             {spki("\x06\x09"+oidRSAEncryption, rsaBits(n, e)), fault.KeyMalformed},
		"PSS key":             {spki("\x06\x09"+oidRSAPSS, rsaBits(n, e)), fault.KeyAlgorithm},
		"a tail":              {spki(algorithmRSA, append(rsaBits(n, e), 0)), fault.KeyMalformed},
		"a third number":      {spki(algorithmRSA, element(asn1.SEQUENCE, rsaBits(n, e)[4:], []byte{2, 1, 0})), fault.KeyMalformed},
		"n not minimal":       {spki(algorithmRSA, element(asn1.SEQUENCE, element(asn1.INTEGER, []byte{0, 0}, n.Bytes()), element(asn1.INTEGER, []byte{1, 0, 1}))), fault.KeyMalformed},
		"DSA":                 {spki("\x06\x07\x2a\x86\x48\xce\x38\x04\x01", []byte{2, 1, 5}), fault.KeyAlgorithm},
	} {
		_, _, err := PublicKey(c.spki)
		if c.want == 0 && err != nil || c.want != 0 && !fault.Has(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// TestWeakKeyIsRefusedBeforeItsSignature: the proof of possession below is
// worthless, and still the key is what is named.
func TestWeakKeyIsRefusedBeforeItsSignature(t *testing.T) {
	params := elliptic.P256().Params()
	generator := slices.Concat([]byte{4}, params.Gx.FillBytes(make([]byte, 32)), params.Gy.FillBytes(make([]byte, 32)))
	for name, spki := range map[string][]byte{
		"private key 1":  spki(algorithmP256, generator),
		"RSA, even":      rsaSPKI(new(big.Int).Lsh(one, 2047)),
		"Ed25519, order": spki(algorithmEd25519, append([]byte{1}, make([]byte, 31)...)),
	} {
		der := draft{spki: spki, signature: []byte("x")}.sign(t, p256Key(t))
		if _, err := Parse(der); !fault.Has(err, fault.KeyWeak) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestParseRefusesPrivateKeyOne: with the private key that everyone knows the
// signature itself is right.
func TestParseRefusesPrivateKeyOne(t *testing.T) {
	scalar := make([]byte, 32)
	scalar[31] = 1
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(draft{}.sign(t, key)); !fault.Has(err, fault.KeyWeak) {
		t.Errorf("%v", err)
	}
	scalar[31] = 2
	if _, err := ecdh.P256().NewPrivateKey(scalar); err != nil {
		t.Fatal(err)
	}
	if key, err = ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar); err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(draft{}.sign(t, key)); err != nil {
		t.Errorf("control: %v", err)
	}
}

// rocaPrime makes a prime as the faulty generator does: k*M + 65537^a mod M.
func rocaPrime(t testing.TB, size int) *big.Int {
	t.Helper()
	m := big.NewInt(2)
	for _, g := range primeGroups {
		for _, s := range g.primes {
			if s.p <= maxROCAPrime {
				m.Mul(m, new(big.Int).SetUint64(s.p))
			}
		}
	}
	for {
		a, err := rand.Int(rand.Reader, m)
		if err != nil {
			t.Fatal(err)
		}
		p := a.Exp(big.NewInt(rsaExponent), a, m)
		k, err := rand.Int(rand.Reader, new(big.Int).Lsh(one, uint(size-m.BitLen()+1)))
		if err != nil {
			t.Fatal(err)
		}
		p.Add(p, k.Mul(k, m))
		if p.BitLen() == size && p.Bit(size-2) == 1 && p.ProbablyPrime(5) {
			return p
		}
	}
}

func TestPublicKeyRefusesROCA(t *testing.T) {
	n := new(big.Int).Mul(rocaPrime(t, 1024), rocaPrime(t, 1024))
	_, _, err := PublicKey(rsaSPKI(n))
	if !fault.Has(err, fault.KeyWeak) || fault.Of(err).Detail == "" || n.BitLen() != 2048 {
		t.Fatalf("%d bits: %v", n.BitLen(), err)
	}
	if factor, roca := sieve(n.FillBytes(make([]byte, 520))); factor || !roca {
		t.Errorf("sieve says factor %v, roca %v", factor, roca)
	}
	// One honest factor is enough to leave the pattern.
	honest, _ := primes(t)
	n.Mul(rocaPrime(t, 1024), honest)
	if _, roca := sieve(n.FillBytes(make([]byte, 520))); roca {
		t.Error("an honest factor is not noticed")
	}
}

func TestSieveFindsEverySmallFactor(t *testing.T) {
	p, q := primes(t)
	cofactor := new(big.Int).Mul(p, q)
	count := 0
	for p := int64(3); p <= maxPrime; p += 2 {
		if !big.NewInt(p).ProbablyPrime(0) {
			continue
		}
		count++
		n := new(big.Int).Mul(cofactor, big.NewInt(p))
		if factor, _ := sieve(n.FillBytes(make([]byte, 520))); !factor {
			t.Errorf("%d is not found", p)
		}
	}
	if count != 132 {
		t.Errorf("%d odd primes up to %d", count, maxPrime)
	}
	if factor, _ := sieve(cofactor.FillBytes(make([]byte, 520))); factor {
		t.Error("an honest modulus has a factor")
	}
}

// TestFermat factors what the rounds reach and nothing beyond them.
func TestFermat(t *testing.T) {
	p, _ := primes(t)
	// n = a^2 - b^2 with a the i-th above sqrt(n): b^2 is about 2*i*a.
	for _, distance := range []uint{0, 1, 100, 400, 500} {
		q := new(big.Int).Add(p, new(big.Int).Lsh(one, distance))
		q.SetBit(q, 0, 1)
		if !fermat(new(big.Int).Mul(p, q)) {
			t.Errorf("a distance of 2^%d is not found", distance)
		}
	}
	for range 3 {
		if fermat(new(big.Int).Mul(p, prime(t, 1024))) {
			t.Error("an honest modulus is factored")
		}
	}
}

func TestMaybeSquareNeverMissesOne(t *testing.T) {
	room := make([]byte, 512)
	passed := 0
	for i := range int64(2000) {
		b := prime(t, 32)
		if !maybeSquare(new(big.Int).Mul(b, b), room) || !maybeSquare(big.NewInt(i*i), room) {
			t.Fatalf("%d or %d", b, i)
		}
		if maybeSquare(b, room) {
			passed++
		}
	}
	if passed > 200 {
		t.Errorf("%d of 2000 primes pass for squares", passed)
	}
}

func TestKeyTypesAreThoseOfTheProfile(t *testing.T) {
	for bits, want := range map[int]profile.KeyType{2050: profile.RSA2048, 3072: profile.RSA3072} {
		n := new(big.Int).Mul(prime(t, bits/2), prime(t, bits-bits/2))
		if _, got, err := PublicKey(rsaSPKI(n)); err != nil || got != want {
			t.Errorf("%d bits: %s, %v", bits, got, err)
		}
	}
}

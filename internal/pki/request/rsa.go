package request

import (
	"crypto"
	"crypto/rsa"
	"math/big"
	"math/bits"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

const (
	rsaExponent  = 65537
	maxRSABits   = 4096
	maxPrime     = 751 // trial division, as in the CA/Browser Forum's rules (factors below 752)
	maxROCAPrime = 701 // divides the primorial of all affected keys of 2048 bits and more
	fermatRounds = 100
)

// parseRSA reads an RSAPublicKey (RFC 8017, appendix A.1.1) and looks for the
// known ways in which RSA keys are weak, cheapest first.
func parseRSA(der cryptobyte.String) (crypto.PublicKey, profile.KeyType, error) {
	var key cryptobyte.String
	n, e := new(big.Int), new(big.Int)
	if !der.ReadASN1(&key, asn1.SEQUENCE) || !der.Empty() ||
		!key.ReadASN1Integer(n) || !key.ReadASN1Integer(e) || !key.Empty() || n.Sign() <= 0 {
		return nil, "", fault.New(fault.KeyMalformed, "RSA")
	}
	pub := &rsa.PublicKey{N: n, E: rsaExponent}
	kind, err := profile.KeyTypeOf(pub)
	if err != nil {
		return nil, "", err
	}
	if !e.IsInt64() || e.Int64() != rsaExponent {
		return nil, "", fault.New(fault.KeyWeak, "the RSA exponent is not", rsaExponent)
	}
	var room [maxRSABits / 8]byte
	switch modulus := n.FillBytes(room[:]); {
	case n.Bit(0) == 0:
		return nil, "", fault.New(fault.KeyWeak, "the RSA modulus is even")
	default:
		factor, roca := sieve(modulus)
		if factor {
			return nil, "", fault.New(fault.KeyWeak, "the RSA modulus has a small factor")
		}
		if roca {
			return nil, "", fault.New(fault.KeyWeak, "the RSA key comes from a faulty generator (ROCA, CVE-2017-15361)")
		}
	}
	if fermat(n) {
		return nil, "", fault.New(fault.KeyWeak, "the factors of the RSA modulus are close together")
	}
	return pub, kind, nil
}

// smallPrime is a prime with the residues that a modulus of the faulty
// generator can have: there the factors are k*M + 65537^a mod M, M being a
// product of all small primes, so that the modulus is a power of 65537 modulo
// each of them.
type smallPrime struct {
	p    uint64
	roca [maxPrime/64 + 1]uint64 // bit r: r is a power of 65537 mod p
}

// primeGroup is a run of primes whose product fits in a word, so that a long
// modulus is divided once for all of them.
type primeGroup struct {
	product uint64
	primes  []smallPrime
}

var primeGroups = groupPrimes()

// groupPrimes computes the table of odd primes up to maxPrime.
func groupPrimes() []primeGroup {
	var groups []primeGroup
	current := primeGroup{product: 1}
	for p := uint64(3); p <= maxPrime; p += 2 {
		if !big.NewInt(int64(p)).ProbablyPrime(0) {
			continue
		}
		hi, product := bits.Mul64(current.product, p)
		if hi != 0 {
			groups = append(groups, current)
			current, product = primeGroup{}, p
		}
		current.product = product
		current.primes = append(current.primes, newSmallPrime(p))
	}
	return append(groups, current)
}

func newSmallPrime(p uint64) smallPrime {
	s := smallPrime{p: p}
	for r := uint64(1); s.roca[r/64]>>(r%64)&1 == 0; r = r * rsaExponent % p {
		s.roca[r/64] |= 1 << (r % 64)
	}
	return s
}

// sieve looks at the residues of a modulus, big-endian and a multiple of eight
// octets long: whether one of them is zero, and whether all of them fit the
// faulty generator, which for another key has a probability below 2^-40.
func sieve(modulus []byte) (factor, roca bool) {
	roca = true
	for i := range primeGroups {
		g := &primeGroups[i]
		rest := residue(modulus, g.product)
		for j := range g.primes {
			s := &g.primes[j]
			r := rest % s.p
			if r == 0 {
				return true, false
			}
			if s.p <= maxROCAPrime && s.roca[r/64]>>(r%64)&1 == 0 {
				roca = false
			}
		}
	}
	return false, roca
}

// residue returns a big-endian number, a multiple of eight octets long, modulo
// m.
func residue(number []byte, m uint64) uint64 {
	var rest uint64
	for ; len(number) > 0; number = number[8:] {
		var word uint64
		for _, b := range number[:8] {
			word = word<<8 | uint64(b)
		}
		_, rest = bits.Div64(rest, word, m)
	}
	return rest
}

// fermat reports whether fermatRounds rounds of Fermat's method factor n, as
// they do when its primes are close together.
func fermat(n *big.Int) bool {
	a := new(big.Int).Sqrt(n)
	b2 := new(big.Int).Mul(a, a)
	if b2.Cmp(n) == 0 {
		return true
	}
	// From a = ceil(sqrt(n)): b2 = a^2 - n, and (a+1)^2 - a^2 = 2a + 1.
	a.Add(a, one)
	b2.Mul(a, a).Sub(b2, n)
	step := new(big.Int).Lsh(a, 1)
	step.Add(step, one)
	root := new(big.Int)
	var room [maxRSABits / 8]byte
	for range fermatRounds {
		if maybeSquare(b2, room[:]) {
			root.Sqrt(b2)
			if root.Mul(root, root).Cmp(b2) == 0 {
				return true
			}
		}
		b2.Add(b2, step)
		step.Add(step, two)
	}
	return false
}

var (
	one = big.NewInt(1)
	two = big.NewInt(2)
)

// squares says for small moduli which residues a square can have. Together they
// let one number in two hundred through.
var squares = squareTables(64, 63, 65, 11, 17, 19, 23)

type squareTable struct {
	modulus uint64
	square  []bool
}

func squareTables(moduli ...uint64) []squareTable {
	tables := make([]squareTable, 0, len(moduli))
	for _, m := range moduli {
		t := squareTable{m, make([]bool, m)}
		for i := range m {
			t.square[i*i%m] = true
		}
		tables = append(tables, t)
	}
	return tables
}

// maybeSquare is false only if b is no square. room has space for b.
func maybeSquare(b *big.Int, room []byte) bool {
	const product = 64 * 63 * 65 * 11 * 17 * 19 * 23
	size := (b.BitLen() + 63) / 64 * 8
	rest := residue(b.FillBytes(room[:size]), product)
	for _, t := range squares {
		if !t.square[rest%t.modulus] {
			return false
		}
	}
	return true
}

package samekey

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"math/big"
	mrand "math/rand/v2"
	"testing"
)

var prime = elliptic.P256().Params().P

// value returns the number that an element stands for.
func value(e *element) *big.Int {
	var plain element
	plain.mul(e, &element{1})
	var b [32]byte
	for i := range 4 {
		binary.BigEndian.PutUint64(b[8*i:], plain[3-i])
	}
	return new(big.Int).SetBytes(b[:])
}

func elementOf(t testing.TB, x *big.Int) element {
	t.Helper()
	var b [32]byte
	x.FillBytes(b[:])
	var e element
	if !e.setBytes(&b) {
		t.Fatalf("%x is not below p", x)
	}
	return e
}

// numbers are the edges of words and of the prime, and some at random.
func numbers(n int) []*big.Int {
	var all []*big.Int
	for _, shift := range []uint{0, 1, 31, 32, 63, 64, 95, 96, 127, 128, 191, 192, 223, 224, 255} {
		for _, d := range []int64{-1, 0, 1} {
			x := new(big.Int).Lsh(big.NewInt(1), shift)
			all = append(all, new(big.Int).Mod(x.Add(x, big.NewInt(d)), prime))
			all = append(all, new(big.Int).Sub(prime, new(big.Int).Add(all[len(all)-1], big.NewInt(1))))
		}
	}
	random := mrand.New(mrand.NewPCG(1, 2))
	for range n {
		var b [32]byte
		for i := range 4 {
			binary.BigEndian.PutUint64(b[8*i:], random.Uint64())
		}
		x := new(big.Int).SetBytes(b[:])
		all = append(all, x.Mod(x, prime))
	}
	return all
}

func TestFieldAgreesWithBigIntegers(t *testing.T) {
	all := numbers(60)
	mod := func(x *big.Int) *big.Int { return x.Mod(x, prime) }
	for _, x := range all {
		ex := elementOf(t, x)
		if value(&ex).Cmp(x) != 0 {
			t.Fatalf("%x comes back as %x", x, value(&ex))
		}
		for _, y := range all {
			ey := elementOf(t, y)
			var z element
			if z.mul(&ex, &ey); value(&z).Cmp(mod(new(big.Int).Mul(x, y))) != 0 {
				t.Fatalf("%x * %x = %x", x, y, value(&z))
			}
			if z.add(&ex, &ey); value(&z).Cmp(mod(new(big.Int).Add(x, y))) != 0 {
				t.Fatalf("%x + %x = %x", x, y, value(&z))
			}
			if z.sub(&ex, &ey); value(&z).Cmp(mod(new(big.Int).Sub(x, y))) != 0 {
				t.Fatalf("%x - %x = %x", x, y, value(&z))
			}
		}
		if x.Sign() != 0 {
			var z element
			if z.invert(&ex); value(&z).Cmp(new(big.Int).ModInverse(x, prime)) != 0 {
				t.Fatalf("1 / %x = %x", x, value(&z))
			}
		}
	}
}

func TestNumbersThatAreNotBelowThePrimeAreRefused(t *testing.T) {
	for _, d := range []int64{0, 1, 1 << 40} {
		var b [32]byte
		new(big.Int).Add(prime, big.NewInt(d)).FillBytes(b[:])
		var e element
		if e.setBytes(&b) {
			t.Errorf("p + %d is taken", d)
		}
	}
}

// multiply returns scalar * P by the table.
func multiply(t *table, scalar *big.Int) point {
	var b [32]byte
	scalar.FillBytes(b[:])
	var r point
	t.accumulate(&r, &b)
	return r
}

// coordinates returns x and y, nil at infinity.
func coordinates(p *point) (x, y *big.Int) {
	if p.z.isZero() {
		return nil, nil
	}
	n := normalize([]point{*p})[0]
	return value(&n.x), value(&n.y)
}

func TestTablesMultiplyAsTheCurveDoes(t *testing.T) {
	base := New().base()
	order := elliptic.P256().Params().N
	scalars := []*big.Int{big.NewInt(1), big.NewInt(2), big.NewInt(255), big.NewInt(256), big.NewInt(257)}
	for i := range int64(4) {
		scalars = append(scalars, new(big.Int).Sub(order, big.NewInt(1+i)))
	}
	for _, x := range numbers(40) {
		if x.Mod(x, order).Sign() > 0 {
			scalars = append(scalars, x)
		}
	}
	for _, k := range scalars {
		var raw [32]byte
		k.FillBytes(raw[:])
		key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), raw[:])
		if err != nil {
			t.Fatal(err)
		}
		want, err := key.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		p := multiply(base, k)
		x, y := coordinates(&p)
		if x.Cmp(new(big.Int).SetBytes(want[1:33])) != 0 || y.Cmp(new(big.Int).SetBytes(want[33:])) != 0 {
			t.Fatalf("%x times the base point is %x, %x", k, x, y)
		}
	}
	// The sum of opposite points is infinity, and of equal points their double.
	p := multiply(base, new(big.Int).Sub(order, big.NewInt(5)))
	base.accumulate(&p, &[32]byte{31: 5})
	if x, _ := coordinates(&p); x != nil {
		t.Errorf("5 - 5 is not infinity but %x", x)
	}
	p = multiply(base, big.NewInt(7))
	base.accumulate(&p, &[32]byte{31: 7})
	q := multiply(base, big.NewInt(14))
	px, py := coordinates(&p)
	if qx, qy := coordinates(&q); px.Cmp(qx) != 0 || py.Cmp(qy) != 0 {
		t.Error("7 + 7 is not 14")
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func signature(t testing.TB, key *ecdsa.PrivateKey, digest []byte) (r, s *big.Int) {
	t.Helper()
	der, err := key.Sign(rand.Reader, digest, nil)
	if err != nil {
		t.Fatal(err)
	}
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		t.Fatal(err)
	}
	return sig.R, sig.S
}

// tablesOf returns the tables alone, without the second opinion of Verify.
func tablesOf(t testing.TB, key *ecdsa.PublicKey) *tables {
	t.Helper()
	got := New().Key(key).ready(threshold + 1)
	if got == nil {
		t.Fatal("no tables")
	}
	return got
}

func TestTablesAgreeWithTheStandardLibrary(t *testing.T) {
	key := newKey(t)
	tables := tablesOf(t, &key.PublicKey)
	order := elliptic.P256().Params().N
	for i := range 300 {
		digest := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		r, s := signature(t, key, digest[:])
		other := sha256.Sum256(digest[:])
		for name, c := range map[string]struct {
			digest []byte
			r, s   *big.Int
		}{
			"good":         {digest[:], r, s},
			"negated s":    {digest[:], r, new(big.Int).Sub(order, s)},
			"other digest": {other[:], r, s},
			"r+1":          {digest[:], new(big.Int).Add(r, big.NewInt(1)), s},
			"s+1":          {digest[:], r, new(big.Int).Add(s, big.NewInt(1))},
			"swapped":      {digest[:], s, r},
			"r+n":          {digest[:], new(big.Int).Add(r, order), s},
			"s+n":          {digest[:], r, new(big.Int).Add(s, order)},
			"negative r":   {digest[:], new(big.Int).Neg(r), s},
			"r = 0":        {digest[:], new(big.Int), s},
			"s = 0":        {digest[:], r, new(big.Int)},
			"r = n":        {digest[:], order, s},
			"zero digest":  {make([]byte, 32), r, s},
			"long digest":  {append(digest[:], 1, 2, 3), r, s},
		} {
			want := ecdsa.Verify(&key.PublicKey, c.digest, c.r, c.s)
			if got := tables.verify(c.digest, c.r, c.s); got != want {
				t.Fatalf("%s: %v, want %v", name, got, want)
			}
		}
	}
}

// TestConstructedSignatures builds signatures around chosen points: an x
// coordinate between the order and the prime, where r is x-n, a digest of zero, and
// sums that end at infinity.
func TestConstructedSignatures(t *testing.T) {
	key := newKey(t)
	tables := tablesOf(t, &key.PublicKey)
	order := elliptic.P256().Params().N
	d := new(big.Int).SetBytes(must(key.Bytes()))
	// u1*G + u2*Q is infinity if e = -r*d.
	r := big.NewInt(123456789)
	e := new(big.Int).Mul(r, d)
	e.Neg(e).Mod(e, order)
	var digest [32]byte
	e.FillBytes(digest[:])
	if tables.verify(digest[:], r, big.NewInt(42)) || ecdsa.Verify(&key.PublicKey, digest[:], r, big.NewInt(42)) {
		t.Error("the point at infinity verifies")
	}
	// e = 0: the signature is u2*Q alone.
	k := big.NewInt(987654321)
	point := multiply(tables.base, k)
	x, _ := coordinates(&point)
	x.Mod(x, order)
	s := new(big.Int).Mul(x, d)
	s.Mul(s, new(big.Int).ModInverse(k, order)).Mod(s, order)
	if !tables.verify(make([]byte, 32), x, s) || !ecdsa.Verify(&key.PublicKey, make([]byte, 32), x, s) {
		t.Error("a signature over zero does not verify")
	}
}

// TestXBeyondTheOrder shows that r = x - n is found where x is not below n: the
// point with the least such x on the curve.
func TestXBeyondTheOrder(t *testing.T) {
	order := elliptic.P256().Params().N
	b := elliptic.P256().Params().B
	for r := big.NewInt(1); ; r.Add(r, big.NewInt(1)) {
		x := new(big.Int).Add(r, order)
		y := new(big.Int).Exp(x, big.NewInt(3), prime)
		y.Sub(y, new(big.Int).Mul(x, big.NewInt(3))).Add(y, b).Mod(y, prime)
		if y.ModSqrt(y, prime) == nil {
			continue
		}
		a, ok := affineOf(x, y)
		if !ok {
			t.Fatal("the point is out of range")
		}
		p := point{a.x, a.y, one}
		p.double(&p)
		q := point{}
		q.addAffine(&q, &a)
		if !q.hasX(r, order) || p.hasX(r, order) || q.hasX(new(big.Int).Add(r, big.NewInt(1)), order) {
			t.Error("r + n is not compared")
		}
		return
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestVerifierGoesFromLibraryToTables(t *testing.T) {
	key := newKey(t)
	v := New().Key(&key.PublicKey)
	digest := sha256.Sum256([]byte("x"))
	r, s := signature(t, key, digest[:])
	for i := range threshold + 600 {
		if !v.Verify(digest[:], r, s) || v.Verify(digest[:], s, r) {
			t.Fatalf("signature %d", i)
		}
	}
	if v.tables.Load() == nil || v.broken.Load() {
		t.Error("no tables after many signatures")
	}
}

func TestTablesThatLieAreNotBelieved(t *testing.T) {
	key, other := newKey(t), newKey(t)
	v := New().Key(&key.PublicKey)
	v.tables.Store(tablesOf(t, &other.PublicKey))
	digest := sha256.Sum256([]byte("x"))
	r, s := signature(t, other, digest[:])
	if v.Verify(digest[:], r, s) {
		t.Error("a signature of another key is accepted")
	}
	if !v.broken.Load() {
		t.Error("the tables are still in use")
	}
	r, s = signature(t, key, digest[:])
	if !v.Verify(digest[:], r, s) {
		t.Error("a good signature is refused because of the tables")
	}
}

func TestOtherCurvesAndTooManyKeysDoWithoutTables(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set := New()
	if set.Key(&key.PublicKey).ready(threshold+1) != nil {
		t.Error("a table for P-384")
	}
	set.tables.Store(maxTables)
	if set.Key(&newKey(t).PublicKey).ready(threshold+1) != nil {
		t.Error("one table too many")
	}
}

func BenchmarkVerify(b *testing.B) {
	key := newKey(b)
	digest := sha256.Sum256([]byte("x"))
	r, s := signature(b, key, digest[:])
	b.Run("tables", func(b *testing.B) {
		tables := tablesOf(b, &key.PublicKey)
		for b.Loop() {
			tables.verify(digest[:], r, s)
		}
	})
	b.Run("library", func(b *testing.B) {
		for b.Loop() {
			ecdsa.Verify(&key.PublicKey, digest[:], r, s)
		}
	})
	b.Run("build", func(b *testing.B) {
		for b.Loop() {
			tablesOf(b, &key.PublicKey)
		}
	})
}

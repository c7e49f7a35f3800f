package samekey

import "math/bits"

// element is a number modulo the prime of P-256, p = 2^256 - 2^224 + 2^192 +
// 2^96 - 1, as four words, least first, times 2^256 (Montgomery's form), always
// below p.
type element [4]uint64

const (
	p0 = 0xffffffffffffffff
	p1 = 0x00000000ffffffff
	p2 = 0x0000000000000000
	p3 = 0xffffffff00000001
)

var (
	// one is 2^256 mod p, square is 2^512 mod p.
	one    = element{0x0000000000000001, 0xffffffff00000000, 0xffffffffffffffff, 0x00000000fffffffe}
	square = element{0x0000000000000003, 0xfffffffbffffffff, 0xfffffffffffffffe, 0x00000004fffffffd}
)

func (z *element) isZero() bool { return z[0]|z[1]|z[2]|z[3] == 0 }

// mul sets z = x * y / 2^256 mod p. The sum t stays below 2p, since in each round
// (t + x*word + m*p) / 2^64 < (2p + 2^64*p + 2^64*p) / 2^64. Because p is -1 modulo
// 2^64, the multiple of p to be added in a round is the lowest word itself, and
// m*p needs one multiplication: m*2^96 and m*p3*2^192, less m, which cancels. Only
// that last sum passes 2^320, as p*(2^64+1) is below.
func (z *element) mul(x, y *element) {
	var t0, t1, t2, t3, t4, c uint64
	for i := range 4 {
		w := y[i]
		h0, l0 := bits.Mul64(x[0], w)
		h1, l1 := bits.Mul64(x[1], w)
		h2, l2 := bits.Mul64(x[2], w)
		h3, l3 := bits.Mul64(x[3], w)
		t0, c = bits.Add64(t0, l0, 0)
		t1, c = bits.Add64(t1, l1, c)
		t2, c = bits.Add64(t2, l2, c)
		t3, c = bits.Add64(t3, l3, c)
		t4 += c
		t1, c = bits.Add64(t1, h0, 0)
		t2, c = bits.Add64(t2, h1, c)
		t3, c = bits.Add64(t3, h2, c)
		t4, _ = bits.Add64(t4, h3, c)
		high, low := bits.Mul64(t0, p3)
		t1, c = bits.Add64(t1, t0<<32, 0)
		t2, c = bits.Add64(t2, t0>>32, c)
		t3, c = bits.Add64(t3, low, c)
		t4, c = bits.Add64(t4, high, c)
		t0, t1, t2, t3, t4 = t1, t2, t3, t4, c
	}
	z.reduce(t0, t1, t2, t3, t4)
}

// reduce sets z to a number below 2p, given with its carry, modulo p.
func (z *element) reduce(t0, t1, t2, t3, t4 uint64) {
	r0, b := bits.Sub64(t0, p0, 0)
	r1, b := bits.Sub64(t1, p1, b)
	r2, b := bits.Sub64(t2, p2, b)
	r3, b := bits.Sub64(t3, p3, b)
	if _, b = bits.Sub64(t4, 0, b); b != 0 {
		*z = element{t0, t1, t2, t3}
		return
	}
	*z = element{r0, r1, r2, r3}
}

// add sets z = x + y.
func (z *element) add(x, y *element) {
	t0, c := bits.Add64(x[0], y[0], 0)
	t1, c := bits.Add64(x[1], y[1], c)
	t2, c := bits.Add64(x[2], y[2], c)
	t3, c := bits.Add64(x[3], y[3], c)
	z.reduce(t0, t1, t2, t3, c)
}

// sub sets z = x - y.
func (z *element) sub(x, y *element) {
	t0, b := bits.Sub64(x[0], y[0], 0)
	t1, b := bits.Sub64(x[1], y[1], b)
	t2, b := bits.Sub64(x[2], y[2], b)
	t3, b := bits.Sub64(x[3], y[3], b)
	if b != 0 {
		var c uint64
		t0, c = bits.Add64(t0, p0, 0)
		t1, c = bits.Add64(t1, p1, c)
		t2, c = bits.Add64(t2, p2, c)
		t3, _ = bits.Add64(t3, p3, c)
	}
	*z = element{t0, t1, t2, t3}
}

// setBytes sets z to a number of 32 octets, which must be below p.
func (z *element) setBytes(b *[32]byte) bool {
	var x element
	for i := range 4 {
		for j := range 8 {
			x[3-i] = x[3-i]<<8 | uint64(b[8*i+j])
		}
	}
	_, c := bits.Sub64(x[0], p0, 0)
	_, c = bits.Sub64(x[1], p1, c)
	_, c = bits.Sub64(x[2], p2, c)
	_, c = bits.Sub64(x[3], p3, c)
	z.mul(&x, &square)
	return c == 1
}

// invert sets z = 1/x as x^(p-2), which is 0 for 0. It is slow and used once for a
// table.
func (z *element) invert(x *element) {
	exponent := element{p0 - 2, p1, p2, p3}
	r, base := one, *x
	for i := 255; i >= 0; i-- {
		r.mul(&r, &r)
		if exponent[i/64]>>(i%64)&1 == 1 {
			r.mul(&r, &base)
		}
	}
	*z = r
}

// Package samekey verifies many ECDSA signatures over P-256 that one key made, in
// a quarter of the time: the manifest of a reel is a million signatures of two
// keys. For such a key, and for the curve's base point, it computes a table of
// multiples once (0.5 MB), so that a signature takes 64 additions and no doubling.
//
// What it handles is public, so time and memory access may depend on it; nothing
// here may ever touch a private key. It never has the last word for no: what it
// does not accept, crypto/ecdsa verifies again. And it is watched while it says
// yes: the first signature of each key and one of 256 later is verified by both,
// and if they ever differ, the key goes on without the table. In FIPS mode there
// are no tables.
package samekey

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"math/big"
	"sync"
	"sync/atomic"
)

// Verifiers makes verifiers that share the table of the base point, and bounds the
// memory of all.
type Verifiers struct {
	base   func() *table
	tables atomic.Int64
}

const (
	// threshold is how many signatures a key has before it gets a table, which
	// costs as much as 100.
	threshold = 200
	// maxTables bounds memory to 32 MB.
	maxTables = 64
	// sampled is how often an accepted signature is verified again.
	sampled = 256
)

// New returns verifiers without any table yet.
func New() *Verifiers {
	return &Verifiers{base: sync.OnceValue(func() *table {
		params := elliptic.P256().Params()
		p, ok := affineOf(params.Gx, params.Gy)
		if !ok {
			return nil
		}
		return newTable(p)
	})}
}

// Verifier verifies signatures of one key. Any number of goroutines may use it.
type Verifier struct {
	set    *Verifiers
	key    *ecdsa.PublicKey
	count  atomic.Int64
	tables atomic.Pointer[tables]
	build  sync.Mutex
	broken atomic.Bool
}

// tables are those of base point and key, and how many signatures they accepted.
type tables struct {
	base, key *table
	accepted  atomic.Int64
}

// Key returns the verifier of a key. Keys on other curves are verified as ever.
func (v *Verifiers) Key(key *ecdsa.PublicKey) *Verifier {
	return &Verifier{set: v, key: key}
}

// Verify reports whether r and s are a signature of the key over digest.
func (v *Verifier) Verify(digest []byte, r, s *big.Int) bool {
	n := v.count.Add(1)
	t := v.ready(n)
	if t == nil || v.broken.Load() || !t.verify(digest, r, s) {
		return ecdsa.Verify(v.key, digest, r, s)
	}
	if t.accepted.Add(1)%sampled == 1 && !ecdsa.Verify(v.key, digest, r, s) {
		v.broken.Store(true)
		return false
	}
	return true
}

// ready returns the tables once the key has signed often enough. While one
// goroutine computes them, the others do without.
func (v *Verifier) ready(n int64) *tables {
	if t := v.tables.Load(); t != nil || n <= threshold {
		return t
	}
	if v.broken.Load() || v.key.Curve != elliptic.P256() || fips140.Enabled() || !v.build.TryLock() {
		return nil
	}
	defer v.build.Unlock()
	if t := v.tables.Load(); t != nil {
		return t
	}
	point, err := v.key.Bytes()
	if err != nil || v.set.tables.Add(1) > maxTables {
		v.broken.Store(true)
		return nil
	}
	p, ok := affineOf(new(big.Int).SetBytes(point[1:33]), new(big.Int).SetBytes(point[33:]))
	base := v.set.base()
	if !ok || base == nil {
		v.broken.Store(true)
		return nil
	}
	t := &tables{base: base, key: newTable(p)}
	v.tables.Store(t)
	return t
}

func affineOf(x, y *big.Int) (p affine, ok bool) {
	var bx, by [32]byte
	x.FillBytes(bx[:])
	y.FillBytes(by[:])
	return p, p.x.setBytes(&bx) && p.y.setBytes(&by)
}

// verify follows FIPS 186-5, section 6.4.2, for a digest of at least 32 octets.
func (t *tables) verify(digest []byte, r, s *big.Int) bool {
	n := elliptic.P256().Params().N
	if len(digest) < 32 || r.Sign() <= 0 || s.Sign() <= 0 || r.Cmp(n) >= 0 || s.Cmp(n) >= 0 {
		return false
	}
	e := new(big.Int).SetBytes(digest[:32])
	w := new(big.Int).ModInverse(s, n)
	if w == nil {
		return false
	}
	e.Mul(e, w).Mod(e, n)
	w.Mul(w, r).Mod(w, n)
	var u1, u2 [32]byte
	e.FillBytes(u1[:])
	w.FillBytes(u2[:])
	var sum point
	t.base.accumulate(&sum, &u1)
	t.key.accumulate(&sum, &u2)
	return sum.hasX(r, n)
}

// hasX reports whether the point's x coordinate is r modulo n, without dividing: x
// is r or, where that is below the prime, r+n.
func (p *point) hasX(r, n *big.Int) bool {
	if p.z.isZero() {
		return false
	}
	var zz, want element
	zz.mul(&p.z, &p.z)
	var b [32]byte
	r.FillBytes(b[:])
	if !want.setBytes(&b) {
		return false
	}
	want.mul(&want, &zz)
	if want == p.x {
		return true
	}
	sum := new(big.Int).Add(r, n)
	if sum.BitLen() > 256 {
		return false
	}
	sum.FillBytes(b[:])
	if !want.setBytes(&b) {
		return false
	}
	want.mul(&want, &zz)
	return want == p.x
}

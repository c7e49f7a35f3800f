package samekey

// point is a point of the curve in Jacobian coordinates: x = X/Z², y = Y/Z³; Z = 0
// is the point at infinity.
type point struct{ x, y, z element }

// affine is a point with Z = 1, never the one at infinity.
type affine struct{ x, y element }

// double sets p = 2a (dbl-2001-b of the Explicit-Formulas Database, for a = -3).
func (p *point) double(a *point) {
	var delta, gamma, beta, alpha, t, u element
	delta.mul(&a.z, &a.z)
	gamma.mul(&a.y, &a.y)
	beta.mul(&a.x, &gamma)
	t.sub(&a.x, &delta)
	u.add(&a.x, &delta)
	t.mul(&t, &u)
	alpha.add(&t, &t)
	alpha.add(&alpha, &t)
	// Z3 = (Y+Z)² - gamma - delta
	u.add(&a.y, &a.z)
	u.mul(&u, &u)
	u.sub(&u, &gamma)
	p.z.sub(&u, &delta)
	// X3 = alpha² - 8 beta
	beta.add(&beta, &beta)
	beta.add(&beta, &beta)
	t.add(&beta, &beta)
	u.mul(&alpha, &alpha)
	p.x.sub(&u, &t)
	// Y3 = alpha (4 beta - X3) - 8 gamma²
	beta.sub(&beta, &p.x)
	t.mul(&alpha, &beta)
	gamma.mul(&gamma, &gamma)
	gamma.add(&gamma, &gamma)
	gamma.add(&gamma, &gamma)
	gamma.add(&gamma, &gamma)
	p.y.sub(&t, &gamma)
}

// addAffine sets p = a + b (madd-2004-hmv), with the cases that the formula leaves
// out.
func (p *point) addAffine(a *point, b *affine) {
	if a.z.isZero() {
		*p = point{b.x, b.y, one}
		return
	}
	var zz, h, s, hh, hhh, v, t element
	zz.mul(&a.z, &a.z)
	h.mul(&b.x, &zz)
	h.sub(&h, &a.x)
	s.mul(&zz, &a.z)
	s.mul(&s, &b.y)
	s.sub(&s, &a.y)
	if h.isZero() {
		if s.isZero() {
			p.double(a)
		} else {
			*p = point{}
		}
		return
	}
	hh.mul(&h, &h)
	hhh.mul(&hh, &h)
	v.mul(&a.x, &hh)
	p.z.mul(&a.z, &h)
	// X3 = s² - h³ - 2v
	t.mul(&s, &s)
	t.sub(&t, &hhh)
	t.sub(&t, &v)
	t.sub(&t, &v)
	// Y3 = s (v - X3) - Y1 h³
	v.sub(&v, &t)
	v.mul(&v, &s)
	hhh.mul(&hhh, &a.y)
	p.y.sub(&v, &hhh)
	p.x = t
}

// windows is how many octets a scalar has; each selects one of 255 multiples.
const windows = 32

// table holds j * 256^i * P at [i][j-1].
type table [windows][255]affine

// newTable computes the multiples of a point.
func newTable(p affine) *table {
	t := new(table)
	base := p
	points := make([]point, 256)
	for i := range windows {
		points[0] = point{base.x, base.y, one}
		for j := 1; j < 256; j++ {
			points[j].addAffine(&points[j-1], &base)
		}
		normal := normalize(points)
		copy(t[i][:], normal[:255])
		base = normal[255]
	}
	return t
}

// normalize divides by Z, with one inversion for all. No point is at infinity: the
// multiples are below the order of the curve, a prime.
func normalize(points []point) []affine {
	products := make([]element, len(points))
	product := one
	for i := range points {
		products[i] = product
		product.mul(&product, &points[i].z)
	}
	var inverse element
	inverse.invert(&product)
	out := make([]affine, len(points))
	for i := len(points) - 1; i >= 0; i-- {
		var z, zz element
		z.mul(&inverse, &products[i])
		inverse.mul(&inverse, &points[i].z)
		zz.mul(&z, &z)
		out[i].x.mul(&points[i].x, &zz)
		zz.mul(&zz, &z)
		out[i].y.mul(&points[i].y, &zz)
	}
	return out
}

// accumulate adds scalar * P to r; the scalar is big-endian.
func (t *table) accumulate(r *point, scalar *[32]byte) {
	for i := range windows {
		if j := scalar[windows-1-i]; j != 0 {
			r.addAffine(r, &t[i][j-1])
		}
	}
}

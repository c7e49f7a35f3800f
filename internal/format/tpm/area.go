package tpm

import "encoding/binary"

// area is what a TPMT_PUBLIC says besides the key itself.
type area struct {
	kind       Alg
	bits       int // of the RSA modulus
	curve      Curve
	nameAlg    Alg
	attributes Attributes
	policy     []byte
	symmetric  Symmetric
	scheme     Scheme
}

// withUnique returns the TPMT_PUBLIC with what stands in its last field: the
// modulus of RSA (second is not looked at), or the coordinates of a point.
func (a area) withUnique(first, second []byte) []byte {
	b := make([]byte, 0, 64+len(a.policy)+len(first)+len(second))
	b = appendAlg(b, a.kind, a.nameAlg)
	b = binary.BigEndian.AppendUint32(b, uint32(a.attributes))
	b = appendSized(b, a.policy)
	b = appendAlg(b, a.symmetric.Alg)
	if a.symmetric.Alg != AlgNull {
		b = binary.BigEndian.AppendUint16(b, a.symmetric.KeyBits)
		b = appendAlg(b, a.symmetric.Mode)
	}
	b = appendAlg(b, a.scheme.Alg)
	if a.scheme.Alg != AlgNull {
		b = appendAlg(b, a.scheme.Hash)
	}
	if a.kind == AlgRSA {
		b = binary.BigEndian.AppendUint16(b, uint16(a.bits))
		b = binary.BigEndian.AppendUint32(b, 0) // the exponent 65537
		return appendSized(b, first)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(a.curve))
	b = appendAlg(b, AlgNull) // no key derivation
	b = appendSized(b, first)
	return appendSized(b, second)
}

func appendAlg(b []byte, algs ...Alg) []byte {
	for _, a := range algs {
		b = binary.BigEndian.AppendUint16(b, uint16(a))
	}
	return b
}

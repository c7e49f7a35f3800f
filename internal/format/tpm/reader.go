package tpm

import "encoding/binary"

// reader takes a structure of the TPM apart: big-endian integers and octet
// strings behind a size of 16 bits. The first thing that does not fit makes all
// that follows fail, so callers look once, at the end. It never copies and never
// allocates, so no claim of a header costs memory.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) take(n int) []byte {
	if r.failed || n > len(r.rest) {
		r.failed = true
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) u8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) alg() Alg { return Alg(r.u16()) }

// sized reads a TPM2B of at most limit octets.
func (r *reader) sized(limit int) []byte {
	n := int(r.u16())
	if n > limit {
		r.failed = true
	}
	return r.take(n)
}

// done says whether all was read and all of it fitted.
func (r *reader) done() bool { return !r.failed && len(r.rest) == 0 }

func appendSized(b, octets []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(octets)))
	return append(b, octets...)
}

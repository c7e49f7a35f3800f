package request

import "math"

// maxOID is the longest object identifier, in content octets, that is looked at.
const maxOID = 64

// validOID reports whether the content octets of an object identifier are
// minimal, complete and of arcs below 2^31, which is what others can read too.
func validOID(oid []byte) bool {
	if len(oid) == 0 || len(oid) > maxOID {
		return false
	}
	arc, first := uint64(0), true
	for _, b := range oid {
		if first && b == 0x80 {
			return false // a leading zero: not the shortest form
		}
		arc = arc<<7 | uint64(b&0x7f)
		if arc > math.MaxInt32 {
			return false
		}
		if first = b < 0x80; first {
			arc = 0
		}
	}
	return first
}

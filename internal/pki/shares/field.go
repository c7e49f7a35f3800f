package shares

// mul multiplies in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1, the field of AES. It
// does the same steps whatever the factors are.
func mul(a, b byte) byte {
	var product byte
	for range 8 {
		product ^= a & -(b & 1)
		a = a<<1 ^ 0x1b&-(a>>7)
		b >>= 1
	}
	return product
}

// inverse returns 1/a as a^254, and 0 for 0.
func inverse(a byte) byte {
	// 254 is 11111110 in binary: square, and multiply except at the last.
	result := byte(1)
	for range 7 {
		result = mul(mul(result, result), a)
	}
	return mul(result, result)
}

package shares

import "testing"

// slowMul multiplies polynomials and divides, as in a textbook.
func slowMul(a, b byte) byte {
	product := 0
	for i := range 8 {
		if b>>i&1 == 1 {
			product ^= int(a) << i
		}
	}
	for i := 15; i >= 8; i-- {
		if product>>i&1 == 1 {
			product ^= 0x11b << (i - 8)
		}
	}
	return byte(product)
}

func TestFieldIsTheOneOfAES(t *testing.T) {
	for a := range 256 {
		for b := range 256 {
			if got, want := mul(byte(a), byte(b)), slowMul(byte(a), byte(b)); got != want {
				t.Fatalf("%d * %d = %d, want %d", a, b, got, want)
			}
		}
	}
	// FIPS 197, section 4.2.
	if got := mul(0x57, 0x83); got != 0xc1 {
		t.Errorf("57 * 83 = %x, want c1", got)
	}
}

func TestInverse(t *testing.T) {
	for a := 1; a < 256; a++ {
		if mul(byte(a), inverse(byte(a))) != 1 {
			t.Errorf("%d * 1/%d is not 1", a, a)
		}
	}
	if inverse(0) != 0 {
		t.Error("1/0 is not 0")
	}
}

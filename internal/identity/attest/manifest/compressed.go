package manifest

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"slices"
)

// serialFollows reports whether a certificate's serial number is the one that
// Microchip's compressed form derives from key and dates (serial number source
// 0xA): the first 16 octets of SHA-256 over X, Y and the three octets of the
// dates, with the two upper bits 01. The chip's own memory has no room for
// another, so that a certificate that does not obey cannot be read back from it.
func serialFollows(leaf *x509.Certificate, x, y []byte) bool {
	dates, ok := compressedDates(leaf)
	if !ok {
		return false
	}
	sum := sha256.Sum256(slices.Concat(x, y, dates))
	want := sum[:16]
	want[0] = want[0]&0x3f | 0x40
	return bytes.Equal(leaf.SerialNumber.Bytes(), want)
}

// compressedDates packs the year since 2000, month, day and hour of the beginning
// and the number of years to the end, 0 for none, into 5, 4, 5, 5 and 5 bits.
func compressedDates(leaf *x509.Certificate) ([]byte, bool) {
	from, to := leaf.NotBefore.UTC(), leaf.NotAfter.UTC()
	years := to.Year() - from.Year()
	if to.Year() == 9999 {
		years = 0
	}
	year := from.Year() - 2000
	if year < 0 || year > 31 || years < 0 || years > 31 {
		return nil, false
	}
	v := uint32(year)<<19 | uint32(from.Month())<<15 | uint32(from.Day())<<10 | uint32(from.Hour())<<5 | uint32(years)
	return []byte{byte(v >> 16), byte(v >> 8), byte(v)}, true
}

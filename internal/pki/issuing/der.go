package issuing

import (
	"errors"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

const (
	tagInteger     = byte(asn1.INTEGER)
	tagBitString   = byte(asn1.BIT_STRING)
	tagOctetString = byte(asn1.OCTET_STRING)
	tagOID         = byte(asn1.OBJECT_IDENTIFIER)
	tagEnumerated  = byte(asn1.ENUM)
	tagUTF8        = byte(asn1.UTF8String)
	tagSequence    = byte(asn1.SEQUENCE)
	tagSet         = byte(asn1.SET)
	tagPrintable   = byte(asn1.PrintableString)
	tagIA5         = byte(asn1.IA5String)
	tagUTCTime     = byte(asn1.UTCTime)
	tagGeneralized = byte(asn1.GeneralizedTime)
)

// explicit returns the tag of a constructed context-specific element.
func explicit(n byte) byte { return 0xa0 | n }

// implicit returns the tag of a primitive context-specific element.
func implicit(n byte) byte { return 0x80 | n }

// headerLen returns how many octets tag and length of n octets take.
func headerLen(n int) int {
	switch {
	case n < 0x80:
		return 2
	case n < 0x100:
		return 3
	case n < 0x10000:
		return 4
	case n < 0x1000000:
		return 5
	}
	return 6
}

// appendHeader appends tag and length.
func appendHeader(dst []byte, tag byte, n int) []byte {
	switch headerLen(n) {
	case 2:
		return append(dst, tag, byte(n))
	case 3:
		return append(dst, tag, 0x81, byte(n))
	case 4:
		return append(dst, tag, 0x82, byte(n>>8), byte(n))
	case 5:
		return append(dst, tag, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
	return append(dst, tag, 0x84, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// appendTLV appends one element.
func appendTLV[T string | []byte](dst []byte, tag byte, content T) []byte {
	return append(appendHeader(dst, tag, len(content)), content...)
}

// wrap puts tag and length before what dst holds from start on. Contents are a
// few hundred octets, so moving them is cheaper than knowing lengths beforehand.
func wrap(dst []byte, start int, tag byte) []byte {
	n := len(dst) - start
	h := headerLen(n)
	dst = append(dst, "------"[:h]...)
	copy(dst[start+h:], dst[start:start+n])
	appendHeader(dst[:start], tag, n)
	return dst
}

// appendUint appends a non-negative INTEGER.
func appendUint(dst []byte, v uint64) []byte {
	start := len(dst)
	n := 8
	for n > 1 && v>>(8*(n-1)-1) == 0 {
		n--
	}
	if v>>63 == 1 {
		dst = append(dst, 0)
	}
	for i := n - 1; i >= 0; i-- {
		dst = append(dst, byte(v>>(8*i)))
	}
	return wrap(dst, start, tagInteger)
}

// appendTime appends a validity or CRL time as RFC 5280, section 4.1.2.5, says:
// UTCTime until 2049, GeneralizedTime from 2050 on.
func appendTime(dst []byte, t time.Time) []byte {
	if t.Year() >= 2050 {
		return appendGeneralized(dst, t)
	}
	dst = append(dst, tagUTCTime, 13)
	dst = appendDigits(dst, t.Year()%100)
	return appendClock(dst, t)
}

// appendGeneralized appends a GeneralizedTime without fractions.
func appendGeneralized(dst []byte, t time.Time) []byte {
	dst = append(dst, tagGeneralized, 15)
	dst = appendDigits(dst, t.Year()/100)
	dst = appendDigits(dst, t.Year()%100)
	return appendClock(dst, t)
}

func appendClock(dst []byte, t time.Time) []byte {
	_, month, day := t.Date()
	hour, minute, second := t.Clock()
	dst = appendDigits(dst, int(month))
	dst = appendDigits(dst, day)
	dst = appendDigits(dst, hour)
	dst = appendDigits(dst, minute)
	dst = appendDigits(dst, second)
	return append(dst, 'Z')
}

func appendDigits(dst []byte, v int) []byte {
	return append(dst, byte('0'+v/10), byte('0'+v%10))
}

var errTime = errors.New("not a time of RFC 5280")

// readTime reads a UTCTime or GeneralizedTime in the one form of RFC 5280. It
// shares no code with appendTime, so that each checks the other.
func readTime(s *cryptobyte.String) (time.Time, error) {
	var content cryptobyte.String
	var tag asn1.Tag
	if !s.ReadAnyASN1(&content, &tag) || len(content) == 0 || content[len(content)-1] != 'Z' {
		return time.Time{}, errTime
	}
	var part [7]int
	n := 0
	for i := 0; i+1 < len(content); i += 2 {
		a, b := content[i]-'0', content[i+1]-'0'
		if a > 9 || b > 9 || n == len(part) {
			return time.Time{}, errTime
		}
		part[n] = int(a)*10 + int(b)
		n++
	}
	century, rest := 0, part[:n]
	switch {
	case tag == asn1.GeneralizedTime && len(content) == 15:
		century, rest = part[0], part[1:]
	case tag == asn1.UTCTime && len(content) == 13 && part[0] >= 50:
		century = 19
	case tag == asn1.UTCTime && len(content) == 13:
		century = 20
	default:
		return time.Time{}, errTime
	}
	t := time.Date(century*100+rest[0], time.Month(rest[1]), rest[2], rest[3], rest[4], rest[5], 0, time.UTC)
	if int(t.Month()) != rest[1] || t.Day() != rest[2] || t.Hour() != rest[3] || t.Minute() != rest[4] || t.Second() != rest[5] {
		return time.Time{}, errTime
	}
	return t, nil
}

// whole reports whether a time can be written: UTC, whole seconds, years with
// four digits.
func whole(t time.Time) bool {
	return t.Nanosecond() == 0 && t.Year() >= 1950 && t.Year() <= 9999
}

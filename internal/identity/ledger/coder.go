package ledger

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

// coder writes or reads the fields of an entry in their one order. A body lists
// its fields once, in a method fields(*coder), and that list is both its
// renderer and its parser: they cannot drift apart. Reading accepts exactly the
// bytes that writing makes.
type coder struct {
	buf     []byte // written so far, or left to read
	reading bool
	started bool // a field has been written or read in this object
	err     error
}

// presence says whether a field with the zero value is written.
type presence bool

const (
	always     presence = true
	unlessZero presence = false
)

const (
	dayTime   = "2006-01-02T15:04:05Z"
	microTime = "2006-01-02T15:04:05.000000Z"
)

var errForm = errors.New("not in canonical form")

func (c *coder) fail(name string) {
	if c.err == nil {
		c.err = fmt.Errorf("field %q: %w", name, errForm)
	}
}

// literal writes s, or reads exactly s.
func (c *coder) literal(s string) {
	if !c.reading {
		c.buf = append(c.buf, s...)
		return
	}
	if c.err == nil && !c.take(s) {
		c.err = fmt.Errorf("%q is missing: %w", s, errForm)
	}
}

// take reads s if it is next.
func (c *coder) take(s string) bool {
	if len(c.buf) < len(s) || string(c.buf[:len(s)]) != s {
		return false
	}
	c.buf = c.buf[len(s):]
	return true
}

// key starts a field and reports whether its value follows.
func (c *coder) key(name string, zero bool, p presence) bool {
	if c.err != nil {
		return false
	}
	if !c.reading {
		if zero && p == unlessZero {
			return false
		}
		if c.started {
			c.buf = append(c.buf, ',')
		}
		c.started = true
		c.buf = append(c.buf, '"')
		c.buf = append(c.buf, name...)
		c.buf = append(c.buf, '"', ':')
		return true
	}
	rest := c.buf
	if (!c.started || c.take(",")) && c.take(`"`) && c.take(name) && c.take(`":`) {
		c.started = true
		return true
	}
	c.buf = rest
	if p == always {
		c.fail(name)
	}
	return false
}

// given refuses a field that was read as zero although zero is not written.
func (c *coder) given(name string, zero bool, p presence) {
	if zero && p == unlessZero {
		c.fail(name)
	}
}

func (c *coder) int(name string, v *int64, p presence) {
	if !c.key(name, *v == 0, p) {
		return
	}
	c.number(name, v)
	c.given(name, *v == 0, p)
}

func (c *coder) number(name string, v *int64) {
	if !c.reading {
		c.buf = strconv.AppendInt(c.buf, *v, 10)
		return
	}
	n := 0
	for n < len(c.buf) && (c.buf[n] == '-' || '0' <= c.buf[n] && c.buf[n] <= '9') {
		n++
	}
	digits := c.buf[:n]
	i, err := strconv.ParseInt(string(digits), 10, 64)
	if err != nil || len(digits) > 1 && (digits[0] == '0' || digits[0] == '-' && digits[1] == '0') {
		c.fail(name)
		return
	}
	*v, c.buf = i, c.buf[n:]
}

// ranges writes pairs of numbers: [[1,2],[5,9]].
func (c *coder) ranges(name string, v *[][2]int64) {
	c.key(name, false, always)
	c.literal("[")
	for i := 0; c.err == nil; i++ {
		if !c.reading && i == len(*v) || c.reading && len(c.buf) > 0 && c.buf[0] == ']' {
			break
		}
		if c.reading {
			*v = append(*v, [2]int64{})
		}
		if i > 0 {
			c.literal(",")
		}
		c.literal("[")
		c.number(name, &(*v)[i][0])
		c.literal(",")
		c.number(name, &(*v)[i][1])
		c.literal("]")
	}
	c.literal("]")
}

// small is int for values of other integer types.
func small[T ~int | ~int32 | ~uint32 | ~uint8](c *coder, name string, v *T, p presence) {
	i := int64(*v)
	c.int(name, &i, p)
	*v = T(i)
	if int64(*v) != i {
		c.fail(name)
	}
}

func (c *coder) bool(name string, v *bool) {
	if !c.key(name, !*v, unlessZero) {
		return
	}
	c.literal("true")
	*v = true
}

// id writes a device's number as the 16 hex digits that people see.
func (c *coder) id(name string, v *int64, p presence) {
	if !c.key(name, *v == 0, p) {
		return
	}
	var raw [8]byte
	for i := range raw {
		raw[i] = byte(uint64(*v) >> (56 - 8*i))
	}
	c.octets(name, raw[:])
	var u uint64
	for _, b := range raw {
		u = u<<8 | uint64(b)
	}
	if u > math.MaxInt64 {
		c.fail(name)
		return
	}
	*v = int64(u)
	c.given(name, u == 0, p)
}

// word writes 64 bits as 16 hex digits, unless all are zero.
func (c *coder) word(name string, v *uint64) {
	if !c.key(name, *v == 0, unlessZero) {
		return
	}
	raw := binary.BigEndian.AppendUint64(nil, *v)
	c.octets(name, raw)
	*v = binary.BigEndian.Uint64(raw)
	c.given(name, *v == 0, unlessZero)
}

func (c *coder) digest(name string, v *[32]byte, p presence) {
	if c.key(name, *v == [32]byte{}, p) {
		c.octets(name, v[:])
		c.given(name, *v == [32]byte{}, p)
	}
}

// octets writes or reads len(v) octets as lower-case hex in quotes.
func (c *coder) octets(name string, v []byte) {
	if !c.reading {
		c.buf = append(c.buf, '"')
		c.buf = hex.AppendEncode(c.buf, v)
		c.buf = append(c.buf, '"')
		return
	}
	n := 2 * len(v)
	if c.err != nil || len(c.buf) < n+2 || c.buf[0] != '"' || c.buf[n+1] != '"' || !unhex(v, c.buf[1:n+1]) {
		c.fail(name)
		return
	}
	c.buf = c.buf[n+2:]
}

// bytes is octets of a length that is not known before.
func (c *coder) bytes(name string, v *[]byte, p presence) {
	if !c.key(name, len(*v) == 0, p) {
		return
	}
	if c.reading {
		end := -1
		if len(c.buf) > 0 {
			end = bytes.IndexByte(c.buf[1:], '"')
		}
		if end < 0 || end%2 != 0 {
			c.fail(name)
			return
		}
		*v = make([]byte, end/2)
	}
	c.octets(name, *v)
	c.given(name, len(*v) == 0, p)
}

// unhex decodes lower-case hex only.
func unhex(dst, src []byte) bool {
	for i := range dst {
		high, low := nibble(src[2*i]), nibble(src[2*i+1])
		if high|low > 15 {
			return false
		}
		dst[i] = high<<4 | low
	}
	return true
}

func nibble(b byte) byte {
	switch {
	case '0' <= b && b <= '9':
		return b - '0'
	case 'a' <= b && b <= 'f':
		return b - 'a' + 10
	}
	return 16
}

// time writes seconds, which is what certificates and rows hold.
func (c *coder) time(name string, v *time.Time, p presence) {
	if !c.key(name, v.IsZero(), p) {
		return
	}
	c.moment(name, v, dayTime)
	c.given(name, v.IsZero(), p)
}

func (c *coder) moment(name string, v *time.Time, layout string) {
	if !c.reading {
		c.buf = append(c.buf, '"')
		c.buf = v.UTC().AppendFormat(c.buf, layout)
		c.buf = append(c.buf, '"')
		return
	}
	if c.err != nil || len(c.buf) < len(layout)+2 || c.buf[0] != '"' || c.buf[len(layout)+1] != '"' {
		c.fail(name)
		return
	}
	t, ok := parseTime(c.buf[1:len(layout)+1], len(layout) == len(microTime))
	if !ok {
		c.fail(name)
		return
	}
	*v, c.buf = t, c.buf[len(layout)+2:]
}

// parseTime reads one of the two layouts, about five times faster than package
// time does, and refuses what package time would normalize.
func parseTime(b []byte, micros bool) (time.Time, bool) {
	num := func(from, to int) (n int) {
		for _, d := range b[from:to] {
			if d < '0' || d > '9' {
				return -1
			}
			n = n*10 + int(d-'0')
		}
		return n
	}
	if b[4] != '-' || b[7] != '-' || b[10] != 'T' || b[13] != ':' || b[16] != ':' || b[len(b)-1] != 'Z' || micros && b[19] != '.' {
		return time.Time{}, false
	}
	nanos := 0
	if micros {
		nanos = num(20, 26) * 1000
	}
	y, mo, d, h, mi, s := num(0, 4), num(5, 7), num(8, 10), num(11, 13), num(14, 16), num(17, 19)
	if min(y, mo, d, h, mi, s, nanos) < 0 || h > 23 || mi > 59 || s > 59 {
		return time.Time{}, false
	}
	t := time.Date(y, time.Month(mo), d, h, mi, s, nanos, time.UTC)
	return t, t.Month() == time.Month(mo) && t.Day() == d
}

func (c *coder) string(name string, v *string, p presence) {
	if !c.key(name, *v == "", p) {
		return
	}
	c.quoted(name, v)
	c.given(name, *v == "", p)
}

func (c *coder) quoted(name string, v *string) {
	if !c.reading {
		c.buf = appendString(c.buf, *v)
		return
	}
	s, rest, ok := readString(c.buf)
	if c.err != nil || !ok {
		c.fail(name)
		return
	}
	*v, c.buf = s, rest
}

const lowerHex = "0123456789abcdef"

// appendString writes a JSON string: quote, backslash and control characters
// are escaped, what is not UTF-8 becomes U+FFFD, all else stays as it is.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		switch b := s[i]; {
		case b == '"' || b == '\\':
			dst = append(dst, '\\', b)
			i++
		case b < 0x20:
			dst = append(dst, '\\', 'u', '0', '0', lowerHex[b>>4], lowerHex[b&15])
			i++
		case b < utf8.RuneSelf:
			dst = append(dst, b)
			i++
		default:
			r, n := utf8.DecodeRuneInString(s[i:])
			dst = utf8.AppendRune(dst, r)
			i += n
		}
	}
	return append(dst, '"')
}

// readString reads what appendString wrote and nothing else.
func readString(src []byte) (s string, rest []byte, ok bool) {
	if len(src) < 2 || src[0] != '"' {
		return "", nil, false
	}
	src = src[1:]
	end := 0
	for end < len(src) && src[end] != '"' && src[end] != '\\' && src[end] >= 0x20 {
		end++
	}
	if end < len(src) && src[end] == '"' {
		return string(src[:end]), src[end+1:], utf8.Valid(src[:end])
	}
	var out []byte
	for len(src) > 0 {
		switch b := src[0]; {
		case b == '"':
			return string(out), src[1:], utf8.Valid(out)
		case b != '\\':
			if b < 0x20 {
				return "", nil, false
			}
			out, src = append(out, b), src[1:]
		case len(src) > 1 && (src[1] == '"' || src[1] == '\\'):
			out, src = append(out, src[1]), src[2:]
		default:
			var raw [1]byte
			if len(src) < 6 || string(src[1:4]) != "u00" || !unhex(raw[:], src[4:6]) || raw[0] >= 0x20 {
				return "", nil, false
			}
			out, src = append(out, raw[0]), src[6:]
		}
	}
	return "", nil, false
}

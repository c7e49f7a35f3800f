package serialline

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

// Sizes of the protocol, the same as in bm_line.h.
const (
	maxLine  = 160 // octets, with the line feed
	maxChunk = 96  // octets of an object in one line
	maxField = 4
	version  = 1
)

// Where a frame goes is its first octet.
const (
	toDevice  = '>'
	toStation = '<'
)

// lineText is base64 as lines carry it; nothing at all is written as "-".
var lineText = base64.RawStdEncoding.Strict()

// frame is one line: a request to the device or its answer.
type frame struct {
	to     byte
	seq    uint16
	verb   string
	fields []string
}

// appendFrame writes a frame as a line with its CRC and line feed.
func appendFrame(b []byte, f frame) []byte {
	start := len(b)
	b = fmt.Appendf(b, "%c%04x %s", f.to, f.seq, f.verb)
	for _, field := range f.fields {
		b = append(b, ' ')
		b = append(b, field...)
	}
	b = append(b, ' ')
	return fmt.Appendf(b, "%08x\n", crc32.ChecksumIEEE(b[start:]))
}

// parseFrame takes a line apart, without its line feed. A line that was damaged,
// or is something else, is not ok and deserves no answer.
func parseFrame(to byte, line []byte) (f frame, ok bool) {
	if len(line) >= maxLine || len(line) < len("<0000 v 00000000") || line[0] != to {
		return f, false
	}
	body, check := line[:len(line)-8], line[len(line)-8:]
	sum, ok := parseHex(string(check), 8)
	if !ok || uint32(sum) != crc32.ChecksumIEEE(body) || body[len(body)-1] != ' ' {
		return f, false
	}
	words := strings.Split(string(body[1:len(body)-1]), " ")
	if len(words) < 2 || len(words) > 2+maxField {
		return f, false
	}
	for _, word := range words {
		if word == "" || strings.ContainsFunc(word, unprintable) {
			return f, false
		}
	}
	seq, ok := parseHex(words[0], 4)
	return frame{to: to, seq: uint16(seq), verb: words[1], fields: words[2:]}, ok
}

func unprintable(r rune) bool { return r <= ' ' || r > '~' }

// parseHex reads exactly so many lower-case digits.
func parseHex(s string, digits int) (uint64, bool) {
	if len(s) != digits || s != strings.ToLower(s) {
		return 0, false
	}
	if _, err := hex.DecodeString(s + strings.Repeat("0", len(s)%2)); err != nil {
		return 0, false
	}
	v, err := strconv.ParseUint(s, 16, 64)
	return v, err == nil
}

func encode(b []byte) string {
	if len(b) == 0 {
		return "-"
	}
	return lineText.EncodeToString(b)
}

func decode(s string) ([]byte, error) {
	if s == "-" {
		return nil, nil
	}
	return lineText.DecodeString(s)
}

// splitter finds frames in what a line delivers: each begins with its direction's
// octet, wherever that stands, and ends with a line feed. Everything else, such
// as the messages that firmware prints, is passed over.
type splitter struct {
	to        byte
	line      []byte
	receiving bool
}

// feed takes octets in pieces of any size and calls yield with each whole frame.
func (s *splitter) feed(data []byte, yield func(frame)) {
	for _, c := range data {
		if c == s.to {
			s.receiving, s.line = true, s.line[:0]
		}
		if !s.receiving || c == '\r' {
			continue
		}
		switch {
		case c == '\n':
			s.receiving = false
			if f, ok := parseFrame(s.to, s.line); ok {
				yield(f)
			}
		case c < ' ' || c > '~' || len(s.line) == maxLine-1:
			s.receiving = false
		default:
			s.line = append(s.line, c)
		}
	}
}

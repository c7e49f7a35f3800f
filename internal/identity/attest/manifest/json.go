package manifest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"unicode/utf8"
)

// maxDepth is how deep values may nest, maxMembers how many members an object may
// have.
const (
	maxDepth   = 16
	maxMembers = 64
)

var errJSON = errors.New("malformed JSON")

// members calls f for each member of the object that data is, with the value as it
// stands. Unlike encoding/json it tells names apart by case and refuses repeated
// ones: what two readers of a signed text could understand differently is no
// statement. Names with escapes are refused too.
func members(data []byte, f func(name string, value []byte) error) error {
	var names [][]byte
	return walk(data, '{', '}', func(rest []byte) (int, error) {
		n, err := skipString(rest)
		if err != nil {
			return 0, err
		}
		name := rest[1 : n-1]
		if bytes.IndexByte(name, '\\') >= 0 || len(names) >= maxMembers {
			return 0, errJSON
		}
		if slices.ContainsFunc(names, func(b []byte) bool { return bytes.Equal(b, name) }) {
			return 0, bad("the member %.32q is there twice", name)
		}
		names = append(names, name)
		n += space(rest[n:])
		if n == len(rest) || rest[n] != ':' {
			return 0, errJSON
		}
		n++
		n += space(rest[n:])
		size, err := skipValue(rest[n:], maxDepth)
		if err != nil {
			return 0, err
		}
		return n + size, f(string(name), rest[n:n+size])
	})
}

// elements calls f for each element of the array that data is.
func elements(data []byte, f func(value []byte) error) error {
	return walk(data, '[', ']', func(rest []byte) (int, error) {
		size, err := skipValue(rest, maxDepth)
		if err != nil {
			return 0, err
		}
		return size, f(rest[:size])
	})
}

// walk goes over what stands between open and end, separated by commas. one
// returns the length of the item at the beginning of its argument.
func walk(data []byte, open, end byte, one func(rest []byte) (int, error)) error {
	i := space(data)
	if i == len(data) || data[i] != open {
		return errJSON
	}
	i++
	i += space(data[i:])
	if i < len(data) && data[i] == end {
		return blank(data[i+1:])
	}
	for {
		n, err := one(data[i:])
		if err != nil {
			return err
		}
		i += n
		i += space(data[i:])
		if i == len(data) {
			return errJSON
		}
		switch data[i] {
		case end:
			return blank(data[i+1:])
		case ',':
			i++
			i += space(data[i:])
		default:
			return errJSON
		}
	}
}

func blank(data []byte) error {
	if space(data) != len(data) {
		return errJSON
	}
	return nil
}

// space returns the length of the white space at the beginning.
func space(data []byte) int {
	for i, c := range data {
		if c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return i
		}
	}
	return len(data)
}

// skipValue returns the length of the value at the beginning.
func skipValue(data []byte, depth int) (int, error) {
	if len(data) == 0 || depth == 0 {
		return 0, errJSON
	}
	switch data[0] {
	case '"':
		return skipString(data)
	case '{', '[':
		return skipNested(data, depth)
	}
	i := bytes.IndexAny(data, ",]} \n\t\r")
	if i < 0 {
		i = len(data)
	}
	if i > 64 || !json.Valid(data[:i]) {
		return 0, errJSON
	}
	return i, nil
}

// skipNested checks brackets and strings; what is between is checked by whoever
// looks into it.
func skipNested(data []byte, depth int) (int, error) {
	var open []byte
	for i := 0; i < len(data); i++ {
		switch c := data[i]; c {
		case '"':
			n, err := skipString(data[i:])
			if err != nil {
				return 0, err
			}
			i += n - 1
		case '{', '[':
			if open = append(open, c+2); len(open) > depth { // '}' and ']' are two further on
				return 0, errJSON
			}
		case '}', ']':
			if open[len(open)-1] != c {
				return 0, errJSON
			}
			if open = open[:len(open)-1]; len(open) == 0 {
				return i + 1, nil
			}
		}
	}
	return 0, errJSON
}

// skipString returns the length of the string at the beginning with its quotes.
func skipString(data []byte) (int, error) {
	if len(data) == 0 || data[0] != '"' {
		return 0, errJSON
	}
	for i := 1; ; {
		n := bytes.IndexByte(data[i:], '"')
		if n < 0 {
			return 0, errJSON
		}
		i += n
		if !escaped(data[1:i]) {
			return i + 1, nil
		}
		i++
	}
}

// escaped reports whether what follows is escaped: an odd number of backslashes
// stands before it.
func escaped(before []byte) bool {
	n := 0
	for n < len(before) && before[len(before)-1-n] == '\\' {
		n++
	}
	return n%2 == 1
}

// text returns the string that value is.
func text(value []byte) (string, error) {
	if len(value) < 2 || value[0] != '"' {
		return "", errors.New("not a string")
	}
	inner := value[1 : len(value)-1]
	if bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) && !slices.ContainsFunc(inner, func(c byte) bool { return c < ' ' }) {
		return string(inner), nil
	}
	var s string
	if !utf8.Valid(inner) || json.Unmarshal(value, &s) != nil {
		return "", errJSON
	}
	return s, nil
}

// octets decodes the base64 string that value is.
func octets(value []byte, encoding *base64.Encoding) ([]byte, error) {
	if len(value) < 2 || value[0] != '"' {
		return nil, errors.New("not a string")
	}
	inner := value[1 : len(value)-1]
	// The decoder skips line ends, which no JSON string can hold.
	if bytes.ContainsAny(inner, "\r\n") {
		return nil, errJSON
	}
	return encoding.AppendDecode(nil, inner)
}

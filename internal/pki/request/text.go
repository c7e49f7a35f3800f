package request

import (
	"unicode"
	"unicode/utf8"
)

// printable reports whether text keeps to the alphabet of PrintableString
// (X.680, section 41.4).
func printable(text []byte) bool {
	for _, b := range text {
		switch {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9':
		case b == ' ', b == '\'', b == '(', b == ')', b == '+', b == ',', b == '-',
			b == '.', b == '/', b == ':', b == '=', b == '?':
		default:
			return false
		}
	}
	return true
}

// ascii reports whether text is ASCII without control characters.
func ascii(text []byte) bool {
	for _, b := range text {
		if b < ' ' || b > '~' {
			return false
		}
	}
	return true
}

// visible reports whether each character of valid UTF-8 shows as itself: no
// controls, no bidirectional or zero-width formatting, no private use, no
// spaces other than the common one. Two names that look alike to an operator
// because one hides a character are refused here, not explained later.
func visible(text []byte) bool {
	for i := 0; i < len(text); {
		if b := text[i]; b < utf8.RuneSelf {
			if b < ' ' || b == 0x7f {
				return false
			}
			i++
			continue
		}
		r, n := utf8.DecodeRune(text[i:])
		if !unicode.IsGraphic(r) || unicode.Is(unicode.Zs, r) ||
			unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) {
			return false
		}
		i += n
	}
	return true
}

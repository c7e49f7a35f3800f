package request

import (
	"bytes"
	"encoding/base64"

	"github.com/birthmark/birthmark/internal/fault"
)

// MaxBody is the longest body [Decode] looks at: the largest request in base64
// with every line broken early.
const MaxBody = 2 * MaxSize

// Decode returns the DER of a request body as devices send it: base64 with line
// breaks anywhere or nowhere (RFC 8951), one PEM block without headers, or DER
// itself, which is returned as it is. It does not look into the DER. The time
// it takes is linear in the length of body.
func Decode(body []byte) ([]byte, error) {
	switch {
	case len(body) > MaxBody:
		return nil, fault.New(fault.RequestTooLarge, "more than", MaxBody, "octets")
	case len(body) == 0:
		return nil, fault.New(fault.EncodingMalformed, "the body is empty")
	case body[0] == derSequence:
		// No base64 of a request starts with '0': a SEQUENCE encodes as 'M'.
		return body, nil
	}
	text := bytes.Trim(body, whitespace)
	if bytes.HasPrefix(text, []byte(pemBegin)) {
		return decodePEM(text)
	}
	return decodeBase64(text)
}

const (
	whitespace = " \t\r\n"
	pemBegin   = "-----BEGIN "
	pemEnd     = "-----END "

	derSequence = 0x30 // the first octet of every request
)

// decodePEM reads exactly one block of either common label.
func decodePEM(text []byte) ([]byte, error) {
	for _, label := range []string{"CERTIFICATE REQUEST-----", "NEW CERTIFICATE REQUEST-----"} {
		inner, ok := bytes.CutPrefix(text, []byte(pemBegin+label))
		if !ok {
			continue
		}
		inner, ok = bytes.CutSuffix(inner, []byte(pemEnd+label))
		// Both lines stand alone. Headers and further blocks contain characters
		// that are not base64 and fail below.
		if !ok || len(inner) == 0 || bytes.IndexByte([]byte("\r\n"), inner[0]) < 0 || inner[len(inner)-1] != '\n' {
			return nil, fault.New(fault.EncodingMalformed, "PEM")
		}
		return decodeBase64(inner)
	}
	return nil, fault.New(fault.EncodingMalformed, "the PEM label is not CERTIFICATE REQUEST")
}

// decodeBase64 is strict about everything but line breaks and blanks: the
// alphabet, the padding and the unused bits are as RFC 4648 says.
func decodeBase64(text []byte) ([]byte, error) {
	if bytes.ContainsAny(text, " \t") {
		text = bytes.Map(func(r rune) rune {
			if r == ' ' || r == '\t' {
				return -1
			}
			return r
		}, text)
	}
	der := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Strict().Decode(der, text) // skips CR and LF itself
	if err != nil {
		return nil, fault.Wrap(fault.EncodingMalformed, err, "base64")
	}
	if n == 0 || der[0] != derSequence {
		return nil, fault.New(fault.EncodingMalformed, "no DER SEQUENCE inside")
	}
	return der[:n], nil
}

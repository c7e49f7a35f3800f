package station

import (
	"encoding/base64"
	"encoding/json"
	"strconv"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
)

// decode reads one JSON object into out. Members that are not known are left
// alone: a station may be newer than its server.
func decode(in []byte, out any) error {
	if err := json.Unmarshal(in, out); err != nil {
		return fault.Wrap(fault.RequestMalformed, err, "not the one JSON object that belongs here")
	}
	return nil
}

// appendResult writes a result and a line's end, as encoding/json would.
func appendResult(dst []byte, r *station.Result) []byte {
	dst = append(dst, `{"id":`...)
	dst = appendString(dst, r.ID)
	dst = appendText(dst, `,"serial":`, r.DeviceSerial)
	dst = append(dst, `,"ok":`...)
	dst = strconv.AppendBool(dst, r.OK)
	if r.Replayed {
		dst = append(dst, `,"replayed":true`...)
	}
	dst = appendOctets(dst, `,"certificate":`, r.Certificate)
	if len(r.Chain) > 0 {
		dst = append(dst, `,"chain":[`...)
		for i, der := range r.Chain {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendBase64(dst, der)
		}
		dst = append(dst, ']')
	}
	dst = appendOctets(dst, `,"confirmNonce":`, r.ConfirmNonce)
	dst = appendOctets(dst, `,"wrapped":`, r.Wrapped)
	if r.Challenge != nil {
		form, _ := json.Marshal(r.Challenge) // octets, numbers and a time always have a form
		dst = append(append(dst, `,"challenge":`...), form...)
	}
	dst = appendText(dst, `,"code":`, r.Code)
	dst = appendText(dst, `,"kind":`, r.Kind)
	dst = appendText(dst, `,"message":`, r.Message)
	dst = appendText(dst, `,"detail":`, r.Detail)
	dst = appendText(dst, `,"remedy":`, r.Remedy)
	dst = appendText(dst, `,"who":`, r.Who)
	return append(dst, '}', '\n')
}

func appendText(dst []byte, name, value string) []byte {
	if value == "" {
		return dst
	}
	return appendString(append(dst, name...), value)
}

func appendOctets(dst []byte, name string, value []byte) []byte {
	if len(value) == 0 {
		return dst
	}
	return appendBase64(append(dst, name...), value)
}

func appendBase64(dst, value []byte) []byte {
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, value)
	return append(dst, '"')
}

// appendString leaves what needs more than quotes to encoding/json.
func appendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, _ := json.Marshal(s) // a string always has a form
			return append(dst, quoted...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

package link

import (
	"encoding/base64"
	"encoding/json"
	"strconv"

	"github.com/birthmark/birthmark/internal/format/station"
)

// appendUnit writes a unit as one line. It is on the road of every unit, so that
// what is common is written without reflection; a test compares it with
// encoding/json.
func appendUnit(dst []byte, u *station.Unit) []byte {
	if u.Rework != nil || u.TPM != nil {
		return appendJSON(dst, u)
	}
	dst = append(dst, `{"id":`...)
	dst = appendString(dst, u.ID)
	dst = append(dst, `,"order":`...)
	dst = appendString(dst, u.Order)
	dst = append(dst, `,"serial":`...)
	dst = appendString(dst, u.DeviceSerial)
	dst = appendText(dst, `,"reference":`, u.Reference)
	dst = appendOctets(dst, `,"csr":`, u.CSR)
	if u.Chip != nil {
		dst = append(dst, `,"chip":{`...)
		if u.Chip.Vendor != "" {
			dst = append(dst, `"vendor":`...)
			dst = appendString(dst, u.Chip.Vendor)
			dst = append(dst, ',')
		}
		dst = append(dst, `"uid":`...)
		dst = appendString(dst, u.Chip.UID)
		dst = appendText(dst, `,"slot":`, u.Chip.Slot)
		dst = append(dst, '}')
	}
	dst = appendOctets(dst, `,"nonce":`, u.Nonce)
	dst = appendOctets(dst, `,"proof":`, u.Proof)
	dst = appendOctets(dst, `,"recipient":`, u.Recipient)
	dst = appendText(dst, `,"form":`, u.Form)
	dst = appendText(dst, `,"password":`, u.Password)
	return append(dst, "}\n"...)
}

// appendConfirm writes a confirmation as one line, as appendUnit does.
func appendConfirm(dst []byte, c *station.Confirm) []byte {
	if len(c.Certificate) == 0 || len(c.Signature) == 0 {
		return appendJSON(dst, c) // null for what is absent
	}
	dst = append(dst, `{"id":`...)
	dst = appendString(dst, c.ID)
	dst = append(dst, `,"order":`...)
	dst = appendString(dst, c.Order)
	dst = append(dst, `,"serial":`...)
	dst = appendString(dst, c.DeviceSerial)
	dst = appendOctets(dst, `,"certificate":`, c.Certificate)
	dst = appendOctets(dst, `,"signature":`, c.Signature)
	if c.CycleMillis != 0 {
		dst = append(dst, `,"cycleMillis":`...)
		dst = strconv.AppendInt(dst, c.CycleMillis, 10)
	}
	if c.FirstPass {
		dst = append(dst, `,"firstPass":true`...)
	}
	return append(dst, "}\n"...)
}

func appendText(dst []byte, name, text string) []byte {
	if text == "" {
		return dst
	}
	return appendString(append(dst, name...), text)
}

func appendOctets(dst []byte, name string, octets []byte) []byte {
	if len(octets) == 0 {
		return dst
	}
	dst = append(dst, name...)
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, octets)
	return append(dst, '"')
}

// appendString quotes text; what needs escapes is left to encoding/json.
func appendString(dst []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return appendValue(dst, text)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, text...)
	return append(dst, '"')
}

func appendJSON(dst []byte, v any) []byte { return append(appendValue(dst, v), '\n') }

func appendValue(dst []byte, v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		return append(dst, "null"...) // the structs of the protocol always have a JSON form
	}
	return append(dst, text...)
}

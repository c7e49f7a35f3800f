package rest

import (
	"bytes"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
)

// FuzzSerialPath reads whatever stands for a certificate serial.
func FuzzSerialPath(f *testing.F) {
	for _, text := range []string{"", "0", "00", "0x1f", "1F:2e", "xyz", ":", "0x", "ffffffffffffffffffffffffffffffffffffffffff", " 1 ", "٣"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		raw, err := (&SerialPath{text}).parse()
		if err != nil {
			if !fault.Has(err, fault.ParameterInvalid) {
				t.Fatal(err)
			}
			return
		}
		if len(raw) == 0 || len(raw) > 21 || len(raw) > 1 && raw[0] == 0 {
			t.Fatalf("%q: %x", text, raw)
		}
		again, err := (&SerialPath{hexSerial(raw)}).parse()
		if err != nil || !bytes.Equal(raw, again) {
			t.Fatalf("%q: %x, then %x, %v", text, raw, again, err)
		}
	})
}

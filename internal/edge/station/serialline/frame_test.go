package serialline

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestFrameAsDocumented(t *testing.T) {
	got := string(appendFrame(nil, frame{to: toDevice, seq: 0x2a, verb: "READ", fields: []string{"0060"}}))
	if want := ">002a READ 0060 e6e1a380\n"; got != want {
		t.Fatalf("a request is %q, docs/protocols/serial.md says %q", got, want)
	}
}

func TestParseFrameRefuses(t *testing.T) {
	good := ">0001 READ 0000 "
	signed := func(body string) string { return body + hex8(body) }
	if _, ok := parseFrame(toDevice, []byte(signed(good))); !ok {
		t.Fatal("the good line is refused")
	}
	for name, line := range map[string]string{
		"empty":             "",
		"other direction":   signed("<0001 READ 0000 "),
		"wrong CRC":         good + "00000000",
		"upper-case CRC":    good + strings.ToUpper(hex8(good)),
		"upper-case number": signed(">000A READ 0000 "),
		"short number":      signed(">001 READ 0000 "),
		"no verb":           signed(">0001 "),
		"two spaces":        signed(">0001 READ  0000 "),
		"no space at end":   signed(">0001 READ 0000"),
		"control character": signed(">0001 READ 00\t0 "),
		"too many fields":   signed(">0001 READ 1 2 3 4 5 "),
		"too long":          signed(">0001 READ " + strings.Repeat("a", maxLine) + " "),
	} {
		if f, ok := parseFrame(toDevice, []byte(line)); ok {
			t.Errorf("%s: parsed as %+v", name, f)
		}
	}
}

func hex8(body string) string { return fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(body))) }

func TestFrameRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[!-~]{1,20}`).Filter(func(s string) bool { return !strings.ContainsAny(s, "<>") })
		want := frame{
			to: rapid.SampledFrom([]byte{toDevice, toStation}).Draw(t, "to"), seq: rapid.Uint16().Draw(t, "seq"),
			verb: word.Draw(t, "verb"), fields: rapid.SliceOfN(word, 0, maxField).Draw(t, "fields"),
		}
		noise := rapid.StringMatching(`[ -;=?-~\n]*`).Draw(t, "noise")
		stream := appendFrame([]byte(noise), want)
		var got []frame
		split := splitter{to: want.to}
		for len(stream) > 0 {
			n := rapid.IntRange(1, len(stream)).Draw(t, "piece")
			split.feed(stream[:n], func(f frame) { got = append(got, f) })
			stream = stream[n:]
		}
		if diff := cmp.Diff([]frame{want}, got, cmp.AllowUnexported(frame{})); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestOneFlippedBitIsSeen(t *testing.T) {
	line := appendFrame(nil, frame{to: toStation, seq: 7, verb: "OK", fields: []string{"0060", "AAECAwQ"}})
	line = line[:len(line)-1]
	for i := range line {
		for bit := range 8 {
			broken := bytes.Clone(line)
			broken[i] ^= 1 << bit
			if _, ok := parseFrame(toStation, broken); ok {
				t.Errorf("octet %d, bit %d: %q is taken", i, bit, broken)
			}
		}
	}
}

func FuzzSplitter(f *testing.F) {
	f.Add([]byte(">0001 HELLO 01 AAAAAAAAAAA 00000000\n"))
	f.Add(appendFrame(nil, frame{to: toStation, seq: 1, verb: "OK", fields: []string{"01", "0800"}}))
	f.Add([]byte("boot v1\r\n<<<00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		split := splitter{to: toStation}
		split.feed(data, func(got frame) {
			again, ok := parseFrame(toStation, bytes.TrimSuffix(appendFrame(nil, got), []byte("\n")))
			if !ok || !cmp.Equal(got, again, cmp.AllowUnexported(frame{})) {
				t.Errorf("%+v came back as %+v", got, again)
			}
		})
		if cap(split.line) > 4*maxLine {
			t.Errorf("a line took %d octets", cap(split.line))
		}
	})
}

func FuzzIdentity(f *testing.F) {
	f.Add("serial=SN1\nuid=00\nlater=1\n")
	f.Fuzz(func(t *testing.T, text string) {
		id, err := parseIdentity(text)
		if err == nil && strings.ContainsAny(id.DeviceSerial+id.Vendor+id.UID+id.Slot+id.Hardware+id.Firmware, "\n\x00\x1b") {
			t.Errorf("%q became %+v", text, id)
		}
	})
}

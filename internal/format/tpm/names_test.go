package tpm_test

import (
	"encoding/asn1"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/tpm"
)

// attribute is one of a name under construction.
type attribute struct {
	oid  asn1.ObjectIdentifier
	text string
	tag  cbasn1.Tag
}

// directory writes a subjectAltName with one directoryName for each list of sets.
func directory(t testing.TB, names ...[][]attribute) []byte {
	t.Helper()
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, sets := range names {
			b.AddASN1(cbasn1.Tag(4).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					for _, set := range sets {
						b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
							for _, a := range set {
								a.add(b)
							}
						})
					}
				})
			})
		}
		b.AddASN1(cbasn1.Tag(2).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte("tpm.example.com")) })
	})
	der, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func (a attribute) add(b *cryptobyte.Builder) {
	tag := a.tag
	if tag == 0 {
		tag = cbasn1.UTF8String
	}
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(a.oid)
		b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(a.text)) })
	})
}

var (
	manufacturer = attribute{oid: tpm.OIDManufacturer, text: "id:494E5443"}
	model        = attribute{oid: tpm.OIDModel, text: "Example TPM"}
	version      = attribute{oid: tpm.OIDVersion, text: "id:00010002"}
	country      = attribute{oid: asn1.ObjectIdentifier{2, 5, 4, 6}, text: "XX", tag: cbasn1.PrintableString}
)

func TestEKNamesInEveryShape(t *testing.T) {
	for name, sets := range map[string][][]attribute{
		"one set":          {{manufacturer, model, version}},
		"three sets":       {{manufacturer}, {model}, {version}},
		"any order":        {{version}, {manufacturer, model}},
		"others among":     {{country}, {manufacturer}, {country, model}, {version}},
		"printable string": {{{oid: tpm.OIDManufacturer, text: "id:494E5443", tag: cbasn1.PrintableString}}, {model}, {version}},
	} {
		got, err := tpm.ParseEKNames(directory(t, sets))
		want := tpm.EKNames{Manufacturer: "id:494E5443", Model: "Example TPM", Version: "id:00010002"}
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestEKNamesRefused(t *testing.T) {
	good := [][]attribute{{manufacturer, model, version}}
	with := func(a attribute) []byte { return directory(t, [][]attribute{{a, model, version}}) }
	for name, san := range map[string][]byte{
		"nothing":            nil,
		"not a sequence":     {0x04, 0x00},
		"octets after":       append(directory(t, good), 0),
		"no directoryName":   directory(t),
		"two directoryNames": directory(t, good, good),
		"no version":         directory(t, [][]attribute{{manufacturer, model}}),
		"no model":           directory(t, [][]attribute{{manufacturer, version}}),
		"no manufacturer":    directory(t, [][]attribute{{model, version}}),
		"version twice":      directory(t, [][]attribute{{manufacturer, model, version}, {version}}),
		"an empty set":       directory(t, [][]attribute{{manufacturer, model, version}, {}}),
		"empty text":         with(attribute{oid: tpm.OIDManufacturer}),
		"text too long":      with(attribute{oid: tpm.OIDManufacturer, text: strings.Repeat("x", 129)}),
		"a line break":       with(attribute{oid: tpm.OIDManufacturer, text: "id:494E5443\n"}),
		"an escape":          with(attribute{oid: tpm.OIDManufacturer, text: "\x1b[2J"}),
		"not UTF-8":          with(attribute{oid: tpm.OIDManufacturer, text: "\xff"}),
		"an integer":         with(attribute{oid: tpm.OIDManufacturer, text: "1", tag: cbasn1.INTEGER}),
	} {
		if _, err := tpm.ParseEKNames(san); !fault.Has(err, fault.EKCertificate) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVendorAndFirmware(t *testing.T) {
	for text, want := range map[string]string{
		"id:494E5443": "INTC", "id:49465800": "IFX", "id:4e544300": "NTC", "id:53544D20": "STM", "id:00001014": "00001014",
		"494E5443": "", "id:494E54": "", "id:494E544300": "", "id:XXXXXXXX": "", "": "",
	} {
		if got := (tpm.EKNames{Manufacturer: text}).Vendor(); got != want {
			t.Errorf("vendor of %q is %q, want %q", text, got, want)
		}
	}
	for text, want := range map[string]uint32{"id:00010002": 0x10002, "id:13": 0x13, "id:0D0B": 0xD0B, "id:FFFFFFFF": 0xFFFFFFFF} {
		if got, ok := (tpm.EKNames{Version: text}).Firmware(); !ok || got != want {
			t.Errorf("firmware of %q is %#x, %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "id:", "1.2", "id:+1", "id:1_0", "id:000000001", "id:1FFFFFFFF", "id:0x12"} {
		if got, ok := (tpm.EKNames{Version: text}).Firmware(); ok {
			t.Errorf("firmware of %q is %#x", text, got)
		}
	}
}

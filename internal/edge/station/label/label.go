// Package label draws the label of a device: a QR code as SVG with the device
// serial, the product and the fingerprint of the certificate, so that whoever
// holds the device can tell which identity must be in it. The text of the code is
//
//	BM1:SERIAL:PRODUCT:FINGERPRINT
//
// where the fingerprint is the SHA-256 of the certificate's DER in upper-case
// hexadecimal, and in serial and product every octet other than A-Z, 0-9, "-" and
// "." is a percent sign and two hexadecimal digits. So the text has only characters
// of the QR code's alphanumeric mode, and splits at colons.
package label

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"net/url"
	"strings"

	"github.com/boombuler/barcode/qr"

	"github.com/birthmark/birthmark/internal/fault"
)

// Label is what a label says.
type Label struct {
	DeviceSerial string
	Product      string
	Fingerprint  [32]byte // SHA-256 of the certificate's DER
}

// Of returns the label of a device with this certificate.
func Of(deviceSerial, product string, certificate []byte) Label {
	return Label{DeviceSerial: deviceSerial, Product: product, Fingerprint: sha256.Sum256(certificate)}
}

const prefix = "BM1:"

// Text returns what the code holds.
func (l *Label) Text() string {
	return prefix + escape(l.DeviceSerial) + ":" + escape(l.Product) + ":" + strings.ToUpper(hex.EncodeToString(l.Fingerprint[:]))
}

func escape(text string) string {
	var b strings.Builder
	for i := range len(text) {
		c := text[i]
		if c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' {
			b.WriteByte(c)
			continue
		}
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}

// Parse reads the text of a code.
func Parse(text string) (Label, error) {
	var l Label
	rest, ok := strings.CutPrefix(text, prefix)
	parts := strings.Split(rest, ":")
	if !ok || len(parts) != 3 || len(parts[2]) != 64 {
		return l, fault.New(fault.ParameterInvalid, "the text is not that of a label")
	}
	var err [3]error
	l.DeviceSerial, err[0] = url.PathUnescape(parts[0])
	l.Product, err[1] = url.PathUnescape(parts[1])
	_, err[2] = hex.Decode(l.Fingerprint[:], []byte(parts[2]))
	if err != [3]error{} || l.Text() != text {
		return Label{}, fault.New(fault.ParameterInvalid, "the text is not that of a label")
	}
	return l, nil
}

// quiet is the margin around the code in modules (ISO/IEC 18004).
const quiet = 4

// SVG draws the label: the code with the device serial and the product below. One
// module is one unit; printing software scales it.
func (l *Label) SVG() ([]byte, error) {
	code, err := qr.Encode(l.Text(), qr.M, qr.AlphaNumeric)
	if err != nil {
		return nil, fault.Wrap(fault.ParameterInvalid, err, "serial and product are too long for a label")
	}
	size := code.Bounds().Dx()
	width, height := size+2*quiet, size+2*quiet+8
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%dmm" height="%dmm">`, width, height, width/2, height/2)
	fmt.Fprintf(&b, "\n<title>%s</title>\n<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n<path shape-rendering=\"crispEdges\" d=\"", text(l.DeviceSerial), width, height)
	for y := range size {
		for x := 0; x < size; x++ {
			run := 0
			for x+run < size && dark(code.At(x+run, y)) {
				run++
			}
			if run > 0 {
				fmt.Fprintf(&b, "M%d %dh%dv1h-%dz", x+quiet, y+quiet, run, run)
				x += run
			}
		}
	}
	b.WriteString("\"/>\n")
	for i, line := range []string{l.DeviceSerial, l.Product} {
		fmt.Fprintf(&b, `<text x="%d" y="%d" font-family="sans-serif" font-size="3" textLength="%d" lengthAdjust="spacingAndGlyphs">%s</text>`+"\n",
			quiet, size+quiet+4+4*i, min(size, 2*len(line)), text(line))
	}
	b.WriteString("</svg>\n")
	return []byte(b.String()), nil
}

type colored interface {
	RGBA() (r, g, b, a uint32)
}

func dark(c colored) bool {
	r, _, _, _ := c.RGBA()
	return r < 0x8000
}

// text escapes what a peer or a person said for use in XML.
func text(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder takes everything
	return b.String()
}

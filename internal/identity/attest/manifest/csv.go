package manifest

import (
	"cmp"
	"encoding/base64"
	"encoding/csv"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
)

// The columns of plain CSV, in any order; uid alone is needed.
var csvColumns = []string{"uid", "chip_type", "vendor", "slot", "spki", "x", "y", "cert", "serial"}

const noteUnsigned = "the file is unsigned: its importer alone answers for it"

// csv reads plain CSV: one chip in each row, with at most one key.
func (im *importing) csv() error {
	im.remark(0, noteUnsigned)
	rows := newRows(im)
	head, err := rows.header(csvColumns)
	if err != nil {
		return err
	}
	if !slices.Contains(head, "uid") {
		return fault.New(fault.ManifestFormat, "the first row has no column uid")
	}
	column := make(map[string]int, len(head))
	for i, name := range head {
		column[name] = i
	}
	return run(im, rows.next, func(row []string, remark func(string)) (Chip, error) {
		return im.csvChip(func(name string) string {
			if i, ok := column[name]; ok {
				return strings.TrimSpace(row[i])
			}
			return ""
		}, remark)
	})
}

func (im *importing) csvChip(cell func(string) string, remark func(string)) (Chip, error) {
	c := Chip{
		Vendor: cmp.Or(cell("vendor"), im.Vendor), UID: cell("uid"),
		ChipType: cmp.Or(cell("chip_type"), im.ChipType), DeviceSerial: cell("serial"),
	}
	if err := c.name(); err != nil {
		return c, err
	}
	k := Key{Slot: cmp.Or(cell("slot"), "0")}
	var err error
	if k.Chain, err = certificates(cell("cert")); err != nil {
		return c, err
	}
	if k.SPKI, err = publicKey(cell("spki"), cell("x"), cell("y"), k.Chain); err != nil {
		return c, err
	}
	if k.SPKI == nil {
		return c, nil
	}
	if err := im.admit(&k, remark); err != nil {
		return c, err
	}
	c.Keys = []Key{k}
	return c, nil
}

// publicKey returns the SubjectPublicKeyInfo of whichever cells name it: base64 or
// PEM, the coordinates of a P-256 point, or a certificate.
func publicKey(spki, x, y string, chain [][]byte) ([]byte, error) {
	var key []byte
	if spki != "" {
		der, err := derOf(spki, "PUBLIC KEY")
		if err != nil {
			return nil, bad("spki is neither base64 nor PEM")
		}
		key = der
	}
	if x != "" || y != "" {
		px, errX := hex.DecodeString(x)
		py, errY := hex.DecodeString(y)
		if errX != nil || errY != nil || len(px) != 32 || len(py) != 32 {
			return nil, bad("x and y are not 32 octets in hex each")
		}
		point := slices.Concat(p256Prefix, px, py)
		if key != nil && string(key) != string(point) {
			return nil, bad("spki and x, y are different keys")
		}
		key = point
	}
	if key == nil && len(chain) > 0 {
		return certificateKey(chain[0])
	}
	return key, nil
}

// derOf reads base64 or one PEM block of the given type.
func derOf(text, kind string) ([]byte, error) {
	if !strings.HasPrefix(text, "-----BEGIN ") {
		return base64.StdEncoding.Strict().DecodeString(text)
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != kind || strings.TrimSpace(string(rest)) != "" {
		return nil, errors.New("not one PEM block of type " + kind)
	}
	return block.Bytes, nil
}

// certificates reads a chain: base64 of one certificate, or PEM blocks, leaf first.
func certificates(text string) ([][]byte, error) {
	if text == "" {
		return nil, nil
	}
	if !strings.HasPrefix(text, "-----BEGIN ") {
		der, err := derOf(text, "CERTIFICATE")
		if err != nil {
			return nil, bad("cert is neither base64 nor PEM")
		}
		return [][]byte{der}, nil
	}
	var chain [][]byte
	for rest := []byte(text); len(strings.TrimSpace(string(rest))) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return nil, bad("cert is not PEM of certificates")
		}
		if chain = append(chain, block.Bytes); len(chain) > maxChain {
			return nil, fault.New(fault.ManifestLimit, "a key has more than", maxChain, "certificates")
		}
	}
	return chain, nil
}

// rows reads CSV with a bound on each row, which a quote that is never closed
// would otherwise stretch over the whole file.
type rows struct {
	in   *csv.Reader
	gate *gate
}

// gate lets through a number of octets and then refuses.
type gate struct {
	r     io.Reader
	left  int
	limit int
}

// readAhead is what csv.Reader's buffer may hold of the rows to come.
const readAhead = 4 << 10

func (g *gate) Read(p []byte) (int, error) {
	if g.left <= 0 {
		return 0, fault.New(fault.ManifestLimit, "the row is longer than", g.limit, "octets")
	}
	n, err := g.r.Read(p[:min(len(p), g.left)])
	g.left -= n
	return n, err
}

func newRows(im *importing) *rows {
	g := &gate{r: im.source, limit: im.Limits.Entry}
	return &rows{in: csv.NewReader(g), gate: g}
}

func (r *rows) header(known []string) ([]string, error) {
	row, _, err := r.next()
	if err != nil {
		if eof(err) {
			return nil, fault.New(fault.ManifestFormat, "the file is empty")
		}
		return nil, err
	}
	row[0] = strings.TrimPrefix(row[0], "\ufeff")
	for i, name := range row {
		row[i] = strings.TrimSpace(name)
		if !slices.Contains(known, row[i]) || slices.Contains(row[:i], row[i]) {
			return nil, fault.New(fault.ManifestFormat, "the first row has an unknown or repeated column; known are", strings.Join(known, ", "))
		}
	}
	return row, nil
}

func (r *rows) next() ([]string, int, error) {
	r.gate.left = r.gate.limit + readAhead
	row, err := r.in.Read()
	if perr, ok := errors.AsType[*csv.ParseError](err); ok {
		return nil, 0, fault.Wrap(fault.ManifestEntry, err, "the row is malformed:", perr.Err.Error())
	}
	size := 0
	for _, cell := range row {
		size += len(cell)
	}
	return row, size, err
}

package manifest

import (
	"slices"

	format "github.com/birthmark/birthmark/internal/format/manifest"
)

// ndjson reads plain NDJSON: each line is a chip with the members that CSV has as
// columns, or with several keys as our signed format writes them.
func (im *importing) ndjson() error {
	im.remark(0, noteUnsigned)
	return run(im, newLines(im.source, im.Limits.Entry).next, im.ndjsonChip)
}

func (im *importing) ndjsonChip(line []byte, remark func(string)) (Chip, error) {
	cells := make(map[string]string, len(csvColumns))
	several := false
	err := members(line, func(name string, value []byte) (err error) {
		switch {
		case name == "keys":
			several = true
		case name == "chipType": // as the signed format spells it
			cells["chip_type"], err = text(value)
		case slices.Contains(csvColumns, name):
			cells[name], err = text(value)
		default:
			err = bad("the member %.32q is not known", name)
		}
		return err
	})
	if err != nil {
		return Chip{}, malformed("the line", err)
	}
	if !several {
		return im.csvChip(func(name string) string { return cells[name] }, remark)
	}
	e, err := format.ParseEntry(line)
	if err != nil {
		return Chip{}, err
	}
	return im.chipOf(e, im.Vendor, im.ChipType, remark)
}

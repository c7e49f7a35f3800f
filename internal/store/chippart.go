package store

import (
	"encoding/binary"

	"github.com/birthmark/birthmark/internal/identity/factory"
)

// A part is the chips of one call as they are staged: for each its id, the ids
// of its keys, and the rest as a record with its length before it, so that who
// looks for ids steps over the records.

// partChip is one chip of a part.
type partChip struct {
	id     int64
	keys   []int64 // valid until the next
	record []byte
}

func appendPart(dst []byte, c *factory.Chip, keys []int64) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(c.ID))
	dst = binary.AppendUvarint(dst, uint64(len(keys)))
	for _, k := range keys {
		dst = binary.BigEndian.AppendUint64(dst, uint64(k))
	}
	return appendOctets(dst, appendRecord(make([]byte, 0, 256), c))
}

func appendRecord(dst []byte, c *factory.Chip) []byte {
	dst = appendOctets(dst, c.Vendor)
	dst = appendOctets(dst, c.UID)
	dst = appendOctets(dst, c.ChipType)
	for _, n := range []int64{c.Entry, c.Product, int64(c.State), c.Order} {
		dst = binary.AppendUvarint(dst, uint64(n))
	}
	return appendKeys(dst, c.Keys)
}

// recordValues are the values of chipColumns of a staged chip.
func recordValues(dst []any, id, manifest int64, record []byte) ([]any, error) {
	c := cut{b: record}
	vendor, uid, chipType := string(c.octets()), string(c.octets()), string(c.octets())
	entry, product, state, order := c.number(), c.number(), c.number(), c.number()
	return append(dst, id, vendor, uid, chipType, manifest, entry, product, state, order, int64(0), c.b), c.err
}

// recordUID is the UID in a record.
func recordUID(record []byte) string {
	c := cut{b: record}
	c.octets()
	return string(c.octets())
}

// eachInPart calls fn for each chip of a part.
func eachInPart(part []byte, fn func(*partChip)) error {
	c := cut{b: part}
	var p partChip
	for len(c.b) > 0 {
		p.id = c.id()
		p.keys = p.keys[:0]
		for range c.number() {
			if c.err != nil {
				break
			}
			p.keys = append(p.keys, c.id())
		}
		if p.record = c.octets(); c.err != nil {
			return c.err
		}
		fn(&p)
	}
	return nil
}

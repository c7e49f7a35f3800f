package store

import (
	"encoding/binary"
	"errors"

	"github.com/birthmark/birthmark/internal/identity/factory"
)

// A chip's keys are one blob, because they are read whole: the number of keys,
// then for each its slot, flags, key, and its certificates with their number
// first. Numbers are varints, texts and octets have their length before them.

const vendorProofFlag = 1

func appendOctets[T string | []byte](dst []byte, b T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

func appendKeys(dst []byte, keys []factory.ChipKey) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(keys)))
	for i := range keys {
		k := &keys[i]
		var flags byte
		if k.VendorProof {
			flags = vendorProofFlag
		}
		dst = append(appendOctets(dst, k.Slot), flags)
		dst = appendOctets(dst, k.SPKI)
		dst = binary.AppendUvarint(dst, uint64(len(k.Chain)))
		for _, c := range k.Chain {
			dst = appendOctets(dst, c)
		}
	}
	return dst
}

var errStored = errors.New("what is stored of a chip is damaged")

// cut reads what the append functions wrote; after an error it reads zeros.
type cut struct {
	b   []byte
	err error
}

func (c *cut) fail() {
	c.b, c.err = nil, errStored
}

func (c *cut) number() int64 {
	n, size := binary.Uvarint(c.b)
	if size <= 0 {
		c.fail()
		return 0
	}
	c.b = c.b[size:]
	return int64(n)
}

func (c *cut) take(n int64) []byte {
	if n < 0 || n > int64(len(c.b)) {
		c.fail()
		return nil
	}
	b := c.b[:n:n]
	c.b = c.b[n:]
	return b
}

func (c *cut) octets() []byte { return c.take(c.number()) }

func (c *cut) octet() byte {
	b := c.take(1)
	if b == nil {
		return 0
	}
	return b[0]
}

// id is a number of eight octets, as hashes are.
func (c *cut) id() int64 {
	b := c.take(8)
	if b == nil {
		return 0
	}
	return int64(binary.BigEndian.Uint64(b))
}

// parseKeys returns keys that point into raw.
func parseKeys(raw []byte) ([]factory.ChipKey, error) {
	c := cut{b: raw}
	n := c.number()
	if n > int64(len(raw)) {
		c.fail()
	}
	var keys []factory.ChipKey
	for range n {
		if c.err != nil {
			break
		}
		k := factory.ChipKey{Slot: string(c.octets())}
		k.VendorProof = c.octet()&vendorProofFlag != 0
		k.SPKI = c.octets()
		for range c.number() {
			if c.err != nil {
				break
			}
			k.Chain = append(k.Chain, c.octets())
		}
		keys = append(keys, k)
	}
	if c.err == nil && len(c.b) != 0 {
		c.fail()
	}
	return keys, c.err
}

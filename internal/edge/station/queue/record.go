package queue

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"

	"github.com/birthmark/birthmark/internal/format/station"
)

// Item is one thing that the server has to hear: exactly one field is set.
type Item struct {
	Confirm *station.Confirm `json:"confirm,omitempty"`
	Scrap   *station.Scrap   `json:"scrap,omitempty"`
	Failed  *station.Failed  `json:"failed,omitempty"`
}

// DeviceSerial returns the unit that the item is about.
func (i *Item) DeviceSerial() string {
	switch {
	case i.Confirm != nil:
		return i.Confirm.DeviceSerial
	case i.Scrap != nil:
		return i.Scrap.DeviceSerial
	case i.Failed != nil:
		return i.Failed.DeviceSerial
	}
	return ""
}

// Kind returns what the item is, for people.
func (i *Item) Kind() string {
	switch {
	case i.Confirm != nil:
		return "confirm"
	case i.Scrap != nil:
		return "scrap"
	}
	return "failed"
}

func (i *Item) valid() bool {
	n := 0
	for _, set := range []bool{i.Confirm != nil, i.Scrap != nil, i.Failed != nil} {
		if set {
			n++
		}
	}
	return n == 1
}

// payload is what a record holds: an item with its number, or the numbers of
// items that are done.
type payload struct {
	Number int64 `json:"n,omitempty"`
	Item
	Done []int64 `json:"done,omitempty"`
}

// The file is a header and records. A record is a mark, the payload's length
// and its CRC-32C, each of 4 octets, big-endian, and the payload as JSON.
const (
	headerMagic = "birthmark queue1"
	headerLen   = len(headerMagic) + 16 // with the file's generation
	recordHead  = 12
	recordMark  = 0x424d5131 // "BMQ1"
	maxPayload  = 128 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendRecord(dst []byte, p *payload) ([]byte, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	if len(text) > maxPayload {
		return nil, errors.New("the item is too long")
	}
	dst = binary.BigEndian.AppendUint32(dst, recordMark)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(text)))
	dst = binary.BigEndian.AppendUint32(dst, crc32.Checksum(text, castagnoli))
	return append(dst, text...), nil
}

var (
	// errTorn says that the octets end before the record does, or that what is there
	// was never completely written: nobody was told that it is kept.
	errTorn = errors.New("the last record is not complete")
	// errDamaged says that there is a good record behind one that is not.
	errDamaged = errors.New("a record is damaged")
)

// parseRecord reads the first record of b and returns its length in octets.
func parseRecord(b []byte) (payload, int, error) {
	var p payload
	n, ok := frame(b)
	if !ok {
		return p, 0, torn(b)
	}
	text := b[recordHead:n]
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&p); err != nil || (p.Number != 0) != p.valid() || (p.Number == 0) == (len(p.Done) == 0) || p.Number < 0 {
		return payload{}, 0, errDamaged // the checksum is right, so that it was written like this
	}
	return p, n, nil
}

// frame returns the length of the record at the start of b if it is whole.
func frame(b []byte) (int, bool) {
	if len(b) < recordHead || binary.BigEndian.Uint32(b) != recordMark {
		return 0, false
	}
	length := binary.BigEndian.Uint32(b[4:])
	// An empty payload has checksum zero, as octets have that were never written.
	if length == 0 || length > maxPayload || int(length) > len(b)-recordHead {
		return 0, false
	}
	n := recordHead + int(length)
	return n, crc32.Checksum(b[recordHead:n], castagnoli) == binary.BigEndian.Uint32(b[8:])
}

// torn tells the end that a power cut leaves from damage in the middle: behind
// the former there is no good record.
func torn(b []byte) error {
	mark := binary.BigEndian.AppendUint32(nil, recordMark)
	for i := 1; ; i++ {
		j := bytes.Index(b[min(i, len(b)):], mark)
		if j < 0 {
			return errTorn
		}
		i += j
		if _, ok := frame(b[i:]); ok {
			return errDamaged
		}
	}
}

package manifest

import (
	"bytes"
	"encoding/binary"
	"io"

	"github.com/ulikunitz/xz/lzma"

	"github.com/birthmark/birthmark/internal/fault"
)

// What an archive may ask of memory. A header can claim billions of streams in a
// few octets, and a dictionary of 4 GiB in one.
const (
	maxHeader     = 16 << 20 // octets of the header, packed or not
	maxDictionary = 64 << 20
	maxFolders    = 1 << 16
)

// sevenZip walks through the header of a 7z archive before a reader of archives
// gets to see it. It takes what the programs that write such bundles write: plain,
// LZMA or LZMA2, in the usual order.
type sevenZip struct {
	in      *bytes.Reader
	entries uint64 // how many files the caller takes
	failed  bool

	unpacked uint64 // octets of all streams
}

func unsafeArchive(why string) error {
	return fault.New(fault.ManifestLimit, "an archive of the bundle is not taken:", why)
}

// inspectArchive returns how many octets the archive holds unpacked, or refuses
// it.
func inspectArchive(r io.ReaderAt, size, entries int64) (int64, error) {
	var start [32]byte
	if _, err := r.ReadAt(start[:], 0); err != nil || string(start[:6]) != "7z\xbc\xaf\x27\x1c" {
		return 0, fault.New(fault.ManifestFormat, "the file is not a 7z archive")
	}
	offset := binary.LittleEndian.Uint64(start[12:])
	length := binary.LittleEndian.Uint64(start[20:])
	if length == 0 || length > maxHeader || offset > uint64(size) || 32+offset+length > uint64(size) {
		return 0, fault.New(fault.ManifestFormat, "an archive of the bundle is cut off or damaged")
	}
	header := make([]byte, length)
	if _, err := r.ReadAt(header, 32+int64(offset)); err != nil {
		return 0, fault.New(fault.ManifestFormat, "an archive of the bundle is cut off or damaged")
	}
	if header[0] == 0x17 {
		plain, err := decodeHeader(r, header)
		if err != nil {
			return 0, err
		}
		header = plain
	}
	z := &sevenZip{in: bytes.NewReader(header), entries: uint64(entries)}
	z.expect(0x01)
	if id := z.byte(); id == 0x05 {
		// Empty files alone: no stream to unpack.
		z.count(z.entries)
	} else {
		z.failed = z.failed || id != 0x04
		z.streams(maxFolders)
		z.expect(0x05)
		z.count(z.entries)
	}
	if z.failed || z.unpacked > 1<<62 {
		return 0, unsafeArchive("its header is damaged or of an unusual form, or claims too much")
	}
	return int64(z.unpacked), nil
}

// decodeHeader unpacks a header that is itself a stream of the archive, which is
// always a single one of LZMA.
func decodeHeader(r io.ReaderAt, header []byte) ([]byte, error) {
	z := &sevenZip{in: bytes.NewReader(header[1:])}
	position, packed, properties := z.streams(1)
	if z.failed || z.unpacked > maxHeader || len(properties) != 5 || packed > maxHeader || position > 1<<62 {
		return nil, unsafeArchive("its header is damaged or of an unusual form, or claims too much")
	}
	classic := binary.LittleEndian.AppendUint64(bytes.Clone(properties), z.unpacked)
	body := io.NewSectionReader(r, 32+int64(position), int64(packed))
	in, err := lzma.ReaderConfig{DictCap: maxDictionary}.NewReader(io.MultiReader(bytes.NewReader(classic), body))
	if err != nil {
		return nil, unsafeArchive("its header cannot be unpacked")
	}
	plain := make([]byte, z.unpacked)
	if _, err := io.ReadFull(in, plain); err != nil || len(plain) == 0 {
		return nil, unsafeArchive("its header cannot be unpacked")
	}
	return plain, nil
}

// streams reads StreamsInfo. Of the first stream it returns position, packed size
// and the coder's properties.
func (z *sevenZip) streams(folders uint64) (position, packed uint64, properties []byte) {
	z.expect(0x06)
	position = z.number()
	packs := z.count(folders)
	id := z.byte()
	if id == 0x09 {
		for i := range packs {
			if n := z.number(); i == 0 {
				packed = n
			}
		}
		id = z.byte()
	}
	if id == 0x0a {
		z.digests(packs)
		id = z.byte()
	}
	z.failed = z.failed || id != 0
	digested, properties := z.folders(folders)
	if id = z.byte(); id == 0x08 {
		z.subStreams(digested)
		id = z.byte()
	}
	z.failed = z.failed || id != 0
	return position, packed, properties
}

// folders reads UnpackInfo: how many folders, which coder each has, how large each
// is, and which have a digest.
func (z *sevenZip) folders(limit uint64) (digested []bool, properties []byte) {
	z.expect(0x07)
	z.expect(0x0b)
	n := z.count(limit)
	z.expect(0) // the folders are here, not elsewhere
	for i := uint64(0); i < n && !z.failed; i++ {
		if p := z.coder(); i == 0 {
			properties = p
		}
	}
	z.expect(0x0c)
	for i := uint64(0); i < n && !z.failed; i++ {
		size := z.number()
		if z.unpacked += size; size > 1<<60 || z.unpacked > 1<<61 {
			z.failed = true
		}
	}
	id := z.byte()
	if digested = make([]bool, n); id == 0x0a {
		digested = z.digests(n)
		id = z.byte()
	}
	z.failed = z.failed || id != 0
	return digested, properties
}

// coder reads a folder of one coder without encryption.
func (z *sevenZip) coder() []byte {
	z.expect(1)
	flags := z.byte()
	id := z.bytes(uint64(flags & 0x0f))
	var properties []byte
	if flags&0x20 != 0 {
		properties = z.bytes(z.count(16))
	}
	dictionary := uint64(0)
	switch {
	case flags&0xd0 != 0:
		z.failed = true
	case bytes.Equal(id, []byte{0x00}) && len(properties) == 0:
	case bytes.Equal(id, []byte{0x03, 0x01, 0x01}) && len(properties) == 5:
		dictionary = uint64(binary.LittleEndian.Uint32(properties[1:]))
	case bytes.Equal(id, []byte{0x21}) && len(properties) == 1 && properties[0] <= 40:
		dictionary = uint64(2|properties[0]&1) << (properties[0]/2 + 11)
	default:
		z.failed = true
	}
	z.failed = z.failed || dictionary > maxDictionary
	return properties
}

// subStreams reads how the folders are divided into files. A file that is alone in
// its folder has the folder's size and, where there is one, the folder's digest.
func (z *sevenZip) subStreams(digested []bool) {
	id := z.byte()
	counts := make([]uint64, len(digested))
	for i := range counts {
		if counts[i] = 1; id == 0x0d {
			counts[i] = z.count(z.entries)
		}
	}
	if id == 0x0d {
		id = z.byte()
	}
	var sizes, files uint64
	for i, n := range counts {
		sizes += max(n, 1) - 1
		if n != 1 || !digested[i] {
			files += n
		}
	}
	if z.failed || sizes > z.entries || files > z.entries {
		z.failed = true
		return
	}
	if id == 0x09 {
		for i := uint64(0); i < sizes && !z.failed; i++ {
			z.number()
		}
		id = z.byte()
	}
	if id == 0x0a {
		z.digests(files)
		id = z.byte()
	}
	z.failed = z.failed || id != 0
}

// digests skips the CRCs of n streams and reports which have one.
func (z *sevenZip) digests(n uint64) []bool {
	defined := make([]bool, n)
	present := uint64(0)
	bits := z.vector(n)
	for i := range defined {
		if defined[i] = bits == nil || bits[i/8]&(0x80>>(i%8)) != 0; defined[i] {
			present++
		}
	}
	z.bytes(4 * present)
	return defined
}

// vector reads a bit for each of n streams, nil for all.
func (z *sevenZip) vector(n uint64) []byte {
	if z.byte() != 0 {
		return nil
	}
	bits := z.bytes((n + 7) / 8)
	if bits == nil { // the header ends here
		bits = make([]byte, (n+7)/8)
	}
	return bits
}

func (z *sevenZip) expect(id byte) { z.failed = z.byte() != id || z.failed }

func (z *sevenZip) byte() byte {
	b, err := z.in.ReadByte()
	z.failed = z.failed || err != nil
	return b
}

func (z *sevenZip) bytes(n uint64) []byte {
	if n > uint64(z.in.Len()) {
		z.failed = true
		return nil
	}
	b := make([]byte, n)
	_, err := io.ReadFull(z.in, b)
	z.failed = z.failed || err != nil
	return b
}

// number reads 7z's number: the first octet's leading ones say how many follow.
func (z *sevenZip) number() uint64 {
	first := z.byte()
	var v uint64
	for i := range 8 {
		mask := byte(0x80) >> i
		if first&mask == 0 {
			return v | uint64(first&(mask-1))<<(8*i)
		}
		v |= uint64(z.byte()) << (8 * i)
	}
	return v
}

// count reads a number of at most limit.
func (z *sevenZip) count(limit uint64) uint64 {
	n := z.number()
	if n > limit {
		z.failed = true
		return 0
	}
	return n
}

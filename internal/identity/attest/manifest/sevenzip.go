package manifest

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"unicode/utf16"

	"github.com/birthmark/birthmark/internal/fault"
)

// What an archive may ask of memory. A header can claim billions of streams in a
// few octets, and a dictionary of 4 GiB in one.
const (
	maxHeader     = 16 << 20 // octets of the header, packed or not
	maxDictionary = 64 << 20
	maxFolders    = 1 << 16
)

// sevenZip walks through the header of a 7z archive. It takes what the programs
// that write such bundles write, in the usual order: folders of one coder, which
// is LZMA, LZMA2 or none. Nothing is set aside for what the header claims before
// the claim was compared with a limit.
type sevenZip struct {
	in      *bytes.Reader
	entries uint64 // how many files the caller takes
	failed  bool

	position uint64 // of the first packed stream
	packs    []uint64
	folders  []folder
	unpacked uint64 // octets of all folders
	members  []member
}

// folder is a packed stream of one or more files.
type folder struct {
	coder      byte // coderCopy, coderLZMA, coderLZMA2
	properties []byte
	size       uint64 // unpacked
	digest     *uint32
	files      []file
}

// file is a part of a folder.
type file struct {
	size   uint64
	digest *uint32 // CRC-32
}

// member is what the archive lists: a file with its place in a folder, or
// something without content.
type member struct {
	name  string
	file  *file // nil: empty or a folder of the file system
	empty bool
}

const (
	coderCopy = iota
	coderLZMA
	coderLZMA2
)

func unsafeArchive(why string) error {
	return fault.New(fault.ManifestLimit, "an archive of the bundle is not taken:", why)
}

// readHeader finds and reads the header of an archive.
func readHeader(r io.ReaderAt, size, entries int64) (*sevenZip, error) {
	damaged := fault.New(fault.ManifestFormat, "an archive of the bundle is cut off or damaged")
	var start [32]byte
	if _, err := r.ReadAt(start[:], 0); err != nil || string(start[:6]) != "7z\xbc\xaf\x27\x1c" {
		return nil, fault.New(fault.ManifestFormat, "the file is not a 7z archive")
	}
	offset := binary.LittleEndian.Uint64(start[12:])
	length := binary.LittleEndian.Uint64(start[20:])
	if length == 0 || length > maxHeader || offset > uint64(size) || 32+offset+length > uint64(size) {
		return nil, damaged
	}
	header := make([]byte, length)
	if _, err := r.ReadAt(header, 32+int64(offset)); err != nil {
		return nil, damaged
	}
	if binary.LittleEndian.Uint32(start[8:]) != crc32.ChecksumIEEE(start[12:]) ||
		binary.LittleEndian.Uint32(start[28:]) != crc32.ChecksumIEEE(header) {
		return nil, damaged
	}
	if header[0] == 0x17 {
		plain, err := unpackHeader(r, header, size)
		if err != nil {
			return nil, err
		}
		header = plain
	}
	z := &sevenZip{in: bytes.NewReader(header), entries: uint64(entries)}
	z.expect(0x01)
	id := z.byte()
	if id == 0x04 {
		z.streams(maxFolders)
		id = z.byte()
	}
	z.failed = z.failed || id != 0x05
	z.files()
	z.expect(0)
	if z.failed || z.in.Len() > 0 || !z.fits(size) {
		return nil, unsafeArchive("its header is damaged or of an unusual form, or claims too much")
	}
	return z, nil
}

// unpackHeader unpacks a header that is itself a packed stream of the archive.
func unpackHeader(r io.ReaderAt, header []byte, size int64) ([]byte, error) {
	z := &sevenZip{in: bytes.NewReader(header[1:]), entries: 1}
	z.streams(1)
	if z.failed || z.unpacked > maxHeader || z.unpacked == 0 || !z.fits(size) {
		return nil, unsafeArchive("its header is damaged or of an unusual form, or claims too much")
	}
	plain := make([]byte, z.unpacked)
	in, err := z.folders[0].open(io.NewSectionReader(r, 32+int64(z.position), int64(z.packs[0])))
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(in, plain); err != nil {
		return nil, unsafeArchive("its header cannot be unpacked")
	}
	return plain, nil
}

// fits reports whether the packed streams are inside the archive and each folder
// has one.
func (z *sevenZip) fits(size int64) bool {
	end := z.position
	for _, n := range z.packs {
		if end += n; n > uint64(size) || end > uint64(size) {
			return false
		}
	}
	return z.position <= uint64(size) && len(z.packs) == len(z.folders)
}

// streams reads StreamsInfo.
func (z *sevenZip) streams(limit uint64) {
	z.expect(0x06)
	z.position = z.number()
	z.packs = make([]uint64, z.count(limit))
	id := z.byte()
	if id == 0x09 {
		for i := range z.packs {
			z.packs[i] = z.number()
		}
		id = z.byte()
	}
	if id == 0x0a {
		z.digests(uint64(len(z.packs)))
		id = z.byte()
	}
	z.failed = z.failed || id != 0
	z.unpackInfo(limit)
	if id = z.byte(); id == 0x08 {
		z.subStreams()
		id = z.byte()
	} else {
		for i := range z.folders {
			f := &z.folders[i]
			f.files = []file{{f.size, f.digest}}
		}
	}
	z.failed = z.failed || id != 0
}

// unpackInfo reads the folders: which coder each has, how large it is, and its
// digest.
func (z *sevenZip) unpackInfo(limit uint64) {
	z.expect(0x07)
	z.expect(0x0b)
	z.folders = make([]folder, z.count(limit))
	z.expect(0) // the folders are here, not elsewhere
	for i := range z.folders {
		z.coder(&z.folders[i])
	}
	z.expect(0x0c)
	for i := range z.folders {
		size := z.number()
		if z.unpacked += size; size > 1<<60 || z.unpacked > 1<<61 {
			z.failed = true
			return
		}
		z.folders[i].size = size
	}
	id := z.byte()
	if id == 0x0a {
		for i, digest := range z.digests(uint64(len(z.folders))) {
			z.folders[i].digest = digest
		}
		id = z.byte()
	}
	z.failed = z.failed || id != 0
}

// coder reads a folder of one coder.
func (z *sevenZip) coder(f *folder) {
	if z.failed {
		return
	}
	z.expect(1)
	flags := z.byte()
	id := z.bytes(uint64(flags & 0x0f))
	if flags&0x20 != 0 {
		f.properties = z.bytes(z.count(16))
	}
	dictionary := uint64(0)
	switch p := f.properties; {
	case flags&0xd0 != 0:
		z.failed = true
	case bytes.Equal(id, []byte{0x00}) && len(p) == 0:
		f.coder = coderCopy
	case bytes.Equal(id, []byte{0x03, 0x01, 0x01}) && len(p) == 5:
		f.coder, dictionary = coderLZMA, uint64(binary.LittleEndian.Uint32(p[1:]))
	case bytes.Equal(id, []byte{0x21}) && len(p) == 1 && p[0] <= 40:
		f.coder, dictionary = coderLZMA2, uint64(2|p[0]&1)<<(p[0]/2+11)
	default:
		z.failed = true
	}
	z.failed = z.failed || dictionary > maxDictionary
}

// subStreams reads how the folders are divided into files. A file that is alone in
// its folder has the folder's size and, where there is one, the folder's digest;
// of several, the last has what is left.
func (z *sevenZip) subStreams() {
	id := z.byte()
	total := uint64(0)
	for i := range z.folders {
		n := uint64(1)
		if id == 0x0d {
			n = z.count(z.most())
		}
		if total += n; total > z.entries || z.failed {
			z.failed = true
			return
		}
		z.folders[i].files = make([]file, n)
	}
	if id == 0x0d {
		id = z.byte()
	}
	if id = z.sizes(id); id == 0x0a {
		z.fileDigests()
		id = z.byte()
	}
	z.failed = z.failed || id != 0
}

// sizes reads the sizes of files that share a folder.
func (z *sevenZip) sizes(id byte) byte {
	for i := range z.folders {
		f := &z.folders[i]
		left := f.size
		for j := range f.files {
			if j == len(f.files)-1 {
				f.files[j].size = left
				break
			}
			n := z.number()
			if id != 0x09 || n > left {
				z.failed = true
				return 0
			}
			f.files[j].size = n
			left -= n
		}
	}
	if id == 0x09 {
		return z.byte()
	}
	return id
}

func (z *sevenZip) fileDigests() {
	var without []*file
	for i := range z.folders {
		f := &z.folders[i]
		if len(f.files) == 1 && f.digest != nil {
			f.files[0].digest = f.digest
			continue
		}
		for j := range f.files {
			without = append(without, &f.files[j])
		}
	}
	for i, digest := range z.digests(uint64(len(without))) {
		without[i].digest = digest
	}
}

// files reads FilesInfo: names, and which have no content.
func (z *sevenZip) files() {
	z.members = make([]member, z.count(z.most()))
	for !z.failed {
		id := z.byte()
		if id == 0 {
			break
		}
		property := bytes.NewReader(z.bytes(z.count(maxHeader)))
		inner := &sevenZip{in: property}
		switch id {
		case 0x0e:
			empty := inner.bits(uint64(len(z.members)))
			for i := range z.members {
				z.members[i].empty = empty(i)
			}
		case 0x11:
			inner.expect(0)
			z.names(inner.bytes(uint64(property.Len())))
		}
		z.failed = z.failed || inner.failed
	}
	z.place()
}

// most is how many files there may be: each takes an octet of the header at least,
// but for one.
func (z *sevenZip) most() uint64 { return min(z.entries, uint64(z.in.Len())+1) }

// names splits the list of names, UTF-16 with a zero behind each.
func (z *sevenZip) names(b []byte) {
	i := 0
	var name []uint16
	for ; len(b) >= 2; b = b[2:] {
		if u := binary.LittleEndian.Uint16(b); u != 0 {
			name = append(name, u)
			continue
		}
		if i == len(z.members) {
			z.failed = true
			return
		}
		z.members[i].name = string(utf16.Decode(name))
		name = name[:0]
		i++
	}
	z.failed = z.failed || i != len(z.members) || len(b) > 0 || len(name) > 0
}

// place gives each member that has content its file, in order.
func (z *sevenZip) place() {
	var all []*file
	for i := range z.folders {
		for j := range z.folders[i].files {
			all = append(all, &z.folders[i].files[j])
		}
	}
	for i := range z.members {
		if z.members[i].empty {
			continue
		}
		if len(all) == 0 {
			z.failed = true
			return
		}
		z.members[i].file = all[0]
		all = all[1:]
	}
	z.failed = z.failed || len(all) > 0
}

// digests reads the CRCs of n streams, nil for one that has none.
func (z *sevenZip) digests(n uint64) []*uint32 {
	defined := func(int) bool { return true }
	if z.byte() == 0 {
		defined = z.bits(n)
	}
	digests := make([]*uint32, n)
	for i := range digests {
		if !defined(i) {
			continue
		}
		b := z.bytes(4)
		if b == nil {
			return nil
		}
		digest := binary.LittleEndian.Uint32(b)
		digests[i] = &digest
	}
	return digests
}

// bits reads n bits, the first the highest of its octet.
func (z *sevenZip) bits(n uint64) func(int) bool {
	b := z.bytes((n + 7) / 8)
	return func(i int) bool { return i/8 < len(b) && b[i/8]&(0x80>>(i%8)) != 0 }
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

package manifest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"

	"github.com/ulikunitz/xz/lzma"

	"github.com/birthmark/birthmark/internal/fault"
)

// archive is a 7z archive that may be unpacked: what it asks for is bounded.
type archive struct {
	r io.ReaderAt
	*sevenZip
}

func openArchive(r io.ReaderAt, size, entries int64) (*archive, error) {
	z, err := readHeader(r, size, entries)
	if err != nil {
		return nil, err
	}
	return &archive{r, z}, nil
}

// each calls f for each member in order, with its content, of which it may read as
// much as it likes; nil for what has none. Digests are checked of all.
func (a *archive) each(f func(m *member, content io.Reader) error) error {
	at, packs := int64(32+a.position), a.packs
	folders := a.folders
	var in io.Reader
	left := 0 // files of the folder that is open
	for i := range a.members {
		m := &a.members[i]
		if m.file == nil {
			if err := f(m, nil); err != nil {
				return err
			}
			continue
		}
		for left == 0 {
			var err error
			if in, err = folders[0].open(io.NewSectionReader(a.r, at, int64(packs[0]))); err != nil {
				return err
			}
			at += int64(packs[0])
			left = len(folders[0].files)
			folders, packs = folders[1:], packs[1:]
		}
		left--
		content := &content{r: in, left: m.file.size, digest: m.file.digest}
		if err := f(m, content); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, content); err != nil {
			return err
		}
	}
	return nil
}

// open returns the folder's octets, unpacked.
func (f *folder) open(packed io.Reader) (in io.Reader, err error) {
	switch f.coder {
	case coderCopy:
		return io.LimitReader(packed, int64(f.size)), nil
	case coderLZMA:
		// The form of the .lzma file: properties, size, data.
		header := binary.LittleEndian.AppendUint64(bytes.Clone(f.properties), f.size)
		in, err = lzma.ReaderConfig{DictCap: maxDictionary}.NewReader(io.MultiReader(bytes.NewReader(header), packed))
	default:
		p := f.properties[0]
		in, err = lzma.Reader2Config{DictCap: (2 | int(p)&1) << (p/2 + 11)}.NewReader2(packed)
	}
	if err != nil {
		return nil, fault.Wrap(fault.ManifestFormat, err, "an archive of the bundle is damaged")
	}
	return io.LimitReader(in, int64(f.size)), nil
}

// content is a file of an archive while it is read.
type content struct {
	r      io.Reader
	left   uint64
	sum    uint32
	digest *uint32
}

// Read reads on. At the end it compares the digest; errors of unpacking are
// refusals: the archive is damaged.
func (c *content) Read(p []byte) (int, error) {
	if c.left == 0 {
		if c.digest != nil && *c.digest != c.sum {
			return 0, fault.New(fault.ManifestFormat, "an archive of the bundle is damaged")
		}
		return 0, io.EOF
	}
	n, err := c.r.Read(p[:min(uint64(len(p)), c.left)])
	c.left -= uint64(n)
	c.sum = crc32.Update(c.sum, crc32.IEEETable, p[:n])
	if err != nil && (c.left > 0 || !errors.Is(err, io.EOF)) {
		return n, fault.Wrap(fault.ManifestFormat, err, "an archive of the bundle is damaged")
	}
	return n, nil
}

package store

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
)

// The form of a backup: a magic line, then sections, then a trailer.
//
//	file    = magic *section trailer
//	section = 'S' uvarint(len) name *chunk end
//	chunk   = 'C' uint32(len) bytes
//	end     = 'E' SHA-256(name || content)
//	trailer = 'T' uint32(number of sections) SHA-256(all before this digest)
//
// Nothing follows the trailer. Every byte stands under a digest, so that a
// flipped bit or a missing end is noticed by a reader that only reads on.
const (
	backupMagic       = "birthmark backup 1\n"
	backupChunk       = 64 << 10
	backupMaxName     = 128
	backupMaxSections = 1 << 16
	backupMaxValue    = 64 << 20
)

// errBackup is the cause of a fault.BackupInvalid.
var errBackup = errors.New("backup is not well formed")

// backupWriter writes the form; one section is open at a time.
type backupWriter struct {
	w        *bufio.Writer
	file     hash.Hash
	section  hash.Hash
	chunk    []byte
	sections uint32
	bytes    int64
}

func newBackupWriter(w io.Writer) (*backupWriter, error) {
	b := &backupWriter{w: bufio.NewWriterSize(w, 256<<10), file: sha256.New(), chunk: make([]byte, 0, backupChunk)}
	return b, b.put([]byte(backupMagic))
}

func (b *backupWriter) put(p []byte) error {
	b.file.Write(p)
	n, err := b.w.Write(p)
	b.bytes += int64(n)
	return err
}

// open begins a section; its content is what is written until close.
func (b *backupWriter) open(name string) error {
	if len(name) == 0 || len(name) > backupMaxName {
		return fmt.Errorf("name of a backup section has %d octets", len(name))
	}
	b.sections++
	b.section = sha256.New()
	b.section.Write([]byte(name))
	return b.put(append(binary.AppendUvarint([]byte{'S'}, uint64(len(name))), name...))
}

// Write adds to the open section.
func (b *backupWriter) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 {
		n := min(backupChunk-len(b.chunk), len(p))
		b.chunk = append(b.chunk, p[:n]...)
		p = p[n:]
		if len(b.chunk) == backupChunk {
			if err := b.flushChunk(); err != nil {
				return 0, err
			}
		}
	}
	return written, nil
}

func (b *backupWriter) flushChunk() error {
	if len(b.chunk) == 0 {
		return nil
	}
	b.section.Write(b.chunk)
	head := binary.BigEndian.AppendUint32([]byte{'C'}, uint32(len(b.chunk)))
	if err := b.put(head); err != nil {
		return err
	}
	err := b.put(b.chunk)
	b.chunk = b.chunk[:0]
	return err
}

func (b *backupWriter) close() error {
	if err := b.flushChunk(); err != nil {
		return err
	}
	return b.put(b.section.Sum([]byte{'E'}))
}

// finish writes the trailer and returns the digest of the whole file up to it.
func (b *backupWriter) finish() (digest [32]byte, err error) {
	if err := b.put(binary.BigEndian.AppendUint32([]byte{'T'}, b.sections)); err != nil {
		return digest, err
	}
	b.file.Sum(digest[:0])
	if err := b.put(digest[:]); err != nil {
		return digest, err
	}
	return digest, b.w.Flush()
}

// backupReader reads the form and notices whatever is not as it was written.
type backupReader struct {
	r        *bufio.Reader
	file     hash.Hash
	section  hash.Hash
	left     int // octets of the current chunk not read yet
	ended    bool
	sections uint32
	digest   [32]byte // of the whole file, after its end
	bytes    int64    // that the digest covers so far
}

func newBackupReader(r io.Reader) (*backupReader, error) {
	b := &backupReader{r: bufio.NewReaderSize(r, 256<<10), file: sha256.New()}
	magic := make([]byte, len(backupMagic))
	if err := b.get(magic); err != nil {
		return nil, err
	}
	if string(magic) != backupMagic {
		return nil, fmt.Errorf("%w: not a backup", errBackup)
	}
	return b, nil
}

func (b *backupReader) get(p []byte) error {
	if _, err := io.ReadFull(b.r, p); err != nil {
		return fmt.Errorf("%w: cut off", errBackup)
	}
	b.file.Write(p)
	b.bytes += int64(len(p))
	return nil
}

func (b *backupReader) getByte() (byte, error) {
	var p [1]byte
	err := b.get(p[:])
	return p[0], err
}

// ReadByte lets binary.ReadUvarint read lengths outside of sections.
func (b *backupReader) ReadByte() (byte, error) { return b.getByte() }

// next goes to the next section and returns its name, or io.EOF after a good
// trailer. The section before must have been read to its end.
func (b *backupReader) next() (string, error) {
	tag, err := b.getByte()
	if err != nil {
		return "", err
	}
	switch tag {
	case 'S':
		return b.sectionName()
	case 'T':
		return "", b.trailer()
	}
	return "", fmt.Errorf("%w: neither section nor trailer", errBackup)
}

func (b *backupReader) sectionName() (string, error) {
	n, err := binary.ReadUvarint(b)
	if err != nil || n == 0 || n > backupMaxName || b.sections == backupMaxSections {
		return "", fmt.Errorf("%w: name of a section", errBackup)
	}
	name := make([]byte, n)
	if err := b.get(name); err != nil {
		return "", err
	}
	b.sections++
	b.section = sha256.New()
	b.section.Write(name)
	b.left, b.ended = 0, false
	return string(name), nil
}

func (b *backupReader) trailer() error {
	var count [4]byte
	if err := b.get(count[:]); err != nil {
		return err
	}
	if binary.BigEndian.Uint32(count[:]) != b.sections {
		return fmt.Errorf("%w: number of sections", errBackup)
	}
	b.file.Sum(b.digest[:0])
	covered := b.bytes
	var want [32]byte
	if err := b.get(want[:]); err != nil {
		return err
	}
	b.bytes = covered
	if want != b.digest {
		return fmt.Errorf("%w: digest of the file", errBackup)
	}
	if _, err := b.r.ReadByte(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: something follows the end", errBackup)
	}
	return io.EOF
}

// Read reads the content of the section; its io.EOF means that the section's
// digest was right.
func (b *backupReader) Read(p []byte) (int, error) {
	if b.ended {
		return 0, io.EOF
	}
	if b.left == 0 {
		if err := b.nextChunk(); err != nil {
			return 0, err
		}
	}
	p = p[:min(len(p), b.left)]
	if err := b.get(p); err != nil {
		return 0, err
	}
	b.section.Write(p)
	b.left -= len(p)
	return len(p), nil
}

func (b *backupReader) nextChunk() error {
	tag, err := b.getByte()
	if err != nil {
		return err
	}
	switch tag {
	case 'C':
		var size [4]byte
		if err := b.get(size[:]); err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(size[:])
		if n == 0 || n > backupChunk {
			return fmt.Errorf("%w: size of a chunk", errBackup)
		}
		b.left = int(n)
		return nil
	case 'E':
		var want [32]byte
		if err := b.get(want[:]); err != nil {
			return err
		}
		if !bytes.Equal(want[:], b.section.Sum(nil)) {
			return fmt.Errorf("%w: digest of a section", errBackup)
		}
		b.ended = true
		return io.EOF
	}
	return fmt.Errorf("%w: neither chunk nor end", errBackup)
}

// The tags of a value in a row. Both engines know these four sorts alone.
const (
	valueNull = iota
	valueInt
	valueText
	valueBlob
)

// appendRow encodes the values of a row: length, then each value with its tag.
func appendRow(dst, scratch []byte, row []any) (encoded, used []byte, err error) {
	scratch = scratch[:0]
	for _, v := range row {
		switch v := v.(type) {
		case nil:
			scratch = append(scratch, valueNull)
		case int64:
			scratch = binary.AppendVarint(append(scratch, valueInt), v)
		case string:
			scratch = binary.AppendUvarint(append(scratch, valueText), uint64(len(v)))
			scratch = append(scratch, v...)
		case []byte:
			scratch = binary.AppendUvarint(append(scratch, valueBlob), uint64(len(v)))
			scratch = append(scratch, v...)
		default:
			return nil, nil, fmt.Errorf("a column of type %T cannot be backed up", v)
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(scratch)))
	return append(dst, scratch...), scratch, nil
}

// rowReader reads the rows of a section. The length before each row lets it
// refuse a row that is too long before it takes memory for it.
type rowReader struct {
	r   *bufio.Reader
	buf []byte
}

// next fills row, or returns io.EOF at the end of the section.
func (r *rowReader) next(row []any) error {
	n, err := binary.ReadUvarint(r.r)
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	if err != nil {
		return err
	}
	if n > backupMaxValue {
		return fmt.Errorf("%w: size of a row", errBackup)
	}
	if uint64(cap(r.buf)) < n {
		r.buf = make([]byte, n)
	}
	buf := r.buf[:n]
	if _, err := io.ReadFull(r.r, buf); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: a row is cut off", errBackup)
		}
		return err
	}
	return decodeRow(buf, row)
}

func decodeRow(buf []byte, row []any) error {
	bad := fmt.Errorf("%w: a row", errBackup)
	for i := range row {
		if len(buf) == 0 {
			return bad
		}
		tag := buf[0]
		buf = buf[1:]
		switch tag {
		case valueNull:
			row[i] = nil
		case valueInt:
			v, n := binary.Varint(buf)
			if n <= 0 {
				return bad
			}
			row[i], buf = v, buf[n:]
		case valueText, valueBlob:
			size, n := binary.Uvarint(buf)
			if n <= 0 || size > uint64(len(buf)-n) {
				return bad
			}
			value := buf[n : n+int(size)]
			if tag == valueText {
				row[i] = string(value)
			} else {
				row[i] = append(make([]byte, 0, size), value...)
			}
			buf = buf[n+int(size):]
		default:
			return bad
		}
	}
	if len(buf) != 0 {
		return bad
	}
	return nil
}

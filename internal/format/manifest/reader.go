package manifest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/birthmark/birthmark/internal/fault"
)

// The longest lines and texts that a file may have.
const (
	MaxLine = 1 << 18
	maxText = 128
	maxKeys = 16
)

// Reader reads a manifest line by line. What it has returned may be relied on
// only once it returns io.EOF: the signature comes last.
type Reader struct {
	in     *bufio.Reader
	digest hash.Hash
	header Header
	signer *x509.Certificate
	count  int64
	ended  bool
}

// NewReader reads the first line. Before going on, the caller looks at
// Header().Signer.
func NewReader(r io.Reader) (*Reader, error) {
	m := &Reader{in: bufio.NewReaderSize(r, MaxLine), digest: sha256.New()}
	line, err := m.line()
	if err != nil {
		return nil, err
	}
	if err := strict(line, &m.header); err != nil {
		return nil, fault.Wrap(fault.ManifestFormat, err, "the first line is malformed")
	}
	if err := m.header.check(); err != nil {
		return nil, err
	}
	if m.signer, err = x509.ParseCertificate(m.header.Signer); err != nil {
		return nil, fault.Wrap(fault.ManifestFormat, err, "the signer's certificate in the first line is malformed")
	}
	if algorithm, err := algorithmOf(m.signer.PublicKey); err != nil || algorithm != m.header.Algorithm {
		return nil, fault.New(fault.ManifestFormat, "the algorithm is not that of the signer's key")
	}
	m.digest.Write(line)
	return m, nil
}

// Header returns the first line.
func (r *Reader) Header() Header { return r.header }

// Signer returns the certificate of the signer, as the file carries it.
func (r *Reader) Signer() *x509.Certificate { return r.signer }

// Count returns how many chips were read so far.
func (r *Reader) Count() int64 { return r.count }

// Next returns the line of the next chip, which ParseEntry takes, valid until the
// next call. It returns io.EOF once the last line's count, digest and signature
// have been found right and nothing follows.
func (r *Reader) Next() ([]byte, error) {
	if r.ended {
		return nil, io.EOF
	}
	line, err := r.line()
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(line, trailerPrefix) {
		return nil, r.end(line)
	}
	r.digest.Write(line)
	r.count++
	return line, nil
}

// Read returns the next chip, as Next.
func (r *Reader) Read() (*Entry, error) {
	line, err := r.Next()
	if err != nil {
		return nil, err
	}
	e, err := ParseEntry(line)
	if err != nil {
		return nil, err
	}
	return e, nil
}

func (r *Reader) end(line []byte) error {
	t, err := parseTrailer(line)
	if err != nil {
		return err
	}
	digest := [sha256.Size]byte(r.digest.Sum(nil))
	switch {
	case t.Count != r.count, r.header.Count != 0 && r.header.Count != r.count:
		return fault.New(fault.ManifestFormat, fmt.Sprintf("the file has %d chips, not as many as it says", r.count))
	case t.Digest != hex.EncodeToString(digest[:]):
		return fault.New(fault.ManifestSignature, "the digest in the last line is not that of the file")
	}
	if err := verify(r.signer, r.header.Algorithm, Message(digest, t.Count), t.Signature); err != nil {
		return err
	}
	if _, err := r.in.ReadByte(); !errors.Is(err, io.EOF) {
		return fault.Wrap(fault.ManifestFormat, err, "something follows the last line")
	}
	r.ended = true
	return io.EOF
}

// line returns the next line with its line feed, without which a line is cut off.
func (r *Reader) line() ([]byte, error) {
	line, err := r.in.ReadSlice('\n')
	switch {
	case err == nil:
		return line, nil
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, fault.New(fault.ManifestLimit, "a line is longer than", MaxLine, "octets")
	case errors.Is(err, io.EOF):
		return nil, fault.New(fault.ManifestFormat, "the file ends before its last line")
	default:
		return nil, err
	}
}

// ParseEntry parses the line of one chip.
func ParseEntry(line []byte) (*Entry, error) {
	var e Entry
	if err := strict(line, &e); err != nil {
		return nil, fault.Wrap(fault.ManifestEntry, err, "the line is malformed")
	}
	if err := e.check(); err != nil {
		return nil, err
	}
	return &e, nil
}

// strict is json.Unmarshal that refuses unknown members: a misspelled one would
// otherwise be a chip without a key.
func strict(line []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one value in a line")
	}
	return nil
}

func (h *Header) check() error {
	switch {
	case h.Format != Format:
		return fault.New(fault.ManifestFormat, "the first line does not name the format "+Format)
	case h.Version != Version:
		return fault.New(fault.ManifestFormat, "version", h.Version, "is not known")
	case h.Maker == "" || h.Created.IsZero():
		return fault.New(fault.ManifestFormat, "the first line names no maker or time")
	case h.Count < 0:
		return fault.New(fault.ManifestFormat, "the announced count is negative")
	}
	for _, text := range []string{h.Maker, h.Vendor, h.ChipType, h.Product, h.Order} {
		if len(text) > maxText {
			return fault.New(fault.ManifestLimit, "a text in the first line is longer than", maxText, "octets")
		}
	}
	return nil
}

func (e *Entry) check() error {
	if e.UID == "" {
		return fault.New(fault.ManifestEntry, "the chip has no uid")
	}
	for _, text := range []string{e.UID, e.DeviceSerial, e.Vendor, e.ChipType} {
		if len(text) > maxText {
			return fault.New(fault.ManifestLimit, "a text is longer than", maxText, "octets")
		}
	}
	if len(e.Keys) > maxKeys {
		return fault.New(fault.ManifestLimit, "a chip has more than", maxKeys, "keys")
	}
	for i := range e.Keys {
		if len(e.Keys[i].SPKI) == 0 || e.Keys[i].Slot == "" || len(e.Keys[i].Slot) > maxText {
			return fault.New(fault.ManifestEntry, "a key has no spki or slot")
		}
	}
	return nil
}

package manifest

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/birthmark/birthmark/internal/fault"
)

// lines cuts a file into its lines without line ends.
type lines struct {
	in    *bufio.Reader
	limit int
}

func newLines(r io.Reader, limit int) *lines {
	return &lines{in: bufio.NewReaderSize(r, limit), limit: limit}
}

// line returns the next line, valid until the next call. The last may lack its
// line feed.
func (l *lines) line() ([]byte, error) {
	line, err := l.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, fault.New(fault.ManifestLimit, "the line is longer than", l.limit, "octets")
	}
	if len(line) > 0 && eof(err) {
		err = nil
	}
	return bytes.TrimRight(line, "\r\n"), err
}

// next returns a copy of the next line that is not blank.
func (l *lines) next() ([]byte, int, error) {
	for {
		line, err := l.line()
		if err != nil || len(bytes.TrimSpace(line)) > 0 {
			return bytes.Clone(line), len(line), err
		}
	}
}

// certificatePEM returns the next PEM block of a certificate, with its frame.
// Between blocks only blank lines and remarks that begin with # are taken: a
// damaged frame must not make a chip disappear.
func (l *lines) certificatePEM() ([]byte, int, error) {
	const begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
	var block []byte
	for {
		line, err := l.line()
		text := bytes.TrimSpace(line)
		switch {
		case err != nil && len(block) > 0 && eof(err):
			return nil, 0, fault.New(fault.ManifestFormat, "the file is cut off inside a certificate")
		case err != nil:
			return nil, 0, err
		case len(block) == 0 && (len(text) == 0 || text[0] == '#'):
			continue
		case len(block) == 0 && string(text) != begin:
			return nil, 0, fault.New(fault.ManifestFormat, "between the certificates stands something that is none")
		}
		block = append(append(block, text...), '\n')
		if len(block) > l.limit {
			return nil, 0, fault.New(fault.ManifestLimit, "the certificate is longer than", l.limit, "octets")
		}
		if string(text) == end {
			return block, len(block), nil
		}
	}
}

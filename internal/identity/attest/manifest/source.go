package manifest

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"io"
	"sync/atomic"

	"github.com/birthmark/birthmark/internal/fault"
)

// source is the file on its way through: counted, bounded and hashed.
type source struct {
	r      io.Reader
	limit  int64
	read   atomic.Int64
	digest hash.Hash
}

func newSource(r io.Reader, limit int64) *source {
	return &source{r: r, limit: limit, digest: sha256.New()}
}

// Read reads on. A file over the limit is refused, not cut.
func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.digest.Write(p[:n])
	if s.read.Add(int64(n)) > s.limit {
		return 0, fault.New(fault.ManifestLimit, "the file is larger than", s.limit, "octets")
	}
	return n, err
}

// drain reads what a format leaves behind its end, which may only be white space,
// so that the digest is that of the file.
func (s *source) drain() error {
	buf := make([]byte, 4<<10)
	for {
		n, err := s.Read(buf)
		if len(bytes.Trim(buf[:n], " \t\r\n")) > 0 {
			return fault.New(fault.ManifestFormat, "something follows the end of the manifest")
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (s *source) sum() [32]byte { return [32]byte(s.digest.Sum(nil)) }

package manifest

import (
	"bytes"
	"errors"
	"io"

	"github.com/birthmark/birthmark/internal/fault"
)

// array cuts a JSON array of objects into its elements while it is read: a reel's
// file has gigabytes, an entry a few thousand octets.
type array struct {
	r       io.Reader
	limit   int // octets of an element
	buf     []byte
	begun   bool
	failure error
}

func newArray(r io.Reader, limit int) *array {
	return &array{r: r, limit: limit, buf: make([]byte, 0, 64<<10)}
}

// next returns the next element, io.EOF after the closing bracket.
func (a *array) next() ([]byte, int, error) {
	c, err := a.token()
	if err == nil && !a.begun {
		if c != '[' {
			return nil, 0, fault.New(fault.ManifestFormat, "the file is not a JSON array")
		}
		a.begun = true
		a.buf = a.buf[1:]
		c, err = a.token()
		if err == nil && c == ']' {
			return nil, 0, a.close()
		}
	} else if err == nil {
		if c == ']' {
			return nil, 0, a.close()
		}
		if c != ',' {
			return nil, 0, fault.New(fault.ManifestFormat, "no comma before the entry")
		}
		a.buf = a.buf[1:]
		c, err = a.token()
	}
	if err != nil {
		return nil, 0, err
	}
	if c != '{' {
		return nil, 0, fault.New(fault.ManifestFormat, "the entry is not a JSON object")
	}
	n, err := a.object()
	if err != nil {
		return nil, 0, err
	}
	element := bytes.Clone(a.buf[:n])
	a.buf = a.buf[n:]
	return element, n, nil
}

// close checks that nothing follows in what was read; the rest is drained later.
func (a *array) close() error {
	if blank(a.buf[1:]) != nil {
		return fault.New(fault.ManifestFormat, "something follows the end of the array")
	}
	return io.EOF
}

// token drops white space and returns the next octet without taking it.
func (a *array) token() (byte, error) {
	for {
		a.buf = a.buf[space(a.buf):]
		if len(a.buf) > 0 {
			return a.buf[0], nil
		}
		if err := a.fill(); err != nil {
			return 0, err
		}
	}
}

// object returns the length of the object that begins the buffer, which it fills
// as far as is needed.
func (a *array) object() (int, error) {
	depth := 0
	for i := 0; ; i++ {
		if err := a.reach(i); err != nil {
			return 0, err
		}
		switch a.buf[i] {
		case '"':
			end, err := a.text(i + 1)
			if err != nil {
				return 0, err
			}
			i = end
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1, nil
			}
		}
	}
}

// text returns the index of the quote that ends the string beginning at index i.
func (a *array) text(i int) (int, error) {
	for from := i; ; {
		n := bytes.IndexByte(a.buf[from:], '"')
		if n < 0 {
			from = len(a.buf)
			if err := a.reach(from); err != nil {
				return 0, err
			}
			continue
		}
		if from += n; !escaped(a.buf[i:from]) {
			return from, nil
		}
		from++
	}
}

// reach makes sure that index i is in the buffer.
func (a *array) reach(i int) error {
	if i >= a.limit {
		return fault.New(fault.ManifestLimit, "the entry is longer than", a.limit, "octets")
	}
	for i >= len(a.buf) {
		if err := a.fill(); err != nil {
			return err
		}
	}
	return nil
}

// fill reads some more. The end of the file is never where it should be: close
// comes before it.
func (a *array) fill() error {
	if a.failure != nil {
		return a.failure
	}
	if cap(a.buf)-len(a.buf) < 16<<10 {
		a.buf = append(make([]byte, 0, 2*len(a.buf)+64<<10), a.buf...)
	}
	n, err := a.r.Read(a.buf[len(a.buf):cap(a.buf)])
	a.buf = a.buf[:len(a.buf)+n]
	if errors.Is(err, io.EOF) {
		err = fault.New(fault.ManifestFormat, "the file is cut off here")
	}
	a.failure = err
	if n > 0 {
		return nil
	}
	return err
}

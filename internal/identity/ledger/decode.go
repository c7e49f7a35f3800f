package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
)

// Parsed is an entry as its leaf shows it.
type Parsed struct {
	Kind       Kind
	At         time.Time
	Actor      string   // empty where the actor is a person
	Commitment [32]byte // to the person's name
	Salt       [16]byte
	Body       Body // *Issued, *Registered, ...; Raw for kinds without fixed form
}

var errLeaf = errors.New("the leaf is not a canonical entry")

// envelope reads or writes all of an entry but its body.
func (p *Parsed) envelope(c *coder) {
	kind := string(p.Kind)
	c.literal("{")
	c.string("kind", &kind, always)
	p.Kind = Kind(kind)
	if c.key("at", false, always) {
		c.moment("at", &p.At, microTime)
	}
	c.digest("actor_commitment", &p.Commitment, unlessZero)
	if p.Commitment == [32]byte{} {
		c.string("actor", &p.Actor, always)
	}
	if c.key("salt", false, always) {
		c.octets("salt", p.Salt[:])
	}
	c.key("body", false, always)
}

// appendLeaf writes the canonical leaf of an entry.
func appendLeaf(dst []byte, p *Parsed) []byte {
	c := coder{buf: dst}
	p.envelope(&c)
	return append(p.Body.AppendJSON(c.buf), '}')
}

// Decode reads a leaf. It accepts exactly what Encode writes: decoding and
// encoding again gives the same bytes.
func Decode(leaf []byte) (Parsed, error) {
	p, body, err := decodeEnvelope(leaf)
	if err != nil {
		return Parsed{}, err
	}
	if p.Body, err = decodeBody(p.Kind, body); err != nil {
		return Parsed{}, fmt.Errorf("%s: %w", p.Kind, err)
	}
	return p, nil
}

func decodeEnvelope(leaf []byte) (p Parsed, body []byte, err error) {
	c := coder{buf: leaf, reading: true}
	p.envelope(&c)
	if c.err != nil {
		return Parsed{}, nil, fmt.Errorf("%w: %w", errLeaf, c.err)
	}
	n := len(c.buf) - 1
	if n < 2 || c.buf[0] != '{' || c.buf[n] != '}' || c.buf[n-1] != '}' {
		return Parsed{}, nil, fmt.Errorf("%w: body is not an object", errLeaf)
	}
	return p, c.buf[:n], nil
}

func decodeBody(k Kind, body []byte) (Body, error) {
	b := newBody(k)
	if b == nil {
		var compact bytes.Buffer
		if json.Compact(&compact, body) != nil || !bytes.Equal(compact.Bytes(), body) {
			return nil, fmt.Errorf("%w: body is not a JSON object", errLeaf)
		}
		return Raw(body), nil
	}
	c := coder{buf: body, reading: true}
	c.literal("{")
	b.fields(&c)
	c.literal("}")
	if c.err == nil && len(c.buf) > 0 {
		c.err = errors.New("unknown fields at the end")
	}
	if c.err != nil {
		return nil, fmt.Errorf("%w: %w", errLeaf, c.err)
	}
	return b, nil
}

// Each yields the entries of the batch whose kind is in mask, with their
// indexes. What this version cannot read (a newer node wrote it) comes with a
// Raw body, and a leaf that is no entry at all as an entry without kind: a
// cache that does not know what happened must drop what it holds.
func (b Batch) Each(mask Class) iter.Seq2[int64, Parsed] {
	return func(yield func(int64, Parsed) bool) {
		for i, leaf := range b.Leaves {
			if leaf == nil || ClassOf(kindOf(leaf))&mask == 0 {
				continue
			}
			p, body, err := decodeEnvelope(leaf)
			if err == nil {
				if p.Body, err = decodeBody(p.Kind, body); err != nil {
					p.Body = Raw(body)
				}
			}
			if !yield(b.First+int64(i), p) {
				return
			}
		}
	}
}

// kindOf reads the kind without reading the entry.
func kindOf(leaf []byte) Kind {
	rest, ok := bytes.CutPrefix(leaf, []byte(`{"kind":"`))
	end := bytes.IndexByte(rest, '"')
	if !ok || end < 0 {
		return ""
	}
	return Kind(rest[:end])
}

// ClassesOf returns all classes that occur among entries.
func ClassesOf(entries []Entry) (c Class) {
	for i := range entries {
		c |= ClassOf(entries[i].Kind)
	}
	return c
}

// leavesFrom yields the leaves of batches from an index on, and an error where
// the batches do not join or a leaf is missing.
func leavesFrom(batches []Batch, index int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		next := index
		for _, b := range batches {
			skip := next - b.First
			if skip < 0 || next > index && skip != 0 || skip >= int64(len(b.Leaves)) {
				break
			}
			for _, leaf := range b.Leaves[skip:] {
				if leaf == nil {
					yield(nil, missing(next))
					return
				}
				if !yield(leaf, nil) {
					return
				}
				next++
			}
		}
		if next == index || len(batches) > 0 && next < end(batches) {
			yield(nil, missing(next))
		}
	}
}

func end(batches []Batch) int64 {
	last := batches[len(batches)-1]
	return last.First + int64(len(last.Leaves))
}

func missing(index int64) error {
	return fault.New(fault.LedgerBroken, fmt.Sprintf("entry %d is missing", index))
}

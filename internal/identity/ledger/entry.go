// Package ledger is the record that cannot be edited unnoticed. Every act is an
// entry; the store writes the entries of a transaction in that transaction and
// numbers them without gaps. A sequencer hashes them into a Merkle tree
// (RFC 6962, C2SP tlog-tiles), signs checkpoints and shows them to witnesses.
// The same numbers are the change feed that all caches follow. Verify derives
// the register anew from the entries and names the first place where the
// database says something else.
package ledger

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// Kind names an act, such as "certificate.issued". The list in kinds.go is
// complete; names are permanent.
type Kind string

// Class groups kinds for the change feed, as bits: a cache follows only the
// classes that concern it.
type Class uint8

// The classes of acts.
const (
	ClassIssuance Class = 1 << iota // certificates issued or confirmed, serials leased
	ClassStatus                     // revoked, held, released, CRLs
	ClassControl                    // authorities, profiles, products, labels
	ClassDevice                     // devices registered or changed
	ClassAccess                     // operators, tokens, approvals
	ClassSystem                     // clock, backup, restore, checkpoints
	ClassFactory                    // manifests, chips, units, alarms
)

// Body is the content of an entry: all that is needed to derive the register's
// rows anew. AppendJSON appends one JSON object with keys in a fixed order, so
// that equal bodies are equal bytes.
type Body interface {
	AppendJSON(dst []byte) []byte
}

// Entry is one act before it is written.
type Entry struct {
	Kind  Kind
	At    time.Time
	Actor string // "device:ID", "token:ID", "system" are written as they are; "local:USER" and "operator:NAME" only as a salted commitment
	Body  Body
}

// Private is the erasable text behind a commitment in a leaf.
type Private struct {
	Salt  [16]byte
	Value string
}

// JSON wraps any value with json tags as a Body, for acts that are not on the
// hot path. The value must marshal to an object.
func JSON(v any) Body { return jsonBody{v} }

type jsonBody struct{ v any }

func (b jsonBody) AppendJSON(dst []byte) []byte {
	raw, err := json.Marshal(b.v)
	if err != nil {
		panic(fmt.Sprintf("ledger: body %T does not marshal: %v", b.v, err))
	}
	return append(dst, raw...)
}

// personal reports whether an actor names a person.
func personal(actor string) bool {
	return strings.HasPrefix(actor, "local:") || strings.HasPrefix(actor, "operator:")
}

// Encode renders the canonical bytes of the entry, which are the leaf's data:
// one JSON object with a fresh 16-byte salt, so that nobody can guess an entry
// from its hash. Where the actor is a person the leaf holds a commitment,
// SHA-256(salt || name), and the second result what to keep beside it.
func (e *Entry) Encode(dst []byte, random io.Reader) (leaf []byte, beside *Private, err error) {
	var salts [32]byte
	if _, err := io.ReadFull(random, salts[:]); err != nil {
		return nil, nil, fmt.Errorf("salt of a ledger entry: %w", err)
	}
	p := Parsed{Kind: e.Kind, At: e.At, Actor: e.Actor, Salt: [16]byte(salts[:16]), Body: e.Body}
	if personal(e.Actor) {
		beside = &Private{Salt: [16]byte(salts[16:]), Value: e.Actor}
		p.Commitment = beside.Commitment()
	}
	return appendLeaf(dst, &p), beside, nil
}

// Commitment returns SHA-256(salt || value), as the leaf shows it.
func (p *Private) Commitment() [32]byte {
	return sha256.Sum256(append(p.Salt[:], p.Value...))
}

// Batch is what one transaction appended: consecutive leaves, as they were
// encoded.
type Batch struct {
	First   int64 // index of the first leaf
	Classes Class // all classes that occur
	Leaves  [][]byte
}

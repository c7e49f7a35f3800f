package signer

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/birthmark/birthmark/internal/fault"
)

// Outcomes says what became of a request.
type Outcomes uint8

// The outcomes. Numbers are in journals.
const (
	Signing Outcomes = iota + 1 // accepted: a signature may exist
	Refused                     // for the reason in Code
	Failed                      // accepted, but the backend failed or the signature was wrong
	Dropped                     // accepted, but nobody waited any more: not signed
	State                       // what must be remembered, at the head of a segment
)

var outcomeNames = [...]string{"", "signing", "refused", "failed", "dropped", "state"}

// String returns the outcome's name.
func (o Outcomes) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return "unknown"
}

// Record is one line of the journal.
type Record struct {
	At      time.Time
	Key     string
	UID     uint32 // who asked
	Kind    Kind
	Number  []byte   // content octets of the certificate's serial or the CRL's number
	Scope   [32]byte // of a CRL: SHA-256 of its issuingDistributionPoint; zero if its numbers cannot be compared
	Sum     [32]byte // SHA-256 of the to-be-signed bytes
	Outcome Outcomes
	Code    fault.Code // why it was refused or failed
	State   []byte     // of an Outcome State: JSON
}

// MarshalJSON renders a record for people's tools.
func (r *Record) MarshalJSON() ([]byte, error) {
	out := struct {
		At      string          `json:"at"`
		Outcome string          `json:"outcome"`
		Key     string          `json:"key,omitempty"`
		UID     *uint32         `json:"uid,omitempty"`
		Kind    string          `json:"kind,omitempty"`
		Number  string          `json:"number,omitempty"`
		Sum     string          `json:"sha256,omitempty"`
		Code    string          `json:"code,omitempty"`
		State   json.RawMessage `json:"state,omitempty"`
	}{At: r.At.UTC().Format(time.RFC3339Nano), Outcome: r.Outcome.String(), State: r.State}
	if r.Outcome != State {
		out.Key, out.UID, out.Kind = r.Key, &r.UID, r.Kind.String()
		out.Number, out.Sum = hex.EncodeToString(r.Number), hex.EncodeToString(r.Sum[:])
	}
	if r.Code != 0 {
		out.Code = r.Code.String()
	}
	return json.Marshal(out)
}

// A record in a segment: a mark, the length of the body, the body, and SHA-256
// of the hash before it and the body. The last record of a group that was
// written and synced at once has another mark.
const (
	markRecord = 0xb1
	markLast   = 0xb2
	hashSize   = sha256.Size
	maxBody    = 1 << 20
)

type chain [hashSize]byte

// next is the hash after a body.
func (c *chain) next(body []byte) chain {
	h := sha256.New()
	h.Write(c[:])
	h.Write(body)
	var out chain
	h.Sum(out[:0])
	return out
}

// appendTo appends the record and moves the chain on.
func (r *Record) appendTo(dst []byte, c *chain) []byte {
	start := len(dst)
	dst = append(dst, markRecord, 0, 0, 0, 0)
	dst = append(dst, byte(r.Outcome), byte(r.Kind))
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.At.UnixMilli()))
	dst = binary.BigEndian.AppendUint32(dst, r.UID)
	dst = binary.BigEndian.AppendUint16(dst, uint16(r.Code))
	name := r.Key[:min(len(r.Key), 255)]
	dst = append(append(dst, byte(len(name))), name...)
	dst = append(append(dst, byte(len(r.Number))), r.Number...)
	dst = append(append(dst, r.Scope[:]...), r.Sum[:]...)
	dst = append(dst, r.State...)
	binary.BigEndian.PutUint32(dst[start+1:], uint32(len(dst)-start-5))
	*c = c.next(dst[start+5:])
	return append(dst, c[:]...)
}

// parseRecord reads the body of a record.
func parseRecord(body []byte) (r Record, ok bool) {
	in := cryptobyte.String(body)
	var outcome, kind uint8
	var at uint64
	var code uint16
	var key, number cryptobyte.String
	var scope, sum []byte
	if !in.ReadUint8(&outcome) || !in.ReadUint8(&kind) || !in.ReadUint64(&at) || !in.ReadUint32(&r.UID) || !in.ReadUint16(&code) ||
		!in.ReadUint8LengthPrefixed(&key) || !in.ReadUint8LengthPrefixed(&number) || !in.ReadBytes(&scope, 32) || !in.ReadBytes(&sum, 32) {
		return r, false
	}
	r.Outcome, r.Kind, r.At, r.Code = Outcomes(outcome), Kind(kind), time.UnixMilli(int64(at)), fault.Code(code)
	r.Key, r.Number = string(key), bytes.Clone(number)
	r.Scope, r.Sum = [32]byte(scope), [32]byte(sum)
	if len(in) > 0 {
		r.State = bytes.Clone(in)
	}
	return r, true
}

// cut takes one record off the front of a segment's bytes; last reports that it
// ends a group. It does not look at the chain.
func cut(data []byte) (body []byte, after chain, last bool, rest []byte, ok bool) {
	if len(data) < 5 || data[0] != markRecord && data[0] != markLast {
		return nil, after, false, nil, false
	}
	n := binary.BigEndian.Uint32(data[1:])
	if n > maxBody || len(data) < 5+int(n)+hashSize {
		return nil, after, false, nil, false
	}
	body = data[5 : 5+n]
	after = chain(data[5+n : 5+n+hashSize])
	return body, after, data[0] == markLast, data[5+n+hashSize:], true
}

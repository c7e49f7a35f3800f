// Package signer is what passes over the socket of birthmark-signer, the process
// that holds our CA keys. Both ends speak in frames:
//
//	length u32 | type u8 | payload
//
// in network order, the length counting what follows it. The client says hello
// first, the signer answers with its own. After that the client may send at any
// time, without waiting for answers: a Sign frame with many items, each with a
// number of the client's choice, the name of a key and the to-be-signed bytes; a
// Cancel frame with numbers it has lost interest in; an Open frame and Data
// frames for what is too large for an item, such as a CRL of a million entries.
// The signer answers each item once, in any order, many in one Results frame:
// with a signature, or with the code of the refusal. A Keys frame asks for the
// keys. Whoever finds the other's frame malformed ends the connection.
//
// Everything is bounded: a frame, the items in it, a stream. What is signed is
// always the whole to-be-signed structure, never a digest, so that the signer
// can read what it says.
package signer

import (
	"encoding/binary"
	"errors"
	"io"

	"golang.org/x/crypto/cryptobyte"

	"github.com/birthmark/birthmark/internal/fault"
)

// Version is the version of this protocol; both sides must speak the same.
const Version = 1

// Bounds of the protocol.
const (
	MaxFrame  = 1 << 20   // octets after the length
	MaxItems  = 1024      // items of a Sign frame, results, numbers of a Cancel frame
	MaxItem   = 256 << 10 // octets to sign in an item; more go in a stream
	MaxStream = 512 << 20 // octets of a stream
	MaxPiece  = 512 << 10 // octets of a Data frame
	MaxName   = 64        // octets of a key's name
	MaxDetail = 512       // octets of a signature or of a refusal's detail
)

// Type says what a frame is.
type Type uint8

// The types of frames.
const (
	Hello   Type = iota + 1 // both ways, first: magic and version
	Keys                    // client: nothing; signer: the keys
	Sign                    // client: items
	Results                 // signer: results
	Cancel                  // client: numbers of items
	Open                    // client: a stream begins
	Data                    // client: a piece of a stream
	Refused                 // signer: why it ends the connection
)

// Item is one thing to sign.
type Item struct {
	ID  uint32
	Key string
	TBS []byte
}

// Stream announces one thing to sign that comes in pieces.
type Stream struct {
	ID   uint32
	Key  string
	Size uint32
}

// Result answers an item or a stream: a signature, or the code of a refusal.
type Result struct {
	ID        uint32
	Code      fault.Code // 0: signed
	Detail    string
	Signature []byte
}

// Key is a key as the signer shows it.
type Key struct {
	Name        string
	SPKI        []byte   // DER
	Certificate []byte   // DER of what the key is bound to; empty: nothing yet
	Kinds       []string // what it signs
}

// ErrFrame is wrapped by every error about malformed bytes.
var ErrFrame = errors.New("signer: malformed frame")

var magic = []byte("birthmark-signer")

// Append appends a frame.
func Append(dst []byte, t Type, payload []byte) []byte {
	dst = Begin(dst, t)
	return End(append(dst, payload...), len(dst)-5)
}

// Begin appends the head of a frame whose payload follows; End, given where the
// frame began, fills in its length.
func Begin(dst []byte, t Type) []byte { return append(dst, 0, 0, 0, 0, byte(t)) }

// End completes the frame that begins at start.
func End(dst []byte, start int) []byte {
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start-4))
	return dst
}

// Read reads one frame; its payload is the caller's. At the end of input between
// two frames it returns io.EOF.
func Read(r io.Reader) (Type, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:4]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 1 || n > MaxFrame {
		return 0, nil, ErrFrame
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, io.ErrUnexpectedEOF
	}
	t := Type(payload[0])
	if t < Hello || t > Refused {
		return 0, nil, ErrFrame
	}
	return t, payload[1:], nil
}

// AppendHello appends the frame that begins a connection.
func AppendHello(dst []byte) []byte {
	return Append(dst, Hello, append(append([]byte(nil), magic...), Version))
}

// ParseHello refuses whoever speaks another protocol or version.
func ParseHello(payload []byte) error {
	if len(payload) != len(magic)+1 || string(payload[:len(magic)]) != string(magic) || payload[len(magic)] != Version {
		return ErrFrame
	}
	return nil
}

// AppendItem appends an item to the payload of a Sign frame.
func AppendItem(dst []byte, i *Item) []byte {
	dst = binary.BigEndian.AppendUint32(dst, i.ID)
	dst = append(append(dst, byte(len(i.Key))), i.Key...)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(i.TBS)))
	return append(dst, i.TBS...)
}

// ItemSize is how many octets AppendItem appends.
func ItemSize(i *Item) int { return 9 + len(i.Key) + len(i.TBS) }

// ParseItems reads the payload of a Sign frame. The items share its memory.
func ParseItems(payload []byte) ([]Item, error) {
	return list(payload, func(in *cryptobyte.String) (i Item, ok bool) {
		var key cryptobyte.String
		var n uint32
		ok = in.ReadUint32(&i.ID) && in.ReadUint8LengthPrefixed(&key) && in.ReadUint32(&n) &&
			n >= 1 && n <= MaxItem && in.ReadBytes(&i.TBS, int(n)) && nameOK(string(key))
		i.Key = string(key)
		return i, ok
	})
}

// list reads 1 to MaxItems of something until the payload ends.
func list[T any](payload []byte, read func(*cryptobyte.String) (T, bool)) ([]T, error) {
	in := cryptobyte.String(payload)
	var all []T
	for !in.Empty() {
		one, ok := read(&in)
		if !ok || len(all) == MaxItems {
			return nil, ErrFrame
		}
		all = append(all, one)
	}
	if len(all) == 0 {
		return nil, ErrFrame
	}
	return all, nil
}

// nameOK accepts what names a key: a-z A-Z 0-9 . _ - with a letter or digit first.
func nameOK(s string) bool {
	for i := range len(s) {
		b := s[i]
		letter := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
		if !letter && (i == 0 || b != '.' && b != '_' && b != '-') {
			return false
		}
	}
	return s != "" && len(s) <= MaxName
}

// ValidName reports whether s can name a key.
func ValidName(s string) bool { return nameOK(s) }

// AppendResult appends a result to the payload of a Results frame. A detail that
// is too long is cut.
func AppendResult(dst []byte, r *Result) []byte {
	body := r.Signature
	if r.Code != 0 {
		body = []byte(r.Detail)
	}
	body = body[:min(len(body), MaxDetail)]
	dst = binary.BigEndian.AppendUint32(dst, r.ID)
	dst = binary.BigEndian.AppendUint16(dst, uint16(r.Code))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(body)))
	return append(dst, body...)
}

// ParseResults reads the payload of a Results frame. The results share its
// memory.
func ParseResults(payload []byte) ([]Result, error) {
	return list(payload, func(in *cryptobyte.String) (r Result, ok bool) {
		var code uint16
		var body cryptobyte.String
		if !in.ReadUint32(&r.ID) || !in.ReadUint16(&code) || !in.ReadUint16LengthPrefixed(&body) || len(body) > MaxDetail {
			return r, false
		}
		r.Code = fault.Code(code)
		if code != 0 {
			r.Detail = string(body)
			return r, true
		}
		r.Signature = body
		return r, len(body) > 0
	})
}

// AppendCancel appends a Cancel frame.
func AppendCancel(dst []byte, ids ...uint32) []byte {
	start := len(dst)
	dst = Begin(dst, Cancel)
	for _, id := range ids {
		dst = binary.BigEndian.AppendUint32(dst, id)
	}
	return End(dst, start)
}

// ParseCancel reads the payload of a Cancel frame.
func ParseCancel(payload []byte) ([]uint32, error) {
	return list(payload, func(in *cryptobyte.String) (id uint32, ok bool) {
		ok = in.ReadUint32(&id)
		return id, ok
	})
}

// AppendOpen appends the frame that begins a stream.
func AppendOpen(dst []byte, s *Stream) []byte {
	start := len(dst)
	dst = Begin(dst, Open)
	dst = binary.BigEndian.AppendUint32(dst, s.ID)
	dst = append(append(dst, byte(len(s.Key))), s.Key...)
	dst = binary.BigEndian.AppendUint32(dst, s.Size)
	return End(dst, start)
}

// ParseOpen reads the payload of an Open frame.
func ParseOpen(payload []byte) (s Stream, err error) {
	in := cryptobyte.String(payload)
	var key cryptobyte.String
	if !in.ReadUint32(&s.ID) || !in.ReadUint8LengthPrefixed(&key) || !in.ReadUint32(&s.Size) || !in.Empty() ||
		!nameOK(string(key)) || s.Size == 0 || s.Size > MaxStream {
		return Stream{}, ErrFrame
	}
	s.Key = string(key)
	return s, nil
}

// AppendData appends a frame with a piece of a stream, of at most MaxPiece
// octets.
func AppendData(dst []byte, id uint32, piece []byte) []byte {
	start := len(dst)
	dst = Begin(dst, Data)
	dst = binary.BigEndian.AppendUint32(dst, id)
	return End(append(dst, piece...), start)
}

// ParseData reads the payload of a Data frame. The piece shares its memory.
func ParseData(payload []byte) (id uint32, piece []byte, err error) {
	in := cryptobyte.String(payload)
	if !in.ReadUint32(&id) || in.Empty() || len(in) > MaxPiece {
		return 0, nil, ErrFrame
	}
	return id, in, nil
}

// AppendRefused appends the frame that says why a connection ends.
func AppendRefused(dst []byte, code fault.Code, detail string) []byte {
	return Append(dst, Refused, AppendResult(nil, &Result{Code: code, Detail: detail}))
}

// ParseRefused reads the payload of a Refused frame.
func ParseRefused(payload []byte) (Result, error) {
	all, err := ParseResults(payload)
	if err != nil || len(all) != 1 || all[0].Code == 0 {
		return Result{}, ErrFrame
	}
	return all[0], nil
}

// AppendKeys appends a Keys frame; with no keys it is the question.
func AppendKeys(dst []byte, keys []Key) []byte {
	start := len(dst)
	dst = Begin(dst, Keys)
	for i := range keys {
		k := &keys[i]
		dst = append(append(dst, byte(len(k.Name))), k.Name...)
		dst = append(binary.BigEndian.AppendUint16(dst, uint16(len(k.SPKI))), k.SPKI...)
		dst = append(binary.BigEndian.AppendUint16(dst, uint16(len(k.Certificate))), k.Certificate...)
		dst = append(dst, byte(len(k.Kinds)))
		for _, kind := range k.Kinds {
			dst = append(append(dst, byte(len(kind))), kind...)
		}
	}
	return End(dst, start)
}

// ParseKeys reads the payload of the signer's Keys frame.
func ParseKeys(payload []byte) ([]Key, error) {
	if len(payload) == 0 {
		return nil, nil
	}
	return list(payload, func(in *cryptobyte.String) (k Key, ok bool) {
		var name, spki, certificate cryptobyte.String
		var kinds uint8
		if !in.ReadUint8LengthPrefixed(&name) || !nameOK(string(name)) ||
			!in.ReadUint16LengthPrefixed(&spki) || len(spki) == 0 ||
			!in.ReadUint16LengthPrefixed(&certificate) || !in.ReadUint8(&kinds) {
			return k, false
		}
		k = Key{Name: string(name), SPKI: spki, Certificate: certificate}
		for range kinds {
			var kind cryptobyte.String
			if !in.ReadUint8LengthPrefixed(&kind) {
				return k, false
			}
			k.Kinds = append(k.Kinds, string(kind))
		}
		return k, true
	})
}

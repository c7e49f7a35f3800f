// Package shares splits a secret among N custodians so that any M of them
// restore it and fewer learn nothing at all (Shamir's secret sharing). A key
// ceremony splits the passphrase of a root's key file with it.
//
// Each octet of the secret is the value at 0 of a random polynomial of degree
// M-1 over GF(2^8), and a share is the values at its index. The arithmetic has
// no tables and no branches that depend on a secret. What is split is the secret
// and a digest of it, so that a wrong result is noticed without anything being
// published that helps to guess.
//
// A share says of which ceremony it is, how many there are and how many are
// needed, and carries a checksum against slips of hand and eye. [Join] refuses
// damaged and foreign shares, the same one twice, and too few; given more than
// needed it makes sure that all of them agree. Who may see a share is the
// caller's affair: encrypt it to its custodian before it is written anywhere.
package shares

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
)

// Limits of a split.
const (
	MaxCount  = 255 // indexes are the nonzero elements of the field
	MaxSecret = 256 // octets
)

const (
	version      = 1
	idSize       = 16
	headSize     = 1 + idSize + 3 // version, ceremony, threshold, count, index
	digestSize   = 8
	checksumSize = 8
	prefix       = "birthmark-share-"
)

// ID names the ceremony whose secret was split.
type ID [idSize]byte

// Share is one custodian's part of a secret. It is itself a secret: as many as
// the threshold give everything away.
type Share struct {
	Ceremony  ID
	Threshold int // shares that are needed
	Count     int // shares that were made
	Index     int // 1 to Count
	value     []byte
}

// Split divides a secret into count shares of which threshold restore it.
func Split(secret []byte, ceremony ID, threshold, count int, random io.Reader) ([]Share, error) {
	switch {
	case len(secret) == 0 || len(secret) > MaxSecret:
		return nil, fmt.Errorf("shares: a secret has 1 to %d octets", MaxSecret)
	case count > MaxCount:
		return nil, fault.New(fault.SharesTooFew, "there are at most", MaxCount, "custodians")
	case threshold < 2 || threshold > count:
		return nil, fault.New(fault.SharesTooFew, "the threshold is 2 up to the number of custodians")
	}
	payload := append(append(make([]byte, 0, len(secret)+digestSize), secret...), digest(ceremony, secret)...)
	defer clear(payload)
	// Row k holds the coefficients of x^k, one for each octet of the payload.
	coefficients := make([]byte, threshold*len(payload))
	defer clear(coefficients)
	copy(coefficients, payload)
	if _, err := io.ReadFull(random, coefficients[len(payload):]); err != nil {
		return nil, fmt.Errorf("split a secret: %w", err)
	}
	all := make([]Share, count)
	for i := range all {
		s := Share{Ceremony: ceremony, Threshold: threshold, Count: count, Index: i + 1, value: make([]byte, len(payload))}
		for k := threshold - 1; k >= 0; k-- {
			for j := range s.value {
				s.value[j] = mul(s.value[j], byte(s.Index)) ^ coefficients[k*len(payload)+j]
			}
		}
		all[i] = s
	}
	return all, nil
}

// Join restores the secret from at least as many shares of one split as its
// threshold. It returns fault.ShareInvalid for a share that is none, of another
// split, or there twice, and fault.SharesTooFew.
func Join(given []Share) ([]byte, error) {
	if len(given) == 0 {
		return nil, fault.New(fault.SharesTooFew)
	}
	if err := agree(given); err != nil {
		return nil, err
	}
	threshold := given[0].Threshold
	if len(given) < threshold {
		return nil, fault.New(fault.SharesTooFew, len(given), "of", threshold)
	}
	for i := threshold; i < len(given); i++ {
		expected := interpolate(given[:threshold], byte(given[i].Index))
		same := subtle.ConstantTimeCompare(expected, given[i].value) == 1
		clear(expected)
		if !same {
			return nil, fault.New(fault.ShareInvalid, "the shares are not all of one secret")
		}
	}
	payload := interpolate(given[:threshold], 0)
	secret := payload[:len(payload)-digestSize]
	if subtle.ConstantTimeCompare(digest(given[0].Ceremony, secret), payload[len(secret):]) != 1 {
		clear(payload)
		return nil, fault.New(fault.ShareInvalid, "the shares do not give the secret that was split")
	}
	return secret[:len(secret):len(secret)], nil
}

// agree refuses shares that cannot be of one split.
func agree(given []Share) error {
	var seen [MaxCount + 1]bool
	first := &given[0]
	for i := range given {
		s := &given[i]
		if err := s.check(); err != nil {
			return err
		}
		if s.Ceremony != first.Ceremony || s.Threshold != first.Threshold || s.Count != first.Count || len(s.value) != len(first.value) {
			return fault.New(fault.ShareInvalid, "share", s.Index, "is of another ceremony than share", first.Index)
		}
		if seen[s.Index] {
			return fault.New(fault.ShareInvalid, "share", s.Index, "is there twice")
		}
		seen[s.Index] = true
	}
	return nil
}

func (s *Share) check() error {
	if s.Count < 2 || s.Count > MaxCount || s.Threshold < 2 || s.Threshold > s.Count || s.Index < 1 || s.Index > s.Count ||
		len(s.value) <= digestSize || len(s.value) > MaxSecret+digestSize {
		return fault.New(fault.ShareInvalid)
	}
	return nil
}

// digest tells whether a joined secret is the one that was split.
func digest(ceremony ID, secret []byte) []byte {
	h := sha256.New()
	h.Write([]byte("birthmark share 1\x00"))
	h.Write(ceremony[:])
	h.Write(secret)
	return h.Sum(nil)[:digestSize]
}

// interpolate returns the values at x of the polynomials through the shares.
func interpolate(given []Share, x byte) []byte {
	result := make([]byte, len(given[0].value))
	for i := range given {
		// The indexes are public, so is the weight.
		weight := byte(1)
		for j := range given {
			if i != j {
				weight = mul(weight, mul(x^byte(given[j].Index), inverse(byte(given[i].Index)^byte(given[j].Index))))
			}
		}
		for j := range result {
			result[j] ^= mul(weight, given[i].value[j])
		}
	}
	return result
}

// bytes returns a share as octets, without its checksum.
func (s *Share) bytes() []byte {
	b := make([]byte, 0, headSize+len(s.value)+checksumSize)
	b = append(b, version)
	b = append(b, s.Ceremony[:]...)
	b = append(b, byte(s.Threshold), byte(s.Count), byte(s.Index))
	return append(b, s.value...)
}

// Commitment returns a digest by which a share can be recognized later. It gives
// nothing away: a share has more random bits than anyone can try.
func (s *Share) Commitment() [32]byte {
	return sha256.Sum256(append([]byte("birthmark share commitment 1\x00"), s.bytes()...))
}

// encoding is base32 in lower case: letters and digits that survive being read
// aloud, and nothing that a shell takes for its own.
var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Text returns a share as one line, to be encrypted to its custodian.
func (s *Share) Text() []byte {
	b := s.bytes()
	sum := sha256.Sum256(b)
	b = append(b, sum[:checksumSize]...)
	text := make([]byte, len(prefix), len(prefix)+encoding.EncodedLen(len(b))+1)
	copy(text, prefix)
	return append(encoding.AppendEncode(text, b), '\n')
}

// Parse reads a share. It returns fault.ShareInvalid for anything but what Text
// wrote; case, spaces and line breaks do not matter, since shares are typed in
// from paper, too.
func Parse(text []byte) (Share, error) {
	if len(text) > 4*MaxSecret {
		return Share{}, fault.New(fault.ShareInvalid, "it is too long")
	}
	body, ok := strings.CutPrefix(strings.ToLower(strings.Join(strings.Fields(string(text)), "")), prefix)
	if !ok {
		return Share{}, fault.New(fault.ShareInvalid, "it does not begin with", prefix)
	}
	b, err := encoding.DecodeString(body)
	if err != nil || encoding.EncodeToString(b) != body || len(b) < headSize+checksumSize {
		return Share{}, fault.New(fault.ShareInvalid, "a character is missing, too many or wrong")
	}
	b, sum := b[:len(b)-checksumSize], b[len(b)-checksumSize:]
	if want := sha256.Sum256(b); subtle.ConstantTimeCompare(want[:checksumSize], sum) != 1 {
		return Share{}, fault.New(fault.ShareInvalid, "its checksum is wrong")
	}
	if b[0] != version {
		return Share{}, fault.New(fault.ShareInvalid, "it is of version", b[0])
	}
	s := Share{Threshold: int(b[17]), Count: int(b[18]), Index: int(b[19]), value: b[headSize:]}
	copy(s.Ceremony[:], b[1:])
	return s, s.check()
}

// Erase overwrites the share's value.
func (s *Share) Erase() { clear(s.value) }

const hidden = "[secret]"

var errHidden = errors.New("shares: a share is written by Text alone")

// Format prints [secret] whatever the verb.
func (s Share) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// MarshalJSON fails: a share has one written form.
func (Share) MarshalJSON() ([]byte, error) { return nil, errHidden }

package signer

import (
	"bytes"
	"math/big"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
)

// limits count what a key signs: how fast, how much a day, which serials, which
// CRL numbers.
type limits struct {
	rate  float64
	daily int64
	most  int // serials of a generation

	mu      sync.Mutex
	tokens  float64             // guarded by mu
	filled  time.Time           // guarded by mu
	day     int64               // guarded by mu; days since 1970, never goes back
	count   int64               // guarded by mu; of that day
	recent  map[number]struct{} // guarded by mu; the newest serials
	older   map[number]struct{} // guarded by mu; those before
	numbers map[[32]byte][]byte // guarded by mu; CRL numbers by scope
	begun   map[[32]byte]begun  // guarded by mu; with which number a scope's day began
}

// begun is the highest number of a scope before its newest day with CRLs.
type begun struct {
	day    int64
	number []byte
}

// maxRise is how far a scope's number may rise in a day: numbers are a restore
// epoch of 2^32 each (package status), so twice restored. Without a bound,
// whoever took over a server for a moment could have the highest number of all
// signed, and no CRL ever again after that.
var maxRise = new(big.Int).Lsh(big.NewInt(1), 33)

// maxScopes is how many scopes of CRLs a key knows: an authority has at most 256
// shards.
const maxScopes = 4096

// number is a certificate's serial, filled up from the left.
type number [20]byte

func newLimits(rate int, daily int64, remember int) *limits {
	return &limits{
		rate: float64(rate), daily: daily, most: remember, tokens: float64(rate),
		recent: make(map[number]struct{}), numbers: make(map[[32]byte][]byte), begun: make(map[[32]byte]begun),
	}
}

func dayOf(t time.Time) int64 { return t.Unix() / int64(day/time.Second) }

// take counts one signature, or refuses it and counts nothing. What was taken
// stays taken, whatever becomes of it: a serial that was given to a key once is
// never signed again.
func (l *limits) take(f *facts, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d := dayOf(now); d > l.day {
		l.day, l.count = d, 0
	}
	if err := l.fresh(f); err != nil {
		return err
	}
	if l.count >= l.daily {
		return fault.New(fault.SignerLimit, "the key has signed", l.daily, "times today")
	}
	if elapsed := now.Sub(l.filled); elapsed > 0 {
		l.tokens = min(l.rate, l.tokens+elapsed.Seconds()*l.rate)
		l.filled = now
	}
	if l.tokens < 1 {
		return fault.New(fault.SignerLimit, "the key signs", l.rate, "times a second")
	}
	l.tokens--
	l.count++
	l.keep(f)
	return nil
}

// fresh refuses serials and CRL numbers that were signed before.
func (l *limits) fresh(f *facts) error {
	switch {
	case f.kind.certificate():
		n := numberOf(f.number)
		if _, there := l.recent[n]; there {
			return refuse("a certificate with this serial was signed before")
		}
		if _, there := l.older[n]; there {
			return refuse("a certificate with this serial was signed before")
		}
	case f.kind == CRL && f.scoped:
		return l.rises(f)
	}
	return nil
}

// rises refuses CRL numbers that do not rise, or too far. The caller holds mu.
func (l *limits) rises(f *facts) error {
	last, there := l.numbers[f.scope]
	switch {
	case compareNumbers(f.number, last) <= 0:
		return refuse("a CRL with this number or a higher one was signed before")
	case !there && len(l.numbers) >= maxScopes:
		return fault.New(fault.SignerLimit, "the key has signed CRLs of", maxScopes, "scopes")
	case !there:
		return nil // its authority may come from elsewhere
	}
	from := last
	if b, ok := l.begun[f.scope]; ok && b.day == l.day && b.number != nil {
		from = b.number
	}
	if rise := new(big.Int).SetBytes(f.number); rise.Sub(rise, new(big.Int).SetBytes(from)).Cmp(maxRise) > 0 {
		return refuse("the CRL's number is too far ahead of the last")
	}
	return nil
}

// keep remembers a serial or CRL number.
func (l *limits) keep(f *facts) {
	switch {
	case f.kind.certificate():
		if len(l.recent) >= l.most {
			l.older, l.recent = l.recent, make(map[number]struct{}, l.most)
		}
		l.recent[numberOf(f.number)] = struct{}{}
	case f.kind == CRL && f.scoped:
		if b, ok := l.begun[f.scope]; !ok || b.day != l.day {
			l.begun[f.scope] = begun{l.day, l.numbers[f.scope]}
		}
		l.numbers[f.scope] = bytes.Clone(f.number)
	}
}

func numberOf(octets []byte) (n number) {
	copy(n[len(n)-len(octets):], octets)
	return n
}

// compareNumbers compares positive integers in their shortest form.
func compareNumbers(a, b []byte) int {
	for len(a) > 0 && a[0] == 0 {
		a = a[1:]
	}
	for len(b) > 0 && b[0] == 0 {
		b = b[1:]
	}
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return bytes.Compare(a, b)
}

// recall takes over a record of a former run.
func (l *limits) recall(r *Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d := dayOf(r.At); d > l.day {
		l.day, l.count = d, 0
	}
	if dayOf(r.At) == l.day {
		l.count++
	}
	f := facts{kind: r.Kind, number: r.Number, scope: r.Scope, scoped: r.Scope != [32]byte{}}
	if f.kind == CRL && compareNumbers(f.number, l.numbers[f.scope]) <= 0 {
		return
	}
	l.keep(&f)
}

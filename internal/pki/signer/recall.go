package signer

import (
	"encoding/hex"
	"encoding/json"
	"maps"
	"os"
	"slices"

	"github.com/birthmark/birthmark/internal/fault"
)

// recall shows the engine what it must remember: the newest records, from a file
// that begins with a state, so many that every key finds its newest serials.
func (j *Journal) recall(visit func(*Record), keys []string, want int) error {
	numbers, err := segments(j.dir)
	if err != nil {
		return fault.Wrap(fault.SignerJournal, err)
	}
	first := len(numbers) - 1
	found := make(map[string]int, len(keys))
	lacks := func(name string) bool { return found[name] < want }
	for ; first > 0; first-- {
		data, err := os.ReadFile(j.path(numbers[first]))
		if err != nil {
			return fault.Wrap(fault.SignerJournal, err)
		}
		count := func(r *Record) error {
			if r.Outcome == Signing && r.Kind.certificate() {
				found[r.Key]++
			}
			return nil
		}
		if _, _, err := walk(data, count); err != nil {
			return fault.Wrap(fault.SignerJournal, err)
		}
		// Keys that sign little have theirs in old files; reading stops where it
		// becomes long for the others.
		if !slices.ContainsFunc(keys, lacks) || len(numbers)-first >= maxRecalled {
			break
		}
	}
	return readSegments(j.dir, numbers[max(first, 0):], func(r *Record) error { visit(r); return nil })
}

// maxRecalled is how many files are read at a start.
const maxRecalled = 8

// remembered is what a new file begins with: with it the files before may be
// archived.
type remembered struct {
	Day     int64             `json:"day"`
	Count   int64             `json:"count"`
	Numbers map[string]string `json:"crl_numbers,omitempty"` // by scope, both hexadecimal
}

// snapshot returns the engine's state: a JSON object for each key, since a record
// is bounded and the number of keys is not.
func (e *Engine) snapshot() [][]byte {
	var all [][]byte
	for _, name := range slices.Sorted(maps.Keys(e.keys)) {
		if text, err := json.Marshal(map[string]remembered{name: e.keys[name].limits.remembered()}); err == nil {
			all = append(all, text)
		}
	}
	return all
}

func (l *limits) remembered() remembered {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := remembered{Day: l.day, Count: l.count, Numbers: make(map[string]string, len(l.numbers))}
	for scope, n := range l.numbers {
		r.Numbers[hex.EncodeToString(scope[:])] = hex.EncodeToString(n)
	}
	return r
}

// remember takes over a record of a former run.
func (e *Engine) remember(r *Record) {
	switch r.Outcome {
	case Signing:
		if k := e.keys[r.Key]; k != nil {
			k.limits.recall(r)
		}
	case State:
		var all map[string]remembered
		if err := json.Unmarshal(r.State, &all); err != nil {
			return
		}
		for name, state := range all {
			if k := e.keys[name]; k != nil {
				k.limits.restore(state)
			}
		}
	}
}

// restore takes over a state, which is never behind what was recalled before it.
func (l *limits) restore(r remembered) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.Day > l.day || r.Day == l.day && r.Count > l.count {
		l.day, l.count = r.Day, r.Count
	}
	for scope, n := range r.Numbers {
		var s [32]byte
		octets, err := hex.DecodeString(n)
		if m, err2 := hex.Decode(s[:], []byte(scope)); err != nil || err2 != nil || m != len(s) {
			continue
		}
		if compareNumbers(octets, l.numbers[s]) > 0 {
			l.numbers[s] = octets
		}
	}
}

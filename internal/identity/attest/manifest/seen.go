package manifest

import "hash/maphash"

// seen remembers which chips or keys a file has named, and in which entry, in 12
// octets each: of millions of keys only a 64-bit hash under a random seed is kept.
// Two different keys have the same hash in one of a million files of a million
// chips; such a file is refused wrongly, and taken at the next attempt.
type seen struct {
	seed    maphash.Seed
	hashes  []uint64 // open addressing, 0: free
	entries []uint32
	n       int
}

func newSeen() *seen {
	return &seen{seed: maphash.MakeSeed(), hashes: make([]uint64, 1<<10), entries: make([]uint32, 1<<10)}
}

// add notes that the entry has this name, or returns the entry that had it before.
func (s *seen) add(entry int64, name ...[]byte) (before int64, repeated bool) {
	if 4*s.n > 3*len(s.hashes) {
		s.grow()
	}
	var h maphash.Hash
	h.SetSeed(s.seed)
	for _, part := range name {
		h.Write(part)
		h.WriteByte(0)
	}
	sum := h.Sum64() | 1
	i := s.slot(sum)
	if s.hashes[i] == sum {
		return int64(s.entries[i]), true
	}
	s.hashes[i], s.entries[i] = sum, uint32(entry)
	s.n++
	return 0, false
}

// slot finds where a hash is or belongs.
func (s *seen) slot(sum uint64) int {
	mask := len(s.hashes) - 1
	i := int(sum>>1) & mask
	for s.hashes[i] != 0 && s.hashes[i] != sum {
		i = (i + 1) & mask
	}
	return i
}

func (s *seen) grow() {
	hashes, entries := s.hashes, s.entries
	s.hashes, s.entries = make([]uint64, 2*len(hashes)), make([]uint32, 2*len(entries))
	for i, sum := range hashes {
		if sum != 0 {
			j := s.slot(sum)
			s.hashes[j], s.entries[j] = sum, entries[i]
		}
	}
}

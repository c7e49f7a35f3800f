package status

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/birthmark/birthmark/internal/identity/device"
)

// Answer is an OCSP answer as it goes out. It is shared between callers, who
// must not change it.
type Answer struct {
	DER        []byte
	ThisUpdate time.Time
	NextUpdate time.Time
	MaxAge     time.Duration // for HTTP caches; 0: not to be kept
	ETag       string        // quoted
}

const cacheShards = 16

// answerCache keeps signed answers by the raw bytes of the request. Clients ask
// for the same certificate with the same bytes, so that a hash and one look-up
// are all that a repeated request costs. It is bounded by octets; the answers
// used longest ago go first.
type answerCache struct {
	seed   maphash.Seed
	shards [cacheShards]cacheShard

	mu      sync.Mutex
	changes uint64                                             // grows with each invalidation; guarded by mu
	about   map[device.CredentialID]map[*cachedAnswer]struct{} // guarded by mu
}

type cacheShard struct {
	mu      sync.Mutex
	answers map[string]*cachedAnswer
	recent  cachedAnswer // ring: recent.next was used last
	octets  int
	limit   int
}

type cachedAnswer struct {
	Answer
	request    string
	usable     time.Time // until then
	about      []device.CredentialID
	dead       atomic.Bool // the status of a certificate changed
	prev, next *cachedAnswer
}

// overhead is what an answer costs besides its own octets and the request's.
const overhead = 400

func (a *cachedAnswer) size() int { return len(a.DER) + len(a.request) + overhead }

func newAnswerCache(octets int) *answerCache {
	c := &answerCache{seed: maphash.MakeSeed(), about: make(map[device.CredentialID]map[*cachedAnswer]struct{})}
	for i := range c.shards {
		s := &c.shards[i]
		s.answers, s.limit = make(map[string]*cachedAnswer), octets/cacheShards
		s.recent.prev, s.recent.next = &s.recent, &s.recent
	}
	return c
}

func (c *answerCache) shard(request []byte) *cacheShard {
	return &c.shards[maphash.Bytes(c.seed, request)%cacheShards]
}

// get returns the answer to these bytes if it may still be given.
func (c *answerCache) get(request []byte, now time.Time) *Answer {
	s := c.shard(request)
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.answers[string(request)]
	if a == nil || a.dead.Load() || !now.Before(a.usable) {
		return nil
	}
	if s.recent.next != a {
		a.unlink()
		s.pushFront(a)
	}
	return &a.Answer
}

func (a *cachedAnswer) unlink() {
	a.prev.next, a.next.prev = a.next, a.prev
}

func (s *cacheShard) pushFront(a *cachedAnswer) {
	a.prev, a.next = &s.recent, s.recent.next
	a.prev.next, a.next.prev = a, a
}

// generation is to be taken before the status of certificates is read, and
// given to put.
func (c *answerCache) generation() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changes
}

// put keeps an answer, unless some status has changed since its generation.
func (c *answerCache) put(a *cachedAnswer, generation uint64) {
	s := c.shard([]byte(a.request))
	if a.size() > s.limit {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !c.watch(a, generation) {
		return
	}
	if old := s.answers[a.request]; old != nil {
		s.remove(c, old)
	}
	s.answers[a.request] = a
	s.pushFront(a)
	s.octets += a.size()
	for s.octets > s.limit {
		s.remove(c, s.recent.prev)
	}
}

// remove takes an answer out. The caller holds the shard's lock.
func (s *cacheShard) remove(c *answerCache, a *cachedAnswer) {
	a.unlink()
	delete(s.answers, a.request)
	s.octets -= a.size()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range a.about {
		if delete(c.about[id], a); len(c.about[id]) == 0 {
			delete(c.about, id)
		}
	}
}

// watch notes which certificates an answer is about.
func (c *answerCache) watch(a *cachedAnswer, generation uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes != generation {
		return false
	}
	for _, id := range a.about {
		if c.about[id] == nil {
			c.about[id] = make(map[*cachedAnswer]struct{}, 1)
		}
		c.about[id][a] = struct{}{}
	}
	return true
}

// invalidate drops the answers about a certificate, also those on their way.
func (c *answerCache) invalidate(id device.CredentialID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	for a := range c.about[id] {
		a.dead.Store(true)
	}
}

// clear drops all answers, also those on their way.
func (c *answerCache) clear() {
	c.mu.Lock()
	c.changes++
	c.mu.Unlock()
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for _, a := range s.answers {
			s.remove(c, a)
		}
		s.mu.Unlock()
	}
}

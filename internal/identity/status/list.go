package status

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/pki/issuing"
)

// shardKey names one list of an authority.
type shardKey struct {
	authority int64
	shard     int
}

// lists holds the entries of CRLs that this node has loaded. A list that is not
// loaded costs nothing; one that is follows the change feed.
type lists struct {
	reading sync.Mutex // held while a list is read from the store
	mu      sync.Mutex
	all     map[shardKey]*list // guarded by mu
}

// list is the entries of one shard, encoded, in chunks that are small enough to
// be rebuilt when one entry leaves.
type list struct {
	mu      sync.Mutex
	chunks  []*chunk
	entries int
	changed bool          // since the newest CRL was made of it
	newest  time.Time     // newest revocation that was ever in it
	early   []func(*list) // events that came while it was loading
	loading bool
	ended   []endedRow // rows that were read and are needed no longer
}

// endedRow is a row whose certificate expired more than keepEnded ago.
type endedRow struct {
	id       device.CredentialID
	notAfter time.Time
}

const (
	// keepEnded is how long rows stay after their certificates expired. The
	// ledger's verification misses none after a day.
	keepEnded = 48 * time.Hour
	// maxEnded bounds what one list remembers of them; the rest comes with the
	// next one.
	maxEnded = 10_000
)

// chunkEntries is how many entries a chunk holds at most: rebuilding one costs
// some 150 KB of copying.
const chunkEntries = 4096

type chunk struct {
	data        []byte // entries of RFC 5280, each shorter than 128 octets
	ids         []device.CredentialID
	notAfter    []int64 // unix seconds
	least, most device.CredentialID
}

func newChunk() *chunk {
	return &chunk{
		data:     make([]byte, 0, chunkEntries*40),
		ids:      make([]device.CredentialID, 0, chunkEntries),
		notAfter: make([]int64, 0, chunkEntries),
	}
}

// find returns where an entry is: which chunk, and which of its entries. What is
// read from the store comes in order, so that few chunks have to be looked
// through; an index by credential would need as much memory as the entries.
func (l *list) find(id device.CredentialID) (at, n int, ok bool) {
	for at, c := range l.chunks {
		if id < c.least || id > c.most {
			continue
		}
		if n := slices.Index(c.ids, id); n >= 0 {
			return at, n, true
		}
	}
	return 0, 0, false
}

// event runs fn on a list if this node has it, now or once it is loaded.
func (l *lists) event(key shardKey, fn func(*list)) {
	l.mu.Lock()
	at := l.all[key]
	l.mu.Unlock()
	if at == nil {
		return
	}
	at.mu.Lock()
	defer at.mu.Unlock()
	if at.loading {
		at.early = append(at.early, fn)
		return
	}
	fn(at)
}

func (l *lists) revoked(b *ledger.Revoked) {
	r := Revocation{
		Credential: device.CredentialID(b.Credential), CertSerial: b.CertSerial, Authority: b.Authority, Shard: b.Shard,
		At: b.RevokedAt, Reason: b.Reason, NotAfter: b.NotAfter,
	}
	l.event(shardKey{b.Authority, b.Shard}, func(at *list) {
		at.put(&r)
		at.changed = true
	})
}

// released does not know the shard: it is a function of the certificate serial
// and of a number that is the authority's.
func (l *lists) released(b *ledger.Released) {
	l.mu.Lock()
	var keys []shardKey
	for key := range l.all {
		if key.authority == b.Authority {
			keys = append(keys, key)
		}
	}
	l.mu.Unlock()
	for _, key := range keys {
		l.event(key, func(at *list) {
			if at.drop(device.CredentialID(b.Credential)) {
				at.changed = true
			}
		})
	}
}

// put adds an entry or replaces it.
func (l *list) put(r *Revocation) {
	l.drop(r.Credential)
	if r.At.After(l.newest) {
		l.newest = r.At
	}
	n := len(l.chunks)
	if n == 0 || len(l.chunks[n-1].ids) >= chunkEntries {
		l.chunks = append(l.chunks, newChunk())
		n++
	}
	c := l.chunks[n-1]
	if len(c.ids) == 0 {
		c.least, c.most = r.Credential, r.Credential
	}
	c.least, c.most = min(c.least, r.Credential), max(c.most, r.Credential)
	c.data = issuing.AppendCRLEntry(c.data, r.CertSerial, r.At, r.Reason)
	c.ids = append(c.ids, r.Credential)
	c.notAfter = append(c.notAfter, r.NotAfter.Unix())
	l.entries++
}

// drop takes an entry out, and reports whether it was there.
func (l *list) drop(id device.CredentialID) bool {
	at, n, ok := l.find(id)
	if !ok {
		return false
	}
	l.replace(at, func(i int) bool { return i == n })
	return true
}

// expire takes out what had expired before a CRL was made that still had it
// (RFC 5280, section 3.3), and returns how many entries are left.
func (l *list) expire(lastThisUpdate time.Time) int {
	limit := lastThisUpdate.Unix()
	if lastThisUpdate.IsZero() {
		return l.entries
	}
	old := func(notAfter int64) bool { return notAfter < limit }
	for at, c := range l.chunks {
		if slices.ContainsFunc(c.notAfter, old) {
			l.replace(at, func(n int) bool { return old(c.notAfter[n]) })
		}
	}
	return l.entries
}

// replace exchanges a chunk for one that lacks some entries.
func (l *list) replace(at int, gone func(n int) bool) {
	before := l.chunks[at]
	l.chunks[at] = before.without(gone)
	l.entries -= len(before.ids) - len(l.chunks[at].ids)
}

// without returns a copy of a chunk that lacks some entries. The chunk itself is
// never changed, only appended to: a CRL may be made of it at the same time.
func (c *chunk) without(gone func(n int) bool) *chunk {
	kept := newChunk()
	kept.least, kept.most = c.least, c.most
	rest := c.data
	for n := range c.ids {
		size := 2 + int(rest[1])
		if !gone(n) {
			kept.data = append(kept.data, rest[:size]...)
			kept.ids = append(kept.ids, c.ids[n])
			kept.notAfter = append(kept.notAfter, c.notAfter[n])
		}
		rest = rest[size:]
	}
	return kept
}

// encoded returns the entries as they are now, in pieces that stay as they are.
func (l *list) encoded() [][]byte {
	pieces := make([][]byte, 0, len(l.chunks))
	for _, c := range l.chunks {
		if len(c.data) > 0 {
			pieces = append(pieces, c.data[:len(c.data):len(c.data)])
		}
	}
	return pieces
}

const loadPage = 10000

// load returns the list of a shard, read from the store in pages at first need.
// What the change feed tells meanwhile is applied after.
func (s *Service) load(ctx context.Context, key shardKey) (*list, error) {
	s.lists.reading.Lock()
	defer s.lists.reading.Unlock()
	s.lists.mu.Lock()
	at := s.lists.all[key]
	if at == nil {
		at = &list{loading: true}
		s.lists.all[key] = at
	}
	s.lists.mu.Unlock()
	at.mu.Lock()
	loading := at.loading
	at.mu.Unlock()
	if !loading {
		return at, nil
	}
	if err := s.read(ctx, key, at); err != nil {
		s.forgetList(key)
		return nil, err
	}
	return at, nil
}

// read fills a list that only the caller has.
func (s *Service) read(ctx context.Context, key shardKey, at *list) error {
	var after device.CredentialID
	needed := s.now().Add(-keepEnded)
	for {
		page, err := s.store.Revocations(ctx, key.authority, key.shard, after, loadPage)
		if err != nil {
			return err
		}
		for i := range page {
			at.put(&page[i])
			if page[i].NotAfter.Before(needed) && len(at.ended) < maxEnded {
				at.ended = append(at.ended, endedRow{page[i].Credential, page[i].NotAfter})
			}
		}
		if len(page) < loadPage {
			break
		}
		after = page[len(page)-1].Credential
	}
	at.mu.Lock()
	defer at.mu.Unlock()
	for _, fn := range at.early {
		fn(at)
	}
	at.early, at.loading = nil, false
	return nil
}

// prune removes from the record what no list will have again: it had expired
// when the list before the published one was made, which had it still
// (RFC 5280, section 3.3).
func (s *Service) prune(ctx context.Context, key shardKey, at *list, lastThisUpdate time.Time) error {
	at.mu.Lock()
	ended := at.ended
	at.ended = nil
	at.mu.Unlock()
	var ids []device.CredentialID
	for _, row := range ended {
		if row.notAfter.Before(lastThisUpdate) {
			ids = append(ids, row.id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	return s.store.PruneRevocations(ctx, key.authority, key.shard, lastThisUpdate, ids)
}

// forgetList drops a list, so that the next CRL is made of what is on record.
func (s *Service) forgetList(key shardKey) {
	s.lists.mu.Lock()
	defer s.lists.mu.Unlock()
	delete(s.lists.all, key)
}

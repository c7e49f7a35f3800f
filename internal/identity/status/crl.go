package status

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/pki/issuing"
)

// rootCRLLife is how long a root's list is valid: it is signed in a session by a
// person.
const rootCRLLife = 365 * 24 * time.Hour

// collectFrom is from how many entries on (some 4 MB) memory is collected before
// a list is made.
const collectFrom = 100_000

// published caches the lists that this node serves.
type published struct {
	mu    sync.Mutex
	lists map[shardKey]*CRL // nil: a newer one is on record
}

// newer drops a cached list that has a successor.
func (p *published) newer(b *ledger.SignedCRL) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := shardKey{b.Authority, b.Shard}
	if c := p.lists[key]; c != nil && c.Number < b.Number {
		delete(p.lists, key)
	}
}

func (p *published) get(key shardKey) *CRL {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lists[key]
}

func (p *published) forget(key shardKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.lists, key)
}

// keep remembers a list unless a newer one is known.
func (p *published) keep(c *CRL) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := shardKey{c.Authority, c.Shard}
	if old := p.lists[key]; old == nil || old.Number < c.Number {
		p.lists[key] = c
	}
}

// CRL returns the list of an authority's shard as it is published. The caller
// must not change it. A list past its nextUpdate is fault.CRLStale: it would
// vouch for nothing.
func (s *Service) CRL(ctx context.Context, name string, shard int) (*CRL, error) {
	snap, err := s.authorities.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	m, err := snap.Authority(name)
	if err != nil || shard < 0 || shard >= m.CRLShards {
		return nil, fault.New(fault.CRLUnknown)
	}
	key := shardKey{m.ID, shard}
	c := s.published.get(key)
	if c == nil || !s.fresh() {
		if c, err = s.fetch(ctx, key); err != nil {
			return nil, err
		}
	}
	if !s.now().Before(c.NextUpdate) {
		return nil, fault.New(fault.CRLStale)
	}
	return c, nil
}

// fetch reads a published list; those who ask at the same time share one read.
func (s *Service) fetch(ctx context.Context, key shardKey) (*CRL, error) {
	v, err, _ := s.signing.Do(fmt.Sprintf("crl %d %d", key.authority, key.shard), func() (any, error) {
		if c := s.published.get(key); c != nil {
			now, err := s.store.CurrentCRLNumber(ctx, key.authority, key.shard)
			if err != nil {
				return nil, err
			}
			if now.Number == c.Number {
				return c, nil
			}
		}
		c, err := s.store.CurrentCRL(ctx, key.authority, key.shard)
		if err != nil {
			return nil, err
		}
		s.published.keep(&c)
		return &c, nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*CRL), nil
}

// Lists returns the published lists of all authorities without their bytes, for
// health and metrics.
func (s *Service) Lists(ctx context.Context) ([]CRL, error) {
	snap, err := s.authorities.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	var all []CRL
	for _, m := range snap.Authorities() {
		for shard := range m.CRLShards {
			c, err := s.store.CurrentCRLNumber(ctx, m.ID, shard)
			if fault.Has(err, fault.CRLUnknown) {
				continue
			}
			if err != nil {
				return nil, err
			}
			all = append(all, c)
		}
	}
	return all, nil
}

// keeper is the state of the node that has the lease for CRLs.
type keeper struct {
	lease   ledger.Lease
	checked map[shardKey]bool      // compared with the record under this lease
	signed  map[shardKey]time.Time // when this node last signed
}

// Step does once what Run does again and again: it ends certificates whose
// overlap is over, and publishes the CRLs that are due, if this node has the
// lease.
func (s *Service) Step(ctx context.Context) error {
	if _, err := s.endOverlaps(ctx); err != nil {
		return err
	}
	var k keeper
	_, err := s.step(ctx, &k)
	return err
}

// step publishes the CRLs that are due. more says that a change waits for its
// pause to end.
func (s *Service) step(ctx context.Context, k *keeper) (more bool, err error) {
	lease, ok, err := s.leases.AcquireLease(ctx, "crl", s.node, leaseSeconds)
	if err != nil || !ok {
		k.checked = nil
		return false, err
	}
	if lease != k.lease || k.checked == nil {
		*k = keeper{lease: lease, checked: make(map[shardKey]bool), signed: make(map[shardKey]time.Time)}
	}
	snap, err := s.authorities.Snapshot(ctx)
	if err != nil {
		return false, err
	}
	var failures error
	for _, m := range snap.Authorities() {
		if m.Issuer == nil || !s.now().Before(m.X509.NotAfter) {
			continue
		}
		for shard := range m.CRLShards {
			wait, err := s.publishIfDue(ctx, k, m, shardKey{m.ID, shard})
			if err != nil {
				failures = errors.Join(failures, fmt.Errorf("CRL of %s: %w", m.Name, err))
			}
			more = more || wait
		}
	}
	return more, failures
}

// publishIfDue signs a list that has changed, or has half its life behind it, or
// is not there. wait says that it changed a moment ago.
func (s *Service) publishIfDue(ctx context.Context, k *keeper, m *authority.Member, key shardKey) (wait bool, err error) {
	now := s.now()
	last, err := s.store.CurrentCRLNumber(ctx, key.authority, key.shard)
	missing := fault.Has(err, fault.CRLUnknown)
	if err != nil && !missing {
		return false, err
	}
	half := missing || !now.Before(last.ThisUpdate.Add(last.NextUpdate.Sub(last.ThisUpdate)/2))
	if half {
		// Once in a while a list is made of the record itself, whatever this
		// node was told.
		s.forgetList(key)
	}
	at, err := s.load(ctx, key)
	if err != nil {
		return false, err
	}
	changed := at.differs(k.checked[key], &last)
	k.checked[key] = true
	if !half && !changed {
		return false, nil
	}
	if since := now.Sub(k.signed[key]); !half && since >= 0 && since < s.crlPause {
		return true, nil
	}
	_, err = s.publish(ctx, "system", k.lease, m.Issuer, shards{key, m.CRLShards}, s.crlLife, last.ThisUpdate)
	if err != nil {
		return false, err
	}
	k.signed[key] = now
	return false, s.prune(ctx, key, at, last.ThisUpdate)
}

// differs reports whether a list has changed since the published one. A node
// that has just got the lease compares: it may not have been told everything.
func (l *list) differs(checked bool, last *CRL) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed || checked {
		return l.changed
	}
	return l.expire(last.ThisUpdate) != last.Entries || !l.newest.Before(last.ThisUpdate) && !l.newest.IsZero()
}

// shards names a list and how many its authority has.
type shards struct {
	shardKey
	count int
}

// publish signs and saves one list. Its number is reserved before it is signed;
// thisUpdate never goes back, whatever the clock does.
func (s *Service) publish(ctx context.Context, actor string, lease ledger.Lease, iss *issuing.Issuer, of shards, life time.Duration, last time.Time) (*CRL, error) {
	at, err := s.load(ctx, of.shardKey)
	if err != nil {
		return nil, err
	}
	number, notBefore, err := s.store.ReserveCRLNumber(ctx, of.authority, of.shard)
	if err != nil {
		return nil, err
	}
	now := moment(s.now())
	if now.Before(notBefore) {
		now = moment(notBefore)
	}
	at.mu.Lock()
	c := &CRL{
		Authority: of.authority, Shard: of.shard, Number: number,
		ThisUpdate: now, NextUpdate: now.Add(life), Entries: at.expire(last),
	}
	pieces := at.encoded()
	at.changed = false
	at.mu.Unlock()
	if c.Entries > collectFrom {
		// Who asks for the published list while the new one is made reads it from
		// the store; without this both would be in memory.
		s.published.forget(of.shardKey)
		runtime.GC()
	}
	c.DER, err = issuing.SignCRL(iss, issuing.CRL{
		Number: uint64(number), ThisUpdate: c.ThisUpdate, NextUpdate: c.NextUpdate, Shard: of.shard, Shards: of.count,
	}, pieces)
	if err == nil {
		err = s.store.SaveCRL(ctx, *c, lease, ledger.Entry{Kind: ledger.CRLSigned, At: s.now(), Actor: actor, Body: &ledger.SignedCRL{
			Authority: c.Authority, Shard: c.Shard, Number: c.Number, ThisUpdate: c.ThisUpdate, NextUpdate: c.NextUpdate,
			Entries: c.Entries, DER: sha256.Sum256(c.DER),
		}})
	}
	if err != nil {
		at.mu.Lock()
		at.changed = true
		at.mu.Unlock()
		return nil, err
	}
	s.published.keep(c)
	return c, nil
}

// SignRootCRL signs and publishes a root's list in a session, valid for twelve
// months.
func (s *Service) SignRootCRL(ctx context.Context, actor string, session *authority.RootSession) error {
	iss, err := session.Issuer()
	if err != nil {
		return err
	}
	root := session.Root()
	lease, ok, err := s.leases.AcquireLease(ctx, fmt.Sprintf("crl root %d", root.ID), s.node, leaseSeconds)
	if err != nil {
		return err
	}
	if !ok {
		return fault.New(fault.NodeFenced, "another node signs this list now")
	}
	for shard := range root.CRLShards {
		key := shardKey{root.ID, shard}
		last, err := s.store.CurrentCRLNumber(ctx, key.authority, key.shard)
		if err != nil && !fault.Has(err, fault.CRLUnknown) {
			return err
		}
		s.forgetList(key)
		if _, err := s.publish(ctx, actor, lease, iss, shards{key, root.CRLShards}, rootCRLLife, last.ThisUpdate); err != nil {
			return err
		}
	}
	return nil
}

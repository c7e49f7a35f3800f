package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// maxGroup bounds a group: its transaction stays far below 50 ms.
const maxGroup = 512

// backlog is how many must wait for a second group to set out before the first
// one is back, on an engine where groups overlap. Smaller groups cost more than
// the overlap gains: each has its statements, its sync and its row locks.
const backlog = 64

// pending is an issuance, or the confirmation of a unit, that waits for its
// group. All that can be made ready before is, in the caller's goroutine.
type pending struct {
	device.Issuance
	confirm *factory.Confirmation // in place of an issuance
	unitWork
	keyRow  int64  // of the SPKI digest
	slot    string // the new slot entry of the device
	oldSlot string // the one it replaces
	leaves  *batch
	more    *batch // of entries that only the transaction knew

	stored bool
	again  bool // it was done before: neither stored nor refused
	err    error
}

// StoreIssuance is STORE: it waits for the group commit that takes the issuance
// and returns the row as stored, or device.ErrStale, *device.KeyConflict, or a
// fault. Once it is queued the outcome is awaited whatever becomes of ctx.
func (s *Store) StoreIssuance(ctx context.Context, i device.Issuance) (device.Credential, error) {
	if err := s.mayWrite(); err != nil {
		return device.Credential{}, err
	}
	p, err := s.ready(i)
	if err != nil {
		return device.Credential{}, err
	}
	if err := s.await(ctx, p); err != nil {
		return device.Credential{}, err
	}
	return p.Credential, nil
}

// await queues a member and returns its outcome.
func (s *Store) await(ctx context.Context, p *pending) error {
	if err := s.committer.submit(ctx, p); err != nil {
		return err
	}
	return p.err
}

// ready checks what the caller must have right and prepares the statements'
// values.
func (s *Store) ready(i device.Issuance) (*pending, error) {
	c := &i.Credential
	if id, ok := s.openSerial(c.CertSerial); !ok || id != c.ID {
		return nil, fmt.Errorf("certificate serial %x is not that of credential %d", c.CertSerial, c.ID)
	}
	if len(c.DER) == 0 || !slices.ContainsFunc(i.Entries, func(e ledger.Entry) bool { return e.Kind == ledger.CertificateIssued }) {
		return nil, errors.New("an issuance needs a certificate and its ledger entry")
	}
	if c.State != device.Issued && c.State != device.Confirmed {
		return nil, errors.New("a new certificate is issued, or confirmed at once")
	}
	p := &pending{Issuance: i, keyRow: s.spkiRow(&c.SPKIDigest)}
	if ch := i.Change; ch != nil {
		if ch.ID != c.Device || ch.Slot != c.Slot() {
			return nil, errors.New("the change is not of the certificate's device and slot")
		}
		change := *ch // STORE fills in From
		p.Change = &change
		p.slot = formatSlot(ch.Slot, c.ID)
		p.oldSlot = p.slot // nothing to replace: it is not there yet
		if c.Previous != 0 {
			p.oldSlot = formatSlot(ch.Slot, c.Previous)
		}
	}
	if i.Unit != nil {
		if err := s.readyUnit(p); err != nil {
			return nil, err
		}
	}
	if i.Attestation != nil {
		if err := s.readyEvidence(p); err != nil {
			return nil, err
		}
	}
	var err error
	p.leaves, err = s.encodeBatch(i.Entries)
	return p, err
}

// commitGroup stores a group and sets the outcome of each member. When the
// group fails for a reason that is not the database's, one member is to blame:
// then each goes alone. release is called as soon as another group may run.
func (s *Store) commitGroup(waiting []*pending, release func()) {
	err := s.storeGroup(waiting, release)
	if err == nil {
		return
	}
	if f := fault.Of(err); f.Code != fault.Unexpected || len(waiting) == 1 {
		for _, p := range waiting {
			p.err = err
		}
		return
	}
	s.cfg.Logger.Error("a group of issuances was refused by the database; storing them one by one", "error", err, "size", len(waiting))
	for _, p := range waiting {
		p.err = s.storeGroup([]*pending{p}, release)
	}
}

func (s *Store) storeGroup(waiting []*pending, release func()) (err error) {
	if err := s.mayWrite(); err != nil {
		return err
	}
	for range 5 {
		g := newGroup(s, waiting)
		g.release = release
		if err = s.engine.commitGroup(context.Background(), g); err == nil {
			g.conclude()
			if g.leaves.size > 0 {
				s.committed()
			}
			return nil
		}
		if !errors.Is(err, errTryAgain) {
			return s.failed(err)
		}
	}
	return fault.Wrap(fault.StoreUnavailable, err)
}

// group is what one transaction of STORE carries.
type group struct {
	s       *Store
	members []*pending
	release func() // to be called when another group may run
	tallies map[tallyKey]int64
	leaves  batch
	// conflicts are the members whose key is taken, with the credential that
	// has it.
	conflicts map[*pending]*device.Credential
}

func newGroup(s *Store, waiting []*pending) *group {
	for _, p := range waiting {
		p.stored, p.again, p.err, p.more = false, false, nil, nil
	}
	return &group{s: s, members: waiting, tallies: make(map[tallyKey]int64)}
}

// accept counts a member whose conditions hold; its index among its authority's
// certificates is given by the caller.
func (g *group) accept(p *pending) {
	p.stored = true
	t := tx{tallies: g.tallies}
	t.tallyCredential(&p.Credential, 1)
	if ch := p.Change; ch != nil && ch.From != ch.State {
		c := &p.Credential
		t.tally(devicesByState, int64(ch.From), c.Product, c.Site, c.Owner, -1)
		t.tally(devicesByState, int64(ch.State), c.Product, c.Site, c.Owner, 1)
	}
	if p.Unit != nil && p.Unit.New != nil {
		t.tallyDevice(p.Unit.New, 1)
	}
}

// supersedes returns the credential that a member retires, 0 for none: what a
// unit replaces is revoked.
func (p *pending) supersedes() device.CredentialID {
	if p.Change == nil || p.Unit != nil && p.Unit.Replaces != 0 {
		return 0
	}
	return p.Change.Supersedes
}

// moved counts a credential that a member changes out of its old state.
func (g *group) moved(c *device.Credential, next device.CredentialState) {
	t := tx{tallies: g.tallies}
	t.tallyCredential(c, -1)
	c.State = next
	t.tallyCredential(c, 1)
}

// conflict notes that a member's key belongs to a credential.
func (g *group) conflict(p *pending, holder *device.Credential) {
	if g.conflicts == nil {
		g.conflicts = make(map[*pending]*device.Credential)
	}
	g.conflicts[p] = holder
	if !bytes.Equal(holder.SPKIDigest[:], p.Credential.SPKIDigest[:]) {
		g.s.cfg.Logger.Error("two public keys share a row of the register; the second is refused", "credential", holder.ID, "key_row", p.keyRow)
	}
}

// gather joins the leaves of the members that were accepted.
func (g *group) gather() {
	n := 0
	for _, p := range g.members {
		if p.stored {
			n += len(p.leaves.leaves)
		}
	}
	g.leaves = batch{leaves: make([]byte, 0, n)}
	for _, p := range g.members {
		if p.stored {
			g.leaves.join(p.leaves)
			g.leaves.join(p.more)
		}
	}
}

// join appends the leaves of another batch, if there is one.
func (b *batch) join(o *batch) {
	if o == nil {
		return
	}
	for _, p := range o.beside {
		b.beside = append(b.beside, besideLeaf{b.size + p.offset, p.Private})
	}
	b.leaves = append(b.leaves, o.leaves...)
	b.size += o.size
	b.classes |= o.classes
}

// conclude turns outcomes into what callers get, once the group is committed.
func (g *group) conclude() {
	for p, holder := range g.conflicts {
		p.err = &device.KeyConflict{Existing: *holder}
	}
	for _, p := range g.members {
		if !p.stored && !p.again && p.err == nil {
			p.err = device.ErrStale
		}
	}
}

package store

import (
	"context"
	"fmt"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
)

// STORE on SQLite: one prepared single-row statement of each kind, executed for
// each member. There is one writer, so what a statement saw stays true until
// the commit. A member goes through its conditions in order and each step says
// how to take it back; the first that does not hold unwinds the steps before,
// so that the member leaves nothing.

var (
	insertCredential = "INSERT INTO credential (" + credentialColumns + ") VALUES (" + placeholders(23) + ") ON CONFLICT DO NOTHING"
	selectCredential = "SELECT " + credentialColumns + " FROM credential WHERE id = $1"
)

const (
	insertKey    = "INSERT INTO spki_key (id, credential) VALUES ($1, $2) ON CONFLICT DO NOTHING"
	changeDevice = `UPDATE device SET version = version + 1, state = $3, slots = replace(slots, $4, '') || $5, changed_at = $6
WHERE id = $1 AND version = $2`
	changeUnit = `UPDATE device SET version = version + 1, state = $3, slots = replace(slots, $4, '') || $5, changed_at = $6,
order_id = $7, chip = $8 WHERE id = $1 AND version = $2`
	changeAndSpend = `UPDATE device SET version = version + 1, state = $3, slots = replace(slots, $4, '') || $5, changed_at = $6,
secret_spent_at = $6, secret_spki = $7 WHERE id = $1 AND version = $2`
)

// liteGroup is a group on its way into SQLite.
type liteGroup struct {
	*group
	c      *liteConn
	epoch  int64
	leases map[device.LeaseRef]leaseSpan
	next   map[int64]int64 // next index of each authority
	undo   []func() error
	floor  *floor
	// control says that a member changed the control plane.
	control bool
}

// leaseSpan is the part of a lease row that STORE checks.
type leaseSpan struct {
	size int64
	open bool
}

func (e *liteEngine) commitGroup(ctx context.Context, g *group) error {
	t, err := e.beginLite(ctx)
	if err != nil {
		return err
	}
	l := &liteGroup{group: g, c: e.writer, leases: make(map[device.LeaseRef]leaseSpan), next: make(map[int64]int64), floor: newFloor(e.writer)}
	if err := l.run(ctx); err != nil {
		t.rollback()
		return err
	}
	if g.leaves.size == 0 {
		t.rollback() // nobody was accepted, so nothing is different
		// What the members are told rests on commits that may still be synced.
		return e.wal.wait(g.release)
	}
	if err := t.commitUnsynced(ctx); err != nil {
		return err
	}
	return e.wal.wait(g.release) // the next group runs while this one is synced
}

func (g *liteGroup) run(ctx context.Context) error {
	if err := g.c.row(ctx, "SELECT epoch FROM control WHERE id = 1").Scan(&g.epoch); err != nil {
		return err
	}
	for _, p := range g.members {
		step := g.member
		if p.confirm != nil {
			step = g.confirmation
		}
		if err := step(ctx, p); err != nil {
			return err
		}
	}
	g.gather()
	if g.leaves.size == 0 {
		return nil
	}
	if err := g.writeFloor(ctx); err != nil {
		return err
	}
	for authority, next := range g.next {
		if _, err := g.c.exec(ctx, `INSERT INTO authority_counter (authority, next_index) VALUES ($1, $2)
ON CONFLICT (authority) DO UPDATE SET next_index = excluded.next_index`, authority, next); err != nil {
			return err
		}
	}
	for _, k := range sortedTallies(g.tallies) {
		if _, err := g.c.exec(ctx, upsertTally, k.kind, k.bucket, k.product, k.site, k.owner, g.tallies[k]); err != nil {
			return err
		}
	}
	return g.leaves.append(ctx, g.c)
}

// member takes one issuance through its conditions.
func (g *liteGroup) member(ctx context.Context, p *pending) error {
	span, err := g.lease(ctx, p.Lease)
	if err != nil {
		return err
	}
	if !span.open || p.Credential.ID < device.CredentialID(p.Lease.ID) || int64(p.Credential.ID) >= p.Lease.ID+span.size {
		p.err = fault.New(fault.NodeFenced)
		return nil
	}
	if p.ControlEpoch != g.epoch {
		return nil
	}
	g.undo = g.undo[:0]
	for _, step := range []func(context.Context, *pending) (bool, error){g.admit, g.approval, g.key, g.device, g.station, g.credential} {
		ok, err := step(ctx, p)
		if err != nil {
			return err
		}
		if !ok {
			return g.unwind()
		}
	}
	g.accept(p)
	if p.Unit != nil {
		if err := g.unit(ctx, p); err != nil {
			return err
		}
	}
	if p.Attestation != nil {
		if err := g.evidence(ctx, p); err != nil {
			return err
		}
	}
	return g.retire(ctx, p)
}

func (g *liteGroup) unwind() error {
	for i := len(g.undo) - 1; i >= 0; i-- {
		if err := g.undo[i](); err != nil {
			return err
		}
	}
	return nil
}

func (g *liteGroup) lease(ctx context.Context, ref device.LeaseRef) (leaseSpan, error) {
	if span, ok := g.leases[ref]; ok {
		return span, nil
	}
	var span leaseSpan
	var fence, closed int64
	err := g.c.row(ctx, "SELECT size, fence, closed_at FROM serial_lease WHERE id = $1", ref.ID).Scan(&span.size, &fence, &closed)
	if err != nil && !noRows(err) {
		return span, err
	}
	span.open = err == nil && closed == 0 && fence == ref.Fence
	g.leases[ref] = span
	return span, nil
}

func (g *liteGroup) approval(ctx context.Context, p *pending) (bool, error) {
	if p.Approval == 0 {
		return true, nil
	}
	const move = "UPDATE approval SET state = $1 WHERE id = $2 AND state = $3"
	n, err := g.c.exec(ctx, move, access.Executed, p.Approval, access.Approved)
	if err != nil || n == 0 {
		return false, err
	}
	g.undo = append(g.undo, func() error {
		_, err := g.c.exec(ctx, move, access.Approved, p.Approval, access.Executed)
		return err
	})
	return true, nil
}

func (g *liteGroup) key(ctx context.Context, p *pending) (bool, error) {
	if p.SameKeyAs != 0 {
		return g.sameKey(ctx, p)
	}
	n, err := g.c.exec(ctx, insertKey, p.keyRow, int64(p.Credential.ID))
	if err != nil {
		return false, err
	}
	if n == 0 {
		return false, g.keyTaken(ctx, p)
	}
	g.undo = append(g.undo, func() error {
		_, err := g.c.exec(ctx, "DELETE FROM spki_key WHERE id = $1", p.keyRow)
		return err
	})
	return true, nil
}

// sameKey moves the key's row on to the new credential, if it was the named
// one's and both are of one device.
func (g *liteGroup) sameKey(ctx context.Context, p *pending) (bool, error) {
	var old device.Credential
	if err := scanCredential(g.c.row(ctx, selectCredential, int64(p.SameKeyAs)), &old); err != nil && !noRows(err) {
		return false, err
	}
	if old.Device != p.Credential.Device || old.SPKIDigest != p.Credential.SPKIDigest {
		return false, g.keyTaken(ctx, p)
	}
	const move = "UPDATE spki_key SET credential = $1 WHERE id = $2 AND credential = $3"
	n, err := g.c.exec(ctx, move, int64(p.Credential.ID), p.keyRow, int64(p.SameKeyAs))
	if err != nil {
		return false, err
	}
	if n == 0 {
		return false, g.keyTaken(ctx, p)
	}
	g.undo = append(g.undo, func() error {
		_, err := g.c.exec(ctx, move, int64(p.SameKeyAs), p.keyRow, int64(p.Credential.ID))
		return err
	})
	return true, nil
}

func (g *liteGroup) keyTaken(ctx context.Context, p *pending) error {
	var holder device.Credential
	err := scanCredential(g.c.row(ctx, "SELECT "+credentialColumns+" FROM credential WHERE id = (SELECT credential FROM spki_key WHERE id = $1)", p.keyRow), &holder)
	if noRows(err) {
		return nil
	}
	if err == nil {
		g.conflict(p, &holder)
	}
	return err
}

func (g *liteGroup) device(ctx context.Context, p *pending) (bool, error) {
	ch := p.Change
	if p.newDevice != nil {
		return g.registers(ctx, p)
	}
	if ch == nil {
		return true, nil
	}
	if ch.From == 0 {
		err := g.c.row(ctx, "SELECT state FROM device WHERE id = $1 AND version = $2", int64(ch.ID), ch.Version).Scan(&ch.From)
		if err != nil {
			if noRows(err) {
				err = nil
			}
			return false, err
		}
	}
	at := micros(p.Credential.IssuedAt)
	var n int64
	var err error
	switch {
	case p.Unit != nil:
		n, err = g.c.exec(ctx, changeUnit, int64(ch.ID), ch.Version, int64(ch.State), p.oldSlot, p.slot, at, p.Unit.Order, p.Unit.Chip)
	case ch.SpendSPKI == nil:
		n, err = g.c.exec(ctx, changeDevice, int64(ch.ID), ch.Version, int64(ch.State), p.oldSlot, p.slot, at)
	default:
		n, err = g.c.exec(ctx, changeAndSpend, int64(ch.ID), ch.Version, int64(ch.State), p.oldSlot, p.slot, at, ch.SpendSPKI[:])
	}
	return n == 1, err
}

// credential is the last step: it holds for every id that was leased and not
// used yet, so that a refusal is a mistake of ours and ends the group.
func (g *liteGroup) credential(ctx context.Context, p *pending) (bool, error) {
	c := &p.Credential
	next, ok := g.next[c.Authority]
	if !ok {
		err := g.c.row(ctx, "SELECT next_index FROM authority_counter WHERE authority = $1", c.Authority).Scan(&next)
		if err != nil && !noRows(err) {
			return false, err
		}
	}
	c.AuthorityIndex = next
	n, err := g.c.exec(ctx, insertCredential, credentialValues(c)...)
	if err == nil && n == 0 {
		err = fmt.Errorf("credential %d was stored before", c.ID)
	}
	g.next[c.Authority] = next + 1
	return err == nil, err
}

// retire marks the credential that an accepted member replaces.
func (g *liteGroup) retire(ctx context.Context, p *pending) error {
	if p.activates() {
		if err := g.activate(ctx, p); err != nil {
			return err
		}
	}
	if p.supersedes() == 0 {
		return nil
	}
	var old device.Credential
	err := scanCredential(g.c.row(ctx, selectCredential, int64(p.supersedes())), &old)
	if noRows(err) || err == nil && old.State != device.Issued && old.State != device.Confirmed {
		return nil
	}
	if err == nil {
		_, err = g.c.exec(ctx, "UPDATE credential SET state = $1 WHERE id = $2", int64(device.Superseded), int64(old.ID))
	}
	if err == nil {
		g.moved(&old, device.Superseded)
	}
	return err
}

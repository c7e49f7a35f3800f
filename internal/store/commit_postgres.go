package store

import (
	"context"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
)

// STORE on PostgreSQL: two pipelined round trips for each group, arrays through
// unnest. The first decides: keys are inserted, and devices change whose key
// was. The second takes back the keys of those whose device had changed, then
// writes certificates, counters and ledger of the others and commits. The
// counters and the ledger's head are locked only in the second, so that the
// next group decides while this one syncs. What rarely fails (epoch, lease,
// approval) is checked beside the first trip; if it did fail, the group starts
// over without the member. A group with units has a trip before: it locks and
// reads the rows of the factory (unit_postgres.go).

// pgGroup is a group on its way into PostgreSQL.
type pgGroup struct {
	*group
	e    *pgEngine
	c    *pgxpool.Conn
	live []*pending // members without an outcome

	won        map[device.CredentialID]bool // key is this member's
	changed    map[device.CredentialID]bool // device changed for this member
	superseded map[device.CredentialID]*device.Credential
	pgFloor
}

// errOver says that the group starts over, with fewer members.
var errOver = errors.New("start over")

func (e *pgEngine) commitGroup(ctx context.Context, g *group) error {
	ctx, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	c, err := e.pool.Acquire(ctx)
	if err == nil {
		defer c.Release()
		p := &pgGroup{group: g, e: e, c: c, live: slices.Clone(g.members)}
		err = p.store(ctx)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fault.Wrap(fault.StoreUnavailable, err)
	}
	return pgFault(err)
}

func (g *pgGroup) store(ctx context.Context) error {
	if err := g.lookAtStates(ctx); err != nil {
		return err
	}
	for len(g.live) > 0 {
		err := g.enter(ctx)
		if err == nil {
			err = g.decide(ctx)
		}
		if err == nil {
			g.settle()
			err = g.replaceAll(ctx)
		}
		if err == nil {
			g.gather()
			err = g.finish(ctx)
		}
		if err == nil {
			return g.findHolders(ctx)
		}
		if _, rollback := g.c.Exec(ctx, "ROLLBACK"); rollback != nil && errors.Is(err, errOver) {
			return pgFault(rollback)
		}
		if !errors.Is(err, errOver) {
			return err
		}
	}
	return nil
}

// lookAtStates fills in the old state of devices whose decision did not name it.
func (g *pgGroup) lookAtStates(ctx context.Context) error {
	for _, p := range g.live {
		if p.Change == nil || p.Change.From != 0 {
			continue
		}
		err := g.c.QueryRow(ctx, "SELECT state FROM device WHERE id = $1 AND version = $2", int64(p.Change.ID), p.Change.Version).Scan(&p.Change.From)
		if err != nil && !noRows(err) {
			return pgFault(err)
		}
	}
	return nil
}

const (
	pgInsertKeys = `INSERT INTO spki_key (id, credential) SELECT * FROM unnest($1::bigint[], $2::bigint[]) AS i(id, credential)
ORDER BY i.id ON CONFLICT DO NOTHING RETURNING credential`
	pgMoveKeys = `UPDATE spki_key k SET credential = i.credential
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[], $5::bigint[]) AS i(id, credential, same, spki, device)
JOIN credential c ON c.id = i.same AND c.spki = i.spki AND c.device = i.device
WHERE k.id = i.id AND k.credential = i.same RETURNING i.credential`
	pgChangeDevices = `UPDATE device d SET version = d.version + 1, state = i.state, slots = replace(d.slots, i.old_slot, '') || i.slot, changed_at = i.at,
secret_spent_at = CASE WHEN i.spki IS NULL THEN d.secret_spent_at ELSE i.at END, secret_spki = COALESCE(i.spki, d.secret_spki),
order_id = CASE WHEN i.line = 0 THEN d.order_id ELSE i.line END, chip = CASE WHEN i.line = 0 THEN d.chip ELSE i.chip END
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::bytea[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[])
  AS i(id, version, state, old_slot, slot, at, spki, key, credential, line, chip), spki_key k
WHERE d.id = i.id AND d.version = i.version AND k.id = i.key AND k.credential = i.credential
RETURNING i.credential, d.order_id, CASE WHEN d.order_id = 0 THEN '' ELSE d.slots END`
)

// decide is the first trip.
func (g *pgGroup) decide(ctx context.Context) error {
	g.won, g.changed = make(map[device.CredentialID]bool, len(g.live)), make(map[device.CredentialID]bool, len(g.live))
	g.superseded = make(map[device.CredentialID]*device.Credential)
	var epoch int64
	leases := make(map[int64]leaseRow)
	approved := make(map[int64]bool)
	b := &pgx.Batch{}
	if !g.entered {
		b.Queue("BEGIN")
	}
	b.Queue(g.lockControl()).QueryRow(func(r pgx.Row) error { return r.Scan(&epoch) })
	g.queueChecks(b, leases, approved)
	g.queueKeys(b)
	g.queueConfirmations(b) // before what is stale with them
	g.queueNewDevices(b)
	g.queueDevices(b)
	g.queueOvertaken(b)
	g.queueSuperseded(b)
	if err := g.c.SendBatch(ctx, b).Close(); err != nil {
		return pgFault(err)
	}
	return g.judge(epoch, leases, approved)
}

// leaseRow is the part of a lease that STORE checks.
type leaseRow struct{ fence, size, closed int64 }

func (g *pgGroup) queueChecks(b *pgx.Batch, leases map[int64]leaseRow, approved map[int64]bool) {
	var ids, approvals []int64
	for _, p := range g.live {
		if p.confirm != nil {
			continue
		}
		if !slices.Contains(ids, p.Lease.ID) {
			ids = append(ids, p.Lease.ID)
		}
		if p.Approval != 0 {
			approvals = append(approvals, p.Approval)
		}
	}
	b.Queue("SELECT id, fence, size, closed_at FROM serial_lease WHERE id = ANY($1) ORDER BY id FOR SHARE", ids).Query(func(rs pgx.Rows) error {
		for rs.Next() {
			var id int64
			var l leaseRow
			if err := rs.Scan(&id, &l.fence, &l.size, &l.closed); err != nil {
				return err
			}
			leases[id] = l
		}
		return nil
	})
	if len(approvals) > 0 {
		b.Queue("SELECT id FROM approval WHERE id = ANY($1) AND state = $2 ORDER BY id FOR UPDATE", approvals, int64(access.Approved)).Query(func(rs pgx.Rows) error {
			return eachID(rs, func(id int64) { approved[id] = true })
		})
	}
}

// judge takes out the members whose decision does not hold any more.
func (g *pgGroup) judge(epoch int64, leases map[int64]leaseRow, approved map[int64]bool) error {
	before := len(g.live)
	g.live = slices.DeleteFunc(g.live, func(p *pending) bool {
		if p.confirm != nil {
			return false
		}
		l, ok := leases[p.Lease.ID]
		id := int64(p.Credential.ID)
		if !ok || l.closed != 0 || l.fence != p.Lease.Fence || id < p.Lease.ID || id >= p.Lease.ID+l.size {
			p.err = fault.New(fault.NodeFenced)
			return true
		}
		if p.Approval != 0 {
			mine := approved[p.Approval]
			delete(approved, p.Approval) // the next one comes too late
			if !mine {
				return true
			}
		}
		return p.ControlEpoch != epoch
	})
	if len(g.live) < before {
		return errOver
	}
	return nil
}

func (g *pgGroup) queueKeys(b *pgx.Batch) {
	var rows, ids []int64
	var same struct {
		rows, ids, olds, devices []int64
		digests                  [][]byte
	}
	for _, p := range g.live {
		if !g.issues(p) {
			continue
		}
		c := &p.Credential
		if p.SameKeyAs == 0 {
			rows, ids = append(rows, p.keyRow), append(ids, int64(c.ID))
			continue
		}
		same.rows, same.ids = append(same.rows, p.keyRow), append(same.ids, int64(c.ID))
		same.olds, same.devices = append(same.olds, int64(p.SameKeyAs)), append(same.devices, int64(c.Device))
		same.digests = append(same.digests, c.SPKIDigest[:])
	}
	won := func(rs pgx.Rows) error {
		return eachID(rs, func(id int64) { g.won[device.CredentialID(id)] = true })
	}
	if len(rows) > 0 {
		b.Queue(pgInsertKeys, rows, ids).Query(won)
	}
	if len(same.rows) > 0 {
		b.Queue(pgMoveKeys, same.rows, same.ids, same.olds, same.digests, same.devices).Query(won)
	}
}

func eachID(rs pgx.Rows, fn func(id int64)) error {
	for rs.Next() {
		var id int64
		if err := rs.Scan(&id); err != nil {
			return err
		}
		fn(id)
	}
	return nil
}

func (g *pgGroup) queueDevices(b *pgx.Batch) {
	order := slices.Clone(g.live)
	order = slices.DeleteFunc(order, func(p *pending) bool { return !g.issues(p) || p.Change == nil })
	slices.SortStableFunc(order, func(x, y *pending) int { return int(min(max(x.Change.ID-y.Change.ID, -1), 1)) })
	n := len(order)
	if n == 0 {
		return
	}
	ids, versions, states, ats := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	keys, credentials := make([]int64, n), make([]int64, n)
	olds, slots, spkis := make([]string, n), make([]string, n), make([][]byte, n)
	orders, chips := make([]int64, n), make([]int64, n) // 0: as they are
	for i, p := range order {
		ch := p.Change
		if p.Unit != nil {
			orders[i], chips[i] = p.Unit.Order, p.Unit.Chip
		}
		ids[i], versions[i], states[i], ats[i] = int64(ch.ID), ch.Version, int64(ch.State), micros(p.Credential.IssuedAt)
		keys[i], credentials[i] = p.keyRow, int64(p.Credential.ID)
		olds[i], slots[i] = p.oldSlot, p.slot
		if ch.SpendSPKI != nil {
			spkis[i] = ch.SpendSPKI[:]
		}
	}
	b.Queue(pgChangeDevices, ids, versions, states, olds, slots, ats, spkis, keys, credentials, orders, chips).Query(func(rs pgx.Rows) error {
		for rs.Next() {
			var id, line int64
			var slots string
			if err := rs.Scan(&id, &line, &slots); err != nil {
				return err
			}
			g.changed[device.CredentialID(id)] = true
			if line != 0 {
				g.ofOrders[device.CredentialID(id)] = slots
			}
		}
		return nil
	})
}

func (g *pgGroup) queueSuperseded(b *pgx.Batch) {
	var ids []int64
	for _, p := range g.live {
		if id := p.supersedes(); id != 0 && g.issues(p) {
			ids = append(ids, int64(id))
		}
	}
	if len(ids) == 0 {
		return
	}
	b.Queue("SELECT id, device, product, site, owner, state, not_after FROM credential WHERE id = ANY($1) AND state = ANY($2) ORDER BY id FOR UPDATE",
		ids, []int64{int64(device.Issued), int64(device.Confirmed)}).Query(func(rs pgx.Rows) error {
		for rs.Next() {
			var c device.Credential
			if err := rs.Scan(&c.ID, &c.Device, &c.Product, &c.Site, &c.Owner, &c.State, at(&c.NotAfter)); err != nil {
				return err
			}
			g.superseded[c.ID] = &c
		}
		return nil
	})
}

// settle says who is in.
func (g *pgGroup) settle() {
	for _, p := range g.live {
		if g.issues(p) && g.won[p.Credential.ID] && (p.Change == nil && p.newDevice == nil || g.changed[p.Credential.ID]) && g.stationChanged(p) {
			g.accept(p)
		}
	}
	for _, p := range g.live {
		if !p.stored || p.confirm != nil {
			continue
		}
		if old := g.superseded[p.supersedes()]; old != nil && old.State != device.Superseded {
			g.moved(old, device.Superseded)
		}
	}
	g.settleFloor()
}

// finish is the second trip.
func (g *pgGroup) finish(ctx context.Context) error {
	if g.leaves.size == 0 {
		_, err := g.c.Exec(ctx, "ROLLBACK")
		return pgFault(err)
	}
	if fail := g.s.cfg.CommitFault; fail != nil {
		if err := fail(); err != nil {
			return fault.Wrap(fault.StoreUnavailable, err)
		}
	}
	b := &pgx.Batch{}
	g.queueUndo(b)
	g.queueApprovals(b)
	g.queueCredentials(b)
	g.queueFloor(b)
	g.queueTallies(b)
	g.queueLedger(b)
	b.Queue("COMMIT").Exec(func(tag pgconn.CommandTag) error {
		if tag.String() == "ROLLBACK" {
			return fault.New(fault.Unexpected, "the transaction was rolled back")
		}
		return nil
	})
	err := g.c.SendBatch(ctx, b).Close()
	if err == nil || answered(err) || fault.Has(err, fault.Unexpected) {
		return pgFault(err)
	}
	i := slices.IndexFunc(g.live, func(p *pending) bool { return p.stored })
	if c := g.live[i].confirm; c != nil {
		return g.e.resolve(ctx, err, "SELECT count(*) FROM unit WHERE id = $1 AND confirmed_at = $2", int64(c.ID), micros(c.At))
	}
	return g.e.resolve(ctx, err, "SELECT count(*) FROM credential WHERE id = $1 AND cert_serial = $2",
		int64(g.live[i].Credential.ID), g.live[i].Credential.CertSerial)
}

// queueUndo takes back the keys of members whose device had changed.
func (g *pgGroup) queueUndo(b *pgx.Batch) {
	var fresh []int64
	for _, p := range g.live {
		if p.stored || !g.issues(p) || !g.won[p.Credential.ID] {
			continue
		}
		if p.SameKeyAs == 0 {
			fresh = append(fresh, p.keyRow)
			continue
		}
		b.Queue("UPDATE spki_key SET credential = $1 WHERE id = $2 AND credential = $3", int64(p.SameKeyAs), p.keyRow, int64(p.Credential.ID))
	}
	if len(fresh) > 0 {
		b.Queue("DELETE FROM spki_key WHERE id = ANY($1)", fresh)
	}
}

func (g *pgGroup) queueApprovals(b *pgx.Batch) {
	var approvals, old []int64
	for _, p := range g.live {
		if p.stored && p.Approval != 0 {
			approvals = append(approvals, p.Approval)
		}
	}
	for id, c := range g.superseded {
		if c.State == device.Superseded {
			old = append(old, int64(id))
		}
	}
	if len(approvals) > 0 {
		b.Queue("UPDATE approval SET state = $1 WHERE id = ANY($2)", int64(access.Executed), approvals)
	}
	if len(old) > 0 {
		b.Queue("UPDATE credential SET state = $1 WHERE id = ANY($2)", int64(device.Superseded), old)
	}
}

const (
	pgCountAuthorities = `INSERT INTO authority_counter (authority, next_index)
SELECT * FROM unnest($1::bigint[], $2::bigint[]) AS i(authority, n) ORDER BY i.authority
ON CONFLICT (authority) DO UPDATE SET next_index = authority_counter.next_index + excluded.next_index RETURNING authority, next_index`
	pgInsertCredentials = `INSERT INTO credential (id, cert_serial, authority, authority_index, profile, kind, purpose, device, product, site, owner,
state, reason, revoked_at, key_kind, not_before, not_after, spki, idempotency, previous, issued_at, confirmed_at, der)
SELECT i.id, i.cert_serial, i.authority, a.next_index - i.back, i.profile, i.kind, i.purpose, i.device, i.product, i.site, i.owner,
i.state, 0, 0, i.key_kind, i.not_before, i.not_after, i.spki, i.idempotency, i.previous, i.issued_at, i.confirmed_at, i.der
FROM unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[],
  $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bytea[], $17::bytea[], $18::bigint[], $19::bigint[], $20::bigint[], $21::bytea[])
  AS i(id, cert_serial, authority, back, profile, kind, purpose, device, product, site, owner,
  state, key_kind, not_before, not_after, spki, idempotency, previous, issued_at, confirmed_at, der)
JOIN authority_counter a ON a.authority = i.authority`
	pgTallies = `INSERT INTO tally (kind, bucket, product, site, owner, total)
SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]) AS i(kind, bucket, product, site, owner, total)
ON CONFLICT (kind, bucket, product, site, owner) DO UPDATE SET total = tally.total + excluded.total`
	pgLedger = `WITH head AS (UPDATE ledger_head SET size = size + $1 WHERE id = 1 RETURNING size - $1 AS first)
INSERT INTO ledger_batch (id, size, classes, leaves) SELECT first, $1, $2, $3 FROM head`
	pgPrivate = `INSERT INTO ledger_private (id, salt, value) SELECT size - $1 + $2, $3, $4 FROM ledger_head WHERE id = 1`
)

func (g *pgGroup) queueCredentials(b *pgx.Batch) {
	counts := make(map[int64]int64)
	for _, p := range g.live {
		if p.stored && p.confirm == nil {
			p.Credential.AuthorityIndex = counts[p.Credential.Authority] // from the group's first, for now
			counts[p.Credential.Authority]++
		}
	}
	if len(counts) == 0 {
		return
	}
	authorities, ns := make([]int64, 0, len(counts)), make([]int64, 0, len(counts))
	for a, n := range counts {
		authorities, ns = append(authorities, a), append(ns, n)
	}
	b.Queue(pgCountAuthorities, authorities, ns).Query(func(rs pgx.Rows) error {
		first := make(map[int64]int64)
		for rs.Next() {
			var a, next int64
			if err := rs.Scan(&a, &next); err != nil {
				return err
			}
			first[a] = next - counts[a]
		}
		for _, p := range g.live {
			if p.stored && p.confirm == nil {
				p.Credential.AuthorityIndex += first[p.Credential.Authority]
			}
		}
		return nil
	})
	var w credentialArrays
	for _, p := range g.live {
		if p.stored && p.confirm == nil {
			w.add(&p.Credential, counts[p.Credential.Authority]-p.Credential.AuthorityIndex)
		}
	}
	b.Queue(pgInsertCredentials, w.ids, w.serials, w.authorities, w.backs, w.profiles, w.kinds, w.purposes, w.devices, w.products, w.sites, w.owners,
		w.states, w.keyKinds, w.notBefores, w.notAfters, w.spkis, w.idempotencies, w.previouses, w.issueds, w.confirmeds, w.ders)
}

// credentialArrays are columns of the accepted certificates.
type credentialArrays struct {
	ids, authorities, backs, profiles, devices, products, sites, owners      []int64
	states, keyKinds, notBefores, notAfters, previouses, issueds, confirmeds []int64
	kinds, purposes                                                          []string
	serials, spkis, idempotencies, ders                                      [][]byte
}

// add appends a certificate; back is how far its index is before the
// authority's next one.
func (w *credentialArrays) add(c *device.Credential, back int64) {
	w.ids, w.serials = append(w.ids, int64(c.ID)), append(w.serials, c.CertSerial)
	w.authorities, w.backs = append(w.authorities, c.Authority), append(w.backs, back)
	w.profiles, w.kinds, w.purposes = append(w.profiles, c.Profile), append(w.kinds, c.Kind), append(w.purposes, c.Purpose)
	w.devices, w.products = append(w.devices, int64(c.Device)), append(w.products, c.Product)
	w.sites, w.owners = append(w.sites, c.Site), append(w.owners, c.Owner)
	w.states, w.keyKinds = append(w.states, int64(c.State)), append(w.keyKinds, int64(c.KeyKind))
	w.notBefores, w.notAfters = append(w.notBefores, micros(c.NotBefore)), append(w.notAfters, micros(c.NotAfter))
	w.spkis, w.idempotencies = append(w.spkis, c.SPKIDigest[:]), append(w.idempotencies, c.Idempotency[:])
	w.previouses, w.issueds, w.confirmeds = append(w.previouses, int64(c.Previous)), append(w.issueds, micros(c.IssuedAt)), append(w.confirmeds, micros(c.ConfirmedAt))
	w.ders = append(w.ders, c.DER)
}

func (g *pgGroup) queueTallies(b *pgx.Batch) {
	ks := sortedTallies(g.tallies)
	var kinds, buckets, products, sites, owners, totals []int64
	for _, k := range ks {
		kinds, buckets = append(kinds, int64(k.kind)), append(buckets, k.bucket)
		products, sites, owners = append(products, k.product), append(sites, k.site), append(owners, k.owner)
		totals = append(totals, g.tallies[k])
	}
	if len(ks) > 0 {
		b.Queue(pgTallies, kinds, buckets, products, sites, owners, totals)
	}
}

func (g *pgGroup) queueLedger(b *pgx.Batch) {
	b.Queue(pgLedger, g.leaves.size, int64(g.leaves.classes), g.leaves.leaves)
	for _, p := range g.leaves.beside {
		b.Queue(pgPrivate, g.leaves.size, p.offset, p.Salt[:], p.Value)
	}
}

// findHolders reads, after the commit, who has the keys that were taken. A key
// that nobody has any more was that of a member that failed for its device.
func (g *pgGroup) findHolders(ctx context.Context) error {
	for _, p := range g.live {
		if p.stored || !g.issues(p) || g.won[p.Credential.ID] {
			continue
		}
		var holder device.Credential
		q := pgQuerier{g.c}
		err := scanCredential(q.row(ctx, "SELECT "+credentialColumns+" FROM credential WHERE id = (SELECT credential FROM spki_key WHERE id = $1)", p.keyRow), &holder)
		if err == nil {
			g.conflict(p, &holder)
		} else if !noRows(err) {
			p.err = err
		}
	}
	return nil
}

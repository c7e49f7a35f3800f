package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
)

const (
	rowPage = 2000
	// rechecks is how often a row that keeps changing is read again.
	rechecks = 5
)

// rows compares the register's rows with what the entries say. The server may
// work meanwhile: a row that differs and whose entries are newer than the page
// is read again.
func (v *verification) rows(ctx context.Context) error {
	begin := v.register.size
	for _, stage := range []struct {
		name string
		run  func(context.Context, int64) error
	}{
		{"serial blocks", v.leases},
		{"devices", v.devices},
		{"certificates", v.credentials},
		{"revocations", v.revocations},
		{"CRLs", v.crls},
		{"units", v.units},
		{"orders", v.quotas},
		{"evidence", v.evidence},
		{"TPMs", v.tpms},
		{"control plane", v.controlPlane},
	} {
		v.progress.Stage, v.progress.Done = stage.name, 0
		if err := stage.run(ctx, begin); err != nil {
			return err
		}
	}
	return nil
}

// badRow is the finding about a row and the entry that says otherwise.
func badRow(what string, leaf int64, format string, args ...any) error {
	return fault.New(fault.LedgerBroken, fmt.Sprintf("%s: %s; see entry %d", what, fmt.Sprintf(format, args...), leaf))
}

func surplusRow(what string) error {
	return fault.New(fault.LedgerBroken, what+": the row is there, but no entry makes it")
}

func missingRow(what string, leaf int64) error {
	return fault.New(fault.LedgerBroken, fmt.Sprintf("%s: the row is missing; see entry %d", what, leaf))
}

// each goes through all rows of a kind in pages. check gets the size of the
// ledger before the page was read: what later entries changed may differ. It
// reports whether the row was settled.
func each[R any](ctx context.Context, v *verification, fetch func(after *R, limit int) ([]R, error), check func(row *R, before int64) (settled bool, err error)) error {
	var last *R
	for {
		before := v.register.size
		page, err := fetch(last, rowPage)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return nil
		}
		if err := v.catchUp(ctx); err != nil {
			return err
		}
		for i := range page {
			var previous *R
			if i > 0 {
				previous = &page[i-1]
			} else {
				previous = last
			}
			settled, err := check(&page[i], before)
			if err == nil && !settled {
				err = recheck(ctx, v, previous, fetch, check)
			}
			if err != nil {
				return err
			}
		}
		v.tick(int64(len(page)))
		if len(page) < rowPage {
			return nil // what comes later is not run after
		}
		last = &page[len(page)-1]
	}
}

// recheck reads the row after previous again until no entry gets in between.
func recheck[R any](ctx context.Context, v *verification, previous *R, fetch func(*R, int) ([]R, error), check func(*R, int64) (bool, error)) error {
	for range rechecks {
		before := v.register.size
		page, err := fetch(previous, 1)
		if err != nil || len(page) == 0 {
			return err
		}
		if err := v.catchUp(ctx); err != nil {
			return err
		}
		settled, err := check(&page[0], before)
		if err != nil || settled {
			return err
		}
	}
	v.report.Moving++
	return nil
}

// missingOf returns the row that should be there and is not, the one of the
// oldest entry. What was made after begin may lie behind the cursor.
func missingOf[T any](t *table[T], begin int64, of func(*T) (leaf int64, seen bool)) (id, leaf int64, found bool) {
	for i, place := range t.places {
		l, seen := of(&t.chunks[place/chunkRows][place%chunkRows])
		if !seen && l < begin && (!found || l < leaf) {
			id, leaf, found = i, l, true
		}
	}
	return id, leaf, found
}

func (v *verification) credentials(ctx context.Context, begin int64) error {
	fetch := func(after *CredentialRow, limit int) ([]CredentialRow, error) {
		return v.src.CredentialRows(ctx, idOf(after, func(r *CredentialRow) int64 { return r.ID }), limit)
	}
	if err := each(ctx, v, fetch, func(r *CredentialRow, before int64) (bool, error) { return v.credential(ctx, r, before) }); err != nil {
		return err
	}
	id, leaf, found := missingOf(&v.register.credentials, begin, func(c *credentialState) (int64, bool) { return c.leaf, c.seen })
	if found {
		return missingRow(fmt.Sprintf("certificate %d", id), leaf)
	}
	return nil
}

func idOf[R any](r *R, id func(*R) int64) int64 {
	if r == nil {
		return 0
	}
	return id(r)
}

func (v *verification) credential(ctx context.Context, row *CredentialRow, before int64) (bool, error) {
	r := v.register
	if !r.mine(row.Device, row.ID) {
		return true, nil
	}
	what := fmt.Sprintf("certificate %d", row.ID)
	c := r.credentials.get(row.ID)
	if c == nil {
		return false, surplusRow(what)
	}
	if !c.seen {
		c.seen = true
		v.report.Certificates++
	}
	if c.touched >= before {
		return false, nil
	}
	der := sha256.Sum256(row.DER)
	if r.credentialDigest(row, &der) != c.digest {
		return false, v.credentialDiff(ctx, what, c, row, der)
	}
	site, owner := row.Site, row.Owner
	leaf := c.touched
	if d := r.devices.get(row.Device); row.Device != 0 && d != nil {
		if d.touched >= before {
			return false, nil
		}
		site, owner = d.site, d.owner
		leaf = max(leaf, d.changed)
	}
	reason, revokedAt := 0, int64(0)
	if b := r.revoked[row.ID]; b != nil {
		reason, revokedAt = b.Reason, seconds(b.RevokedAt)
	}
	return true, differ(what, leaf, []field{
		{"state", int64(row.State), int64(c.state)},
		{"reason", int64(row.Reason), int64(reason)},
		{"time of revocation", seconds(row.RevokedAt), revokedAt},
		{"time of confirmation", seconds(row.ConfirmedAt), c.confirmedAt},
		{"site", row.Site, site},
		{"owner", row.Owner, owner},
	})
}

// field is a value of a row and what the entries say.
type field struct {
	name      string
	got, want any
}

func differ(what string, leaf int64, list []field) error {
	for _, f := range list {
		if f.got != f.want {
			return badRow(what, leaf, "%s is %v, the entry says %v", f.name, f.got, f.want)
		}
	}
	return nil
}

// credentialDiff names the value that does not fit the digest.
func (v *verification) credentialDiff(ctx context.Context, what string, c *credentialState, row *CredentialRow, der [32]byte) error {
	p, err := v.reread(ctx, c.leaf)
	if err != nil {
		return err
	}
	b, ok := p.Body.(*Issued)
	if !ok {
		return badRow(what, c.leaf, "the entry changed while it was compared")
	}
	want := b.row(p.At, c.index)
	err = differ(what, c.leaf, []field{
		{"certificate serial", hex.EncodeToString(row.CertSerial), hex.EncodeToString(want.CertSerial)},
		{"authority", row.Authority, want.Authority},
		{"index in the authority", row.AuthorityIndex, want.AuthorityIndex},
		{"profile version", row.Profile, want.Profile},
		{"kind", row.Kind, want.Kind},
		{"purpose", row.Purpose, want.Purpose},
		{"device", fmt.Sprintf("%016x", row.Device), fmt.Sprintf("%016x", want.Device)},
		{"product", row.Product, want.Product},
		{"kind of key", row.KeyKind, want.KeyKind},
		{"not before", row.NotBefore.Unix(), want.NotBefore.Unix()},
		{"not after", row.NotAfter.Unix(), want.NotAfter.Unix()},
		{"SHA-256 of the public key", hex.EncodeToString(row.SPKI[:]), hex.EncodeToString(want.SPKI[:])},
		{"SHA-256 of the certificate", hex.EncodeToString(der[:]), hex.EncodeToString(b.DER[:])},
		{"idempotency digest", hex.EncodeToString(row.Idempotency[:]), hex.EncodeToString(want.Idempotency[:])},
		{"previous certificate", row.Previous, want.Previous},
		{"time of issue", seconds(row.IssuedAt), seconds(want.IssuedAt)},
		{"site", row.Site, want.Site},
		{"owner", row.Owner, want.Owner},
	})
	if err == nil {
		err = badRow(what, c.leaf, "it differs")
	}
	return err
}

func (v *verification) reread(ctx context.Context, index int64) (Parsed, error) {
	batches, err := v.src.LedgerBatches(ctx, index, ^Class(0), 1)
	if err != nil {
		return Parsed{}, err
	}
	for leaf, err := range leavesFrom(batches, index) {
		if err != nil {
			return Parsed{}, err
		}
		return Decode(leaf)
	}
	return Parsed{}, missing(index)
}

func (v *verification) devices(ctx context.Context, begin int64) error {
	fetch := func(after *DeviceRow, limit int) ([]DeviceRow, error) {
		return v.src.DeviceRows(ctx, idOf(after, func(r *DeviceRow) int64 { return r.ID }), limit)
	}
	if err := each(ctx, v, fetch, func(r *DeviceRow, before int64) (bool, error) { return v.device(ctx, r, before) }); err != nil {
		return err
	}
	id, leaf, found := missingOf(&v.register.devices, begin, func(d *deviceState) (int64, bool) { return d.leaf, d.seen || d.gone })
	if found {
		return missingRow(fmt.Sprintf("device %016x", id), leaf)
	}
	return nil
}

func (v *verification) device(ctx context.Context, row *DeviceRow, before int64) (bool, error) {
	r := v.register
	if !r.mine(row.ID, 0) {
		return true, nil
	}
	what := fmt.Sprintf("device %016x", row.ID)
	d := r.devices.get(row.ID)
	if d == nil || d.gone && d.touched < before {
		return false, surplusRow(what)
	}
	if !d.seen {
		d.seen = true
		v.report.Devices++
	}
	if d.touched >= before {
		return false, nil
	}
	if r.fixedDigest(row) != d.fixed {
		return false, v.deviceDiff(ctx, what, d, row)
	}
	labels := LabelsDigest(row.Labels)
	if r.restDigest(row.Region, &labels, &row.Secret) != d.rest {
		return false, v.deviceDiff(ctx, what, d, row)
	}
	list := []field{
		{"version", row.Version, d.version},
		{"state", int64(row.State), int64(d.state)},
		{"site", row.Site, d.site},
		{"owner", row.Owner, d.owner},
		{"number of slots", len(row.Current), int(d.slots)},
		{"production order", row.Order, d.order},
		{"chip", fmt.Sprintf("%016x", row.Chip), fmt.Sprintf("%016x", d.chip)},
		{"system it is built into", fmt.Sprintf("%016x", row.BuiltInto), fmt.Sprintf("%016x", d.builtInto)},
	}
	if r.spentDigest(row.SecretSpent, &row.SecretSPKI) != d.spent {
		return false, badRow(what, d.touched, "when the one-time secret was spent (%d), or with which key, is not what the entry says", seconds(row.SecretSpent))
	}
	for _, slot := range slices.Sorted(maps.Keys(row.Current)) {
		list = append(list, field{"certificate in slot " + slot, row.Current[slot], r.current(d, row.ID, slot)})
	}
	return true, differ(what, d.touched, list)
}

// deviceDiff names the value that does not fit a digest.
func (v *verification) deviceDiff(ctx context.Context, what string, d *deviceState, row *DeviceRow) error {
	p, err := v.reread(ctx, d.leaf)
	if err != nil {
		return err
	}
	b, ok := p.Body.(*Registered)
	if !ok {
		return badRow(what, d.leaf, "the entry changed while it was compared")
	}
	err = differ(what, d.leaf, []field{
		{"device serial", row.DeviceSerial, b.DeviceSerial},
		{"product", row.Product, b.Product},
		{"time of registration", seconds(row.RegisteredAt), seconds(p.At)},
	})
	if err != nil {
		return err
	}
	region, labels := b.Region, b.Labels
	if d.changed != d.leaf {
		p, err := v.reread(ctx, d.changed)
		if err != nil {
			return err
		}
		if c, ok := p.Body.(*Changed); ok {
			region, labels = c.Region, c.Labels
		}
	}
	err = differ(what, d.changed, []field{{"region", row.Region, region}, {"digest of the labels", LabelsDigest(row.Labels), labels}})
	if err == nil {
		err = badRow(what, d.changed, "its one-time secret is another")
	}
	return err
}

func (v *verification) leases(ctx context.Context, begin int64) error {
	fetch := func(after *LeaseRow, limit int) ([]LeaseRow, error) {
		return v.src.LeaseRows(ctx, idOf(after, func(r *LeaseRow) int64 { return r.ID }), limit)
	}
	if err := each(ctx, v, fetch, v.lease); err != nil {
		return err
	}
	for i := range v.register.leases {
		if l := &v.register.leases[i]; !l.seen && l.leaf < begin {
			return missingRow(fmt.Sprintf("block of serials %d", l.First), l.leaf)
		}
	}
	return nil
}

func (v *verification) lease(row *LeaseRow, before int64) (bool, error) {
	what := fmt.Sprintf("block of serials %d", row.ID)
	l := v.register.leaseOf(row.First)
	if l == nil || l.First != row.First || row.ID != row.First {
		return false, surplusRow(what)
	}
	if !l.seen && v.first() {
		v.report.Leases++
	}
	l.seen = true
	if l.touched >= before {
		return false, nil
	}
	return true, differ(what, l.touched, []field{
		{"node", row.Node, l.Node},
		{"fence", row.Fence, l.Fence},
		{"size", int64(row.Count), l.Count},
		{"seed", sha256.Sum256(row.Seed[:]), l.Seed},
		{"closed", row.Closed, l.closed},
	})
}

// revocations compares the lists from which CRLs are made. A row may go once
// its certificate has expired.
func (v *verification) revocations(ctx context.Context, begin int64) error {
	if !v.first() {
		return nil
	}
	seen := map[int64]bool{}
	fetch := func(after *RevocationRow, limit int) ([]RevocationRow, error) {
		if after == nil {
			after = new(RevocationRow)
		}
		return v.src.RevocationRows(ctx, *after, limit)
	}
	touched := v.register.size
	err := each(ctx, v, fetch, func(row *RevocationRow, before int64) (bool, error) {
		seen[row.Credential] = true
		return v.revocation(row, before)
	})
	if err != nil {
		return err
	}
	v.report.Revocations = int64(len(seen))
	return v.unlisted(seen, touched)
}

func (v *verification) revocation(row *RevocationRow, before int64) (bool, error) {
	what := fmt.Sprintf("revocation of certificate %d", row.Credential)
	b := v.register.revoked[row.Credential]
	if b == nil {
		if v.register.releasedAt[row.Credential] >= before && before > 0 {
			return true, nil // released since the page was read
		}
		return false, surplusRow(what)
	}
	if b.leaf >= before {
		return false, nil
	}
	return true, differ(what, b.leaf, []field{
		{"authority", row.Authority, b.Authority},
		{"shard", row.Shard, b.Shard},
		{"reason", row.Reason, b.Reason},
		{"certificate serial", hex.EncodeToString(row.CertSerial), hex.EncodeToString(b.CertSerial)},
		{"time", seconds(row.RevokedAt), seconds(b.RevokedAt)},
		{"not after", seconds(row.NotAfter), seconds(b.NotAfter)},
	})
}

// unlisted finds the certificate that is revoked but on no list.
func (v *verification) unlisted(seen map[int64]bool, begin int64) error {
	now := v.o.Now()
	var found *revokedState
	for _, b := range v.register.revoked {
		expired := b.NotAfter.Before(now.Add(-24 * time.Hour))
		if !seen[b.Credential] && !expired && b.leaf < begin && (found == nil || b.leaf < found.leaf) {
			found = b
		}
	}
	if found != nil {
		return missingRow(fmt.Sprintf("revocation of certificate %d", found.Credential), found.leaf)
	}
	return nil
}

func (v *verification) crls(ctx context.Context, _ int64) error {
	if !v.first() {
		return nil
	}
	for try := 0; ; try++ {
		before := v.register.size
		rows, err := v.src.CRLRows(ctx)
		if err != nil {
			return err
		}
		if err := v.catchUp(ctx); err != nil {
			return err
		}
		err = v.compareCRLs(rows)
		if err == nil || v.register.size == before || try == rechecks {
			v.report.CRLs = int64(len(rows))
			return err
		}
	}
}

func (v *verification) compareCRLs(rows []CRLRow) error {
	seen := map[crlKey]bool{}
	for _, row := range rows {
		k := crlKey{row.Authority, row.Shard}
		what := fmt.Sprintf("CRL of authority %d, shard %d", row.Authority, row.Shard)
		c := v.register.crls[k]
		if c == nil {
			return surplusRow(what)
		}
		seen[k] = true
		if row.Number != c.number {
			return badRow(what, c.leaf, "its number is %d, the entry says %d", row.Number, c.number)
		}
		if !bytes.Equal(row.SHA256[:], c.der[:]) {
			return badRow(what, c.leaf, "its bytes are not those that were signed")
		}
	}
	var first *crlState
	var key crlKey
	for k, c := range v.register.crls {
		if !seen[k] && (first == nil || c.leaf < first.leaf) {
			first, key = c, k
		}
	}
	if first != nil {
		return missingRow(fmt.Sprintf("CRL of authority %d, shard %d", key.authority, key.shard), first.leaf)
	}
	return nil
}

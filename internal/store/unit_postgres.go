package store

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// Units, confirmations and evidence on PostgreSQL. Their groups have a trip before
// the others, which locks the rows of the orders (so that nodes take turns at an
// order), then reads and locks what else a floor holds. The members are decided
// on it one by one, as on SQLite. Whom the key or the device then refuses gives
// back what it took.

// pgFloor is what a group knows of the factory.
type pgFloor struct {
	floor      *floor
	entered    bool // the transaction has begun with the floor's rows
	refused    map[*pending]error
	overtaken  map[device.CredentialID]error // what a refused member hears instead
	confirming []*pending
	// What confirmations moved: devices to provisioned, credentials to confirmed.
	movedDevices     []device.Device
	movedCredentials []device.Credential
	ofOrders         map[device.CredentialID]string // slots of a changed device that was made under an order
	stations         map[device.CredentialID]bool   // station changed for this member
	pgTaken
}

// issues reports whether a member is an issuance that the floor did not refuse.
func (g *pgGroup) issues(p *pending) bool { return p.confirm == nil && g.refused[p] == nil }

// lockControl keeps the control plane as it is. A station's certificate changes
// it.
func (g *pgGroup) lockControl() string {
	if slices.ContainsFunc(g.live, func(p *pending) bool { return p.Station != nil }) {
		return "SELECT epoch FROM control WHERE id = 1 FOR UPDATE"
	}
	return "SELECT epoch FROM control WHERE id = 1 FOR SHARE"
}

// enter is the trip before, for groups that concern the floor.
func (g *pgGroup) enter(ctx context.Context) error {
	g.pgFloor = pgFloor{
		floor: newFloor(pgQuerier{g.c}), refused: make(map[*pending]error), overtaken: make(map[device.CredentialID]error),
		ofOrders: make(map[device.CredentialID]string), stations: make(map[device.CredentialID]bool),
	}
	var orders, blocks, chips, names, units, before []int64
	for _, p := range g.live {
		p.err, p.again = nil, false
		g.entered = g.entered || p.confirm != nil || p.concerned()
		switch u := p.Unit; {
		case p.confirm != nil:
			orders, units = append(orders, p.confirm.Order), append(units, int64(p.confirm.ID))
		case u != nil:
			orders, blocks, chips, names = append(orders, u.Order), append(blocks, u.Nonce.Block), append(chips, u.Chip), append(names, p.reference)
			before = append(before, int64(u.Replaces), int64(p.Credential.Previous))
		case p.Attestation != nil:
			chips = append(chips, p.ownChip())
		}
	}
	if !g.entered {
		return nil
	}
	b := &pgx.Batch{}
	b.Queue("BEGIN")
	b.Queue(g.lockControl())
	before = distinct(before)
	units = append(units, before...)
	queueRows(b, g.floor.orders, (*floorOrder).places, "SELECT id, "+floorOrderColumns+` FROM production_order
WHERE id = ANY(array_cat($1::bigint[], ARRAY(SELECT order_id FROM unit WHERE id = ANY($2::bigint[])))) ORDER BY id FOR UPDATE`, orders, before)
	queueRows(b, g.floor.blocks, (*floorBlock).places, "SELECT id, "+floorBlockColumns+" FROM nonce_block WHERE id = ANY($1) ORDER BY id FOR UPDATE", blocks)
	queueRows(b, g.floor.chips, (*floorChip).places, "SELECT c.id, "+floorChipColumns+" FROM "+floorChipTables+" WHERE c.id = ANY($1) ORDER BY c.id FOR UPDATE OF c", chips)
	queueRows(b, g.floor.names, (*floorName).places, "SELECT n.id, "+floorNameColumns+" FROM "+floorNameTables+" WHERE n.id = ANY($1)", names)
	queueRows(b, g.floor.units, (*unitRow).places, "SELECT id, "+unitRowColumns+" FROM unit WHERE id = ANY($1)", units)
	g.queueEvidenceRows(b)
	if err := g.c.SendBatch(ctx, b).Close(); err != nil {
		return pgFault(err)
	}
	return g.admitAll(ctx)
}

// distinct returns the numbers in order, without those that stand for none.
func distinct(ids []int64) []int64 {
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	return slices.DeleteFunc(ids, func(id int64) bool { return id == 0 })
}

// queueRows reads rows into a floor, nil for those that are not there.
func queueRows[K ~int64, V any](b *pgx.Batch, rows map[K]*V, places func(*V) []any, sql string, ids []int64, more ...any) {
	if ids = distinct(ids); len(ids) == 0 {
		return
	}
	for _, id := range ids {
		rows[K(id)] = nil
	}
	b.Queue(sql, append([]any{ids}, more...)...).Query(func(rs pgx.Rows) error {
		for rs.Next() {
			var id int64
			v := new(V)
			if err := rs.Scan(append([]any{&id}, booleans(places(v))...)...); err != nil {
				return err
			}
			rows[K(id)] = v
		}
		return nil
	})
}

// admitAll decides the members on what was read. Of one device it admits one: a
// second would rest on the first, which may still be refused.
func (g *pgGroup) admitAll(ctx context.Context) error {
	admitted := make(map[device.ID]bool)
	for _, p := range g.live {
		switch {
		case p.confirm != nil:
			g.mayConfirm(p)
		case p.concerned():
			refused, err := g.floor.admit(ctx, p)
			if err != nil {
				return err
			}
			if admitted[p.Credential.Device] {
				refused = device.ErrStale
			}
			if refused != nil {
				g.refused[p] = refused
				continue
			}
			admitted[p.Credential.Device] = true
			g.floor.take(p)
		}
	}
	return nil
}

func (g *pgGroup) mayConfirm(p *pending) {
	u := g.floor.units[p.confirm.ID]
	if u == nil || u.order != p.confirm.Order || u.device != p.confirm.Device || u.state != factory.UnitIssued {
		p.refuseConfirmation(u, u != nil)
		return
	}
	u.state = factory.UnitConfirmed
	g.confirming = append(g.confirming, p)
}

const (
	pgInsertDevices = "INSERT INTO device (" + deviceColumns + `)
SELECT i.id, i.device_serial, i.product, i.site, i.owner, i.region, i.labels, i.state, i.version, i.slots,
i.secret_hash, i.secret_spent_at, i.secret_spki, i.registered_at, i.changed_at, i.order_id, i.chip, i.built_into
FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::bigint[], $9::bigint[], $10::text[],
  $11::bytea[], $12::bigint[], $13::bytea[], $14::bigint[], $15::bigint[], $16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[], $20::bigint[])
  AS i(id, device_serial, product, site, owner, region, labels, state, version, slots,
  secret_hash, secret_spent_at, secret_spki, registered_at, changed_at, order_id, chip, built_into, key, credential)
JOIN spki_key k ON k.id = i.key AND k.credential = i.credential ORDER BY i.id ON CONFLICT (id) DO NOTHING RETURNING slots`
	pgChangeStations = `UPDATE station x SET credential = i.credential, version = x.version + 1, changed_at = i.at,
code_spent_at = CASE WHEN i.spki IS NULL THEN x.code_spent_at ELSE i.at END, code_spki = COALESCE(i.spki, x.code_spki)
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[], $5::bigint[], $6::bigint[]) AS i(id, version, at, spki, key, credential), spki_key k
WHERE x.id = i.id AND x.version = i.version AND k.id = i.key AND k.credential = i.credential RETURNING i.credential`
	pgProvision = `UPDATE device d SET state = 2, version = d.version + 1, changed_at = i.at FROM unnest($1::bigint[], $2::bigint[]) AS i(id, at)
WHERE d.id = i.id AND d.state = 1 RETURNING d.product, d.site, d.owner`
	pgConfirm = `UPDATE credential c SET state = 2, confirmed_at = i.at FROM unnest($1::bigint[], $2::bigint[]) AS i(id, at)
WHERE c.id = i.id AND c.state = 1 AND c.confirmed_at = 0 RETURNING c.device, c.product, c.site, c.owner, c.not_after`
	pgConfirmUsed = `UPDATE credential c SET confirmed_at = i.at FROM unnest($1::bigint[], $2::bigint[]) AS i(id, at)
WHERE c.id = i.id AND c.confirmed_at = 0`
)

// queueNewDevices registers the devices of units whose key was won.
func (g *pgGroup) queueNewDevices(b *pgx.Batch) {
	owners := make(map[string]device.CredentialID) // of slots, which name the credential
	var w columnArrays
	for _, p := range g.live {
		if g.issues(p) && p.newDevice != nil {
			w.add(append(slices.Clone(p.newDevice), p.keyRow, int64(p.Credential.ID))...)
			owners[p.newDevice[9].(string)] = p.Credential.ID
		}
	}
	if len(owners) > 0 {
		b.Queue(pgInsertDevices, w.args(deviceForm)...).Query(func(rs pgx.Rows) error {
			for rs.Next() {
				var slots string
				if err := rs.Scan(&slots); err != nil {
					return err
				}
				g.changed[owners[slots]] = true
			}
			return nil
		})
	}
	g.queueStations(b)
}

func (g *pgGroup) queueStations(b *pgx.Batch) {
	var w columnArrays
	for _, p := range g.live {
		x := p.Station
		if x == nil || !g.issues(p) {
			continue
		}
		var spki []byte
		if x.SpendSPKI != nil {
			spki = x.SpendSPKI[:]
		}
		w.add(x.ID, x.Version, micros(p.Credential.IssuedAt), spki, p.keyRow, int64(p.Credential.ID))
	}
	if w.rows > 0 {
		b.Queue(pgChangeStations, w.args("iiibii")...).Query(func(rs pgx.Rows) error {
			return eachID(rs, func(id int64) { g.stations[device.CredentialID(id)] = true })
		})
	}
}

// stationChanged reports whether a member that is a station's may be accepted.
func (g *pgGroup) stationChanged(p *pending) bool {
	return p.Station == nil || g.stations[p.Credential.ID]
}

// queueConfirmations changes devices and certificates of units that were read
// back.
func (g *pgGroup) queueConfirmations(b *pgx.Batch) {
	if len(g.confirming) == 0 {
		return
	}
	var devices, credentials columnArrays
	for _, p := range slices.SortedFunc(slices.Values(g.confirming), func(x, y *pending) int { return cmpID(x.confirm.Device, y.confirm.Device) }) {
		devices.add(int64(p.confirm.Device), micros(p.confirm.At))
	}
	for _, p := range slices.SortedFunc(slices.Values(g.confirming), func(x, y *pending) int { return cmpID(x.confirm.ID, y.confirm.ID) }) {
		credentials.add(int64(p.confirm.ID), micros(p.confirm.At))
	}
	b.Queue(pgProvision, devices.args("ii")...).Query(func(rs pgx.Rows) error {
		for rs.Next() {
			var d device.Device
			if err := rs.Scan(&d.Product, &d.Site, &d.Owner); err != nil {
				return err
			}
			g.movedDevices = append(g.movedDevices, d)
		}
		return nil
	})
	b.Queue(pgConfirm, credentials.args("ii")...).Query(func(rs pgx.Rows) error {
		for rs.Next() {
			c := device.Credential{State: device.Issued}
			if err := rs.Scan(&c.Device, &c.Product, &c.Site, &c.Owner, at(&c.NotAfter)); err != nil {
				return err
			}
			g.movedCredentials = append(g.movedCredentials, c)
		}
		return nil
	})
	b.Queue(pgConfirmUsed, credentials.args("ii")...)
}

// queueOvertaken finds the refused whose device was changed by another: a retry
// that raced with the request that it repeats.
func (g *pgGroup) queueOvertaken(b *pgx.Batch) {
	var fresh, changing columnArrays
	for _, p := range g.live {
		switch {
		case g.refused[p] == nil:
		case p.newDevice != nil:
			fresh.add(int64(p.Credential.Device), int64(p.Credential.ID))
		default:
			changing.add(int64(p.Change.ID), p.Change.Version, int64(p.Credential.ID))
		}
	}
	if fresh.rows > 0 {
		b.Queue("SELECT i.credential FROM unnest($1::bigint[], $2::bigint[]) AS i(id, credential) JOIN device d ON d.id = i.id", fresh.args("ii")...).
			Query(func(rs pgx.Rows) error {
				return eachID(rs, func(id int64) { g.overtaken[device.CredentialID(id)] = fault.New(fault.UnitSerialTaken) })
			})
	}
	if changing.rows > 0 {
		b.Queue(`SELECT i.credential FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS i(id, version, credential)
WHERE NOT EXISTS (SELECT 1 FROM device d WHERE d.id = i.id AND d.version = i.version)`, changing.args("iii")...).
			Query(func(rs pgx.Rows) error {
				return eachID(rs, func(id int64) { g.overtaken[device.CredentialID(id)] = device.ErrStale })
			})
	}
}

// settleFloor says which units are in, and gives the others' places back. Who was
// refused for a place that is free again is told to decide anew.
func (g *pgGroup) settleFloor() {
	free := false
	for _, p := range slices.Backward(g.live) {
		switch {
		case !p.concerned() || !g.issues(p):
		case p.stored && p.Unit != nil:
			g.floor.issued(p)
		case p.stored:
		default:
			g.floor.giveBack(p)
			free = true
			if p.newDevice != nil && g.won[p.Credential.ID] {
				p.err = fault.New(fault.UnitSerialTaken)
			}
		}
	}
	for p, refused := range g.refused {
		p.err = refused
		switch overtaken := g.overtaken[p.Credential.ID]; {
		case overtaken != nil:
			p.err = overtaken
		case free:
			p.err = device.ErrStale
		}
	}
	for _, p := range g.live {
		if p.confirm != nil && fault.Has(p.err, fault.UnitState) && g.floor.units[p.confirm.ID].live() {
			p.err = device.ErrStale // what was to end it is not stored
		}
	}
	for _, p := range g.confirming {
		p.stored = true
		g.floor.confirmed(p.confirm, g.floor.units[p.confirm.ID].station)
	}
	for _, d := range g.movedDevices {
		g.provisioned(d.Product, d.Site, d.Owner)
	}
	for i := range g.movedCredentials {
		g.moved(&g.movedCredentials[i], device.Confirmed)
	}
}

// replaceAll revokes what the accepted units replace.
func (g *pgGroup) replaceAll(ctx context.Context) error {
	for _, p := range g.live {
		if p.stored && p.Unit != nil && p.Unit.Replaces != 0 {
			if err := g.replace(ctx, pgQuerier{g.c}, p); err != nil {
				return err
			}
		}
	}
	return nil
}

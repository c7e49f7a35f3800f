package store

import (
	"cmp"

	"github.com/jackc/pgx/v5"

	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// columnArrays collects rows as the arrays that unnest takes.
type columnArrays struct {
	rows int
	nums map[int][]int64
	text map[int][]string
	blob map[int][][]byte
}

// add appends a row of int64, string and []byte. A value that is nil is a blob.
func (w *columnArrays) add(values ...any) {
	if w.rows == 0 {
		w.nums, w.text, w.blob = make(map[int][]int64), make(map[int][]string), make(map[int][][]byte)
	}
	w.rows++
	for i, v := range values {
		switch v := v.(type) {
		case int64:
			w.nums[i] = append(w.nums[i], v)
		case string:
			w.text[i] = append(w.text[i], v)
		case []byte:
			w.blob[i] = append(w.blob[i], v)
		}
	}
}

// args returns the columns, by a letter for each: i for numbers, t for text, b
// for bytes.
func (w *columnArrays) args(form string) []any {
	args := make([]any, len(form))
	for i, kind := range form {
		switch kind {
		case 'i':
			args[i] = w.nums[i]
		case 't':
			args[i] = w.text[i]
		default:
			args[i] = w.blob[i]
		}
	}
	return args
}

func cmpID[T ~int64](a, b T) int { return cmp.Compare(a, b) }

// deviceForm is the form of deviceColumns, followed by key and credential.
const deviceForm = "itiiittiitbibiiiiiii"

const (
	pgInsertUnits = `INSERT INTO unit (id, order_id, device, chip, station, state, spare, reference, evidence, confirm_nonce, issued_at,
confirmed_at, ended_at, reason, shipped_at, activated_at)
SELECT i.id, i.order_id, i.device, i.chip, i.station, i.state, i.spare, i.reference, i.evidence, i.confirm_nonce, i.issued_at, 0, 0, '', 0, 0
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[], $9::text[], $10::bytea[], $11::bigint[])
  AS i(id, order_id, device, chip, station, state, spare, reference, evidence, confirm_nonce, issued_at)`
	pgUseChips     = `UPDATE chip c SET state = $3, order_id = 0, device = i.device FROM unnest($1::bigint[], $2::bigint[]) AS i(id, device) WHERE c.id = i.id`
	pgConfirmUnits = `UPDATE unit u SET state = 2, confirmed_at = i.at FROM unnest($1::bigint[], $2::bigint[]) AS i(id, at) WHERE u.id = i.id`
	pgActivate     = `WITH a AS (UPDATE unit u SET activated_at = i.at FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS i(id, at, device)
  WHERE u.id = i.id AND u.device = i.device AND u.activated_at = 0 AND u.state IN (1, 2) RETURNING u.order_id),
n AS (SELECT order_id, count(*) AS n FROM a GROUP BY order_id)
UPDATE production_order o SET activated = o.activated + n.n FROM n WHERE o.id = n.order_id`
	pgKPIs = `INSERT INTO kpi (order_id, station, day, measure, bucket, site, product, total)
SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
  AS i(order_id, station, day, measure, bucket, site, product, total)
ON CONFLICT (order_id, station, day, measure, bucket, site, product) DO UPDATE SET total = kpi.total + excluded.total`
)

// queueFloor writes what the accepted units and confirmations changed.
func (g *pgGroup) queueFloor(b *pgx.Batch) {
	g.queueActivations(b)
	if len(g.stations) > 0 {
		b.Queue(raiseControlOnce)
	}
	if !g.entered {
		return
	}
	g.queueConfirmed(b) // a unit may end in the group that confirms it
	g.queueUnits(b)
	g.queueEvidence(b)
	for _, id := range g.floor.changedOrders() {
		d := &g.floor.orders[id].delta
		b.Queue(countOrder, id, d.Issued, d.Live, d.Confirmed, d.Scrapped, d.Activated)
	}
	for _, id := range g.floor.changedBlocks() {
		b.Queue(useNonces, id, g.floor.blocks[id].used)
	}
	var w columnArrays
	for _, t := range g.floor.kpis.sorted() {
		w.add(t.Order, t.Station, t.Day, int64(t.Measure), t.Bucket, t.Site, t.Product, t.N)
	}
	if w.rows > 0 {
		b.Queue(pgKPIs, w.args("iiiiiiii")...)
	}
}

func (g *pgGroup) queueUnits(b *pgx.Batch) {
	var units, chips columnArrays
	var gone []int64 // units that were replaced
	named := make(map[int64]*pending)
	for _, p := range g.live {
		if p.Unit == nil || !p.stored {
			continue
		}
		units.add(unitValues(p)...)
		if p.chip != nil {
			chips.add(p.Unit.Chip, int64(p.Credential.Device))
		}
		if p.reference != 0 {
			named[p.reference] = p
		}
		if p.Unit.Wrapped != nil {
			b.Queue(insertWrapped, int64(p.Credential.ID), p.Unit.Wrapped, micros(p.Unit.WrappedUntil))
		}
		if p.ending != nil {
			gone = append(gone, int64(p.ending.id))
			b.Queue(replaceUnit, int64(p.ending.id), int64(factory.UnitReplaced), micros(p.Credential.IssuedAt), p.Unit.ReplacesNote)
		}
	}
	if units.rows > 0 {
		b.Queue(pgInsertUnits, units.args("iiiiiiittbi")...)
	}
	if chips.rows > 0 {
		b.Queue(pgUseChips, append(chips.args("ii"), int64(factory.ChipUsed))...)
	}
	for row, p := range named {
		b.Queue(nameUnit, row, p.Unit.Order, p.Unit.Reference, int64(p.Credential.ID))
	}
	if len(gone) > 0 {
		b.Queue("DELETE FROM wrapped_key WHERE id = ANY($1)", gone)
	}
}

func (g *pgGroup) queueConfirmed(b *pgx.Batch) {
	if len(g.confirming) == 0 {
		return
	}
	var w columnArrays
	for _, p := range g.confirming {
		w.add(int64(p.confirm.ID), micros(p.confirm.At))
		for _, o := range p.confirm.Ends {
			b.Queue(noteOverlapEnd, int64(o.Credential), micros(o.EndsAt))
		}
	}
	b.Queue(pgConfirmUnits, w.args("ii")...)
	b.Queue("DELETE FROM wrapped_key WHERE id = ANY($1)", w.nums[0])
}

// queueActivations notes the first operational credentials of units.
func (g *pgGroup) queueActivations(b *pgx.Batch) {
	var w columnArrays
	for _, p := range g.live {
		if !p.stored || !p.activates() || g.ofOrders[p.Credential.ID] == "" {
			continue
		}
		// What we wrote into slots is read again.
		if slots, err := parseSlots(g.ofOrders[p.Credential.ID]); err == nil {
			w.add(int64(slots[device.IDevIDSlot]), micros(p.Credential.IssuedAt), int64(p.Change.ID))
		}
	}
	if w.rows > 0 {
		b.Queue(pgActivate, w.args("iii")...)
	}
}

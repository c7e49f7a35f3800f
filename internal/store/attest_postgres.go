package store

import (
	"bytes"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/birthmark/birthmark/internal/identity/factory"
)

// Evidence on PostgreSQL. The trip before takes tickets and TPMs by inserting them:
// so a row that is not there yet is locked too, and of two nodes with the same one
// the second waits. What nobody who is stored took is deleted with the group's
// other leavings.

// pgTaken are the rows that a group inserted before it knew whether it needs them.
type pgTaken struct {
	freshTickets [][]byte
	freshTPMs    []int64
}

const (
	pgTakeTickets = `INSERT INTO attest_ticket (id, expires_at)
SELECT i.id, i.expires_at FROM unnest($1::bytea[], $2::bigint[]) AS i(id, expires_at) ORDER BY i.id ON CONFLICT DO NOTHING RETURNING id`
	// A row that is there is locked and stays as it is.
	pgTakeTPMs = `INSERT INTO tpm AS t (id, ek, device, chip, ak, plain, reset_count, restart_count, clock, safe, firmware, vendor, model, seen_at)
SELECT i.id, i.ek, 0, 0, '', 0, 0, 0, 0, 0, 0, '', '', 0 FROM unnest($1::bigint[], $2::bytea[]) AS i(id, ek) ORDER BY i.id
ON CONFLICT (id) DO UPDATE SET seen_at = t.seen_at RETURNING t.id, ` + floorTPMColumns
	pgSetTPMs = `UPDATE tpm t SET ek = i.ek, device = i.device, chip = i.chip, ak = i.ak, plain = i.plain, reset_count = i.reset_count,
restart_count = i.restart_count, clock = i.clock, safe = i.safe, firmware = i.firmware, vendor = i.vendor, model = i.model, seen_at = i.seen_at
FROM unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bytea[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[],
  $11::bigint[], $12::text[], $13::text[], $14::bigint[])
  AS i(id, ek, device, chip, ak, plain, reset_count, restart_count, clock, safe, firmware, vendor, model, seen_at) WHERE t.id = i.id`
	pgInsertEvidence = `INSERT INTO evidence (id, device, kind, claims, content, digest, made_at)
SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::bytea[], $6::bytea[], $7::bigint[])
  AS i(id, device, kind, claims, content, digest, made_at)`
)

// queueEvidenceRows takes the tickets and TPMs of the members.
func (g *pgGroup) queueEvidenceRows(b *pgx.Batch) {
	var tickets, tpms columnArrays
	asked := make(map[int64]bool)
	for _, p := range g.live {
		if p.Attestation == nil {
			continue
		}
		g.floor.setEvidence()
		if k := &p.Attestation.Ticket; k.ID != [16]byte{} {
			if _, twice := g.floor.tickets[k.ID]; !twice {
				g.floor.tickets[k.ID] = true // unless it turns out to be new
				tickets.add(k.ID[:], micros(k.ExpiresAt))
			}
		}
		if p.tpmRow != 0 && !asked[p.tpmRow] {
			asked[p.tpmRow] = true
			tpms.add(p.tpmRow, p.Attestation.TPM.EK[:])
		}
	}
	if tickets.rows > 0 {
		b.Queue(pgTakeTickets, tickets.args("bi")...).Query(g.tookTickets)
	}
	if tpms.rows > 0 {
		b.Queue(pgTakeTPMs, tpms.args("ib")...).Query(g.tookTPMs)
	}
}

func (g *pgGroup) tookTickets(rs pgx.Rows) error {
	for rs.Next() {
		var id []byte
		if err := rs.Scan(&id); err != nil {
			return err
		}
		g.floor.tickets[[16]byte(id)] = false
		g.freshTickets = append(g.freshTickets, bytes.Clone(id))
	}
	return nil
}

func (g *pgGroup) tookTPMs(rs pgx.Rows) error {
	for rs.Next() {
		var id int64
		x := new(floorTPM)
		if err := scanFloorTPM(pgRow{rs}, x, &id); err != nil {
			return err
		}
		g.floor.tpms[id] = x
		if x.device == 0 {
			g.freshTPMs = append(g.freshTPMs, id)
		}
	}
	return nil
}

// queueEvidence writes what the accepted members showed, and deletes what was
// taken for others.
func (g *pgGroup) queueEvidence(b *pgx.Batch) {
	unused := slices.DeleteFunc(g.freshTickets, func(id []byte) bool { return g.floor.tickets[[16]byte(id)] })
	if len(unused) > 0 {
		b.Queue("DELETE FROM attest_ticket WHERE id = ANY($1::bytea[])", unused)
	}
	nobodys := slices.DeleteFunc(g.freshTPMs, func(id int64) bool { return g.floor.tpms[id].device != 0 })
	if len(nobodys) > 0 {
		b.Queue("DELETE FROM tpm WHERE id = ANY($1)", nobodys)
	}
	var tpms, evidence, chips columnArrays
	for _, p := range g.live {
		if p.Attestation == nil || !p.stored {
			continue
		}
		evidence.add(evidenceValues(p)...)
		if p.tpmRow != 0 {
			tpms.add(tpmValues(p)...)
		}
		if p.ownChip() != 0 && p.chip != nil {
			chips.add(p.ownChip(), int64(p.Credential.Device))
		}
	}
	if tpms.rows > 0 {
		b.Queue(pgSetTPMs, tpms.args(tpmForm)...)
	}
	if chips.rows > 0 {
		b.Queue(pgUseChips, append(chips.args("ii"), int64(factory.ChipUsed))...)
	}
	if evidence.rows > 0 {
		b.Queue(pgInsertEvidence, evidence.args("iitibbi")...)
	}
}

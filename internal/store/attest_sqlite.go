package store

import (
	"context"

	"github.com/birthmark/birthmark/internal/identity/factory"
)

const upsertTPM = `INSERT INTO tpm (id, ek, device, chip, ak, plain, reset_count, restart_count, clock, safe, firmware, vendor, model, seen_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT (id) DO UPDATE SET ek = excluded.ek, device = excluded.device,
chip = excluded.chip, ak = excluded.ak, plain = excluded.plain, reset_count = excluded.reset_count, restart_count = excluded.restart_count,
clock = excluded.clock, safe = excluded.safe, firmware = excluded.firmware, vendor = excluded.vendor, model = excluded.model, seen_at = excluded.seen_at`

// evidence writes what an accepted member showed.
func (g *liteGroup) evidence(ctx context.Context, p *pending) error {
	g.floor.takeEvidence(p)
	a := p.Attestation
	if k := &a.Ticket; k.ID != [16]byte{} {
		if _, err := g.c.exec(ctx, spendTicket, k.ID[:], micros(k.ExpiresAt)); err != nil {
			return err
		}
	}
	if p.tpmRow != 0 {
		if _, err := g.c.exec(ctx, upsertTPM, tpmValues(p)...); err != nil {
			return err
		}
	}
	if p.ownChip() != 0 && p.chip != nil {
		if _, err := g.c.exec(ctx, useChip, p.ownChip(), int64(factory.ChipUsed), int64(p.Credential.Device)); err != nil {
			return err
		}
	}
	_, err := g.c.exec(ctx, insertEvidence, evidenceValues(p)...)
	return err
}

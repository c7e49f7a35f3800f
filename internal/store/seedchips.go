package store

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// SeedChipsConfig says how many chips SeedChips lists, and which.
type SeedChipsConfig struct {
	Chips    int    // number First to First+Chips-1
	First    int    // default 1
	Vendor   string // default "seed"
	ChipType string // default "seed-chip"
	Product  int64  // 0: any that names the type
	At       time.Time
}

// SeedChipUID is the UID of the n-th seeded chip, from 1.
func SeedChipUID(n int) string { return fmt.Sprintf("5eed%012x", n) }

// SeedChipKey is the private P-256 key of the n-th seeded chip.
func SeedChipKey(n int) *ecdsa.PrivateKey {
	for try := 0; ; try++ {
		d := sha256.Sum256(fmt.Appendf(nil, "seed chip %d %d", n, try))
		if key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d[:]); err == nil {
			return key
		}
	}
}

// seedChip is the n-th chip with its one key.
func seedChip(c *SeedChipsConfig, n int) (factory.Chip, error) {
	spki, err := x509.MarshalPKIXPublicKey(&SeedChipKey(n).PublicKey)
	return factory.Chip{
		Vendor: c.Vendor, UID: SeedChipUID(n), ChipType: c.ChipType, Entry: int64(n - c.First + 1), Product: c.Product,
		State: factory.ChipListed, Keys: []factory.ChipKey{{Slot: "0", SPKI: spki}},
	}, err
}

// SeedChips lists chips in a published manifest of their own, each with a key
// that SeedChipKey knows. For tests and benchmarks.
func (s *Store) SeedChips(ctx context.Context, c SeedChipsConfig) (factory.Manifest, error) {
	c.First, c.Vendor, c.ChipType = cmp.Or(c.First, 1), cmp.Or(c.Vendor, "seed"), cmp.Or(c.ChipType, "seed-chip")
	if c.At.IsZero() {
		c.At = s.cfg.Now()
	}
	entry := func(kind ledger.Kind) ledger.Entry {
		return ledger.Entry{Kind: kind, At: c.At, Actor: "system", Body: ledger.JSON(map[string]int{"chips": c.Chips})}
	}
	m, err := s.BeginManifest(ctx, factory.Manifest{
		Name: "seed", Format: "seed", Digest: sha256.Sum256(fmt.Appendf(nil, "%s %d %d", c.Vendor, c.First, c.Chips)), Product: c.Product,
		Importer: "system", ImportedAt: c.At,
	}, entry(ledger.ManifestStaged))
	if err != nil {
		return m, err
	}
	for from := c.First; from < c.First+c.Chips; from += maxStage {
		chips, err := seedSome(&c, from, min(from+maxStage, c.First+c.Chips))
		if err != nil {
			return m, err
		}
		duplicates, err := s.StageChips(ctx, m.ID, chips)
		if err == nil && len(duplicates) > 0 {
			err = fmt.Errorf("seed: chip %s is listed already", duplicates[0].UID)
		}
		if err != nil {
			return m, err
		}
	}
	m.Chips, m.Visible = int64(c.Chips), true
	return m, s.PublishManifest(ctx, m, entry(ledger.ManifestImported))
}

// seedSome makes the chips from one number to before another, on all processors.
func seedSome(c *SeedChipsConfig, from, to int) ([]factory.Chip, error) {
	const share = 64
	chips, errs := make([]factory.Chip, to-from), make(chan error, (to-from)/share+1)
	var wg sync.WaitGroup
	for start := from; start < to; start += share {
		wg.Go(func() {
			for n := start; n < min(start+share, to); n++ {
				var err error
				if chips[n-from], err = seedChip(c, n); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return chips, <-errs
}

// SeedUnits makes the first n seeded certificates, which are confirmed then, units
// of an order, whose quantity is the caller's matter. For benchmarks: the ledger
// has one entry for all.
func (s *Store) SeedUnits(ctx context.Context, order, station int64, n int) error {
	const insert = `INSERT INTO unit (id, order_id, device, chip, station, state, spare, reference, evidence, confirm_nonce,
issued_at, confirmed_at, ended_at, reason, shipped_at, activated_at)
SELECT id, CAST($1 AS BIGINT), device, 0, CAST($2 AS BIGINT), CAST($3 AS BIGINT), 0, '', 'none', spki, issued_at, issued_at, 0, '', 0, 0
FROM credential WHERE id > $4 AND kind = 'idevid' AND device <> 0 ORDER BY id LIMIT $5`
	var last int64
	for left := n; left > 0; {
		var made int64
		err := s.write(ctx, func(t *tx) error {
			var err error
			if made, err = t.exec(ctx, insert, order, station, int64(factory.UnitConfirmed), last, min(left, maxStage)); err != nil {
				return err
			}
			return t.row(ctx, "SELECT COALESCE(MAX(id), 0) FROM unit").Scan(&last)
		})
		if err == nil && made == 0 {
			err = fmt.Errorf("seed: %d units more than certificates", left)
		}
		if err != nil {
			return err
		}
		left -= int(made)
	}
	return s.write(ctx, func(t *tx) error {
		_, err := t.exec(ctx, "UPDATE production_order SET issued = issued + $2, live = live + $2, confirmed = confirmed + $2 WHERE id = $1", order, n)
		return err
	}, ledger.Entry{Kind: ledger.OrderChanged, At: s.cfg.Now(), Actor: "system", Body: ledger.JSON(map[string]int{"seeded": n})})
}

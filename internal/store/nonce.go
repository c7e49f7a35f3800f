package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// maxNonces is more nonces than a block has: its bitmap is written with every
// group that uses one.
const maxNonces = 1 << 20

// prunedAtOnce is how many rows one transaction of a clean-up deletes.
const prunedAtOnce = 500

// AddNonceBlock stores a block of which no nonce was used. Its id is drawn at
// random, so that it tells nothing and never comes again.
func (s *Store) AddNonceBlock(ctx context.Context, b factory.NonceBlock, entries ...ledger.Entry) (int64, error) {
	if b.Count < 1 || b.Count > maxNonces {
		return 0, fmt.Errorf("a block of %d nonces", b.Count)
	}
	var random [8]byte
	if _, err := io.ReadFull(s.cfg.Rand, random[:]); err != nil {
		return 0, fmt.Errorf("id of a nonce block: %w", err)
	}
	id := int64(max(binary.BigEndian.Uint64(random[:])>>1, 1))
	err := s.write(ctx, func(t *tx) error {
		_, err := t.exec(ctx, "INSERT INTO nonce_block (id, order_id, station, size, key, used, expires_at, offline) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
			id, b.Order, b.Station, b.Count, b.Key[:], make([]byte, (b.Count+7)/8), b.ExpiresAt, b.Offline)
		return err
	}, entries...)
	if err != nil {
		return 0, err
	}
	return id, nil
}

// NonceBlock returns a block, or fault.NonceInvalid.
func (s *Store) NonceBlock(ctx context.Context, id int64) (factory.NonceBlock, error) {
	b := factory.NonceBlock{ID: id}
	err := s.read.row(ctx, "SELECT order_id, station, size, key, used, expires_at, offline FROM nonce_block WHERE id = $1", id).
		Scan(&b.Order, &b.Station, &b.Count, fixed(b.Key[:]), &b.Used, at(&b.ExpiresAt), &b.Offline)
	if noRows(err) {
		return factory.NonceBlock{}, fault.New(fault.NonceInvalid)
	}
	return b, err
}

// PruneNonceBlocks removes blocks that expired before a time. The table is
// small: only what has not expired stays.
func (s *Store) PruneNonceBlocks(ctx context.Context, before time.Time) error {
	for more := true; more; {
		err := s.write(ctx, func(t *tx) error {
			n, err := t.exec(ctx, "DELETE FROM nonce_block WHERE id IN (SELECT id FROM nonce_block WHERE expires_at < $1 ORDER BY id LIMIT $2)", before, prunedAtOnce)
			more = n == prunedAtOnce
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// tpmColumns are what scanTPM reads.
const tpmColumns = "t.ek, t.device, t.chip, t.ak, t.plain, t.reset_count, t.restart_count, t.clock, t.safe, t.firmware, t.vendor, t.model, t.seen_at"

func scanTPM(r row) (attest.TPMRecord, error) {
	var x attest.TPMRecord
	err := r.Scan(fixed(x.EK[:]), (*int64)(&x.Device), &x.Chip, fixed(x.AK[:]), &x.Plain, &x.ResetCount, &x.RestartCount,
		word(&x.Clock), &x.Safe, word(&x.Firmware), &x.Vendor, &x.Model, at(&x.SeenAt))
	return x, err
}

// word scans 64 bits that are stored as a number with a sign.
func word(v *uint64) *wordScanner { return (*wordScanner)(v) }

type wordScanner uint64

// Scan takes the number with its sign.
func (w *wordScanner) Scan(src any) error {
	n, ok := src.(int64)
	if !ok {
		return fmt.Errorf("64 bits are stored as %T", src)
	}
	*w = wordScanner(n)
	return nil
}

// Evidence returns what was shown for a credential, or fault.CredentialUnknown.
func (s *Store) Evidence(ctx context.Context, scope access.Scope, id device.CredentialID) (attest.Evidence, error) {
	var e attest.Evidence
	err := s.read.row(ctx, `SELECT e.id, e.device, e.kind, e.claims, e.content, e.digest, e.made_at
FROM evidence e JOIN credential c ON c.id = e.id WHERE e.id = $1`+scopeSQL(scope, "c."), int64(id)).
		Scan((*int64)(&e.Credential), (*int64)(&e.Device), &e.Kind, &e.Claims, &e.Content, fixed(e.Digest[:]), at(&e.At))
	if noRows(err) {
		return attest.Evidence{}, fault.New(fault.CredentialUnknown)
	}
	return e, err
}

// TPMOf returns the TPM of a device that was seen last, or fault.DeviceUnknown.
// Index tpm_device.
func (s *Store) TPMOf(ctx context.Context, scope access.Scope, id device.ID) (attest.TPMRecord, error) {
	x, err := scanTPM(s.read.row(ctx, "SELECT "+tpmColumns+" FROM tpm t JOIN device d ON d.id = t.device WHERE t.device = $1"+
		scopeSQL(scope, "d.")+" ORDER BY t.seen_at DESC, t.id LIMIT 1", int64(id)))
	if noRows(err) {
		return attest.TPMRecord{}, fault.New(fault.DeviceUnknown)
	}
	return x, err
}

// TPM returns the record of an EK, or fault.ChipUnknown. It may show what is not
// durable yet, as Chip does.
func (s *Store) TPM(ctx context.Context, ek [32]byte) (x attest.TPMRecord, err error) {
	err = s.engine.look(ctx, func(q querier) error {
		x, err = scanTPM(q.row(ctx, "SELECT "+tpmColumns+" FROM tpm t WHERE t.id = $1", s.spkiRow(&ek)))
		if noRows(err) || err == nil && x.EK != ek {
			err = fault.New(fault.ChipUnknown)
		}
		return err
	})
	if err != nil {
		return attest.TPMRecord{}, err
	}
	return x, nil
}

// ResetTPM forgets the counters of a device's TPMs, or fault.DeviceUnknown.
func (s *Store) ResetTPM(ctx context.Context, id device.ID, entries ...ledger.Entry) error {
	return s.write(ctx, func(t *tx) error {
		n, err := t.exec(ctx, "UPDATE tpm SET ak = $2, plain = 0, reset_count = 0, restart_count = 0, clock = 0, safe = 0 WHERE device = $1", int64(id), make([]byte, 32))
		if err == nil && n == 0 {
			err = fault.New(fault.DeviceUnknown)
		}
		return err
	}, entries...)
}

// Record writes entries that no other write carries.
func (s *Store) Record(ctx context.Context, entries ...ledger.Entry) error {
	if len(entries) == 0 {
		return errors.New("nothing to record")
	}
	return s.write(ctx, func(*tx) error { return nil }, entries...)
}

// TicketKey returns the key that seals challenges; the first caller makes it.
func (s *Store) TicketKey(ctx context.Context) ([32]byte, error) {
	if k := s.ticketKey.Load(); k != nil {
		return *k, nil
	}
	k, err := s.readTicketKey(ctx)
	if noRows(err) {
		if err := s.makeTicketKey(ctx); err != nil {
			return [32]byte{}, err
		}
		k, err = s.readTicketKey(ctx)
	}
	if err != nil {
		return [32]byte{}, err
	}
	s.ticketKey.Store(&k)
	return k, nil
}

func (s *Store) readTicketKey(ctx context.Context) (k [32]byte, err error) {
	err = s.read.row(ctx, "SELECT ticket_key FROM attest_key WHERE id = 1").Scan(fixed(k[:]))
	return k, err
}

// makeTicketKey stores a fresh key unless another node was first.
func (s *Store) makeTicketKey(ctx context.Context) error {
	var fresh [32]byte
	if _, err := io.ReadFull(s.cfg.Rand, fresh[:]); err != nil {
		return fmt.Errorf("key of challenges: %w", err)
	}
	return s.write(ctx, func(t *tx) error {
		_, err := t.exec(ctx, "INSERT INTO attest_key (id, ticket_key) VALUES (1, $1) ON CONFLICT DO NOTHING", fresh[:])
		return err
	})
}

const spendTicket = "INSERT INTO attest_ticket (id, expires_at) VALUES ($1, $2) ON CONFLICT DO NOTHING"

// SpendTicket makes a ticket unusable, or fault.TicketUsed.
func (s *Store) SpendTicket(ctx context.Context, k device.Ticket, entries ...ledger.Entry) error {
	if err := checkTicket(&k); err != nil {
		return err
	}
	return s.write(ctx, func(t *tx) error {
		n, err := t.exec(ctx, spendTicket, k.ID[:], k.ExpiresAt)
		if err == nil && n == 0 {
			err = fault.New(fault.TicketUsed)
		}
		return err
	}, entries...)
}

// checkTicket refuses a ticket that would be forgotten too early or never: it is
// found by the time in its id.
func checkTicket(k *device.Ticket) error {
	made := binary.BigEndian.Uint64(k.ID[:8])
	if k.ExpiresAt.IsZero() || made > uint64(micros(k.ExpiresAt)) {
		return errors.New("a ticket's id begins with the time at which it was made, before its expiry")
	}
	return nil
}

// PruneTickets forgets tickets that expired before a time. They were made before
// they expired, so they are at the beginning of the table, with none among them
// but those that expire soon.
func (s *Store) PruneTickets(ctx context.Context, before time.Time) error {
	end := binary.BigEndian.AppendUint64(nil, uint64(micros(before)))
	for more := true; more; {
		err := s.write(ctx, func(t *tx) error {
			n, err := t.exec(ctx, `DELETE FROM attest_ticket WHERE id IN
(SELECT id FROM attest_ticket WHERE id < $1 AND expires_at < $2 ORDER BY id LIMIT $3)`, end, before, prunedAtOnce)
			more = n == prunedAtOnce
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

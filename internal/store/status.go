package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/status"
)

// certificateHold is the CRL reason of a hold (RFC 5280, section 5.3.1).
const certificateHold = 6

// Revoke moves a credential to device.Revoked, or device.Held for reason 6, and
// adds it to the list of its shard. What the list says of the certificate comes
// from its row; shard, time and reason are the caller's. A unit of which it is
// the initial identity ends with it.
func (s *Store) Revoke(ctx context.Context, scope access.Scope, r status.Revocation, entries ...ledger.Entry) error {
	return s.write(ctx, func(t *tx) error {
		c, err := readCredential(ctx, t, scope, r.Credential)
		if err != nil {
			return err
		}
		unitEnded, err := endUnitOf(ctx, t, &c, &r)
		if err != nil {
			return err
		}
		locked, err := lockCredential(ctx, t, scope, r.Credential, r.At)
		if err != nil {
			return err
		}
		if locked.State == device.Revoked || locked.State == device.Held && r.Reason == certificateHold {
			return fault.New(fault.AlreadyRevoked)
		}
		if err := revokeCredential(ctx, t, locked, &r); err != nil {
			return err
		}
		return unitEnded()
	}, entries...)
}

// revokeCredential moves a credential whose device's row is held and lists it.
func revokeCredential(ctx context.Context, t *tx, c *device.Credential, r *status.Revocation) error {
	next := device.Revoked
	if r.Reason == certificateHold {
		next = device.Held
	}
	if err := moveCredential(ctx, t, c, next, r.Reason, r.At); err != nil {
		return err
	}
	if err := unlist(ctx, t, c.ID); err != nil {
		return err
	}
	if next == device.Revoked {
		if _, err := t.exec(ctx, "DELETE FROM overlap WHERE credential = $1", int64(c.ID)); err != nil {
			return err
		}
	}
	_, err := t.exec(ctx, `INSERT INTO revocation (authority, shard, credential, cert_serial, revoked_at, reason, not_after)
VALUES ($1, $2, $3, $4, $5, $6, $7)`, c.Authority, r.Shard, int64(c.ID), c.CertSerial, r.At, r.Reason, c.NotAfter)
	return err
}

// Release moves a held credential back to what it was, or fault.NotOnHold.
func (s *Store) Release(ctx context.Context, scope access.Scope, id device.CredentialID, entries ...ledger.Entry) error {
	return s.write(ctx, func(t *tx) error {
		c, err := lockCredential(ctx, t, scope, id, s.cfg.Now())
		if err != nil {
			return err
		}
		if c.State != device.Held {
			return fault.New(fault.NotOnHold)
		}
		before, err := stateBeforeHold(ctx, t, c)
		if err != nil {
			return err
		}
		if err := moveCredential(ctx, t, c, before, 0, time.Time{}); err != nil {
			return err
		}
		return unlist(ctx, t, id)
	}, entries...)
}

// stateBeforeHold is what a held credential would be now without the hold. It
// may have been replaced before or since.
func stateBeforeHold(ctx context.Context, t *tx, c *device.Credential) (device.CredentialState, error) {
	if c.Device != 0 {
		d, err := readDevice(ctx, t, access.Everything(), c.Device)
		if err != nil {
			return 0, err
		}
		if d.Current[c.Slot()] != c.ID {
			return device.Superseded, nil
		}
	}
	if c.ConfirmedAt.IsZero() {
		return device.Issued, nil
	}
	return device.Confirmed, nil
}

// lockCredential makes stale whatever was decided while the credential was as
// it is, and returns it: STORE and all others that change a device's
// credentials take the device's row first.
func lockCredential(ctx context.Context, t *tx, scope access.Scope, id device.CredentialID, at time.Time) (*device.Credential, error) {
	c, err := readCredential(ctx, t, scope, id)
	if err != nil {
		return nil, err
	}
	if c.Device == 0 {
		err = t.bumpControl(ctx)
	} else {
		_, err = t.exec(ctx, "UPDATE device SET version = version + 1, changed_at = $2 WHERE id = $1", int64(c.Device), at)
	}
	if err != nil {
		return nil, err
	}
	c, err = readCredential(ctx, t, scope, id)
	return &c, err
}

// moveCredential changes the state of a credential that lockCredential returned.
func moveCredential(ctx context.Context, t *tx, c *device.Credential, next device.CredentialState, reason int, at time.Time) error {
	n, err := t.exec(ctx, "UPDATE credential SET state = $3, reason = $4, revoked_at = $5 WHERE id = $1 AND state = $2",
		int64(c.ID), c.State, next, reason, at)
	if err != nil {
		return err
	}
	if n == 0 { // confirmed since it was read
		return errTryAgain
	}
	t.tallyCredential(c, -1)
	c.State, c.Reason, c.RevokedAt = next, reason, at
	t.tallyCredential(c, 1)
	return nil
}

// unlist takes a credential off the list. Index revocation_credential.
func unlist(ctx context.Context, t *tx, id device.CredentialID) error {
	_, err := t.exec(ctx, "DELETE FROM revocation WHERE credential = $1", int64(id))
	return err
}

// revocationsAtOnce is how many rows one transaction prunes.
const revocationsAtOnce = 200

// PruneRevocations takes credentials off the list of a shard if they ended
// before a time. Index: the primary key.
func (s *Store) PruneRevocations(ctx context.Context, authority int64, shard int, before time.Time, ids []device.CredentialID) error {
	for part := range slices.Chunk(ids, revocationsAtOnce) {
		err := s.write(ctx, func(t *tx) error {
			for _, id := range part {
				_, err := t.exec(ctx, "DELETE FROM revocation WHERE authority = $1 AND shard = $2 AND credential = $3 AND not_after < $4",
					authority, shard, int64(id), before)
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// EndedOverlaps returns credentials whose overlap is over, at most limit. Index
// overlap_ends.
func (s *Store) EndedOverlaps(ctx context.Context, now time.Time, limit int) ([]device.CredentialID, error) {
	var ids []device.CredentialID
	err := each(s.read.query(ctx, "SELECT credential FROM overlap WHERE ends_at <= $1 ORDER BY ends_at, credential LIMIT $2", now, limit))(func(r row) error {
		var id int64
		err := r.Scan(&id)
		ids = append(ids, device.CredentialID(id))
		return err
	})
	return ids, err
}

// Revocations returns rows of one authority and shard in order of credential
// id. Index: the primary key.
func (s *Store) Revocations(ctx context.Context, authority int64, shard int, after device.CredentialID, limit int) ([]status.Revocation, error) {
	list := make([]status.Revocation, 0, min(max(limit, 0), walkWindow))
	err := each(s.read.query(ctx, `SELECT credential, cert_serial, revoked_at, reason, not_after FROM revocation
WHERE authority = $1 AND shard = $2 AND credential > $3 ORDER BY credential LIMIT $4`, authority, shard, int64(after), limit))(func(r row) error {
		v := status.Revocation{Authority: authority, Shard: shard}
		var id, reason, revokedAt, notAfter int64
		if err := r.Scan(&id, &v.CertSerial, &revokedAt, &reason, &notAfter); err != nil {
			return err
		}
		v.Credential, v.Reason, v.At, v.NotAfter = device.CredentialID(id), int(reason), fromMicros(revokedAt), fromMicros(notAfter)
		list = append(list, v)
		return nil
	})
	return list, err
}

// ReserveCRLNumber returns a number above all that were reserved before for
// this authority and shard, and the newest thisUpdate that was published.
func (s *Store) ReserveCRLNumber(ctx context.Context, authority int64, shard int) (number int64, notBefore time.Time, err error) {
	err = s.write(ctx, func(t *tx) error {
		i, err := readInstallation(ctx, t)
		if err != nil && !fault.Has(err, fault.DataFolderState) {
			return err
		}
		var counter int64
		err = t.row(ctx, `INSERT INTO crl_number (authority, shard, counter, this_update) VALUES ($1, $2, 1, 0)
ON CONFLICT (authority, shard) DO UPDATE SET counter = crl_number.counter + 1 RETURNING counter, this_update`,
			authority, shard).Scan(&counter, at(&notBefore))
		number = i.RestoreEpoch<<32 + counter
		return err
	})
	return number, notBefore, err
}

// crlPart is how many octets of a list one transaction writes.
const crlPart = 512 << 10

// SaveCRL publishes c if its number is above the published one's and its
// thisUpdate not before, and the lease's fence was not passed on; otherwise
// fault.NodeFenced. A large list is staged in parts, each in a transaction of
// its own, and appears in one step.
func (s *Store) SaveCRL(ctx context.Context, c status.CRL, lease ledger.Lease, entries ...ledger.Entry) error {
	parts := max(1, (len(c.DER)+crlPart-1)/crlPart)
	for i := range parts - 1 {
		err := s.write(ctx, func(t *tx) error {
			if err := mayPublish(ctx, t, &c, lease); err != nil {
				return err
			}
			return savePart(ctx, t, &c, i)
		})
		if err != nil {
			return err
		}
	}
	digest := sha256.Sum256(c.DER)
	err := s.write(ctx, func(t *tx) error {
		if err := mayPublish(ctx, t, &c, lease); err != nil {
			return err
		}
		if err := savePart(ctx, t, &c, parts-1); err != nil {
			return err
		}
		if _, err := t.exec(ctx, `INSERT INTO crl (authority, shard, number, this_update, next_update, entries, parts, digest)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (authority, shard) DO UPDATE SET number = excluded.number, this_update = excluded.this_update,
next_update = excluded.next_update, entries = excluded.entries, parts = excluded.parts, digest = excluded.digest`,
			c.Authority, c.Shard, c.Number, c.ThisUpdate, c.NextUpdate, c.Entries, parts, digest[:]); err != nil {
			return err
		}
		_, err := t.exec(ctx, `INSERT INTO crl_number (authority, shard, counter, this_update) VALUES ($1, $2, $3, $4)
ON CONFLICT (authority, shard) DO UPDATE SET this_update = excluded.this_update`,
			c.Authority, c.Shard, c.Number&(1<<32-1), c.ThisUpdate)
		return err
	}, entries...)
	if err != nil {
		return err
	}
	s.dropParts(ctx, &c)
	return nil
}

func mayPublish(ctx context.Context, t *tx, c *status.CRL, lease ledger.Lease) error {
	if err := holdLease(ctx, t, lease); err != nil {
		return err
	}
	var number int64
	var newest time.Time
	err := t.row(ctx, "SELECT number, this_update FROM crl WHERE authority = $1 AND shard = $2", c.Authority, c.Shard).Scan(&number, at(&newest))
	if noRows(err) {
		return nil
	}
	if err == nil && (c.Number <= number || c.ThisUpdate.Before(newest)) {
		err = fault.New(fault.NodeFenced, "a newer CRL is published")
	}
	return err
}

func savePart(ctx context.Context, t *tx, c *status.CRL, i int) error {
	data := c.DER[i*crlPart : min((i+1)*crlPart, len(c.DER))]
	_, err := t.exec(ctx, `INSERT INTO crl_part (authority, shard, number, part, data) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (authority, shard, number, part) DO UPDATE SET data = excluded.data`, c.Authority, c.Shard, c.Number, i, blob(data))
	return err
}

// dropParts deletes the parts of lists before c, a few at a time. What it leaves
// the next publication deletes.
func (s *Store) dropParts(ctx context.Context, c *status.CRL) {
	for {
		err := s.write(ctx, func(t *tx) error {
			n, err := t.exec(ctx, `DELETE FROM crl_part WHERE (authority, shard, number, part) IN
(SELECT authority, shard, number, part FROM crl_part WHERE authority = $1 AND shard = $2 AND number < $3 ORDER BY number, part LIMIT 8)`,
				c.Authority, c.Shard, c.Number)
			if err == nil && n == 0 {
				err = errNothing
			}
			return err
		})
		if errors.Is(err, errNothing) {
			return
		}
		if err != nil {
			s.cfg.Logger.Warn("parts of an old CRL were not deleted yet", "error", err)
			return
		}
	}
}

// CurrentCRL returns the published list, or fault.CRLUnknown.
func (s *Store) CurrentCRL(ctx context.Context, authority int64, shard int) (status.CRL, error) {
	var c status.CRL
	err := s.engine.snapshot(ctx, func(q querier) (err error) {
		var parts int
		if c, parts, err = readCRL(ctx, q, authority, shard); err != nil {
			return err
		}
		if parts > 1 {
			c.DER = make([]byte, 0, parts*crlPart)
		}
		return each(q.query(ctx, "SELECT data FROM crl_part WHERE authority = $1 AND shard = $2 AND number = $3 AND part < $4 ORDER BY part",
			authority, shard, c.Number, parts))(func(r row) error {
			var data []byte
			err := r.Scan(&data)
			c.DER = append(c.DER, data...)
			return err
		})
	})
	return c, err
}

// CurrentCRLNumber returns the published list without its bytes.
func (s *Store) CurrentCRLNumber(ctx context.Context, authority int64, shard int) (status.CRL, error) {
	c, _, err := readCRL(ctx, s.read, authority, shard)
	return c, err
}

func readCRL(ctx context.Context, q querier, authority int64, shard int) (c status.CRL, parts int, err error) {
	c = status.CRL{Authority: authority, Shard: shard}
	err = q.row(ctx, "SELECT number, this_update, next_update, entries, parts FROM crl WHERE authority = $1 AND shard = $2", authority, shard).
		Scan(&c.Number, at(&c.ThisUpdate), at(&c.NextUpdate), &c.Entries, &parts)
	if noRows(err) {
		return status.CRL{}, 0, fault.New(fault.CRLUnknown)
	}
	return c, parts, err
}

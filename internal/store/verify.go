package store

import (
	"context"
	"crypto/sha256"
	"maps"

	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// CredentialRows pages over all credentials by id, for ledger.Verify. Primary
// key of credential.
func (s *Store) CredentialRows(ctx context.Context, after int64, limit int) ([]ledger.CredentialRow, error) {
	list := make([]ledger.CredentialRow, 0, limit)
	err := each(s.read.query(ctx, "SELECT "+credentialColumns+" FROM credential WHERE id > $1 ORDER BY id LIMIT $2", after, limit))(func(r row) error {
		var c device.Credential
		if err := scanCredential(r, &c); err != nil {
			return err
		}
		list = append(list, ledger.CredentialRow{
			ID: int64(c.ID), CertSerial: c.CertSerial, Authority: c.Authority, AuthorityIndex: c.AuthorityIndex, Profile: c.Profile,
			Kind: c.Kind, Purpose: c.Purpose, Device: int64(c.Device), Product: c.Product, Site: c.Site, Owner: c.Owner,
			State: uint8(c.State), Reason: c.Reason, RevokedAt: c.RevokedAt, KeyKind: uint8(c.KeyKind),
			NotBefore: c.NotBefore, NotAfter: c.NotAfter, SPKI: c.SPKIDigest, Idempotency: c.Idempotency,
			Previous: int64(c.Previous), IssuedAt: c.IssuedAt, ConfirmedAt: c.ConfirmedAt, DER: c.DER,
		})
		return nil
	})
	return list, err
}

// DeviceRows pages over all devices by id, for ledger.Verify: staged ones too, since
// their entries are in the ledger already.
// Primary key of device.
func (s *Store) DeviceRows(ctx context.Context, after int64, limit int) ([]ledger.DeviceRow, error) {
	list := make([]ledger.DeviceRow, 0, limit)
	err := each(s.read.query(ctx, "SELECT "+deviceColumns+" FROM device WHERE id > $1 ORDER BY id LIMIT $2", after, limit))(func(r row) error {
		var d device.Device
		if err := scanDevice(r, &d); err != nil {
			return err
		}
		current := make(map[string]int64, len(d.Current))
		for slot, id := range maps.All(d.Current) {
			current[string(slot)] = int64(id)
		}
		list = append(list, ledger.DeviceRow{
			ID: int64(d.ID), DeviceSerial: d.DeviceSerial, Product: d.Product, Site: d.Site, Owner: d.Owner, Region: d.Region,
			Labels: d.Labels, State: uint8(d.State), Version: d.Version, Secret: d.Secret.Hash,
			SecretSpent: d.Secret.SpentAt, SecretSPKI: d.Secret.SpentSPKI, Current: current, RegisteredAt: d.RegisteredAt,
			Order: d.Order, Chip: d.Chip, BuiltInto: int64(d.BuiltInto),
		})
		return nil
	})
	return list, err
}

// RevocationRows pages over all revocations, for ledger.Verify. Primary key of
// revocation.
func (s *Store) RevocationRows(ctx context.Context, after ledger.RevocationRow, limit int) ([]ledger.RevocationRow, error) {
	list := make([]ledger.RevocationRow, 0, limit)
	err := each(s.read.query(ctx, `SELECT authority, shard, credential, cert_serial, revoked_at, reason, not_after FROM revocation
WHERE (authority, shard, credential) > ($1, $2, $3) ORDER BY authority, shard, credential LIMIT $4`,
		after.Authority, after.Shard, after.Credential, limit))(func(r row) error {
		var v ledger.RevocationRow
		if err := r.Scan(&v.Authority, &v.Shard, &v.Credential, &v.CertSerial, at(&v.RevokedAt), &v.Reason, at(&v.NotAfter)); err != nil {
			return err
		}
		list = append(list, v)
		return nil
	})
	return list, err
}

// LeaseRows pages over all blocks of serials, for ledger.Verify. Primary key of
// serial_lease.
func (s *Store) LeaseRows(ctx context.Context, after int64, limit int) ([]ledger.LeaseRow, error) {
	list := make([]ledger.LeaseRow, 0, limit)
	err := each(s.read.query(ctx, `SELECT id, node, fence, size, seed, closed_at FROM serial_lease WHERE id > $1 ORDER BY id LIMIT $2`, after, limit))(func(r row) error {
		var v ledger.LeaseRow
		var closed int64
		if err := r.Scan(&v.ID, &v.Node, &v.Fence, &v.Count, fixed(v.Seed[:]), &closed); err != nil {
			return err
		}
		v.First, v.Closed = v.ID, closed != 0
		list = append(list, v)
		return nil
	})
	return list, err
}

// CRLRows returns the published list of each authority and shard, for
// ledger.Verify. The digest is of the parts as they are now, read one at a time.
func (s *Store) CRLRows(ctx context.Context) ([]ledger.CRLRow, error) {
	var list []ledger.CRLRow
	err := s.engine.snapshot(ctx, func(q querier) error {
		list = nil
		var parts []int64
		err := each(q.query(ctx, "SELECT authority, shard, number, parts FROM crl ORDER BY authority, shard"))(func(r row) error {
			var v ledger.CRLRow
			var n int64
			if err := r.Scan(&v.Authority, &v.Shard, &v.Number, &n); err != nil {
				return err
			}
			list, parts = append(list, v), append(parts, n)
			return nil
		})
		for i := range list {
			if err == nil {
				err = hashParts(ctx, q, &list[i], parts[i])
			}
		}
		return err
	})
	return list, err
}

// hashParts hashes a list as it would be served; when a part is missing it has no
// hash.
func hashParts(ctx context.Context, q querier, v *ledger.CRLRow, parts int64) error {
	h := sha256.New()
	for part := range parts {
		var data []byte
		err := q.row(ctx, "SELECT data FROM crl_part WHERE authority = $1 AND shard = $2 AND number = $3 AND part = $4", v.Authority, v.Shard, v.Number, part).Scan(&data)
		if noRows(err) {
			return nil
		}
		if err != nil {
			return err
		}
		h.Write(data)
	}
	v.SHA256 = [32]byte(h.Sum(nil))
	return nil
}

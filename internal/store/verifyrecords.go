package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// UnitRows pages over all units by id, for ledger.Verify. Primary key of unit.
func (s *Store) UnitRows(ctx context.Context, after int64, limit int) ([]ledger.UnitRow, error) {
	list := make([]ledger.UnitRow, 0, limit)
	err := each(s.read.query(ctx, `SELECT id, order_id, device, chip, station, state, spare, reference, evidence, confirm_nonce, issued_at, confirmed_at
FROM unit WHERE id > $1 ORDER BY id LIMIT $2`, after, limit))(func(r row) error {
		var u ledger.UnitRow
		if err := r.Scan(&u.ID, &u.Order, &u.Device, &u.Chip, &u.Station, &u.State, &u.Spare, &u.Reference, &u.Evidence,
			fixed(u.ConfirmNonce[:]), at(&u.IssuedAt), at(&u.ConfirmedAt)); err != nil {
			return err
		}
		list = append(list, u)
		return nil
	})
	return list, err
}

// OrderRows pages over all production orders by id, for ledger.Verify. Primary
// key of production_order.
func (s *Store) OrderRows(ctx context.Context, after int64, limit int) ([]ledger.OrderRow, error) {
	var list []ledger.OrderRow
	err := each(s.read.query(ctx, `SELECT id, number, quantity, spares, issued, live, confirmed, scrapped
FROM production_order WHERE id > $1 ORDER BY id LIMIT $2`, after, limit))(func(r row) error {
		var o ledger.OrderRow
		if err := r.Scan(&o.ID, &o.Number, &o.Quantity, &o.Spares, &o.Issued, &o.Live, &o.Confirmed, &o.Scrapped); err != nil {
			return err
		}
		list = append(list, o)
		return nil
	})
	return list, err
}

type addRecord = func(noun, key string, number int64, fields map[string]any)

// RecordRows returns the control plane as its entries describe it, for
// ledger.Verify.
func (s *Store) RecordRows(ctx context.Context) ([]ledger.RecordRow, error) {
	var list []ledger.RecordRow
	add := func(noun, key string, number int64, fields map[string]any) {
		list = append(list, ledger.RecordRow{Noun: noun, Key: key, Number: number, Fields: fields})
	}
	err := s.engine.snapshot(ctx, func(q querier) error {
		list = nil
		for _, read := range []func(context.Context, querier, addRecord) error{
			authorityRecords, profileRecords, productRecords, labelRecords, tokenRecords, siteRecords, stationRecords, orderRecords, signerRecords, manifestRecords,
			rootsRecords, policyRecords,
		} {
			if err := read(ctx, q, add); err != nil {
				return err
			}
		}
		return nil
	})
	return list, err
}

func authorityRecords(ctx context.Context, q querier, add addRecord) error {
	all, err := readAuthorities(ctx, q)
	for _, a := range all {
		certificate := ""
		if len(a.Certificate) > 0 {
			certificate = hexSum(a.Certificate)
		}
		add("authority", a.Name, a.ID, map[string]any{
			"name": a.Name, "authority_kind": a.Kind, "state": a.State.String(), "key_uri": a.KeyURI,
			"certificate": certificate, "parent": a.Parent, "credential": int64(a.Credential), "crl_shards": a.CRLShards,
			"hardware_model": a.Hardware.Model, "hardware_certificate": a.Hardware.Certificate, "hardware_level": a.Hardware.Level,
		})
	}
	return err
}

// profileRecords hashes the texts: a version whose text was edited has no entry.
func profileRecords(ctx context.Context, q querier, add addRecord) error {
	return each(q.query(ctx, "SELECT id, name, body FROM profile_version ORDER BY id"))(func(r row) error {
		var id int64
		var name string
		var body []byte
		if err := r.Scan(&id, &name, &body); err != nil {
			return err
		}
		add("profile version", name+" "+hexSum(body), id, nil)
		return nil
	})
}

func productRecords(ctx context.Context, q querier, add addRecord) error {
	all, err := readProducts(ctx, q)
	for _, p := range all {
		add("product", p.Name, p.ID, map[string]any{
			"description": p.Description, "part_numbers": p.PartNumbers, "profiles": p.Profiles, "least_evidence": p.LeastEvidence,
			"chip_types": p.ChipTypes, "key_model": p.KeyModel, "idevid_profile": p.IDevIDProfile, "serial_pattern": p.SerialPattern,
			"external_ref": p.ExternalRef,
		})
	}
	return err
}

func labelRecords(ctx context.Context, q querier, add addRecord) error {
	return each(q.query(ctx, "SELECT name, profile, purpose, wrap FROM est_label ORDER BY name"))(func(r row) error {
		var l authority.Label
		if err := r.Scan(&l.Name, &l.Profile, &l.Purpose, &l.Wrap); err != nil {
			return err
		}
		add("label", l.Name, 0, map[string]any{"profile": l.Profile, "purpose": l.Purpose, "wrap": l.Wrap})
		return nil
	})
}

// tokenRecords gives of a token what it may do; the entry that ends it says no
// more than that.
func tokenRecords(ctx context.Context, q querier, add addRecord) error {
	return each(q.query(ctx, "SELECT "+tokenColumns+" FROM token ORDER BY id"))(func(r row) error {
		t, err := scanToken(r)
		if err != nil {
			return err
		}
		add("token", hex.EncodeToString(t.Hash[:]), t.ID, tokenFields(&t))
		return nil
	})
}

func tokenFields(t *access.Token) map[string]any {
	return map[string]any{
		"actions": t.Actions, "products": t.Products, "sites": t.Sites, "owners": t.Owners, "all": t.All,
		"expires_at": t.ExpiresAt.Unix(), "revoked": !t.RevokedAt.IsZero(),
	}
}

func siteRecords(ctx context.Context, q querier, add addRecord) error {
	return each(q.query(ctx, "SELECT id, name FROM site ORDER BY id"))(func(r row) error {
		var id int64
		var name string
		if err := r.Scan(&id, &name); err != nil {
			return err
		}
		add("site", name, id, nil)
		return nil
	})
}

func stationRecords(ctx context.Context, q querier, add addRecord) error {
	return each(q.query(ctx, "SELECT id, name, site, state FROM station ORDER BY id"))(func(r row) error {
		var x factory.Station
		if err := r.Scan(&x.ID, &x.Name, &x.Site, &x.State); err != nil {
			return err
		}
		add("station", x.Name, x.ID, map[string]any{"site": x.Site, "state": x.State.String()})
		return nil
	})
}

func orderRecords(ctx context.Context, q querier, add addRecord) error {
	return each(q.query(ctx, `SELECT id, number, product, site, state, quantity, spares, stations, chip_types, serial_from, serial_to, external_ref, takt, grace, frozen
FROM production_order ORDER BY id`))(func(r row) error {
		var o factory.Order
		var stations, chipTypes string
		var takt, grace int64
		if err := r.Scan(&o.ID, &o.Number, &o.Product, &o.Site, &o.State, &o.Quantity, &o.Spares, &stations, &chipTypes,
			&o.SerialFrom, &o.SerialTo, &o.ExternalRef, &takt, &grace, &o.Frozen); err != nil {
			return err
		}
		add("order", o.Number, o.ID, map[string]any{
			"product": o.Product, "site": o.Site, "state": o.State.String(), "quantity": o.Quantity, "spares": o.Spares,
			"stations": json.RawMessage(stations), "chip_types": json.RawMessage(chipTypes), "serial_from": o.SerialFrom, "serial_to": o.SerialTo,
			"external_ref": o.ExternalRef, "takt_us": takt, "grace_us": grace, "frozen": o.Frozen,
		})
		return nil
	})
}

func signerRecords(ctx context.Context, q querier, add addRecord) error {
	return each(q.query(ctx, "SELECT id, name, format, fingerprint, certificate FROM manifest_signer ORDER BY id"))(func(r row) error {
		var x factory.Signer
		if err := r.Scan(&x.ID, &x.Name, &x.Format, fixed(x.Fingerprint[:]), &x.Certificate); err != nil {
			return err
		}
		key := hex.EncodeToString(x.Fingerprint[:])
		if sum := sha256.Sum256(x.Certificate); sum != x.Fingerprint {
			key = "with the certificate of " + hex.EncodeToString(sum[:]) // pinned by nobody
		}
		add("manifest signer", key, x.ID, map[string]any{"name": x.Name, "format": x.Format})
		return nil
	})
}

func manifestRecords(ctx context.Context, q querier, add addRecord) error {
	return each(q.query(ctx, "SELECT format, digest, signer, product, chips, not_provable FROM manifest WHERE visible = $1 ORDER BY id", manifestVisible))(func(r row) error {
		var m factory.Manifest
		if err := r.Scan(&m.Format, fixed(m.Digest[:]), &m.Signer, &m.Product, &m.Chips, &m.NotProvable); err != nil {
			return err
		}
		add("manifest", hex.EncodeToString(m.Digest[:]), 0, map[string]any{
			"format": m.Format, "signer": m.Signer, "product": m.Product, "chips": m.Chips, "not_provable": m.NotProvable,
		})
		return nil
	})
}

// rootsRecords and policyRecords hash the contents: a version whose content was
// edited has no entry.
func rootsRecords(ctx context.Context, q querier, add addRecord) error {
	all, err := readRoots(ctx, q, " ORDER BY id")
	for _, x := range all {
		key := x.Name + " " + hexSum(x.Content)
		if x.Digest != sha256.Sum256(x.Content) {
			key = "of another digest than it has: " + key
		}
		add("TPM makers' roots", key, x.ID, map[string]any{"version": x.Version, "signer": attest.Fingerprint(x.Signer), "repinned": x.Repinned})
	}
	return err
}

func policyRecords(ctx context.Context, q querier, add addRecord) error {
	all, err := readPolicies(ctx, q, " ORDER BY id")
	for _, p := range all {
		digest := hexSum(p.Content)
		if p.Digest != sha256.Sum256(p.Content) {
			digest = "another than it has"
		}
		add("TPM policy of product", fmt.Sprintf("%d %d", p.Product, p.Version), p.ID, map[string]any{"sha256": digest, "ended": len(p.Content) == 0})
	}
	return err
}

// EvidenceRows pages over all evidence by credential, for ledger.Verify. Primary
// key of evidence.
func (s *Store) EvidenceRows(ctx context.Context, after int64, limit int) ([]ledger.EvidenceRow, error) {
	list := make([]ledger.EvidenceRow, 0, limit)
	err := each(s.read.query(ctx, "SELECT id, device, kind, claims, content, digest, made_at FROM evidence WHERE id > $1 ORDER BY id LIMIT $2", after, limit))(func(r row) error {
		var e ledger.EvidenceRow
		err := r.Scan(&e.ID, &e.Device, &e.Kind, &e.Claims, &e.Content, fixed(e.Digest[:]), at(&e.At))
		list = append(list, e)
		return err
	})
	return list, err
}

// TPMRows pages over all TPMs by their rows' numbers, for ledger.Verify. Primary key
// of tpm. A row that would not be found by its EK is shown without it.
func (s *Store) TPMRows(ctx context.Context, after int64, limit int) ([]ledger.TPMRow, error) {
	list := make([]ledger.TPMRow, 0, limit)
	err := each(s.read.query(ctx, "SELECT t.id, "+tpmColumns+" FROM tpm t WHERE t.id > $1 ORDER BY t.id LIMIT $2", after, limit))(func(r row) error {
		var x ledger.TPMRow
		err := r.Scan(&x.ID, fixed(x.EK[:]), &x.Device, &x.Chip, fixed(x.AK[:]), &x.Plain, &x.ResetCount, &x.RestartCount,
			word(&x.Clock), &x.Safe, word(&x.Firmware), &x.Vendor, &x.Model, at(&x.SeenAt))
		if s.spkiRow(&x.EK) != x.ID {
			x.EK = [32]byte{}
		}
		list = append(list, x)
		return err
	})
	return list, err
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

package store

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/birthmark/birthmark/internal/identity/device"
)

// deviceColumns are what scanDevice reads.
const deviceColumns = `id, device_serial, product, site, owner, region, labels, state, version, slots,
secret_hash, secret_spent_at, secret_spki, registered_at, changed_at, order_id, chip, built_into`

func scanDevice(r row, d *device.Device) error {
	var labels, slots string
	var hash, spki []byte
	var spent, registered, changed, state int64
	err := r.Scan((*int64)(&d.ID), &d.DeviceSerial, &d.Product, &d.Site, &d.Owner, &d.Region, &labels, &state, &d.Version, &slots,
		&hash, &spent, &spki, &registered, &changed, &d.Order, &d.Chip, (*int64)(&d.BuiltInto))
	if err != nil {
		return err
	}
	d.State = device.State(state)
	d.Secret.Set = len(hash) > 0
	copy(d.Secret.Hash[:], hash)
	copy(d.Secret.SpentSPKI[:], spki)
	d.Secret.SpentAt, d.RegisteredAt, d.ChangedAt = fromMicros(spent), fromMicros(registered), fromMicros(changed)
	if labels != "{}" {
		if err := fromJSON(&d.Labels).Scan(labels); err != nil {
			return err
		}
	}
	d.Current, err = parseSlots(slots)
	return err
}

// deviceValues are the values of deviceColumns.
func deviceValues(d *device.Device) []any {
	var hash, spki []byte
	if d.Secret.Set {
		hash = d.Secret.Hash[:]
	}
	if !d.Secret.SpentAt.IsZero() {
		spki = d.Secret.SpentSPKI[:]
	}
	labels := "{}"
	if len(d.Labels) > 0 {
		labels = toJSON(d.Labels)
	}
	return []any{
		int64(d.ID), d.DeviceSerial, d.Product, d.Site, d.Owner, d.Region, labels, int64(d.State), d.Version, formatSlots(d.Current),
		hash, micros(d.Secret.SpentAt), spki, micros(d.RegisteredAt), micros(d.ChangedAt), d.Order, d.Chip, int64(d.BuiltInto),
	}
}

// A device's current credentials are text, "|idevid=17;|ldevid/cloud=23;", so
// that STORE sets one slot with replace and append on both engines, without
// reading the others.

func formatSlot(s device.Slot, id device.CredentialID) string {
	return "|" + string(s) + "=" + strconv.FormatInt(int64(id), 10) + ";"
}

func formatSlots(m map[device.Slot]device.CredentialID) string {
	var b strings.Builder
	for _, s := range slices.Sorted(maps.Keys(m)) {
		b.WriteString(formatSlot(s, m[s]))
	}
	return b.String()
}

func parseSlots(text string) (map[device.Slot]device.CredentialID, error) {
	if text == "" {
		return nil, nil
	}
	m := make(map[device.Slot]device.CredentialID, 1)
	for entry := range strings.SplitSeq(strings.TrimSuffix(text, ";"), ";") {
		slot, number, ok := strings.Cut(strings.TrimPrefix(entry, "|"), "=")
		id, err := strconv.ParseInt(number, 10, 64)
		if !ok || err != nil {
			return nil, fmt.Errorf("stored slot %q", entry)
		}
		m[device.Slot(slot)] = device.CredentialID(id)
	}
	return m, nil
}

// credentialColumns are what scanCredential reads.
const credentialColumns = `id, cert_serial, authority, authority_index, profile, kind, purpose, device, product, site, owner,
state, reason, revoked_at, key_kind, not_before, not_after, spki, idempotency, previous, issued_at, confirmed_at, der`

func scanCredential(r row, c *device.Credential) error {
	var state, reason, revoked, keyKind, notBefore, notAfter, issued, confirmed int64
	var spki, idempotency []byte
	err := r.Scan((*int64)(&c.ID), &c.CertSerial, &c.Authority, &c.AuthorityIndex, &c.Profile, &c.Kind, &c.Purpose, (*int64)(&c.Device),
		&c.Product, &c.Site, &c.Owner, &state, &reason, &revoked, &keyKind, &notBefore, &notAfter, &spki, &idempotency,
		(*int64)(&c.Previous), &issued, &confirmed, &c.DER)
	if err != nil {
		return err
	}
	c.State, c.Reason, c.KeyKind = device.CredentialState(state), int(reason), device.KeyKind(keyKind)
	copy(c.SPKIDigest[:], spki)
	copy(c.Idempotency[:], idempotency)
	c.RevokedAt, c.NotBefore, c.NotAfter = fromMicros(revoked), fromMicros(notBefore), fromMicros(notAfter)
	c.IssuedAt, c.ConfirmedAt = fromMicros(issued), fromMicros(confirmed)
	return nil
}

// credentialValues are the values of credentialColumns.
func credentialValues(c *device.Credential) []any {
	return []any{
		int64(c.ID), c.CertSerial, c.Authority, c.AuthorityIndex, c.Profile, c.Kind, c.Purpose, int64(c.Device), c.Product, c.Site, c.Owner,
		int64(c.State), int64(c.Reason), micros(c.RevokedAt), int64(c.KeyKind), micros(c.NotBefore), micros(c.NotAfter),
		c.SPKIDigest[:], c.Idempotency[:], int64(c.Previous), micros(c.IssuedAt), micros(c.ConfirmedAt), c.DER,
	}
}

// placeholders is "$1, $2, ..., $n".
func placeholders(n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(i + 1))
	}
	return b.String()
}

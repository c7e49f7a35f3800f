package store

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// Credential returns a credential that is in scope.
func (s *Store) Credential(ctx context.Context, scope access.Scope, id device.CredentialID) (device.Credential, error) {
	return readCredential(ctx, s.read, scope, id)
}

func readCredential(ctx context.Context, q querier, scope access.Scope, id device.CredentialID) (device.Credential, error) {
	var c device.Credential
	err := scanCredential(q.row(ctx, selectCredential+scopeSQL(scope, ""), int64(id)), &c)
	if noRows(err) {
		return device.Credential{}, fault.New(fault.CredentialUnknown)
	}
	return c, err
}

// CredentialBySerial opens the certificate serial to its row and compares it in
// full. A serial that cannot be ours costs no read.
func (s *Store) CredentialBySerial(ctx context.Context, scope access.Scope, certSerial []byte) (device.Credential, error) {
	id, ok := s.openSerial(certSerial)
	if !ok {
		return device.Credential{}, fault.New(fault.CredentialUnknown)
	}
	c, err := s.Credential(ctx, scope, id)
	if err == nil && !bytes.Equal(c.CertSerial, certSerial) {
		return device.Credential{}, fault.New(fault.CredentialUnknown)
	}
	return c, err
}

// CredentialBySPKI returns the newest credential of a public key.
func (s *Store) CredentialBySPKI(ctx context.Context, scope access.Scope, spkiDigest [32]byte) (device.Credential, error) {
	return s.credentialBySPKI(ctx, s.read, scope, spkiDigest)
}

func (s *Store) credentialBySPKI(ctx context.Context, q querier, scope access.Scope, spkiDigest [32]byte) (device.Credential, error) {
	var c device.Credential
	err := scanCredential(q.row(ctx, "SELECT "+credentialColumns+
		" FROM credential WHERE id = (SELECT credential FROM spki_key WHERE id = $1)"+scopeSQL(scope, ""), s.spkiRow(&spkiDigest)), &c)
	if noRows(err) || err == nil && c.SPKIDigest != spkiDigest {
		return device.Credential{}, fault.New(fault.CredentialUnknown)
	}
	return c, err
}

// Credentials returns a page of credentials, newest first. Indexes: the primary
// key and credential_product; those of one device are reached from its slots.
func (s *Store) Credentials(ctx context.Context, scope access.Scope, q device.CredentialQuery) ([]device.Credential, string, error) {
	if q.Device != 0 {
		return s.deviceCredentials(ctx, scope, q)
	}
	after, err := parseCursor(q.After)
	if err != nil {
		return nil, "", err
	}
	w := walk{table: "credential", columns: credentialColumns, scope: scope, product: q.Product, descending: true, dense: true}
	if q.Authority != 0 {
		w.where("authority = ?", q.Authority)
	}
	if q.Kind != "" {
		w.where("kind = ?", q.Kind)
	}
	if q.State != 0 {
		w.where("state = ?", int64(q.State))
	}
	list, next, err := page(ctx, s.read, &w, after, pageSize(q.Limit), func(r row) (device.Credential, int64, error) {
		var c device.Credential
		err := scanCredential(r, &c)
		return c, int64(c.ID), err
	})
	return list, cursor(next), err
}

// cursor is the text form of a row's number, empty for none.
func cursor(id int64) string {
	if id == 0 {
		return ""
	}
	return strconv.FormatInt(id, 10)
}

func parseCursor(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id <= 0 {
		return 0, fault.New(fault.ParameterInvalid, "cursor")
	}
	return id, nil
}

// deviceCredentials follows a device's slots back in time. The cursor is the
// frontier: the next credential of each slot.
func (s *Store) deviceCredentials(ctx context.Context, scope access.Scope, q device.CredentialQuery) ([]device.Credential, string, error) {
	d, err := s.Device(ctx, scope, q.Device)
	if fault.Has(err, fault.DeviceUnknown) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	f := newFrontier(&d)
	if q.After != "" {
		if f, err = parseFrontier(q.After); err != nil {
			return nil, "", err
		}
	}
	var list []device.Credential
	limit := pageSize(q.Limit)
	for examined := 0; len(list) < limit && examined < walkWindow; examined++ {
		c, err := f.step(ctx, s.read, d.ID)
		if err != nil || c == nil {
			return list, "", err
		}
		if scope.Sees(c.Product, c.Site, c.Owner) && selects(&q, c) {
			list = append(list, *c)
		}
	}
	return list, f.String(), nil
}

func selects(q *device.CredentialQuery, c *device.Credential) bool {
	return (q.Authority == 0 || q.Authority == c.Authority) && (q.Product == 0 || q.Product == c.Product) &&
		(q.Kind == "" || q.Kind == c.Kind) && (q.State == 0 || q.State == c.State)
}

// frontier walks a device's credentials, newest first: in each slot a
// credential names the one before it. It holds the next of each slot, sorted.
type frontier []device.CredentialID

// maxFrontier is more slots than a device has.
const maxFrontier = 64

func newFrontier(d *device.Device) frontier {
	var f frontier
	for _, id := range d.Current {
		f = append(f, id)
	}
	slices.Sort(f)
	return slices.Compact(f)
}

func parseFrontier(text string) (frontier, error) {
	var f frontier
	for part := range strings.SplitSeq(text, ".") {
		id, err := strconv.ParseInt(part, 10, 64)
		if err != nil || id <= 0 || len(f) == maxFrontier {
			return nil, fault.New(fault.ParameterInvalid, "cursor")
		}
		f = append(f, device.CredentialID(id))
	}
	slices.Sort(f)
	return slices.Compact(f), nil
}

// String is the frontier as a cursor.
func (f frontier) String() string {
	parts := make([]string, len(f))
	for i, id := range f {
		parts[i] = strconv.FormatInt(int64(id), 10)
	}
	return strings.Join(parts, ".")
}

// step returns the newest credential and moves on to the one before it; nil at
// the end. What is not the device's own ends its slot.
func (f *frontier) step(ctx context.Context, q querier, id device.ID) (*device.Credential, error) {
	for len(*f) > 0 {
		newest := (*f)[len(*f)-1]
		*f = (*f)[:len(*f)-1]
		var c device.Credential
		err := scanCredential(q.row(ctx, selectCredential, int64(newest)), &c)
		if noRows(err) || err == nil && c.Device != id {
			continue
		}
		if err != nil {
			return nil, err
		}
		if c.Previous > 0 && c.Previous < c.ID {
			if i, twice := slices.BinarySearch(*f, c.Previous); !twice {
				*f = slices.Insert(*f, i, c.Previous)
			}
		}
		return &c, nil
	}
	return nil, nil
}

// errNothing ends a transaction in which nothing is left to do.
var errNothing = errors.New("nothing to do")

// writeIfNeeded is write for acts that may have been done before: then fn
// returns errNothing, and nothing is written, no entries either.
func (s *Store) writeIfNeeded(ctx context.Context, fn func(*tx) error, entries ...ledger.Entry) error {
	err := s.write(ctx, fn, entries...)
	if errors.Is(err, errNothing) {
		return nil
	}
	return err
}

// Confirm marks a credential's first use and notes when those before it end; it
// does nothing when it was confirmed before.
func (s *Store) Confirm(ctx context.Context, c device.Confirmation, entries ...ledger.Entry) error {
	return s.writeIfNeeded(ctx, func(t *tx) error {
		old, err := readCredential(ctx, t, access.Everything(), c.ID)
		if err != nil {
			return err
		}
		if !old.ConfirmedAt.IsZero() {
			return errNothing
		}
		n, err := t.exec(ctx, `UPDATE credential SET confirmed_at = $2, state = CASE WHEN state = $3 THEN $4 ELSE state END
WHERE id = $1 AND confirmed_at = 0 AND state = $5 AND site = $6 AND owner = $7`,
			int64(c.ID), c.At, device.Issued, device.Confirmed, old.State, old.Site, old.Owner)
		if err != nil {
			return err
		}
		if n == 0 { // somebody changed it since it was read
			return errTryAgain
		}
		if old.State == device.Issued {
			t.tallyCredential(&old, -1)
			old.State = device.Confirmed
			t.tallyCredential(&old, 1)
		}
		for _, o := range c.Ends {
			if _, err := t.exec(ctx, "INSERT INTO overlap (credential, ends_at) VALUES ($1, $2) ON CONFLICT DO NOTHING", int64(o.Credential), o.EndsAt); err != nil {
				return err
			}
		}
		return nil
	}, entries...)
}

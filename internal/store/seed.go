package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// SeedConfig says how many devices Seed makes, and of what.
type SeedConfig struct {
	Devices int // "SEED-0000001" to "SEED-<Devices>"
	// Certificates is how many of them, from the first on, have enrolled
	// already; the rest can enroll with SeedSecret.
	Certificates int
	Products     []int64 // in turn; default {1}
	Authority    int64   // default 1
	Profile      int64   // profile version; default 1
	At           time.Time
	Progress     func(done, total int)
}

// SeedSerial is the device serial of the n-th seeded device, from 1.
func SeedSerial(n int) string { return fmt.Sprintf("SEED-%07d", n) }

// SeedSecret is the one-time secret of a seeded device: the first 32 digits of
// hex(HMAC-SHA256("seed", deviceSerial)).
func SeedSecret(deviceSerial string) string {
	h := hmac.New(sha256.New, []byte("seed"))
	h.Write([]byte(deviceSerial))
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// seedRows is how many rows one transaction of Seed writes.
const seedRows = 2000

// Seed fills an empty register with devices and certificates that are like real
// ones to everything but a check of signatures, fast: rows go in in the order
// of their keys. Totals, keys and ledger are as if they had been registered and
// had enrolled one after the other. For tests and benchmarks.
func (s *Store) Seed(ctx context.Context, c SeedConfig) error {
	if c.Certificates > c.Devices || c.Devices > 1<<26 {
		return errors.New("seed: at most one certificate a device, and 67 million devices")
	}
	if len(c.Products) == 0 {
		c.Products = []int64{1}
	}
	c.Authority, c.Profile = cmp.Or(c.Authority, 1), cmp.Or(c.Profile, 1)
	if c.At.IsZero() {
		c.At = s.cfg.Now()
	}
	c.At = c.At.UTC().Truncate(time.Second)
	if c.Progress == nil {
		c.Progress = func(int, int) {}
	}
	g := &seeder{s: s, c: c}
	if err := g.model(); err != nil {
		return err
	}
	if err := g.lease(ctx); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{g.devices, g.credentials, g.keys, g.close} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// seeder holds what the steps of Seed share.
type seeder struct {
	s      *Store
	c      SeedConfig
	leases []device.SerialLease
	rows   []numbered // of spki_key
	first  int64      // index of the first certificate in its authority
	done   int

	der                          []byte // a certificate with places to fill
	serialAt, nameAt, pointAt, n int
	spki                         []byte
}

// numbered is a row's number and what it stands for.
type numbered struct{ row, n int64 }

const seedValidity = 10 * 365 * 24 * time.Hour

// model makes the certificate that all others are copies of, with other serial,
// name, key and signature.
func (g *seeder) model() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	certSerial := bytes.Repeat([]byte{0x5a}, serialSize)
	name := SeedSerial(1 << 23)
	cert := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(certSerial),
		Subject:      pkix.Name{Organization: []string{"Seed Devices"}, CommonName: "sensor", SerialNumber: name},
		NotBefore:    g.c.At, NotAfter: g.c.At.Add(seedValidity),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		SubjectKeyId:          bytes.Repeat([]byte{1}, 20),
		OCSPServer:            []string{"http://status.seed.example/ocsp"},
		IssuingCertificateURL: []string{"http://status.seed.example/ca/issuing.cer"},
		CRLDistributionPoints: []string{"http://status.seed.example/crl/1/0.crl"},
	}
	issuer := &x509.Certificate{Subject: pkix.Name{Organization: []string{"Seed"}, CommonName: "Seed Issuing CA"}, SubjectKeyId: bytes.Repeat([]byte{2}, 20)}
	if g.der, err = x509.CreateCertificate(rand.Reader, cert, issuer, &key.PublicKey, key); err != nil {
		return err
	}
	parsed, err := x509.ParseCertificate(g.der)
	if err != nil {
		return err
	}
	g.spki = parsed.RawSubjectPublicKeyInfo
	g.serialAt = bytes.Index(g.der, certSerial)
	g.nameAt = bytes.Index(g.der, []byte(name))
	g.pointAt = bytes.Index(g.der, g.spki) + len(g.spki) - 64
	g.n = len(name)
	if g.serialAt < 0 || g.nameAt < 0 || g.pointAt < 64 {
		return errors.New("seed: the model certificate is not as expected")
	}
	return nil
}

// point is the public key of device n: 64 octets that look like a point.
func (g *seeder) point(n int) [64]byte {
	return sha512.Sum512(binary.BigEndian.AppendUint64([]byte("seed key"), uint64(n)))
}

func (g *seeder) digest(n int) [32]byte {
	spki := append(make([]byte, 0, 96), g.spki[:len(g.spki)-64]...)
	p := g.point(n)
	return sha256.Sum256(append(spki, p[:]...))
}

func (g *seeder) lease(ctx context.Context) error {
	for left := g.c.Certificates; left > 0; {
		l, err := g.s.LeaseSerials(ctx, "seed", min(left, maxLease), g.c.At)
		if err != nil {
			return err
		}
		g.leases = append(g.leases, l)
		left -= l.Count
	}
	err := g.s.read.row(ctx, "SELECT next_index FROM authority_counter WHERE authority = $1", g.c.Authority).Scan(&g.first)
	if noRows(err) {
		return nil
	}
	return err
}

// credentialID is the id of device n's certificate, n from 1; 0: none.
func (g *seeder) credentialID(n int) device.CredentialID {
	if n > g.c.Certificates {
		return 0
	}
	return g.leases[(n-1)/maxLease].First + device.CredentialID((n-1)%maxLease)
}

func (g *seeder) product(n int) int64 { return g.c.Products[n%len(g.c.Products)] }

func (g *seeder) device(n int) device.Device {
	deviceSerial := SeedSerial(n)
	d := device.Device{
		ID: g.s.DeviceID(deviceSerial), DeviceSerial: deviceSerial, Product: g.product(n),
		State: device.Registered, Version: 1, RegisteredAt: g.c.At, ChangedAt: g.c.At,
		Secret: device.Secret{Set: true, Hash: device.HashSecret([]byte(SeedSecret(deviceSerial)))},
	}
	if id := g.credentialID(n); id != 0 {
		d.State, d.Version = device.Active, 2
		d.Current = map[device.Slot]device.CredentialID{device.IDevIDSlot: id}
		d.Secret.SpentAt, d.Secret.SpentSPKI = g.c.At, g.digest(n)
	}
	return d
}

// chunk is what one transaction writes: rows of a table and their leaves.
type chunk struct {
	rows    [][]any
	leaves  *batch
	tallies map[tallyKey]int64
}

// devices writes all devices in the order of their ids.
func (g *seeder) devices(ctx context.Context) error {
	order := make([]numbered, g.c.Devices)
	for i := range order {
		order[i] = numbered{int64(g.s.DeviceID(SeedSerial(i + 1))), int64(i + 1)}
	}
	sortNumbered(order)
	return g.fill(ctx, "device", deviceColumns, len(order), func(i int, t *tx) ([]any, ledger.Entry) {
		d := g.device(int(order[i].n))
		t.tallyDevice(&d, 1)
		e := ledger.Entry{Kind: ledger.DeviceRegistered, At: g.c.At, Actor: "system", Body: &ledger.Registered{
			Device: int64(d.ID), DeviceSerial: d.DeviceSerial, Product: d.Product, Version: 1, State: uint8(device.Registered),
			Secret: d.Secret.Hash,
		}}
		return deviceValues(&d), e
	})
}

func sortNumbered(list []numbered) {
	slices.SortFunc(list, func(a, b numbered) int { return cmp.Compare(a.row, b.row) })
}

// credentials writes all certificates in the order of their ids.
func (g *seeder) credentials(ctx context.Context) error {
	g.rows = make([]numbered, g.c.Certificates)
	return g.fill(ctx, "credential", credentialColumns, g.c.Certificates, func(i int, t *tx) ([]any, ledger.Entry) {
		c := g.credential(i + 1)
		g.rows[i] = numbered{g.s.spkiRow(&c.SPKIDigest), int64(c.ID)}
		t.tallyCredential(&c, 1)
		deviceSerial := SeedSerial(i + 1)
		e := ledger.Entry{Kind: ledger.CertificateIssued, At: g.c.At, Actor: "device:" + c.Device.String(), Body: &ledger.Issued{
			Credential: int64(c.ID), CertSerial: c.CertSerial, Authority: c.Authority, Profile: c.Profile, Kind: c.Kind,
			Device: int64(c.Device), DeviceSerial: deviceSerial, DeviceVersion: 2, DeviceState: uint8(device.Active), Slot: string(device.IDevIDSlot),
			SecretSpent: true, Product: c.Product, KeyKind: uint8(c.KeyKind), NotBefore: c.NotBefore, NotAfter: c.NotAfter,
			SPKI: c.SPKIDigest, DER: sha256.Sum256(c.DER), Idempotency: c.Idempotency,
		}}
		return credentialValues(&c), e
	})
}

func (g *seeder) credential(n int) device.Credential {
	deviceSerial := SeedSerial(n)
	id := g.credentialID(n)
	c := device.Credential{
		ID: id, CertSerial: g.s.CertSerial(g.leases[(n-1)/maxLease], id), Authority: g.c.Authority, AuthorityIndex: g.first + int64(n-1),
		Profile: g.c.Profile, Kind: "idevid", Device: g.s.DeviceID(deviceSerial), Product: g.product(n), State: device.Issued, KeyKind: device.KeySoftware,
		// The ends spread over a year.
		NotBefore: g.c.At, NotAfter: g.c.At.Add(seedValidity + time.Duration(n%365)*24*time.Hour),
		SPKIDigest: g.digest(n), IssuedAt: g.c.At, DER: bytes.Clone(g.der),
	}
	c.Idempotency = sha256.Sum256(c.SPKIDigest[:])
	copy(c.DER[g.serialAt:], c.CertSerial)
	copy(c.DER[g.nameAt:g.nameAt+g.n], deviceSerial)
	p := g.point(n)
	copy(c.DER[g.pointAt:], p[:])
	for i, b := range p[:56] { // the signature's numbers
		c.DER[len(c.DER)-60+i] ^= b & 0x55
	}
	return c
}

// fill writes n rows and their entries. Rows and leaves of a transaction are
// made while the one before is written.
func (g *seeder) fill(ctx context.Context, table, columns string, n int, make1 func(i int, t *tx) ([]any, ledger.Entry)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type made struct {
		chunk
		err error
	}
	ready := make(chan made, 2)
	go func() {
		defer close(ready)
		for from := 0; from < n; from += seedRows {
			var m made
			t := &tx{}
			entries := make([]ledger.Entry, 0, seedRows)
			for i := from; i < min(n, from+seedRows); i++ {
				row, e := make1(i, t)
				m.rows, entries = append(m.rows, row), append(entries, e)
			}
			m.tallies = t.tallies
			m.leaves, m.err = g.s.encodeBatch(entries)
			select {
			case ready <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	for m := range ready {
		if m.err == nil {
			m.err = g.write(ctx, table, columns, m.chunk)
		}
		if m.err != nil {
			return fmt.Errorf("seed %s: %w", table, m.err)
		}
		g.done += len(m.rows)
		g.c.Progress(g.done, g.c.Devices+g.c.Certificates)
	}
	return ctx.Err()
}

func (g *seeder) write(ctx context.Context, table, columns string, c chunk) error {
	return g.s.write(ctx, func(t *tx) error {
		t.tallies = c.tallies
		if err := bulkInsert(ctx, t, table, columns, c.rows); err != nil {
			return err
		}
		return c.leaves.append(ctx, t.querier)
	})
}

// bulkInsert is COPY on PostgreSQL and one prepared statement on SQLite.
func bulkInsert(ctx context.Context, t *tx, table, columns string, rows [][]any) error {
	list := splitColumns(columns)
	if p, ok := t.querier.(*pgTx); ok {
		_, err := p.c.Conn().CopyFrom(ctx, pgx.Identifier{table}, list, pgx.CopyFromSlice(len(rows), func(i int) ([]any, error) { return plainAll(rows[i]), nil }))
		return pgFault(err)
	}
	text := fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s)", table, columns, placeholders(len(list)))
	for _, row := range rows {
		if _, err := t.exec(ctx, text, row...); err != nil {
			return err
		}
	}
	return nil
}

func splitColumns(columns string) []string {
	fields := bytes.FieldsFunc([]byte(columns), func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
	list := make([]string, len(fields))
	for i, f := range fields {
		list[i] = string(f)
	}
	return list
}

// keys writes the rows of the public keys in the order of their numbers.
func (g *seeder) keys(ctx context.Context) error {
	sortNumbered(g.rows)
	for some := range slices.Chunk(g.rows, 5*seedRows) {
		rows := make([][]any, len(some))
		for i, k := range some {
			rows[i] = []any{k.row, k.n}
		}
		if err := g.s.write(ctx, func(t *tx) error { return bulkInsert(ctx, t, "spki_key", "id, credential", rows) }); err != nil {
			return fmt.Errorf("seed spki_key: %w", err)
		}
	}
	return nil
}

// close ends the blocks and counts the certificates of the authority.
func (g *seeder) close(ctx context.Context) error {
	err := g.s.write(ctx, func(t *tx) error {
		_, err := t.exec(ctx, `INSERT INTO authority_counter (authority, next_index) VALUES ($1, $2)
ON CONFLICT (authority) DO UPDATE SET next_index = excluded.next_index`, g.c.Authority, g.first+int64(g.c.Certificates))
		return err
	})
	for _, l := range g.leases {
		if err == nil {
			err = g.s.CloseLease(ctx, l.LeaseRef, g.c.At)
		}
	}
	return err
}

package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	_ "modernc.org/sqlite" // fills the table of revocations in one statement

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/status"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/store"
)

// crlFigures are what a list of many entries costs.
type crlFigures struct {
	Entries, Bytes int
	FirstCPU       float64   // seconds, entries read from the record
	RefreshCPU     []float64 // seconds, after one more revocation
	RefreshWall    []float64
	FirstPeak      int64 // resident, in a process that does nothing else
	Peak           int64 // the same while refreshing
}

// crl puts the seeded certificates on the list and refreshes it in a process of
// its own.
func (b *bench) crl(ctx context.Context) error {
	b.step("CRL of %d entries", b.plan.revoked)
	if err := b.fillRevocations(ctx); err != nil {
		return err
	}
	p, err := b.startPart(ctx, "crl", b.sqlite.data, b.sqlite.database)
	if err != nil {
		return err
	}
	return p.read(&b.figures.crl)
}

// fillRevocations writes rows as Revoke would, without the ledger.
func (b *bench) fillRevocations(ctx context.Context) error {
	db, err := sql.Open("sqlite", strings.TrimPrefix(b.sqlite.database, "sqlite:"))
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, `INSERT INTO revocation (authority, shard, credential, cert_serial, revoked_at, reason, not_after)
SELECT authority, 0, id, cert_serial, issued_at, 1, not_after FROM credential WHERE device <> 0 ORDER BY id LIMIT ?`, b.plan.revoked)
	return errors.Join(err, db.Close())
}

// crlPart is the status service over a data folder, without a server.
type crlPart struct {
	store   *store.Store
	service *status.Service
	cursor  int64
	issuing int64
}

// runCRL makes the first list and refreshes it a few times; it writes its
// figures as a line of JSON.
func runCRL(ctx context.Context, args []string) (err error) {
	if len(args) != 2 {
		return errors.New("crl: want data folder and database")
	}
	c, err := openCRL(ctx, args[0], args[1])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.store.Close()) }()
	var f crlFigures
	if f.FirstCPU, _, err = c.step(ctx); err != nil {
		return err
	}
	if f.FirstPeak, err = resetPeak(); err != nil {
		return err
	}
	for n := range 5 {
		if err := c.revoke(ctx, n); err != nil {
			return err
		}
		cpu, wall, err := c.step(ctx)
		if err != nil {
			return err
		}
		f.RefreshCPU, f.RefreshWall = append(f.RefreshCPU, cpu), append(f.RefreshWall, wall)
	}
	list, err := c.service.CRL(ctx, "issuing", 0)
	if err != nil {
		return err
	}
	f.Entries, f.Bytes = list.Entries, len(list.DER)
	if f.Peak, err = memory(os.Getpid(), "VmHWM"); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(&f)
}

// resetPeak returns the most memory that this process has had resident, and
// begins anew, with what the first list needed given back.
func resetPeak() (int64, error) {
	peak, err := memory(os.Getpid(), "VmHWM")
	if err != nil {
		return 0, err
	}
	debug.FreeOSMemory()
	return peak, os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
}

func openCRL(ctx context.Context, data, database string) (*crlPart, error) {
	name, err := os.ReadFile(filepath.Join(data, "node"))
	if err != nil {
		return nil, err
	}
	node := strings.TrimSpace(string(name)) // the server's: the lease is still its
	c := &crlPart{}
	if c.store, err = store.Open(ctx, store.Config{DSN: database, Node: node}); err != nil {
		return nil, err
	}
	if c.service, err = c.wire(ctx, data, node); err != nil {
		return nil, errors.Join(err, c.store.Close())
	}
	return c, nil
}

func (c *crlPart) wire(ctx context.Context, data, node string) (*status.Service, error) {
	keys, err := keystore.Open(keystore.Config{Dir: filepath.Join(data, "keys"), Rand: rand.Reader})
	if err != nil {
		return nil, err
	}
	authorities, err := authority.New(authority.Config{
		Store: c.store, Register: c.store, Keys: keys, Now: time.Now, Rand: rand.Reader, Node: node, Logger: slog.New(slog.DiscardHandler),
		Secret: func(string) (keystore.Secret, error) {
			text, err := os.ReadFile(filepath.Join(data, "secrets", "issuing.passphrase"))
			return keystore.Secret(strings.TrimSpace(string(text))), err
		},
	})
	if err != nil {
		return nil, err
	}
	if err := authorities.Start(ctx); err != nil {
		return nil, err
	}
	plane, err := authorities.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	m, err := plane.Authority("issuing")
	if err != nil {
		return nil, err
	}
	c.issuing = m.ID
	if c.cursor, err = c.store.LedgerSize(ctx); err != nil {
		return nil, err
	}
	return status.New(status.Config{
		Store: c.store, Register: c.store, Leases: c.store, Authorities: authorities, Now: time.Now, Rand: rand.Reader, Node: node,
		CRLPause: time.Nanosecond,
	})
}

// revoke revokes a certificate that is not on the list yet and has the service
// hear of it.
func (c *crlPart) revoke(ctx context.Context, n int) error {
	list, _, err := c.store.Credentials(ctx, access.Everything(), device.CredentialQuery{Authority: c.issuing, State: device.Issued, Limit: 8})
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return fmt.Errorf("revocation %d: every certificate is revoked", n)
	}
	if _, err := c.service.Revoke(ctx, access.System(), status.Act{CertSerial: list[0].CertSerial, Reason: "superseded"}); err != nil {
		return err
	}
	batches, err := c.store.LedgerBatches(ctx, c.cursor, ^ledger.Class(0), 1<<20)
	if err != nil {
		return err
	}
	for _, batch := range batches {
		c.cursor = batch.First + int64(len(batch.Leaves))
		if err := c.service.Follow(ctx, batch); err != nil {
			return err
		}
	}
	return nil
}

// step publishes the lists that are due and returns what that cost in seconds.
func (c *crlPart) step(ctx context.Context) (cpu, wall float64, err error) {
	begin := time.Now()
	before, err := processCPU(os.Getpid())
	if err != nil {
		return 0, 0, err
	}
	if err := c.service.Step(ctx); err != nil {
		return 0, 0, err
	}
	after, err := processCPU(os.Getpid())
	return (after - before).Seconds(), time.Since(begin).Seconds(), err
}

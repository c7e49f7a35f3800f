package main

import (
	"context"
	"crypto"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"path/filepath"
	"slices"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/statement"
	"github.com/birthmark/birthmark/internal/outbound/egress"
	"github.com/birthmark/birthmark/internal/outbound/webhook"
	"github.com/birthmark/birthmark/internal/pki/keypool"
	"github.com/birthmark/birthmark/internal/pki/profile"
	"github.com/birthmark/birthmark/internal/protocol/station"
)

// line is what production lines need of a node.
type line struct {
	statements *statement.Signer
	factory    *factory.Service
	keys       *keypool.Pool
	guard      *egress.Guard
	webhooks   *webhook.Deliverer
	attest     *attest.Service
}

// openLine wires the factory and the one road to a certificate, which asks it.
// The installation must be there: its name is in the statement key's
// certificate.
func (n *node) openLine(ctx context.Context) (err error) {
	i, err := n.store.Installation(ctx)
	if err != nil {
		return err
	}
	secret, err := n.secret(statement.URI)
	if err != nil {
		return err
	}
	l := &line{}
	l.statements, err = statement.Open(ctx, statement.Config{
		Keys: n.keys, Secret: secret, Certificate: filepath.Join(n.folder.keys(), "statement.pem"),
		Organization: i.Organization, Now: time.Now, Rand: rand.Reader,
	})
	if err != nil {
		return err
	}
	sealer, err := n.sealer(ctx)
	if err != nil {
		return err
	}
	planes, err := factory.NewPlanes(n.store)
	if err != nil {
		return err
	}
	l.factory, err = factory.New(factory.Config{
		Store: n.store, Register: n.store, Authorities: n.authority, Approvals: n.access, Ledger: n.store, Planes: planes,
		Statements: l.statements, Secrets: sealer, Now: time.Now, Rand: rand.Reader, Node: n.name, Logger: n.log,
	})
	if err != nil {
		return err
	}
	if l.guard, err = egress.New(egress.Config{Allow: n.settings.WebhookHosts}); err != nil {
		return err
	}
	l.webhooks, err = webhook.New(webhook.Config{
		Store: n.store, Sender: l.guard, Secret: l.factory.WebhookSecret, Node: n.name, Now: time.Now, Logger: n.log,
	})
	if err != nil {
		return err
	}
	l.attest, err = attest.New(attest.Config{
		Store: n.store, Products: n.store, ParseRoots: tpm.ParseRoots, CheckPolicy: checkPolicy, Now: time.Now, Logger: n.log,
	})
	if err != nil {
		return err
	}
	if l.keys, err = n.keyPool(ctx); err != nil {
		return err
	}
	n.line = l
	n.enroller, err = enroll.New(enroll.Config{
		Devices: n.store, Authorities: n.authority, Approvals: n.store, MayIssue: n.mayIssue, Now: time.Now, Logger: n.log,
		Line:   &enroll.Line{Store: n.store, Planes: planes, Keys: l.keys, Alarms: alarms{l.factory}, Status: n.status, Random: rand.Reader, Packages: l.statements},
		Attest: &enroll.Attest{Store: n.store, Chips: n.store, Random: rand.Reader},
	})
	return err
}

// checkPolicy reads a firmware policy and forgets it.
func checkPolicy(content []byte) error {
	_, err := tpm.ParsePolicy(content)
	return err
}

// keyPool makes keys ahead for units that cannot make their own. RSA keys take
// so long that they are made only where a product may want them; a process that
// does not serve makes none ahead.
func (n *node) keyPool(ctx context.Context) (*keypool.Pool, error) {
	c := keypool.Config{Rand: rand.Reader}
	if n.feed == nil {
		return keypool.New(c)
	}
	products, err := n.store.Products(ctx, access.Everything())
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(products, func(p device.Product) bool { return p.KeyModel == device.KeyModelInjected }) {
		c.Ready = map[profile.KeyType]int{profile.P256: 512, profile.P384: 64, profile.Ed25519: 64, profile.RSA2048: 32, profile.RSA3072: 8}
	}
	return keypool.New(c)
}

// dataKeyLabel separates the data key from all else that the ledger's key signs:
// a checkpoint is never this text.
const dataKeyLabel = "birthmark data key v1"

// sealer seals secrets that lie in the database. Its key follows from the
// ledger's: Ed25519 signatures are always the same (RFC 8032), so all nodes of
// an installation have the same data key, and a backup holds it.
func (n *node) sealer(ctx context.Context) (factory.Sealer, error) {
	secret, err := n.secret(ledgerKey)
	if err != nil {
		return nil, err
	}
	key, err := n.keys.Load(ctx, ledgerKey, secret)
	if err != nil {
		return nil, err
	}
	material, err := key.SignMessage(rand.Reader, []byte(dataKeyLabel), crypto.Hash(0))
	if err != nil {
		return nil, fault.Wrap(fault.KeyUnavailable, err, ledgerKey)
	}
	raw, err := hkdf.Key(sha256.New, material, nil, dataKeyLabel, 32)
	if err != nil {
		return nil, err
	}
	return factory.NewSealer([32]byte(raw))
}

// close writes what is pending and gives everything back.
func (l *line) close(ctx context.Context) error {
	l.keys.Close()
	l.guard.Close()
	return l.factory.Flush(ctx)
}

// alarms is the factory as the road raises alarms.
type alarms struct{ factory *factory.Service }

// Raise raises an alarm.
func (a alarms) Raise(_ context.Context, _ string, x factory.Alarm) { a.factory.Raise(x) }

// stationHandlers are the operations of stations; refused, if not nil, is told
// of each refused item.
func (n *node) stationHandlers(refused func(fault.Code)) (*station.Handlers, error) {
	return station.New(station.Config{Enroller: n.enroller, Factory: n.line.factory, Logger: n.log, Refused: refused})
}

package factory

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/statement"
)

// Register is what the service needs of the device register.
type Register interface {
	DeviceID(deviceSerial string) device.ID
	Device(ctx context.Context, s access.Scope, id device.ID) (device.Device, error)
	Products(ctx context.Context, s access.Scope) ([]device.Product, error)
	Credential(ctx context.Context, s access.Scope, id device.CredentialID) (device.Credential, error)
	CredentialBySerial(ctx context.Context, s access.Scope, certSerial []byte) (device.Credential, error)
	CredentialBySPKI(ctx context.Context, s access.Scope, spkiDigest [32]byte) (device.Credential, error)
}

// Authorities is what the service needs of package authority.
type Authorities interface {
	Snapshot(ctx context.Context) (*authority.Snapshot, error)
	Refresh(ctx context.Context) (*authority.Snapshot, error)
}

// Approvals is the rule of two operators. access.Service has it.
type Approvals interface {
	Authorize(ctx context.Context, by access.Caller, kind string, params any, reason string) error
}

// Ledger is what the service needs of the ledger: its size, and the right to run
// a job that must run once.
type Ledger interface {
	LedgerSize(ctx context.Context) (int64, error)
	AcquireLease(ctx context.Context, job, node string, ttlSeconds int) (l ledger.Lease, ok bool, err error)
}

// Config names what the service needs. All but Logger and
// Secrets are required.
type Config struct {
	Store       Store
	Register    Register
	Authorities Authorities
	Approvals   Approvals
	Ledger      Ledger
	Planes      *Planes // shared with package enroll
	Statements  *statement.Signer
	Now         func() time.Time
	Rand        io.Reader
	Node        string
	Logger      *slog.Logger
	// Secrets seals the secrets of webhooks. Nil: there can be no webhooks.
	Secrets Sealer
}

// Service is the factory's business but for issuing.
type Service struct {
	store       Store
	register    Register
	authorities Authorities
	approvals   Approvals
	ledger      Ledger
	planes      *Planes
	statements  *statement.Signer
	now         func() time.Time
	random      io.Reader
	node        string
	log         *slog.Logger
	secrets     Sealer

	importing underWay
	alarms    pendingAlarms
	refused   pendingTallies
	spares    sparesTold
	wake      chan struct{} // something is pending
}

// New returns a Service.
func New(c Config) (*Service, error) {
	if c.Store == nil || c.Register == nil || c.Authorities == nil || c.Approvals == nil || c.Ledger == nil ||
		c.Planes == nil || c.Statements == nil || c.Now == nil || c.Rand == nil || c.Node == "" {
		return nil, errors.New("factory: everything but Logger and Secrets is needed")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{
		store: c.Store, register: c.Register, authorities: c.Authorities, approvals: c.Approvals, ledger: c.Ledger,
		planes: c.Planes, statements: c.Statements, now: c.Now, random: c.Rand, node: c.Node, log: c.Logger, secrets: c.Secrets,
		wake: make(chan struct{}, 1),
	}, nil
}

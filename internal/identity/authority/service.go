package authority

import (
	"context"
	"crypto"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/pki/issuing"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// Register is what the service needs of the device register.
type Register interface {
	SerialStore
	StoreIssuance(ctx context.Context, i device.Issuance) (device.Credential, error)
	Credential(ctx context.Context, s access.Scope, id device.CredentialID) (device.Credential, error)
	CredentialBySPKI(ctx context.Context, s access.Scope, spkiDigest [32]byte) (device.Credential, error)
	AddProduct(ctx context.Context, p device.Product, entries ...ledger.Entry) (id int64, err error)
	UpdateProduct(ctx context.Context, p device.Product, entries ...ledger.Entry) error
}

// Keys is where private keys live.
type Keys interface {
	Create(ctx context.Context, uri string, t profile.KeyType, secret keystore.Secret) (keystore.Key, error)
	Load(ctx context.Context, uri string, secret keystore.Secret) (keystore.Key, error)
	Import(ctx context.Context, uri string, key crypto.Signer, secret keystore.Secret) (keystore.Key, error)
}

// Expecter is implemented by Keys that can hand out a key elsewhere whose public
// key is known, without reaching it: the server starts and goes on while the
// signer is down. ok is false for keys that must be opened.
type Expecter interface {
	Expect(uri string, public crypto.PublicKey) (key keystore.Key, ok bool, err error)
}

// Config names what the service needs.
type Config struct {
	Store    Store
	Register Register
	Keys     Keys
	// Secret returns the passphrase of a key that is opened without a person:
	// issuing authorities, responders, listeners. Never of a root.
	Secret func(uri string) (keystore.Secret, error)
	Now    func() time.Time
	Rand   io.Reader
	Node   string
	Block  int // serials to lease at a time; default 4,096
	Logger *slog.Logger
}

// Service keeps the authorities.
type Service struct {
	store    Store
	register Register
	keys     Keys
	secret   func(uri string) (keystore.Secret, error)
	now      func() time.Time
	random   io.Reader
	log      *slog.Logger
	serials  *Serials

	current atomic.Pointer[Snapshot]
	begun   atomic.Int64 // reads of the control plane that were begun

	loading  sync.Mutex
	loaded   int64            // guarded by loading: the newest read that succeeded
	versions map[int64]string // guarded by loading; replaced, never changed

	opening sync.Mutex
	opened  map[string]keystore.Key // guarded by opening: by URI, never a root's
}

// New returns a Service. It reads nothing before the first call that needs it.
func New(c Config) (*Service, error) {
	if c.Store == nil || c.Register == nil || c.Keys == nil || c.Secret == nil || c.Now == nil || c.Rand == nil {
		return nil, errors.New("authority: Store, Register, Keys, Secret, Now and Rand are needed")
	}
	if c.Block == 0 {
		c.Block = 4096
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	serials, err := NewSerials(SerialsConfig{Store: c.Register, Node: c.Node, Count: c.Block, Now: c.Now})
	if err != nil {
		return nil, err
	}
	return &Service{
		store: c.Store, register: c.Register, keys: c.Keys, secret: c.Secret, now: c.Now, random: c.Rand,
		log: c.Logger, serials: serials, opened: make(map[string]keystore.Key),
	}, nil
}

// Start closes what a former run of this node left open, and loads the control
// plane.
func (s *Service) Start(ctx context.Context) error {
	if err := s.serials.Fence(ctx); err != nil {
		return err
	}
	_, err := s.Refresh(ctx)
	return err
}

// Close ends the leased blocks of serials. Call it when nothing is being issued
// any more.
func (s *Service) Close(ctx context.Context) error { return s.serials.Close(ctx) }

// LeasedSerial is a certificate serial that is on record and was never handed out
// before.
type LeasedSerial struct {
	ID    device.CredentialID
	Bytes []byte // content octets
	Lease device.LeaseRef
}

// NextSerial hands out a serial.
func (s *Service) NextSerial(ctx context.Context) (LeasedSerial, error) {
	ref, id, octets, err := s.serials.Next(ctx)
	if err != nil {
		return LeasedSerial{}, err
	}
	return LeasedSerial{ID: id, Bytes: octets, Lease: ref}, nil
}

// openKey opens a key once and keeps it.
func (s *Service) openKey(ctx context.Context, uri string) (keystore.Key, error) {
	s.opening.Lock()
	defer s.opening.Unlock()
	if k, ok := s.opened[uri]; ok {
		return k, nil
	}
	secret, err := s.secret(uri)
	if err != nil {
		return nil, fault.Wrap(fault.KeyUnavailable, err)
	}
	k, err := s.keys.Load(ctx, uri, secret)
	if err != nil {
		return nil, err
	}
	s.opened[uri] = k
	return k, nil
}

// issuingKey returns the key of an issuing authority.
func (s *Service) issuingKey(ctx context.Context, uri string, public crypto.PublicKey) (keystore.Key, error) {
	e, ok := s.keys.(Expecter)
	if !ok || !inSigner(uri) {
		return s.openKey(ctx, uri)
	}
	s.opening.Lock()
	defer s.opening.Unlock()
	if k, ok := s.opened[uri]; ok {
		return k, nil
	}
	k, _, err := e.Expect(uri, public)
	if err != nil {
		return nil, err
	}
	s.opened[uri] = k
	return k, nil
}

// makeKey creates a key, or opens the one that an interrupted run made.
func (s *Service) makeKey(ctx context.Context, uri string, t profile.KeyType, secret keystore.Secret) (keystore.Key, error) {
	k, err := s.keys.Create(ctx, uri, t, secret)
	if !fault.Has(err, fault.KeyExists) {
		return k, err
	}
	k, err = s.keys.Load(ctx, uri, secret)
	if err != nil {
		return nil, err
	}
	if k.Type() != t {
		return nil, fault.New(fault.KeyExists, uri, "is a key of type", k.Type())
	}
	return k, nil
}

// newIssuer presents an authority with its opened key to package issuing.
func newIssuer(a Authority, key keystore.Key, i Installation, random io.Reader) *issuing.Issuer {
	issuer := &issuing.Issuer{
		Name: a.Name, Certificate: a.Certificate, Key: key, Rand: random,
		StatusURL: i.StatusURL, Quickstart: i.Quickstart,
	}
	if c, ok := keystore.AsSelfChecker(key); ok {
		issuer.Check = c
	}
	return issuer
}

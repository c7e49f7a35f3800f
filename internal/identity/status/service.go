package status

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// Register is what the service needs of the device register.
type Register interface {
	Credential(ctx context.Context, s access.Scope, id device.CredentialID) (device.Credential, error)
	CredentialBySerial(ctx context.Context, s access.Scope, certSerial []byte) (device.Credential, error)
}

// Leases hands out the right to run a job that must run once. ledger.Store has
// it.
type Leases interface {
	AcquireLease(ctx context.Context, job, node string, ttlSeconds int) (l ledger.Lease, ok bool, err error)
}

// Authorities is what the service needs of package authority.
type Authorities interface {
	Snapshot(ctx context.Context) (*authority.Snapshot, error)
	Refresh(ctx context.Context) (*authority.Snapshot, error)
	Responder(ctx context.Context, name string) (*authority.Presented, error)
	MarkRevoked(ctx context.Context, actor, name string) error
}

// Config names what the service needs. Durations that are zero have the
// defaults named beside them.
type Config struct {
	Store       Store
	Register    Register
	Leases      Leases
	Authorities Authorities
	Now         func() time.Time
	Rand        io.Reader
	Node        string
	Logger      *slog.Logger
	// Fresh reports whether the change feed has told all that was committed up
	// to a few seconds ago; while it has not, no cached answer is given. Nil:
	// always.
	Fresh func() bool

	CRLLife    time.Duration // thisUpdate to nextUpdate of an issuing authority's list: 24 h
	CRLPause   time.Duration // least time between two lists of one shard: 5 s
	OCSPLife   time.Duration // thisUpdate to nextUpdate of an answer: 1 h
	OCSPMaxAge time.Duration // how long HTTP caches may keep it: 60 s
	CacheBytes int           // of OCSP answers: 64 MB
	SignRate   float64       // answers with a nonce, or about unknown certificates, per second: 200
}

// Service revokes, publishes CRLs and answers OCSP requests.
type Service struct {
	store       Store
	register    Register
	leases      Leases
	authorities Authorities
	now         func() time.Time
	random      io.Reader
	node        string
	log         *slog.Logger
	fresh       func() bool

	crlLife, crlPause, ocspLife, ocspMaxAge time.Duration

	lists     lists
	published published
	wake      chan struct{}

	answers    *answerCache
	signing    singleflight.Group
	signRate   *rate.Limiter
	issuers    issuerIndex
	responders responders
}

// New returns a Service.
func New(c Config) (*Service, error) {
	if c.Store == nil || c.Register == nil || c.Leases == nil || c.Authorities == nil || c.Now == nil || c.Rand == nil || c.Node == "" {
		return nil, errors.New("status: Store, Register, Leases, Authorities, Now, Rand and Node are needed")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Fresh == nil {
		c.Fresh = func() bool { return true }
	}
	if c.SignRate == 0 {
		c.SignRate = 200
	}
	if c.CacheBytes == 0 {
		c.CacheBytes = 64 << 20
	}
	return &Service{
		store: c.Store, register: c.Register, leases: c.Leases, authorities: c.Authorities,
		now: c.Now, random: c.Rand, node: c.Node, log: c.Logger, fresh: c.Fresh,
		crlLife: orDefault(c.CRLLife, 24*time.Hour), crlPause: orDefault(c.CRLPause, 5*time.Second),
		ocspLife: orDefault(c.OCSPLife, time.Hour), ocspMaxAge: orDefault(c.OCSPMaxAge, time.Minute),
		lists:     lists{all: make(map[shardKey]*list)},
		published: published{lists: make(map[shardKey]*CRL)},
		wake:      make(chan struct{}, 1),
		answers:   newAnswerCache(c.CacheBytes),
		signRate:  rate.NewLimiter(rate.Limit(c.SignRate), int(2*c.SignRate)),
	}, nil
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// FollowedClasses are the classes of entries that Follow wants.
const FollowedClasses = ledger.ClassStatus | ledger.ClassControl

// Follow takes a batch of the change feed: what was revoked, held or released
// on any node, and which CRLs are published.
func (s *Service) Follow(_ context.Context, b ledger.Batch) error {
	for _, p := range b.Each(FollowedClasses) {
		switch body := p.Body.(type) {
		case *ledger.Revoked:
			s.lists.revoked(body)
			s.ended(device.CredentialID(body.Credential), body.Device == 0)
		case *ledger.Released:
			s.lists.released(body)
			s.ended(device.CredentialID(body.Credential), body.Device == 0)
		case *ledger.SignedCRL:
			s.published.newer(body)
		default:
			s.forgetAnswers() // authorities or profiles changed
		}
	}
	return nil
}

// ended drops what is cached about a credential whose status changed, and has
// the CRLs looked at soon.
func (s *Service) ended(id device.CredentialID, ours bool) {
	if ours {
		s.forgetAnswers() // it may be a responder or an authority
	} else {
		s.answers.invalidate(id)
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Service) forgetAnswers() {
	s.answers.clear()
	s.responders.clear()
}

const (
	leaseSeconds = 30
	idle         = 10 * time.Second
	shortPause   = time.Second
)

// Run publishes CRLs and renews responders until the context ends. All nodes
// run it; one of them has the lease.
func (s *Service) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var crls keeper
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-s.wake:
		}
		more, err := s.step(ctx, &crls)
		if err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "CRLs could not be published", "error", err, "cause", errors.Unwrap(err))
		}
		s.renewResponders(ctx)
		ended, overlapErr := s.endOverlaps(ctx)
		if overlapErr != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "replaced certificates could not be ended", "error", overlapErr, "cause", errors.Unwrap(overlapErr))
		}
		pause := idle
		if more || err != nil || ended == overlapsAtOnce {
			pause = shortPause
		}
		timer.Reset(pause)
	}
}

// moment is a time as certificates and the register hold it.
func moment(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

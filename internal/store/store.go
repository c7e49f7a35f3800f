// Package store keeps everything that Birthmark knows in SQLite or PostgreSQL.
// It is one type, Store, with one file per noun of identity; each method speaks
// in the nouns and is one transaction. A write always appends its acts to the
// ledger in the same transaction, and the ledger's head is the last row it
// locks, so that the ledger's indexes have no gaps and are the order of commits
// on all nodes. The one hot write is STORE: issuances that wait are taken
// together into one transaction (issuance.go), so that many callers share one
// sync. The same SQL text serves both engines; what differs is in sqlite*.go,
// postgres*.go and the two commit files. Nothing here decides what may happen:
// methods refuse only what the record itself contradicts.
package store

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
)

// Config says which database to open and what the store takes from outside.
type Config struct {
	// DSN is "sqlite:PATH" or "postgres://...".
	DSN    string
	Node   string // this process among those on the same database
	Now    func() time.Time
	Rand   io.Reader
	Logger *slog.Logger
	// ReadOnly opens without migrating and refuses every write.
	ReadOnly bool
	// OwnClock skips the comparison with the clock of PostgreSQL, for tests
	// whose Now is made up.
	OwnClock bool
	// CommitFault, when it returns an error, stands for a failed sync at the
	// commit of a transaction. Tests only.
	CommitFault func() error
}

// Store is the database with the register, the control plane and the ledger.
type Store struct {
	cfg    Config
	read   querier // outside of any transaction
	engine engine

	keys      keys
	ticketKey atomic.Pointer[[32]byte] // nil: not read yet
	feed      feed
	staging   staging
	committer combiner[*pending]
	gather    combiner[*wanted]

	fence     atomic.Int64 // of this node's run, 0 before FenceNode
	broken    atomic.Bool  // a sync failed: nothing more is written
	skewed    atomic.Bool  // the clock differs from the database's
	closeOnce sync.Once
}

// engine is what the two databases do differently.
type engine interface {
	// begin starts a write transaction.
	begin(ctx context.Context) (writeTx, error)
	// snapshot runs fn in a read-only transaction that sees one state.
	snapshot(ctx context.Context, fn func(q querier) error) error
	// script runs statements without parameters in one transaction, under a
	// lock that keeps other nodes from migrating.
	migrate(ctx context.Context, fn func(q scripter) error) error
	// look runs fn on what is committed, which may not be durable yet: for
	// decisions that a later commit makes good.
	look(ctx context.Context, fn func(q querier) error) error
	// devices reads those of the devices that exist, at one moment.
	devices(ctx context.Context, ids []int64) (map[device.ID]device.Device, error)
	// commitGroup executes STORE for a group in one transaction.
	commitGroup(ctx context.Context, g *group) error
	// overlaps reports whether two groups may be on their way at the same time.
	overlaps() bool
	// hint tells other nodes that something was committed.
	hint()
	close() error
}

// writeTx is a transaction in progress.
type writeTx interface {
	querier
	commit(ctx context.Context) error
	rollback()
}

// Open opens the database, migrates it and loads its keys.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{cfg: cfg}
	s.committer.most, s.committer.run = maxGroup, s.commitGroup
	s.gather.most, s.gather.run = maxGather, s.readWanted
	s.feed.init()
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(err, s.engine.close())
	}
	if s.engine.overlaps() {
		s.committer.backlog = backlog
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	if path, ok := strings.CutPrefix(s.cfg.DSN, "sqlite:"); ok && path != "" {
		return s.openSQLite(ctx, path)
	}
	if strings.HasPrefix(s.cfg.DSN, "postgres://") || strings.HasPrefix(s.cfg.DSN, "postgresql://") {
		return s.openPostgres(ctx)
	}
	return fault.New(fault.ConfigInvalid, "store: want sqlite:PATH or postgres://...")
}

// prepare brings the schema up to this program's and loads the keys.
func (s *Store) prepare(ctx context.Context) error {
	if err := s.migrate(ctx); err != nil {
		return err
	}
	return s.loadKeys(ctx)
}

// Close waits for the commits on their way and closes the database.
func (s *Store) Close() error {
	var err error
	s.closeOnce.Do(func() {
		s.committer.close()
		err = s.engine.close()
		s.feed.wake()
	})
	return err
}

// Node returns the name of this node.
func (s *Store) Node() string { return s.cfg.Node }

// Changed returns a channel that is closed at the next commit that this process
// learns of, its own or a hint from another node. It is a hint only: what
// happened is read from the ledger, from the cursor on. Take the channel first,
// then read, then wait.
func (s *Store) Changed() <-chan struct{} { return s.feed.changed() }

// feed wakes those who wait for the next commit.
type feed struct {
	mu sync.Mutex
	ch chan struct{} // guarded by mu
}

func (f *feed) init() { f.ch = make(chan struct{}) }

func (f *feed) changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ch
}

func (f *feed) wake() {
	f.mu.Lock()
	close(f.ch)
	f.ch = make(chan struct{})
	f.mu.Unlock()
}

package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/status"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	insigner "github.com/birthmark/birthmark/internal/pki/keystore/remote"
	"github.com/birthmark/birthmark/internal/pki/profile"
	"github.com/birthmark/birthmark/internal/store"
)

// folder names what lies where in the data folder.
type folder string

func (f folder) keys() string       { return filepath.Join(string(f), "keys") }
func (f folder) passphrase() string { return filepath.Join(string(f), "secrets", "issuing.passphrase") }
func (f folder) witness() string    { return filepath.Join(string(f), "witness.log") }
func (f folder) root() string       { return filepath.Join(string(f), "root.pem") }
func (f folder) bundle() string     { return filepath.Join(string(f), "bundle.pem") }
func (f folder) csr() string        { return filepath.Join(string(f), "issuing.csr") }
func (f folder) nodeName() string   { return filepath.Join(string(f), "node") }
func (f folder) socket() string     { return filepath.Join(string(f), "socket") }

// node is one process with everything wired; it listens to nothing yet.
type node struct {
	settings Settings
	folder   folder
	name     string
	log      *slog.Logger
	lock     *store.FolderLock

	store     *store.Store
	keys      *insigner.Keys
	authority *authority.Service
	access    *access.Service
	register  *device.Register
	status    *status.Service
	enroller  *enroll.Enroller
	line      *line // what production lines need; nil until openLine
	clock     *enroll.Clock
	sequencer *ledger.Sequencer
	feed      *ledger.Feed
	witnesses []*ledger.FileWitness

	verifiers   []note.Verifier // of checkpoints; the first is of this life
	verifierKey string
}

// nodeOptions say how much of a node a command needs.
type nodeOptions struct {
	create bool // make the folder if it is not there
	block  int  // serials per lease; 0: as a server
}

// openNode takes the data folder's lock and wires the services.
func openNode(ctx context.Context, settings Settings, log *slog.Logger, o nodeOptions) (n *node, err error) {
	n = &node{settings: settings, folder: folder(settings.Data), log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close(context.WithoutCancel(ctx)))
			n = nil
		}
	}()
	if err := n.prepareFolder(o.create); err != nil {
		return n, err
	}
	if n.lock, err = store.LockFolder(settings.Data); err != nil {
		return n, err
	}
	if n.name, err = n.nodeName(); err != nil {
		return n, err
	}
	n.store, err = store.Open(ctx, store.Config{DSN: settings.databaseDSN(), Node: n.name, Now: time.Now, Rand: rand.Reader, Logger: log})
	if err != nil {
		return n, err
	}
	if err := n.openKeys(); err != nil {
		return n, err
	}
	if err := n.wire(ctx, o); err != nil {
		return n, err
	}
	return n, nil
}

// openKeys opens the folder of keys and, if its socket is named, the signer,
// which may come up later.
func (n *node) openKeys() (err error) {
	n.keys = &insigner.Keys{}
	if n.keys.Store, err = keystore.Open(keystore.Config{Dir: n.folder.keys(), Rand: rand.Reader}); err != nil {
		return err
	}
	if n.settings.SignerSocket == "" {
		return nil
	}
	n.keys.Signer, err = insigner.New(insigner.Config{Socket: n.settings.SignerSocket, Now: time.Now})
	return err
}

func (n *node) prepareFolder(create bool) error {
	if create {
		for _, dir := range []string{string(n.folder), n.folder.keys(), filepath.Dir(n.folder.passphrase())} {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return fault.Wrap(fault.DataFolderState, err)
			}
		}
		return nil
	}
	if _, err := os.Stat(n.folder.keys()); err != nil {
		return fault.New(fault.DataFolderState, string(n.folder), "is not a data folder")
	}
	return nil
}

// nodeName returns the configured name, or the one kept in the folder, made at
// first use.
func (n *node) nodeName() (string, error) {
	if n.settings.Node != "" {
		return n.settings.Node, nil
	}
	text, err := os.ReadFile(n.folder.nodeName())
	if err == nil && len(strings.TrimSpace(string(text))) > 0 {
		return strings.TrimSpace(string(text)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	name := "node-" + strings.ToLower(rand.Text()[:10])
	return name, os.WriteFile(n.folder.nodeName(), []byte(name+"\n"), 0o600)
}

func (n *node) wire(ctx context.Context, o nodeOptions) (err error) {
	now := time.Now
	n.authority, err = authority.New(authority.Config{
		Store: n.store, Register: n.store, Keys: n.keys, Secret: n.secret,
		Now: now, Rand: rand.Reader, Node: n.name, Block: o.block, Logger: n.log,
	})
	if err != nil {
		return err
	}
	n.access, err = access.New(access.Config{
		Store: n.store, Now: now, Rand: rand.Reader, SecondOperator: []string{factory.ApprovalKind},
	})
	if err != nil {
		return err
	}
	if n.register, err = device.NewRegister(device.RegisterConfig{Store: n.store, Now: now, Rand: rand.Reader}); err != nil {
		return err
	}
	n.status, err = status.New(status.Config{
		Store: n.store, Register: n.store, Leases: n.store, Authorities: n.authority, Now: now, Rand: rand.Reader,
		Node: n.name, Logger: n.log, Fresh: n.fresh, CRLLife: n.settings.CRLValidity, OCSPLife: n.settings.OCSPValidity,
	})
	if err != nil {
		return err
	}
	started := time.Now()
	n.clock, err = enroll.NewClock(ctx, enroll.ClockConfig{
		Store: n.store, Now: now, Monotonic: func() time.Duration { return time.Since(started) },
	})
	return err
}

// fresh reports whether the change feed is close to the present; while it is
// not, no cached status is told to anyone.
func (n *node) fresh() bool {
	return n.feed == nil || n.feed.Fresh(time.Now(), maxBehind)
}

// maxBehind is how old the view of the change feed may be: OCSP promises five
// seconds.
const maxBehind = 3 * time.Second

// mayIssue stops issuing while the clock cannot be believed, the ledger's
// checkpoints are stalled, or nothing can be stored: then what was stored last
// is in doubt too, so that not even the same request is answered again.
func (n *node) mayIssue() error {
	if err := n.store.Writable(); err != nil {
		return err
	}
	if err := n.clock.MayIssue(); err != nil {
		return err
	}
	if n.sequencer != nil {
		return n.sequencer.Ready(time.Now())
	}
	return nil
}

// secret returns the passphrase of the keys that the server opens by itself.
func (n *node) secret(string) (keystore.Secret, error) {
	path := n.settings.PassphraseFile
	if path == "" {
		path = n.folder.passphrase()
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("passphrase file: %w", err)
	}
	return keystore.Secret(strings.TrimRight(string(text), "\r\n")), nil
}

// ledgerKey is the URI of the key that signs checkpoints.
const ledgerKey = "file:ledger"

// ledgerOrigin is the checkpoints' first line: it names this installation's
// log, and its life. After a restore the log goes on from an earlier point, so
// witnesses must not take it for the one they saw.
func ledgerOrigin(i authority.Installation, life int64) string {
	if life == 0 {
		return fmt.Sprintf("birthmark/%x", i.ID)
	}
	return fmt.Sprintf("birthmark/%x/%d", i.ID, life)
}

// startLedger prepares the sequencer and its witnesses.
func (n *node) startLedger(ctx context.Context) error {
	i, err := n.store.Installation(ctx)
	if err != nil {
		return err
	}
	secret, err := n.secret(ledgerKey)
	if err != nil {
		return err
	}
	key, err := n.keys.Load(ctx, ledgerKey, secret)
	if err != nil {
		return err
	}
	signer, err := ledger.NewSigner(ledgerOrigin(i, i.RestoreEpoch), key, rand.Reader)
	if err != nil {
		return err
	}
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return fault.New(fault.KeyUnavailable, ledgerKey, "is not an Ed25519 key")
	}
	if n.verifierKey, err = ledger.VerifierKey(ledgerOrigin(i, i.RestoreEpoch), public); err != nil {
		return err
	}
	n.verifiers = []note.Verifier{signer}
	for life := range i.RestoreEpoch {
		v, err := ledger.NewVerifier(ledgerOrigin(i, life), public)
		if err != nil {
			return err
		}
		n.verifiers = append(n.verifiers, v)
	}
	paths := n.settings.WitnessFiles
	if len(paths) == 0 {
		paths = []string{n.folder.witness()}
	}
	witnesses := make([]ledger.Witness, 0, len(paths))
	for _, path := range paths {
		w, err := ledger.OpenFileWitness(ledger.FileWitnessConfig{Path: path, Verifier: signer, Now: time.Now, Every: witnessPause})
		if err != nil {
			return err
		}
		n.witnesses = append(n.witnesses, w)
		witnesses = append(witnesses, w)
	}
	n.sequencer, err = ledger.NewSequencer(ledger.SequencerConfig{
		Store: n.store, Signer: signer, Known: n.verifiers[1:], Node: n.name, Witnesses: witnesses, Now: time.Now, Logger: n.log,
	})
	return err
}

// witnessPause is the least time between two checkpoints in a witness file.
const witnessPause = 10 * time.Second

// engine names the kind of database.
func (n *node) engine() string {
	name, _, _ := strings.Cut(n.settings.databaseDSN(), ":")
	return name
}

// makeLedgerKey makes the key that signs checkpoints, unless it is there.
func (n *node) makeLedgerKey(ctx context.Context) error {
	secret, err := n.secret(ledgerKey)
	if err != nil {
		return err
	}
	_, err = n.keys.Create(ctx, ledgerKey, profile.Ed25519, secret)
	if fault.Has(err, fault.KeyExists) {
		return nil
	}
	return err
}

// lastCheckpoint puts what was done until the end under a checkpoint, so that a
// rollback of the database while nobody serves it shows.
func (n *node) lastCheckpoint(ctx context.Context) error {
	if err := n.sequencer.Step(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("last checkpoint: %w", err)
	}
	return nil
}

// close gives everything back, in the opposite order.
func (n *node) close(ctx context.Context) error {
	if n == nil {
		return nil
	}
	var errs []error
	if n.line != nil {
		errs = append(errs, n.line.close(ctx))
	}
	if n.authority != nil {
		errs = append(errs, n.authority.Close(ctx))
	}
	if n.keys != nil && n.keys.Signer != nil {
		errs = append(errs, n.keys.Signer.Close())
	}
	for _, w := range n.witnesses {
		errs = append(errs, w.Close())
	}
	if n.store != nil {
		errs = append(errs, n.store.Close())
	}
	if n.lock != nil {
		errs = append(errs, n.lock.Unlock())
	}
	return errors.Join(errs...)
}

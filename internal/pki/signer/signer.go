// Package signer is the engine of birthmark-signer: the process that holds our
// CA keys and does not trust the server that asks it to sign. Whoever takes over
// the server can ask for signatures, too; this package sees to it that they get
// nothing that the server could not have got by itself, never more of it than
// the key's operator allowed, and nothing without leaving a trace.
//
// So it is given whole to-be-signed structures and reads them ([Engine.Sign]): a
// certificate, CRL, OCSP answer, or a request for the key's own certificate;
// anything else is refused, a bare digest first of all. What it reads is held
// against what the key is bound to: the authority whose certificate the key
// has, kinds of content judged from the bytes and not from what the server says
// of them, the longest validity, serials that were not signed before, CRL
// numbers that rise, a rate and a daily count. Then everything is written to the
// [Journal], whose records are chained by hashes and synced to disk in groups;
// what cannot be journaled is not signed. Then the backend signs (a file, a
// PKCS #11 token, a TPM), the signature is verified with the public key, and
// only then leaves.
//
// [Server] speaks the frames of package format/signer over a Unix socket. There
// is no HTTP, no SQL and no state but the journal: what must be remembered
// after a restart (the day's count, CRL numbers, the newest serials) is read
// back from it.
package signer

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
)

// Backend is a private key where it lives. It may be used by several goroutines
// and checks nothing.
type Backend interface {
	Public() crypto.PublicKey
	// Sign signs a digest of this hash: an ECDSA signature in DER, or RSA PKCS
	// #1 v1.5. With hash 0 (Ed25519) digest is the message. It must not take much
	// longer than ctx or its own limit allows, whatever the hardware does.
	Sign(ctx context.Context, digest []byte, hash crypto.Hash) ([]byte, error)
	// Parallel is how many calls at once make sense.
	Parallel() int
}

// DigestChecker is a Backend that checks its own signatures cheaper than with
// the public key; a nil error vouches as much.
type DigestChecker interface {
	CheckDigest(digest, signature []byte) error
}

// KeyConfig is one key and what it is bound to.
type KeyConfig struct {
	Name    string
	Backend Backend
	Bounds  Bounds
	// Certificate returns the certificate (DER) of the authority or responder
	// that the key belongs to; nil while there is none. It is asked until there
	// is one.
	Certificate func() ([]byte, error)
	// Bind keeps the certificate that a root has signed for itself.
	Bind func(certificate []byte) error
	// Issuer is the certificate (DER) of the authority for which a responder's
	// key answers; nil for the key's own.
	Issuer []byte
}

// Config names what the engine needs.
type Config struct {
	Keys    []KeyConfig
	Journal *Journal
	Now     func() time.Time
	Logger  *slog.Logger
	// Remember is how many serials of each key are remembered at least; default
	// 200,000.
	Remember int
}

// Engine signs for its keys. It may be used by several goroutines.
type Engine struct {
	keys    map[string]*key
	journal *Journal
	now     func() time.Time
	log     *slog.Logger
	held    atomic.Int64 // octets of streams that are held whole
}

// New returns an engine that knows what the journal knows.
func New(c Config) (*Engine, error) {
	if c.Journal == nil || c.Now == nil {
		return nil, errors.New("signer: Journal and Now are needed")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Remember == 0 {
		c.Remember = 200_000
	}
	e := &Engine{keys: make(map[string]*key), journal: c.Journal, now: c.Now, log: c.Logger}
	for i := range c.Keys {
		k, err := newKey(&c.Keys[i], c.Remember)
		if err != nil {
			return nil, err
		}
		if e.keys[k.name] != nil {
			return nil, fault.New(fault.SignerConfig, "two keys are named", k.name)
		}
		e.keys[k.name] = k
	}
	if err := c.Journal.recall(e.remember, slices.Collect(maps.Keys(e.keys)), c.Remember); err != nil {
		return nil, err
	}
	c.Journal.snapshot = e.snapshot
	return e, nil
}

// Key is a key as the engine shows it.
type Key struct {
	Name        string
	Public      crypto.PublicKey
	SPKI        []byte
	Certificate []byte // nil: pending
	Kinds       []Kind
}

// Keys returns the keys that a user may sign with, in order of their names.
func (e *Engine) Keys(uid uint32) []Key {
	var all []Key
	for _, name := range slices.Sorted(maps.Keys(e.keys)) {
		k := e.keys[name]
		if !k.bounds.admits(uid) {
			continue
		}
		out := Key{Name: name, Public: k.public, SPKI: k.spki, Kinds: k.bounds.Kinds}
		if b, err := k.certificateOf(); err == nil && b != nil {
			out.Certificate = b.certificate
		}
		all = append(all, out)
	}
	return all
}

// Request is one thing to sign. Either TBS or Stream is set.
type Request struct {
	Key    string
	TBS    []byte
	Stream io.Reader // of a CRL that is too large for TBS
	// Canceled, if set, reports that nobody waits for the signature any more.
	Canceled *atomic.Bool
}

// Outcome answers a Request: a signature or a refusal.
type Outcome struct {
	Signature []byte
	Err       error
}

// pass is one request on its way.
type pass struct {
	key     *key
	facts   facts
	hash    crypto.Hash
	digest  []byte // to be signed: of the key's hash, or an Ed25519 message
	sum     [32]byte
	request *Request
	outcome *Outcome
	held    int64 // octets of a stream
}

// Sign reads, checks, journals and signs requests of one user as a group. Each
// has its outcome at its index.
func (e *Engine) Sign(ctx context.Context, uid uint32, requests []Request) []Outcome {
	outcomes := make([]Outcome, len(requests))
	passes := make([]*pass, 0, len(requests))
	for i := range requests {
		p := &pass{request: &requests[i], outcome: &outcomes[i]}
		defer func() { e.held.Add(-p.held) }()
		if err := e.admit(uid, p); err != nil {
			outcomes[i].Err = err
			e.refused(uid, p, err)
			continue
		}
		passes = append(passes, p)
	}
	if len(passes) == 0 {
		return outcomes
	}
	if err := e.write(uid, passes); err != nil {
		for _, p := range passes {
			p.outcome.Err = err
		}
		return outcomes
	}
	e.signAll(ctx, uid, passes)
	return outcomes
}

// admit reads a request and takes what it costs from the key's limits.
func (e *Engine) admit(uid uint32, p *pass) error {
	k := e.keys[p.request.Key]
	if k == nil || !k.bounds.admits(uid) {
		// Whoever may not use a key does not learn that it exists.
		return fault.New(fault.SignerKeyUnknown, p.request.Key)
	}
	p.key = k
	b, err := k.certificateOf()
	if err != nil {
		return err
	}
	hold := func(n int) bool {
		p.held += int64(n)
		return e.held.Add(int64(n)) <= maxHeldAll
	}
	if err := e.read(p, hold); err != nil {
		return err
	}
	now := e.now()
	if err := k.judge(b, &p.facts, now); err != nil {
		return err
	}
	return k.limits.take(&p.facts, now)
}

// read reads a request. Bytes on which the parser itself fails are refused like
// others that it cannot read: whoever finds such may not end the process, which
// signs for everybody.
func (e *Engine) read(p *pass, hold func(int) bool) (err error) {
	defer func() {
		if failed := recover(); failed != nil {
			e.log.Error("the parser failed; please report this", "key", p.key.name, "panic", failed, "stack", string(debug.Stack()))
			err = malformed("it cannot be read")
		}
	}()
	return p.read(hold)
}

// read parses what is to be signed and hashes it.
func (p *pass) read(hold func(int) bool) (err error) {
	p.hash = p.key.hash
	if p.request.Stream != nil {
		p.facts, p.digest, p.sum, err = readStream(p.request.Stream, p.hash, hold)
		return err
	}
	tbs := p.request.TBS
	if p.facts, err = parse(tbs); err != nil {
		return err
	}
	p.sum = sha256.Sum256(tbs)
	switch p.hash {
	case 0:
		p.digest = tbs
	case crypto.SHA256:
		p.digest = p.sum[:]
	default:
		h := p.hash.New()
		h.Write(tbs)
		p.digest = h.Sum(nil)
	}
	return nil
}

// write journals what will be signed, all of it or nothing.
func (e *Engine) write(uid uint32, passes []*pass) error {
	records := make([]Record, len(passes))
	for i, p := range passes {
		records[i] = p.record(uid, Signing, 0)
	}
	return e.journal.Append(e.now(), records...)
}

func (p *pass) record(uid uint32, outcome Outcomes, code fault.Code) Record {
	return Record{
		Key: p.request.Key, UID: uid, Kind: p.facts.kind, Number: p.facts.number, Scope: p.facts.scope,
		Sum: p.sum, Outcome: outcome, Code: code,
	}
}

// refused leaves a trace of a refusal with the next group; a flood of them is
// counted and not written.
func (e *Engine) refused(uid uint32, p *pass, err error) {
	if e.journal.Note(e.now(), p.record(uid, Refused, fault.Of(err).Code)) {
		e.log.Warn("refused to sign", "key", p.request.Key, "uid", uid, "kind", p.facts.kind.String(), "error", err)
	}
}

// signAll signs what was journaled, as many at a time as the backend likes.
func (e *Engine) signAll(ctx context.Context, uid uint32, passes []*pass) {
	if len(passes) == 1 {
		e.sign(ctx, uid, passes[0])
		return
	}
	var next atomic.Int64
	work := func() {
		for i := next.Add(1) - 1; i < int64(len(passes)); i = next.Add(1) - 1 {
			e.sign(ctx, uid, passes[i])
		}
	}
	most := 1
	for _, p := range passes {
		most = max(most, p.key.backend.Parallel())
	}
	parallel(min(most, len(passes)), work)
}

// sign signs one thing and checks the signature before anyone sees it.
func (e *Engine) sign(ctx context.Context, uid uint32, p *pass) {
	if c := p.request.Canceled; c != nil && c.Load() || ctx.Err() != nil {
		p.outcome.Err = fault.New(fault.SignerUnreachable, "nobody waits for the signature any more")
		e.journal.Note(e.now(), p.record(uid, Dropped, fault.SignerUnreachable))
		return
	}
	signature, err := p.key.backend.Sign(ctx, p.digest, p.hash)
	if err == nil && !p.key.verify(p.digest, signature) {
		err = fault.New(fault.SignatureFault, "key", p.key.name)
		e.log.Error("a signature failed its check and was not released", "key", p.key.name)
	}
	if err == nil && p.facts.self && p.key.bind != nil {
		err = p.key.bindTo(p.request.TBS, signature)
	}
	if err != nil {
		p.outcome.Err = fault.Wrap(fault.KeyUnavailable, err)
		if f, ok := errors.AsType[*fault.Error](err); ok {
			p.outcome.Err = f
		}
		e.log.Error("cannot sign", "key", p.key.name, "error", err)
		e.journal.Note(e.now(), p.record(uid, Failed, fault.Of(p.outcome.Err).Code))
		return
	}
	p.outcome.Signature = signature
}

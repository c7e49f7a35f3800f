// Package keypool makes private keys ahead, so that a production line whose
// devices cannot make their own keys never waits for one. The pool is bounded
// and lives in memory alone: a key that was not handed out is never written
// anywhere, and each is handed out once.
package keypool

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// Key is a private key on its way to a device.
type Key struct {
	Type profile.KeyType
	SPKI []byte // DER SubjectPublicKeyInfo

	pkcs8 []byte
}

// PKCS8 returns the DER of the private key (RFC 5958, version 1). It is the
// key's own copy, which Erase clears.
func (k *Key) PKCS8() []byte { return k.pkcs8 }

// Erase clears the key. What copies the algorithms made while they worked is
// beyond reach: they are garbage, and no memory of this process is written out.
func (k *Key) Erase() { clear(k.pkcs8) }

// MaxReady is the most keys of one type that are kept ready.
const MaxReady = 4096

// Config says what a Pool makes.
type Config struct {
	Rand io.Reader
	// Ready is how many keys of each type are kept ready. A key of another type
	// is made when it is asked for.
	Ready map[profile.KeyType]int
}

// Pool keeps keys ready.
type Pool struct {
	rand  io.Reader
	types []profile.KeyType // that are kept ready, quickest first
	ready map[profile.KeyType]chan *Key
	taken chan struct{} // there may be room

	stop context.CancelFunc
	done sync.WaitGroup
}

// Types returns the types of keys that are made for devices, quickest first.
func Types() []profile.KeyType {
	return []profile.KeyType{profile.Ed25519, profile.P256, profile.P384, profile.RSA2048, profile.RSA3072}
}

// New returns a pool and begins to fill it, one key at a time, so that of the
// machine's cores at most one works ahead. Close ends that.
func New(c Config) (*Pool, error) {
	if c.Rand == nil {
		return nil, errors.New("keypool: no source of randomness")
	}
	p := &Pool{rand: c.Rand, ready: make(map[profile.KeyType]chan *Key), taken: make(chan struct{}, 1)}
	for t, n := range c.Ready {
		if !slices.Contains(Types(), t) || n < 1 || n > MaxReady {
			return nil, fmt.Errorf("keypool: %d keys of type %q cannot be kept ready", n, t)
		}
		p.ready[t] = make(chan *Key, n)
	}
	p.types = slices.DeleteFunc(Types(), func(t profile.KeyType) bool { return p.ready[t] == nil })
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	p.done.Go(func() { p.fill(ctx) })
	return p, nil
}

// Close stops making keys and erases those that nobody took. Take makes a key at
// once from then on.
func (p *Pool) Close() {
	p.stop()
	p.done.Wait()
	for _, t := range p.types {
		for {
			k := p.take(t)
			if k == nil {
				break
			}
			k.Erase()
		}
	}
}

// Take hands out a key: one that is ready, or else one made now. A type that is
// not made for devices is fault.KeyNotAllowed.
func (p *Pool) Take(ctx context.Context, t profile.KeyType) (*Key, error) {
	if !slices.Contains(Types(), t) {
		return nil, fault.New(fault.KeyNotAllowed, string(t))
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if k := p.take(t); k != nil {
		return k, nil
	}
	return generate(p.rand, t)
}

func (p *Pool) take(t profile.KeyType) *Key {
	select {
	case k := <-p.ready[t]: // of a type that is not kept ready: nil, never
		select {
		case p.taken <- struct{}{}:
		default:
		}
		return k
	default:
		return nil
	}
}

// fill makes keys until each type has its number, and waits until one is taken.
func (p *Pool) fill(ctx context.Context) {
	for {
		t, room := p.emptiest()
		if !room {
			select {
			case <-p.taken:
				continue
			case <-ctx.Done():
				return
			}
		}
		k, err := generate(p.rand, t)
		if err != nil || ctx.Err() != nil {
			return // without randomness Take says what is wrong
		}
		p.ready[t] <- k // there is room: nobody else puts keys in
	}
}

// emptiest returns the type that has the smallest part of its number.
func (p *Pool) emptiest() (least profile.KeyType, room bool) {
	part := 1.0
	for _, t := range p.types {
		if has := float64(len(p.ready[t])) / float64(cap(p.ready[t])); has < part {
			least, part, room = t, has, true
		}
	}
	return least, room
}

func generate(random io.Reader, t profile.KeyType) (*Key, error) {
	var private crypto.Signer
	var err error
	switch t {
	case profile.P256:
		private, err = ecdsa.GenerateKey(elliptic.P256(), random)
	case profile.P384:
		private, err = ecdsa.GenerateKey(elliptic.P384(), random)
	case profile.Ed25519:
		_, private, err = ed25519.GenerateKey(random)
	case profile.RSA2048:
		private, err = rsa.GenerateKey(random, 2048)
	case profile.RSA3072:
		private, err = rsa.GenerateKey(random, 3072)
	}
	if err != nil {
		return nil, fmt.Errorf("make a key of type %s: %w", t, err)
	}
	k := &Key{Type: t}
	if k.SPKI, err = x509.MarshalPKIXPublicKey(private.Public()); err != nil {
		return nil, err
	}
	if k.pkcs8, err = x509.MarshalPKCS8PrivateKey(private); err != nil {
		return nil, err
	}
	return k, nil
}

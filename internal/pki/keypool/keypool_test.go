package keypool

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newPool(t *testing.T, ready map[profile.KeyType]int) *Pool {
	t.Helper()
	p, err := New(Config{Rand: rand.Reader, Ready: ready})
	must(t, err)
	t.Cleanup(p.Close)
	return p
}

func TestTakeGivesAKeyOfTheType(t *testing.T) {
	p := newPool(t, map[profile.KeyType]int{profile.P256: 2})
	for _, kind := range Types() {
		k, err := p.Take(t.Context(), kind)
		must(t, err)
		private, err := x509.ParsePKCS8PrivateKey(k.PKCS8())
		must(t, err)
		own, err := x509.MarshalPKIXPublicKey(private.(crypto.Signer).Public())
		must(t, err)
		if !bytes.Equal(own, k.SPKI) {
			t.Errorf("%s: the halves are of two keys", kind)
		}
		spki, err := x509.ParsePKIXPublicKey(k.SPKI)
		must(t, err)
		if got, err := profile.KeyTypeOf(spki); err != nil || got != kind || k.Type != kind {
			t.Errorf("asked for %s, got %s (%v)", kind, got, err)
		}
		octets := k.PKCS8()
		k.Erase()
		if !bytes.Equal(octets, make([]byte, len(octets))) {
			t.Errorf("%s: the key is still there", kind)
		}
	}
	if _, err := p.Take(t.Context(), profile.RSA4096); !fault.Has(err, fault.KeyNotAllowed) {
		t.Errorf("got %v", err)
	}
}

func TestPoolFillsItselfAndStopsAtItsNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New(Config{Rand: rand.Reader, Ready: map[profile.KeyType]int{profile.P256: 3, profile.Ed25519: 5}})
		must(t, err)
		defer p.Close()
		full := func() {
			t.Helper()
			synctest.Wait()
			if a, b := len(p.ready[profile.P256]), len(p.ready[profile.Ed25519]); a != 3 || b != 5 {
				t.Errorf("%d and %d keys are ready, want 3 and 5", a, b)
			}
		}
		full()
		for range 4 {
			_, err := p.Take(t.Context(), profile.P256)
			must(t, err)
		}
		full()
	})
}

func TestTakeNeverGivesAKeyTwice(t *testing.T) {
	p := newPool(t, map[profile.KeyType]int{profile.P256: 8})
	var mu sync.Mutex
	seen := map[string]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				k, err := p.Take(t.Context(), profile.P256)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if seen[string(k.SPKI)] {
					t.Error("the same key again")
				}
				seen[string(k.SPKI)] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

func TestCloseErasesWhatNobodyTook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New(Config{Rand: rand.Reader, Ready: map[profile.KeyType]int{profile.P256: 2}})
		must(t, err)
		synctest.Wait()
		k := <-p.ready[profile.P256]
		own := k.PKCS8()
		p.ready[profile.P256] <- k
		p.Close()
		if len(p.ready[profile.P256]) != 0 || !bytes.Equal(own, make([]byte, len(own))) {
			t.Error("keys are left in memory")
		}
		if _, err := p.Take(t.Context(), profile.P256); err != nil {
			t.Errorf("a key after the end: %v", err)
		}
	})
}

func TestNewRefusesWhatCannotBeKeptReady(t *testing.T) {
	for name, c := range map[string]Config{
		"no randomness": {Ready: map[profile.KeyType]int{profile.P256: 1}},
		"unknown type":  {Rand: rand.Reader, Ready: map[profile.KeyType]int{profile.RSA4096: 1}},
		"none":          {Rand: rand.Reader, Ready: map[profile.KeyType]int{profile.P256: 0}},
		"too many":      {Rand: rand.Reader, Ready: map[profile.KeyType]int{profile.P256: MaxReady + 1}},
	} {
		if p, err := New(c); err == nil {
			p.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}

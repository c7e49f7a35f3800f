package authority_test

import (
	"context"
	"crypto/rand"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/needs"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/pki/keystore/remote"
	"github.com/birthmark/birthmark/internal/pki/profile"
	"github.com/birthmark/birthmark/internal/pki/signer"
)

// signerProcess stands for birthmark-signer: a root's key and an issuing
// authority's, at a socket.
type signerProcess struct {
	t            *testing.T
	dir, socket  string
	now          func() time.Time
	keys         map[string]keystore.Key
	mu           sync.Mutex
	certificates map[string][]byte // guarded by mu; what keys are bound to
	stop         func()
}

func newSignerProcess(t *testing.T, now func() time.Time) *signerProcess {
	t.Helper()
	needs.Linux(t)
	dir, err := os.MkdirTemp("", "bm") // a socket's path is short
	noError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &signerProcess{t: t, dir: dir, socket: filepath.Join(dir, "s"), now: now, keys: map[string]keystore.Key{}, certificates: map[string][]byte{}}
	store, err := keystore.Open(keystore.Config{Dir: filepath.Join(dir, "keys"), Rand: rand.Reader, Iterations: 1000})
	noError(t, err)
	for name, kind := range map[string]profile.KeyType{"root": profile.P384, "line": profile.P256} {
		p.keys[name], err = store.Create(t.Context(), "file:"+name, kind, serverSecret)
		noError(t, err)
	}
	return p
}

func (p *signerProcess) config(name string, b signer.Bounds) signer.KeyConfig {
	b.Validity, b.NoExpiry, b.Rate, b.Daily = 50*366*24*time.Hour, true, 1000, 1000
	return signer.KeyConfig{
		Name: name, Backend: signer.Local(p.keys[name]), Bounds: b,
		Certificate: func() ([]byte, error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.certificates[name], nil
		},
		Bind: func(der []byte) error { p.bind(name, der); return nil },
	}
}

func (p *signerProcess) bind(name string, der []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.certificates[name] = der
}

func (p *signerProcess) start() {
	p.t.Helper()
	journal, err := signer.OpenJournal(signer.JournalConfig{Dir: filepath.Join(p.dir, "journal")})
	noError(p.t, err)
	engine, err := signer.New(signer.Config{Journal: journal, Now: p.now, Keys: []signer.KeyConfig{
		p.config("root", signer.Bounds{Kinds: []signer.Kind{signer.CA, signer.Responder, signer.CRL}, Root: true}),
		p.config("line", signer.Bounds{Kinds: []signer.Kind{signer.Leaf, signer.TLSServer, signer.Responder, signer.CRL}}),
	}})
	noError(p.t, err)
	server, err := signer.NewServer(signer.ServerConfig{Engine: engine, UIDs: []uint32{uint32(os.Getuid())}, Peer: signer.PeerUID, Now: time.Now})
	noError(p.t, err)
	_ = os.Remove(p.socket)
	l, err := net.Listen("unix", p.socket)
	noError(p.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, l) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		noError(p.t, <-ended)
		noError(p.t, journal.Close())
	})
	p.t.Cleanup(p.stop)
}

// restartWithSigner replaces the service by one that knows the signer.
func (w *world) restartWithSigner(t *testing.T, p *signerProcess) {
	t.Helper()
	client, err := remote.New(remote.Config{Socket: p.socket, Now: time.Now, Timeout: 10 * time.Second})
	noError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	w.Service, err = authority.New(authority.Config{
		Store: w.store, Register: w.store, Keys: &remote.Keys{Store: w.keys, Signer: client}, Now: w.clock.now, Rand: rand.Reader, Node: "n1", Block: 64,
		Secret: func(string) (keystore.Secret, error) { return serverSecret, nil },
	})
	noError(t, err)
}

// A whole hierarchy with its keys in the signer; the server starts without it,
// and issues as soon as it is there.
func TestKeysOfAuthoritiesInTheSigner(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	p := newSignerProcess(t, w.clock.now)
	w.restartWithSigner(t, p)
	_, err := w.CreateRoot(ctx, "local:root", authority.NewAuthority{Name: "root", KeyURI: "signer:root"})
	wantFault(t, err, fault.SignerUnreachable)
	p.start()
	for _, bad := range []authority.NewAuthority{
		{Name: "root", KeyURI: "file:other"},
		{Name: "root", KeyURI: "signer:"},
		{Name: "root", KeyURI: "signer:nobody"},
		{Name: "root", KeyURI: "signer:root", KeyType: profile.RSA3072},
	} {
		if a, err := w.CreateRoot(ctx, "local:root", bad); err == nil {
			t.Errorf("%+v made %+v", bad, a)
		}
	}
	w = newWorld(t)
	w.restartWithSigner(t, p)
	_, err = w.CreateRoot(ctx, "local:root", authority.NewAuthority{Name: "root", KeyURI: "signer:root"})
	noError(t, err)
	session, err := w.OpenRoot(ctx, "root", nil)
	noError(t, err)
	line, err := session.CreateIssuing(ctx, "local:root", authority.NewAuthority{Name: "issuing", KeyURI: "signer:line"})
	noError(t, err)
	session.Close()
	noError(t, w.ImportPresets(ctx, "local:root"))
	if line.KeyURI != "signer:line" {
		t.Errorf("the record names %s", line.KeyURI)
	}
	_, err = w.Server(ctx, "device", []string{"localhost"}, profile.P256)
	wantFault(t, err, fault.SignerRefused) // the key is not bound yet
	p.bind("line", line.Certificate)
	_, err = w.Server(ctx, "device", []string{"localhost"}, profile.P256)
	noError(t, err)

	p.stop()
	w.restartWithSigner(t, p)
	noError(t, w.Start(ctx))
	_, err = w.Server(ctx, "console", []string{"localhost"}, profile.P256)
	wantFault(t, err, fault.SignerUnreachable)
	p.start()
	got, err := w.Server(ctx, "console", []string{"localhost"}, profile.P256)
	noError(t, err)
	snap, err := w.Snapshot(ctx)
	noError(t, err)
	issuer, err := snap.Authority("issuing")
	noError(t, err)
	noError(t, got.X509.CheckSignatureFrom(issuer.X509))
}

package remote_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/signer"
	"github.com/birthmark/birthmark/internal/needs"
	"github.com/birthmark/birthmark/internal/pki/issuing"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/pki/keystore/remote"
	"github.com/birthmark/birthmark/internal/pki/profile"
	"github.com/birthmark/birthmark/internal/pki/signer"
)

// world is a signer at a socket, with one key, and a client.
type world struct {
	t       *testing.T
	private *ecdsa.PrivateKey
	cert    *x509.Certificate
	socket  string
	dir     string
	serve   []uint32 // users
	hang    atomic.Pointer[chan struct{}]
	signed  atomic.Int64
	stop    func()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	needs.Linux(t)
	dir, err := os.MkdirTemp("", "bm") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{t: t, dir: dir, socket: filepath.Join(dir, "socket"), serve: []uint32{uint32(os.Getuid())}}
	if w.private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	form := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Issuing CA"}, BasicConstraintsValid: true, IsCA: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(30, 0, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, w.private.Public(), w.private)
	if err != nil {
		t.Fatal(err)
	}
	if w.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return w
}

// Public, Parallel and Sign make the world a backend.
func (w *world) Public() crypto.PublicKey { return w.private.Public() }
func (w *world) Parallel() int            { return 4 }
func (w *world) Sign(ctx context.Context, digest []byte, _ crypto.Hash) ([]byte, error) {
	w.signed.Add(1)
	if hang := w.hang.Load(); hang != nil {
		select {
		case <-*hang:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return ecdsa.SignASN1(rand.Reader, w.private, digest)
}

// healthy is the same key where nothing hangs.
type healthy struct{ *world }

func (h healthy) Sign(_ context.Context, digest []byte, _ crypto.Hash) ([]byte, error) {
	return ecdsa.SignASN1(rand.Reader, h.private, digest)
}

// start starts the signer; stop ends it.
func (w *world) start() {
	w.t.Helper()
	journal, err := signer.OpenJournal(signer.JournalConfig{Dir: filepath.Join(w.dir, "journal")})
	if err != nil {
		w.t.Fatal(err)
	}
	keyed := func(name string, b signer.Backend) signer.KeyConfig {
		return signer.KeyConfig{
			Name: name, Backend: b, Certificate: func() ([]byte, error) { return w.cert.Raw, nil },
			Bounds: signer.Bounds{Kinds: []signer.Kind{signer.Leaf, signer.CRL}, Validity: time.Hour, NoExpiry: true, Rate: 1 << 20, Daily: 1 << 40},
		}
	}
	engine, err := signer.New(signer.Config{Journal: journal, Now: time.Now, Keys: []signer.KeyConfig{keyed("issuing", w), keyed("other", healthy{w})}})
	if err != nil {
		w.t.Fatal(err)
	}
	server, err := signer.NewServer(signer.ServerConfig{Engine: engine, UIDs: w.serve, Peer: signer.PeerUID, Now: time.Now})
	if err != nil {
		w.t.Fatal(err)
	}
	_ = os.Remove(w.socket)
	l, err := net.Listen("unix", w.socket)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, l) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-ended, journal.Close()); err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(w.stop)
}

func (w *world) client(edit func(*remote.Config)) *remote.Client {
	w.t.Helper()
	c := remote.Config{Socket: w.socket, Now: time.Now, Timeout: 20 * time.Second}
	if edit != nil {
		edit(&c)
	}
	client, err := remote.New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = client.Close() })
	return client
}

// compiled issues certificates with the key behind a client.
func (w *world) compiled(c *remote.Client) *issuing.Compiled {
	w.t.Helper()
	key, ok, err := (&remote.Keys{Signer: c}).Expect("signer:issuing", w.private.Public())
	if err != nil || !ok {
		w.t.Fatal(err)
	}
	text, _ := profile.Preset("idevid")
	p, err := profile.Parse(text)
	if err != nil {
		w.t.Fatal(err)
	}
	compiled, err := issuing.New(p, &issuing.Issuer{Name: "issuing", Certificate: w.cert.Raw, Key: key})
	if err != nil {
		w.t.Fatal(err)
	}
	return compiled
}

var serials atomic.Uint64

// input is a device that had no certificate before.
func (w *world) input(c *issuing.Compiled) issuing.Input {
	spki, err := x509.MarshalPKIXPublicKey(w.private.Public())
	if err != nil {
		w.t.Fatal(err)
	}
	notBefore, notAfter, err := c.Validity(time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	return issuing.Input{
		CertSerial: new(big.Int).SetUint64(1<<40 + serials.Add(1)).Bytes(), NotBefore: notBefore, NotAfter: notAfter,
		Values: profile.Values{DeviceSerial: "SN1", Organization: "Acme", Product: "sensor"}, SPKI: spki,
	}
}

func TestManyIssueThroughOneConnection(t *testing.T) {
	w := newWorld(t)
	w.start()
	compiled := w.compiled(w.client(nil))
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			for range 20 {
				der, err := compiled.Issue(w.input(compiled))
				if err != nil {
					t.Error(err)
					return
				}
				cert, err := x509.ParseCertificate(der)
				if err != nil || cert.CheckSignatureFrom(w.cert) != nil {
					t.Error("it does not verify")
				}
			}
		})
	}
	all.Wait()
	if w.signed.Load() != 640 {
		t.Errorf("%d signatures", w.signed.Load())
	}
}

// A bit is flipped in each answer on its way: nothing that does not verify is
// ever released.
func TestNoFlippedBitOnTheWireIsReleased(t *testing.T) {
	w := newWorld(t)
	w.start()
	flips := 10_000
	if testing.Short() {
		flips = 300
	}
	random := mathrand.New(mathrand.NewPCG(1, 2))
	client := w.client(func(c *remote.Config) {
		c.Timeout = time.Second
		c.Dial = func(ctx context.Context) (net.Conn, error) {
			raw, err := new(net.Dialer).DialContext(ctx, "unix", w.socket)
			return &flipper{Conn: raw, random: random}, err
		}
	})
	compiled := w.compiled(client)
	released := 0
	for range flips {
		der, err := compiled.Issue(w.input(compiled))
		if err == nil {
			cert, err := x509.ParseCertificate(der)
			if err != nil || cert.CheckSignatureFrom(w.cert) != nil {
				t.Fatal("a wrong signature was released")
			}
			released++
		}
	}
	if released > 0 {
		t.Errorf("%d answers were taken although a bit of each was flipped", released)
	}
}

// flipper flips a bit of every Results frame behind its length: a flipped length
// only makes the client wait.
type flipper struct {
	net.Conn
	random *mathrand.Rand
	rest   []byte
}

func (f *flipper) Read(p []byte) (int, error) {
	if len(f.rest) == 0 {
		kind, payload, err := wire.Read(f.Conn)
		if err != nil {
			return 0, io.EOF
		}
		f.rest = wire.Append(nil, kind, payload)
		if kind == wire.Results {
			// Mostly in the signature: elsewhere it ends the connection, which takes
			// longer.
			from := 13
			if f.random.IntN(10) == 0 {
				from = 4
			}
			bit := 8*from + f.random.IntN(8*(len(f.rest)-from))
			f.rest[bit/8] ^= 1 << (bit % 8)
		}
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// The signer goes away in the middle of calls, and comes back: calls fail at
// once, the next ones succeed, with the same client.
func TestARestartedSignerIsFoundAgain(t *testing.T) {
	w := newWorld(t)
	client := w.client(nil)
	compiled := w.compiled(client)
	if _, err := compiled.Issue(w.input(compiled)); !fault.Has(err, fault.SignerUnreachable) {
		t.Errorf("before it was started: %v", err)
	}
	for range 20 {
		w.start()
		hang := make(chan struct{})
		w.hang.Store(&hang)
		before := w.signed.Load()
		failed := make(chan error, 8)
		for range 8 {
			go func() {
				_, err := compiled.Issue(w.input(compiled))
				failed <- err
			}()
		}
		for w.signed.Load() == before {
			runtime.Gosched()
		}
		w.stop()
		for range 8 {
			if err := <-failed; !fault.Has(err, fault.SignerUnreachable) && !fault.Has(err, fault.KeyUnavailable) {
				t.Errorf("in the middle: %v", err)
			}
		}
		w.hang.Store(nil)
		w.start()
		if _, err := compiled.Issue(w.input(compiled)); err != nil {
			t.Errorf("after it came back: %v", err)
		}
		w.stop()
	}
}

func TestAStrangerIsTurnedAway(t *testing.T) {
	w := newWorld(t)
	w.serve = []uint32{uint32(os.Getuid()) + 1}
	w.start()
	client := w.client(nil)
	if _, err := client.Keys(t.Context()); !fault.Has(err, fault.SignerPeer) {
		t.Error(err)
	}
	if _, err := client.Sign(t.Context(), "issuing", []byte("x")); !fault.Has(err, fault.SignerPeer) {
		t.Error(err)
	}
}

func TestRefusalsKeepTheirCode(t *testing.T) {
	w := newWorld(t)
	w.start()
	client := w.client(nil)
	for name, one := range map[string]struct {
		key  string
		tbs  []byte
		code fault.Code
	}{
		"a digest":    {"issuing", make([]byte, 32), fault.SignerContent},
		"no such key": {"root", []byte{0x30, 3, 2, 1, 1}, fault.SignerKeyUnknown},
		"a long text": {"issuing", make([]byte, wire.MaxItem+1), fault.SignerContent},
	} {
		if _, err := client.Sign(t.Context(), one.key, one.tbs); !fault.Has(err, one.code) {
			t.Errorf("%s: %v", name, err)
		}
	}
	key, err := (&remote.Keys{Signer: client}).Load(t.Context(), "signer:issuing", nil)
	if err != nil || key.Type() != profile.P256 || key.URI() != "signer:issuing" {
		t.Fatal(err)
	}
	if _, err := key.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); !fault.Has(err, fault.SignerContent) {
		t.Errorf("a digest was signed: %v", err)
	}
	if _, ok := keystore.AsSelfChecker(key); ok {
		t.Error("a key elsewhere cannot check itself")
	}
}

func TestACanceledCallDoesNotHoldUpOthers(t *testing.T) {
	w := newWorld(t)
	w.start()
	client := w.client(nil)
	compiled := w.compiled(client)
	hang := make(chan struct{})
	w.hang.Store(&hang)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := client.Sign(ctx, "issuing", certificateTBS(t, w))
		ended <- err
	}()
	for w.signed.Load() == 0 {
		runtime.Gosched()
	}
	cancel()
	if err := <-ended; !fault.Has(err, fault.SignerUnreachable) {
		t.Error(err)
	}
	w.hang.Store(nil)
	close(hang)
	if _, err := compiled.Issue(w.input(compiled)); err != nil {
		t.Error(err)
	}
}

// certificateTBS returns a certificate's bytes that the key may sign.
func certificateTBS(t *testing.T, w *world) []byte {
	t.Helper()
	now := time.Now().UTC()
	form := &x509.Certificate{SerialNumber: new(big.Int).SetUint64(serials.Add(1) + 1<<41), Subject: pkix.Name{CommonName: "d"}, NotBefore: now, NotAfter: now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, form, w.cert, w.private.Public(), w.private)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert.RawTBSCertificate
}

// A CRL of a million entries goes through in pieces, and neither side holds it
// a second time.
func TestALargeCRLIsStreamed(t *testing.T) {
	w := newWorld(t)
	w.start()
	entries := 1_000_000
	if testing.Short() {
		entries = 50_000
	}
	key, _, err := (&remote.Keys{Signer: w.client(func(c *remote.Config) { c.Timeout = time.Minute })}).Expect("signer:issuing", w.private.Public())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	var list []byte
	for i := range entries {
		list = issuing.AppendCRLEntry(list, new(big.Int).SetUint64(1<<60+uint64(i)).Bytes(), now, issuing.ReasonKeyCompromise)
	}
	iss := &issuing.Issuer{Name: "issuing", Certificate: w.cert.Raw, Key: key}
	crl := issuing.CRL{Number: 1, ThisUpdate: now, NextUpdate: now.Add(time.Hour)}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	der, err := issuing.SignCRL(iss, crl, [][]byte{list})
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	parsed, err := x509.ParseRevocationList(der)
	if err != nil || parsed.CheckSignatureFrom(w.cert) != nil || len(parsed.RevokedCertificateEntries) != entries {
		t.Fatalf("%v, %d entries", err, len(parsed.RevokedCertificateEntries))
	}
	// One copy is the list itself; frames come and go. Both processes are this
	// one here.
	if grown := after.TotalAlloc - before.TotalAlloc; grown > uint64(len(der))*5/2+8<<20 {
		t.Errorf("%d octets were allocated for a CRL of %d", grown, len(der))
	}
	if _, err := issuing.SignCRL(iss, crl, [][]byte{list}); !fault.Has(err, fault.SignerRefused) {
		t.Errorf("the same number again: %v", err)
	}
	crl.Number = 2
	broken := bytes.Clone(list)
	broken[entries/2*(len(list)/entries)+2] ^= 0x40 // the tag of a serial
	if _, err := issuing.SignCRL(iss, crl, [][]byte{broken}); err == nil {
		t.Error("a malformed entry in the middle was signed")
	}
}

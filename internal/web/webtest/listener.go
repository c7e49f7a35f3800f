package webtest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/birthmark/birthmark/internal/web/server"
)

// Listener is a server that listens on this machine until its test ends.
type Listener struct {
	*server.Server
	Address  string
	Log      *Log
	Registry *prometheus.Registry
}

// Log keeps what was logged.
type Log struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

// Write keeps a line.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// String returns all lines.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Listen serves a table on a free port; name, logger, metrics and clock may be
// left out.
func Listen(t testing.TB, c server.Config) *Listener {
	t.Helper()
	return ListenOn(t, c, "tcp", "127.0.0.1:0")
}

// ListenOn is Listen at an address.
func ListenOn(t testing.TB, c server.Config, network, address string) *Listener {
	t.Helper()
	l := &Listener{Log: &Log{}, Registry: prometheus.NewRegistry()}
	if c.Name == "" {
		c.Name = "test"
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Logger = slog.New(slog.NewTextHandler(l.Log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	c.Metrics, err = server.NewMetrics(l.Registry)
	must(t, err)
	l.Server, err = server.New(c)
	must(t, err)
	socket, err := net.Listen(network, address)
	must(t, err)
	l.Address = socket.Addr().String()
	var running sync.WaitGroup
	running.Go(func() {
		if err := l.Serve(socket); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := l.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		running.Wait()
	})
	return l
}

// Count returns the sum of a counter over all its labels that have these
// values.
func (l *Listener) Count(t testing.TB, name string, values ...string) (sum float64) {
	t.Helper()
	families, err := l.Registry.Gather()
	must(t, err)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			have := map[string]bool{}
			for _, p := range m.GetLabel() {
				have[p.GetValue()] = true
			}
			fits := true
			for _, v := range values {
				fits = fits && have[v]
			}
			if fits {
				sum += m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

// SelfSigned makes a certificate for this machine that stands for itself.
func SelfSigned(t testing.TB, name string, notAfter time.Time) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tbs := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: notAfter.Add(-48 * time.Hour), NotAfter: notAfter, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tbs, tbs, key.Public(), key)
	must(t, err)
	leaf, err := x509.ParseCertificate(der)
	must(t, err)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

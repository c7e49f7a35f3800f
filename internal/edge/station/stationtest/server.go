// Package stationtest is a server for tests of the station: it implements the
// station protocol to the letter, with one authority, orders with their limits,
// chips, nonces that are used once and confirmations that are verified, all in
// memory. Tests break it where they want to see a station under a broken server.
package stationtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/format/station"
)

// Code is the one-time code that the server takes until it is spent.
const Code = "AAAA-BBBB-CCCC"

// Server is a server for tests.
type Server struct {
	t    testing.TB
	HTTP *httptest.Server
	Root *x509.Certificate
	key  *ecdsa.PrivateKey // of Root
	// Lifetime is that of station certificates.
	Lifetime time.Duration
	Now      func() time.Time
	// Hook sees every request first; when it returns true it has answered.
	Hook func(w http.ResponseWriter, r *http.Request) bool
	// Spoil changes results before they are sent.
	Spoil func(path string, r *station.Result)

	statement *ecdsa.PrivateKey

	mu      sync.Mutex
	current []byte // the station's certificate, DER; guarded by mu
	spent   bool
	orders  map[string]*station.Order
	chips   map[string][]byte // UID to SPKI
	nonces  map[string]string // to their order; used ones are gone
	tickets map[string]*Ticket
	units   map[string]*unit  // by device serial
	used    map[string]string // UID to device serial
	ledger  []string
	failed  []station.Failed
}

type unit struct {
	order       string
	spki        []byte
	uid         string
	certificate []byte
	wrapped     []byte
	nonce       []byte
	confirmed   bool
	scrapped    bool
	confirms    int
}

// New starts a server.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{
		t: t, Lifetime: 30 * 24 * time.Hour, Now: time.Now,
		orders: map[string]*station.Order{}, chips: map[string][]byte{}, nonces: map[string]string{},
		units: map[string]*unit{}, used: map[string]string{}, tickets: map[string]*Ticket{},
	}
	s.key, s.statement = s.newKey(), s.newKey()
	s.Root = s.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "Test Root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(24 * time.Hour),
	}, nil, &s.key.PublicKey)
	own := s.newKey()
	certificate := s.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotAfter: time.Now().Add(24 * time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, s.Root, &own.PublicKey)
	s.HTTP = httptest.NewUnstartedServer(s.routes())
	s.HTTP.TLS = &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert,
		Certificates: []tls.Certificate{{Certificate: [][]byte{certificate.Raw}, PrivateKey: own}},
	}
	s.HTTP.Config.ErrorLog = nil
	s.HTTP.StartTLS()
	t.Cleanup(func() {
		s.HTTP.CloseClientConnections()
		s.HTTP.Close()
	})
	return s
}

func (s *Server) newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	return key
}

func (s *Server) sign(c, issuer *x509.Certificate, public crypto.PublicKey) *x509.Certificate {
	var number [16]byte
	_, _ = rand.Read(number[:])
	number[0] = number[0]&0x3f | 0x40
	c.SerialNumber = new(big.Int).SetBytes(number[:])
	if c.NotBefore.IsZero() {
		c.NotBefore = s.Now().Add(-time.Minute)
	}
	if issuer == nil {
		issuer = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, issuer, public, s.key)
	if err != nil {
		panic(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return certificate
}

// URL is where the server is.
func (s *Server) URL() string { return s.HTTP.URL }

// Trust returns the root as a pool.
func (s *Server) Trust() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.Root)
	return pool
}

// TrustPEM returns the root as the bundle that an operator hands out.
func (s *Server) TrustPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Root.Raw})
}

// AddOrder opens an order.
func (s *Server) AddOrder(o station.Order) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.State == "" {
		o.State = "open"
	}
	spki, err := x509.MarshalPKIXPublicKey(&s.statement.PublicKey)
	if err != nil {
		s.t.Fatal(err)
	}
	o.StatementKey = spki
	s.orders[o.Number] = &o
}

// AddChip lists a chip.
func (s *Server) AddChip(uid string, spki []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.chips[uid] = spki
}

// Credential returns a certificate of the station, as enrolling would, without a
// round trip.
func (s *Server) Credential() *tls.Certificate {
	key := s.newKey()
	certificate := s.stationCertificate(&key.PublicKey)
	return &tls.Certificate{Certificate: [][]byte{certificate.Raw}, PrivateKey: key, Leaf: certificate}
}

func (s *Server) stationCertificate(public *ecdsa.PublicKey) *x509.Certificate {
	certificate := s.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "station-1"}, NotAfter: s.Now().Add(s.Lifetime),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, s.Root, public)
	s.mu.Lock()
	s.current = certificate.Raw
	s.mu.Unlock()
	return certificate
}

// Account is what the server holds of an order.
type Account struct{ Issued, Live, Confirmed, Scrapped int64 }

// Account returns the account of an order.
func (s *Server) Account(number string) Account {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.orders[number]
	return Account{o.Issued, o.Live, o.Confirmed, o.Scrapped}
}

// Confirms returns how often a unit was confirmed, and whether it is.
func (s *Server) Confirms(deviceSerial string) (n int, confirmed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.units[deviceSerial]
	if u == nil {
		return 0, false
	}
	return u.confirms, u.confirmed
}

// Acts returns what the server was told, in order: "confirm SN1", "scrap SN1".
func (s *Server) Acts() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.ledger...)
}

// Failures returns the failures that the station reported.
func (s *Server) Failures() []station.Failed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]station.Failed(nil), s.failed...)
}

// SignStatement signs with the statement key.
func (s *Server) SignStatement(text []byte) []byte {
	digest := sha256.Sum256(text)
	signature, err := ecdsa.SignASN1(rand.Reader, s.statement, digest[:])
	if err != nil {
		panic(err)
	}
	return signature
}

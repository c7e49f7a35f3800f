package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/birthmark/birthmark/internal/pki/cms"
)

// listening is what a server part says once it listens.
type listening struct {
	Address string
	Issuer  []byte // DER of its authority
}

// ideal is the server to compare with: it signs whatever it is sent with
// x509.CreateCertificate, asks nobody and remembers nothing.
type ideal struct {
	key    *ecdsa.PrivateKey
	issuer *x509.Certificate
}

// runIdeal serves until its input ends.
func runIdeal(ctx context.Context, in io.Reader, out io.Writer) error {
	s, err := newIdeal()
	if err != nil {
		return err
	}
	certificate, err := s.serverCertificate()
	if err != nil {
		return err
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"},
	})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /.well-known/est/simpleenroll", s.enroll)
	return serveUntilEnd(ctx, listener, mux, s.issuer.Raw, in, out)
}

// serveUntilEnd says where it listens and serves until its input ends.
func serveUntilEnd(ctx context.Context, l net.Listener, h http.Handler, issuer []byte, in io.Reader, out io.Writer) error {
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	if err := json.NewEncoder(out).Encode(listening{l.Addr().String(), issuer}); err != nil {
		return err
	}
	quit := make(chan struct{})
	go func() {
		defer close(quit)
		_, _ = io.Copy(io.Discard, in) // its end is the signal
	}()
	select {
	case err := <-ended:
		return err
	case <-quit:
	case <-ctx.Done():
	}
	return server.Close()
}

func newIdeal() (*ideal, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	name := pkix.Name{Organization: []string{"Bench"}, CommonName: "Ideal Issuing CA"}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(spki)
	of := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: name, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: id[:20],
	}
	der, err := x509.CreateCertificate(rand.Reader, of, of, key.Public(), key)
	if err != nil {
		return nil, err
	}
	issuer, err := x509.ParseCertificate(der)
	return &ideal{key, issuer}, err
}

func (s *ideal) serverCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0), DNSNames: []string{"localhost"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, s.issuer, key.Public(), s.key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

func (s *ideal) enroll(w http.ResponseWriter, r *http.Request) {
	answer, err := s.issue(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/pkcs7-mime; smime-type=certs-only")
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	_, _ = w.Write(answer) // the peer is gone
}

func (s *ideal) issue(in io.Reader) ([]byte, error) {
	body, err := io.ReadAll(in)
	if err != nil {
		return nil, err
	}
	der, err := base64.StdEncoding.AppendDecode(nil, body)
	if err != nil {
		return nil, err
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, err
	}
	number := make([]byte, 16)
	if _, err := rand.Read(number); err != nil {
		return nil, err
	}
	now := time.Now()
	cert, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(number), Subject: pkix.Name{Organization: []string{"Bench"}, SerialNumber: "SEED-0000001"},
		NotBefore: now, NotAfter: now.AddDate(10, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
		OCSPServer: []string{"http://127.0.0.1/ocsp"}, CRLDistributionPoints: []string{"http://127.0.0.1/issuing.crl"},
	}, s.issuer, csr.PublicKey, s.key)
	if err != nil {
		return nil, err
	}
	message := cms.CertsOnly(cert)
	return base64.StdEncoding.AppendEncode(make([]byte, 0, base64.StdEncoding.EncodedLen(len(message))), message), nil
}

// exchange is an OCSP request's body and the answer to it.
type exchange struct{ Request, Answer []byte }

// runPresigned reads a line with OCSP answers and serves them from a map until
// its input ends.
func runPresigned(ctx context.Context, in io.Reader, out io.Writer) error {
	lines := json.NewDecoder(in)
	var list []exchange
	if err := lines.Decode(&list); err != nil {
		return err
	}
	answers := make(map[string][]byte, len(list))
	for _, one := range list {
		answers[string(one.Request)] = one.Answer
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	return serveUntilEnd(ctx, listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		answer, ok := answers[string(body)]
		if err != nil || !ok {
			http.Error(w, errors.New("no answer").Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/ocsp-response")
		w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
		_, _ = w.Write(answer) // the peer is gone
	}), nil, io.MultiReader(lines.Buffered(), in), out)
}

package client_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/edge/client"
	"github.com/birthmark/birthmark/internal/pki/cms"
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// certified is a certificate of a key.
func certified(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	tbs := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "SN-1"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tbs, tbs, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// served is a client of a server that answers as told.
func served(t *testing.T, c client.Config, h http.HandlerFunc) *client.EST {
	t.Helper()
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	if c.URL == "" {
		c.URL = s.URL
	}
	c.Anchors = x509.NewCertPool()
	c.Anchors.AddCert(s.Certificate())
	e, err := client.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func TestEnroll(t *testing.T) {
	key := newKey(t)
	csr, err := client.Request(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.StdEncoding.EncodeToString(cms.CertsOnly(certified(t, key)))
	for name, answer := range map[string]string{"one line": text, "lines": text[:64] + "\n" + text[64:] + "\r\n"} {
		t.Run(name, func(t *testing.T) {
			e := served(t, client.Config{Label: "lines"}, func(w http.ResponseWriter, r *http.Request) {
				user, password, _ := r.BasicAuth()
				if r.URL.Path != "/.well-known/est/lines/simpleenroll" || r.Header.Get("Content-Type") != "application/pkcs10" || user != "SN-1" || password != "secret:x" {
					t.Errorf("asked %s %v", r.URL, r.Header)
				}
				_, _ = w.Write([]byte(answer))
			})
			cert, err := e.Enroll(t.Context(), csr, "SN-1", "secret:x")
			if err != nil || cert.Subject.CommonName != "SN-1" {
				t.Fatal(cert, err)
			}
		})
	}
}

// A server that is wrong or lies gives an error, never a certificate.
func TestAnswersThatAreNotTaken(t *testing.T) {
	key := newKey(t)
	csr, err := client.Request(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	good := certified(t, key)
	for name, body := range map[string]string{
		"another key":      base64.StdEncoding.EncodeToString(cms.CertsOnly(certified(t, newKey(t)))),
		"two certificates": base64.StdEncoding.EncodeToString(cms.CertsOnly(good, good)),
		"no CMS":           base64.StdEncoding.EncodeToString(good),
		"no base64":        "<html>",
		"nothing":          "",
		"without end":      strings.Repeat("A", 300<<10),
	} {
		t.Run(name, func(t *testing.T) {
			e := served(t, client.Config{}, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) })
			if cert, err := e.Enroll(t.Context(), csr, "SN-1", "x"); err == nil {
				t.Fatalf("took %s", cert.Subject)
			}
		})
	}
}

func TestRefusalsAndWaiting(t *testing.T) {
	e := served(t, client.Config{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "300")
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write([]byte("BM-2022: wait\x1b[2J\xff\n"))
	})
	_, err := e.Reenroll(t.Context(), []byte("x"))
	refused, ok := errors.AsType[*client.Refused](err)
	if !ok || refused.Status != 202 || refused.RetryAfter != 5*time.Minute || refused.Text != "BM-2022: wait[2J\n" {
		t.Fatalf("%#v", err)
	}
}

func TestRedirectsStayWithTheServer(t *testing.T) {
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the secret went elsewhere") }))
	defer elsewhere.Close()
	key := newKey(t)
	csr, err := client.Request(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	target := ""
	e := served(t, client.Config{}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/there" {
			_, _ = w.Write([]byte(base64.StdEncoding.EncodeToString(cms.CertsOnly(certified(t, key)))))
			return
		}
		http.Redirect(w, r, target, http.StatusTemporaryRedirect)
	})
	for _, to := range []string{elsewhere.URL, "http://127.0.0.1/there", "/.well-known/est/simpleenroll"} {
		target = to
		_, err := e.Enroll(t.Context(), csr, "SN-1", "x")
		if refused, ok := errors.AsType[*client.Refused](err); !ok || refused.Status != http.StatusTemporaryRedirect {
			t.Errorf("%s: %v", to, err)
		}
	}
	target = "/there"
	if _, err := e.Enroll(t.Context(), csr, "SN-1", "x"); err != nil {
		t.Error(err)
	}
}

func TestOnlyNamedAnchors(t *testing.T) {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	e, err := client.New(client.Config{URL: s.URL, Anchors: x509.NewCertPool()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.CACerts(t.Context()); err == nil {
		t.Error("talked to anybody")
	}
	if _, err := client.New(client.Config{URL: s.URL}); err == nil {
		t.Error("without anchors")
	}
}

//go:build pkcs11 && cgo

package tokennest_test

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	edge "github.com/birthmark/birthmark/internal/edge/station"
	"github.com/birthmark/birthmark/internal/edge/station/link"
	"github.com/birthmark/birthmark/internal/edge/station/queue"
	"github.com/birthmark/birthmark/internal/edge/station/stationtest"
	"github.com/birthmark/birthmark/internal/edge/station/tokennest"
	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/needs"
	"github.com/birthmark/birthmark/internal/pki/keystore/pkcs11/softhsmtest"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

func newLine(t *testing.T, s *stationtest.Server, c tokennest.Config) *edge.Line {
	t.Helper()
	if c.Label == "" {
		c.Label, c.ID, c.Kind = "idevid", []byte{1}, profile.P256
	}
	if c.PIN == nil {
		c.PIN = func() ([]byte, error) { return []byte(softhsmtest.PIN), nil }
	}
	adapter, err := tokennest.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = adapter.Close() })
	own := s.Credential()
	client, err := link.New(link.Config{URL: s.URL(), Trust: s.Trust(), Credential: func() *tls.Certificate { return own }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	q, err := queue.Open(queue.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(q.Close)
	l, err := edge.New(edge.Config{Link: client, Queue: q, Adapter: adapter, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestKeyAndCertificateAreInTheToken(t *testing.T) {
	h := softhsmtest.New(t, "unit-1")
	h.Init("unit-2")
	s := stationtest.New(t)
	s.AddOrder(station.Order{Number: "PO-1", KeyModel: "on-device", Quantity: 10})
	l := newLine(t, s, tokennest.Config{Module: h.Module, Tokens: map[string]string{"1": "unit-1", "2": "unit-2"}})
	for nest, serial := range map[string]string{"1": "SN1", "2": "SN2"} {
		o := l.Do(t.Context(), edge.Job{Nest: nest, DeviceSerial: serial})
		if o.Result != edge.Pass {
			t.Fatalf("%+v", o)
		}
		if again := l.Do(t.Context(), edge.Job{Nest: nest, DeviceSerial: serial}); again.Result != edge.Pass || string(again.Certificate) != string(o.Certificate) {
			t.Errorf("again: %+v", again)
		}
		// Another program finds them.
		file := filepath.Join(t.TempDir(), "c.der")
		h.Tool("unit-"+nest, "--read-object", "--type", "cert", "--label", "idevid", "--id", "01", "--output-file", file)
		der, err := os.ReadFile(file)
		if err != nil || string(der) != string(o.Certificate) {
			t.Errorf("pkcs11-tool reads another certificate, %v", err)
		}
		if list := h.Tool("unit-"+nest, "--list-objects"); strings.Count(list, "Certificate Object") != 1 {
			t.Errorf("%s", list)
		}
	}
	if a := s.Account("PO-1"); a != (stationtest.Account{Issued: 2, Live: 2, Confirmed: 2}) {
		t.Errorf("%+v", a)
	}
}

func TestAListedKeyProvesTheChip(t *testing.T) {
	h := softhsmtest.New(t, "unit-1")
	h.Tool("unit-1", "--keypairgen", "--key-type", "EC:prime256v1", "--label", "maker", "--id", "0a0b", "--usage-sign")
	file := filepath.Join(t.TempDir(), "p.der")
	h.Tool("unit-1", "--read-object", "--type", "pubkey", "--label", "maker", "--output-file", file)
	spki, err := exec.CommandContext(t.Context(), needs.OpenSSL(t), "pkey", "-pubin", "-in", file, "-inform", "DER", "-outform", "DER").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, model := range []string{"on-device", "pre-provisioned"} {
		s := stationtest.New(t)
		s.AddOrder(station.Order{Number: "PO-1", KeyModel: model, Proof: true, Quantity: 10})
		s.AddChip("0a0b", spki)
		l := newLine(t, s, tokennest.Config{Module: h.Module, Tokens: map[string]string{"": "unit-1"}, ChipLabel: "maker"})
		o := l.Do(t.Context(), edge.Job{Nest: "1", DeviceSerial: "SN1"})
		if o.Result != edge.Pass {
			t.Fatalf("%s: %+v", model, o)
		}
		c, err := x509.ParseCertificate(o.Certificate)
		if err != nil || (string(c.RawSubjectPublicKeyInfo) == string(spki)) != (model == "pre-provisioned") {
			t.Errorf("%s: the wrong key has the certificate, %v", model, err)
		}
	}
}

func TestWhatIsWrongWithATokenIsSaid(t *testing.T) {
	h := softhsmtest.New(t, "unit-1")
	s := stationtest.New(t)
	s.AddOrder(station.Order{Number: "PO-1", KeyModel: "on-device", Quantity: 10})
	for code, c := range map[fault.Code]tokennest.Config{
		fault.TokenMissing:     {Module: h.Module, Tokens: map[string]string{"": "another"}},
		fault.TokenModule:      {Module: filepath.Join(t.TempDir(), "none.so"), Tokens: map[string]string{"": "unit-1"}},
		fault.TokenPIN:         {Module: h.Module, Tokens: map[string]string{"": "unit-1"}, PIN: func() ([]byte, error) { return []byte("0000"), nil }},
		fault.ParameterInvalid: {Module: h.Module, Tokens: map[string]string{"7": "unit-1"}},
	} {
		l := newLine(t, s, c)
		if o := l.Do(t.Context(), edge.Job{Nest: "1", DeviceSerial: "SN1"}); o.Code != code.String() {
			t.Errorf("want %s: %+v", code, o)
		}
	}
}

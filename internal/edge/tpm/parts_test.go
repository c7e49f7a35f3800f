package tpm_test

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"sync"
	"testing"

	"github.com/birthmark/birthmark/internal/edge/tpm"
	"github.com/birthmark/birthmark/internal/edge/tpm/tpmtest"
	"github.com/birthmark/birthmark/internal/fault"
	format "github.com/birthmark/birthmark/internal/format/tpm"
)

// TestEndorsementKeysOfBothRangesOpenCredentials goes through the ways in which a
// TPM has its endorsement key.
func TestEndorsementKeysOfBothRangesOpenCredentials(t *testing.T) {
	_, all := tpmtest.Start(t, 1)
	bare := tpmtest.StartBare(t, 1)
	for name, row := range map[string]struct {
		c         tpm.Config
		template  string
		certified bool
	}{
		"low range, certified":   {tpm.Config{Path: all[0].Path}, "L-1", true},
		"high range, certified":  {tpm.Config{Path: all[0].Path, Template: "H-3"}, "H-3", true},
		"no certificate":         {tpm.Config{Path: bare[0].Path}, "L-2", false},
		"no certificate, RSA":    {tpm.Config{Path: bare[0].Path, Template: "L-1"}, "L-1", false},
		"no certificate, high":   {tpm.Config{Path: bare[0].Path, Template: "H-2"}, "H-2", false},
		"another than certified": {tpm.Config{Path: all[0].Path, Template: "L-2"}, "L-2", false},
	} {
		d, err := tpm.Open(t.Context(), row.c)
		if err != nil {
			t.Fatal(err)
		}
		e, err := d.Endorsement(t.Context())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if e.Template != row.template || (len(e.Certificate) > 0) != row.certified {
			t.Errorf("%s: template %s, certificate of %d octets", name, e.Template, len(e.Certificate))
		}
		enroll(t, d, e)
		nothingLoaded(t, d)
	}
	if _, err := opened(t, tpm.Config{Path: bare[0].Path, Template: "X-9"}).Endorsement(t.Context()); !fault.Has(err, fault.ParameterInvalid) {
		t.Errorf("a template that is none: %v", err)
	}
}

func opened(t *testing.T, c tpm.Config) *tpm.TPM {
	t.Helper()
	d, err := tpm.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestAnEndorsementKeyThatIsNotKeptIsMadeAnew removes the handles that the maker
// has filled.
func TestAnEndorsementKeyThatIsNotKeptIsMadeAnew(t *testing.T) {
	_, all := tpmtest.Start(t, 1)
	d := open(t, all[0].Path)
	before, err := d.Endorsement(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []uint32{0x81010001, 0x81010016} {
		if err := d.Evict(t.Context(), h); err != nil {
			t.Fatal(err)
		}
	}
	after, err := d.Endorsement(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if after.Handle != 0 || !bytes.Equal(before.Public, after.Public) || !bytes.Equal(before.Certificate, after.Certificate) {
		t.Errorf("another key, at %#x", after.Handle)
	}
	enroll(t, d, after)
	nothingLoaded(t, d)
}

func TestATPMOnATCPPortIsTheSame(t *testing.T) {
	_, all := tpmtest.Start(t, 1)
	ak, err := open(t, all[0].Path).AttestationKey(t.Context(), "", 0)
	if err != nil {
		t.Fatal(err)
	}
	all[0].Stop()
	port := freePort(t)
	if err := all[0].StartTCP(port); err != nil {
		t.Fatal(err)
	}
	d := open(t, fmt.Sprintf("127.0.0.1:%d", port))
	again, err := d.AttestationKey(t.Context(), "", 0)
	if err != nil || !bytes.Equal(ak.Public, again.Public) {
		t.Errorf("another key, %v", err)
	}
	nothingLoaded(t, d)
}

func TestIndicesHoldWhatWasWritten(t *testing.T) {
	_, all := tpmtest.Start(t, 1)
	d := open(t, all[0].Path)
	const handle = 0x01C90001
	if text, err := d.ReadNV(t.Context(), handle); err != nil || text != nil {
		t.Errorf("an index that is not there: %d octets, %v", len(text), err)
	}
	for _, size := range []int{700, 700, 1, 1024, 1025, 1900, 300} { // more than one piece, the same size, other sizes
		want := bytes.Repeat([]byte{byte(size)}, size)
		want[0] = 0x30
		for range 2 {
			if err := d.WriteNV(t.Context(), handle, want); err != nil {
				t.Fatal(size, err)
			}
			if got, err := d.ReadNV(t.Context(), handle); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d octets: %d read, %v", size, len(got), err)
			}
		}
	}
	if err := d.WriteNV(t.Context(), handle, make([]byte, 1<<16)); !fault.Has(err, fault.ParameterInvalid) {
		t.Errorf("too much: %v", err)
	}
	if err := d.WriteNV(t.Context(), 0x01C00002, []byte("not ours")); !fault.Has(err, fault.TPMHandle) {
		t.Errorf("the endorsement key's index: %v", err)
	}
	nothingLoaded(t, d)
}

func TestRegistersAreReadExtendedAndQuoted(t *testing.T) {
	_, all := tpmtest.Start(t, 1)
	d := open(t, all[0].Path)
	event := sha256.Sum256([]byte("event"))
	if err := d.ExtendPCR(t.Context(), "sha256", 16, event[:]); err != nil {
		t.Fatal(err)
	}
	values, err := d.ReadPCRs(t.Context(), "sha256", 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 23)
	if err != nil || len(values) != 12 {
		t.Fatal(len(values), err)
	}
	want := sha256.Sum256(append(make([]byte, 32), event[:]...))
	if !bytes.Equal(values[16], want[:]) || !bytes.Equal(values[0], make([]byte, 32)) {
		t.Errorf("register 16 holds %x", values[16])
	}
	for _, q := range []*format.QuoteRequest{{Bank: "sha1", PCRs: []int{0}}, {Bank: "sha256"}, {Bank: "sha256", PCRs: []int{99}}, {Bank: "sha256", PCRs: []int{-1}}} {
		ak, err := d.AttestationKey(t.Context(), "", 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Quote(t.Context(), ak, q, make([]byte, 32)); err == nil {
			t.Errorf("%+v was quoted", q)
		}
	}
	if _, err := d.ReadPCRs(t.Context(), "sha512", 0); !fault.Has(err, fault.TPMFailed) { // the bank is not switched on
		t.Errorf("%v", err)
	}
	nothingLoaded(t, d)
}

func TestKeysAtHandlesAreNotReplaced(t *testing.T) {
	_, all := tpmtest.Start(t, 1)
	d := open(t, all[0].Path)
	const handle = 0x81020000
	k, err := d.NewKey(t.Context(), "", handle)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.NewKey(t.Context(), "", handle); !fault.Has(err, fault.TPMHandle) {
		t.Errorf("a second key at the handle: %v", err)
	}
	if _, err := d.AttestationKey(t.Context(), "", handle); !fault.Has(err, fault.TPMHandle) {
		t.Errorf("an attestation key at the handle: %v", err)
	}
	at, err := d.KeyAt(t.Context(), handle)
	if err != nil || at == nil || !bytes.Equal(at.Public, k.Public) {
		t.Errorf("%v, %v", at, err)
	}
	if _, err := at.File(); err == nil {
		t.Error("a key that is in the TPM alone has a file")
	}
	if at, err := d.KeyAt(t.Context(), handle+1); err != nil || at != nil {
		t.Errorf("%v, %v", at, err)
	}
	// A key that was replaced behind our back is not used.
	if err := d.Evict(t.Context(), handle); err != nil {
		t.Fatal(err)
	}
	if _, err := d.NewKey(t.Context(), "", handle); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Signer(t.Context(), k).Sign(nil, make([]byte, 32), crypto.SHA256); !fault.Has(err, fault.TPMHandle) {
		t.Errorf("a key that was replaced: %v", err)
	}
	nothingLoaded(t, d)
}

func TestOnlyWhatTheTPMSignsIsAskedOfIt(t *testing.T) {
	_, all := tpmtest.Start(t, 1)
	d := open(t, all[0].Path)
	k, err := d.NewKey(t.Context(), format.RSA2048, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := d.Signer(t.Context(), k)
	digest := sha256.Sum256([]byte("x"))
	public := k.Parsed().Key.(*rsa.PublicKey)
	signature, err := s.Sign(nil, digest[:], crypto.SHA256)
	if err != nil || rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature) != nil {
		t.Errorf("PKCS #1: %v", err)
	}
	signature, err = s.Sign(nil, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto, Hash: crypto.SHA256})
	if err != nil || rsa.VerifyPSS(public, crypto.SHA256, digest[:], signature, nil) != nil {
		t.Errorf("PSS: %v", err)
	}
	for name, sign := range map[string]func() ([]byte, error){
		"SHA-1":          func() ([]byte, error) { return s.Sign(nil, digest[:20], crypto.SHA1) },
		"another length": func() ([]byte, error) { return s.Sign(nil, digest[:31], crypto.SHA256) },
		"a salt of eight": func() ([]byte, error) {
			return s.Sign(nil, digest[:], &rsa.PSSOptions{SaltLength: 8, Hash: crypto.SHA256})
		},
	} {
		if _, err := sign(); !fault.Has(err, fault.ParameterInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	nothingLoaded(t, d)
}

func TestManyUsersTakeTurns(t *testing.T) {
	_, all := tpmtest.Start(t, 1)
	var users sync.WaitGroup
	for range 4 {
		d := open(t, all[0].Path) // as another process would
		users.Go(func() {
			for range 5 {
				k, err := d.NewKey(t.Context(), "", 0)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := d.Signer(t.Context(), k).Sign(nil, make([]byte, 32), crypto.SHA256); err != nil {
					t.Error(err)
				}
			}
		})
	}
	users.Wait()
	nothingLoaded(t, open(t, all[0].Path))
}

func TestInfoIsThatOfTheTPM(t *testing.T) {
	maker, all := tpmtest.Start(t, 1)
	d := open(t, all[0].Path)
	if i := d.Info(); i.Manufacturer != "IBM" || i.NVBuffer < 512 || i.Firmware == "" || i.Path != all[0].Path {
		t.Errorf("%+v", i)
	}
	e, err := d.Endorsement(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(e.Certificate)
	if err != nil || c.CheckSignatureFrom(maker.Issuing) != nil {
		t.Errorf("the certificate is not the maker's, %v", err)
	}
	p, err := format.ParsePublic(e.Public)
	if err != nil {
		t.Fatal(err)
	}
	der, err := maker.Certify(p.Key, tpmtest.EKFields{Manufacturer: "id:49465800"})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := x509.ParseCertificate(der); err != nil || c.CheckSignatureFrom(maker.Issuing) != nil || len(c.UnhandledCriticalExtensions) != 1 {
		t.Errorf("a certificate of the test's own: %v", err)
	}
}

package signer_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"io"
	"math/big"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/signer"
)

// clock is a time that a test moves.
type clock struct{ at atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.at.Store(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.at.Load()).UTC() }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d)) }

// recorder is a key that keeps the to-be-signed bytes that crypto/x509 makes, so
// that a test can have them signed elsewhere.
type recorder struct {
	*ecdsa.PrivateKey
	tbs []byte
}

func (r *recorder) SignMessage(random io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	r.tbs = message
	h := opts.HashFunc().New()
	h.Write(message)
	return r.PrivateKey.Sign(random, h.Sum(nil), opts)
}

// authority is a CA whose key is in the engine.
type authority struct {
	t    testing.TB
	key  *recorder
	cert *x509.Certificate
}

func newAuthority(t testing.TB, name string, edit func(*x509.Certificate)) *authority {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: &recorder{PrivateKey: private}}
	form := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, BasicConstraintsValid: true, IsCA: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: newClock().now().AddDate(-1, 0, 0), NotAfter: newClock().now().AddDate(30, 0, 0),
	}
	if edit != nil {
		edit(form)
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, private.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

// renamed is an authority of another name with the same key.
func (a *authority) renamed(name string) *authority {
	a.t.Helper()
	form := *a.cert
	form.RawSubject, form.Subject = nil, pkix.Name{CommonName: name}
	der, err := x509.CreateCertificate(rand.Reader, &form, &form, a.key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return &authority{t: a.t, key: a.key, cert: cert}
}

// leaf returns a device's certificate that the authority's bounds allow.
func leaf(certSerial int64) *x509.Certificate {
	now := newClock().now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(certSerial), Subject: pkix.Name{CommonName: "device"}, NotBefore: now.Add(-time.Minute), NotAfter: now.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
}

// tbs returns the to-be-signed bytes of a certificate.
func (a *authority) tbs(form *x509.Certificate) []byte {
	a.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	if _, err := x509.CreateCertificate(rand.Reader, form, a.cert, private.Public(), a.key); err != nil {
		a.t.Fatal(err)
	}
	return a.key.tbs
}

func (a *authority) crl(number int64, entries int, edit func(*x509.RevocationList)) []byte {
	a.t.Helper()
	now := newClock().now()
	list := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: now, NextUpdate: now.AddDate(0, 0, 1)}
	for i := range entries {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: big.NewInt(int64(i) + 1), RevocationTime: now, ReasonCode: i % 2,
		})
	}
	if edit != nil {
		edit(list)
	}
	if _, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key); err != nil {
		a.t.Fatal(err)
	}
	return a.key.tbs
}

// world is an engine with its journal.
type world struct {
	t       testing.TB
	dir     string
	clock   *clock
	config  signer.Config
	journal *signer.Journal
	engine  *signer.Engine
}

const uid = 1000

func newWorld(t testing.TB, keys ...signer.KeyConfig) *world {
	t.Helper()
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "journal"), clock: newClock()}
	w.config = signer.Config{Keys: keys, Now: w.clock.now}
	w.open()
	t.Cleanup(func() { _ = w.journal.Close() })
	return w
}

func (w *world) open() {
	w.t.Helper()
	var err error
	if w.journal, err = signer.OpenJournal(signer.JournalConfig{Dir: w.dir, Segment: 8 << 10}); err != nil {
		w.t.Fatal(err)
	}
	w.config.Journal = w.journal
	if w.engine, err = signer.New(w.config); err != nil {
		w.t.Fatal(err)
	}
}

// restart is a stop and a start of the process.
func (w *world) restart() {
	w.t.Helper()
	if err := w.journal.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.open()
}

// sign signs one thing.
func (w *world) sign(key string, tbs []byte) ([]byte, error) {
	o := w.engine.Sign(w.t.Context(), uid, []signer.Request{{Key: key, TBS: tbs}})[0]
	return o.Signature, o.Err
}

func (w *world) refuses(what, key string, tbs []byte, code fault.Code) {
	w.t.Helper()
	if signature, err := w.sign(key, tbs); !fault.Has(err, code) || signature != nil {
		w.t.Errorf("%s: %v, %d octets of signature; want %s", what, err, len(signature), code)
	}
}

func (w *world) signs(what, key string, tbs []byte) {
	w.t.Helper()
	if _, err := w.sign(key, tbs); err != nil {
		w.t.Errorf("%s: %v", what, err)
	}
}

// backend signs with a key in memory.
type backend struct {
	key   *ecdsa.PrivateKey
	fault func(signature []byte) ([]byte, error) // nil: none
	calls atomic.Int64
}

func (b *backend) Public() crypto.PublicKey { return b.key.Public() }
func (b *backend) Parallel() int            { return 2 }
func (b *backend) Sign(_ context.Context, digest []byte, _ crypto.Hash) ([]byte, error) {
	b.calls.Add(1)
	signature, err := ecdsa.SignASN1(rand.Reader, b.key, digest)
	if b.fault != nil {
		return b.fault(signature)
	}
	return signature, err
}

// keyConfig binds an authority's key with generous bounds.
func (a *authority) keyConfig(name string, edit func(*signer.KeyConfig)) signer.KeyConfig {
	c := signer.KeyConfig{
		Name: name, Backend: &backend{key: a.key.PrivateKey},
		Bounds: signer.Bounds{
			Kinds: []signer.Kind{signer.Leaf, signer.CRL}, Validity: 400 * 24 * time.Hour, Rate: 1 << 20, Daily: 1 << 40,
		},
		Certificate: func() ([]byte, error) { return a.cert.Raw, nil },
	}
	if edit != nil {
		edit(&c)
	}
	return c
}

func TestSignsWhatTheKeyIsBoundTo(t *testing.T) {
	a := newAuthority(t, "Issuing CA", nil)
	w := newWorld(t, a.keyConfig("issuing", nil))
	tbs := a.tbs(leaf(7))
	signature, err := w.sign("issuing", tbs)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.cert.CheckSignature(x509.ECDSAWithSHA256, tbs, signature); err != nil {
		t.Error(err)
	}
	w.signs("a CRL", "issuing", a.crl(1, 1000, nil))
	w.signs("an empty CRL", "issuing", a.crl(2, 0, nil))

	var kinds []signer.Kind
	if err := w.journal.Close(); err != nil {
		t.Fatal(err)
	}
	err = signer.ReadJournal(w.dir, func(r *signer.Record) error { kinds = append(kinds, r.Kind); return nil })
	if err != nil || len(kinds) != 3 || kinds[0] != signer.Leaf || kinds[2] != signer.CRL {
		t.Errorf("journal: %v, %v", kinds, err)
	}
	w.open()
}

// TestNoOracle is what whoever took over the server tries with a key that signs
// devices' certificates and CRLs.
func TestNoOracle(t *testing.T) {
	a, other := newAuthority(t, "Issuing CA", nil), newAuthority(t, "Other CA", nil)
	twin := newAuthority(t, "Issuing CA", nil)
	w := newWorld(t, a.keyConfig("issuing", nil))
	edited := func(edit func(*x509.Certificate)) []byte {
		form := leaf(100)
		edit(form)
		return a.tbs(form)
	}
	now := newClock().now()
	digest := make([]byte, 32)
	good := a.tbs(leaf(1))

	for name, tbs := range map[string][]byte{
		"a digest":               digest,
		"nothing that is DER":    []byte("sign this, please"),
		"a whole certificate":    a.cert.Raw,
		"octets behind":          append(append([]byte(nil), good...), 0),
		"a cut certificate":      good[:len(good)-1],
		"an empty SEQUENCE":      {0x30, 0},
		"signed attributes":      {0x31, 3, 2, 1, 1},
		"a SEQUENCE of INTEGERs": {0x30, 6, 2, 1, 1, 2, 1, 1},
		"a CRL's head alone":     {0x30, 3, 2, 1, 1},
		"a delta CRL": a.crl(9, 1, func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}}}
		}),
		"an extension twice": edited(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{1}}, {Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{2}}}
		}),
		"a malformed basic constraint": edited(func(c *x509.Certificate) {
			c.BasicConstraintsValid = false
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Value: []byte{0x30, 3, 1, 1, 7}}}
		}),
	} {
		w.refuses(name, "issuing", tbs, fault.SignerContent)
	}

	for name, tbs := range map[string][]byte{
		"another issuer":                 other.tbs(leaf(100)),
		"the issuer's name, another key": twin.tbs(leaf(100)),
		"the issuer's key, another name": a.renamed("Other CA").tbs(leaf(100)),
		"another algorithm":              edited(func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA384 }),
		"a CA certificate":               edited(func(c *x509.Certificate) { c.IsCA = true; c.KeyUsage = x509.KeyUsageCertSign }),
		"keyCertSign without cA":         edited(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }),
		"cRLSign":                        edited(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }),
		"an OCSP responder":              edited(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning} }),
		"any usage":                      edited(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }),
		"a server":                       edited(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }),
		"a server beside client":         edited(func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) }),
		"a host without usages":          edited(func(c *x509.Certificate) { c.ExtKeyUsage = nil; c.DNSNames = []string{"bank.example"} }),
		"an attestation key": edited(func(c *x509.Certificate) {
			c.ExtKeyUsage, c.UnknownExtKeyUsage = nil, []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}}
		}),
		"a day too long":        edited(func(c *x509.Certificate) { c.NotAfter = c.NotBefore.AddDate(0, 0, 401) }),
		"no expiry":             edited(func(c *x509.Certificate) { c.NotAfter = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) }),
		"long ago":              edited(func(c *x509.Certificate) { c.NotBefore = now.Add(-3 * time.Hour) }),
		"tomorrow":              edited(func(c *x509.Certificate) { c.NotBefore = now.Add(time.Hour) }),
		"an OCSP answer":        ocspAnswer(t, a.cert, a.cert, now, now.Add(time.Hour)),
		"another's CRL":         other.crl(5, 1, nil),
		"a CRL for ten years":   a.crl(5, 1, func(l *x509.RevocationList) { l.NextUpdate = l.ThisUpdate.AddDate(10, 0, 0) }),
		"another key's request": request(t, other.key),
	} {
		w.refuses(name, "issuing", tbs, fault.SignerRefused)
	}

	w.signs("the good one", "issuing", good)
	w.refuses("the same again", "issuing", good, fault.SignerRefused)
	w.refuses("its serial again", "issuing", a.tbs(leaf(1)), fault.SignerRefused)
	w.signs("the key's own request", "issuing", request(t, a.key))
	w.signs("CRL 5", "issuing", a.crl(5, 1, nil))
	w.refuses("CRL 5 again", "issuing", a.crl(5, 2, nil), fault.SignerRefused)
	w.refuses("CRL 4", "issuing", a.crl(4, 1, nil), fault.SignerRefused)
	w.refuses("no such key", "root", good, fault.SignerKeyUnknown)

	w.restart()
	w.refuses("its serial again after a restart", "issuing", a.tbs(leaf(1)), fault.SignerRefused)
	w.refuses("CRL 5 again after a restart", "issuing", a.crl(5, 1, nil), fault.SignerRefused)
	w.signs("CRL 6", "issuing", a.crl(6, 1, nil))
}

package signer_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"sync/atomic"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/signer"
)

func TestTheRateHolds(t *testing.T) {
	a := newAuthority(t, "Issuing CA", nil)
	w := newWorld(t, a.keyConfig("issuing", func(c *signer.KeyConfig) { c.Bounds.Rate = 5 }))
	n := int64(1)
	next := func() []byte { n++; return a.tbs(leaf(n)) }
	for range 5 {
		w.signs("within the rate", "issuing", next())
	}
	refused := next()
	w.refuses("over the rate", "issuing", refused, fault.SignerLimit)
	w.clock.advance(200 * time.Millisecond)
	w.signs("what was refused for the rate has not used up its serial", "issuing", refused)
	w.refuses("over the rate", "issuing", next(), fault.SignerLimit)
	w.clock.advance(time.Hour)
	for range 5 {
		w.signs("after a pause no more than a second's worth", "issuing", next())
	}
	w.refuses("over the rate after a pause", "issuing", next(), fault.SignerLimit)
}

func TestTheDailyCapSurvivesRestarts(t *testing.T) {
	a := newAuthority(t, "Issuing CA", nil)
	w := newWorld(t, a.keyConfig("issuing", func(c *signer.KeyConfig) { c.Bounds.Daily = 300 }))
	n := int64(1)
	next := func() []byte { n++; return a.tbs(leaf(n)) }
	for i := range 300 {
		if i%70 == 69 {
			w.restart() // the segments of this test are small: several are begun
		}
		w.signs("within the cap", "issuing", next())
	}
	w.refuses("over the cap", "issuing", next(), fault.SignerLimit)
	w.restart()
	w.refuses("over the cap after a restart", "issuing", next(), fault.SignerLimit)
	w.clock.advance(-48 * time.Hour)
	w.refuses("over the cap with the clock set back", "issuing", a.tbs(shifted(leaf(9000), -48*time.Hour)), fault.SignerLimit)
	w.clock.advance(72 * time.Hour)
	w.signs("the next day", "issuing", a.tbs(shifted(leaf(9001), 24*time.Hour)))
}

func shifted(c *x509.Certificate, d time.Duration) *x509.Certificate {
	c.NotBefore, c.NotAfter = c.NotBefore.Add(d), c.NotAfter.Add(d)
	return c
}

// Flipped bits at the signer's output: none leaves.
func TestNoFlippedSignatureLeaves(t *testing.T) {
	a := newAuthority(t, "Issuing CA", nil)
	b := &backend{key: a.key.PrivateKey}
	w := newWorld(t, a.keyConfig("issuing", func(c *signer.KeyConfig) { c.Backend = b }))
	request := request(t, a.key) // may be signed any number of times
	flips, group := 10_000, make([]signer.Request, 100)
	if testing.Short() {
		flips = 500
	}
	for i := range group {
		group[i] = signer.Request{Key: "issuing", TBS: request}
	}
	var bit atomic.Int64
	b.fault = func(signature []byte) ([]byte, error) {
		at := int(bit.Add(1)) % (8 * len(signature))
		signature[at/8] ^= 1 << (at % 8)
		return signature, nil
	}
	for range flips / len(group) {
		for _, o := range w.engine.Sign(t.Context(), uid, group) {
			if !fault.Has(o.Err, fault.SignatureFault) || o.Signature != nil {
				t.Fatalf("about bit %d: %v", bit.Load(), o.Err)
			}
		}
	}
	if b.calls.Load() != int64(flips) {
		t.Errorf("%d signatures were made", b.calls.Load())
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b.fault = func([]byte) ([]byte, error) { return ecdsa.SignASN1(rand.Reader, other, make([]byte, 32)) }
	w.refuses("another key's signature", "issuing", request, fault.SignatureFault)
	b.fault = nil
	w.signs("a good one", "issuing", request)
}

func TestWhatIsCanceledIsNotSigned(t *testing.T) {
	a := newAuthority(t, "Issuing CA", nil)
	b := &backend{key: a.key.PrivateKey}
	w := newWorld(t, a.keyConfig("issuing", func(c *signer.KeyConfig) { c.Backend = b }))
	canceled := new(atomic.Bool)
	canceled.Store(true)
	outcomes := w.engine.Sign(t.Context(), uid, []signer.Request{
		{Key: "issuing", TBS: a.tbs(leaf(1)), Canceled: canceled}, {Key: "issuing", TBS: a.tbs(leaf(2)), Canceled: new(atomic.Bool)},
	})
	if outcomes[0].Signature != nil || outcomes[1].Err != nil || b.calls.Load() != 1 {
		t.Errorf("%+v, %d signatures", outcomes, b.calls.Load())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if o := w.engine.Sign(ctx, uid, []signer.Request{{Key: "issuing", TBS: a.tbs(leaf(3))}}); o[0].Err == nil || b.calls.Load() != 1 {
		t.Error("it was signed for a client that is gone")
	}
}

func TestOnlyTheKeysUsersKnowIt(t *testing.T) {
	a := newAuthority(t, "Issuing CA", nil)
	w := newWorld(t, a.keyConfig("issuing", func(c *signer.KeyConfig) { c.Bounds.UIDs = []uint32{uid + 1} }))
	w.refuses("another user's key", "issuing", a.tbs(leaf(1)), fault.SignerKeyUnknown)
	if keys := w.engine.Keys(uid); len(keys) != 0 {
		t.Errorf("it is listed: %v", keys)
	}
	if o := w.engine.Sign(t.Context(), uid+1, []signer.Request{{Key: "issuing", TBS: a.tbs(leaf(1))}}); o[0].Err != nil {
		t.Error(o[0].Err)
	}
}

// A key signs the request for its certificate, then a root its own certificate,
// to which it is bound from then on.
func TestAKeyIsBoundOnce(t *testing.T) {
	a := newAuthority(t, "Root CA", nil)
	var kept []byte
	root := func(c *signer.KeyConfig) {
		c.Bounds.Kinds, c.Bounds.Root, c.Bounds.Validity = []signer.Kind{signer.CA, signer.CRL}, true, 40*366*24*time.Hour
		c.Certificate = func() ([]byte, error) { return kept, nil }
		c.Bind = func(der []byte) error { kept = der; return nil }
	}
	w := newWorld(t, a.keyConfig("root", root))
	w.refuses("a CRL before it is bound", "root", a.crl(1, 0, nil), fault.SignerRefused)
	w.signs("its request", "root", request(t, a.key))

	own := func(name string, edit func(*x509.Certificate)) []byte {
		form := &x509.Certificate{
			SerialNumber: big.NewInt(50), BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
			NotBefore: newClock().now(), NotAfter: newClock().now().AddDate(30, 0, 0),
		}
		form.Subject.CommonName = name
		if edit != nil {
			edit(form)
		}
		if _, err := x509.CreateCertificate(rand.Reader, form, form, a.key.Public(), a.key); err != nil {
			t.Fatal(err)
		}
		return a.key.tbs
	}
	w.refuses("too long", "root", own("Root CA", func(c *x509.Certificate) { c.NotAfter = c.NotAfter.AddDate(20, 0, 0) }), fault.SignerRefused)
	w.refuses("another key's", "root", a.tbs(&x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: a.cert.Subject, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: newClock().now(), NotAfter: newClock().now().AddDate(1, 0, 0),
	}), fault.SignerRefused)
	w.signs("its own certificate", "root", own("Root CA", nil))
	cert, err := x509.ParseCertificate(kept)
	if err != nil || cert.CheckSignatureFrom(cert) != nil {
		t.Fatalf("what was kept is not the certificate: %v", err)
	}
	w.refuses("another name", "root", own("Other CA", func(c *x509.Certificate) { c.SerialNumber = big.NewInt(51) }), fault.SignerRefused)
	w.refuses("a device", "root", a.tbs(leaf(4)), fault.SignerRefused)
}

func TestAnOCSPKeyAnswersForItsIssuerAlone(t *testing.T) {
	issuer, other := newAuthority(t, "Issuing CA", nil), newAuthority(t, "Other CA", nil)
	responder := newAuthority(t, "OCSP issuing", func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.ExtKeyUsage = false, x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
	})
	w := newWorld(t, responder.keyConfig("ocsp", func(c *signer.KeyConfig) {
		c.Bounds.Kinds, c.Bounds.Validity, c.Issuer = []signer.Kind{signer.OCSP}, 0, issuer.cert.Raw
	}))
	now := newClock().now()
	w.signs("an answer", "ocsp", ocspAnswer(t, responder.cert, issuer.cert, now, now.Add(time.Hour)))
	w.refuses("about another issuer", "ocsp", ocspAnswer(t, responder.cert, other.cert, now, now.Add(time.Hour)), fault.SignerRefused)
	w.refuses("as another responder", "ocsp", ocspAnswer(t, other.cert, issuer.cert, now, now.Add(time.Hour)), fault.SignerRefused)
	w.refuses("for a year", "ocsp", ocspAnswer(t, responder.cert, issuer.cert, now, now.AddDate(1, 0, 0)), fault.SignerRefused)
	w.refuses("of last week", "ocsp", ocspAnswer(t, responder.cert, issuer.cert, now.AddDate(0, 0, -7), now.Add(time.Hour)), fault.SignerRefused)
	w.refuses("a certificate", "ocsp", issuer.tbs(leaf(1)), fault.SignerRefused)
}

func TestBoundsThatBoundNothingAreRefused(t *testing.T) {
	good := signer.Bounds{Kinds: []signer.Kind{signer.Leaf}, Validity: time.Hour, Rate: 1, Daily: 1}
	for name, edit := range map[string]func(*signer.Bounds){
		"no kinds":             func(b *signer.Bounds) { b.Kinds = nil },
		"no validity":          func(b *signer.Bounds) { b.Validity = 0 },
		"no rate":              func(b *signer.Bounds) { b.Rate = 0 },
		"no cap":               func(b *signer.Bounds) { b.Daily = 0 },
		"a root that is no CA": func(b *signer.Bounds) { b.Root = true },
	} {
		b := good
		edit(&b)
		if err := b.Check("k"); !fault.Has(err, fault.SignerConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := good.Check("k"); err != nil {
		t.Error(err)
	}
}

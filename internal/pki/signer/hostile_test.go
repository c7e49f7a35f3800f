package signer_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	wire "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/signer"
)

// edited returns a device's certificate with something changed.
func (a *authority) edited(edit func(*x509.Certificate)) []byte {
	a.t.Helper()
	certSerial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	if err != nil {
		a.t.Fatal(err)
	}
	form := leaf(certSerial.Int64())
	edit(form)
	return a.tbs(form)
}

// replaced changes octets of a structure, which must be there, keeping lengths.
func replaced(t *testing.T, der []byte, old, to string) []byte {
	t.Helper()
	if len(old) != len(to) || bytes.Count(der, []byte(old)) != 1 {
		t.Fatalf("%x is there %d times", old, bytes.Count(der, []byte(old)))
	}
	return bytes.Replace(der, []byte(old), []byte(to), 1)
}

func extension(value []byte, oid ...int) pkix.Extension {
	return pkix.Extension{Id: oid, Value: value}
}

// A key that may sign some kinds signs nothing that is of another kind besides.
func TestNoSecondUseBesidesAnAllowedOne(t *testing.T) {
	a := newAuthority(t, "Issuing CA", nil)
	w := newWorld(t, a.keyConfig("issuing", func(c *signer.KeyConfig) {
		c.Bounds.Kinds = []signer.Kind{signer.Leaf, signer.Responder, signer.Attestation}
	}), newAuthority(t, "none", nil).keyConfig("other", nil))
	only := newAuthority(t, "CA", nil)
	v := newWorld(t, only.keyConfig("ca", func(c *signer.KeyConfig) { c.Bounds.Kinds = []signer.Kind{signer.CA, signer.CRL} }),
		only.keyConfig("attestation", func(c *signer.KeyConfig) { c.Bounds.Kinds = []signer.Kind{signer.Attestation} }))
	usages := func(all ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage, c.DNSNames = all, []string{"bank.example"} }
	}
	w.refuses("a responder that is a server", "issuing", a.edited(usages(x509.ExtKeyUsageOCSPSigning, x509.ExtKeyUsageServerAuth)), fault.SignerRefused)
	w.refuses("a responder for any use", "issuing", a.edited(usages(x509.ExtKeyUsageAny)), fault.SignerRefused)
	w.refuses("server gated cryptography", "issuing", a.edited(usages(x509.ExtKeyUsageNetscapeServerGatedCrypto)), fault.SignerRefused)
	w.refuses("Microsoft's", "issuing", a.edited(usages(x509.ExtKeyUsageMicrosoftServerGatedCrypto)), fault.SignerRefused)
	w.signs("a responder", "issuing", a.edited(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning} }))
	ca := func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.Subject.CommonName = true, x509.KeyUsageCertSign, "Sub CA"
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
	}
	v.refuses("a CA that answers for its issuer", "ca", only.edited(ca), fault.SignerRefused)
	v.signs("a CA", "ca", only.edited(func(c *x509.Certificate) { ca(c); c.ExtKeyUsage = nil }))
	both := func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}} }
	v.refuses("an attestation key that is a device", "attestation", only.edited(both), fault.SignerRefused)
	v.signs("an attestation key", "attestation", only.edited(func(c *x509.Certificate) { both(c); c.ExtKeyUsage = nil }))
}

// What readers of certificates disagree about is refused.
func TestNoFormThatReadersDisagreeAbout(t *testing.T) {
	a := newAuthority(t, "Issuing CA", nil)
	w := newWorld(t, a.keyConfig("issuing", nil))
	constraints := func(value ...byte) []byte {
		return a.edited(func(c *x509.Certificate) {
			c.BasicConstraintsValid = false
			c.ExtraExtensions = []pkix.Extension{extension(value, 2, 5, 29, 19)}
		})
	}
	odd := a.edited(func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{extension([]byte{0x30, 3, 1, 1, 0xff}, 2, 5, 1, 19)}
	})
	past := a.edited(func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
	})
	for name, tbs := range map[string][]byte{
		"a path length before cA": constraints(0x30, 6, 2, 1, 0, 1, 1, 0xff),
		"cA twice":                constraints(0x30, 6, 1, 1, 0xff, 1, 1, 0xff),
		"cA FALSE":                constraints(0x30, 3, 1, 1, 0),
		"BER's TRUE":              constraints(0x30, 3, 1, 1, 1),
		"an indefinite length":    constraints(0x30, 0x80, 1, 1, 0xff, 0, 0),
		"a Netscape CA": a.edited(func(c *x509.Certificate) {
			c.BasicConstraintsValid, c.KeyUsage = false, 0
			c.ExtraExtensions = []pkix.Extension{extension([]byte{3, 2, 2, 4}, 2, 16, 840, 1, 113730, 1, 1)}
		}),
		"a padded identifier":   replaced(t, odd, "\x06\x03\x55\x01\x13", "\x06\x03\x55\x80\x13"),
		"an identifier cut off": replaced(t, odd, "\x06\x03\x55\x01\x13", "\x06\x03\x55\x01\x93"),
		"critical FALSE":        replaced(t, past, "\x06\x02\x2a\x03\x01\x01\xff", "\x06\x02\x2a\x03\x01\x01\x00"),
		"a padded usage": a.edited(func(c *x509.Certificate) {
			c.ExtKeyUsage = nil
			c.ExtraExtensions = []pkix.Extension{extension([]byte("\x30\x0b\x06\x09\x2b\x06\x01\x05\x05\x07\x80\x03\x01"), 2, 5, 29, 37)}
		}),
		"no usage in the list": a.edited(func(c *x509.Certificate) {
			c.ExtKeyUsage = nil
			c.ExtraExtensions = []pkix.Extension{extension([]byte{0x30, 2, 5, 0}, 2, 5, 29, 37)}
		}),
		"a CA's usage in two extensions": a.edited(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{extension([]byte{3, 2, 2, 4}, 2, 5, 29, 15), extension([]byte{3, 2, 7, 0x80}, 2, 5, 29, 15)}
		}),
	} {
		w.refuses(name, "issuing", tbs, fault.SignerContent)
	}
}

// rawLeaf is a certificate to be signed with times as given.
func (a *authority) rawLeaf(from, to func(*cryptobyte.Builder)) []byte {
	tbs := cryptobyte.String(a.edited(func(*x509.Certificate) {}))
	var outer, version, number, algorithm, issuer, old, rest cryptobyte.String
	if !tbs.ReadASN1(&outer, wire.SEQUENCE) || !outer.ReadASN1Element(&version, wire.Tag(0).ContextSpecific().Constructed()) ||
		!outer.ReadASN1Element(&number, wire.INTEGER) || !outer.ReadASN1Element(&algorithm, wire.SEQUENCE) ||
		!outer.ReadASN1Element(&issuer, wire.SEQUENCE) || !outer.ReadASN1Element(&old, wire.SEQUENCE) {
		a.t.Fatal("not a certificate")
	}
	rest = outer
	var b cryptobyte.Builder
	b.AddASN1(wire.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, part := range [][]byte{version, number, algorithm, issuer} {
			b.AddBytes(part)
		}
		b.AddASN1(wire.SEQUENCE, func(b *cryptobyte.Builder) { from(b); to(b) })
		b.AddBytes(rest)
	})
	return b.BytesOrPanic()
}

func TestTimesInOtherForms(t *testing.T) {
	a := newAuthority(t, "Issuing CA", nil)
	w := newWorld(t, a.keyConfig("issuing", func(c *signer.KeyConfig) { c.Bounds.NoExpiry = true }))
	at := func(tag wire.Tag, text string) func(*cryptobyte.Builder) {
		return func(b *cryptobyte.Builder) { b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(text)) }) }
	}
	now := at(wire.UTCTime, "261122115900Z")
	for name, to := range map[string]func(*cryptobyte.Builder){
		"an offset":               at(wire.UTCTime, "271122120000+0100"),
		"no seconds":              at(wire.UTCTime, "2711221200Z"),
		"a generalized time":      at(wire.GeneralizedTime, "20271122120000Z"),
		"one with an offset":      at(wire.GeneralizedTime, "20991122120000+0100"),
		"a fraction":              at(wire.GeneralizedTime, "20991122120000.5Z"),
		"the thirtieth February":  at(wire.UTCTime, "270230120000Z"),
		"a year of five digits":   at(wire.GeneralizedTime, "120991122120000Z"),
		"a time before the first": at(wire.UTCTime, "500101000000Z"),
		"no time":                 at(wire.OCTET_STRING, "271122120000Z"),
	} {
		w.refuses(name, "issuing", a.rawLeaf(now, to), fault.SignerContent)
	}
	w.refuses("2049", "issuing", a.rawLeaf(now, at(wire.UTCTime, "491231235959Z")), fault.SignerRefused)
	w.refuses("2050", "issuing", a.rawLeaf(now, at(wire.GeneralizedTime, "20500101000000Z")), fault.SignerRefused)
	w.refuses("almost for ever", "issuing", a.rawLeaf(now, at(wire.GeneralizedTime, "99991231235958Z")), fault.SignerRefused)
	w.signs("for ever", "issuing", a.rawLeaf(now, at(wire.GeneralizedTime, "99991231235959Z")))
}

// A certificate in the authority's own name could sign CRLs for it.
func TestNobodyElseGetsTheAuthoritysName(t *testing.T) {
	a := newAuthority(t, "Issuing CA", nil)
	w := newWorld(t, a.keyConfig("issuing", func(c *signer.KeyConfig) { c.Bounds.Kinds = append(c.Bounds.Kinds, signer.CA) }))
	ca := func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign }
	for name, edit := range map[string]func(*x509.Certificate){
		"a CA":                func(c *x509.Certificate) { ca(c); c.Subject = a.cert.Subject },
		"a device":            func(c *x509.Certificate) { c.KeyUsage = 0; c.Subject = a.cert.Subject },
		"in capitals":         func(c *x509.Certificate) { ca(c); c.Subject.CommonName = "ISSUING ca" },
		"with spaces":         func(c *x509.Certificate) { ca(c); c.Subject.CommonName = " Issuing  CA " },
		"another string type": func(c *x509.Certificate) { ca(c); c.RawSubject = rawName(t, wire.UTF8String, "Issuing CA") },
		"two octets a letter": func(c *x509.Certificate) {
			ca(c)
			c.RawSubject = rawName(t, 30, "\x00I\x00s\x00s\x00u\x00i\x00n\x00g\x00 \x00C\x00A")
		},
	} {
		w.refuses(name, "issuing", a.edited(edit), fault.SignerRefused)
	}
	w.signs("another name", "issuing", a.edited(func(c *x509.Certificate) { ca(c); c.Subject.CommonName = "Issuing CA 2" }))
}

func rawName(t *testing.T, tag wire.Tag, text string) []byte {
	t.Helper()
	var b cryptobyte.Builder
	b.AddASN1(wire.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(wire.SET, func(b *cryptobyte.Builder) {
			b.AddASN1(wire.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddBytes([]byte{6, 3, 0x55, 4, 3})
				b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(text)) })
			})
		})
	})
	return b.BytesOrPanic()
}

// A CRL speaks of this authority's certificates and of all reasons.
func TestNoIndirectCRLs(t *testing.T) {
	a := newAuthority(t, "Issuing CA", nil)
	w := newWorld(t, a.keyConfig("issuing", nil))
	point := func(value ...byte) []byte {
		return a.crl(5, 1, func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: value}}
		})
	}
	for name, tbs := range map[string][]byte{
		"an indirect CRL":            point(0x30, 3, 0x84, 1, 0xff),
		"for some reasons":           point(0x30, 4, 0x83, 2, 0, 0x60),
		"for attribute certificates": point(0x30, 3, 0x85, 1, 0xff),
		"two points":                 point(0x30, 0, 0x30, 0),
		"no point":                   point(5, 0),
		"another's entry": a.crl(5, 1, func(l *x509.RevocationList) {
			l.RevokedCertificateEntries[0].ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 29}, Critical: true, Value: []byte{0x30, 0}}}
		}),
		"no number": replaced(t, a.crl(5, 1, nil), "\x55\x1d\x14", "\x55\x1d\x63"),
	} {
		w.refuses(name, "issuing", tbs, fault.SignerContent)
		o := w.engine.Sign(t.Context(), uid, []signer.Request{{Key: "issuing", Stream: bytes.NewReader(tbs)}})[0]
		if !fault.Has(o.Err, fault.SignerContent) {
			t.Errorf("%s in a stream: %v", name, o.Err)
		}
	}
	w.signs("of users", "issuing", point(0x30, 3, 0x81, 1, 0xff))
}

// A stream that is cut or changed anywhere is refused, and harms nobody.
func TestStreamsOfNonsense(t *testing.T) {
	a := newAuthority(t, "Issuing CA", nil)
	w := newWorld(t, a.keyConfig("issuing", nil))
	good := a.crl(5, 3, nil)
	stream := func(tbs []byte) error {
		return w.engine.Sign(t.Context(), uid, []signer.Request{{Key: "issuing", Stream: bytes.NewReader(tbs)}})[0].Err
	}
	for i := range good {
		if err := stream(good[:i]); !fault.Has(err, fault.SignerContent) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	// SEQUENCE { INTEGER of no octets, SEQUENCE {}, SEQUENCE {} }
	if err := stream([]byte{0x30, 6, 2, 0, 0x30, 0, 0x30, 0}); !fault.Has(err, fault.SignerContent) {
		t.Errorf("a version of no octets: %v", err)
	}
	if err := stream(append(bytes.Clone(good), 0)); !fault.Has(err, fault.SignerContent) {
		t.Errorf("an octet behind: %v", err)
	}
	if err := stream(good); err != nil {
		t.Error(err)
	}
}

// Without nextUpdate an OCSP answer would be good for ever.
func TestOCSPAnswersEnd(t *testing.T) {
	a := newAuthority(t, "Issuing CA", nil)
	w := newWorld(t, a.keyConfig("issuing", func(c *signer.KeyConfig) { c.Bounds.Kinds = []signer.Kind{signer.OCSP} }))
	now := newClock().now()
	w.signs("an answer", "issuing", ocspAnswer(t, a.cert, a.cert, now, now.Add(time.Hour)))
	w.refuses("one without end", "issuing", ocspAnswer(t, a.cert, a.cert, now, time.Time{}), fault.SignerContent)
	w.refuses("one that begins later", "issuing", ocspAnswer(t, a.cert, a.cert, now.Add(time.Hour), now.Add(2*time.Hour)), fault.SignerRefused)
}

// Refusals keep the journal readable, whatever was refused.
func TestRefusedNonsenseInTheJournal(t *testing.T) {
	a := newAuthority(t, "Issuing CA", nil)
	w := newWorld(t, a.keyConfig("issuing", nil))
	long := append([]byte{2, 0x82, 1, 44, 0x7f}, bytes.Repeat([]byte{1}, 299)...)
	list := a.crl(5, 1, func(l *x509.RevocationList) { l.ExtraExtensions = []pkix.Extension{extension(long, 2, 5, 29, 99)} })
	list = replaced(t, replaced(t, list, "\x55\x1d\x14", "\x55\x1d\x62"), "\x55\x1d\x63", "\x55\x1d\x14")
	w.refuses("a CRL number of 300 octets", "issuing", list, fault.SignerContent)
	w.refuses("a name with control characters", strings.Repeat("\x1b", 300), list, fault.SignerKeyUnknown)
	if err := w.journal.Close(); err != nil {
		t.Fatal(err)
	}
	if err := signer.ReadJournal(w.dir, func(r *signer.Record) error {
		if len(r.Number) > 20 || r.State != nil {
			t.Errorf("a record with a number of %d octets and %d octets of state", len(r.Number), len(r.State))
		}
		_, err := json.Marshal(r)
		return err
	}); err != nil {
		t.Error(err)
	}
	w.open()
}

// Whoever had a server for a day cannot take the numbers of all later CRLs.
func TestCRLNumbersRiseByLittle(t *testing.T) {
	a := newAuthority(t, "Issuing CA", nil)
	w := newWorld(t, a.keyConfig("issuing", nil))
	days := 0
	list := func(number int64) []byte {
		return a.crl(number, 0, func(l *x509.RevocationList) {
			l.ThisUpdate, l.NextUpdate = l.ThisUpdate.AddDate(0, 0, days), l.NextUpdate.AddDate(0, 0, days)
		})
	}
	const epoch = 1 << 32
	w.signs("the first, from elsewhere", "issuing", list(5*epoch))
	w.signs("two epochs later", "issuing", list(7*epoch))
	w.refuses("the highest of all", "issuing", list(1<<62), fault.SignerRefused)
	w.signs("a little more", "issuing", list(7*epoch+1))
	w.clock.advance(24 * time.Hour)
	days++
	w.signs("next day one epoch", "issuing", list(8*epoch))
	w.restart()
	w.signs("one more after a restart", "issuing", list(9*epoch))
	w.refuses("a third by steps", "issuing", list(10*epoch), fault.SignerRefused)
	w.restart()
	w.refuses("a third after a restart", "issuing", list(10*epoch), fault.SignerRefused)
	w.signs("the next number", "issuing", list(9*epoch+1))
	long := a.crl(9*epoch+2, 0, func(l *x509.RevocationList) {
		l.ThisUpdate = l.ThisUpdate.AddDate(0, 0, days)
		l.NextUpdate = l.ThisUpdate.AddDate(0, 0, 36)
	})
	w.refuses("a list to be believed for long", "issuing", long, fault.SignerRefused)
}

// What an HSM returns instead of a signature does not leave.
func TestWhatIsNoSignature(t *testing.T) {
	a := newAuthority(t, "Issuing CA", nil)
	b := &backend{key: a.key.PrivateKey}
	w := newWorld(t, a.keyConfig("issuing", func(c *signer.KeyConfig) { c.Backend = b }))
	n := elliptic.P256().Params().N
	pair := func(r, s *big.Int) []byte {
		der, err := asn1.Marshal(struct{ R, S *big.Int }{r, s})
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	request := request(t, a.key)
	b.fault = nil
	earlier, err := w.sign("issuing", a.tbs(leaf(7)))
	if err != nil {
		t.Fatal(err)
	}
	for name, signature := range map[string][]byte{
		"nothing": nil, "no octets": {}, "zeros": make([]byte, 72), "a megabyte": make([]byte, 1<<20),
		"r and s of 0": pair(new(big.Int), new(big.Int)), "the order": pair(n, n), "negative": pair(big.NewInt(-1), big.NewInt(-1)),
		"raw octets": bytes.Repeat([]byte{0x5a}, 64), "the last signature": earlier, "octets behind": append(bytes.Clone(earlier), 0),
	} {
		b.fault = func([]byte) ([]byte, error) { return signature, nil }
		w.refuses(name, "issuing", request, fault.SignatureFault)
	}
	b.fault = nil
	w.signs("a good one", "issuing", request)
}

// panics stands for a mistake in the parser that nobody knows of yet.
type panics struct{}

func (panics) Read([]byte) (int, error) { panic("a mistake") }

func TestAMistakeInTheParserEndsNothing(t *testing.T) {
	a := newAuthority(t, "Issuing CA", nil)
	w := newWorld(t, a.keyConfig("issuing", nil))
	outcomes := w.engine.Sign(t.Context(), uid, []signer.Request{{Key: "issuing", Stream: panics{}}, {Key: "issuing", TBS: a.tbs(leaf(1))}})
	if !fault.Has(outcomes[0].Err, fault.SignerContent) || outcomes[1].Err != nil {
		t.Errorf("%v, %v", outcomes[0].Err, outcomes[1].Err)
	}
}

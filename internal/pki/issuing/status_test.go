package issuing

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/needs"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

func testCRL() CRL {
	return CRL{Number: 1<<32 + 5, ThisUpdate: testNow, NextUpdate: testNow.Add(24 * time.Hour)}
}

func parseCRL(t testing.TB, iss *Issuer, der []byte) *x509.RevocationList {
	t.Helper()
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := list.CheckSignatureFrom(parseCertificate(t, iss.Certificate)); err != nil {
		t.Error(err)
	}
	return list
}

// TestCRLEqualsCreateRevocationList compares the to-be-signed bytes with those
// of crypto/x509.
func TestCRLEqualsCreateRevocationList(t *testing.T) {
	type entry struct {
		serial []byte
		at     time.Time
		reason int
	}
	entries := []entry{
		{[]byte{1}, testNow.Add(-time.Hour), ReasonUnspecified},
		{[]byte{0, 0x80}, testNow, ReasonKeyCompromise},
		{testSerial(), moment(t, "2049-12-31T23:59:59Z"), ReasonCertificateHold},
		{testSerial(), moment(t, "2050-01-01T00:00:00Z"), ReasonAACompromise},
		{append([]byte{0x7f}, bytes.Repeat([]byte{0xff}, 19)...), testNow, ReasonRemoveFromCRL},
	}
	for _, at := range authorityTypes {
		for n := range len(entries) + 1 {
			iss := testIssuer(t, at)
			c := testCRL()
			template := &x509.RevocationList{Number: new(big.Int).SetUint64(c.Number), ThisUpdate: c.ThisUpdate, NextUpdate: c.NextUpdate}
			var chunks [][]byte
			for _, e := range entries[:n] {
				chunks = append(chunks, AppendCRLEntry(nil, e.serial, e.at, e.reason))
				template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{
					SerialNumber: new(big.Int).SetBytes(e.serial), RevocationTime: e.at, ReasonCode: e.reason,
				})
			}
			der, err := SignCRL(iss, c, chunks)
			if err != nil {
				t.Fatal(err)
			}
			std, err := x509.CreateRevocationList(nil, template, parseCertificate(t, iss.Certificate), iss.Key)
			if err != nil {
				t.Fatal(err)
			}
			got := parseCRL(t, iss, der)
			if !bytes.Equal(got.RawTBSRevocationList, parseCRL(t, iss, std).RawTBSRevocationList) {
				t.Errorf("%s with %d entries: TBS differ", at, n)
			}
		}
	}
}

func TestShardedCRLHasCriticalDistributionPoint(t *testing.T) {
	iss := testIssuer(t, profile.P256)
	type point struct {
		FullName []asn1.RawValue `asn1:"tag:0,optional"`
	}
	type distribution struct {
		Point   point `asn1:"tag:0,optional"`
		CAsOnly bool  `asn1:"tag:2,optional"`
	}
	tests := []struct {
		name   string
		crl    CRL
		url    string
		caOnly bool
	}{
		{"shard", CRL{Shard: 3, Shards: 16}, "http://pki.example.com/crl/issuing/3.crl", false},
		{"shard elsewhere", CRL{Shard: 3, Shards: 16, DistributionPoint: "http://other.example.com/x.crl"}, "http://other.example.com/x.crl", false},
		{"authorities", CRL{CAOnly: true}, "http://pki.example.com/crl/issuing/0.crl", true},
	}
	for _, tt := range tests {
		tt.crl.Number, tt.crl.ThisUpdate, tt.crl.NextUpdate = 1, testNow, testNow.Add(time.Hour)
		der, err := SignCRL(iss, tt.crl, nil)
		if err != nil {
			t.Fatal(err)
		}
		var found pkix.Extension
		for _, e := range parseCRL(t, iss, der).Extensions {
			if e.Id.String() == "2.5.29.28" {
				found = e
			}
		}
		var d distribution
		if rest, err := asn1.Unmarshal(found.Value, &d); err != nil || len(rest) > 0 || !found.Critical {
			t.Fatalf("%s: %x critical %v: %v", tt.name, found.Value, found.Critical, err)
		}
		if len(d.Point.FullName) != 1 || string(d.Point.FullName[0].Bytes) != tt.url || d.Point.FullName[0].Tag != 6 || d.CAsOnly != tt.caOnly {
			t.Errorf("%s: %+v", tt.name, d)
		}
	}
	whole, err := SignCRL(iss, testCRL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(whole, extIDP) {
		t.Error("a CRL for everything has an issuing distribution point")
	}
}

func TestCRLThatIsRefused(t *testing.T) {
	iss := testIssuer(t, profile.P256)
	good := AppendCRLEntry(nil, []byte{1}, testNow, 1)
	tests := []struct {
		name    string
		change  func(*CRL)
		entries []byte
	}{
		{"entry cut short", nil, good[:len(good)-1]},
		{"not an entry", nil, []byte{0x31, 0}},
		{"long length", nil, []byte{0x30, 0x81, 0x80}},
		{"one octet", nil, []byte{0x30}},
		{"no nextUpdate", func(c *CRL) { c.NextUpdate = time.Time{} }, good},
		{"nextUpdate before thisUpdate", func(c *CRL) { c.NextUpdate = c.ThisUpdate.Add(-time.Second) }, good},
		{"fraction of a second", func(c *CRL) { c.ThisUpdate = c.ThisUpdate.Add(1) }, good},
		{"shard outside", func(c *CRL) { c.Shard, c.Shards = 4, 4 }, good},
		{"negative shard", func(c *CRL) { c.Shard, c.Shards = -1, 4 }, good},
	}
	for _, tt := range tests {
		c := testCRL()
		if tt.change != nil {
			tt.change(&c)
		}
		if der, err := SignCRL(iss, c, [][]byte{good, tt.entries}); err == nil || der != nil {
			t.Errorf("%s is signed", tt.name)
		}
	}
}

func TestFaultyCRLIsNotReleased(t *testing.T) {
	iss := testIssuer(t, profile.Ed25519)
	entries := [][]byte{AppendCRLEntry(nil, testSerial(), testNow, 1), AppendCRLEntry(nil, testSerial(), testNow, 0)}
	der, err := SignCRL(iss, testCRL(), entries)
	if err != nil {
		t.Fatal(err)
	}
	tbs, _, _, _, err := open(der)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range 8 * len(tbs) {
		iss.Key = &tamperingKey{testKey(t, profile.Ed25519), bit}
		if got, err := SignCRL(iss, testCRL(), entries); !fault.Has(err, fault.SignatureFault) || got != nil {
			t.Errorf("a signer changed octet %d of a CRL unseen", bit/8)
		}
	}
}

func TestCRLOfAMillion(t *testing.T) {
	needs.Time(t)
	iss := testIssuer(t, profile.P256)
	der, err := SignCRL(iss, testCRL(), manyEntries(1_000_000))
	if err != nil {
		t.Fatal(err)
	}
	if list := parseCRL(t, iss, der); len(list.RevokedCertificateEntries) != 1_000_000 {
		t.Errorf("%d entries", len(list.RevokedCertificateEntries))
	}
}

func testResponder(t testing.TB, kt profile.KeyType) (*Issuer, *OCSPResponder) {
	t.Helper()
	iss := testIssuer(t, profile.P384)
	c := compiled(t, preset(t, "ocsp-responder"), iss)
	key := testKey(t, kt)
	der := issue(t, c, input(t, c, mustSPKI(t, key.Public())))
	r, err := NewOCSPResponder(OCSPResponderConfig{Certificate: der, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return iss, r
}

func TestOCSPAnswers(t *testing.T) {
	for _, kt := range authorityTypes {
		iss, r := testResponder(t, kt)
		parent := parseCertificate(t, iss.Certificate)
		for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			for _, a := range []OCSPAnswer{
				{Status: OCSPGood, NextUpdate: testNow.Add(time.Hour)},
				{Status: OCSPUnknown},
				{Status: OCSPRevoked, RevokedAt: testNow.Add(-time.Hour), NextUpdate: testNow.Add(time.Hour)},
				{Status: OCSPRevoked, RevokedAt: moment(t, "1999-01-01T00:00:00Z"), Reason: ReasonKeyCompromise},
			} {
				a.ThisUpdate = testNow.Add(-time.Minute)
				certSerial := testSerial()
				var err error
				if a.CertID, err = CertID(hash, parent.RawSubject, parent.RawSubjectPublicKeyInfo, certSerial); err != nil {
					t.Fatal(err)
				}
				nonce := []byte("0123456789abcdef0123456789abcdef")
				der, err := r.Sign(testNow, []OCSPAnswer{a}, nonce)
				if err != nil {
					t.Fatal(err)
				}
				checkOCSP(t, der, a, certSerial, parent, nonce)
			}
		}
	}
}

func checkOCSP(t *testing.T, der []byte, a OCSPAnswer, certSerial []byte, parent *x509.Certificate, nonce []byte) {
	t.Helper()
	got, err := ocsp.ParseResponse(der, parent)
	if err != nil {
		// x/crypto/ocsp knows no Ed25519; OpenSSL's test covers it.
		if bytes.Contains(der, pureEd25519.id) {
			return
		}
		t.Fatal(err)
	}
	if got.Status != int(a.Status) || !bytes.Equal(got.SerialNumber.FillBytes(make([]byte, len(certSerial))), certSerial) ||
		!got.ProducedAt.Equal(testNow) || !got.ThisUpdate.Equal(a.ThisUpdate) || !got.NextUpdate.Equal(a.NextUpdate) {
		t.Errorf("answer %+v reads as %+v", a, got)
	}
	if a.Status == OCSPRevoked && (!got.RevokedAt.Equal(a.RevokedAt) || got.RevocationReason != a.Reason) {
		t.Errorf("revocation %+v reads as %s, %d", a, got.RevokedAt, got.RevocationReason)
	}
	if !bytes.Contains(der, append([]byte{tagOctetString, 34, tagOctetString, 32}, nonce...)) {
		t.Error("the nonce is not doubly wrapped")
	}
}

func TestOCSPManyAnswersAndNoNonce(t *testing.T) {
	iss, r := testResponder(t, profile.P256)
	parent := parseCertificate(t, iss.Certificate)
	var answers []OCSPAnswer
	var serials [][]byte
	for range 20 {
		serials = append(serials, testSerial())
		id, err := CertID(crypto.SHA256, parent.RawSubject, parent.RawSubjectPublicKeyInfo, serials[len(serials)-1])
		if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, OCSPAnswer{CertID: id, ThisUpdate: testNow})
	}
	der, err := r.Sign(testNow, answers, nil)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(der, oidOCSPNonce) {
		t.Error("there is a nonce that nobody asked for")
	}
	for _, s := range serials {
		if _, err := ocsp.ParseResponseForCert(der, &x509.Certificate{SerialNumber: new(big.Int).SetBytes(s)}, parent); err != nil {
			t.Errorf("%x: %v", s, err)
		}
	}
}

func TestFaultyOCSPAnswerIsNotReleased(t *testing.T) {
	iss, r := testResponder(t, profile.Ed25519)
	parent := parseCertificate(t, iss.Certificate)
	id, err := CertID(crypto.SHA1, parent.RawSubject, parent.RawSubjectPublicKeyInfo, testSerial())
	if err != nil {
		t.Fatal(err)
	}
	answers := []OCSPAnswer{{CertID: id, Status: OCSPRevoked, RevokedAt: testNow, Reason: 1, ThisUpdate: testNow, NextUpdate: testNow.Add(time.Hour)}}
	good := r.key
	for bit := range 8 * 190 {
		r.key = &tamperingKey{testKey(t, profile.Ed25519), bit}
		if der, err := r.Sign(testNow, answers, []byte("nonce")); !fault.Has(err, fault.SignatureFault) || der != nil {
			t.Errorf("a signer changed octet %d of an answer unseen", bit/8)
		}
	}
	r.key = good
	for name, change := range map[string]func(*OCSPAnswer){
		"no CertID":          func(a *OCSPAnswer) { a.CertID = nil },
		"CertID and more":    func(a *OCSPAnswer) { a.CertID = append(bytes.Clone(a.CertID), 0) },
		"no thisUpdate":      func(a *OCSPAnswer) { a.ThisUpdate = time.Time{} },
		"next before this":   func(a *OCSPAnswer) { a.NextUpdate = a.ThisUpdate.Add(-time.Second) },
		"reason 7":           func(a *OCSPAnswer) { a.Reason = 7 },
		"no revocation time": func(a *OCSPAnswer) { a.RevokedAt = time.Time{} },
		"status 3":           func(a *OCSPAnswer) { a.Status = 3 },
	} {
		a := answers[0]
		change(&a)
		if _, err := r.Sign(testNow, []OCSPAnswer{a}, nil); err == nil {
			t.Errorf("%s is signed", name)
		}
	}
	if _, err := r.Sign(testNow, nil, nil); err == nil {
		t.Error("no answer is signed")
	}
}

func TestResponderNeedsItsCertificate(t *testing.T) {
	iss := testIssuer(t, profile.P256)
	key := testKey(t, profile.P384)
	c := compiled(t, preset(t, "station"), iss)
	station := issue(t, c, input(t, c, mustSPKI(t, key.Public())))
	tests := []struct {
		name string
		cert []byte
		code fault.Code
	}{
		{"no OCSPSigning", station, fault.ChainUsage},
		{"another key", iss.Certificate, fault.AuthorityMismatch},
		{"nothing", nil, fault.CertificateInvalid},
	}
	for _, tt := range tests {
		if _, err := NewOCSPResponder(OCSPResponderConfig{Certificate: tt.cert, Key: key}); !fault.Has(err, tt.code) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

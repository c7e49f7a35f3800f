package issuing

import (
	"bytes"
	"crypto/x509"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// TestAnyValueIsWrittenOrRefused: whatever the register holds, a certificate
// either says exactly that or is not made.
func TestAnyValueIsWrittenOrRefused(t *testing.T) {
	iss := testIssuer(t, profile.Ed25519)
	p := parse(t, `
name: any
kind: ldevid
purpose: test
keys: [p256]
validity: {days: 1, backdate: 0s}
subject:
  - {attribute: organizationName, from: organization, optional: true}
  - {attribute: commonName, from: deviceSerial}
  - {attribute: serialNumber, from: deviceSerial, optional: true}
subjectAltName:
  - {type: dNSName, from: hosts, optional: true}
  - {type: iPAddress, from: hosts, optional: true}
  - {type: hardwareModuleName, hardwareType: 1.3.6.1.4.1.32473.1, from: hardwareSerial, optional: true}
keyUsage: [digitalSignature]
`)
	c := compiled(t, p, iss)
	spki := sampleKey(t, profile.P256)
	host := rapid.OneOf(rapid.StringMatching(`[a-z0-9.*-]{0,70}`), rapid.StringMatching(`[0-9]{1,3}(\.[0-9]{1,3}){3}`), rapid.StringMatching(`[0-9a-f:]{2,12}`), rapid.String())
	rapid.Check(t, func(rt *rapid.T) {
		serial := rapid.SliceOfN(rapid.Byte(), 1, 21).Draw(rt, "serial")
		notBefore := testNow.Add(time.Duration(rapid.IntRange(0, 29*365*86400).Draw(rt, "second")) * time.Second)
		in := Input{
			CertSerial: serial, NotBefore: notBefore, NotAfter: notBefore.Add(24*time.Hour - time.Second), SPKI: spki,
			Values: profile.Values{
				Organization: rapid.String().Draw(rt, "organization"), DeviceSerial: rapid.OneOf(rapid.String(), rapid.StringMatching(`[ -~]{1,70}`)).Draw(rt, "device"),
				HardwareSerial: rapid.String().Draw(rt, "hardware"), Hosts: rapid.SliceOfN(host, 0, 4).Draw(rt, "hosts"),
			},
		}
		der, err := c.Issue(in)
		if err != nil {
			if fault.Has(err, fault.SignatureFault) {
				rt.Fatalf("encoder and comparison disagree: %v", err)
			}
			return
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			rt.Fatalf("%v: %x", err, der)
		}
		if !bytes.Equal(cert.SerialNumber.Bytes(), bytes.TrimLeft(serial, "\x00")) || !cert.NotBefore.Equal(in.NotBefore) || !cert.NotAfter.Equal(in.NotAfter) {
			rt.Fatalf("serial or validity differ: %x", der)
		}
		if cert.Subject.CommonName != in.Values.DeviceSerial || cert.Subject.SerialNumber != in.Values.DeviceSerial {
			rt.Fatalf("subject differs: %s", cert.Subject)
		}
		if o := strings.Join(cert.Subject.Organization, ""); o != in.Values.Organization {
			rt.Fatalf("organization differs: %q", o)
		}
		if len(cert.DNSNames)+len(cert.IPAddresses) != len(in.Values.Hosts) {
			rt.Fatalf("hosts differ: %v %v", cert.DNSNames, cert.IPAddresses)
		}
	})
}

func TestSubjectAndSANAreTheCertificates(t *testing.T) {
	iss := testIssuer(t, profile.P256)
	for _, name := range profile.Presets() {
		p := preset(t, name)
		if p.Kind == profile.KindRoot || p.Issuer == "root" {
			continue
		}
		c := compiled(t, p, iss)
		in := input(t, c, sampleKey(t, profile.P256))
		der := issue(t, c, in)
		subject, err := c.Subject(in.Values)
		if err != nil {
			t.Fatal(err)
		}
		san, err := c.SAN(in.Values)
		if err != nil {
			t.Fatal(err)
		}
		cert := parseCertificate(t, der)
		if !bytes.Equal(cert.RawSubject, subject) {
			t.Errorf("%s: subject %x", name, subject)
		}
		var got []byte
		for _, e := range cert.Extensions {
			if e.Id.String() == "2.5.29.17" {
				got = e.Value
			}
		}
		if !bytes.Equal(got, san) {
			t.Errorf("%s: SAN %x, certificate %x", name, san, got)
		}
	}
}

func TestMissingValuesAreRefused(t *testing.T) {
	iss := testIssuer(t, profile.P256)
	tests := []struct {
		name, preset string
		change       func(*profile.Values)
	}{
		{"no device serial", "idevid", func(v *profile.Values) { v.DeviceSerial = "" }},
		{"serial that is not printable", "idevid", func(v *profile.Values) { v.DeviceSerial = "SN_1" }},
		{"serial of 65 characters", "ldevid-cloud", func(v *profile.Values) { v.DeviceSerial = strings.Repeat("1", 65) }},
		{"control character", "ldevid-cloud", func(v *profile.Values) { v.DeviceSerial = "a\x00b" }},
		{"line break", "ldevid-cloud", func(v *profile.Values) { v.Organization = "Acme\n" }},
		{"bad UTF-8", "ldevid-cloud", func(v *profile.Values) { v.Organization = "Acme\xff" }},
		{"too short for the fixed form", "atecc", func(v *profile.Values) { v.DeviceSerial = "123456789" }},
		{"too long for the fixed form", "atecc", func(v *profile.Values) { v.DeviceSerial = "12345678901" }},
		{"no host", "tls-server", func(v *profile.Values) { v.Hosts = nil }},
		{"host with a slash", "tls-server", func(v *profile.Values) { v.Hosts = []string{"a/b"} }},
		{"empty host", "tls-server", func(v *profile.Values) { v.Hosts = []string{""} }},
		{"zone in an address", "tls-server", func(v *profile.Values) { v.Hosts = []string{"fe80::1%eth0"} }},
		{"hardware type is no OID", "idevid", func(v *profile.Values) { v.HardwareType = "x" }},
		{"mail without a domain", "operator", func(v *profile.Values) { v.Email = "me" }},
	}
	for _, tt := range tests {
		c := compiled(t, preset(t, tt.preset), iss)
		in := input(t, c, sampleKey(t, profile.P256))
		if _, err := c.Issue(in); err != nil {
			t.Fatalf("%s: before the change: %v", tt.name, err)
		}
		tt.change(&in.Values)
		if _, err := c.Issue(in); !fault.Has(err, fault.ProfileValue) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestFixedFormHasOneLength(t *testing.T) {
	iss := testIssuer(t, profile.P256)
	c := compiled(t, preset(t, "atecc"), iss)
	var first []byte
	for _, device := range []string{"ABCDEFGHIJ", "0123456789", "          "} {
		in := input(t, c, sampleKey(t, profile.P256))
		in.Values.DeviceSerial = device
		in.Values.HardwareType = "1.3.6.1.4.1.99999.1.2.3.4"
		cert := parseCertificate(t, issue(t, c, in))
		tbs := cert.RawTBSCertificate
		if first == nil {
			first = tbs
		}
		if len(tbs) != len(first) {
			t.Errorf("%q gives %d octets, not %d", device, len(tbs), len(first))
		}
		if cert.NotBefore.Minute() != 0 || cert.NotBefore.Second() != 0 || !cert.NotAfter.Equal(cert.NotBefore.AddDate(25, 0, 0)) {
			t.Errorf("validity %s to %s", cert.NotBefore, cert.NotAfter)
		}
	}
}

// TestFixedFormHasOneStringType: one letter outside PrintableString would turn
// the attribute into a UTF8String, with another tag at a fixed place.
func TestFixedFormHasOneStringType(t *testing.T) {
	text, _ := profile.Preset("atecc")
	p := parse(t, strings.Replace(string(text), "subjectAltName:", "  - {attribute: commonName, from: product, length: 4}\nsubjectAltName:", 1))
	c := compiled(t, p, testIssuer(t, profile.P256))
	for product, ok := range map[string]bool{"AB-1": true, "AB_1": false, "AB\u00e9": false} {
		in := input(t, c, sampleKey(t, profile.P256))
		in.Values.Product = product
		if _, err := c.Issue(in); (err == nil) != ok || err != nil && !fault.Has(err, fault.ProfileValue) {
			t.Errorf("%q: %v", product, err)
		}
	}
}

func TestHardwareTypeOfTheRegisterGoesFirst(t *testing.T) {
	c := compiled(t, preset(t, "idevid"), testIssuer(t, profile.P256))
	in := input(t, c, sampleKey(t, profile.P256))
	in.Values.HardwareType = "2.23.133.1.2"
	if der := issue(t, c, in); !bytes.Contains(der, []byte{6, 5, 0x67, 0x81, 5, 1, 2}) {
		t.Error("the certificate does not have the register's hardware type")
	}
}

func TestConcurrentIssue(t *testing.T) {
	iss := testIssuer(t, profile.P256)
	c := compiled(t, parse(t, everything), iss)
	parent := parseCertificate(t, iss.Certificate)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				in := input(t, c, sampleKey(t, profile.P384))
				der, err := c.Issue(in)
				if err != nil {
					t.Error(err)
					return
				}
				cert, err := x509.ParseCertificate(der)
				if err != nil || cert.CheckSignatureFrom(parent) != nil || !bytes.Equal(cert.SerialNumber.Bytes(), in.CertSerial) {
					t.Errorf("certificate of another caller, or broken: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

func TestAuthoritiesThatCannotIssue(t *testing.T) {
	iss := testIssuer(t, profile.P256)
	c := compiled(t, preset(t, "station"), iss)
	key := testKey(t, profile.P384)
	leaf := issue(t, c, input(t, c, mustSPKI(t, key.Public())))
	with := func(change func(*Issuer)) *Issuer {
		other := *iss
		change(&other)
		return &other
	}
	tests := []struct {
		name, preset string
		iss          *Issuer
		code         fault.Code
	}{
		{"a leaf", "station", with(func(i *Issuer) { i.Certificate, i.Key = leaf, key }), fault.AuthorityInvalid},
		{"another key", "station", with(func(i *Issuer) { i.Key = key }), fault.AuthorityMismatch},
		{"no certificate", "station", with(func(i *Issuer) { i.Certificate = nil }), fault.AuthorityInvalid},
		{"a broken certificate", "station", with(func(i *Issuer) { i.Certificate = leaf[:20] }), fault.CertificateInvalid},
		{"an authority under one with path length 0", "issuing", iss, fault.AuthorityInvalid},
		{"a root under an authority", "root", iss, fault.AuthorityInvalid},
		{"a status URL that nobody reaches", "station", with(func(i *Issuer) { i.StatusURL = "http://localhost:8080" }), fault.StatusURL},
	}
	for _, tt := range tests {
		if _, err := New(preset(t, tt.preset), tt.iss); !fault.Has(err, tt.code) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if _, err := New(preset(t, "station"), with(func(i *Issuer) { i.Key = nil })); err == nil {
		t.Error("no key")
	}
	if _, err := New(preset(t, "station"), with(func(i *Issuer) { i.StatusURL, i.Quickstart = "http://localhost:8080", true })); err != nil {
		t.Errorf("quickstart: %v", err)
	}
}

func TestNameConstraintsOfTheIssuerHold(t *testing.T) {
	root := testRoot(t, profile.P256)
	rc := compiled(t, parse(t, constrained), root)
	key := testKey(t, profile.P256)
	iss := &Issuer{Name: "limited", Certificate: issue(t, rc, input(t, rc, mustSPKI(t, key.Public()))), Key: key, StatusURL: testURL}
	c := compiled(t, preset(t, "tls-server"), iss)
	for host, ok := range map[string]bool{
		"a.example.com": true, "example.com": true, "10.1.1.1": true,
		"a.example.org": false, "x.bad.example.com": false, "10.9.0.1": false, "192.0.2.1": false,
	} {
		in := input(t, c, sampleKey(t, profile.P256))
		in.Values.Hosts = []string{host}
		if _, err := c.Issue(in); (err == nil) != ok || err != nil && !fault.Has(err, fault.ProfileValue) {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestNoStatusURLNoAddresses(t *testing.T) {
	iss := testIssuer(t, profile.P256)
	iss.StatusURL = ""
	c := compiled(t, preset(t, "ldevid-cloud"), iss)
	cert := parseCertificate(t, issue(t, c, input(t, c, sampleKey(t, profile.P256))))
	if len(cert.OCSPServer)+len(cert.IssuingCertificateURL)+len(cert.CRLDistributionPoints) > 0 {
		t.Error("the certificate has addresses of nowhere")
	}
}

func TestCRLShardIsInTheCertificate(t *testing.T) {
	iss := testIssuer(t, profile.P256)
	c := compiled(t, parse(t, strings.Replace(shardedProfile, "SHARDS", "256", 1)), iss)
	for range 50 {
		in := input(t, c, sampleKey(t, profile.P256))
		cert := parseCertificate(t, issue(t, c, in))
		want := CRLURL(testURL, "issuing", Shard(cert.SerialNumber.Bytes(), 256))
		if len(cert.CRLDistributionPoints) != 1 || cert.CRLDistributionPoints[0] != want {
			t.Errorf("%v, want %s", cert.CRLDistributionPoints, want)
		}
	}
}

func TestSelfSignTakesNoOtherKey(t *testing.T) {
	p := preset(t, "root")
	in := Input{CertSerial: []byte{1}, Values: profile.Values{CommonName: "R"}, SPKI: sampleKey(t, profile.P256)}
	in.NotBefore, in.NotAfter = SelfValidity(p, testNow)
	if _, err := SelfSign(p, testKey(t, profile.P256), in); !fault.Has(err, fault.AuthorityMismatch) {
		t.Errorf("another key: %v", err)
	}
	if _, err := SelfSign(preset(t, "idevid"), testKey(t, profile.P256), in); !fault.Has(err, fault.AuthorityInvalid) {
		t.Errorf("a device signs itself: %v", err)
	}
}

func TestFillAllocatesLittle(t *testing.T) {
	c := compiled(t, preset(t, "idevid"), testIssuer(t, profile.P256))
	in := input(t, c, sampleKey(t, profile.P256))
	l, err := c.layoutFor(in.SPKI)
	if err != nil {
		t.Fatal(err)
	}
	der := issue(t, c, in)
	if n := testing.AllocsPerRun(100, func() {
		_, _ = c.tbs(l, &in)
		_ = c.compare(der, l, &in)
	}); n > 3 {
		t.Errorf("%.0f allocations besides the cryptography", n)
	}
}

func TestUintEncoding(t *testing.T) {
	for v, want := range map[uint64]string{
		0: "\x02\x01\x00", 127: "\x02\x01\x7f", 128: "\x02\x02\x00\x80", 255: "\x02\x02\x00\xff", 256: "\x02\x02\x01\x00",
		1 << 32: "\x02\x05\x01\x00\x00\x00\x00", 1<<63 - 1: "\x02\x08\x7f\xff\xff\xff\xff\xff\xff\xff",
		1 << 63: "\x02\x09\x00\x80\x00\x00\x00\x00\x00\x00\x00", 1<<64 - 1: "\x02\x09\x00\xff\xff\xff\xff\xff\xff\xff\xff",
	} {
		if got := appendUint(nil, v); string(got) != want {
			t.Errorf("%d is %x", v, got)
		}
	}
	for _, n := range []int{0, 127, 128, 255, 256, 65535, 65536, 1<<24 - 1, 1 << 24} {
		got := appendHeader(nil, tagOctetString, n)
		if len(got) != headerLen(n) {
			t.Errorf("header of %d has %d octets", n, len(got))
		}
		content := bytes.Repeat([]byte{7}, n)
		if !bytes.Equal(wrap(append([]byte{1}, content...), 1, tagOctetString), append(append([]byte{1}, got...), content...)) {
			t.Errorf("wrapping %d octets", n)
		}
	}
}

package issuing

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

func moment(t testing.TB, s string) time.Time {
	t.Helper()
	m, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func withValidity(t testing.TB, validity string) *profile.Profile {
	t.Helper()
	return parse(t, `
name: timed
kind: ldevid
purpose: test
keys: [p256]
validity: {`+validity+`}
subject: [{attribute: commonName, from: deviceSerial}]
keyUsage: [digitalSignature]
`)
}

func TestValidity(t *testing.T) {
	tests := []struct {
		validity, now, notBefore, notAfter string
	}{
		{"days: 1, backdate: 0s", "2026-09-01T12:00:00Z", "2026-09-01T12:00:00Z", "2026-09-02T11:59:59Z"},
		{"days: 1", "2026-09-01T12:00:00Z", "2026-09-01T11:55:00Z", "2026-09-02T11:54:59Z"},
		{"days: 1, backdate: 0s", "2026-09-01T12:00:00.999999999Z", "2026-09-01T12:00:00Z", "2026-09-02T11:59:59Z"},
		{"days: 1, backdate: 0s", "2026-09-01T14:00:00+02:00", "2026-09-01T12:00:00Z", "2026-09-02T11:59:59Z"},
		{"hours: 1, backdate: 1s", "2026-09-01T12:00:00Z", "2026-09-01T11:59:59Z", "2026-09-01T12:59:58Z"},
		{"years: 1, backdate: 0s", "2028-02-29T00:00:00Z", "2028-02-29T00:00:00Z", "2029-02-28T23:59:59Z"},
		{"years: 4, backdate: 0s", "2028-02-29T00:00:00Z", "2028-02-29T00:00:00Z", "2032-02-28T23:59:59Z"},
		{"years: 1, backdate: 0s", "2027-02-28T23:59:59Z", "2027-02-28T23:59:59Z", "2028-02-28T23:59:58Z"},
		{"years: 1, backdate: 0s", "2027-12-31T23:59:60Z", "2028-01-01T00:00:00Z", "2028-12-31T23:59:59Z"},
		{"years: 24, backdate: 0s", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "2049-12-31T23:59:59Z"},
		{"years: 24, backdate: 0s", "2026-01-01T00:00:01Z", "2026-01-01T00:00:01Z", "2050-01-01T00:00:00Z"},
		{"noExpiry: true, backdate: 0s", "2026-01-01T00:00:01Z", "2026-01-01T00:00:01Z", "9999-12-31T23:59:59Z"},
		{"years: 10, alignHour: true, wholeYears: true", "2026-09-01T12:34:56Z", "2026-09-01T12:00:00Z", "2036-09-01T12:00:00Z"},
		{"years: 10, alignHour: true, wholeYears: true", "2026-09-01T12:04:59Z", "2026-09-01T11:00:00Z", "2036-09-01T11:00:00Z"},
		{"years: 1, alignHour: true, wholeYears: true", "2028-02-29T12:34:56Z", "2028-02-28T23:00:00Z", "2029-02-28T23:00:00Z"},
		{"years: 4, alignHour: true, wholeYears: true", "2028-02-29T12:34:56Z", "2028-02-29T12:00:00Z", "2032-02-29T12:00:00Z"},
		{"years: 1, alignHour: true, wholeYears: true", "2028-03-01T00:02:00Z", "2028-02-28T23:00:00Z", "2029-02-28T23:00:00Z"},
		{"noExpiry: true, alignHour: true, wholeYears: true", "2028-02-29T12:34:56Z", "2028-02-29T12:00:00Z", "9999-12-31T23:59:59Z"},
	}
	iss := testIssuer(t, profile.P256)
	back := moment(t, "2020-01-01T00:00:00Z")
	for _, tt := range tests {
		// Validity alone is under test, so New, which also lints, is not needed.
		c, err := compile(withValidity(t, tt.validity), iss)
		if err != nil {
			t.Fatal(err)
		}
		c.authority.notBefore, c.authority.notAfter = back, noExpiry
		nb, na, err := c.Validity(parseLenient(t, tt.now))
		if err != nil {
			t.Errorf("%s at %s: %v", tt.validity, tt.now, err)
			continue
		}
		if !nb.Equal(moment(t, tt.notBefore)) || !na.Equal(moment(t, tt.notAfter)) {
			t.Errorf("%s at %s: %s to %s, want %s to %s", tt.validity, tt.now, stamp(nb), stamp(na), tt.notBefore, tt.notAfter)
		}
		// What Validity gives is issued, and shows in the certificate to the second.
		in := input(t, c, sampleKey(t, profile.P256))
		in.NotBefore, in.NotAfter = nb, na
		cert := parseCertificate(t, issue(t, c, in))
		if !cert.NotBefore.Equal(nb) || !cert.NotAfter.Equal(na) {
			t.Errorf("%s: certificate says %s to %s", tt.validity, stamp(cert.NotBefore), stamp(cert.NotAfter))
		}
		for _, d := range []time.Duration{-time.Second, time.Second, time.Nanosecond} {
			off := in
			off.NotAfter = na.Add(d)
			if _, err := c.Issue(off); err == nil {
				t.Errorf("%s: issued with notAfter off by %s", tt.validity, d)
			}
			off = in
			off.NotBefore = nb.Add(d)
			if c.profile.Validity.NoExpiry && d%time.Second == 0 && !c.profile.Validity.AlignHour {
				continue // without an end every whole second is a fine start
			}
			if _, err := c.Issue(off); err == nil {
				t.Errorf("%s: issued with notBefore off by %s", tt.validity, d)
			}
		}
	}
}

// parseLenient understands a leap second, which time.Parse does not.
func parseLenient(t *testing.T, s string) time.Time {
	if before, after, ok := strings.Cut(s, ":60Z"); ok && after == "" {
		return moment(t, before+":59Z").Add(time.Second)
	}
	return moment(t, s)
}

func TestValidityWithinIssuer(t *testing.T) {
	iss := testIssuer(t, profile.P256)
	at := func(validity string) *Compiled {
		c, err := compile(withValidity(t, validity), iss)
		if err != nil {
			t.Fatal(err)
		}
		c.authority.notBefore = moment(t, "2026-09-01T11:57:00Z")
		c.authority.notAfter = moment(t, "2027-09-01T11:56:59Z")
		return c
	}
	tests := []struct {
		name, validity, now string
		notBefore, notAfter string // empty: refused
	}{
		{"never before the issuer", "days: 1", "2026-09-01T12:00:00Z", "2026-09-01T11:57:00Z", "2026-09-02T11:56:59Z"},
		{"ends with the issuer, to the second", "days: 365, backdate: 0s", "2026-09-01T11:57:00Z", "2026-09-01T11:57:00Z", "2027-09-01T11:56:59Z"},
		{"one second too long", "days: 365, backdate: 0s", "2026-09-01T11:57:01Z", "", ""},
		{"one second too long, shortened", "days: 365, backdate: 0s, shorten: true", "2026-09-01T11:57:01Z", "2026-09-01T11:57:01Z", "2027-09-01T11:56:59Z"},
		{"last second", "days: 1, backdate: 5m, shorten: true", "2027-09-01T11:56:59Z", "2027-09-01T11:51:59Z", "2027-09-01T11:56:59Z"},
		{"issuer expired", "days: 1, shorten: true", "2027-09-01T11:57:00Z", "", ""},
		{"issuer not yet valid", "days: 1", "2026-09-01T11:56:59Z", "", ""},
		{"no expiry outlives the issuer", "noExpiry: true", "2026-09-01T12:30:00Z", "2026-09-01T12:25:00Z", "9999-12-31T23:59:59Z"},
		{"aligned before the issuer", "hours: 1, alignHour: true", "2026-09-01T12:00:00Z", "", ""},
		{"aligned", "hours: 1, alignHour: true", "2026-09-01T12:05:00Z", "2026-09-01T12:00:00Z", "2026-09-01T12:59:59Z"},
	}
	for _, tt := range tests {
		c := at(tt.validity)
		nb, na, err := c.Validity(moment(t, tt.now))
		if tt.notBefore == "" {
			if !fault.Has(err, fault.ValidityOutside) {
				t.Errorf("%s: %s to %s, %v", tt.name, stamp(nb), stamp(na), err)
			}
			continue
		}
		if err != nil || !nb.Equal(moment(t, tt.notBefore)) || !na.Equal(moment(t, tt.notAfter)) {
			t.Errorf("%s: %s to %s, %v", tt.name, stamp(nb), stamp(na), err)
		}
	}
	c := at("days: 1, backdate: 0s")
	in := input(t, c, sampleKey(t, profile.P256))
	in.NotBefore = c.authority.notBefore.Add(-time.Second)
	in.NotAfter = in.NotBefore.Add(24*time.Hour - time.Second)
	if _, err := c.Issue(in); !fault.Has(err, fault.ValidityOutside) {
		t.Errorf("issued from one second before the issuer: %v", err)
	}
	in.NotAfter = c.authority.notAfter.Add(time.Second)
	in.NotBefore = in.NotAfter.Add(-24*time.Hour + time.Second)
	if _, err := c.Issue(in); !fault.Has(err, fault.ValidityOutside) {
		t.Errorf("issued until one second after the issuer: %v", err)
	}
}

func TestTimeEncodings(t *testing.T) {
	tests := []struct{ at, tlv string }{
		{"1950-01-01T00:00:00Z", "\x17\x0d500101000000Z"},
		{"1999-12-31T23:59:59Z", "\x17\x0d991231235959Z"},
		{"2000-01-01T00:00:00Z", "\x17\x0d000101000000Z"},
		{"2028-02-29T12:34:56Z", "\x17\x0d280229123456Z"},
		{"2049-12-31T23:59:59Z", "\x17\x0d491231235959Z"},
		{"2050-01-01T00:00:00Z", "\x18\x0f20500101000000Z"},
		{"2099-12-31T23:59:59Z", "\x18\x0f20991231235959Z"},
		{"9999-12-31T23:59:59Z", "\x18\x0f99991231235959Z"},
	}
	for _, tt := range tests {
		got := appendTime(nil, moment(t, tt.at))
		if string(got) != tt.tlv {
			t.Errorf("%s: %q", tt.at, got)
		}
		in := cryptobyte.String(got)
		if back, err := readTime(&in); err != nil || !back.Equal(moment(t, tt.at)) {
			t.Errorf("%q reads as %s, %v", got, back, err)
		}
	}
	for _, bad := range []string{
		"\x17\x0d260229000000Z", "\x17\x0d261301000000Z", "\x17\x0d260101240000Z", "\x17\x0d260101006000Z", "\x17\x0d260101000060Z",
		"\x17\x0d26010100000 Z", "\x17\x0b2601010000Z", "\x17\x0d2601010000000", "\x18\x0d260101000000Z", "\x17\x0f20260101000000Z",
		"\x18\x1120260101000000.5Z", "\x18\x1120260101000000000Z", "\x17\x00", "\x04\x0d260101000000Z", "\x17\x0d260100000000Z",
	} {
		in := cryptobyte.String(bad)
		if got, err := readTime(&in); err == nil {
			t.Errorf("%q reads as %s", bad, got)
		}
	}
	if !bytes.Equal(appendGeneralized(nil, moment(t, "2026-01-02T03:04:05Z")), []byte("\x18\x0f20260102030405Z")) {
		t.Error("GeneralizedTime of an early year")
	}
}

package lint

import (
	"slices"
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/pki/profile"
)

// leafProfile is what leaf() was made from, authorityProfile what authority()
// was.
const (
	leafProfile = `
name: leaf
kind: ldevid
purpose: test
keys: [p256]
validity: {days: 365}
subject:
  - {attribute: organizationName, from: organization, optional: true}
  - {attribute: commonName, from: deviceSerial, prefix: SN-}
subjectAltName: [{type: dNSName, from: hosts}]
keyUsage: [digitalSignature]
extendedKeyUsage: [clientAuth]
status: {caIssuers: false}
`
	authorityProfile = `
name: authority
kind: issuing
keys: [p256]
validity: {days: 365}
subject: [{attribute: commonName, from: commonName}]
keyUsage: [keyCertSign, cRLSign]
pathLen: 0
`
)

func parseProfile(t *testing.T, text string) *profile.Profile {
	t.Helper()
	p, err := profile.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// departure is a certificate, or a profile, changed so that a rule must see it.
type departure struct {
	rule     string
	from     func() *parts
	do       func(*parts)
	old, new string // change of the profile's text
}

var departures = []departure{
	{rule: "profile_key", from: leaf, old: "keys: [p256]", new: "keys: [p384, rsa2048]"},
	{rule: "profile_key", from: leaf, do: withKey(ecKey(oidP256, "00"))},
	{rule: "profile_authority", from: leaf, do: critical(oidBasicConstraints, seq(isTrue))},
	{rule: "profile_authority", from: authority, do: without(oidBasicConstraints)},
	{rule: "profile_path_length", from: authority, old: "pathLen: 0", new: "pathLen: 1"},
	{rule: "profile_path_length", from: authority, old: "pathLen: 0", new: "pathLen: -1"},
	{rule: "profile_path_length", from: authority, do: with(oidBasicConstraints, seq(isTrue))},
	{rule: "profile_key_usage", from: leaf, do: usage("030206c0")},
	{rule: "profile_key_usage", from: leaf, do: without(oidKeyUsage)},
	{rule: "profile_purposes", from: leaf, do: without(oidExtendedUsage)},
	{rule: "profile_purposes", from: leaf, do: with(oidExtendedUsage, seq(oid(oidClientAuth), oid(oidServerAuth)))},
	{rule: "profile_purposes_critical", from: leaf, do: func(p *parts) { p.get(oidExtendedUsage).critical = isTrue }},
	{rule: "profile_validity", from: leaf, do: times(str(utcTime, "260901120000Z"), str(utcTime, "270901120000Z"))},
	{rule: "profile_validity", from: leaf, do: times(str(utcTime, "260901120000Z"), str(utcTime, "270901115958Z"))},
	{rule: "profile_validity", from: leaf, old: "{days: 365}", new: "{days: 364, shorten: true}"},
	{rule: "profile_validity", from: leaf, old: "{days: 365}", new: "{noExpiry: true}"},
	{rule: "profile_validity", from: leaf, old: "{days: 365}", new: "{years: 2}"},
	{rule: "profile_validity", from: leaf, old: "{days: 365}", new: "{years: 1, wholeYears: true}"},
	{rule: "profile_backdate", from: leaf, old: "{days: 365}", new: "{days: 365, alignHour: true}", do: times(str(utcTime, "260901120001Z"), str(utcTime, "270901120000Z"))},
	{rule: "profile_subject", from: leaf, do: subject()},
	{rule: "profile_subject", from: leaf, do: subject(rdn(oidCommonName, printable, "X-1"))},
	{rule: "profile_subject", from: leaf, do: subject(rdn(oidCommonName, printable, "SN-1"), rdn("2.5.4.11", printable, "X"))},
	{rule: "profile_subject", from: leaf, do: subject(rdn(oidCommonName, printable, "SN-1"), rdn("2.5.4.10", printable, "X"))},
	{rule: "profile_subject", from: leaf, old: "from: deviceSerial, prefix: SN-", new: "value: other"},
	{rule: "profile_subject", from: leaf, old: "from: deviceSerial, prefix: SN-", new: "from: deviceSerial, length: 5"},
	{rule: "profile_alt_names", from: leaf, do: without(oidSubjectAltName)},
	{rule: "profile_alt_names", from: leaf, do: san(str(0x82, "a.example.com"), uri("urn:x"))},
	{rule: "profile_alt_names", from: leaf, old: "{type: dNSName, from: hosts}", new: "{type: hardwareModuleName, hardwareType: 1.2.3, from: hardwareSerial}"},
	{rule: "profile_alt_names", from: leaf, old: "{type: dNSName, from: hosts}", new: "{type: dNSName, from: commonName}", do: san(str(0x82, "a.example.com"), str(0x82, "b.example.com"))},
	{rule: "profile_policies", from: leaf, do: with(oidPolicies, seq(seq(oid("1.2.3"))))},
	{rule: "profile_constraints", from: authority, do: critical(oidNameConstraints, anyNames)},
	{rule: "profile_constraints", from: authority, old: "pathLen: 0", new: "pathLen: 0\nnameConstraints: {permitted: {dns: [a.example, b.example]}}", do: critical(oidNameConstraints, anyNames)},
	{rule: "profile_access", from: leaf, do: with(oidAuthorityInfo, seq(seq(oid(oidAccessIssuers), uri("http://pki.example.com/ca"))))},
	{rule: "profile_access", from: leaf, old: "caIssuers: false", new: "caIssuers: false, ocsp: false"},
	{rule: "profile_points", from: leaf, old: "caIssuers: false", new: "caIssuers: false, crl: false"},
	{rule: "profile_subject_key_id", from: leaf, do: without(oidSubjectKeyID)},
	{rule: "profile_no_check", from: leaf, do: with(oidNoCheck, null)},
	{rule: "profile_extensions", from: leaf, do: with("1.2.3.4", null)},
	{rule: "profile_tpm_module", from: leaf, old: "{type: dNSName, from: hosts}", new: "{type: hardwareModuleName, hardwareType: 2.23.133.1.2, from: hardwareSerial}"},
	{rule: "profile_extensions", from: leaf, old: "status:", new: "extensions: [{oid: 1.2.3.4, hex: \"0500\"}]\nstatus:"},
	{rule: "profile_extensions", from: leaf, old: "status:", new: "extensions: [{oid: 1.2.3.4, hex: \"0500\"}]\nstatus:", do: with("1.2.3.4", seq())},
}

func TestDeparturesFromAProfile(t *testing.T) {
	for i, d := range departures {
		text := leafProfile
		p := d.from()
		if p.get(oidKeyUsage).value[3] == 6 {
			text = authorityProfile
		}
		if findings := AgainstProfile(p.der(), parseProfile(t, text)); len(findings) > 0 {
			t.Fatalf("before any change: %+v", findings)
		}
		if d.old != "" && !strings.Contains(text, d.old) {
			t.Fatalf("case %d: the profile has no %q", i, d.old)
		}
		if d.do != nil {
			d.do(p)
		}
		findings := AgainstProfile(p.der(), parseProfile(t, strings.Replace(text, d.old, d.new, 1)))
		if !finds(findings, d.rule) {
			t.Errorf("case %d: %s is not found, only %+v", i, d.rule, findings)
		}
	}
	for _, r := range profileRules {
		if !slices.ContainsFunc(departures, func(d departure) bool { return d.rule == r.id }) {
			t.Errorf("nothing departs from %s", r.id)
		}
	}
}

const idevidProfile = `
name: idevid
kind: idevid
keys: [p256, rsa4096]
validity: {noExpiry: true}
subject: [{attribute: serialNumber, from: deviceSerial}]
subjectAltName: [{type: hardwareModuleName, hardwareType: 1.3.6.1.4.1.99999.1, from: hardwareSerial}]
keyUsage: [digitalSignature]
`

func hardwareModule(hwType string) []byte {
	return tlv(0xa0, oid(oidHardwareName), tlv(0xa0, seq(oid(hwType), str(4, "1"))))
}

func idevid() *parts {
	p := leaf()
	p.subject = seq(rdn(oidSerialNumber, printable, "1"))
	p.notAfter = str(longTime, "99991231235959Z")
	p.drop(oidExtendedUsage)
	san(hardwareModule("1.3.6.1.4.1.99999.1"))(p)
	return p
}

func TestInitialDeviceIdentities(t *testing.T) {
	p := parseProfile(t, idevidProfile)
	if findings := AgainstProfile(idevid().der(), p); len(findings) > 0 {
		t.Fatalf("before any change: %+v", findings)
	}
	cases := []breakage{
		{"idevid_serial_number", idevid, subject(rdn(oidCommonName, printable, "1"))},
		{"idevid_serial_number", idevid, subject(rdn(oidSerialNumber, utf8Tag, "1"))},
		{"idevid_no_expiry", idevid, times(str(utcTime, "260901120000Z"), str(utcTime, "460901120000Z"))},
		{"idevid_authority_key_id", idevid, without(oidAuthorityKeyID)},
		{"idevid_key_usage", idevid, usage("03020308")},
		{"idevid_key_usage", idevid, func(p *parts) { p.get(oidKeyUsage).critical = nil }},
		{"idevid_leaf", idevid, critical(oidBasicConstraints, seq(isTrue))},
		{"idevid_purposes", idevid, with(oidExtendedUsage, seq(oid(oidClientAuth)))},
		{"idevid_key", idevid, withKey(rsaKey(null, 4096, 65537))},
		{"idevid_hardware_module", idevid, without(oidSubjectAltName)},
		{"idevid_documentation_arc", idevid, san(hardwareModule("1.3.6.1.4.1.32473.1"))},
	}
	for i, b := range cases {
		c := b.from()
		b.do(c)
		if findings := AgainstProfile(c.der(), p); !finds(findings, b.rule) {
			t.Errorf("case %d: %s is not found, only %+v", i, b.rule, findings)
		}
	}
	for _, r := range idevidRules {
		if !slices.ContainsFunc(cases, func(b breakage) bool { return b.rule == r.id }) {
			t.Errorf("nothing breaks %s", r.id)
		}
	}
	if findings := AgainstProfile([]byte("x"), p); !finds(findings, "well_formed") {
		t.Errorf("no certificate at all: %+v", findings)
	}
}

const attestationProfile = `
name: ak
kind: attestation
keys: [p256]
validity: {days: 365}
subjectAltName:
  - {type: directoryName, directory: [{attribute: tpmManufacturer, from: tpmManufacturer}, {attribute: tpmModel, from: tpmModel}, {attribute: tpmVersion, from: tpmVersion}]}
keyUsage: [digitalSignature]
extendedKeyUsage: [tcg-kp-AIKCertificate]
`

func tpmName(tag byte, maker, model, version string) []byte {
	return tlv(0xa4, seq(rdn(oidTPMManufacturer, tag, maker), rdn(oidTPMModel, tag, model), rdn(oidTPMVersion, tag, version)))
}

func attestationKey() *parts {
	p := leaf()
	p.subject = seq()
	p.set(oidExtendedUsage, seq(oid(oidAttestationKey)))
	p.set(oidSubjectAltName, seq(tpmName(utf8Tag, "id:494E5443", "SPTx", "id:00010002"))).critical = isTrue
	p.exts = append(p.exts, ext{oidBasicConstraints, isTrue, seq()})
	return p
}

func TestAttestationKeys(t *testing.T) {
	p := parseProfile(t, attestationProfile)
	der := attestationKey().der()
	if findings := append(Certificate(der), AgainstProfile(der, p)...); len(findings) > 0 {
		t.Fatalf("before any change: %+v", findings)
	}
	cases := []breakage{
		{"attestation_subject", attestationKey, subject(rdn(oidCommonName, printable, "1"))},
		{"subject_empty_alt_name", attestationKey, func(p *parts) { p.get(oidSubjectAltName).critical = nil }},
		{"attestation_tpm", attestationKey, san(tpmName(printable, "id:494E5443", "SPTx", "id:00010002"))},
		{"attestation_tpm", attestationKey, san(tpmName(utf8Tag, "id:494E5443", "", "id:00010002"))},
		{"attestation_tpm", attestationKey, san(str(0x82, "a.example.com"))},
		{"attestation_tpm_form", attestationKey, san(tpmName(utf8Tag, "id:494e5443", "SPTx", "id:00010002"))},
		{"attestation_tpm_form", attestationKey, san(tpmName(utf8Tag, "id:494E5443", "SPTx", "1.2"))},
		{"attestation_purpose", attestationKey, with(oidExtendedUsage, seq(oid(oidClientAuth)))},
		{"attestation_leaf", attestationKey, without(oidBasicConstraints)},
		{"attestation_leaf", attestationKey, critical(oidBasicConstraints, seq(isTrue))},
		{"attestation_key_usage", attestationKey, usage("030206c0")},
		{"attestation_key_usage", attestationKey, func(p *parts) { p.get(oidKeyUsage).critical = nil }},
	}
	for i, b := range cases {
		c := b.from()
		b.do(c)
		if findings := append(Certificate(c.der()), AgainstProfile(c.der(), p)...); !finds(findings, b.rule) {
			t.Errorf("case %d: %s is not found, only %+v", i, b.rule, findings)
		}
	}
	for _, r := range attestationRules {
		if !slices.ContainsFunc(cases, func(b breakage) bool { return b.rule == r.id }) {
			t.Errorf("nothing breaks %s", r.id)
		}
	}
}

func FuzzCertificate(f *testing.F) {
	for _, p := range []*parts{leaf(), authority(), responder(), idevid(), attestationKey()} {
		f.Add(p.der())
	}
	for _, b := range breakages {
		p := b.from()
		b.do(p)
		f.Add(p.der())
	}
	var profiles []*profile.Profile
	for _, text := range []string{idevidProfile, attestationProfile} {
		p, err := profile.Parse([]byte(text))
		if err != nil {
			f.Fatal(err)
		}
		profiles = append(profiles, p)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		findings := Certificate(der)
		for _, p := range profiles {
			findings = append(findings, AgainstProfile(der, p)...)
		}
		for _, x := range findings {
			if x.Rule == "" || x.Message == "" || x.Severity == "" || x.Source == "" {
				t.Errorf("half a finding: %+v", x)
			}
		}
	})
}

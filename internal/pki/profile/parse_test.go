package profile

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
)

// base is a profile that holds; tests replace one line of it.
const base = `name: base
kind: ldevid
purpose: test
keys: [p256]
validity: {days: 30}
subject:
  - {attribute: commonName, from: deviceSerial}
subjectAltName:
  - {type: dNSName, from: hosts, optional: true}
keyUsage: [digitalSignature]
extendedKeyUsage: [clientAuth]
`

func TestDefaults(t *testing.T) {
	p, err := Parse([]byte(base))
	if err != nil {
		t.Fatal(err)
	}
	if p.RequireHardware || p.ServerKeys != ServerKeysNone {
		t.Errorf("defaults for keys: %v, %q", p.RequireHardware, p.ServerKeys)
	}
	if p.Issuer != "issuing" || p.LeastEvidence != "none" || p.CRLShards != 1 || p.OverlapDays != OverlapUntilExpiry ||
		p.Validity.Backdate != 5*time.Minute || !p.SubjectKeyID || !p.OCSP || !p.CAIssuers || !p.CRL || p.NoCheck ||
		p.RenewSameKey || p.RequireApproval || p.AcceptExpiredDays != 0 || p.PathLen != -1 || p.FixedLength {
		t.Errorf("%+v", p)
	}
}

// holds marks a change that is not refused.
const holds = "holds"

func TestRefusedProfiles(t *testing.T) {
	tests := []struct {
		old, new string // replaced in base; no old: appended
		at, what string // position, and part of the message
	}{
		{"name: base", "nome: base", "1:1", "unknown field"},
		{"", "unknown: 1\n", "12:1", "unknown field"},
		{"attribute: commonName,", "attribute: commonName, froom: x,", "7:", "unknown field"},
		{"name: base", "name: base\nname: base", "2:1", "already defined"},
		{"name: base", "name: Base", "1:7", "lower-case"},
		{"name: base", "name: a_b", "1:7", "lower-case"},
		{"name: base", "name: -a", "1:7", "lower-case"},
		{"name: base", "name: " + strings.Repeat("a", 64), "1:7", "at most 63"},
		{"kind: ldevid", "kind: device", "2:7", "must be one of"},
		{"purpose: test", "", "1:1", "needs a purpose"},
		{"purpose: test", "purpose: a/b", "3:10", "needs a purpose"},
		{"kind: ldevid", "kind: station", "3:10", "only an LDevID"},
		{"", "issuer: A B\n", "12:9", "name of an authority"},
		{"keys: [p256]", "keys: []", "4:7", "at least one key type"},
		{"keys: [p256]", "keys: [p256, dsa]", "4:14", "must be one of"},
		{"keys: [p256]", "keys: [p256, p256]", "4:14", "twice"},
		{"{days: 30}", "{}", "5:11", "exactly one"},
		{"{days: 30}", "{days: 30, years: 1}", "5:", "exactly one"},
		{"{days: 30}", "{days: -1}", "5:18", "days"},
		{"{days: 30}", "{years: 101}", "5:19", "100 years"},
		{"{days: 30}", "{hours: 8785}", "5:19", "hours"},
		{"{days: 30}", "{days: x}", "5:18", ""},
		{"{days: 30}", "{days: 30, backdate: 5m1s}", "5:32", "between"},
		{"{days: 30}", "{days: 30, backdate: -1s}", "5:32", "between"},
		{"{days: 30}", "{days: 30, backdate: 1ms}", "5:32", "whole seconds"},
		{"{days: 30}", "{days: 30, wholeYears: true}", "5:34", "needs years"},
		{"{days: 30}", "{years: 32, wholeYears: true}", "5:", "31 years"},
		{"{days: 30}", "{noExpiry: true, shorten: true}", "5:37", "noExpiry"},
		{"attribute: commonName", "attribute: comonName", "7:17", "neither a known attribute"},
		{"from: deviceSerial", "from: request", "7:", "must be one of"},
		{"from: deviceSerial", "from: hosts", "7:", "alternative name"},
		{"from: deviceSerial", "value: \"\"", "7:", "either value or from"},
		{"from: deviceSerial", "from: deviceSerial, value: x", "7:", "either value or from"},
		{"from: deviceSerial", "from: deviceSerial, or: deviceSerial", "7:", "another one"},
		{"from: deviceSerial", "from: deviceSerial, or: nothing", "7:", "another one"},
		{"from: deviceSerial", "value: x, or: product", "7:", "needs a from"},
		{"from: deviceSerial", "value: x, prefix: y", "7:", "fixed value"},
		{"from: deviceSerial", "value: x, optional: true", "7:", "fixed value"},
		{"from: deviceSerial", "from: deviceSerial, length: 257", "7:", "256"},
		{"from: deviceSerial", "value: " + strings.Repeat("x", 65), "7:", "too long"},
		{"from: deviceSerial", "value: \"a\\u0000b\"", "7:", "control"},
		{"attribute: commonName, from: deviceSerial", "attribute: countryName, value: de", "7:", "two capital"},
		{"attribute: commonName, from: deviceSerial", "attribute: serialNumber, value: a_b", "7:", "PrintableString"},
		{"type: dNSName", "type: dns", "9:", "must be one of"},
		{"type: dNSName, from: hosts, optional: true", "type: dNSName, value: \"a b\"", "9:", "DNS name"},
		{"type: dNSName, from: hosts, optional: true", "type: iPAddress, value: 1.2.3", "9:", "IP address"},
		{"type: dNSName, from: hosts, optional: true", "type: rfc822Name, value: me", "9:", "mail"},
		{"type: dNSName, from: hosts, optional: true", "type: uniformResourceIdentifier, from: hosts", "9:", "DNS names and IP"},
		{"type: dNSName, from: hosts, optional: true", "type: uniformResourceIdentifier, value: a/b", "9:", "URI"},
		{"type: dNSName, from: hosts, optional: true", "type: dNSName, from: hosts, prefix: a", "9:", "no prefix"},
		{"type: dNSName, from: hosts, optional: true", "type: dNSName, from: hosts, hex: true", "9:", "hexadecimal"},
		{"type: dNSName, from: hosts, optional: true", "type: dNSName, from: hosts, hardwareType: 1.2.3", "9:", "OID"},
		{"type: dNSName, from: hosts, optional: true", "type: hardwareModuleName, from: product, hardwareType: x", "9:", "OID"},
		{"type: dNSName, from: hosts, optional: true", "type: hardwareModuleName, value: xy, hex: true", "9:", "hexadecimal"},
		{"type: dNSName, from: hosts, optional: true", "type: directoryName, value: x", "9:", "directory"},
		{"type: dNSName, from: hosts, optional: true", "type: directoryName", "9:", "directory"},
		{"type: dNSName, from: hosts, optional: true", "type: dNSName, from: hosts, directory: [{attribute: title, value: x}]", "9:", "only a directoryName"},
		{"[digitalSignature]", "[]", "10:11", "at least one usage"},
		{"[digitalSignature]", "[sign]", "10:12", "not a name"},
		{"[digitalSignature]", "[digitalSignature, digitalSignature]", "10:30", "twice"},
		{"[digitalSignature]", "[keyCertSign]", "10:", "only an authority"},
		{"[digitalSignature]", "[keyEncipherment]", "10:", "cannot encipher"},
		{"[digitalSignature]", "[digitalSignature, encipherOnly]", "10:", "need keyAgreement"},
		{"keys: [p256]", "keys: [ed25519]\nkeyUsage: [keyAgreement]", "", "already defined"},
		{"[clientAuth]", "[clientAuth, clientAuth]", "11:32", "twice"},
		{"[clientAuth]", "[everything]", "11:20", "neither a known name"},
		{"[clientAuth]", "[anyExtendedKeyUsage]", "11:", "never"},
		{"[clientAuth]", "[2.5.29.37.0]", "11:", "never"},
		{"[clientAuth]", "[1.3.6.1.5.5.7.3.28]", "11:", "cmcRA is never"},
		{"[clientAuth]", "[1.3.6.1.4.1.311.20.2.1]", "11:", "never"},
		{"[clientAuth]", "[OCSPSigning]", "11:", "OCSP responder alone"},
		{"[clientAuth]", "[1.3.6.1.5.5.7.3.9]", "11:", "OCSP responder alone"},
		{"extendedKeyUsage: [clientAuth]", "extendedKeyUsageCritical: true", "11:", "no extendedKeyUsage"},
		{"", "pathLen: 0\n", "12:", "only an authority"},
		{"", "nameConstraints: {permitted: {dns: [a.example]}}\n", "12:", "only an authority"},
		{"", "policies: [x]\n", "12:12", "not an OID"},
		{"", "policies: [1.2.3, 1.2.3]\n", "12:", "twice"},
		{"", "extensions: [{oid: x, hex: \"0500\"}]\n", "12:", "not an OID"},
		{"", "extensions: [{oid: 2.5.29.15, hex: \"0500\"}]\n", "12:", "own place"},
		{"", "extensions: [{oid: 1.3.6.1.5.5.7.1.24, hex: \"3000\"}]\n", "12:", "own place"},
		{"", "extensions: [{oid: 1.2.3, hex: \"05\"}]\n", "12:", "DER"},
		{"", "extensions: [{oid: 1.2.3, hex: \"050000\"}]\n", "12:", "DER"},
		{"", "extensions: [{oid: 1.2.3, hex: xyz}]\n", "12:", "hexadecimal"},
		{"", "extensions: [{oid: 1.2.3, hex: \"0500\"}, {oid: 1.2.3, hex: \"0500\"}]\n", "12:", "twice"},
		{"", "noCheck: true\n", "12:", "only an OCSP responder"},
		{"", "crlShards: 257\n", "12:12", "256"},
		{"", "crlShards: -1\n", "12:12", "256"},
		{"", "trusts: [A]\n", "12:10", "authority"},
		{"", "trusts: [a, a]\n", "12:13", "twice"},
		{"", "leastEvidence: A\n", "12:16", "evidence"},
		{"", "serverKeygen: open\n", "12:15", "none, sealed or tls"},
		{"", "serverKeygen: tls\nrequireHardwareKey: true\n", "12:15", "contradicts"},
		{"kind: ldevid\npurpose: test", "kind: station\nrequireHardwareKey: true", "", "devices alone"},
		{"kind: ldevid\npurpose: test", "kind: station\nserverKeygen: sealed", "", "devices alone"},
		{"", "acceptExpiredDays: -1\n", "12:", "3660"},
		{"", "overlapDays: -2\n", "12:", "3660"},
		{"", "fixedLength: true\n", "12:", "alignHour"},
		{"purpose: test", "purpose: attestation", "3:10", "taken"},
		{"[clientAuth]", "[tcg-kp-EKCertificate]", "11:", "never"},
		{"[clientAuth]", "[2.23.133.8.2]", "11:", "never"},
		{"[clientAuth]", "[2.23.133.8.3]", "11:", "attestation key alone"},
		{"", "policies: [2.23.133.11.1.1]\n", "12:12", "requireHardwareKey"},
		{"", "requireHardwareKey: true\npolicies: [2.23.133.11.1.1]\n", "", holds},
		{"kind: ldevid\npurpose: test", "kind: root", "", "an authority needs keyCertSign"},
		{"kind: ldevid\npurpose: test", "kind: tls-server", "", "serverAuth"},
		{"extendedKeyUsage: [clientAuth]", "", "", holds},
		{"kind: ldevid\npurpose: test", "kind: ocsp-responder", "", "OCSPSigning"},
		{"kind: ldevid\npurpose: test", "kind: idevid", "", "serialNumber"},
		{"", "---\nname: two\n", "", "one YAML document"},
		{"purpose: test", "purpose: &a test", "3:", "anchors"},
		{"keys: [p256]", "keys: &k [p256]\ntrusts: *k", "", "anchors"},
		{"keys: [p256]", "keys: !x p256", "", "tags"},
		{"keys: [p256]", "keys: " + strings.Repeat("[", 20) + strings.Repeat("]", 20), "", "nested"},
		{"keys: [p256]", "keys:\n  " + strings.Repeat("- ", 17) + "a", "", "nested"},
		{"keys: [p256]", "keys: [p256", "", ""},
		{"name: base", "name: \"" + strings.Repeat("a", maxText), "", "octets"},
	}
	position := regexp.MustCompile(`line (\d+), column (\d+): `)
	for _, tt := range tests {
		text := base + tt.new
		if tt.old != "" {
			text = strings.Replace(base, tt.old, tt.new, 1)
		}
		if text == base {
			t.Fatalf("%q is not in the profile", tt.old)
		}
		_, err := Parse([]byte(text))
		if tt.what == holds {
			if err != nil {
				t.Errorf("without %q: %v", tt.old, err)
			}
			continue
		}
		if !fault.Has(err, fault.ProfileInvalid) || !strings.Contains(err.Error(), tt.what) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want %q", tt.new, err, tt.what)
			continue
		}
		m := position.FindStringSubmatch(err.Error())
		if tt.at != "" && (m == nil || !strings.HasPrefix(fmt.Sprintf("%s:%s", m[1], m[2]), tt.at)) {
			t.Errorf("%q: %v, want it at %s", tt.new, err, tt.at)
		}
	}
}

func TestRefusedAuthorities(t *testing.T) {
	const authority = `name: base
kind: issuing
keys: [p256]
validity: {years: 1}
subject: [{attribute: commonName, from: commonName}]
keyUsage: [keyCertSign, cRLSign]
`
	if _, err := Parse([]byte(authority)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ old, new, what string }{
		{"", "pathLen: -2\n", "no limit"},
		{"", "pathLen: 11\n", "10"},
		{"", "nameConstraints: {}\n", "names nothing"},
		{"", "nameConstraints: {permitted: {dns: [\".a\"]}}\n", "domain"},
		{"", "nameConstraints: {permitted: {dns: [\"*.a\"]}}\n", "domain"},
		{"", "nameConstraints: {excluded: {ip: [10.0.0.1/8]}}\n", "range"},
		{"", "nameConstraints: {excluded: {ip: [10.0.0.1]}}\n", "range"},
		{"", "nameConstraints: {excluded: {email: [\"a b\"]}}\n", "mail"},
		{"", "nameConstraints: {excluded: {uri: [\"http://a\"]}}\n", "domain"},
		{"", "purpose: x\n", "LDevID"},
		{"[keyCertSign, cRLSign]", "[keyCertSign]", "keyCertSign and cRLSign"},
		{"[keyCertSign, cRLSign]", "[keyCertSign, cRLSign, keyAgreement]", "only signs"},
		{"[{attribute: commonName, from: commonName}]", "[{attribute: commonName, from: commonName, optional: true}]", "commonName"},
		{"kind: issuing", "kind: root\nissuer: root", "signs itself"},
		{"kind: issuing", "kind: root\nstatus: {crl: true}", "no issuer"},
		{"kind: issuing", "kind: root\nnameConstraints: {permitted: {dns: [a.example]}}", "trust anchor"},
	} {
		text := authority + tt.new
		if tt.old != "" {
			text = strings.Replace(authority, tt.old, tt.new, 1)
		}
		if _, err := Parse([]byte(text)); !fault.Has(err, fault.ProfileInvalid) || !strings.Contains(err.Error(), tt.what) {
			t.Errorf("%q: %v, want %q", tt.new, err, tt.what)
		}
	}
}

func TestRefusedAttestationKeys(t *testing.T) {
	text, _ := Preset("attestation-key")
	p, err := Parse(text)
	if err != nil || !p.RequireHardware || p.LeastEvidence != "tpm-genuine" {
		t.Fatalf("%+v, %v", p, err)
	}
	for _, tt := range []struct{ old, new, what string }{
		{"subjectAltName:", "subject: [{attribute: commonName, value: x}]\nsubjectAltName:", "has none"},
		{"[tcg-kp-AIKCertificate]", "[tcg-kp-AIKCertificate, clientAuth]", "nothing else"},
		{"[tcg-kp-AIKCertificate]", "[clientAuth]", "nothing else"},
		{"extendedKeyUsage: [tcg-kp-AIKCertificate]", "", "nothing else"},
		{"[digitalSignature]", "[digitalSignature, nonRepudiation]", "nothing else"},
		{"from: tpmVersion}", "from: tpmVersion, optional: true}", "tpmVersion"},
		{"attribute: tpmModel, from: tpmModel", "attribute: tpmModel, from: product", "tpmModel"},
		{"from: tpmManufacturer}", "value: \"id:494E5443\"}", "tpmManufacturer"},
		{"renewSameKey", "serverKeygen: sealed\nrenewSameKey", "contradicts"},
		{"renewSameKey", "purpose: attestation\nrenewSameKey", "LDevID"},
	} {
		changed := strings.Replace(string(text), tt.old, tt.new, 1)
		if changed == string(text) {
			t.Fatalf("%q is not in the preset", tt.old)
		}
		if _, err := Parse([]byte(changed)); !fault.Has(err, fault.ProfileInvalid) || !strings.Contains(err.Error(), tt.what) {
			t.Errorf("%q: %v, want %q", tt.new, err, tt.what)
		}
	}
	changed := strings.Replace(string(text), "leastEvidence: tpm-genuine\n", "", 1)
	if p, err := Parse([]byte(changed)); err != nil || p.LeastEvidence != "tpm" {
		t.Errorf("the default is %q, %v", p.LeastEvidence, err)
	}
}

func TestRefusedFixedForms(t *testing.T) {
	text, _ := Preset("atecc")
	for _, tt := range []struct{ old, new, what string }{
		{"alignHour: true, ", "", "alignHour"},
		{"from: deviceSerial, length: 10", "from: deviceSerial", "length of each value"},
		{"from: deviceSerial, length: 10", "from: deviceSerial, length: 10, optional: true", ""},
		{"fixedLength: true", "fixedLength: true\ncrlShards: 2", "one CRL"},
		{"hardwareType: 1.3.6.1.4.1.32473.1, ", "", "hardwareType"},
		{"  - {type: hardwareModuleName", "  - {type: dNSName, from: hosts}\n  - {type: hardwareModuleName", "hosts"},
		{"  - {type: hardwareModuleName", "  - {type: directoryName, directory: [{attribute: title, from: product}]}\n  - {type: hardwareModuleName", "length"},
	} {
		changed := strings.Replace(string(text), tt.old, tt.new, 1)
		if changed == string(text) {
			t.Fatalf("%q is not in the preset", tt.old)
		}
		if _, err := Parse([]byte(changed)); !fault.Has(err, fault.ProfileInvalid) || !strings.Contains(err.Error(), tt.what) {
			t.Errorf("%q: %v, want %q", tt.new, err, tt.what)
		}
	}
}

func TestNamesAndAddresses(t *testing.T) {
	for s, want := range map[string]bool{
		"a": true, "a.example.com": true, "*.example.com": true, "A-1.example": true, "": false, "*": false, "a.*": false, "-a": false, "a-": false,
		"a..b": false, ".a": false, "a.": false, "a_b": false, "1.2.3.4": false, "ä.example": false, strings.Repeat("a.", 127) + "a": false,
	} {
		// 255 octets are too many for a name.
		if got := DNSName(s); got != want {
			t.Errorf("DNSName(%q) is %v", s, got)
		}
	}
	for s, want := range map[string]bool{
		"http://a": true, "urn:dev:ops:1": true, "a": false, ":a": false, "1a:b": false, "a b:c": false, "a:": false, "a:b c": false, "a:\x00": false, "a_b:c": false,
	} {
		if got := URI(s); got != want {
			t.Errorf("URI(%q) is %v", s, got)
		}
	}
	for s, want := range map[string]bool{
		"a@example.com": true, "a.b+c@x": true, "a": false, "@a": false, "a@": false, "a b@c": false, "a@*.c": false, "a@b@c": false, "<a@b>": false,
	} {
		if got := Email(s); got != want {
			t.Errorf("Email(%q) is %v", s, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(base))
	for _, name := range Presets() {
		text, _ := Preset(name)
		f.Add(text)
	}
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("keys: !x y"))
	f.Add([]byte("- ? |\n  :"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse(text)
		if err != nil {
			if !fault.Has(err, fault.ProfileInvalid) || p != nil {
				t.Errorf("%v", err)
			}
			return
		}
		again, err := Parse(p.Text)
		if err != nil || again.Digest != p.Digest {
			t.Errorf("the same text is refused or different: %v", err)
		}
		if p.CRLShards < 1 || p.CRLShards > 256 || len(p.Keys) == 0 || len(p.KeyUsage) == 0 || p.Validity.Backdate > maxBackdate {
			t.Errorf("%+v", p)
		}
	})
}

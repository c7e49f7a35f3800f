package lint

import (
	"bytes"
	"slices"
	"testing"
)

// breakage is a certificate that must be found, by the rule it is listed under.
type breakage struct {
	rule string
	from func() *parts
	do   func(*parts)
}

func san(names ...[]byte) func(*parts) {
	return func(p *parts) { p.set(oidSubjectAltName, seq(names...)) }
}

func subject(rdns ...[]byte) func(*parts) {
	return func(p *parts) { p.subject = seq(rdns...) }
}

func usage(hex string) func(*parts) {
	return func(p *parts) { p.get(oidKeyUsage).value = unhex(hex) }
}

func withKey(spki []byte) func(*parts) {
	return func(p *parts) { p.spki = spki }
}

func critical(id string, value []byte) func(*parts) {
	return func(p *parts) { p.set(id, value).critical = isTrue }
}

func with(id string, value []byte) func(*parts) {
	return func(p *parts) { p.set(id, value) }
}

func without(id string) func(*parts) {
	return func(p *parts) { p.drop(id) }
}

func times(notBefore, notAfter []byte) func(*parts) {
	return func(p *parts) { p.notBefore, p.notAfter = notBefore, notAfter }
}

func serial(hex string) func(*parts) {
	return func(p *parts) { p.serial = unhex(hex) }
}

func algorithm(id string, params []byte) func(*parts) {
	return func(p *parts) {
		p.inner = seq(oid(id), params)
		p.outer = p.inner
	}
}

func tree(tag byte, base []byte, more ...[]byte) []byte {
	return seq(tlv(tag, seq(base, bytes.Join(more, nil))))
}

func rsaWith(modulus, exponent []byte) []byte {
	return seq(seq(oid(oidRSA), null), tlv(3, []byte{0}, seq(tlv(2, modulus), tlv(2, exponent))))
}

var anyNames = seq(tlv(0xa0, seq(str(0x82, "example.com"))))

var breakages = []breakage{
	{"well_formed", leaf, func(p *parts) { p.version = tlv(0xa0, []byte{4, 1, 2}) }},
	{"well_formed", leaf, func(p *parts) { p.subject = seq(tlv(0x31)) }},
	{"well_formed", leaf, func(p *parts) { p.notAfter = str(utf8Tag, "270901115959Z") }},
	{"well_formed", leaf, func(p *parts) { p.spki = nil }},
	{"trailing_data", leaf, func(p *parts) { p.behind = []byte{0} }},
	{"trailing_data", leaf, func(p *parts) { p.tail = null }},
	{"version_3", leaf, func(p *parts) { p.version = nil }},
	{"version_3", leaf, func(p *parts) { p.version = tlv(0xa0, []byte{2, 1, 3}) }},
	{"extensions_present", leaf, func(p *parts) { p.noExts = true }},
	{"extensions_empty", leaf, func(p *parts) { p.exts = nil }},
	{"serial_positive", leaf, serial("ff00000000000000")},
	{"serial_positive", leaf, serial("00")},
	{"serial_length", leaf, serial("7f0000000000000000000000000000000000000001")},
	{"serial_minimal", leaf, serial("007f000000000000")},
	{"serial_entropy", leaf, serial("01020304050607")},
	{"algorithms_equal", leaf, func(p *parts) { p.outer = seq(oid("1.2.840.10045.4.3.3")) }},
	{"algorithm_strong", leaf, algorithm("1.2.840.113549.1.1.5", null)},
	{"algorithm_strong", leaf, algorithm("1.2.840.10045.4.1", nil)},
	{"algorithm_known", leaf, algorithm("1.2.3.4", nil)},
	{"algorithm_parameters", leaf, algorithm("1.2.840.10045.4.3.2", null)},
	{"algorithm_parameters", leaf, algorithm("1.2.840.113549.1.1.11", nil)},
	{"signature_bits", leaf, func(p *parts) { p.signature = []byte{1, 0x80} }},
	{"signature_bits", leaf, func(p *parts) { p.signature = []byte{0} }},
	{"signature_ecdsa_form", leaf, func(p *parts) { p.signature = make([]byte, 65) }},
	{"unique_identifiers", leaf, func(p *parts) { p.uniqueIDs = tlv(0x81, []byte{0, 1}) }},
	{"unique_identifiers", leaf, func(p *parts) { p.uniqueIDs = tlv(0x82, []byte{0, 1}) }},

	{"issuer_empty", leaf, func(p *parts) { p.issuer = seq() }},
	{"subject_empty_ca", authority, subject()},
	{"subject_empty_alt_name", leaf, subject()},
	{"name_string_type", leaf, subject(rdn(oidCommonName, 0x14, "SN-1"))},
	{"name_string_type", leaf, subject(rdn(oidCommonName, bmp, "\x00S\x00N"))},
	{"name_string_valid", leaf, subject(rdn(oidCommonName, utf8Tag, "\xff"))},
	{"name_string_valid", leaf, subject(rdn(oidCommonName, printable, "a_b"))},
	{"name_string_valid", leaf, subject(rdn(oidDC, ia5, "\xe4"))},
	{"name_string_valid", leaf, subject(rdn(oidCommonName, bmp, "\x00S\x00"))},
	{"name_control_characters", leaf, subject(rdn(oidCommonName, utf8Tag, "a\x00b"))},
	{"name_value_empty", leaf, subject(rdn(oidCommonName, printable, ""))},
	{"name_value_spaces", leaf, subject(rdn(oidCommonName, printable, "SN-1 "))},
	{"name_value_length", leaf, subject(rdn(oidCommonName, printable, string(bytes.Repeat([]byte("a"), 65))))},
	{"name_country", leaf, subject(rdn(oidCountry, printable, "de"))},
	{"name_country", leaf, subject(rdn(oidCountry, utf8Tag, "DE"))},
	{"name_printable_only", leaf, subject(rdn(oidSerialNumber, utf8Tag, "1"))},
	{"name_ia5_only", leaf, subject(rdn(oidDC, printable, "example"))},
	{"name_email", leaf, subject(rdn(oidEmail, ia5, "a@example.com"))},
	{"name_multivalued", leaf, subject(tlv(0x31, pair("2.5.4.10", printable, "A"), pair("2.5.4.11", printable, "B")))},
	{"name_set_order", leaf, subject(tlv(0x31, pair("2.5.4.11", printable, "B"), pair("2.5.4.10", printable, "A")))},
	{"name_common_names", leaf, subject(rdn(oidCommonName, printable, "A"), rdn(oidCommonName, printable, "B"))},

	{"validity_form", leaf, times(str(utcTime, "2609011200Z"), str(utcTime, "270901115959Z"))},
	{"validity_form", leaf, times(str(utcTime, "260901120000Z"), str(longTime, "20600901115959.5Z"))},
	{"validity_form", leaf, times(str(utcTime, "260901120000+0200"), str(utcTime, "270901115959Z"))},
	{"validity_form", leaf, times(str(utcTime, "260231120000Z"), str(utcTime, "270901115959Z"))},
	{"validity_form", leaf, times(str(utcTime, ""), str(utcTime, "270901115959Z"))},
	{"validity_type", leaf, times(str(longTime, "20260901120000Z"), str(utcTime, "270901115959Z"))},
	{"validity_type", leaf, times(str(utcTime, "260901120000Z"), str(longTime, "20491231235959Z"))},
	{"validity_order", leaf, times(str(utcTime, "270901120000Z"), str(utcTime, "270901115959Z"))},
	{"validity_order", leaf, times(str(utcTime, "270901120000Z"), str(utcTime, "270901120000Z"))},
	{"validity_epoch", leaf, times(str(utcTime, "991231235959Z"), str(utcTime, "270901115959Z"))},

	{"key_algorithm", leaf, withKey(seq(seq(oid("1.2.3.4")), tlv(3, []byte{0, 1})))},
	{"key_rsa_form", leaf, withKey(seq(seq(oid(oidRSA), null), tlv(3, []byte{0, 1})))},
	{"key_rsa_parameters", leaf, withKey(rsaKey(nil, 2048, 65537))},
	{"key_rsa_size", leaf, withKey(rsaKey(null, 2040, 65537))},
	{"key_rsa_large", leaf, withKey(rsaKey(null, 4104, 65537))},
	{"key_rsa_modulus", leaf, withKey(rsaWith(append([]byte{0x7f}, make([]byte, 255)...), []byte{1, 0, 1}))},
	{"key_rsa_modulus", leaf, withKey(rsaWith(append([]byte{0x80}, bytes.Repeat([]byte{1}, 255)...), []byte{1, 0, 1}))},
	{"key_rsa_exponent", leaf, withKey(rsaWith(append([]byte{0x7f}, bytes.Repeat([]byte{1}, 255)...), []byte{3}))},
	{"key_rsa_exponent", leaf, withKey(rsaWith(append([]byte{0x7f}, bytes.Repeat([]byte{1}, 255)...), []byte{1, 0, 0}))},
	{"key_ec_named_curve", leaf, withKey(seq(seq(oid(oidEC), seq([]byte{2, 1, 1})), tlv(3, []byte{0}, unhex(generator))))},
	{"key_ec_named_curve", leaf, withKey(seq(seq(oid(oidEC)), tlv(3, []byte{0}, unhex(generator))))},
	{"key_ec_known_curve", leaf, withKey(ecKey("1.3.36.3.3.2.8.1.1.7", generator))},
	{"key_ec_uncompressed", leaf, withKey(ecKey(oidP256, "03"+generator[2:66]))},
	{"key_ec_on_curve", leaf, withKey(ecKey(oidP256, generator[:128]+"ff"))},
	{"key_ec_on_curve", leaf, withKey(ecKey(oidP256, "00"))},
	{"key_ec_on_curve", leaf, withKey(ecKey(oidP384, generator))},
	{"key_ed25519_form", leaf, withKey(seq(seq(oid(oidEd25519), null), tlv(3, make([]byte, 33))))},
	{"key_ed25519_form", leaf, withKey(seq(seq(oid(oidEd25519)), tlv(3, make([]byte, 32))))},

	{"extension_malformed", leaf, with(oidKeyUsage, null)},
	{"extension_malformed", leaf, with(oidExtendedUsage, seq(null))},
	{"extension_malformed", authority, with(oidBasicConstraints, seq(isTrue, []byte{2, 1, 0, 5, 0}))},
	{"extension_malformed", leaf, with(oidSubjectAltName, seq(null))},
	{"extension_malformed", leaf, with(oidAuthorityKeyID, null)},
	{"extension_malformed", leaf, with(oidSubjectKeyID, null)},
	{"extension_malformed", authority, critical(oidNameConstraints, null)},
	{"extension_malformed", leaf, with(oidPolicies, seq(null))},
	{"extension_malformed", leaf, with(oidAuthorityInfo, seq(seq(oid(oidAccessOCSP))))},
	{"extension_malformed", leaf, with(oidCRLPoints, seq(null))},
	{"extension_malformed", responder, with(oidNoCheck, seq())},
	{"extension_malformed", leaf, with(oidSubjectKeyID, append(tlv(4, make([]byte, 20)), 0))},
	{"extension_twice", leaf, func(p *parts) { p.exts = append(p.exts, p.exts[0]) }},
	{"extension_critical_false", leaf, func(p *parts) { p.get(oidSubjectKeyID).critical = isFalse }},
	{"extension_unknown_critical", leaf, critical("1.2.3.4", null)},
	{"extension_obsolete", leaf, with("2.16.840.1.113730.1.1", unhex("03020780"))},
	{"extension_obsolete", leaf, with(oidPrivateKeyPeriod, seq())},
	{"critical_authorityKeyIdentifier", leaf, func(p *parts) { p.get(oidAuthorityKeyID).critical = isTrue }},
	{"critical_subjectKeyIdentifier", leaf, func(p *parts) { p.get(oidSubjectKeyID).critical = isTrue }},
	{"critical_issuerAltName", leaf, critical(oidIssuerAltName, seq(str(0x82, "example.com")))},
	{"critical_subjectDirectoryAttributes", leaf, critical(oidDirectoryAttributes, seq())},
	{"critical_cRLDistributionPoints", leaf, func(p *parts) { p.get(oidCRLPoints).critical = isTrue }},
	{"critical_freshestCRL", leaf, critical(oidFreshestCRL, point(uri("http://pki.example.com/d.crl")))},
	{"critical_authorityInfoAccess", leaf, func(p *parts) { p.get(oidAuthorityInfo).critical = isTrue }},
	{"critical_subjectInfoAccess", leaf, critical(oidSubjectInfo, seq())},
	{"critical_ocsp-nocheck", responder, func(p *parts) { p.get(oidNoCheck).critical = isTrue }},
	{"not_critical_nameConstraints", authority, with(oidNameConstraints, anyNames)},
	{"not_critical_policyConstraints", authority, with(oidPolicyConstraints, seq())},
	{"not_critical_inhibitAnyPolicy", authority, with(oidInhibitAnyPolicy, []byte{2, 1, 0})},

	{"key_usage_ca", authority, without(oidKeyUsage)},
	{"key_usage_leaf", leaf, without(oidKeyUsage)},
	{"key_usage_critical", leaf, func(p *parts) { p.get(oidKeyUsage).critical = nil }},
	{"key_usage_empty", leaf, usage("030100")},
	{"key_usage_der", leaf, usage("0303078000")},
	{"key_usage_der", leaf, usage("03020080")},
	{"key_usage_unknown", leaf, usage("0303068040")},
	{"key_usage_unknown", leaf, usage("030400800001")},
	{"key_usage_ca_signs", authority, usage("03020102")},
	{"key_usage_ca_crl", authority, usage("03020204")},
	{"key_usage_leaf_signs", leaf, usage("03020284")},
	{"key_usage_ca_only_signs", authority, usage("0302010e")},
	{"key_usage_ec", leaf, usage("030205a0")},
	{"key_usage_rsa", leaf, func(p *parts) {
		p.spki = rsaKey(null, 2048, 65537)
		usage("03020388")(p)
	}},
	{"key_usage_ed25519", leaf, func(p *parts) {
		p.spki = seq(seq(oid(oidEd25519)), tlv(3, make([]byte, 33)))
		usage("03020388")(p)
	}},
	{"key_usage_only", leaf, usage("03020081")},
	{"key_usage_only", leaf, usage("0303078080")},
	{"key_usage_both_only", leaf, usage("0303078980")},
	{"purposes_empty", leaf, with(oidExtendedUsage, seq())},
	{"purposes_twice", leaf, with(oidExtendedUsage, seq(oid(oidClientAuth), oid(oidClientAuth)))},
	{"purposes_any", leaf, with(oidExtendedUsage, seq(oid(oidAnyPurpose)))},
	{"purposes_any_critical", leaf, critical(oidExtendedUsage, seq(oid(oidAnyPurpose)))},
	{"purposes_client_usage", leaf, usage("03020640")},
	{"purposes_server_usage", leaf, func(p *parts) {
		p.set(oidExtendedUsage, seq(oid(oidServerAuth)))
		usage("03020640")(p)
	}},
	{"purposes_ocsp_usage", responder, usage("03020308")},
	{"purposes_ocsp_alone", responder, with(oidExtendedUsage, seq(oid(oidOCSPSigning), oid(oidClientAuth)))},
	{"ocsp_no_check", responder, func(p *parts) {
		p.drop(oidNoCheck)
		p.drop(oidAuthorityInfo)
		p.drop(oidCRLPoints)
	}},
	{"ocsp_no_check_alone", leaf, with(oidNoCheck, null)},
	{"ocsp_no_check_life", responder, times(str(utcTime, "260901120000Z"), str(utcTime, "280901115959Z"))},

	{"authority_key_id_present", leaf, without(oidAuthorityKeyID)},
	{"authority_key_id_value", leaf, with(oidAuthorityKeyID, seq())},
	{"authority_key_id_value", leaf, with(oidAuthorityKeyID, seq(tlv(0x80)))},
	{"authority_key_id_pair", leaf, with(oidAuthorityKeyID, seq(tlv(0x80, make([]byte, 20)), tlv(0x82, []byte{1})))},
	{"authority_key_id_serial", leaf, with(oidAuthorityKeyID, seq(tlv(0x80, make([]byte, 20)), tlv(0xa1, tlv(0xa4, seq())), tlv(0x82, []byte{1})))},
	{"authority_key_id_self", leaf, with(oidAuthorityKeyID, seq(tlv(0x80, bytes.Repeat([]byte{1}, 20))))},
	{"subject_key_id_ca", authority, without(oidSubjectKeyID)},
	{"subject_key_id_leaf", leaf, without(oidSubjectKeyID)},
	{"subject_key_id_length", leaf, with(oidSubjectKeyID, tlv(4, []byte{1}))},
	{"subject_key_id_length", leaf, with(oidSubjectKeyID, tlv(4, make([]byte, 65)))},

	{"alt_name_empty", leaf, san()},
	{"alt_name_critical", leaf, func(p *parts) { p.get(oidSubjectAltName).critical = isTrue }},
	{"alt_name_twice", leaf, san(str(0x82, "a.example.com"), str(0x82, "a.example.com"))},
	{"alt_name_kind", leaf, san(tlv(0x88, []byte{0x2a}))},
	{"alt_name_dns", leaf, san(str(0x82, "a b"))},
	{"alt_name_dns", leaf, san(str(0x82, ""))},
	{"alt_name_dns", leaf, san(str(0x82, "a.*.example.com"))},
	{"alt_name_dns", leaf, san(str(0x82, "192.0.2.1"))},
	{"alt_name_dns", leaf, san(str(0x82, "example.com."))},
	{"alt_name_wildcard", leaf, san(str(0x82, "*.example.com"))},
	{"alt_name_underscore", leaf, san(str(0x82, "a_b.example.com"))},
	{"alt_name_uri", leaf, san(uri("/relative"))},
	{"alt_name_uri", leaf, san(uri("http://a b/"))},
	{"alt_name_ip", leaf, san(str(0x87, "192.0.2.1"))},
	{"alt_name_email", leaf, san(str(0x81, "Me <a@example.com>"))},
	{"alt_name_directory", leaf, san(tlv(0xa4, seq()))},
	{"alt_name_other", leaf, san(tlv(0xa0, oid(oidHardwareName)))},
	{"alt_name_hardware_module", leaf, san(tlv(0xa0, oid(oidHardwareName), tlv(0xa0, seq(oid("1.2.3"), tlv(4)))))},
	{"alt_name_hardware_module", leaf, san(tlv(0xa0, oid(oidHardwareName), tlv(0xa0, seq(oid("1.2.3"), str(utf8Tag, "1")))))},
	{"alt_name_ek_digest", leaf, san(tlv(0xa0, oid(oidPermanentID), tlv(0xa0, seq(str(utf8Tag, "01"), oid(oidEKDigest)))))},
	{"alt_name_permanent_id", leaf, san(tlv(0xa0, oid(oidPermanentID), tlv(0xa0, seq(tlv(4, []byte{1})))))},
	{"alt_name_server", leaf, func(p *parts) {
		p.set(oidExtendedUsage, seq(oid(oidServerAuth)))
		p.drop(oidSubjectAltName)
	}},

	{"access_empty", leaf, with(oidAuthorityInfo, seq())},
	{"access_uri", leaf, with(oidAuthorityInfo, seq(seq(oid(oidAccessOCSP), str(0x82, "example.com"))))},
	{"access_uri", leaf, with(oidAuthorityInfo, seq(seq(oid(oidAccessOCSP), uri("file:///etc/passwd"))))},
	{"access_https", leaf, with(oidAuthorityInfo, seq(seq(oid(oidAccessOCSP), uri("https://example.com"))))},
	{"access_method", leaf, with(oidAuthorityInfo, seq(seq(oid("1.2.3"), uri("http://example.com"))))},
	{"points_empty", leaf, with(oidCRLPoints, seq())},
	{"points_reasons_only", leaf, with(oidCRLPoints, seq(seq(tlv(0x81, []byte{1, 2}))))},
	{"points_uri", leaf, with(oidCRLPoints, point(uri("ftp://example.com/a")))},
	{"points_https", leaf, with(oidCRLPoints, point(uri("https://example.com/a")))},
	{"points_reasons", leaf, with(oidCRLPoints, seq(seq(tlv(0xa0, tlv(0xa0, uri("http://example.com/a"))), tlv(0x81, []byte{1, 2}))))},
	{"status_address", leaf, func(p *parts) {
		p.drop(oidAuthorityInfo)
		p.drop(oidCRLPoints)
	}},

	{"basic_critical", authority, func(p *parts) { p.get(oidBasicConstraints).critical = nil }},
	{"basic_default", leaf, critical(oidBasicConstraints, seq(isFalse))},
	{"path_length_leaf", leaf, critical(oidBasicConstraints, seq([]byte{2, 1, 0}))},
	{"path_length_negative", authority, with(oidBasicConstraints, seq(isTrue, []byte{2, 1, 0xff}))},
	{"path_length_usage", authority, usage("03020102")},
	{"constraints_leaf", leaf, critical(oidNameConstraints, anyNames)},
	{"constraints_empty", authority, critical(oidNameConstraints, seq())},
	{"constraints_bounds", authority, critical(oidNameConstraints, tree(0xa0, str(0x82, "example.com"), []byte{0x80, 1, 0}))},
	{"constraints_ip", authority, critical(oidNameConstraints, tree(0xa0, tlv(0x87, []byte{10, 0, 0, 0})))},
	{"constraints_ip", authority, critical(oidNameConstraints, tree(0xa0, tlv(0x87, []byte{10, 0, 0, 0, 255, 0, 255, 0})))},
	{"constraints_ip", authority, critical(oidNameConstraints, tree(0xa1, tlv(0x87, []byte{10, 0, 0, 0, 0x7f, 0, 0, 0})))},
	{"constraints_dns", authority, critical(oidNameConstraints, tree(0xa0, str(0x82, ".example.com")))},
	{"constraints_kind", authority, critical(oidNameConstraints, tree(0xa0, tlv(0x88, []byte{0x2a})))},
	{"policies_empty", leaf, with(oidPolicies, seq())},
	{"policies_twice", leaf, with(oidPolicies, seq(seq(oid("1.2.3")), seq(oid("1.2.3"))))},
	{"policies_any_leaf", leaf, with(oidPolicies, seq(seq(oid(oidAnyPolicy))))},
	{"policy_mappings_leaf", leaf, critical(oidPolicyMappings, seq())},
	{"policy_constraints_leaf", leaf, critical(oidPolicyConstraints, seq())},
	{"inhibit_any_policy_leaf", leaf, critical(oidInhibitAnyPolicy, []byte{2, 1, 0})},
}

func finds(findings []Finding, rule string) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool { return f.Rule == rule })
}

func TestEveryBreakageIsFound(t *testing.T) {
	for i, b := range breakages {
		p := b.from()
		b.do(p)
		findings := Certificate(p.der())
		if !finds(findings, b.rule) {
			t.Errorf("case %d: %s is not found, only %+v", i, b.rule, findings)
		}
	}
}

// TestEveryRuleHasABreakage keeps the tables together, and their texts whole.
func TestEveryRuleHasABreakage(t *testing.T) {
	seen := make(map[string]bool)
	for _, r := range rules() {
		if seen[r.id] {
			t.Errorf("two rules are called %s", r.id)
		}
		seen[r.id] = true
		if r.source == "" || r.severity == "" {
			t.Errorf("%s has no source or no severity", r.id)
		}
		if !slices.ContainsFunc(breakages, func(b breakage) bool { return b.rule == r.id }) {
			t.Errorf("no certificate breaks %s", r.id)
		}
	}
	if len(seen) < 60 {
		t.Errorf("only %d rules", len(seen))
	}
	t.Logf("%d rules for every certificate, %d for profiles, %d for initial device identities", len(seen), len(profileRules), len(idevidRules))
}

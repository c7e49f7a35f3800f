package lint

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
)

const (
	signUsage     = x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment | x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	agreeUsage    = x509.KeyUsageKeyAgreement | x509.KeyUsageEncipherOnly | x509.KeyUsageDecipherOnly
	encipherUsage = x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment
)

// knownExtensions are those that a path validator understands (RFC 5280, section
// 4.2).
var knownExtensions = []string{
	oidDirectoryAttributes, oidSubjectKeyID, oidKeyUsage, oidPrivateKeyPeriod, oidSubjectAltName, oidIssuerAltName, oidBasicConstraints,
	oidNameConstraints, oidCRLPoints, oidPolicies, oidPolicyMappings, oidAuthorityKeyID, oidPolicyConstraints, oidExtendedUsage,
	oidFreshestCRL, oidInhibitAnyPolicy, oidAuthorityInfo, oidSubjectInfo, oidNoCheck,
}

// neverCritical must not be critical, alwaysCritical must be; each with the
// section that says so.
var (
	neverCritical = []struct{ oid, name, source string }{
		{oidAuthorityKeyID, "authorityKeyIdentifier", "RFC 5280, section 4.2.1.1"},
		{oidSubjectKeyID, "subjectKeyIdentifier", "RFC 5280, section 4.2.1.2"},
		{oidIssuerAltName, "issuerAltName", "RFC 5280, section 4.2.1.7"},
		{oidDirectoryAttributes, "subjectDirectoryAttributes", "RFC 5280, section 4.2.1.8"},
		{oidCRLPoints, "cRLDistributionPoints", "RFC 5280, section 4.2.1.13"},
		{oidFreshestCRL, "freshestCRL", "RFC 5280, section 4.2.1.15"},
		{oidAuthorityInfo, "authorityInfoAccess", "RFC 5280, section 4.2.2.1"},
		{oidSubjectInfo, "subjectInfoAccess", "RFC 5280, section 4.2.2.2"},
		{oidNoCheck, "ocsp-nocheck", "RFC 6960, section 4.2.2.2.1"},
	}
	alwaysCritical = []struct{ oid, name, source string }{
		{oidNameConstraints, "nameConstraints", "RFC 5280, section 4.2.1.10"},
		{oidPolicyConstraints, "policyConstraints", "RFC 5280, section 4.2.1.11"},
		{oidInhibitAnyPolicy, "inhibitAnyPolicy", "RFC 5280, section 4.2.1.14"},
	}
)

// extensionRules look at extensions as such.
var extensionRules = slices.Concat([]rule{
	{"extension_malformed", Error, "RFC 5280, section 4.2.1", func(c *certificate) string {
		if len(c.malformed) > 0 {
			return "the content of extension " + strings.Join(c.malformed, ", ") + " cannot be read"
		}
		return ""
	}},
	{"extension_twice", Error, "RFC 5280, section 4.2", func(c *certificate) string {
		seen := make(map[string]bool)
		for _, e := range c.extensions {
			if seen[e.oid] {
				return "extension " + e.oid + " is there twice"
			}
			seen[e.oid] = true
		}
		return ""
	}},
	{"extension_critical_false", Error, "ITU-T X.690, section 11.5", func(c *certificate) string {
		for _, e := range c.extensions {
			if e.explicitFalse {
				return "extension " + e.oid + " says that it is not critical; the default is left out"
			}
		}
		return ""
	}},
	{"extension_unknown_critical", Error, "RFC 5280, section 4.2", func(c *certificate) string {
		for _, e := range c.extensions {
			if e.critical && !slices.Contains(knownExtensions, e.oid) {
				return "extension " + e.oid + " is critical and unknown, so that everybody has to reject the certificate"
			}
		}
		return ""
	}},
	{"extension_obsolete", Notice, "RFC 5280, appendix A", func(c *certificate) string {
		for _, e := range c.extensions {
			if e.oid == oidPrivateKeyPeriod || strings.HasPrefix(e.oid, "2.16.840.1.113730.1.") {
				return "extension " + e.oid + " is obsolete"
			}
		}
		return ""
	}},
}, criticalityRules())

func criticalityRules() []rule {
	var list []rule
	for _, x := range neverCritical {
		list = append(list, rule{"critical_" + x.name, Error, x.source, func(c *certificate) string {
			if e := c.extension(x.oid); e != nil && e.critical {
				return x.name + " must not be critical"
			}
			return ""
		}})
	}
	for _, x := range alwaysCritical {
		list = append(list, rule{"not_critical_" + x.name, Error, x.source, func(c *certificate) string {
			if e := c.extension(x.oid); e != nil && !e.critical {
				return x.name + " must be critical"
			}
			return ""
		}})
	}
	return list
}

// usageRule makes a rule about keyUsage when it is there.
func usageRule(id string, severity Severity, source string, check func(c *certificate, bits x509.KeyUsage) string) rule {
	return rule{id, severity, source, func(c *certificate) string {
		if c.usage == nil {
			return ""
		}
		return check(c, c.usage.bits)
	}}
}

// usageRules look at keyUsage and extendedKeyUsage.
var usageRules = []rule{
	{"key_usage_ca", Error, "RFC 5280, section 4.2.1.3", func(c *certificate) string {
		if c.isCA() && c.extension(oidKeyUsage) == nil {
			return "an authority needs keyUsage"
		}
		return ""
	}},
	{"key_usage_leaf", Warning, "RFC 5280, section 4.2.1.3", func(c *certificate) string {
		if !c.isCA() && c.extension(oidKeyUsage) == nil {
			return "without keyUsage the key may be used for everything"
		}
		return ""
	}},
	{"key_usage_critical", Warning, "RFC 5280, section 4.2.1.3", func(c *certificate) string {
		if e := c.extension(oidKeyUsage); e != nil && !e.critical {
			return "keyUsage should be critical"
		}
		return ""
	}},
	usageRule("key_usage_empty", Error, "RFC 5280, section 4.2.1.3", func(_ *certificate, bits x509.KeyUsage) string {
		if bits == 0 {
			return "keyUsage allows nothing"
		}
		return ""
	}),
	usageRule("key_usage_der", Error, "ITU-T X.690, section 11.2.2", func(c *certificate, _ x509.KeyUsage) string {
		o := c.usage.octets
		if len(o) == 0 {
			return ""
		}
		if last := o[len(o)-1]; last == 0 || last&(1<<c.usage.unused) == 0 || last&(1<<c.usage.unused-1) != 0 {
			return "keyUsage ends in bits that must be left out"
		}
		return ""
	}),
	usageRule("key_usage_unknown", Error, "RFC 5280, section 4.2.1.3", func(c *certificate, bits x509.KeyUsage) string {
		if bits >= x509.KeyUsageDecipherOnly<<1 || len(c.usage.octets) > 2 {
			return "keyUsage has bits without a meaning"
		}
		return ""
	}),
	usageRule("key_usage_ca_signs", Error, "RFC 5280, section 4.2.1.3", func(c *certificate, bits x509.KeyUsage) string {
		if c.isCA() && bits&x509.KeyUsageCertSign == 0 {
			return "an authority needs keyCertSign"
		}
		return ""
	}),
	usageRule("key_usage_ca_crl", Warning, "RFC 5280, section 4.2.1.3", func(c *certificate, bits x509.KeyUsage) string {
		if c.isCA() && bits&x509.KeyUsageCRLSign == 0 {
			return "an authority without cRLSign cannot revoke by CRL"
		}
		return ""
	}),
	usageRule("key_usage_leaf_signs", Error, "RFC 5280, section 4.2.1.9", func(c *certificate, bits x509.KeyUsage) string {
		if !c.isCA() && bits&x509.KeyUsageCertSign != 0 {
			return "keyCertSign needs basicConstraints with cA"
		}
		return ""
	}),
	usageRule("key_usage_ca_only_signs", Warning, "RFC 8813, section 3", func(c *certificate, bits x509.KeyUsage) string {
		if c.isCA() && bits&^signUsage != 0 {
			return "an authority's key should only sign"
		}
		return ""
	}),
	usageRule("key_usage_ec", Error, "RFC 8813, section 3", func(c *certificate, bits x509.KeyUsage) string {
		if c.spki.algorithm == oidEC && bits&encipherUsage != 0 {
			return "a key on an elliptic curve cannot encipher"
		}
		return ""
	}),
	usageRule("key_usage_rsa", Error, "RFC 3279, section 2.3.1", func(c *certificate, bits x509.KeyUsage) string {
		if c.spki.algorithm == oidRSA && bits&agreeUsage != 0 {
			return "an RSA key cannot agree on keys"
		}
		return ""
	}),
	usageRule("key_usage_ed25519", Error, "RFC 8410, section 5", func(c *certificate, bits x509.KeyUsage) string {
		if c.spki.algorithm == oidEd25519 && bits&^signUsage != 0 {
			return "an Ed25519 key can only sign"
		}
		return ""
	}),
	usageRule("key_usage_only", Error, "RFC 5280, section 4.2.1.3", func(_ *certificate, bits x509.KeyUsage) string {
		if bits&(x509.KeyUsageEncipherOnly|x509.KeyUsageDecipherOnly) != 0 && bits&x509.KeyUsageKeyAgreement == 0 {
			return "encipherOnly and decipherOnly mean nothing without keyAgreement"
		}
		return ""
	}),
	usageRule("key_usage_both_only", Error, "RFC 5480, section 3", func(_ *certificate, bits x509.KeyUsage) string {
		if both := x509.KeyUsageEncipherOnly | x509.KeyUsageDecipherOnly; bits&both == both {
			return "encipherOnly and decipherOnly exclude each other"
		}
		return ""
	}),
	{"purposes_empty", Error, "RFC 5280, section 4.2.1.12", func(c *certificate) string {
		if c.extension(oidExtendedUsage) != nil && len(c.purposes) == 0 && !slices.Contains(c.malformed, oidExtendedUsage) {
			return "extendedKeyUsage names nothing"
		}
		return ""
	}},
	{"purposes_twice", Warning, "RFC 5280, section 4.2.1.12", func(c *certificate) string {
		for i, p := range c.purposes {
			if slices.Contains(c.purposes[:i], p) {
				return "extendedKeyUsage names " + p + " twice"
			}
		}
		return ""
	}},
	{"purposes_any", Warning, "RFC 5280, section 4.2.1.12", func(c *certificate) string {
		if c.has(oidAnyPurpose) {
			return "anyExtendedKeyUsage allows every purpose, also those that nobody thought of"
		}
		return ""
	}},
	{"purposes_any_critical", Error, "RFC 5280, section 4.2.1.12", func(c *certificate) string {
		if e := c.extension(oidExtendedUsage); c.has(oidAnyPurpose) && e.critical {
			return "extendedKeyUsage with anyExtendedKeyUsage should not be critical"
		}
		return ""
	}},
	usageRule("purposes_client_usage", Error, "RFC 5280, section 4.2.1.12", func(c *certificate, bits x509.KeyUsage) string {
		if c.has(oidClientAuth) && !c.isCA() && bits&(x509.KeyUsageDigitalSignature|x509.KeyUsageKeyAgreement) == 0 {
			return "clientAuth needs digitalSignature or keyAgreement"
		}
		return ""
	}),
	usageRule("purposes_server_usage", Error, "RFC 5280, section 4.2.1.12", func(c *certificate, bits x509.KeyUsage) string {
		if c.has(oidServerAuth) && !c.isCA() && bits&(x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment|x509.KeyUsageKeyAgreement) == 0 {
			return "serverAuth needs digitalSignature, keyEncipherment or keyAgreement"
		}
		return ""
	}),
	usageRule("purposes_ocsp_usage", Error, "RFC 5280, section 4.2.1.12", func(c *certificate, bits x509.KeyUsage) string {
		if c.has(oidOCSPSigning) && bits&(x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment) == 0 {
			return "OCSPSigning needs digitalSignature or nonRepudiation"
		}
		return ""
	}),
	{"purposes_ocsp_alone", Warning, "RFC 6960, section 4.2.2.2", func(c *certificate) string {
		if c.has(oidOCSPSigning) && len(c.purposes) > 1 {
			return "an OCSP responder's key should do nothing else"
		}
		return ""
	}},
	{"ocsp_no_check", Warning, "RFC 6960, section 4.2.2.2.1", func(c *certificate) string {
		if c.has(oidOCSPSigning) && c.extension(oidNoCheck) == nil && len(c.access) == 0 && len(c.points) == 0 {
			return "an OCSP responder without ocsp-nocheck needs a way to ask for its own status"
		}
		return ""
	}},
	{"ocsp_no_check_alone", Error, "RFC 6960, section 4.2.2.2.1", func(c *certificate) string {
		if !c.has(oidOCSPSigning) && c.extension(oidNoCheck) != nil {
			return "ocsp-nocheck is for OCSP responders alone"
		}
		return ""
	}},
	{"ocsp_no_check_life", Notice, "RFC 6960, section 4.2.2.2.1", func(c *certificate) string {
		if days := c.times[1].at.Sub(c.times[0].at).Hours() / 24; c.extension(oidNoCheck) != nil && days > 450 {
			return fmt.Sprintf("an OCSP responder that cannot be revoked lives %.0f days", days)
		}
		return ""
	}},
}

package lint

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/pki/profile"
)

// profileRule is one thing in which a certificate must agree with its profile.
type profileRule struct {
	id       string
	severity Severity
	source   string
	check    func(*certificate, *profile.Profile) string
}

// AgainstProfile returns where a certificate differs from what the profile says,
// for device identities where it differs from IEEE 802.1AR, and for attestation
// keys where it differs from what the TCG and WebAuthn want.
func AgainstProfile(der []byte, p *profile.Profile) []Finding {
	c := parse(der)
	if c == nil {
		return []Finding{wellFormed.finding("these bytes are not a certificate in DER")}
	}
	list := profileRules
	switch p.Kind {
	case profile.KindIDevID:
		list = slices.Concat(profileRules, idevidRules)
	case profile.KindAttestation:
		list = slices.Concat(profileRules, attestationRules)
	}
	var findings []Finding
	for _, r := range list {
		if message := r.check(c, p); message != "" {
			findings = append(findings, Finding{Rule: r.id, Severity: r.severity, Source: r.source, Message: message})
		}
	}
	return findings
}

// keyType returns the key type of the subject's key, or nothing.
func (c *certificate) keyType() profile.KeyType {
	public, err := x509.ParsePKIXPublicKey(c.spki.raw)
	if err != nil {
		return ""
	}
	t, err := profile.KeyTypeOf(public)
	if err != nil {
		return ""
	}
	return t
}

const ofProfile = "the profile"

var profileRules = []profileRule{
	{"profile_key", Error, ofProfile, func(c *certificate, p *profile.Profile) string {
		if t := c.keyType(); !p.Allows(t) {
			return "the profile does not allow this type of key"
		}
		return ""
	}},
	{"profile_authority", Error, ofProfile, func(c *certificate, p *profile.Profile) string {
		if c.isCA() != p.Kind.CA() {
			return fmt.Sprintf("basicConstraints does not fit the kind %s", p.Kind)
		}
		return ""
	}},
	{"profile_path_length", Error, ofProfile, func(c *certificate, p *profile.Profile) string {
		if c.basic == nil || !p.Kind.CA() {
			return ""
		}
		if c.basic.hasPathLen != (p.PathLen >= 0) || c.basic.hasPathLen && c.basic.pathLen != p.PathLen {
			return "the path length is not the profile's"
		}
		return ""
	}},
	{"profile_key_usage", Error, ofProfile, func(c *certificate, p *profile.Profile) string {
		if c.usage == nil || c.usage.bits != p.UsageFor(c.keyType()) {
			return "keyUsage is not the profile's"
		}
		return ""
	}},
	{"profile_purposes", Error, ofProfile, func(c *certificate, p *profile.Profile) string {
		if !slices.Equal(c.purposes, oidTexts(p.ExtendedKeyUsage)) {
			return "extendedKeyUsage is not the profile's"
		}
		return ""
	}},
	{"profile_purposes_critical", Error, ofProfile, func(c *certificate, p *profile.Profile) string {
		if e := c.extension(oidExtendedUsage); e != nil && e.critical != p.ExtendedKeyUsageCrit {
			return "extendedKeyUsage is critical against the profile, or not critical against it"
		}
		return ""
	}},
	{"profile_validity", Error, ofProfile, checkValidity},
	{"profile_backdate", Error, ofProfile, func(c *certificate, p *profile.Profile) string {
		if p.Validity.AlignHour && !c.times[0].at.Equal(c.times[0].at.Truncate(time.Hour)) {
			return "notBefore is not a full hour"
		}
		return ""
	}},
	{"profile_subject", Error, ofProfile, func(c *certificate, p *profile.Profile) string {
		return checkSubject(c.subject, p.Subject)
	}},
	{"profile_alt_names", Error, ofProfile, checkAltNames},
	{"profile_policies", Error, ofProfile, func(c *certificate, p *profile.Profile) string {
		if !slices.Equal(c.policies, oidTexts(p.Policies)) {
			return "certificatePolicies is not the profile's"
		}
		return ""
	}},
	{"profile_constraints", Error, ofProfile, func(c *certificate, p *profile.Profile) string {
		if (c.constraints != nil) != (p.NameConstraints != nil) {
			return "nameConstraints is there against the profile, or missing"
		}
		if n := p.NameConstraints; n != nil && (len(c.constraints.permitted) != size(n.Permitted) || len(c.constraints.excluded) != size(n.Excluded)) {
			return "nameConstraints is not the profile's"
		}
		return ""
	}},
	{"profile_access", Error, ofProfile, func(c *certificate, p *profile.Profile) string {
		for _, a := range c.access {
			if a.method == oidAccessOCSP && !p.OCSP || a.method == oidAccessIssuers && !p.CAIssuers {
				return "authorityInfoAccess has an address that the profile leaves out"
			}
		}
		return ""
	}},
	{"profile_points", Error, ofProfile, func(c *certificate, p *profile.Profile) string {
		if len(c.points) > 0 && !p.CRL {
			return "cRLDistributionPoints is there against the profile"
		}
		return ""
	}},
	{"profile_subject_key_id", Error, ofProfile, func(c *certificate, p *profile.Profile) string {
		if (c.extension(oidSubjectKeyID) != nil) != p.SubjectKeyID {
			return "subjectKeyIdentifier is there against the profile, or missing"
		}
		return ""
	}},
	{"profile_no_check", Error, ofProfile, func(c *certificate, p *profile.Profile) string {
		if (c.extension(oidNoCheck) != nil) != p.NoCheck {
			return "ocsp-nocheck is there against the profile, or missing"
		}
		return ""
	}},
	{"profile_extensions", Error, ofProfile, checkExtensions},
	{"profile_tpm_module", Warning, "TCG TPM 2.0 Keys for Device Identity and Attestation", func(_ *certificate, p *profile.Profile) string {
		for _, n := range p.AltNames {
			if n.HasOID && n.OID.String() == oidTPMModule && !p.RequireHardware {
				return "the hardware type says that the key is in a TPM, and requireHardwareKey does not demand it"
			}
		}
		return ""
	}},
}

func oidTexts(list []x509.OID) []string {
	var texts []string
	for _, o := range list {
		texts = append(texts, o.String())
	}
	return texts
}

func size(s profile.NameSet) int { return len(s.DNS) + len(s.IP) + len(s.Email) + len(s.URI) }

// checkValidity allows a shorter life where the profile allows shortening.
func checkValidity(c *certificate, p *profile.Profile) string {
	if !c.times[0].ok || !c.times[1].ok {
		return ""
	}
	from, to, v := c.times[0].at, c.times[1].at, &p.Validity
	var want time.Time
	switch {
	case v.NoExpiry:
		want = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	case v.WholeYears:
		want = from.AddDate(v.Years, 0, 0)
	case v.Years > 0:
		want = from.AddDate(v.Years, 0, 0).Add(-time.Second)
	default:
		want = from.Add(time.Duration(v.Days)*24*time.Hour + time.Duration(v.Hours)*time.Hour - time.Second)
	}
	if to.Equal(want) || v.Shorten && to.Before(want) {
		return ""
	}
	return fmt.Sprintf("the certificate ends %s, the profile gives %s", to.Format(time.RFC3339), want.Format(time.RFC3339))
}

// checkSubject walks both lists; optional fields may be missing.
func checkSubject(name []attribute, fields []profile.NameField) string {
	for _, f := range fields {
		if len(name) == 0 || name[0].oid != f.Attribute.OID.String() {
			if f.Value.Optional {
				continue
			}
			return "the subject lacks " + f.Attribute.Name
		}
		text, _ := name[0].text()
		if why := checkText(&f.Value, text); why != "" {
			return f.Attribute.Name + " " + why
		}
		name = name[1:]
	}
	if len(name) > 0 {
		return "the subject has " + attributeName(name[0].oid) + ", which the profile does not name"
	}
	return ""
}

func checkText(v *profile.Value, text string) string {
	switch {
	case v.From == "" && text != v.Fixed:
		return "is not the profile's fixed text"
	case v.From == "":
		return ""
	case !strings.HasPrefix(text, v.Prefix) || !strings.HasSuffix(text, v.Suffix):
		return "lacks the profile's prefix or suffix"
	case v.Length > 0 && len(text) != v.Length:
		return "does not have the profile's length"
	}
	return ""
}

var choices = map[profile.AltNameType]uint8{
	profile.AltDNS: choiceDNS, profile.AltIP: choiceIP, profile.AltURI: choiceURI, profile.AltEmail: choiceEmail,
	profile.AltDirectoryName: choiceDirectory, profile.AltHardwareModuleName: choiceOther, profile.AltPermanentIdentifier: choiceOther,
}

// checkAltNames walks both lists; optional entries may be missing, hosts may be
// any number.
func checkAltNames(c *certificate, p *profile.Profile) string {
	names := c.altNames
	for _, entry := range p.AltNames {
		found := 0
		for len(names) > 0 && sameKind(names[0], entry.Type) && (found == 0 || entry.Value.From == profile.FromHosts) {
			names = names[1:]
			found++
		}
		if found == 0 && !entry.Value.Optional {
			return fmt.Sprintf("the alternative name lacks a %s", entry.Type)
		}
	}
	if len(names) > 0 {
		return "the alternative name has an entry that the profile does not name"
	}
	return ""
}

func sameKind(n generalName, t profile.AltNameType) bool {
	if n.tag != choices[t] {
		return false
	}
	oid, _, _ := otherName(n.value)
	switch t {
	case profile.AltHardwareModuleName:
		return oid == oidHardwareName
	case profile.AltPermanentIdentifier:
		return oid == oidPermanentID
	}
	return true
}

// checkExtensions finds extensions that the profile does not name, and its own
// that are missing or different.
func checkExtensions(c *certificate, p *profile.Profile) string {
	standard := []string{
		oidKeyUsage, oidExtendedUsage, oidBasicConstraints, oidSubjectKeyID, oidAuthorityKeyID, oidAuthorityInfo,
		oidSubjectAltName, oidPolicies, oidNameConstraints, oidCRLPoints, oidNoCheck,
	}
	own := make(map[string][]byte)
	for _, e := range p.Extensions {
		own[e.OID.String()] = e.Value
	}
	for _, e := range c.extensions {
		value, named := own[e.oid]
		if !named && !slices.Contains(standard, e.oid) {
			return "extension " + e.oid + " is not in the profile"
		}
		if named && (!bytes.Equal(value, e.value) || e.critical) {
			return "extension " + e.oid + " is not the profile's"
		}
		delete(own, e.oid)
	}
	for oid := range own {
		return "extension " + oid + " is missing"
	}
	return ""
}

// idevidRules hold IEEE 802.1AR for initial device identities.
var idevidRules = []profileRule{
	{"idevid_serial_number", Error, "IEEE 802.1AR-2018, section 8.6", func(c *certificate, _ *profile.Profile) string {
		for _, a := range c.subject {
			if a.oid == oidSerialNumber && a.tag == asn1.PrintableString && len(a.value) > 0 {
				return ""
			}
		}
		return "the subject has no serialNumber that names the device"
	}},
	{"idevid_no_expiry", Notice, "IEEE 802.1AR-2018, section 8.7", func(c *certificate, _ *profile.Profile) string {
		if c.times[1].text != "99991231235959Z" {
			return "an initial device identity should not expire during the device's life"
		}
		return ""
	}},
	{"idevid_authority_key_id", Error, "IEEE 802.1AR-2018, section 8.10.1", func(c *certificate, _ *profile.Profile) string {
		if c.authorityID == nil || !c.authorityID.hasKeyID {
			return "an initial device identity needs authorityKeyIdentifier"
		}
		return ""
	}},
	{"idevid_key_usage", Error, "IEEE 802.1AR-2018, section 8.10.4", func(c *certificate, _ *profile.Profile) string {
		e := c.extension(oidKeyUsage)
		if e == nil || !e.critical || c.usage == nil || c.usage.bits&x509.KeyUsageDigitalSignature == 0 {
			return "an initial device identity needs critical keyUsage with digitalSignature"
		}
		return ""
	}},
	{"idevid_leaf", Error, "IEEE 802.1AR-2018, section 6", func(c *certificate, _ *profile.Profile) string {
		if c.isCA() {
			return "a device identity is not an authority"
		}
		return ""
	}},
	{"idevid_purposes", Notice, "IEEE 802.1AR-2018, section 8.10", func(c *certificate, _ *profile.Profile) string {
		if len(c.purposes) > 0 {
			return "extendedKeyUsage limits what an initial device identity can prove for life"
		}
		return ""
	}},
	{"idevid_key", Notice, "IEEE 802.1AR-2018, section 9", func(c *certificate, _ *profile.Profile) string {
		switch c.keyType() {
		case profile.P256, profile.P384, profile.RSA2048:
			return ""
		}
		return "the standard's signature suites are P-256, P-384 and RSA-2048"
	}},
	{"idevid_hardware_module", Notice, "IEEE 802.1AR-2018, section 8.10.4; RFC 4108, section 5", func(c *certificate, _ *profile.Profile) string {
		for _, n := range c.altNames {
			if sameKind(n, profile.AltHardwareModuleName) {
				return ""
			}
		}
		return "a hardwareModuleName would tie the identity to the hardware"
	}},
	{"idevid_documentation_arc", Notice, "RFC 5612", func(c *certificate, _ *profile.Profile) string {
		for _, n := range c.altNames {
			_, content, _ := otherName(n.value)
			var hwType string
			if _, ok := readHardwareModule(content, &hwType); ok && strings.HasPrefix(hwType, "1.3.6.1.4.1.32473.") {
				return "the hardware type is under the enterprise number for documentation; use your own"
			}
		}
		return ""
	}},
}

package profile

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

const maxBackdate = 5 * time.Minute

// label is how names of profiles, authorities, purposes and kinds of evidence
// look.
var label = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// check turns the config into a profile, or returns the first problem.
func (c *Config) check() (*Profile, error) {
	p := &Profile{
		Name: c.Name, Description: c.Description, Kind: c.Kind,
		Issuer: c.Issuer, Purpose: c.Purpose, Keys: slices.Clone(c.Keys),
		KeyUsage: slices.Clone(c.KeyUsage), ExtendedKeyUsageCrit: c.ExtendedKeyUsageCritical,
		SubjectKeyID: value(c.SubjectKeyIdentifier, true), NoCheck: c.NoCheck,
		CRLShards: cmp.Or(c.CRLShards, 1), FixedLength: c.FixedLength,
		Trusts: slices.Clone(c.Trusts), LeastEvidence: cmp.Or(c.LeastEvidence, "none"),
		RequireHardware: c.RequireHardware || c.Kind == KindAttestation, ServerKeys: cmp.Or(c.ServerKeys, ServerKeysNone),
		RequireApproval: c.RequireApproval, RenewSameKey: c.RenewSameKey,
		AcceptExpiredDays: c.AcceptExpiredDays, OverlapDays: value(c.OverlapDays, OverlapUntilExpiry),
	}
	if p.Issuer == "" && p.Kind != KindRoot {
		p.Issuer = "issuing"
	}
	if p.Kind == KindAttestation {
		p.LeastEvidence = cmp.Or(c.LeastEvidence, "tpm")
	}
	plain := p.Kind != KindRoot && p.Kind != KindOCSPResponder
	p.OCSP = value(c.Status.OCSP, plain)
	p.CRL = value(c.Status.CRL, plain)
	p.CAIssuers = value(c.Status.CAIssuers, p.Kind != KindRoot)

	for _, step := range []func(*Profile) error{
		c.checkNames, c.checkKeys, c.checkValidity, c.checkSubject, c.checkAltNames, c.checkUsage,
		c.checkExtendedUsage, c.checkCA, c.checkPolicies, c.checkExtensions, c.checkStatus, c.checkRegister, c.checkKind, c.checkFixed,
	} {
		if err := step(p); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (c *Config) checkNames(p *Profile) error {
	switch {
	case !label.MatchString(p.Name):
		return wrong("name", "a name has lower-case letters, digits and dashes, at most 63")
	case len(p.Description) > 300:
		return wrong("description", "at most 300 octets")
	case !slices.Contains(Kinds(), p.Kind):
		return wrong("kind", "must be one of %v", Kinds())
	case p.Kind == KindRoot && p.Issuer != "":
		return wrong("issuer", "a root signs itself")
	case p.Kind != KindRoot && !label.MatchString(p.Issuer):
		return wrong("issuer", "not the name of an authority")
	case p.Kind == KindLDevID && !label.MatchString(p.Purpose):
		return wrong("purpose", "an LDevID needs a purpose of lower-case letters, digits and dashes")
	case p.Kind != KindLDevID && p.Purpose != "":
		return wrong("purpose", "only an LDevID has a purpose")
	case p.Purpose == PurposeAttestation:
		return wrong("purpose", "is taken by profiles of the kind %s", KindAttestation)
	}
	return nil
}

func (c *Config) checkKeys(p *Profile) error {
	if len(p.Keys) == 0 {
		return wrong("keys", "at least one key type must be allowed")
	}
	for i, k := range p.Keys {
		if !slices.Contains(KeyTypes(), k) {
			return wrong(at("keys", i), "must be one of %v", KeyTypes())
		}
		if slices.Contains(p.Keys[:i], k) {
			return wrong(at("keys", i), "stands there twice")
		}
	}
	return nil
}

func (c *Config) checkValidity(p *Profile) error {
	v := c.Validity
	set := 0
	for _, one := range []bool{v.Years != 0, v.Days != 0, v.Hours != 0, v.NoExpiry} {
		if one {
			set++
		}
	}
	switch {
	case set != 1:
		return wrong("validity", "give exactly one of years, days, hours and noExpiry")
	case v.Years < 0 || v.Years > 100:
		return wrong("validity.years", "1 to 100 years")
	case v.Days < 0 || v.Days > 36525:
		return wrong("validity.days", "1 to 36525 days")
	case v.Hours < 0 || v.Hours > 24*366:
		return wrong("validity.hours", "1 to 8784 hours")
	case v.WholeYears && v.Years == 0 && !v.NoExpiry:
		return wrong("validity.wholeYears", "needs years or noExpiry")
	case v.WholeYears && v.Years > 31:
		return wrong("validity.years", "a compressed certificate stores at most 31 years")
	case v.Shorten && (v.NoExpiry || v.WholeYears):
		return wrong("validity.shorten", "does not go with noExpiry or wholeYears")
	}
	backdate := maxBackdate
	if v.Backdate != "" {
		d, err := time.ParseDuration(v.Backdate)
		if err != nil || d < 0 || d > maxBackdate || d%time.Second != 0 {
			return wrong("validity.backdate", "whole seconds between 0s and 5m")
		}
		backdate = d
	}
	p.Validity = Validity{
		Years: v.Years, Days: v.Days, Hours: v.Hours, NoExpiry: v.NoExpiry, Shorten: v.Shorten,
		Backdate: backdate, AlignHour: v.AlignHour, WholeYears: v.WholeYears,
	}
	return nil
}

func (c *Config) checkUsage(p *Profile) error {
	if len(p.KeyUsage) == 0 {
		return wrong("keyUsage", "at least one usage must be given")
	}
	for i, u := range p.KeyUsage {
		if _, ok := usageBits[u]; !ok && u != UsageKeyEstablishment {
			return wrong(at("keyUsage", i), "is not a name of RFC 5280, section 4.2.1.3, nor keyEstablishment")
		}
		if slices.Contains(p.KeyUsage[:i], u) {
			return wrong(at("keyUsage", i), "stands there twice")
		}
	}
	ca := x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	for _, k := range p.Keys {
		bits := p.UsageFor(k)
		if err := usageAllowed(bits, k); err != nil {
			return wrong("keyUsage", "%s", err)
		}
		if p.Kind.CA() && bits&ca != ca {
			return wrong("keyUsage", "an authority needs keyCertSign and cRLSign")
		}
		if p.Kind.CA() && bits&^(ca|x509.KeyUsageDigitalSignature) != 0 {
			return wrong("keyUsage", "an authority's key only signs")
		}
		if !p.Kind.CA() && bits&ca != 0 {
			return wrong("keyUsage", "only an authority may sign certificates and CRLs")
		}
	}
	return nil
}

// attestationUsage is the extended key usage of a TPM's attestation key.
const attestationUsage = "tcg-kp-AIKCertificate"

// residencyArc holds the policies by which a CA says that it verified where the
// key is: resident in a TPM (1), fixed to it (2), restricted (3). TCG, TPM 2.0
// Keys for Device Identity and Attestation.
const residencyArc = "2.23.133.11.1."

// refusedUsages are extended key usages that would let a device act as a part of
// the PKI.
var refusedUsages = []string{
	"anyExtendedKeyUsage", "cmcRA", "certificateRequestAgent", "tcg-kp-EKCertificate", "tcg-kp-PlatformAttributeCertificate",
}

func (c *Config) checkExtendedUsage(p *Profile) error {
	for i, name := range c.ExtendedKeyUsage {
		path := at("extendedKeyUsage", i)
		o, ok := ExtendedUsageByName(name)
		if !ok {
			return wrong(path, "is neither a known name nor an OID")
		}
		known := ExtendedUsageName(o)
		switch {
		case slices.Contains(refusedUsages, known):
			return wrong(path, "%s is never put into a certificate", known)
		case known == "OCSPSigning" && p.Kind != KindOCSPResponder:
			return wrong(path, "OCSPSigning is for an OCSP responder alone")
		case known == attestationUsage && p.Kind != KindAttestation:
			return wrong(path, "%s is for an attestation key alone", known)
		case slices.ContainsFunc(p.ExtendedKeyUsage, o.Equal):
			return wrong(path, "stands there twice")
		}
		p.ExtendedKeyUsage = append(p.ExtendedKeyUsage, o)
	}
	if p.ExtendedKeyUsageCrit && len(p.ExtendedKeyUsage) == 0 {
		return wrong("extendedKeyUsageCritical", "there is no extendedKeyUsage")
	}
	return nil
}

func (c *Config) checkCA(p *Profile) error {
	if !p.Kind.CA() {
		p.PathLen = -1
		if c.PathLen != nil {
			return wrong("pathLen", "only an authority has a path length")
		}
		if c.NameConstraints != nil {
			return wrong("nameConstraints", "only an authority has name constraints")
		}
		return nil
	}
	def := 0
	if p.Kind == KindRoot {
		def = -1
	}
	p.PathLen = value(c.PathLen, def)
	if p.PathLen < -1 || p.PathLen > 10 {
		return wrong("pathLen", "-1 (no limit) to 10")
	}
	return c.checkConstraints(p)
}

func (c *Config) checkPolicies(p *Profile) error {
	for i, s := range c.Policies {
		o, err := x509.ParseOID(s)
		if err != nil {
			return wrong(at("policies", i), "is not an OID")
		}
		if slices.ContainsFunc(p.Policies, o.Equal) {
			return wrong(at("policies", i), "stands there twice")
		}
		if strings.HasPrefix(s, residencyArc) && !p.RequireHardware {
			return wrong(at("policies", i), "says that the key is in a TPM: needs requireHardwareKey")
		}
		p.Policies = append(p.Policies, o)
	}
	return nil
}

func (c *Config) checkStatus(p *Profile) error {
	switch {
	case p.CRLShards < 1 || p.CRLShards > 256:
		return wrong("crlShards", "1 to 256")
	case p.Kind == KindRoot && (p.OCSP || p.CRL || p.CAIssuers):
		return wrong("status", "a root has no issuer to ask")
	case p.NoCheck && p.Kind != KindOCSPResponder:
		return wrong("noCheck", "only an OCSP responder may be exempt from checks")
	case p.NoCheck && p.OCSP:
		return wrong("status.ocsp", "contradicts noCheck")
	}
	return nil
}

func (c *Config) checkRegister(p *Profile) error {
	for i, name := range p.Trusts {
		if !label.MatchString(name) {
			return wrong(at("trusts", i), "not the name of an authority")
		}
		if slices.Contains(p.Trusts[:i], name) {
			return wrong(at("trusts", i), "stands there twice")
		}
	}
	switch {
	case !label.MatchString(p.LeastEvidence):
		return wrong("leastEvidence", "not the name of a kind of evidence")
	case !slices.Contains([]ServerKeys{ServerKeysNone, ServerKeysSealed, ServerKeysTLS}, p.ServerKeys):
		return wrong("serverKeygen", "must be none, sealed or tls")
	case p.ServerKeys != ServerKeysNone && p.RequireHardware:
		return wrong("serverKeygen", "contradicts requireHardwareKey: a key that we make is not in a chip")
	case p.ServerKeys != ServerKeysNone && !p.Kind.Device():
		return wrong("serverKeygen", "is for devices alone")
	case p.RequireHardware && !p.Kind.Device():
		return wrong("requireHardwareKey", "is for devices alone")
	case p.AcceptExpiredDays < 0 || p.AcceptExpiredDays > 3660:
		return wrong("acceptExpiredDays", "0 to 3660 days")
	case p.OverlapDays < OverlapUntilExpiry || p.OverlapDays > 3660:
		return wrong("overlapDays", "-1 (until expiry) to 3660 days")
	}
	return nil
}

// checkKind holds what a kind promises to whoever relies on it.
func (c *Config) checkKind(p *Profile) error {
	serverAuth, _ := ExtendedUsageByName("serverAuth")
	clientAuth, _ := ExtendedUsageByName("clientAuth")
	ocspSigning, _ := ExtendedUsageByName("OCSPSigning")
	has := func(o x509.OID) bool { return slices.ContainsFunc(p.ExtendedKeyUsage, o.Equal) }
	switch p.Kind {
	case KindRoot, KindIssuing:
		if !c.namesAttribute(p, "commonName") && !c.namesAttribute(p, "organizationName") {
			return wrong("subject", "an authority needs a commonName or an organizationName")
		}
	case KindIDevID:
		// IEEE 802.1AR-2018, 8.6: the subject holds the device's serialNumber.
		if !c.namesAttribute(p, "serialNumber") {
			return wrong("subject", "an IDevID needs a serialNumber")
		}
	case KindAttestation:
		return c.checkAttestation(p)
	case KindTLSServer:
		if !has(serverAuth) {
			return wrong("extendedKeyUsage", "a TLS server needs serverAuth")
		}
	case KindStation, KindOperator:
		if !has(clientAuth) {
			return wrong("extendedKeyUsage", "a %s needs clientAuth", p.Kind)
		}
	case KindOCSPResponder:
		if len(p.ExtendedKeyUsage) != 1 || !has(ocspSigning) {
			return wrong("extendedKeyUsage", "an OCSP responder has OCSPSigning and nothing else")
		}
	case KindTranscript:
		documentSigning, _ := ExtendedUsageByName("documentSigning")
		if len(p.ExtendedKeyUsage) != 1 || !has(documentSigning) {
			return wrong("extendedKeyUsage", "a transcript has documentSigning and nothing else")
		}
	}
	return nil
}

// checkAttestation holds the form of an attestation key's certificate (TCG EK
// Credential Profile, section 3.2.9; WebAuthn Level 3, section 8.3.1): no subject,
// and the TPM's maker, model and version, as proven, in its place.
func (c *Config) checkAttestation(p *Profile) error {
	if len(p.Subject) > 0 {
		return wrong("subject", "an attestation key has none")
	}
	if len(p.ExtendedKeyUsage) != 1 || ExtendedUsageName(p.ExtendedKeyUsage[0]) != attestationUsage {
		return wrong("extendedKeyUsage", "an attestation key has %s and nothing else", attestationUsage)
	}
	if len(p.KeyUsage) != 1 || p.KeyUsage[0] != UsageDigitalSignature {
		return wrong("keyUsage", "an attestation key has digitalSignature and nothing else")
	}
	i := slices.IndexFunc(p.AltNames, func(n AltName) bool { return n.Type == AltDirectoryName })
	if i < 0 {
		return wrong("subjectAltName", "an attestation key needs a directoryName with the TPM's attributes")
	}
	for _, s := range []Source{FromTPMManufacturer, FromTPMModel, FromTPMVersion} {
		if !slices.ContainsFunc(p.AltNames[i].Directory, func(f NameField) bool {
			return f.Attribute.Name == string(s) && f.Value == Value{From: s}
		}) {
			return wrong(at("subjectAltName", i), "needs {attribute: %s, from: %s}", s, s)
		}
	}
	return nil
}

func (c *Config) namesAttribute(p *Profile, name string) bool {
	return slices.ContainsFunc(p.Subject, func(f NameField) bool { return f.Attribute.Name == name && !f.Value.Optional })
}

// checkFixed holds the fixed form that a chip with compressed certificates
// rebuilds: nothing may change its length or place from one certificate to the
// next.
func (c *Config) checkFixed(p *Profile) error {
	if !p.FixedLength {
		return nil
	}
	switch {
	case !p.Validity.AlignHour || !p.Validity.WholeYears:
		return wrong("fixedLength", "needs validity.alignHour and validity.wholeYears")
	case p.CRL && p.CRLShards != 1:
		return wrong("crlShards", "a fixed form has one CRL")
	}
	for i, f := range p.Subject {
		if err := fixedValue(at("subject", i), f.Value); err != nil {
			return err
		}
	}
	for i, n := range p.AltNames {
		if err := fixedAltName(at("subjectAltName", i), n); err != nil {
			return err
		}
	}
	return nil
}

func fixedAltName(path string, n AltName) error {
	if n.Value.From == FromHosts {
		return wrong(path, "a fixed form has no list of hosts")
	}
	if n.Type == AltHardwareModuleName && !n.HasOID {
		return wrong(path, "a fixed form needs a fixed hardwareType")
	}
	if n.Type != AltDirectoryName {
		return fixedValue(path, n.Value)
	}
	for i, f := range n.Directory {
		if err := fixedValue(at(path+".directory", i), f.Value); err != nil {
			return err
		}
	}
	return nil
}

func fixedValue(path string, v Value) error {
	if v.Optional {
		return wrong(path, "a fixed form has no optional fields")
	}
	if v.From != "" && v.Length == 0 {
		return wrong(path, "a fixed form needs the length of each value")
	}
	return nil
}

func at(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

func value[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
}
